"""Predicted against true expression, a panel for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from enhancer_dask.errors import InputError
from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.locus import LABEL, flags, predictions_of
from enhancer_dask.report.style import DARK, RASTERISE_ABOVE, SKY, VERMILLION, house_style, say_empty, thin, tidy
from enhancer_dask.report.ticks import in_figures

Floats = NDArray[np.float64]

ACROSS = {1: 1, 2: 2, 4: 2}  # panels in a row, of so many; else three


@dataclass(frozen=True, slots=True)
class Agreement:
    """True and predicted values of the bins that have both, on the scale that is drawn. N bins."""

    true: Floats
    predicted: Floats
    gene: NDArray[np.bool_]
    n_without: int
    """Bins that count but lack a value."""

    @property
    def pearson(self) -> float:
        """NaN if either is constant, or with fewer than two bins."""
        return _correlation(self.true, self.predicted)

    @property
    def spearman(self) -> float:
        """Pearson of ranks, ties with their mean."""
        return _correlation(rankdata(self.true), rankdata(self.predicted))

    @property
    def mse(self) -> float:
        """Mean squared difference; NaN without bins."""
        return float(np.mean((self.true - self.predicted) ** 2)) if len(self.true) else float("nan")


def _correlation(x: Floats, y: Floats) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def agreement(table: pd.DataFrame, column: str, *, log2: bool = False) -> Agreement:
    """True and predicted values to compare.

    Parameters
    ----------
    table : DataFrame
        Prediction table: ``y``, the column, and where known ``loss_mask`` (bins that count) and ``is_gene``.
    column : str
    log2 : bool
        Both as log2(x + 1), what is negative as 0.
    """
    need(table, ["y", column], LABEL)
    true, predicted = numbers(table, "y").to_numpy(), numbers(table, column).to_numpy()
    counted = flags(table, "loss_mask") if "loss_mask" in table.columns else np.ones(len(table), np.bool_)
    known = np.isfinite(true) & np.isfinite(predicted) & counted
    true, predicted = (np.log2(np.maximum(v[known], 0) + 1) if log2 else v[known] for v in (true, predicted))
    return Agreement(true, predicted, flags(table, "is_gene")[known], int(np.sum(counted & ~known)))


@house_style
def prediction_scatter(
    table: pd.DataFrame, ax: Axes, *, column: str = "prediction", name: str | None = None, log2: bool = False
) -> Axes:
    """Predicted against true expression of bins, genes in colour, with y = x.

    Parameters
    ----------
    table, column, log2
        See :func:`agreement`.
    ax : Axes
    name : str, optional
        Of the model, in the title.

    Returns
    -------
    Axes
        Square, both axes alike. The title has Pearson's and Spearman's correlation and the mean squared error of all
        bins on the scale that is drawn, before points that hide each other are left out, and counts the bins.
    """
    found = agreement(table, column, log2=log2)
    title = name or column.removeprefix("prediction_")
    if not len(found.true):
        return say_empty(ax, f"{title}: no bin has both values ({len(table):,} bins)")
    _cloud(ax, found)
    low, high = _limits([found])
    ax.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
    ax.locator_params(nbins=5)
    scale = " (log2(x + 1))" if log2 else ""
    ax.set_xlabel(f"true expression{scale}")
    ax.set_ylabel(f"predicted expression{scale}")
    lost = f" ({found.n_without:,} without)" if found.n_without else ""
    ax.set_title(
        f"{title}\nr {in_figures(found.pearson)}, ρ {in_figures(found.spearman)}, MSE {in_figures(found.mse)}\n"
        f"{len(found.true):,} bins{lost}"
    )
    return tidy(ax)


def _cloud(ax: Axes, found: Agreement) -> None:
    for label, colour, size, some in (
        ("other bins", SKY, 4.0, ~found.gene),
        ("bins of genes", VERMILLION, 7.0, found.gene),
    ):
        if not some.any():
            continue
        x, y = found.true[some], found.predicted[some]
        kept = thin(x, y)
        ax.scatter(
            x[kept], y[kept], s=size, c=colour, alpha=0.6, linewidths=0, label=label, zorder=2,
            rasterized=len(kept) > RASTERISE_ABOVE,
        )  # fmt: skip
    ax.axline((0, 0), slope=1, color=DARK, linewidth=0.8, label="y = x", zorder=3)


def _limits(all_found: Sequence[Agreement]) -> tuple[float, float]:
    """From the least to the greatest value of either axis, with room at the rim."""
    values = np.concatenate([v for one in all_found for v in (one.true, one.predicted)])
    low, high = float(values.min()), float(values.max())
    rim = 0.04 * (high - low or 1.0)
    return low - rim, high + rim


@house_style
def prediction_scatters(
    table: pd.DataFrame, figure: Figure, *, models: Sequence[str] | None = None, log2: bool = False
) -> Figure:
    """:func:`prediction_scatter` of each model on the same axes.

    Parameters
    ----------
    table : DataFrame
        ``prediction_<label>`` of each model, or ``prediction``.
    figure : Figure
        Empty; its size is set to what the panels need.
    models : sequence of str, optional
        Labels [default: all].
    log2 : bool
        See :func:`agreement`.

    Raises
    ------
    InputError
        If a model or a column is not in the table.
    """
    columns = predictions_of(table)
    for model in models or ():
        if model not in columns:
            raise InputError(f"{LABEL}: no prediction of {model!r}; models are: {', '.join(columns)}")
    chosen = list(columns if models is None else models)
    across = ACROSS.get(len(chosen), 3)
    down = -(-len(chosen) // across)
    figure.set_size_inches(2.3 * across + 0.5, 3.0 * down + 0.5)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for ax, model in zip(axes.flat, chosen, strict=False):
        prediction_scatter(table, ax, column=columns[model], name=model, log2=log2)
    found = [one for model in chosen if len((one := agreement(table, columns[model], log2=log2)).true)]
    _share(axes, len(chosen), found)
    _legend(figure, axes[0, 0])
    return figure


def _share(axes: NDArray[np.object_], n: int, found: list[Agreement]) -> None:
    """Limits of all panels, labels at the rim only, no empty panels."""
    for ax in axes.flat[n:]:
        ax.remove()
    if found:
        low, high = _limits(found)
        axes[0, 0].set(xlim=(low, high), ylim=(low, high))
    for i, ax in enumerate(axes.flat[:n]):
        if i % axes.shape[1]:
            ax.set_ylabel("")
        if i + axes.shape[1] < n:
            ax.set_xlabel("")
        else:  # the last of its column
            ax.tick_params(labelbottom=True)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=1.6)
