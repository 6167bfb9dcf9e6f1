"""Figures of many tests at once: quantiles of p-values, effects against p-values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution

from enhancer_dask.interactions.layouts import Coding
from enhancer_dask.links.regressions import TRUSTED
from enhancer_dask.report.columns import CONTRASTS, adjusted, coding_of, effect, need, numbers, our_names, p_column
from enhancer_dask.report.style import (
    BLUE,
    DARK,
    GREY,
    HOUSE,
    ORANGE,
    RASTERISE_ABOVE,
    VERMILLION,
    house_style,
    say_empty,
    thin,
    tidy,
)  # fmt: skip

Floats = NDArray[np.float64]
Test = Literal["10", "01", "11", "interaction"]
PColumn = Literal["auto", "p_saddle", "boot_p", "p"]

TEST_NAMES = {"10": "10 against 00", "01": "01 against 00", "11": "11 against 00", "interaction": "Interaction"}
P_NAMES = {"p_saddle": "saddlepoint", "boot_p": "bootstrap", "p": "Wald"}
QQ_SERIES = {  # name, colour, size; drawn in this order, so that series that agree show each other
    "p": ("Wald", GREY, 3.0),
    "boot_basic_p": ("bootstrap ladder", BLUE, 4.5),
    "p_saddle": ("saddlepoint", ORANGE, 2.4),
}
STEEPEST = 3.0  # height of a QQ plot over its width, in units of the axes
LEVEL = 0.95


@house_style
def qq(links: pd.DataFrame, ax: Axes, *, top: float | None = None) -> Axes:
    """Observed against expected -log10 p of gene-peak links, with the pointwise 95% band of independent tests.

    Parameters
    ----------
    links : DataFrame
        One or more of boot_basic_p, p_saddle and p (Wald), as of :func:`enhancer_dask.scent` or SCENT. Each is a series
        of its own over its rows with a value; p_saddle only over rows with saddle_status "trusted", if that is told.
    ax : Axes
    top : float, optional
        Upper end of the ordinate; what lies above is drawn as triangles there and counted in the legend. By default
        as high as the values, but at most three times the largest expected value.

    Returns
    -------
    Axes
        A dashed line shows the smallest p of the ladder, below which it cannot tell links apart.

    Raises
    ------
    InputError
        If there is no column of p-values.
    """
    p_column(links, tuple(QQ_SERIES), "links")
    series = {name: p for name in QQ_SERIES if len(p := _p_of_series(links, name))}
    n_untested = len(links) - max(map(len, series.values()), default=0)
    if not series:
        return say_empty(ax, f"no link has a p-value ({len(links):,} links)")
    n = max(map(len, series.values()))
    widest = -np.log10(0.5 / n)
    highest = max(_log10(p[p > 0].min(initial=1.0)) for p in series.values())
    top = min(highest, STEEPEST * widest) if top is None else top
    _band(ax, n)
    for name, p in series.items():
        _quantiles(ax, p, top, *QQ_SERIES[name])
    if "boot_basic_p" in series:
        floor = float(series["boot_basic_p"][0])
        at_floor = int((series["boot_basic_p"] == floor).sum())
        label = f"smallest p of the ladder, {floor:.2g} (n = {at_floor:,})"
        ax.axhline(float(_log10(floor)), color=BLUE, linestyle=(0, (4, 3)), linewidth=0.8, label=label, zorder=1)
    ax.set(xlim=(0, widest * 1.04), ylim=(0, max(top, widest) * 1.06))
    ax.set_xlabel("expected −log10 p")
    ax.set_ylabel("observed −log10 p")
    title = f"{n:,} links" + (f", {n_untested:,} without p-value" if n_untested else "")
    handles, labels = ax.get_legend_handles_labels()  # above the axes: no corner is free in all such plots
    ax.legend(
        handles[::-1], labels[::-1], title=title, loc="lower left", bbox_to_anchor=(0, 1), markerscale=1.6,
        borderaxespad=0.2, alignment="left", title_fontsize=HOUSE["axes.titlesize"],
    )  # fmt: skip
    return tidy(ax)


def _p_of_series(links: pd.DataFrame, name: str) -> Floats:
    """p-values of a series, ascending."""
    if name not in links.columns:
        return np.empty(0)
    p = numbers(links, name, p=True)
    if name == "p_saddle" and "saddle_status" in links.columns:
        p = p[links["saddle_status"] == TRUSTED]
    return np.sort(p[p.notna()].to_numpy())


def _log10(p: Floats | float) -> Floats:
    """-log10 p; infinite for 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log10(p))


def _quantiles(ax: Axes, p: Floats, top: float, label: str, colour: str, size: float) -> None:
    expected, observed = _log10((np.arange(len(p)) + 0.5) / len(p)), _log10(p)
    above = observed > top * (1 + 1e-9)
    label += f" ({above.sum():,} above)" if above.any() else ""
    kept = np.flatnonzero(~above)
    kept = kept[thin(expected[kept], observed[kept])]
    ax.plot(expected[kept], observed[kept], ".", color=colour, markersize=size, markeredgewidth=0, label=label)
    if above.any():
        places = expected[above]
        places = places[thin(places, np.zeros(len(places)))]
        ax.plot(places, np.full(len(places), top * 1.03), "^", color=colour, markersize=3.5, markeredgewidth=0)


def _band(ax: Axes, n: int) -> None:
    """The line y = x and the band that holds the i-th smallest of n uniform p-values with 95%."""
    rank = np.unique(np.geomspace(1, n, 200).astype(np.int64))
    x = _log10((rank - 0.5) / n)
    low, high = (beta_distribution.ppf(q, rank, n - rank + 1) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    ax.fill_between(x, _log10(high), _log10(low), color=GREY, alpha=0.3, linewidth=0, zorder=0)
    ax.plot(x[[0, -1]], x[[0, -1]], color=DARK, linewidth=0.7, zorder=1)


@house_style
def volcano(
    table: pd.DataFrame,
    ax: Axes,
    *,
    test: Test = "interaction",
    p: PColumn = "auto",
    fdr: float = 0.1,
    table_coding: Coding | None = None,
) -> Axes:
    """Effect of a test against -log10 of its own p-value, one point per enhancer pair.

    Parameters
    ----------
    table : DataFrame
        beta_<test> and a column of p-values, as of :func:`enhancer_dask.epistasis` or with the published names.
    ax : Axes
    test : {"10", "01", "11", "interaction"}
    p : {"auto", "p_saddle", "boot_p", "p"}
        "auto": p_saddle if there are values, else boot_p.
    fdr : float
        Pairs below are coloured; the table's adjusted p-values, else Benjamini-Hochberg within the cell type.
    table_coding : {"fixed", "legacy"}, optional
        Coding the table was made with: "legacy" has half the log ratio as beta_11, here drawn in full. By default
        "legacy" for published names, else "fixed".

    Returns
    -------
    Axes
        The title counts pairs above and below zero and those without a finite effect or a p-value. Ringed points are
        interactions that one cell carries, where the table has ``one_cell``. A p-value of 0 is a triangle at the top.

    Raises
    ------
    InputError
        If a column is missing.
    """
    coding, table = coding_of(table, table_coding), our_names(table)
    need(table, [f"beta_{test}"], "epistasis table")
    name = p_column(
        table, [f"{p}_{test}"] if p != "auto" else [f"p_saddle_{test}", f"boot_p_{test}"], "epistasis table"
    )
    x, p_values = effect(table, test, coding).to_numpy(), numbers(table, name, p=True).to_numpy()
    drawn = np.isfinite(x) & ~np.isnan(p_values)
    lost = f"\n({np.sum(~drawn):,} not estimated)" if not drawn.all() else ""
    if not drawn.any():
        return say_empty(ax, f"{TEST_NAMES[test]}: no pair has an estimate ({len(table):,} pairs)")
    found = adjusted(table, name).to_numpy()[drawn] < fdr
    x, y, zero = x[drawn], _log10(p_values[drawn]), p_values[drawn] == 0
    y[zero] = 1.05 * y[~zero].max(initial=1.0)
    for label, colour, some in (
        ("other pairs", GREY, ~found),
        (f"FDR < {fdr:g}, down", BLUE, found & (x < 0)),
        (f"FDR < {fdr:g}, up", VERMILLION, found & (x >= 0)),
    ):
        for marker, these in (("o", some & ~zero), ("^", some & zero)):
            ax.scatter(
                x[these], y[these], s=6, c=colour, alpha=0.6, linewidths=0, marker=marker,
                label=label if marker == "o" else None, rasterized=len(x) > RASTERISE_ABOVE,
            )  # fmt: skip
    if test == "interaction" and "one_cell" in table.columns:
        _ring(ax, x, y, table["one_cell"].fillna(False).to_numpy(bool)[drawn])
    ax.axvline(0.0, color=DARK, linewidth=0.5, zorder=0)
    ax.autoscale(axis="y")  # on axes shared with others, to all their points
    ax.set_ylim(bottom=0)
    ax.set_xlabel("interaction I (log ratio)" if test == "interaction" else f"log ratio of {test} to 00")
    ax.set_ylabel(f"−log10 p ({P_NAMES[name.rsplit('_', 1)[0]]})")
    counts = f"{np.sum(found & (x >= 0)):,} up, {np.sum(found & (x < 0)):,} down"
    ax.set_title(f"{TEST_NAMES[test]}\n{counts} of {len(table):,} pairs{lost}")
    return tidy(ax)


def _ring(ax: Axes, x: Floats, y: Floats, some: NDArray[np.bool_]) -> None:
    if some.any():
        ax.scatter(
            x[some], y[some], s=22, facecolors="none", edgecolors=DARK, linewidths=0.6,
            label=f"one cell carries it ({some.sum():,})",
        )  # fmt: skip


@house_style
def volcanoes(
    table: pd.DataFrame,
    figure: Figure,
    *,
    p: PColumn = "auto",
    fdr: float = 0.1,
    table_coding: Coding | None = None,
) -> Figure:
    """:func:`volcano` of 10, 01 and 11 side by side on the same axes, each with its own p-values."""
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for ax, test in zip(axes, CONTRASTS, strict=True):
        volcano(table, ax, test=test, p=p, fdr=fdr, table_coding=table_coding)  # type: ignore[arg-type]
    for ax in axes[1:]:
        ax.set_ylabel("")
    legend_below(figure, axes[0])
    return figure


@house_style
def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for a figure, that of one of its axes."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3 if len(labels) == 3 else 2, markerscale=1.3)
