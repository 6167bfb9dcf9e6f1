"""The bins of one graph along an axis, as all figures of a locus share it: in Mb where coordinates are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.style import BLUE, DARK, GREEN, ORANGE, PURPLE, SKY, VERMILLION

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LABEL = "prediction table"
TRUE = "#BDBDBD"  # fill of what was measured; predictions are lines over it
POSITIVE, NEGATIVE = VERMILLION, BLUE  # as effects in the other figures: up and down
SITES = {"gene": DARK, "enhancer": POSITIVE, "silencer": NEGATIVE}
MODEL_COLOURS = (GREEN, ORANGE, PURPLE, BLUE, VERMILLION, SKY)
MOST_STEPS = 1_200  # bins that a page shows one by one; more become half as many steps
PREDICTION, TRACK = "prediction", "track_"


@dataclass(frozen=True, slots=True)
class Locus:
    """Bins of one graph, or of a part of it, and where they are drawn. N bins."""

    table: pd.DataFrame
    """Rows of the prediction table, ascending by node."""
    nodes: Ints
    """Their numbers in the graph, shape (N,), ascending."""
    borders: Floats
    """Ends of the bins on the axis, shape (N + 1,)."""
    label: str
    """Of the axis, with its unit, and how many bins a step is."""

    @property
    def centres(self) -> Floats:
        """Middle of each bin, shape (N,)."""
        return np.asarray((self.borders[1:] + self.borders[:-1]) / 2.0)

    def places(self, nodes: NDArray[np.integer]) -> Floats:
        """Where some nodes are drawn; NaN for those outside of the table."""
        at = np.searchsorted(self.nodes, nodes).clip(max=len(self.nodes) - 1)
        return np.where(self.nodes[at] == nodes, self.centres[at], np.nan)

    def values(self, column: str) -> Floats:
        """A column of numbers, shape (N,)."""
        return np.asarray(numbers(self.table, column).to_numpy())

    @property
    def per_step(self) -> int:
        """Bins that are drawn as one step."""
        return 1 if len(self.nodes) <= MOST_STEPS else -(-len(self.nodes) // (MOST_STEPS // 2))

    def steps(self, values: Floats) -> tuple[Floats, Floats]:
        """Values and borders of the steps to draw: of each block of bins the value farthest from 0."""
        return strided(values, self.borders, self.per_step)

    def frame(self, ax: Axes) -> None:
        """The axis from the first to the last bin."""
        ax.set_xlim(self.borders[0], self.borders[-1])
        ax.ticklabel_format(axis="x", useOffset=False, style="plain")


def locus(table: pd.DataFrame, graph: str | None = None) -> Locus:
    """The bins of one graph of a prediction table.

    Parameters
    ----------
    table : DataFrame
        ``node`` and, where known, ``graph``, ``chrom``, ``start``, ``end`` (bp). Rows of a part of the graph will do.
    graph : str, optional
        By default the first in the table.

    Returns
    -------
    Locus
        In Mb if the bins are those of one chromosome without gaps, else in bins (genes as nodes: in nodes).

    Raises
    ------
    InputError
        If ``node`` is missing or has a number twice, or there is no such graph, or no row at all.
    """
    need(table, ["node"], LABEL)
    table = of_graph(table, graph, LABEL)
    if table.empty:
        raise InputError(f"{LABEL}: no bin to draw")
    table = table.sort_values("node", kind="stable").reset_index(drop=True)
    nodes = table["node"].to_numpy(np.int64)
    if (twice := nodes[1:][nodes[1:] == nodes[:-1]]).size:
        raise InputError(f"{LABEL}: node {twice[0]} is there twice in graph {_name(table)!r}")
    borders, label = _in_mb(table) or (np.append(nodes - 0.5, nodes[-1] + 0.5), _in_bins(table))
    found = Locus(table, nodes, borders, label)
    step = found.per_step
    return found if step == 1 else replace(found, label=f"{label}; a step is the extreme of {step} bins")


def of_graph(table: pd.DataFrame, graph: str | None, label: str) -> pd.DataFrame:
    """Rows of one graph, by default of the first; all rows where the table does not name graphs."""
    if "graph" not in table.columns:
        return table
    names = table["graph"].astype(str)
    if graph is None:
        return table[names == names.iloc[0]] if len(table) else table
    if len(table) and not (names == graph).any():
        known = names.unique()
        more = ", ..." if len(known) > 5 else ""
        raise InputError(f"{label}: no row is of graph {graph!r}; graphs are: {', '.join(known[:5])}{more}")
    return table[names == graph]


def _in_mb(table: pd.DataFrame) -> tuple[Floats, str] | None:
    """Borders and name of the axis; None where coordinates are not known, or bins are not those of one chromosome."""
    if not {"chrom", "start", "end"} <= set(table.columns) or table["chrom"].isna().any():
        return None
    if not (table["chrom"] == table["chrom"].iloc[0]).all():
        return None
    start, end = numbers(table, "start").to_numpy(), numbers(table, "end").to_numpy()
    if not (np.isfinite(start).all() and np.isfinite(end).all() and (start[1:] == end[:-1]).all()):
        return None
    return np.append(start, end[-1]) / 1e6, f"{table['chrom'].iloc[0]} (Mb)"


def _in_bins(table: pd.DataFrame) -> str:
    name = _name(table)
    return f"bin of {name}" if name else "bin"


def _name(table: pd.DataFrame) -> str:
    return str(table["graph"].iloc[0]) if "graph" in table.columns else ""


def strided(values: Floats, borders: Floats, step: int) -> tuple[Floats, Floats]:
    """Of each block of ``step`` values the one farthest from 0, NaN if it has none; and the borders of the blocks.

    Examples
    --------
    >>> strided(np.array([0.0, 2.0, np.nan, -3.0, 1.0]), np.arange(6.0), 2)
    (array([ 2., -3.,  1.]), array([0., 2., 4., 5.]))
    """
    if step == 1:
        return values, borders
    padded = np.full((-(-len(values) // step), step), np.nan)
    padded.flat[: len(values)] = values
    farthest = np.where(np.isnan(padded), -1.0, np.abs(padded)).argmax(axis=1)
    return padded[np.arange(len(padded)), farthest], np.append(borders[:-1:step], borders[-1])


def predictions_of(table: pd.DataFrame) -> dict[str, str]:
    """Label of each model -> its column: ``prediction_<label>``, or ``prediction`` alone.

    Raises
    ------
    InputError
        If there is none.
    """
    found = {c.removeprefix(f"{PREDICTION}_"): c for c in map(str, table.columns) if c.startswith(f"{PREDICTION}_")}
    found |= {PREDICTION: PREDICTION} if PREDICTION in table.columns else {}
    if not found:
        need(table, [PREDICTION], LABEL)
    return found


def tracks_of(table: pd.DataFrame) -> dict[str, str]:
    """Name of each track -> its column ``track_<name>``."""
    return {c.removeprefix(TRACK): c for c in map(str, table.columns) if c.startswith(TRACK)}


def flags(table: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """A column of truths; all false where it is not there, and false where it is not known."""
    if column not in table.columns:
        return np.zeros(len(table), np.bool_)
    known = table[column].notna()
    return np.asarray(table[column].where(known, False).to_numpy(np.bool_))


def colours_of(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model, in their order; after six they repeat."""
    return {model: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, model in enumerate(models)}


def name_row(ax: Axes, name: str) -> None:
    """Name of a row of a figure of tracks, left of it and upright."""
    ax.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=9)
