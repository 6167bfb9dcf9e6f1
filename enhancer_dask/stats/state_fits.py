"""Poisson fits of the four tests of many enhancer pairs, in one compiled call.

Every state of a regression has a level of its own, so at given slopes g of the covariates the levels have a closed
form, ``l_s = log(Y_s / M_s(g))`` with ``Y_s`` the counts of the state and ``M_s(g)`` the sum of
``exp(offset + z'g)`` over its cells. What is left is concave in g alone,

    L(g) = (sum_i y_i z_i)'g - sum_s Y_s log M_s(g),

and takes Newton steps of the size of the covariates: one number for percent.mito. Information and sandwich of all
coefficients follow from sums over the states. :func:`.states.fit_states_plainly` says what every number means, and
fits what is unusual here (separated dummies, collinear covariates, steps that do not settle).
"""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.states import (
    CONTRAST,
    INTERACTION,
    Floats,
    StateFits,
    StatePairs,
    empty_fits,
    fit_states_plainly,
)

_UNUSUAL = -1  # left to the plain fit
_MAX_STEPS, _LONGEST_STEP = 20, 5.0
_NEARLY_ALIASED = 1e-6


@compiled
def sort_by_state(first, second, bounds, order):
    """Write the cells to ``order`` by state 00, 10, 01, 11; state s is ``order[bounds[s]:bounds[s + 1]]``."""
    n = first.size
    bounds[:] = 0
    for i in range(n):
        bounds[first[i] + 2 * second[i] + 1] += 1
    for s in range(4):
        bounds[s + 1] += bounds[s]
    place = bounds[:4].copy()
    for i in range(n):
        s = first[i] + 2 * second[i]
        order[place[s]] = i
        place[s] += 1


@compiled(fastmath=FASTMATH)
def _sum_of(x, start, stop):
    out = 0.0
    for i in range(start, stop):
        out += x[i]
    return out


@compiled(fastmath=FASTMATH)
def _dot_of(x, y, start, stop):
    out = 0.0
    for i in range(start, stop):
        out += x[i] * y[i]
    return out


@compiled(fastmath=FASTMATH)
def _predict(z, offset, slopes, eta, start, stop):
    for i in range(start, stop):
        eta[i] = offset[i]
    for j in range(slopes.size):
        slope, row = slopes[j], z[j]
        for i in range(start, stop):
            eta[i] += slope * row[i]


@compiled(fastmath=FASTMATH)
def _products(x, y, out, start, stop):
    for i in range(start, stop):
        out[i] = x[i] * y[i]


@compiled
def _state_means(z, bounds, used, rate, scratch, level, mean, spread):
    """M_s, mean and covariance of z in each state under weights ``rate``; ``spread`` of the lower triangle."""
    for s in used:
        start, stop = bounds[s], bounds[s + 1]
        level[s] = _sum_of(rate, start, stop)
        for j in range(z.shape[0]):
            _products(z[j], rate, scratch, start, stop)
            mean[s, j] = _sum_of(scratch, start, stop) / level[s]
            for m in range(j + 1):
                spread[s, j, m] = _dot_of(z[m], scratch, start, stop) / level[s] - mean[s, j] * mean[s, m]


@compiled
def _fit_slopes(z, offset, bounds, used, totals, sums, slopes, work, level, mean, spread, chol, info):
    """Newton in the slopes, in place; level, mean and info are those at the maximum. False if it does not settle."""
    c = z.shape[0]
    eta, rate, scratch = work[0], work[1], work[2]
    score, step = np.empty(c), np.empty(c)
    for _ in range(_MAX_STEPS):
        for s in used:
            start, stop = bounds[s], bounds[s + 1]
            _predict(z, offset, slopes, eta, start, stop)
            exp_into(eta[start:stop], rate[start:stop], scratch[start:stop])
        _state_means(z, bounds, used, rate, scratch, level, mean, spread)
        for j in range(c):
            score[j] = 0.0
            for s in used:
                score[j] += sums[s, j] - totals[s] * mean[s, j]
            for m in range(j + 1):
                info[j, m] = 0.0
                for s in used:
                    info[j, m] += totals[s] * spread[s, j, m]
        if c == 0:
            return True
        if not poisson._cholesky_solve(info, score, chol, step, _NEARLY_ALIASED):
            return False
        size = np.max(np.abs(step))
        if not size < _LONGEST_STEP:
            return False
        slopes += step
        if size < poisson.FIT_TOLERANCE:
            for s in used:
                level[s] *= 1.0 + np.sum(mean[s] * step)
            return True
    return False


@compiled
def _slopes_of_gene(z, offset, counts, slopes, work, level, mean, spread, chol, info):
    """Slopes of the gene's fit without peaks, zeros if there is none: a start that depends on no pair."""
    bounds, used, totals, sums = np.array([0, counts.size]), np.array([0]), np.empty(1), np.empty((1, slopes.size))
    totals[0] = _sum_of(counts, 0, counts.size)
    for j in range(slopes.size):
        sums[0, j] = _dot_of(z[j], counts, 0, counts.size)
    slopes[:] = 0.0
    if totals[0] == 0.0:
        return
    if not _fit_slopes(z, offset, bounds, used, totals, sums, slopes, work, level, mean, spread, chol, info):
        slopes[:] = 0.0


@compiled
def _distance(chol, difference):
    """``v' C^-1 v`` from the Cholesky factor of C; overwrites v."""
    out = 0.0
    for j in range(difference.size):
        for m in range(j):
            difference[j] -= chol[j, m] * difference[m]
        difference[j] /= chol[j, j]
        out += difference[j] * difference[j]
    return out


@compiled(fastmath=FASTMATH)
def _squared_residuals(counts, rate, level, out, start, stop):
    for i in range(start, stop):
        out[i] = (counts[i] - rate[i] * level) ** 2


@compiled
def _meat(z, counts, bounds, rate, scale, work, meat):
    """Sums of squared residuals times products of (states, z), lower triangle; shape (4 + c, 4 + c)."""
    c, square, scratch = z.shape[0], work[2], work[3]
    meat[:] = 0.0
    for s in range(4):
        _squared_residuals(counts, rate, scale[s], square, bounds[s], bounds[s + 1])
        meat[s, s] = _sum_of(square, bounds[s], bounds[s + 1])
    for j in range(c):
        _products(z[j], square, scratch, 0, square.size)
        for s in range(4):
            meat[4 + j, s] = _sum_of(scratch, bounds[s], bounds[s + 1])
        for m in range(j + 1):
            meat[4 + j, 4 + m] = _dot_of(z[m], scratch, 0, scratch.size)


@compiled
def _fit_states(
    z, offset, rna, peaks, gene, first, second, slopes, levels, tallies, means, infos, meats, errors, status
):
    """Fill the results pair by pair: slopes, levels, mean of z per state and information on g of each test.

    Shapes: slopes (L, 4, c); levels (L, 4, 4); tallies (L, 4), the counts of the states; means (L, 4, c), infos
    (L, c, c) and meats (L, 4 + c, 4 + c) of the joint fit; errors (L, 4) of the coefficients.
    """
    c, n = z.shape
    order, bounds = np.empty(n, np.int64), np.zeros(5, np.int64)
    zs, shift, counts, work = np.empty((c, n)), np.empty(n), np.empty(n), np.empty((4, n))
    totals, sums, level = np.empty(4), np.empty((4, c)), np.empty(4)
    mean, spread, chol, info = np.zeros((4, c)), np.zeros((4, c, c)), np.zeros((c, c)), np.zeros((c, c))
    difference, last, warm, null = np.empty(c), -1, np.zeros(c), np.zeros(c)
    of_test = (np.array([0, 1]), np.array([0, 2]), np.array([0, 3]), np.array([0, 1, 2, 3]))
    for pair in range(gene.size):
        sort_by_state(peaks[first[pair]], peaks[second[pair]], bounds, order)
        y = rna[gene[pair]]
        for i in range(n):
            counts[i], shift[i] = y[order[i]], offset[order[i]]
        for j in range(c):
            for i in range(n):
                zs[j, i] = z[j, order[i]]
        for s in range(4):
            totals[s] = _sum_of(counts, bounds[s], bounds[s + 1])
            for j in range(c):
                sums[s, j] = _dot_of(zs[j], counts, bounds[s], bounds[s + 1])
        tallies[pair] = totals
        if gene[pair] != last:
            last = gene[pair]
            _slopes_of_gene(z, offset, y, null, work, level, mean, spread, chol, info)
        warm[:] = null
        for t in range(3, -1, -1):  # the slopes in all cells are a start for those in some
            used, usable = of_test[t], True
            for s in used:
                usable = usable and totals[s] > 0.0  # no counts or no cells: the plain fit says what follows
            status[pair, t] = _UNUSUAL
            if not usable:
                continue
            g = slopes[pair, t]
            g[:] = warm
            if not _fit_slopes(zs, shift, bounds, used, totals, sums, g, work, level, mean, spread, chol, info):
                continue
            status[pair, t] = poisson.CONVERGED
            for s in used:
                levels[pair, t, s] = math.log(totals[s] / level[s])
            variance = 0.0
            for s in used:
                variance += 1.0 / totals[s]
            for j in range(c):
                difference[j] = mean[used[-1], j] - mean[0, j]
                if t == INTERACTION:
                    difference[j] += 2.0 * mean[0, j] - mean[1, j] - mean[2, j]
            errors[pair, t] = math.sqrt(variance + _distance(chol, difference))
            if t == INTERACTION:
                warm[:] = g
                means[pair], infos[pair] = mean, info
                _meat(zs, counts, bounds, work[1], totals / level, work, meats[pair])


def fit_states(pairs: StatePairs) -> StateFits:
    """Fit the four tests of every pair.

    Parameters
    ----------
    pairs : StatePairs
        L of them; L may be 0. Pairs of a gene that follow each other share its fit without peaks.

    Returns
    -------
    StateFits
        As :func:`.states.fit_states_plainly`; the numbers of a pair do not depend on the others.

    Notes
    -----
    About 0.1 ms a pair at 2,600 cells and one covariate.

    Examples
    --------
    >>> counts = np.array([[2.0, 4.0, 3.0, 9.0] * 2])  # states 00, 10, 01, 11 twice
    >>> peaks = np.array([[0, 1, 0, 1] * 2, [0, 0, 1, 1] * 2], dtype=np.uint8)
    >>> only, second = np.array([0]), np.array([1])
    >>> pairs = StatePairs(counts, peaks, only, only, second, poisson.make_nuisance(np.empty((8, 0))))
    >>> np.exp(fit_states(pairs).beta).round(6).tolist()  # 4 / 2, 3 / 2, 9 / 2, 9 * 2 / (4 * 3)
    [[2.0, 1.5, 4.5, 1.5]]
    """
    n_pairs, (_, c) = len(pairs.gene), pairs.nuisance.z.shape
    slopes, levels, means = np.zeros((n_pairs, 4, c)), np.full((n_pairs, 4, 4), np.nan), np.zeros((n_pairs, 4, c))
    tallies, infos, meats = np.zeros((n_pairs, 4)), np.zeros((n_pairs, c, c)), np.zeros((n_pairs, 4 + c, 4 + c))
    fits = empty_fits(n_pairs, c)
    z = np.ascontiguousarray(pairs.nuisance.z.T)
    _fit_states(
        z, pairs.nuisance.offset, pairs.counts, pairs.peaks, pairs.gene, pairs.first, pairs.second,
        slopes, levels, tallies, means, infos, meats, fits.se, fits.status,
    )  # fmt: skip
    for test in range(3):
        fits.beta[:, test] = levels[:, test, test + 1] - levels[:, test, 0]
        fits.contrasts[:, test, 0], fits.contrasts[:, test, -1] = levels[:, test, 0], fits.beta[:, test]
        fits.contrasts[:, test, 1:-1] = slopes[:, test]
    fits.contrasts[fits.status[:, :3] != poisson.CONVERGED] = np.nan
    done = fits.status[:, INTERACTION] == poisson.CONVERGED
    levels, slopes = levels[done, INTERACTION], slopes[done, INTERACTION]
    joint, covariance, sandwich = _joint(levels, slopes, tallies[done], means[done], infos[done], meats[done])
    fits.joint[done], fits.covariance[done], fits.sandwich[done] = joint, covariance, sandwich
    fits.beta[done, INTERACTION] = joint[:, -3:] @ CONTRAST
    unusual = np.flatnonzero((fits.status == _UNUSUAL).any(axis=1))
    return _replaced(fits, unusual, fit_states_plainly(pairs.some(unusual))) if len(unusual) else fits


def _joint(
    levels: Floats, slopes: Floats, tallies: Floats, means: Floats, infos: Floats, meats: Floats
) -> tuple[Floats, Floats, Floats]:
    """Coefficients of the joint fits, their covariance and sandwich, from those of the four levels and the slopes."""
    c = slopes.shape[1]
    to_joint = np.zeros((4 + c, 4 + c))
    to_joint[0, 0] = 1.0
    to_joint[range(1, 1 + c), range(4, 4 + c)] = 1.0
    to_joint[range(1 + c, 4 + c), range(1, 4)] = 1.0
    to_joint[1 + c :, 0] = -1.0
    joint = np.concatenate([levels[:, :1], slopes, levels[:, 1:] - levels[:, :1]], axis=1)
    inverse = np.linalg.inv(infos + np.swapaxes(np.tril(infos, -1), 1, 2))
    covariance = np.empty((len(levels), 4 + c, 4 + c))
    crossed = means @ inverse
    covariance[:, 4:, 4:] = inverse
    covariance[:, :4, 4:] = -crossed
    covariance[:, 4:, :4] = -np.swapaxes(crossed, 1, 2)
    covariance[:, :4, :4] = crossed @ np.swapaxes(means, 1, 2)
    covariance[:, range(4), range(4)] += 1.0 / tallies  # information on a level is the count of its state
    sandwich = covariance @ (meats + np.swapaxes(np.tril(meats, -1), 1, 2)) @ covariance
    return joint, to_joint @ covariance @ to_joint.T, to_joint @ sandwich @ to_joint.T


def _replaced(fits: StateFits, rows: NDArray[np.int64], others: StateFits) -> StateFits:
    """The fits with some rows taken from others."""
    for field in fields(StateFits):
        getattr(fits, field.name)[rows] = getattr(others, field.name)
    return fits
