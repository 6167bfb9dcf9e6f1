"""Newton on expansions of the likelihood, for ``WIDTH`` resamples side by side, and the bound that certifies it.

A lane is a resample. Arrays hold WIDTH lanes in their last axis, few enough for the fastest cache; loops run over lanes
innermost. Notation as in :mod:`enhancer_dask.stats.moments`: delta of the p levels, d of the c slopes.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exponential import exp_into

WIDTH = 64
MAX_STEPS = 10
CONVERGED_STEP = 1e-4  # the next step would be about its square


@compiled(fastmath=FASTMATH)
def _add_terms(moment, which, power, first, stop, out, row):
    """Add ``moment[which[m]] * power[m]`` over terms ``first`` to ``stop``, four at a time, to every lane of a row.

    No rows are sliced off: each slice costs as much as a loop over the lanes, in counting references.
    """
    lanes, row = uint64(WIDTH), uint64(row)
    whole = first + (stop - first) // 4 * 4
    for m in range(first, whole, 4):
        a0, a1, a2, a3 = uint64(which[m]), uint64(which[m + 1]), uint64(which[m + 2]), uint64(which[m + 3])
        m0, m1, m2, m3 = uint64(m), uint64(m + 1), uint64(m + 2), uint64(m + 3)
        for b in range(lanes):
            out[row, b] += (
                moment[a0, b] * power[m0, b]
                + moment[a1, b] * power[m1, b]
                + moment[a2, b] * power[m2, b]
                + moment[a3, b] * power[m3, b]
            )
    for m in range(whole, stop):
        a0, m0 = uint64(which[m]), uint64(m)
        for b in range(lanes):
            out[row, b] += moment[a0, b] * power[m0, b]


@compiled
def _evaluate(moment, n_terms, n_last, power, index, out, hessian):
    """Polynomial, its gradient and the part of the terms ``n_last[0]`` to ``n_last[1]``, as rows of ``out``; Hessian.

    ``index`` holds, for the value and each derivative, the moment that goes with each power; see :func:`_table`.
    """
    c = out.shape[0] - 2
    out[:] = 0.0
    hessian[:] = 0.0
    _add_terms(moment, index[0], power, n_last[0], n_last[1], out, 1 + c)
    _add_terms(moment, index[0], power, 0, n_terms[0], out, 0)
    for row in range(1, 1 + c):
        _add_terms(moment, index[row], power, 0, n_terms[1], out, row)
    for row in range(hessian.shape[0]):
        _add_terms(moment, index[1 + c + row], power, 0, n_terms[2], hessian, row)


@compiled(fastmath=FASTMATH)
def _powers(theta, p, n_terms, exponents, parent, axis, power):
    """``d^a / a!`` in every lane, d being the rows of ``theta`` from p on."""
    lanes = uint64(WIDTH)
    power[0] = 1.0
    for m in range(1, n_terms):
        scale, source, variable, target = 1.0 / exponents[m, axis[m]], uint64(parent[m]), uint64(p + axis[m]), uint64(m)
        for b in range(lanes):
            power[target, b] = scale * power[source, b] * theta[variable, b]


@compiled
def _factor(info, size, moving, good):
    """Cholesky factor of ``info``, (size, size, WIDTH), in its lower triangle; unmarks moving lanes without one."""
    lanes = uint64(WIDTH)
    pivot = np.empty(WIDTH)
    for j in range(size):
        for b in range(lanes):
            pivot[b] = info[j, j, b]
        for m in range(j):
            for b in range(lanes):
                pivot[b] -= info[j, m, b] * info[j, m, b]
        for b in range(lanes):
            fine = pivot[b] > poisson.ALIAS_TOLERANCE * info[j, j, b]
            good[b] = good[b] and (fine or not moving[b])
            pivot[b] = np.sqrt(pivot[b]) if fine else 1.0
            info[j, j, b] = pivot[b]
        for i in range(j + 1, size):
            for m in range(j):
                for b in range(lanes):
                    info[i, j, b] -= info[i, m, b] * info[j, m, b]
            for b in range(lanes):
                info[i, j, b] /= pivot[b]


@compiled
def _solve(factor, size, right):
    """Solve in place for ``right``, shape (size, WIDTH), given the Cholesky factor."""
    lanes = uint64(WIDTH)
    for j in range(size):
        for m in range(j):
            for b in range(lanes):
                right[j, b] -= factor[j, m, b] * right[m, b]
        for b in range(lanes):
            right[j, b] /= factor[j, j, b]
    for j in range(size - 1, -1, -1):
        for m in range(j + 1, size):
            for b in range(lanes):
                right[j, b] -= factor[m, j, b] * right[m, b]
        for b in range(lanes):
            right[j, b] /= factor[j, j, b]


@compiled(fastmath=FASTMATH)
def _score(moment, n_terms, n_last, y, y_z, values, theta, table, group, score, info, power, hessian, work):
    """Score and information of (delta, d) in every lane; keeps each group's part for the bound.

    ``theta`` is (p + c, WIDTH), ``group`` holds per group, times its rate: value, gradient, last; ``power``,
    ``hessian`` and ``work`` are scratch.
    """
    lanes = uint64(WIDTH)
    exponents, parent, axis, index = table
    n_groups, p = values.shape
    c = exponents.shape[1]
    _powers(theta, p, n_terms[0], exponents, parent, axis, power)
    eta, rate, scratch = work[0], work[1], work[2]
    score[:p] = 0.0
    score[p:] = y_z
    info[:] = 0.0
    for g in range(n_groups):
        part = group[g]
        _evaluate(moment[g], n_terms, n_last, power, index, part, hessian)
        eta[:] = 0.0
        for a in range(p):
            x = values[g, a]
            for b in range(lanes):
                eta[b] += x * theta[uint64(a), b]
        exp_into(eta, rate, scratch)
        for row in range(2 + c):
            for b in range(lanes):
                part[uint64(row), b] *= rate[b]
        for a in range(p):
            x, a_ = values[g, a], uint64(a)
            if x == 0.0:
                continue
            for b in range(lanes):
                score[a_, b] += x * (y[g, b] - part[0, b])
            for m in range(a + 1):
                xx, m_ = x * values[g, m], uint64(m)
                if xx != 0.0:
                    for b in range(lanes):
                        info[a_, m_, b] += xx * part[0, b]
            for j in range(c):
                row, slope = uint64(p + j), uint64(1 + j)
                for b in range(lanes):
                    info[row, a_, b] += x * part[slope, b]
        for j in range(c):
            row, slope = uint64(p + j), uint64(1 + j)
            for b in range(lanes):
                score[row, b] -= part[slope, b]
            for k in range(j + 1):
                column, place = uint64(p + k), uint64(j * (j + 1) // 2 + k)
                for b in range(lanes):
                    info[row, column, b] += rate[b] * hessian[place, b]


@compiled
def _keep(rows, moving, kept):
    """Copy the lanes that still move."""
    for row in range(rows.shape[0]):
        for b in range(uint64(WIDTH)):
            kept[uint64(row), b] = rows[uint64(row), b] if moving[b] else kept[uint64(row), b]


@compiled
def newton(moment, n_terms, n_last, y, y_z, values, theta, table, group, info, good):
    """Newton in every lane until it has converged.

    A lane's result does not depend on its neighbours: where it stops moving, its ``theta`` and what its last step saw
    (``group``, and ``info`` as Cholesky factor) stay as they are.
    """
    lanes = uint64(WIDTH)
    now, factor = np.empty_like(group), np.empty_like(info)
    size = theta.shape[0]
    c = size - values.shape[1]
    score, largest = np.empty((size, WIDTH)), np.empty(WIDTH)
    power, hessian, work = np.empty((n_terms[0], WIDTH)), np.empty((c * (c + 1) // 2, WIDTH)), np.empty((3, WIDTH))
    moving = np.ones(WIDTH, dtype=np.bool_)
    for _ in range(MAX_STEPS):
        _score(
            moment, n_terms, n_last, y, y_z, values, theta, table, now, score, factor, power, hessian, work
        )  # fmt: skip
        _factor(factor, size, moving, good)
        _solve(factor, size, score)
        _keep(now.reshape(-1, WIDTH), moving, group.reshape(-1, WIDTH))
        _keep(factor.reshape(-1, WIDTH), moving, info.reshape(-1, WIDTH))
        largest[:] = 0.0
        for j in range(size):
            for b in range(lanes):
                largest[b] = max(largest[b], abs(score[j, b]))
                theta[j, b] += score[j, b] if moving[b] and good[b] else 0.0
        n_moving = 0
        for b in range(lanes):
            good[b] = good[b] and (largest[b] < 30.0 or not moving[b])  # NaN is not below 30
            moving[b] = moving[b] and good[b] and not largest[b] < CONVERGED_STEP
            n_moving += moving[b]
        if n_moving == 0:
            return
    for b in range(lanes):
        good[b] = good[b] and not moving[b]


@compiled
def certify(degree, theta, values, group, factor, first, largest_z, tolerance, good):
    """Unmark lanes where the neglected terms may move an indicator's coefficient by more than ``tolerance``."""
    lanes = uint64(WIDTH)
    n_groups, p = values.shape
    c, size = largest_z.size, theta.shape[0]
    reach, tail = np.zeros(WIDTH), np.empty((n_groups, WIDTH))
    for j in range(c):
        for b in range(lanes):
            reach[b] += abs(theta[p + j, b]) * largest_z[j]
    for g in range(n_groups):
        for b in range(lanes):
            within = 1.0 - reach[b] / (degree + 1.0)
            top = abs(group[g, 1 + c, b]) * (1.0 if degree % 2 == 0 else reach[b] / degree)
            tail[g, b] = top / within if within > 0.1 else np.inf
    right, error = np.empty((size, WIDTH)), np.empty(WIDTH)
    for a in range(first, p):
        right[:] = 0.0
        right[a] = 1.0
        _solve(factor, size, right)
        error[:] = 0.0
        for g in range(n_groups):
            for b in range(lanes):
                on_slopes, on_level = 0.0, 0.0
                for j in range(c):
                    on_slopes += abs(right[p + j, b]) * largest_z[j]
                for m in range(p):
                    on_level += abs(right[m, b] * values[g, m])
                error[b] += tail[g, b] * (on_slopes + on_level * reach[b] / (degree + 1.0))
        for b in range(lanes):
            good[b] = good[b] and error[b] <= tolerance
