"""The count that distance and coverage let expect of any pair of bins of a chromosome, and how widely counts vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from enhancer_dask.graphs.coverage import coverage
from enhancer_dask.graphs.distance_pairs import DistancePairs, Floats, Integers

KNOTS = 3  # inside: six columns of a cubic spline, as many as HiC-DC+ takes


class NoBackground(Exception):
    """Why a chromosome has no background; never leaves the package."""


@dataclass(frozen=True, slots=True)
class Background:
    """Negative binomial regression of the counts of one chromosome."""

    by_separation: Floats
    """Log mean count of two bins of ordinary coverage, from ``least`` on; shape (separations,)."""
    least: int
    """Smallest separation, bins."""
    by_bin: Floats
    """What a bin adds to the log mean count of its pairs, shape (n,); not finite in bins that are not tested."""
    theta: float
    """Size: variance is mean + mean^2 / theta; infinite for Poisson."""

    def expected(self, first: Integers, separation: Integers) -> Floats:
        """Mean count of pairs given by their lower bin and their separation."""
        ends = self.by_bin[first] + self.by_bin[first + separation]
        return np.asarray(np.exp(self.by_separation[separation - self.least] + ends))


def fit_background(
    pairs: DistancePairs,
    sample: tuple[Integers, Integers, Integers],
    count: Floats,
    outlier: NDArray[np.bool_],
    terms: Sequence[Floats],
) -> Background:
    """Fit a sample of pairs without outliers.

    Parameters
    ----------
    pairs : DistancePairs
    sample : arrays
        As :meth:`DistancePairs.sample` gives it.
    count : array, shape (c,)
        Counts that coverage is taken from: those of outliers replaced by what is expected.
    outlier : bool array, shape (c,)
        Pairs with contacts that the fit leaves out.
    terms : sequence of arrays, shape (n,)
        Further terms of each bin, log scale.

    Raises
    ------
    NoBackground
        If the range has too few distances or the regression has no solution.
    """
    from enhancer_dask.stats.negative_binomial import CONVERGED, fit_negative_binomial

    spline = _spline(pairs.least, pairs.most)
    first, separation, row = (a[(sample[2] < 0) | ~outlier[sample[2]]] for a in sample)
    with np.errstate(divide="ignore"):  # bins that are not valid, which nothing looks at
        by_bin = [np.log(coverage(pairs, count)), *terms]
    ends = [values[first] + values[first + separation] for values in by_bin]
    design = np.column_stack([spline[separation - pairs.least], *ends])
    fit = fit_negative_binomial(np.where(row < 0, 0.0, pairs.count[row]), np.empty((first.size, 0)), design)
    if fit.status != CONVERGED:
        raise NoBackground("the regression has no solution: a term is the same in all bins, or contacts are too few")
    k = 1 + spline.shape[1]
    total = sum(slope * values for slope, values in zip(fit.coefficients[k:], by_bin, strict=True))
    return Background(fit.coefficients[0] + spline @ fit.coefficients[1:k], pairs.least, np.asarray(total), fit.theta)


def _spline(least: int, most: int) -> Floats:
    """Cubic B-spline of log separation, knots even in it, without its first column; shape (separations, columns)."""
    n = most - least + 1
    if n < 4:
        raise NoBackground(f"{max(n, 0)} distances in range, want 4")
    x = np.log(np.arange(least, most + 1))
    inside = np.linspace(x[0], x[-1], min(KNOTS, n // 4 - 1) + 2)
    knots = np.concatenate([[x[0]] * 3, inside, [x[-1]] * 3])
    return np.asarray(BSpline.design_matrix(x, knots, 3).toarray()[:, 1:])
