"""How trainings went: losses by epoch, and where each was best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.locus import colours_of
from enhancer_dask.report.style import DARK, house_style, say_empty, tidy
from enhancer_dask.report.ticks import LARGE, in_figures, log_ticks, wants_log

Floats = NDArray[np.float64]

LOSSES = {"train_loss": (0, (2.5, 1.2)), "val_loss": "solid"}  # column -> line style
FLOOR = (0, (1, 1.5))
MARKERS = "oDs^vP"  # tell runs apart where the colours repeat
MOST_LINES = 4  # of a column of the legend


@house_style
def training_curves(
    curves: Mapping[str, pd.DataFrame], ax: Axes, *, floor: float | None = None, log: bool | None = None
) -> Axes:
    """Training and validation loss of one or several runs by epoch, the best epoch of each marked.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Label of a run -> its ``metrics.csv``: ``epoch`` and ``train_loss``, ``val_loss`` or both. Empty fields are
        passed over; of several values in an epoch the last counts.
    ax : Axes
    floor : float, optional
        Irreducible error, a line across.
    log : bool, optional
        Logarithmic ordinate [default: if losses are positive and the greatest is over 8 times the smallest].

    Returns
    -------
    Axes
        Training losses are dashed, validation losses solid, and a marker stands at the smallest validation loss
        (training loss where nothing was validated). The legend stands above the axes, a run in a line.

    Raises
    ------
    InputError
        If a run has no column ``epoch``, or neither loss.
    """
    runs = {label: _losses(metrics, label) for label, metrics in curves.items()}
    if not any(len(loss) for losses in runs.values() for loss in losses.values()):
        return say_empty(ax, f"no run has a loss yet ({len(runs):,} runs)")
    handles = []
    for i, (label, colour) in enumerate(colours_of(list(runs)).items()):
        for column, loss in runs[label].items():
            dot = "." if len(loss) == 1 else None  # a line of one point is not seen
            ax.plot(
                loss.index, loss, color=colour, linestyle=LOSSES[column], marker=dot,
                linewidth=1.1 if column == "val_loss" else 0.9, label=f"{label} {column}",
            )  # fmt: skip
        handles.append(_best(ax, label, runs[label], colour, MARKERS[i // len(MARKERS) % len(MARKERS)]))
    _scale(ax, runs, floor, log)
    _floor(ax, floor)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    _legends(ax, handles, {c for losses in runs.values() for c, loss in losses.items() if len(loss)}, floor)
    return tidy(ax)


def _losses(metrics: pd.DataFrame, label: str) -> dict[str, pd.Series]:
    """Losses by epoch, without gaps: column -> series."""
    need(metrics, ["epoch"], f"metrics of {label}")
    there = [column for column in LOSSES if column in metrics.columns]
    if not there:
        need(metrics, ["val_loss"], f"metrics of {label}")
    epoch = numbers(metrics, "epoch")
    found = {}
    for column in there:
        loss = numbers(metrics, column)
        known = np.isfinite(loss) & epoch.notna()
        found[column] = loss[known].groupby(epoch[known].astype(np.int64)).last()
    return found


def _best(ax: Axes, label: str, losses: dict[str, pd.Series], colour: str, marker: str) -> Line2D:
    """Mark the best epoch; the line of the legend that tells of it."""
    known = [losses[c] for c in ("val_loss", "train_loss") if c in losses and len(losses[c])]
    if not known:
        return Line2D([], [], color=colour, linestyle="none", label=f"{label}: no loss yet")
    epoch, loss = known[0].idxmin(), known[0].min()
    look: dict[str, Any] = {
        "color": colour, "marker": marker, "markersize": 5.0, "markeredgecolor": "white", "markeredgewidth": 0.7,
    }  # fmt: skip
    ax.plot([epoch], [loss], linestyle="none", zorder=4, clip_on=False, label=f"_best of {label}", **look)
    return Line2D([], [], label=f"{label}: best {in_figures(float(loss))} at epoch {epoch:,}", **look)


def _scale(ax: Axes, runs: Mapping[str, dict[str, pd.Series]], floor: float | None, log: bool | None) -> None:
    values = np.concatenate([loss.to_numpy() for losses in runs.values() for loss in losses.values()])
    values = values if floor is None else np.append(values, floor)
    low, high = float(values.min()), float(values.max())
    if low > 0 and (wants_log(low, high) if log is None else log):
        ax.set_yscale("log")
        log_ticks(ax.yaxis, low, high)
    elif high >= LARGE:  # else a power of ten would stand where the legend is
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e+", "e")))
    epochs = np.concatenate([loss.index.to_numpy() for losses in runs.values() for loss in losses.values()])
    if epochs.min() == epochs.max():
        ax.set_xlim(epochs[0] - 1, epochs[0] + 1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _floor(ax: Axes, floor: float | None) -> None:
    if floor is not None:
        ax.axhline(floor, color=DARK, linestyle=FLOOR, linewidth=1.0, zorder=1, label="irreducible error")


def _legends(ax: Axes, handles: list[Line2D], drawn: set[str], floor: float | None) -> None:
    """What became of each run, in its colour, and beside it what the lines mean; above the axes."""
    names = {"train_loss": "training", "val_loss": "validation"}
    lines = [Line2D([], [], color=DARK, linestyle=LOSSES[c], label=names[c]) for c in LOSSES if c in drawn]  # type: ignore[arg-type]
    if floor is not None:
        lines.append(Line2D([], [], color=DARK, linestyle=FLOOR, label="irreducible error"))
    if 1 < len(handles) <= MOST_LINES:  # a column of each
        blank = [Line2D([], [], linestyle="none", label=" ")] * max(0, len(lines) - len(handles))
        lines += [Line2D([], [], linestyle="none", label=" ")] * max(0, len(handles) - len(lines))
        handles = [*handles, *blank]
    ax.legend(
        handles=[*handles, *lines], loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, alignment="left",
        handlelength=1.8, ncols=2 if len(handles) > 1 else 1,
    )  # fmt: skip
