"""Figures of how two enhancers combine: the sum of their effects against that of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from enhancer_dask.interactions.layouts import Coding
from enhancer_dask.report.columns import CONTRASTS, coding_of, effect, known_coding, need, our_names
from enhancer_dask.report.style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RASTERISE_ABOVE,
    SKY,
    VERMILLION,
    house_style,
    say_empty,
    tidy,
)  # fmt: skip

Floats = NDArray[np.float64]

CODING_NAMES = {"legacy": "11 coded 0/2, as published", "fixed": "11 coded 0/1"}
VERDICTS = {
    "multiplicative-compatible": GREEN,
    "additive-compatible": SKY,
    "super-multiplicative": VERMILLION,
    "sub-multiplicative": BLUE,
    "undecided": GREY,
    "": "#DDDDDD",
}


@dataclass(frozen=True, slots=True)
class SumAndBoth:
    """Effects of the enhancer pairs of a table, natural log, shape (L,)."""

    first: Floats
    """Of 10."""
    second: Floats
    """Of 01."""
    both: Floats
    """Of 11, in the coding asked for."""

    @property
    def total(self) -> Floats:
        """10 + 01: what 11 would be if the enhancers multiplied."""
        with np.errstate(invalid="ignore"):  # of two infinities: not estimated
            return self.first + self.second

    @property
    def estimated(self) -> NDArray[np.bool_]:
        """Whether all three are finite."""
        return np.isfinite(self.total) & np.isfinite(self.both)

    @property
    def n_below(self) -> int:
        """Pairs with both below the sum."""
        return int(np.sum(self.estimated & (self.both < self.total)))

    @property
    def share_below(self) -> float:
        """Their share of all pairs of the table, also of those without estimates: as published."""
        return self.n_below / len(self.both) if len(self.both) else float("nan")

    @property
    def median_difference(self) -> float:
        """Median of both less the sum, of pairs with estimates."""
        return float(np.median(self.both[self.estimated] - self.total[self.estimated]))


def sum_and_both(table: pd.DataFrame, coding: Coding = "fixed", table_coding: Coding | None = None) -> SumAndBoth:
    """Effects of 10, 01 and 11 of an epistasis table.

    Parameters
    ----------
    table : DataFrame
        beta_10, beta_01, beta_11, or the published names.
    coding : {"fixed", "legacy"}
        "fixed": log ratio of 11 to 00. "legacy": half of it, the slope on the number of open enhancers (0 or 2).
    table_coding : {"fixed", "legacy"}, optional
        Coding the table was made with, by default "legacy" for published names, else "fixed".

    Raises
    ------
    InputError
        If a column is missing or a coding unknown.
    """
    made_with, table = coding_of(table, table_coding), our_names(table)
    need(table, [f"beta_{s}" for s in CONTRASTS], "epistasis table")
    first, second, both = (effect(table, s, made_with).to_numpy() for s in CONTRASTS)
    return SumAndBoth(first, second, both / 2.0 if known_coding(coding) == "legacy" else both)


@house_style
def sum_against_both(
    table: pd.DataFrame, ax: Axes, *, coding: Coding = "fixed", table_coding: Coding | None = None
) -> Axes:
    """Effect of both enhancers against the sum of their effects, with y = x.

    Parameters
    ----------
    table, coding, table_coding
        See :func:`sum_and_both`.
    ax : Axes

    Returns
    -------
    Axes
        The title counts the pairs below y = x, with their share of all pairs, those above, those without estimates, and
        has the median of y - x.

    Notes
    -----
    On one scale ("fixed") pairs on the line multiply. The published figure had half the log ratio of 11 on the ordinate
    ("legacy"), so that most pairs lay below.
    """
    effects = sum_and_both(table, coding, table_coding)
    drawn, n = effects.estimated, len(table)
    if not drawn.any():
        return say_empty(ax, f"no pair has all three effects ({n:,} pairs)")
    x, y = effects.total[drawn], effects.both[drawn]
    ax.scatter(x, y, s=6, c=BLUE, alpha=0.4, linewidths=0, rasterized=len(x) > RASTERISE_ABOVE)
    ax.axline((0, 0), slope=1, color=DARK, linewidth=0.8)
    ax.axhline(0, color=GREY, linewidth=0.4, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.4, zorder=0)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel("sum of the effects of 10 and 01")
    ax.set_ylabel("effect of 11" if coding == "fixed" else "half the effect of 11")
    median = f"median of y − x: {effects.median_difference:+.3f}".replace("-", "−")
    lost = f" ({np.sum(~drawn):,} without estimate)" if not drawn.all() else ""
    ax.set_title(
        f"{CODING_NAMES[coding]}\n{effects.n_below:,} pairs below y = x ({effects.share_below:.1%}), "
        f"{np.sum(y > x):,} above\n{median}{lost}"
    )
    return tidy(ax)


@house_style
def sums_against_both(table: pd.DataFrame, figure: Figure, *, table_coding: Coding | None = None) -> Figure:
    """:func:`sum_against_both` in both codings side by side, on the same axes."""
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    sum_against_both(table, axes[0], coding="legacy", table_coding=table_coding)
    sum_against_both(table, axes[1], coding="fixed", table_coding=table_coding)
    return figure


@house_style
def sum_box(table: pd.DataFrame, ax: Axes, *, table_coding: Coding | None = None) -> Axes:
    """Distribution of the effects of 10, 01, their sum and 11 in both codings, with medians.

    Parameters
    ----------
    table, table_coding
        See :func:`sum_and_both`. Pairs without all three effects are left out and counted in the title.
    ax : Axes

    Returns
    -------
    Axes
        Boxes hold the middle half, whiskers the middle 90% of the pairs.
    """
    effects, half = sum_and_both(table, "fixed", table_coding), sum_and_both(table, "legacy", table_coding)
    drawn, n = effects.estimated, len(table)
    if not drawn.any():
        return say_empty(ax, f"no pair has all three effects ({n:,} pairs)")
    boxes = {
        "10": (effects.first, SKY),
        "01": (effects.second, ORANGE),
        "10 + 01": (effects.total, GREY),
        "11\n(0/1)": (effects.both, GREEN),
        "11\n(0/2)": (half.both, PURPLE),
    }
    values = [v[drawn] for v, _ in boxes.values()]
    made = ax.boxplot(
        values, tick_labels=list(boxes), whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6,
        medianprops={"color": "black", "linewidth": 1.2},
    )  # fmt: skip
    for box, (_, colour) in zip(made["boxes"], boxes.values(), strict=True):
        box.set(facecolor=colour, alpha=0.6, linewidth=0.7)
    tops = [float(cap.get_ydata()[0]) for cap in made["caps"][1::2]]
    for place, (v, top) in enumerate(zip(values, tops, strict=True), start=1):
        text = f"{np.median(v):+.2f}".replace("-", "−")
        ax.annotate(text, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=7)
    low, high = ax.get_ylim()
    ax.set_ylim(low, max(high, max(tops) + 0.1 * (high - low)))  # room for the highest label
    ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    ax.set_ylabel("effect (log ratio to 00)")
    lost = f" ({np.sum(~drawn):,} without estimate)" if not drawn.all() else ""
    ax.set_title(f"Medians of {drawn.sum():,} pairs{lost}")
    return tidy(ax)


@house_style
def verdicts(table: pd.DataFrame, ax: Axes) -> Axes:
    """How many enhancer pairs have which verdict: compatible with multiplying or adding, departing, or undecided.

    Parameters
    ----------
    table : DataFrame
        Column ``verdict``; an empty one means that there is no fit.
    ax : Axes

    Raises
    ------
    InputError
        If the column is missing.
    """
    need(table, ["verdict"], "epistasis table")
    if table.empty:
        return say_empty(ax, "no pair has a verdict (0 pairs)")
    counts = table["verdict"].fillna("").value_counts()
    names = [name for name in VERDICTS if name or counts.get("", 0)]
    names += sorted(set(counts.index) - set(VERDICTS))
    n = [int(counts.get(name, 0)) for name in names]
    bars = ax.barh([name or "no fit" for name in names], n, color=[VERDICTS.get(name, GREY) for name in names])
    ax.bar_label(bars, [f"{k:,} ({k / len(table):.0%})" for k in n], padding=3, fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel(f"enhancer pairs ({len(table):,} in all)")
    return tidy(ax)
