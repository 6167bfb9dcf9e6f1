"""Expected counts in the four states of an enhancer pair over resamples of the cells, as GLiMMIRS [1]_ draws them.

In each resample the four-state Poisson regression is fitted, and lambda_s is the count it expects of a cell in state s
with average covariates and offset. Without interaction the doubly open cells have ``lambda_10 lambda_01 / lambda_00``;
``lambda_10 + lambda_01 - lambda_00`` if the enhancers add.

References
----------
.. [1] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
   multiplicatively. Cell Genomics 4, 100672.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.states import STATES, Floats, Ints, StateFits, StatePairs

EXPECTED = (*STATES, "multiplicative", "additive")
QUANTILES = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class StateSummary:
    """Expected counts of L pairs in the states and, by the two rules, in doubly open cells; columns ``EXPECTED``."""

    mean: Floats
    """Over the resamples that have the value, shape (L, 6); NaN if none has."""
    low: Floats
    """5% quantile, shape (L, 6)."""
    high: Floats
    """95% quantile, shape (L, 6)."""
    n: Ints
    """Resamples that have the value, shape (L, 6): a state without cells has none, nor a rule without its states."""


def summarise_states(pairs: StatePairs, fits: StateFits, resamples: NDArray[Any]) -> StateSummary:
    """Mean and quantiles of :func:`expected_counts` of every pair.

    Parameters
    ----------
    pairs : StatePairs
    fits : StateFits
        Their Poisson fits, from which refits start.
    resamples : array, shape (R, n)
        How often each cell is drawn.

    Returns
    -------
    StateSummary

    Examples
    --------
    >>> from enhancer_dask.stats.states import fit_states_plainly
    >>> counts = np.array([[2.0, 4.0, 3.0, 9.0] * 2])  # states 00, 10, 01, 11 twice
    >>> peaks, row = np.array([[0, 1, 0, 1] * 2, [0, 0, 1, 1] * 2], dtype=np.uint8), np.array([0])
    >>> pairs = StatePairs(counts, peaks, row, row, row + 1, poisson.make_nuisance(np.empty((8, 0))))
    >>> summarise_states(pairs, fit_states_plainly(pairs), np.ones((1, 8))).mean.round(6).tolist()
    [[2.0, 4.0, 3.0, 9.0, 6.0, 5.0]]
    """
    shape = (len(pairs.gene), len(EXPECTED))
    mean, low, high = (np.full(shape, np.nan) for _ in range(3))
    n = np.zeros(shape, dtype=np.int64)
    for pair in range(shape[0]):
        values = with_rules(expected_counts(pairs, fits, pair, resamples))
        for j, column in enumerate(values.T):
            known = column[~np.isnan(column)]
            n[pair, j] = known.size
            if known.size:
                mean[pair, j] = known.mean()
                low[pair, j], high[pair, j] = np.quantile(known, QUANTILES)
    return StateSummary(mean, low, high, n)


def with_rules(expected: Floats) -> Floats:
    """Expected counts in the states, shape (R, 4), and what the two rules make of them; shape (R, 6)."""
    none, first, second = expected[:, 0], expected[:, 1], expected[:, 2]
    product = np.divide(first * second, none, out=np.full(none.shape, np.nan), where=none > 0.0)
    return np.column_stack([expected, product, first + second - none])


def expected_counts(pairs: StatePairs, fits: StateFits, pair: int, resamples: NDArray[Any]) -> Floats:
    """Count expected of a cell in each state, by resample.

    Returns
    -------
    float64 array, shape (R, 4)
        At the averages of covariates and offset in the original cells. 0 where a state has cells but no counts in a
        resample, NaN where it has no cells or the fit failed. A dummy with counts on one side alone stands there.
    """
    y, state, nuisance = pairs.counts[pairs.gene[pair]], pairs.states(pair), pairs.nuisance
    members = (state[:, None] == np.arange(4)).astype(np.float64)
    weights = np.asarray(resamples, dtype=np.float64)
    cells, totals = weights @ members, weights @ (members * y[:, None])
    design, first = nuisance.design(members[:, 1:]), 1 + nuisance.z.shape[1]
    joint, average = fits.joint[pair], nuisance.offset.mean()
    if not np.isfinite(joint).all():
        joint = np.zeros(len(design))
        joint[0] = nuisance.null_intercept(y)
    level = joint[0] + np.append(0.0, joint[first:])
    out = np.where(cells > 0.0, 0.0, np.nan)
    for r in np.flatnonzero(totals.any(axis=1)):
        reference, *others = np.flatnonzero(totals[r])  # states without counts tell nothing about the others
        rows = [*range(first), *(first - 1 + s for s in others)]
        start = np.concatenate([[level[reference]], joint[1:first], level[others] - level[reference]])
        found = poisson.refit_weighted(
            design[rows], 0, nuisance.watched(len(others)), y, weights[r] * (totals[r] > 0.0)[state], nuisance.offset,
            start, poisson.STEP_TOLERANCE,
        )  # fmt: skip
        out[r, [reference, *others]] = np.exp(found[0] + average + np.append(0.0, found[first:]))
    return out
