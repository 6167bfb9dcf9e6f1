"""Newton on expansions of the profile likelihood of a state regression, for ``WIDTH`` resamples side by side.

As in :mod:`.state_fits` the levels of the states have a closed form, so only the slopes d of the covariates (counted
from the centre of the expansion) are sought; ``M_s(d)`` is a polynomial per state and resample. Notation and layout as
in :mod:`.lanes`.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.lanes import CONVERGED_STEP, MAX_STEPS, WIDTH, _evaluate, _factor, _powers, _solve


@compiled
def _profile(moment, used, n_terms, n_last, y, y_z, theta, table, group, score, info, power, hessian):
    """Score and information of d in every lane; ``group`` receives M_s, its gradient and its last terms."""
    lanes = uint64(WIDTH)
    exponents, parent, axis, index = table
    c = exponents.shape[1]
    _powers(theta, 0, n_terms[0], exponents, parent, axis, power)
    score[:] = 0.0
    info[:] = 0.0
    rate = np.empty(WIDTH)
    for s in used:
        part = group[s]
        _evaluate(moment[s], n_terms, n_last, power, index, part, hessian)
        for b in range(lanes):
            rate[b] = y[s, b] / part[0, b]
        for j in range(c):
            slope = uint64(1 + j)
            for b in range(lanes):
                score[j, b] += y_z[s, j, b] - rate[b] * part[slope, b]
            for k in range(j + 1):
                other, place = uint64(1 + k), uint64(j * (j + 1) // 2 + k)
                for b in range(lanes):
                    info[j, k, b] += rate[b] * (hessian[place, b] - part[slope, b] * part[other, b] / part[0, b])


@compiled
def profile_newton(moment, used, n_terms, n_last, y, y_z, theta, table, group, info, good):
    """Newton in every lane until it has converged; a lane does not depend on its neighbours.

    ``theta``, (c, WIDTH), ends at the maximum; ``group``, (4, 2 + c, WIDTH), holds M_s there and its gradient and last
    terms one step before, ``info`` the Cholesky factor of that step.
    """
    lanes = uint64(WIDTH)
    c = theta.shape[0]
    now, factor, score = np.empty_like(group), np.empty_like(info), np.empty((c, WIDTH))
    power, hessian = np.empty((n_terms[0], WIDTH)), np.empty((c * (c + 1) // 2, WIDTH))
    largest, moving = np.empty(WIDTH), np.ones(WIDTH, dtype=np.bool_)
    for _ in range(MAX_STEPS):
        _profile(moment, used, n_terms, n_last, y, y_z, theta, table, now, score, factor, power, hessian)
        _factor(factor, c, moving, good)
        _solve(factor, c, score)
        largest[:] = 0.0
        for j in range(c):
            row = uint64(j)
            for b in range(lanes):
                largest[b] = max(largest[b], abs(score[row, b]))
        for s in used:
            for row in range(1, 2 + c):
                for b in range(lanes):
                    group[s, row, b] = now[s, row, b] if moving[b] else group[s, row, b]
            for b in range(lanes):
                value = now[s, 0, b]
                for j in range(c):  # the last step is so small that the first order does
                    value += now[s, 1 + j, b] * score[j, b]
                group[s, 0, b] = value if moving[b] else group[s, 0, b]
        n_moving = 0
        for j in range(c):
            for b in range(lanes):
                theta[j, b] += score[j, b] if moving[b] and good[b] else 0.0
            for k in range(j + 1):
                for b in range(lanes):
                    info[j, k, b] = factor[j, k, b] if moving[b] else info[j, k, b]
        for b in range(lanes):
            good[b] = good[b] and (largest[b] < 30.0 or not moving[b])  # NaN is not below 30
            moving[b] = moving[b] and good[b] and not largest[b] < CONVERGED_STEP
            n_moving += moving[b]
        if n_moving == 0:
            return
    for b in range(lanes):
        good[b] = good[b] and not moving[b]


@compiled
def certify_profile(degree, used, sign, y, theta, group, factor, largest_z, tolerance, good):
    """Unmark lanes where the neglected terms may move the coefficient by more than ``tolerance``.

    The neglected part of M_s is at most ``tail_s X / (D + 1)`` and that of its gradient ``tail_s max|z|``. It moves the
    level of a state directly and, through the score, the slopes, which move the levels by the means of z; all to first
    order.
    """
    lanes = uint64(WIDTH)
    c = largest_z.size
    reach, direct, error = np.zeros(WIDTH), np.zeros(WIDTH), np.empty(WIDTH)
    on_score, lever = np.zeros((c, WIDTH)), np.zeros((c, WIDTH))
    for j in range(c):
        for b in range(lanes):
            reach[b] += abs(theta[j, b]) * largest_z[j]
    for s in used:
        for b in range(lanes):
            within = 1.0 - reach[b] / (degree + 1.0)
            top = abs(group[s, 1 + c, b]) * (1.0 if degree % 2 == 0 else reach[b] / degree)
            tail = top / within if within > 0.1 else np.inf
            relative = tail / group[s, 0, b]
            level = relative * reach[b] / (degree + 1.0)
            direct[b] += level
            for j in range(c):
                mean = group[s, 1 + j, b] / group[s, 0, b]
                on_score[j, b] += y[s, b] * (relative * largest_z[j] + abs(mean) * level)
                lever[j, b] += sign[s] * mean
    _solve(factor, c, lever)
    error[:] = direct
    for j in range(c):
        for b in range(lanes):
            error[b] += abs(lever[j, b]) * on_score[j, b]
    for b in range(lanes):
        good[b] = good[b] and error[b] <= tolerance
