"""Refits of the four tests of enhancer pairs without a pass over the cells: the moments engine.

The expansions of :mod:`.moments`, kept apart by state: sums over the cells of three states are made per pair, those of
the largest state are what the gene's sums over all cells leave. All four tests of a pair are solved from the same sums.
A resample in which a state has no counts has its limit at once; what the bound does not certify is refitted exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exact import Batch, Floats, Ints, Refitter, settled_weights
from enhancer_dask.stats.lanes import WIDTH
from enhancer_dask.stats.moments import TOLERANCE, _count_sums, _highest_degrees, _sharing, _table, prepare
from enhancer_dask.stats.products import LANES, features_of, fill_tile, product
from enhancer_dask.stats.shared_sums import basis
from enhancer_dask.stats.state_exact import limit_of_resample, refit_exactly, starts
from enhancer_dask.stats.state_lanes import certify_profile, profile_newton
from enhancer_dask.stats.states import StateFits, StatePairs

SMALLEST_SHARE = 0.05  # of the expected counts, for the state that is what the others leave
# States of each test, and how their levels enter its coefficient.
OF_TEST = (
    (np.array([0, 1]), np.array([-1.0, 1.0, 0.0, 0.0])),
    (np.array([0, 2]), np.array([-1.0, 0.0, 1.0, 0.0])),
    (np.array([0, 3]), np.array([-1.0, 0.0, 0.0, 1.0])),
    (np.arange(4), np.array([1.0, -1.0, -1.0, 1.0])),
)


@compiled
def _sums_of_states(
    groups, layout, counts, mean, z, tile, n_terms, parent, axis, all_moments, y_sums, work, features, moments, sums
):
    """Moments, shape (4, terms, LANES), and sums of counts times (1, z), shape (4, 1 + c, LANES), of every state.

    The largest state, which is returned, is what the others leave of all cells. States without cells have zeros.
    """
    first, values, bounds, cells_of = groups
    c, lanes = z.shape[0], uint64(LANES)
    moments[:, :n_terms] = 0.0
    sums[:] = 0.0
    g0, g1 = first[layout], first[layout + 1]
    largest = int(values[g0, 1]) + 2 * int(values[g0, 2])
    for m in range(n_terms):
        for b in range(lanes):
            moments[largest, m, b] = all_moments[m, b]
    for j in range(1 + c):
        for b in range(lanes):
            sums[largest, j, b] = y_sums[j, b]
    out = np.empty((n_terms + c + 5, LANES))
    for g in range(g0 + 1, g1):
        s = int(values[g, 1]) + 2 * int(values[g, 2])
        cells = cells_of[bounds[g] : bounds[g + 1]]
        features_of(mean, z, cells, n_terms, parent, axis, work, features)
        for k in range(cells.size):
            y = counts[cells[k]]
            features[n_terms, k] = y
            for j in range(c):
                features[n_terms + 1 + j, k] = y * z[j, cells[k]]
        features[n_terms : n_terms + 1 + c, cells.size : cells.size + 3] = 0.0
        product(features, n_terms + 1 + c, cells, tile, out)
        for m in range(n_terms):
            for b in range(lanes):
                moments[s, m, b] = out[m, b]
                moments[largest, m, b] -= out[m, b]
        for j in range(1 + c):
            for b in range(lanes):
                sums[s, j, b] = out[n_terms + j, b]
                sums[largest, j, b] -= out[n_terms + j, b]
    return largest


@compiled
def _gather(moments, sums, n_terms, b0, moment, y, y_z):
    """``WIDTH`` lanes of the states' sums, close together."""
    lanes, first = uint64(WIDTH), uint64(b0)
    for s in range(4):
        for m in range(n_terms):
            term = uint64(m)
            for b in range(lanes):
                moment[s, term, b] = moments[s, term, first + b]
        for b in range(lanes):
            y[s, b] = sums[s, 0, first + b]
        for j in range(y_z.shape[1]):
            for b in range(lanes):
                y_z[s, j, b] = sums[s, 1 + j, first + b]


@compiled
def _judge(moment, largest, solid):
    """Whether the sums of the state that the others leave of all are more than the rounding of those."""
    for b in range(WIDTH):
        total = moment[0, 0, b] + moment[1, 0, b] + moment[2, 0, b] + moment[3, 0, b]
        solid[b] = moment[largest, 0, b] > SMALLEST_SHARE * total


@compiled
def _limits(test, moment, y, out, good):
    """What states without cells or counts decide; lanes that need a fit have 0 and are marked."""
    cells, totals = np.empty(4), np.empty(4)
    for b in range(WIDTH):
        for s in range(4):
            cells[s], totals[s] = moment[s, 0, b], y[s, b]
        out[b] = limit_of_resample(test, cells, totals)
        good[b] = out[b] == 0.0


@compiled
def _coefficients(used, sign, y, group, out, good):
    """Fill the lanes without a limit; a limit needs no fit and can be relied on."""
    for b in range(WIDTH):
        if out[b] != 0.0:
            good[b] = True
            continue
        ratio = 1.0
        for s in used:
            ratio *= y[s, b] / group[s, 0, b] if sign[s] > 0.0 else group[s, 0, b] / y[s, b]
        good[b] = good[b] and ratio > 0.0
        out[b] = math.log(ratio) if good[b] else np.nan


@compiled
def _refit_tile(
    tile, sharing, n_there, which, gene, counts, mean, z, groups, layout_of, degree, start, table, n_terms_to,
    largest_z, out, good,
):  # fmt: skip
    """Coefficients of the tests in one tile of resamples; ``good`` marks what can be relied on."""
    _, parent, axis, _ = table
    shared, in_basis, basis_sums = sharing
    (c, n), n_rows = z.shape, n_terms_to[-1] + z.shape[0] + 8
    work, features = np.empty((n_rows, n + 4)), np.zeros((n_rows, n + 4), dtype=np.float32)
    from_basis, from_cells, y_sums = np.empty((n_rows, LANES)), np.empty((n_rows, LANES)), np.empty((c + 5, LANES))
    every_cell, basis_rows = np.arange(n).astype(np.uint32), np.arange(basis_sums.size // LANES).astype(np.uint32)
    moments, sums = np.empty((4, n_rows, LANES)), np.empty((4, 1 + c, LANES))
    y, y_z, theta = np.empty((4, WIDTH)), np.empty((4, c, WIDTH)), np.empty((c, WIDTH))
    group, info, solid = np.empty((4, 2 + c, WIDTH)), np.empty((c, c, WIDTH)), np.empty(WIDTH, dtype=np.bool_)
    done, stop = -1, 0
    while stop < which.size:
        begin, pair = stop, which[stop] // 4
        while stop < which.size and which[stop] // 4 == pair:
            good[stop] = False
            stop += 1
        if degree[pair] < 0:
            continue
        if gene[pair] != done:
            done = gene[pair]
            end = begin
            while end < which.size and gene[which[end] // 4] == done:
                end += 1
            by_basis, by_cells = _highest_degrees(which[begin:end] // 4, degree, shared[done])
            _count_sums(counts[done], z, tile, features, y_sums)
            if by_basis >= 0:
                product(in_basis[done], n_terms_to[by_basis], basis_rows, basis_sums, from_basis)
            if by_cells >= 0:
                features_of(mean[done], z, every_cell, n_terms_to[by_cells], parent, axis, work, features)
                product(features, n_terms_to[by_cells], every_cell, tile, from_cells)
        n_terms = n_terms_to[degree[pair]]
        all_moments = from_basis if degree[pair] <= shared[done] else from_cells
        largest = _sums_of_states(
            groups, layout_of[pair], counts[done], mean[done], z, tile, n_terms, parent, axis, all_moments, y_sums,
            work, features, moments, sums,
        )  # fmt: skip
        n_each = (n_terms, n_terms_to[max(0, degree[pair] - 1)], n_terms_to[max(0, degree[pair] - 2)])
        top = degree[pair] - degree[pair] % 2  # the highest even degree
        n_last = (n_terms_to[top - 1] if top > 0 else 0, n_terms_to[top])
        moment = np.empty((4, n_terms, WIDTH))
        for b0 in range(0, n_there, WIDTH):
            _gather(moments, sums, n_terms, b0, moment, y, y_z)
            _judge(moment, largest, solid)
            for a in range(begin, stop):
                test = which[a] % 4
                used, sign = OF_TEST[test]
                values, fine = out[a, b0 : b0 + WIDTH], good[a, b0 : b0 + WIDTH]
                for j in range(c):
                    theta[j] = start[pair, test, j]
                _limits(test, moment, y, values, fine)
                profile_newton(moment, used, n_each, n_last, y, y_z, theta, table, group, info, fine)
                certify_profile(degree[pair], used, sign, y, theta, group, info, largest_z, TOLERANCE, fine)
                fine &= solid
                _coefficients(used, sign, y, group, values, fine)


def moments_engine(pairs: StatePairs, fits: StateFits) -> Refitter:
    """Newton on expansions of the likelihood, certified per resample; exact refits where the bound does not hold.

    Covariates of two values are expanded like the others.
    """
    n, c = pairs.nuisance.z.shape
    begin = starts(pairs, fits)
    plain = replace(pairs.nuisance, two_valued=np.zeros(c, dtype=np.bool_))
    peak = np.column_stack([pairs.first, pairs.second])
    batch = Batch(pairs.counts, pairs.peaks, pairs.gene, peak, plain, begin[1][:, [*range(1 + c), -3, -2]].copy())
    plan = prepare(batch)
    z, mean, centres = plan.z, plan.centres.mean, plan.centres
    terms, n_terms_to = _table(plan.monomials), plan.monomials.n_terms
    rows = basis(z, plain.offset, LANES)
    shared, in_basis = _sharing(centres, z, rows, plan.degree, pairs.gene, terms, n_terms_to)
    start = np.concatenate([begin[0][:, :, 1 : 1 + c], begin[1][:, None, 1 : 1 + c]], axis=1)
    start = np.ascontiguousarray(start - centres.coefficients[pairs.gene][:, None, 1:])
    groups = tuple(plan.groups[1:])
    prepared = (
        pairs.gene, pairs.counts, mean, z, groups, plan.groups.of_test, plan.degree, start, terms, n_terms_to,
        plan.largest_z,
    )  # fmt: skip
    every_cell, single = np.arange(n, dtype=np.uint32), np.zeros((len(rows) + 4, n + 4), dtype=np.float32)
    single[: len(rows), :n] = rows

    def refitter(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        resamples = settled_weights(resamples)
        shape = (len(which), len(resamples))
        out, good = np.empty(shape), np.empty(shape, dtype=np.bool_)
        part, fine = np.empty((len(which), LANES)), np.empty((len(which), LANES), dtype=np.bool_)
        tile, sums = np.empty((n, LANES), dtype=np.float32), np.empty((len(single), LANES))
        for begin_at in range(0, len(resamples), LANES):
            n_there = min(LANES, len(resamples) - begin_at)
            fill_tile(resamples, begin_at, tile)
            product(single, len(rows), every_cell, tile.reshape(-1), sums)
            sharing = (shared, in_basis, sums[: len(rows)].reshape(-1))
            _refit_tile(tile.reshape(-1), sharing, n_there, which, *prepared, part, fine)
            out[:, begin_at : begin_at + n_there] = part[:, :n_there]
            good[:, begin_at : begin_at + n_there] = fine[:, :n_there]
        marked = ~good
        refit_exactly(pairs, begin, resamples, which, marked, out)
        return out[:, :, None], marked.sum(axis=1)

    return refitter
