"""Figure of the cells behind one enhancer pair."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.report.columns import need
from enhancer_dask.report.style import DARK, GREEN, GREY, ORANGE, SKY, house_style, say_empty, tidy
from enhancer_dask.stats.states import STATES

Floats = NDArray[np.float64]
Scale = Literal["count", "per10k"]

STATE_NAMES = {"00": "neither", "10": "first", "01": "second", "11": "both"}
STATE_COLOURS = {"00": GREY, "10": SKY, "01": ORANGE, "11": GREEN}
SCALES = {"count": "log(1 + count)", "per10k": "log(1 + count per 10,000 UMI)"}
LEAST_BOX = 5
LEAST_VIOLIN = 20  # cells of a density worth drawing
MOST_POINTS = 300
SEED = 20


@house_style
def expression_by_state(cells: pd.DataFrame, ax: Axes, *, scale: Scale = "count", title: str = "") -> Axes:
    """Expression of a gene by the state of two enhancers: violin, box, points, and the number of cells.

    Parameters
    ----------
    cells : DataFrame
        state (00, 10, 01 or 11), count of the gene and n_umi per cell, as of
        :func:`enhancer_dask.interactions.cells.cells_of_pair`.
    ax : Axes
    scale : {"count", "per10k"}
        log(1 + count), or log(1 + count per 10,000 UMI of the cell).
    title : str

    Returns
    -------
    Axes
        A state has at most 300 points, drawn at random with a fixed seed; from 5 cells on a box (quartiles, whiskers to
        5% and 95%) and a diamond at the mean; from 20 on a violin. Below it the number of its cells and the share
        without a count.

    Raises
    ------
    InputError
        If a column is missing, or the scale or a state unknown.
    """
    need(cells, ["state", "count", *(["n_umi"] if scale == "per10k" else [])], "cells")
    if scale not in SCALES:
        raise InputError(f"scale {scale!r} is unknown; choose from {', '.join(SCALES)}")
    unknown = sorted(set(cells["state"].astype(str)) - set(STATES))
    if unknown:
        raise InputError(f"cells: state {unknown[0]!r} is unknown; want {', '.join(STATES)}")
    if cells.empty:
        return say_empty(ax, "no cells")
    count = cells["count"].to_numpy(np.float64)
    values = np.log1p(count if scale == "count" else count / cells["n_umi"].to_numpy(np.float64) * 1e4)
    rng = np.random.default_rng(SEED)
    labels = []
    for place, state in enumerate(STATES):
        mine = (cells["state"].astype(str) == state).to_numpy()
        zeros = f"\n{np.mean(count[mine] == 0):.0%} zero" if mine.any() else "\n"
        labels.append(f"{state}\n{STATE_NAMES[state]}\nn = {mine.sum():,}{zeros}")
        if mine.any():
            _state(ax, place, values[mine], STATE_COLOURS[state], rng)
    ax.set_xticks(range(len(STATES)), labels)
    ax.set_xlim(-0.6, len(STATES) - 0.4)
    ax.set_ylim(bottom=min(0.0, -0.02 * values.max()))
    ax.set_ylabel(SCALES[scale])
    ax.set_title(title)
    return tidy(ax)


def _state(ax: Axes, place: int, values: Floats, colour: str, rng: np.random.Generator) -> None:
    if len(values) >= LEAST_VIOLIN and np.ptp(values) > 0:
        made = ax.violinplot([values], [place], widths=0.85, showextrema=False)
        for body in made["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=colour, alpha=0.35, linewidth=0)
    shown = rng.choice(values, MOST_POINTS, replace=False) if len(values) > MOST_POINTS else values
    jitter = rng.uniform(-0.16, 0.16, len(shown))
    ax.scatter(place + jitter, shown, s=4, c=colour, alpha=0.7, linewidths=0, zorder=2)
    if len(values) < LEAST_BOX:
        return
    ax.boxplot(
        [values], positions=[place], widths=0.18, whis=(5, 95), showfliers=False, manage_ticks=False, zorder=3,
        boxprops={"color": DARK}, whiskerprops={"color": DARK}, capprops={"color": DARK},
        medianprops={"color": "black", "linewidth": 1.6},
    )  # fmt: skip
    ax.plot([place], [values.mean()], "D", color="white", markeredgecolor="black", markersize=4, zorder=4)
