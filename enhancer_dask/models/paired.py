"""Paired tests of one model against another, gene by gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from enhancer_dask.errors import InputError

Floats = NDArray[np.float64]
EXACT_UP_TO = 50  # pairs; the normal approximation is good beyond


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Wilcoxon's signed-rank test of one model against another, one-sided."""

    n: int
    """Pairs, those with NaN left out."""
    n_differ: int
    """Pairs that differ; the others say nothing (Wilcoxon's own treatment)."""
    statistic: float
    """Sum of the ranks of pairs in which the first is larger. Small if the first is better."""
    p: float
    """Of the first being no smaller than the second. NaN without pairs, 1 if no pair differs."""
    median_difference: float
    """Of second - first over all pairs: positive if the first is better."""


def paired_wilcoxon(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Test whether losses of a first model are smaller than those of a second on the same genes.

    Parameters
    ----------
    first, second : array, shape (N,)
        Losses, for instance negative log-likelihoods; smaller is better.

    Returns
    -------
    PairedTest

    Notes
    -----
    Up to 50 pairs that differ the p-value is exact, given the ties; beyond, it is SciPy's normal approximation with
    its correction for ties.

    Examples
    --------
    >>> paired_wilcoxon([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]).p
    0.125
    """
    x, y = pair(first, second)
    with np.errstate(all="ignore"):
        difference = x - y
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    if n == 0:
        return PairedTest(0, 0, np.nan, np.nan, np.nan)
    median = float(-np.median(difference)) + 0.0  # no -0
    differ = difference[difference != 0]
    if not differ.size:
        return PairedTest(n, 0, 0.0, 1.0, median)
    ranks = stats.rankdata(np.abs(differ))
    statistic = float(ranks[differ > 0].sum())
    if len(differ) <= EXACT_UP_TO:
        p = _exact_lower_tail(ranks, statistic)
    else:
        p = float(stats.wilcoxon(differ, alternative="less", method="auto").pvalue)
    return PairedTest(n, len(differ), statistic, p, median)


def _exact_lower_tail(ranks: Floats, statistic: float) -> float:
    """Chance of a sum of ranks as small as this or smaller if each counts with chance 1/2; ranks may be halves."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: len(chance) - rank]
        chance = (chance + shifted) / 2
    return float(min(1.0, chance[: round(2 * statistic) + 1].sum()))


def pair(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Two sides of a comparison as float64 arrays, shape (N,) both; refuses what is not."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"values of shapes {x.shape} and {y.shape} are not to be compared; want (N,) both")
    return x, y
