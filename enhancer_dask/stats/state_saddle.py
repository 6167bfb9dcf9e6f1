"""Bootstrap p-values and the interval of the interaction of many enhancer pairs, by saddlepoint.

Each test is the saddlepoint of :mod:`.saddlepoint` with the coefficient of interest last: a contrast in the regression
on the cells of its two states, the interaction as the coefficient of the product of the enhancers, beside their own.
The interval of the interaction is BCa [1]_: of the intervals tried on simulated pairs the one that kept its coverage
from ten doubly open cells on and whatever the variance of the counts; the test that inverts it comes with it.

References
----------
.. [1] Efron (1987), Better bootstrap confidence intervals. Journal of the American Statistical Association 82, 171-185.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from enhancer_dask.stats import saddlepoint
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.grams import linear_predictor
from enhancer_dask.stats.saddlepoint import away, saddle_at, slopes_at
from enhancer_dask.stats.state_fits import sort_by_state
from enhancer_dask.stats.states import INTERACTION, Floats, Ints, StateFits, StatePairs, StateSaddles
from enhancer_dask.stats.tails import two_sided_all

# On real triples the p-value of the interaction was within Monte-Carlo error of exact resamples from 13 doubly open
# cells on, and off by a quarter with 12.
FEWEST_IN_STATE = 13
RARE_STATE = 6  # a further code of trust
# 450 real pairs with 6 to 40 doubly open cells against 60,000 resamples each: within Monte-Carlo error also where few
# cells carry the tail, down to so many, as long as the tail is no deeper than this.
SHALLOW, FEWEST_EFFECTIVE_SHALLOW = 1e-3, 3.0
Z_TOLERANCE = 1e-2  # of the ends of an interval, in standard normal units; one secant step follows
P_VALUE, BIAS, ZERO, LOW, HIGH = 0, 1, 2, 3, 4  # what is asked of a test, in this order
NEAR = 1e-3  # standard errors from the estimate at which its own deviate, the bias of the bootstrap, is read


@compiled
def _scratch(p):
    """What a saddle of p coefficients needs beside the rows of cells."""
    d = (np.empty(p), np.empty(p), np.empty((p, p)), np.empty((p, p)), np.empty((p - 1, p - 1)))
    square = np.empty((4, p, p))
    small = (
        square[0],
        np.empty((p - 1, p - 1)),
        square[1],
        np.empty((p - 1, p - 1)),
        square[2],
        square[3],
        np.empty((p, p)),
    )
    return d, small


@compiled
def _acceleration(rows, cells, opened, counts, direction, work):
    """A sixth of the skewness of the cells' first-order influence; ``work`` is that of the fit."""
    lean, mean = work[1], work[3]
    linear_predictor(rows, cells, opened, work[8], direction, lean)
    second, third = 0.0, 0.0
    for i in range(counts.size):
        influence = lean[i] * (counts[i] - mean[i])
        second += influence * influence
        third += influence * influence * influence
    return math.copysign(third, third * direction[-1]) / (6.0 * second**1.5)


@compiled
def _saddle_test(rows, n_closed, counts, offset, fit, half, buffer, d, small, out, interval):
    """Fill ``out`` with r, u, effective cells, sd, leverage; False if there is no saddle.

    If ``half`` > 0 also ``interval``: the ends of the BCa interval that goes so many standard errors to each side, and
    the normal deviate of the test that inverts it. The open cells are the last ones, from ``n_closed`` on.

    Everything is asked of one loop, since the compiler pays for each place that calls :func:`saddle_at`.
    """
    k, n = rows.shape
    p, estimate = k + 1, fit[k]
    work = buffer[: 9 * n].reshape(9, n)
    work[8] = 0.0
    cells, opened = np.arange(n_closed, n), rows[:, n_closed:].copy()
    slope_tau, slope_gamma, coef, tau, steps = np.empty(p), np.empty(p - 1), fit.copy(), np.empty(p), np.empty((2, p))
    sd = slopes_at(rows, cells, opened, counts, offset, fit, work, d, small, slope_tau, slope_gamma)
    if not np.isfinite(sd):
        return False
    out[3] = sd
    acceleration = _acceleration(rows, cells, opened, counts, slope_tau, work) if half > 0.0 else 0.0
    bias, target = 0.0, 0.0
    for wanted in range(HIGH + 1 if half > 0.0 else P_VALUE + 1):
        if wanted >= LOW:
            shifted = bias + (half if wanted == HIGH else -half)
            target = bias + shifted / (1.0 - acceleration * shifted)
        at = _first_try(wanted, estimate, sd, target)
        last, z_last = 0.0, 0.0
        for _ in range(8):
            r, u, effective, leverage = saddle_at(
                rows, cells, opened, counts, offset, fit, at, slope_tau, slope_gamma, coef, tau, work, d, small, steps,
                wanted == P_VALUE,
            )  # fmt: skip
            if wanted == P_VALUE:
                out[0], out[1], out[2], out[4] = r, u, effective, leverage
                break
            # Barndorff-Nielsen's r*: Lugannani and Rice's tail to its order, and smooth through the estimate
            z = r + math.log(u / r) / r if u / r > 0.0 else np.nan
            if wanted == BIAS:
                bias = z - NEAR
                break
            if wanted == ZERO:
                shifted = z - bias
                interval[2] = shifted / (1.0 + acceleration * shifted) - bias
                break
            slope = (z - z_last) / (at - last)  # secants, the first from the estimate
            if not slope > 0.0:  # or NaN
                break
            step = (target - z) / slope
            if abs(target - z) < Z_TOLERANCE:
                interval[wanted - LOW] = estimate + at + step
                break
            last, z_last = at, z
            at += step
    return np.isfinite(out[1])


@compiled
def _first_try(wanted, estimate, sd, target):
    """Distance from the estimate at which to look first."""
    if wanted == P_VALUE:
        return away(estimate, sd)
    if wanted == BIAS:
        return NEAR * sd
    if wanted == ZERO:
        return -estimate if abs(estimate) > NEAR * sd else NEAR * sd
    return target * sd


@compiled
def _saddle_states(
    z, offset, rna, peaks, gene, first, second, contrasts, joint, half, table, informative, rarest, found, intervals,
):  # fmt: skip
    """Fill the results pair by pair; shapes (L, 4, 5), (L, 4), (L, 4), (L, 4) and (L, 3)."""
    c, n = z.shape
    order, bounds = np.empty(n, np.int64), np.zeros(5, np.int64)
    counts, shift, buffer = np.empty(n), np.empty(n), np.empty(9 * n)
    scratch = (_scratch(2 + c), _scratch(4 + c))
    rows, fit, positive = np.ones((3 + c, n)), np.empty(4 + c), np.zeros(4, np.int64)
    for pair in range(gene.size):
        sort_by_state(peaks[first[pair]], peaks[second[pair]], bounds, order)
        y = rna[gene[pair]]
        for s in range(4):
            positive[s] = 0
            for i in range(bounds[s], bounds[s + 1]):
                counts[i], shift[i] = y[order[i]], offset[order[i]]
                positive[s] += counts[i] > 0.0
                rows[1 + c, i], rows[2 + c, i] = s & 1, s >> 1
                for j in range(c):
                    rows[1 + j, i] = z[j, order[i]]
        for t in range(4):
            whole = t == INTERACTION
            start, stop = (bounds[3], n) if whole else (bounds[t + 1], bounds[t + 2])
            n_closed = start if whole else bounds[1]
            if whole:
                informative[pair, t], rarest[pair, t] = positive.min(), np.diff(bounds).min()
                fit[:] = joint[pair]
                fit[3 + c] -= fit[1 + c] + fit[2 + c]  # I in place of b_11
            else:
                informative[pair, t] = min(positive[0], positive[t + 1])
                rarest[pair, t] = min(bounds[1], stop - start)
                fit[: 2 + c] = contrasts[pair, t]
            k = (3 if whole else 1) + c
            if not np.isfinite(fit[: k + 1].sum()):
                continue
            d, small = scratch[1 if whole else 0]
            found[pair, t] = _saddle_test(
                np.concatenate((rows[:k, :n_closed], rows[:k, start:stop]), axis=1), n_closed,
                np.concatenate((counts[:n_closed], counts[start:stop])),
                np.concatenate((shift[:n_closed], shift[start:stop])),
                fit[: k + 1].copy(), half if whole else 0.0, buffer, d, small, table[pair, t], intervals[pair],
            )  # fmt: skip


def saddle_states(pairs: StatePairs, fits: StateFits, *, level: float = 0.95) -> StateSaddles:
    """Two-sided basic-bootstrap p-values of the four tests of every pair, and the interval of the interaction.

    Parameters
    ----------
    pairs : StatePairs
    fits : StateFits
        What :func:`.state_fits.fit_states` returned for them.
    level : float
        Confidence of the interval.

    Returns
    -------
    StateSaddles
        NaN where ``trust`` is NOT_FITTED or NO_SADDLE; RARE_STATE where the interaction has fewer than
        ``FEWEST_IN_STATE`` cells in one of its states. The numbers of a pair do not depend on the others.

    Notes
    -----
    A contrast is resampled within the cells of its two states, as in the published pipeline.
    """
    n_pairs = len(pairs.gene)
    table, intervals = np.full((n_pairs, 4, 5), np.nan), np.full((n_pairs, 3), np.nan)
    informative, rarest = np.zeros((n_pairs, 4), dtype=np.int64), np.zeros((n_pairs, 4), dtype=np.int64)
    found = np.zeros((n_pairs, 4), dtype=np.bool_)
    half = float(ndtri(0.5 + 0.5 * level))
    _saddle_states(
        np.ascontiguousarray(pairs.nuisance.z.T), pairs.nuisance.offset, pairs.counts, pairs.peaks, pairs.gene,
        pairs.first, pairs.second, fits.contrasts, fits.joint, half, table, informative, rarest, found, intervals,
    )  # fmt: skip
    table[~found] = np.nan
    p = two_sided_all(table[:, :, :2].reshape(-1, 2)).reshape(n_pairs, 4)
    fitted = np.column_stack([np.isfinite(fits.contrasts).all(axis=2), np.isfinite(fits.joint).all(axis=1)])
    return StateSaddles(
        p, table[:, :, 3].copy(), intervals[:, 0].copy(), intervals[:, 1].copy(), 2.0 * ndtr(-np.abs(intervals[:, 2])),
        _trust(p, table, informative, rarest, fitted, found),
    )  # fmt: skip


def _trust(
    p: Floats, table: Floats, informative: Ints, rarest: Ints, fitted: NDArray[np.bool_], found: NDArray[np.bool_]
) -> Ints:
    """Codes of trust, by the bounds of :mod:`.saddlepoint` where the tail is deep, of this module where it is not."""
    s, effective, leverage = saddlepoint, table[:, :, 2], table[:, :, 4]
    rare = (rarest < FEWEST_IN_STATE) & (np.arange(4) == INTERACTION)
    concentrated = effective < np.where(p < SHALLOW, s.FEWEST_EFFECTIVE, FEWEST_EFFECTIVE_SHALLOW)
    few, one_cell = informative < s.FEWEST_CELLS, leverage > s.LARGEST_LEVERAGE
    return np.select(
        [~fitted, ~found, rare, few, concentrated, one_cell],
        [s.NOT_FITTED, s.NO_SADDLE, RARE_STATE, s.FEW_CELLS, s.CONCENTRATED, s.ONE_CELL], s.TRUSTED,
    )  # fmt: skip
