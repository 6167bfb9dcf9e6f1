"""All figures of models that some tables allow, as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.files import is_url
from enhancer_dask.io.tables import read_table
from enhancer_dask.report.architecture import Layer, architecture
from enhancer_dask.report.chromosome_tracks import tracks
from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.gallery import unique_names
from enhancer_dask.report.gene_links import around_gene, gene_locus
from enhancer_dask.report.locus import LABEL, flags, of_graph, predictions_of
from enhancer_dask.report.model_bars import METRICS, model_bars
from enhancer_dask.report.prediction_scatter import prediction_scatters
from enhancer_dask.report.save import save
from enhancer_dask.report.style import new_axes, new_figure
from enhancer_dask.report.training_curves import training_curves

Table: TypeAlias = pd.DataFrame | str | Path
Drawn = Iterator[tuple[str, Figure]]

WIDTH = 7.2  # inches, of a page
LONG_TAIL = 50.0  # greatest over median positive target, from which on a scatter has logarithms, too


def draw_models(
    out: str | Path,
    *,
    predictions: Table | None = None,
    edges: Table | None = None,
    curves: Mapping[str, Table] | None = None,
    table: Table | None = None,
    gates: Table | Mapping[str, pd.DataFrame] | None = None,
    attributions: Table | None = None,
    layers: Mapping[str, Sequence[Layer]] | None = None,
    graph: str | None = None,
    gene: int | None = None,
    floor: float | None = None,
) -> list[Path]:
    """Draw and write all figures of models that the given tables allow.

    Parameters
    ----------
    out : path
        Folder to write to; files there of the same names are replaced.
    predictions : DataFrame or path, optional
        Gives ``tracks_<graph>``, and where there is ``y`` ``scatter``, with long tails also ``scatter_log2``.
    edges : DataFrame or path, optional
        ``source``, ``target``, any weights, ``graph``: contacts below the tracks.
    curves : mapping, optional
        Label -> ``metrics.csv`` of each run: gives ``training_curves``.
    table : DataFrame or path, optional
        ``table.csv`` of ``enhancer-dask reproduce bell``: gives ``models_test_mse`` and ``models_roi_mse``.
    gates : DataFrame, path or mapping, optional
        ``source``, ``target``, ``gate`` or ``gate_<head>`` of a graph, of one model or by label of several. With
        predictions gives ``gates_<label>_<graph>_<gene>``.
    attributions : DataFrame or path, optional
        ``graph``, ``gene``, ``node`` and a column for each method, as ``contributions.parquet`` of ``enhancer-dask
        attribute``. With predictions gives
        ``attribution_<graph>_<gene>``.
    layers : mapping, optional
        Label -> layers of each model: gives ``architecture_<label>``.
    graph : str, optional
        Graph to draw along [default: the first of the predictions].
    gene : int, optional
        Node whose gates and attributions are drawn [default: of the genes with linked bins and values the one with the
        highest target].
    floor : float, optional
        Irreducible error, a line in the training curves.

    Returns
    -------
    list of Path
        PNG and SVG of each figure.

    Raises
    ------
    InputError
        If there is nothing to draw, a column is missing, or a graph or gene unknown; nothing is written then.
    """
    if is_url(out):
        raise InputError(f"{out}: figures are written to a file system, want a path")
    drawn: list[tuple[str, Figure]] = []
    if predictions is not None:
        drawn += _of_predictions(
            _read(predictions), _maybe(edges), _by_label(gates), _maybe(attributions), graph, gene
        )  # fmt: skip
    elif gates is not None or attributions is not None or edges is not None:
        raise InputError("edges, gates and attributions are drawn along a locus; give predictions, too")
    if curves is not None:
        runs = {label: _read(metrics) for label, metrics in curves.items()}
        drawn.append(("training_curves", _figure(training_curves(runs, new_axes(5.2, 3.8), floor=floor))))
    if table is not None:
        drawn += _of_table(_read(table))
    for label, of_model in (layers or {}).items():
        drawn.append((f"architecture_{label}", architecture(of_model, new_figure(), title=label)))
    if not drawn:
        raise InputError("nothing to draw; give predictions, training curves, layers or a table of models")
    names = unique_names([name for name, _ in drawn])
    return [file for name, (_, figure) in zip(names, drawn, strict=True) for file in save(figure, Path(out) / name)]


def _read(table: Table) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else read_table(table)


def _maybe(table: Table | None) -> pd.DataFrame | None:
    return None if table is None else _read(table)


def _by_label(gates: Table | Mapping[str, pd.DataFrame] | None) -> dict[str, pd.DataFrame]:
    if gates is None:
        return {}
    return dict(gates) if isinstance(gates, Mapping) else {"": _read(gates)}


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _of_predictions(
    predictions: pd.DataFrame,
    edges: pd.DataFrame | None,
    gates: dict[str, pd.DataFrame],
    attributions: pd.DataFrame | None,
    graph: str | None,
    gene: int | None,
) -> Drawn:
    need(predictions, ["node"], LABEL)
    predictions_of(predictions)
    along = of_graph(predictions, graph, LABEL)
    name = str(along["graph"].iloc[0]) if "graph" in along.columns and len(along) else ""
    yield f"tracks_{name}", tracks(along, new_figure(WIDTH), edges=edges, gene=gene)
    if "y" in predictions.columns:
        yield "scatter", prediction_scatters(predictions, new_figure())
        if _long_tail(numbers(predictions, "y").to_numpy()):
            yield "scatter_log2", prediction_scatters(predictions, new_figure(), log2=True)
    for label, of_model in gates.items():
        mine = of_graph(of_model, name or None, "gates")
        chosen = _chosen_gene(along, mine["target"], gene, "gates")
        title = f"gates_{label}_{name}_{chosen}" if label else f"gates_{name}_{chosen}"
        yield title, gene_locus(around_gene(along, mine, chosen), new_figure(WIDTH), gene=chosen, gates=mine)
    if attributions is not None:
        mine = of_graph(attributions, name or None, "attributions")
        with_score = numbers(mine, "gene").dropna() if "gene" in mine.columns else along["node"]
        chosen = _chosen_gene(along, with_score, gene, "attributions")
        figure = gene_locus(along, new_figure(WIDTH), gene=chosen, attributions=mine, edges=edges)
        yield f"attribution_{name}_{chosen}", figure


def _long_tail(y: NDArray[np.float64]) -> bool:
    positive = y[y > 0]
    return bool(positive.size) and bool(positive.max() > LONG_TAIL * np.median(positive))


def _chosen_gene(along: pd.DataFrame, known: pd.Series, gene: int | None, label: str) -> int:
    """The gene asked for, else the one with the highest target of those with values."""
    nodes = np.unique(known.to_numpy(np.int64))
    if gene is not None:
        if gene not in nodes:
            raise InputError(f"{label}: node {gene} has no values; nodes that have: {_some(nodes)}")
        return gene
    rows = along[along["node"].isin(nodes)]
    rows = rows[flags(rows, "is_gene")] if flags(rows, "is_gene").any() else rows
    if rows.empty:
        raise InputError(f"{label}: no node of the graph has values")
    highest = numbers(rows, "y").to_numpy() if "y" in rows.columns else np.zeros(len(rows))
    return int(rows["node"].iloc[int(np.argmax(np.where(np.isnan(highest), -np.inf, highest)))])


def _some(nodes: NDArray[np.int64]) -> str:
    return ", ".join(map(str, nodes[:5])) + (", ..." if len(nodes) > 5 else "") if len(nodes) else "none"


def _of_table(table: pd.DataFrame) -> Drawn:
    metrics = [metric for metric in METRICS if metric in table.columns] or ["test_mse"]
    for metric in metrics:
        yield f"models_{metric}", model_bars(table, new_figure(), metric=metric)
