"""One gene and the bins it is linked to: the weight of each edge by head, the score of each bin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.report.chromosome_tracks import SIGNAL_HEIGHT, Row, signal_colour, signal_track, stack
from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.locus import LABEL, NEGATIVE, POSITIVE, Locus, locus, name_row, of_graph, tracks_of
from enhancer_dask.report.style import DARK, GREY, RASTERISE_ABOVE, house_style, say_empty, tidy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GATE, SCORE = "gate", "score"
KEYS = ("graph", "gene", "node", "chrom", "start", "end", "bin")
MOST_LINKS = 40  # columns of a heat map whose labels can be read
DIVERGING = LinearSegmentedColormap.from_list("down and up", [NEGATIVE, "#F7F7F7", POSITIVE])
RISING = LinearSegmentedColormap.from_list("none to much", ["#F7F7F7", POSITIVE, "#5E2500"])
STRIP_HEIGHT, HEAD_HEIGHT, SCORE_HEIGHT = 0.55, 0.17, 0.95  # inches


@dataclass(frozen=True, slots=True)
class Gates:
    """Edges that end in a gene, in the order of their sources, and what each head makes of them. K edges, H heads."""

    source: Ints
    """Shape (K,), nodes."""
    weight: Floats
    """Shape (H, K)."""
    heads: list[str]
    n_all: int
    """Edges of the gene, of which the K with the greatest weight are here."""


def gates_of(gates: pd.DataFrame, gene: int, *, most: int = MOST_LINKS) -> Gates:
    """Edges of a gene with their weights.

    Parameters
    ----------
    gates : DataFrame
        Of one graph: ``source``, ``target``, and ``gate`` or ``gate_<head>``.
    gene : int
        Node, the target.
    most : int
        Edges to keep, by the size of their mean weight over heads.

    Raises
    ------
    InputError
        If a column is missing.
    """
    need(gates, ["source", "target"], "gates")
    columns = [c for c in map(str, gates.columns) if c == GATE or c.startswith(f"{GATE}_")]
    if not columns:
        need(gates, [GATE], "gates")
    mine = gates[gates["target"].to_numpy(np.int64) == gene]
    weight = np.stack([numbers(mine, c).to_numpy() for c in columns])
    size = np.abs(np.nan_to_num(weight)).mean(axis=0)
    kept = np.sort(np.argsort(-size, kind="stable")[:most])
    source = mine["source"].to_numpy(np.int64)[kept]
    order = np.argsort(source, kind="stable")
    heads = [c.removeprefix(f"{GATE}_") if c != GATE else GATE for c in columns]
    return Gates(source[order], weight[:, kept][:, order], heads, len(mine))


@house_style
def gate_strip(
    table: pd.DataFrame,
    gates: pd.DataFrame,
    ax: Axes,
    *,
    gene: int,
    most: int = MOST_LINKS,
    graph: str | None = None,
) -> Axes:
    """Weight of each bin that is linked to a gene, a row for each head: a heat map tied to where the bins are.

    Parameters
    ----------
    table : DataFrame
        The bins, see :func:`enhancer_dask.report.locus.locus`.
    gates : DataFrame
        ``source``, ``target``, ``gate`` or ``gate_<head>`` (a number, or words), and ``graph`` where there are several.
    ax : Axes
    gene : int
        Node of the gene.
    most : int
        Columns to draw, those of the greatest weights.
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Axes
        Columns are equally wide, whatever the distances, and a line ties each to its bin at the top; the gene's place
        is marked there. With a negative weight among them colours diverge from 0. Weights that are not known are white.
    """
    if table.empty:
        return say_empty(ax, "no bin to draw")
    place = locus(table, graph)
    found = gates_of(of_graph(gates, _graph(place, graph), "gates"), gene, most=most)
    inside = ~np.isnan(place.places(found.source))
    source, weight = found.source[inside], found.weight[:, inside]
    if not len(source):
        return say_empty(ax, f"no bin in view is linked to the gene in bin {gene:,}")
    left, right = place.borders[[0, -1]]
    n_heads, n = weight.shape
    cells = np.linspace(left, right, n + 1)
    rows = -1.0 - np.arange(n_heads + 1)
    image = ax.pcolormesh(
        cells, rows, weight, cmap=DIVERGING if (weight < 0).any() else RISING, norm=_norm(weight), edgecolors="white",
        linewidth=0.6, rasterized=weight.size > RASTERISE_ABOVE,
    )  # fmt: skip
    _ties(ax, place.places(source), (cells[1:] + cells[:-1]) / 2)
    mark_gene(ax, place, gene)
    ax.set_yticks(rows[1:] + 0.5, [f"head {h}" if h.isdigit() else h for h in found.heads])
    ax.set_ylim(rows[-1], 0)
    ax.tick_params(axis="y", length=0)
    place.frame(ax)
    ax.set_xlabel(place.label)
    lost = f" of {found.n_all:,}" if n < found.n_all else ""
    name_row(ax, f"{n:,}{lost}\nlinked bins")
    ax.spines[["left", "bottom"]].set_visible(False)
    bar = ax.inset_axes((1.012, 0.0, 0.012, 1.0))
    ax.figure.colorbar(image, cax=bar).outline.set_visible(False)
    bar.set_ylabel(GATE)
    return tidy(ax)


def _graph(place: Locus, graph: str | None) -> str | None:
    return str(place.table["graph"].iloc[0]) if "graph" in place.table.columns else graph


def _norm(weight: Floats) -> Normalize:
    known = weight[np.isfinite(weight)]
    top = float(np.abs(known).max(initial=0.0)) or 1.0
    return Normalize(-top if (known < 0).any() else 0.0, top)


def _ties(ax: Axes, places: Floats, columns: Floats) -> None:
    """Lines from bins at the top to their columns."""
    top, bottom = np.zeros(len(places)), np.full(len(places), -1.0)
    lines = [
        np.column_stack([x, y])
        for x, y in zip(
            np.column_stack([places, places, columns, columns]),
            np.column_stack([top, top - 0.2, bottom + 0.1, bottom]),
            strict=True,
        )
    ]
    ax.add_collection(LineCollection(lines, colors=GREY, linewidths=0.7, label="linked bins"), autolim=False)


def mark_gene(ax: Axes, place: Locus, gene: int) -> None:
    """A triangle at the top of the axes, where the gene is."""
    at = float(place.places(np.array([gene]))[0])
    if np.isfinite(at):
        ax.plot(
            [at], [1.0], "v", color=DARK, markersize=5, clip_on=False, transform=ax.get_xaxis_transform(), zorder=5,
            label="gene",
        )  # fmt: skip


@house_style
def attribution_track(
    table: pd.DataFrame,
    scores: pd.DataFrame,
    ax: Axes,
    *,
    gene: int,
    column: str = SCORE,
    edges: pd.DataFrame | None = None,
    name: str = "attribution",
    graph: str | None = None,
) -> Axes:
    """Score of each bin for the expression of one gene, positive and negative, with the bins linked to it marked.

    Parameters
    ----------
    table : DataFrame
        The bins, see :func:`enhancer_dask.report.locus.locus`.
    scores : DataFrame
        ``node`` and the column; of several genes ``gene`` (node), of several graphs ``graph``. Bins without a row have
        no score.
    ax : Axes
    column : str
        Of the scores.
    gene : int
        Node of the gene.
    edges : DataFrame, optional
        ``source`` and ``target``: bins with an edge to the gene are ticks at the top.
    name : str
        Of the row.
    graph : str, optional
        By default the first of the table.

    Raises
    ------
    InputError
        If a column is missing.
    """
    need(scores, ["node", column], "attributions")
    if table.empty:
        return say_empty(ax, "no bin to draw")
    place = locus(table, graph)
    mine = of_graph(scores, _graph(place, graph), "attributions")
    mine = mine[mine["gene"].to_numpy(np.int64) == gene] if "gene" in mine.columns else mine
    values = _by_node(place, mine, column)
    if not np.isfinite(values).any():
        return say_empty(ax, f"no score for the gene in bin {gene:,}")
    values, borders = place.steps(values)
    for sign, colour, label in ((1.0, POSITIVE, "positive"), (-1.0, NEGATIVE, "negative")):
        part = np.where(np.isnan(values) | (sign * values > 0), values, 0.0)
        ax.stairs(part, borders, fill=True, color=colour, linewidth=0.6, label=label)
    ax.axhline(0, color=DARK, linewidth=0.5)
    if edges is not None:
        _linked(ax, place, edges, gene)
    mark_gene(ax, place, gene)
    place.frame(ax)
    ax.margins(y=0.12)
    ax.locator_params(axis="y", nbins=3)
    name_row(ax, name)
    ax.set_xlabel(place.label)
    return tidy(ax)


def _by_node(place: Locus, scores: pd.DataFrame, column: str) -> Floats:
    """Scores of the bins of a locus; NaN where there is none."""
    by_node = pd.Series(numbers(scores, column).to_numpy(), index=scores["node"].to_numpy(np.int64))
    if by_node.index.has_duplicates:
        twice = by_node.index[by_node.index.duplicated()][0]
        raise InputError(f"attributions: node {twice} has two scores; name their genes in a column")
    return np.asarray(by_node.reindex(place.nodes).to_numpy(np.float64))


def linked_bins(edges: pd.DataFrame, gene: int) -> Ints:
    """Nodes with an edge to a gene, ascending.

    Raises
    ------
    InputError
        If ``source`` or ``target`` is missing.
    """
    need(edges, ["source", "target"], "edges")
    return np.unique(edges.loc[edges["target"].to_numpy(np.int64) == gene, "source"].to_numpy(np.int64))


def _linked(ax: Axes, place: Locus, edges: pd.DataFrame, gene: int) -> None:
    at = _linked_places(place, edges, gene)
    ax.plot(
        at, np.full(len(at), 1.02), "|", color=DARK, markersize=6, clip_on=False, markeredgewidth=1.0,
        transform=ax.get_xaxis_transform(), label="linked bins", rasterized=len(at) > RASTERISE_ABOVE,
    )  # fmt: skip


@house_style
def gene_locus(
    table: pd.DataFrame,
    figure: Figure,
    *,
    gene: int,
    gates: pd.DataFrame | None = None,
    attributions: pd.DataFrame | None = None,
    edges: pd.DataFrame | None = None,
    graph: str | None = None,
) -> Figure:
    """Signals of a locus, below them what a model makes of it for one gene: scores of bins, weights of edges.

    Parameters
    ----------
    table : DataFrame
        Prediction table, or a part of its rows, see :func:`around_gene`.
    figure : Figure
        Empty; its height is set to what the rows need.
    gene : int
        Node of the gene.
    gates, attributions, edges
        See :func:`gate_strip` and :func:`attribution_track`. A row for each column of scores, see :func:`scores_of`.
    graph : str, optional
        By default the first of the table.

    Raises
    ------
    InputError
        If there is neither, or a column is missing.
    """
    if gates is None and attributions is None:
        raise InputError("a gene's figure shows gates or attributions; give one of them")
    need(table, ["node"], LABEL)
    rows = [_signal_row(table, graph, name, column, i) for i, (name, column) in enumerate(tracks_of(table).items())]
    n_signals = len(rows)
    for name, column in ({} if attributions is None else scores_of(attributions)).items():
        draw = partial(attribution_track, table, attributions, gene=gene, column=column, edges=edges, name=name)
        rows.append((SCORE_HEIGHT, partial(draw, graph=graph)))
    if gates is not None:
        n_heads = sum(str(c).startswith(GATE) for c in gates.columns)
        rows.append((STRIP_HEIGHT + HEAD_HEIGHT * n_heads, partial(gate_strip, table, gates, gene=gene, graph=graph)))
    if table.empty:
        say_empty(figure.subplots(), "no bin to draw")
        return figure
    stack(figure, rows)
    place = locus(table, graph)
    linked = _linked_places(place, edges if gates is None else gates, gene)
    for ax in figure.axes[:n_signals]:
        ax.vlines(linked, 0, 1, transform=ax.get_xaxis_transform(), color=GREY, linewidth=0.5, zorder=0)
    _legend(figure.axes[0], place, gene, with_ticks=attributions is not None and edges is not None)
    return figure


def _signal_row(table: pd.DataFrame, graph: str | None, name: str, column: str, i: int) -> Row:
    return SIGNAL_HEIGHT, partial(signal_track, table, column=column, name=name, colour=signal_colour(i), graph=graph)


def _linked_places(place: Locus, edges: pd.DataFrame | None, gene: int) -> Floats:
    if edges is None:
        return np.empty(0)
    at = place.places(linked_bins(of_graph(edges, _graph(place, None), "edges"), gene))
    return at[np.isfinite(at)]


def _legend(ax: Axes, place: Locus, gene: int, *, with_ticks: bool) -> None:
    """What the marks above the rows are, above the first of them."""
    at = float(place.places(np.array([gene]))[0])
    where = f" at {at:,.3f} Mb" if place.label.endswith("(Mb)") else f" in bin {gene:,}"
    names = {"v": f"gene{where}", "|": "linked bin"} if with_ticks else {"v": f"gene{where}"}
    marks = [
        Line2D([], [], linestyle="none", marker=marker, color=DARK, markersize=5.5, markeredgewidth=1.0, label=name)
        for marker, name in names.items()
    ]
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1.04), ncols=2, borderaxespad=0.1)


def scores_of(attributions: pd.DataFrame) -> dict[str, str]:
    """Name of each row of scores -> its column: all that do not say which bin of which gene it is.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> scores_of(pd.DataFrame(columns=["graph", "gene", "node", "gradient_x_input", "shap"]))
    {'gradient x input': 'gradient_x_input', 'shap': 'shap'}
    """
    columns = [c for c in map(str, attributions.columns) if c not in KEYS]
    if not columns:
        need(attributions, [SCORE], "attributions")
    return {"attribution" if c == SCORE else c.removeprefix(f"{SCORE}_").replace("_", " "): c for c in columns}


def around_gene(table: pd.DataFrame, edges: pd.DataFrame, gene: int, *, graph: str | None = None) -> pd.DataFrame:
    """Rows of a prediction table from the first to the last bin linked to a gene, and a twentieth more on each side."""
    place = locus(table, graph)
    nodes = np.append(linked_bins(of_graph(edges, _graph(place, graph), "edges"), gene), gene)
    low, high = int(nodes.min()), int(nodes.max())
    margin = max(5, (high - low) // 20)
    return place.table[(place.nodes >= low - margin) & (place.nodes <= high + margin)]
