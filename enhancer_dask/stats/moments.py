"""Refits of resamples without a pass over the cells: the moments engine.

Fix a gene and its fit without peaks: means ``mu_i`` per cell. Cells with the same indicators and dummies form a
group g, and a resample with counts ``w_i`` has the Poisson likelihood

    sum_g  Y_g (x_g . delta) + Y_z . d  -  exp(x_g . delta) S_g(d),     S_g(d) = sum_{i in g} w_i mu_i exp(d . z_i),

where delta (of intercept, dummies and indicators) and d (of the other covariates z) count from that fit. They are small
in a resample, so ``S_g`` is expanded in d to a total degree D [1]_; its coefficients, moments of z, are one product of
features and resample counts for many resamples at once. Those of all cells serve every peak of the gene; a peak
costs the product over its open cells (or the closed ones, if fewer). Newton then runs on a few polynomials.

The neglected terms of degree above D have a bound per resample: with ``X = max_i |d . z_i|`` and D even,

    sum_i w_i mu_i (|d . z_i|^D / D! + |d . z_i|^(D+1) / (D+1)! + ...)  <=  H_D(d) / (1 - X / (D + 1)),

where ``H_D`` is the part of degree D of the polynomial (D odd: that of degree D - 1, times X / D). It bounds the error of
the score; the inverse information carries it to the coefficient, to first order. Resamples whose bound is above
``TOLERANCE``, or where Newton fails for whatever reason, are refitted exactly and counted.

References
----------
.. [1] Ours; exact profile likelihoods of Poisson regressions on categorical covariates are classical.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import uint64
from numpy.typing import NDArray
from scipy.special import factorial

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exact import Batch, Floats, Ints, Refitter, refit_exactly
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.monomials import monomials
from enhancer_dask.stats.shared_sums import basis

LANES = 128  # resamples that go through the kernels side by side; a multiple of the vector length
TOLERANCE = 5e-7  # on a coefficient; sums in single precision add about as much
REACH = 3.2  # standard deviations of a resample's coefficients that the degree is chosen for
MAX_DEGREE, MAX_TERMS = 12, 252
MAX_GROUPS = 32
MAX_NEWTON = 10
CONVERGED_STEP = 1e-4  # Newton's next step would be about its square
SHARE_TOLERANCE = 1e-8  # of the expected counts: what a shared basis may miss of a gene's sums

EXACT = -1  # degree of a test that the expansion does not serve


# -- once for a batch --------------------------------------------------------------------------------------


class Centres(NamedTuple):
    """Fits of the genes without peaks."""

    coefficients: Floats
    """Intercept and slopes, shape (G, 1 + c)."""
    mean: Floats
    """Expected counts, shape (G, n)."""
    inverse_spread: Floats
    """Inverse covariance of the slopes of continuous covariates over resamples, shape (G, c', c')."""
    tail: Floats
    """Weighted mean over cells of (sd of d . z)^D / D!, for each degree D, shape (G, MAX_DEGREE + 1)."""
    usable: NDArray[np.bool_]
    """Whether the fit exists, shape (G,)."""


def _centres(batch: Batch, continuous: Ints) -> Centres:
    """Fit every gene without peaks."""
    design = batch.nuisance.design(np.empty((batch.counts.shape[1], 0)))
    fits = [_centre(counts, design, batch.nuisance, continuous) for counts in batch.counts]
    return Centres(*(np.array(column) for column in zip(*fits, strict=True)))


def _centre(
    counts: Floats, design: Floats, nuisance: poisson.Nuisance, continuous: Ints
) -> tuple[Floats, Floats, Floats, Floats, bool]:
    k, n, c = *design.shape, len(continuous)
    beta, info = np.zeros(k), np.zeros((k, k))
    beta[0] = nuisance.null_intercept(counts)
    tolerances = poisson.FIT_TOLERANCE, poisson.MAX_ITERATIONS
    status, _ = poisson.newton(design, counts, np.ones(n), nuisance.offset, beta, info, *tolerances)
    eta = nuisance.offset.copy()
    for slope, row in zip(beta, design, strict=True):  # not as a matrix product, whose last bits depend on its threads
        eta += slope * row
    mean = np.exp(np.minimum(eta, 700.0))
    nothing = beta, mean, np.zeros((c, c)), np.zeros(MAX_DEGREE + 1), False
    if status != poisson.CONVERGED:
        return nothing
    inverse = np.linalg.inv(np.tril(info) + np.tril(info, -1).T)
    meat = np.einsum("jn,kn,n->jk", design, design, (counts - mean) ** 2)
    spread = (inverse @ meat @ inverse)[np.ix_(continuous, continuous)]
    if c and not np.linalg.det(spread) > 0.0:
        return nothing
    z = design[continuous]
    sd = np.sqrt(np.maximum(np.einsum("jn,jk,kn->n", z, spread, z), 0.0))
    degrees = np.arange(MAX_DEGREE + 1)
    share = mean / mean.sum()
    tail = np.array([(share * sd**degree).sum() for degree in degrees]) / factorial(degrees)
    return beta, mean, np.linalg.inv(spread), tail, True


class Groups(NamedTuple):
    """Cells by their values of indicators and dummies, for each distinct set of indicators in the batch."""

    of_test: Ints
    """Layout of each test, shape (T,)."""
    first: Ints
    """Groups ``first[l]`` to ``first[l + 1]`` belong to layout l; the largest comes first. Empty: too many groups."""
    values: Floats
    """Intercept, dummies, indicators of each group; shape (groups, p)."""
    bounds: Ints
    """Cells ``bounds[g]`` to ``bounds[g + 1]`` belong to group g; the largest group of a layout has none listed."""
    cells: NDArray[np.uint32]
    """Cells, ascending within a group."""


@compiled
def _classify(base, base_values, indicators, rows, code, values):
    """Number the groups of one layout; returns how many, or more than fit ``values`` (then the rest is void)."""
    n_groups = 0
    origin = np.empty(values.shape[0], dtype=np.int64)
    p0 = base_values.shape[1]
    for i in range(base.size):
        found = -1
        for g in range(n_groups):
            same = origin[g] == base[i]
            for j in range(rows.size):
                same = same and values[g, p0 + j] == indicators[rows[j], i]
            if same:
                found = g
                break
        if found < 0:
            if n_groups == values.shape[0]:
                return n_groups + 1
            found = n_groups
            origin[found] = base[i]
            values[found, :p0] = base_values[base[i]]
            for j in range(rows.size):
                values[found, p0 + j] = indicators[rows[j], i]
            n_groups += 1
        code[i] = found
    return n_groups


@compiled
def _layouts(base, base_values, indicators, layouts, max_groups):
    """Groups of every layout; see :class:`Groups`."""
    n, p = base.size, base_values.shape[1] + layouts.shape[1]
    first = np.zeros(layouts.shape[0] + 1, dtype=np.int64)
    all_values = np.empty((layouts.shape[0] * max_groups, p))
    bounds = np.zeros(layouts.shape[0] * max_groups + 1, dtype=np.int64)
    cells = np.empty(n, dtype=np.uint32)
    code, values = np.empty(n, dtype=np.int64), np.empty((max_groups, p))
    for layout in range(layouts.shape[0]):
        g0 = first[layout]
        n_groups = _classify(base, base_values, indicators, layouts[layout], code, values)
        if n_groups > max_groups:
            first[layout + 1] = g0
            continue
        size = np.zeros(n_groups, dtype=np.int64)
        for i in range(n):
            size[code[i]] += 1
        largest = np.argmax(size)
        end = bounds[g0]
        if end + n > cells.size:
            grown = np.empty(2 * cells.size + n, dtype=np.uint32)
            grown[:end] = cells[:end]
            cells = grown
        g = g0
        all_values[g] = values[largest]
        bounds[g + 1] = end
        for group in range(n_groups):
            if group == largest:
                continue
            g += 1
            all_values[g] = values[group]
            for i in range(n):
                if code[i] == group:
                    cells[end] = i
                    end += 1
            bounds[g + 1] = end
        first[layout + 1] = g + 1
    total = first[-1]
    return first, all_values[:total].copy(), bounds[: total + 1].copy(), cells[: bounds[total]].copy()


def _groups(batch: Batch) -> Groups:
    z, two_valued = batch.nuisance.z, batch.nuisance.two_valued
    dummies, base = np.unique(z[:, two_valued], axis=0, return_inverse=True)
    layouts, of_test = np.unique(batch.peak, axis=0, return_inverse=True)
    base_values = np.column_stack([np.ones(len(dummies)), dummies])
    made = _layouts(base.reshape(-1), base_values, batch.indicators, layouts, MAX_GROUPS)
    return Groups(of_test.reshape(-1), *made)


def _degrees(batch: Batch, centres: Centres, groups: Groups, largest_z: Floats, shift: Floats) -> Ints:
    """Degree of the expansion for each test, so that resamples within ``REACH`` standard deviations keep the bound."""
    c = len(largest_z)
    inverse = centres.inverse_spread[batch.gene]
    radius = REACH + np.sqrt(np.maximum(np.einsum("tj,tjk,tk->t", shift, inverse, shift), 0.0))
    powers = radius[:, None] ** np.arange(MAX_DEGREE + 1)
    # 0.3: how far apart open and closed cells usually lie in a covariate, in standard deviations
    bound = centres.tail[batch.gene] * powers * 0.3 * max(1.0, largest_z.max(initial=0.0))
    fits = bound <= TOLERANCE
    degree = np.where(fits.any(axis=1), np.argmax(fits, axis=1), EXACT) if c else np.zeros(len(shift), dtype=np.int64)
    degree = np.where(degree > _highest_degree(c), EXACT, np.maximum(degree, min(c, 1) * 2))
    n_groups = np.diff(groups.first)[groups.of_test]
    usable = centres.usable[batch.gene] & (n_groups > 0) & np.isfinite(radius)
    return np.where(usable, degree, EXACT).astype(np.int64)


def _highest_degree(n_variables: int) -> int:
    degree = 0
    while degree < MAX_DEGREE and len(monomials(n_variables, degree + 1).axis) <= MAX_TERMS:
        degree += 1
    return degree


# -- kernels over a tile of LANES resamples ----------------------------------------------------------------
# Loops run over lanes innermost; their index is unsigned, since the check for negative ones stops vectorisation.


@compiled
def _fill_tile(resamples, start, tile):
    """Resamples ``start`` onwards as columns of ``tile``, shape (n, LANES); missing ones become all ones."""
    n_there = min(LANES, resamples.shape[0] - start)
    tile[:, n_there:] = 1.0
    for i in range(tile.shape[0]):
        for r in range(n_there):
            tile[i, r] = resamples[start + r, i]


@compiled
def _features(mean, z, cells, n_terms, exponents, parent, axis, work, features):
    """Write ``mu z^a / a!`` of some cells to ``features[:n_terms]``, in single precision, filled up with zeros to a
    multiple of 4 cells.
    """
    n_cells = cells.size
    for k in range(n_cells):
        work[0, k] = mean[cells[k]]
        features[0, k] = work[0, k]
    row = np.empty(n_cells)
    last = -1
    for m in range(1, n_terms):
        if axis[m] != last:
            last = axis[m]
            for k in range(n_cells):
                row[k] = z[last, cells[k]]
        scale, source, target, single = 1.0 / exponents[m, last], work[parent[m]], work[m], features[m]
        for k in range(n_cells):
            target[k] = scale * source[k] * row[k]
            single[k] = target[k]
    work[:n_terms, n_cells : n_cells + 3] = 0.0
    features[:n_terms, n_cells : n_cells + 3] = 0.0


@compiled(fastmath=FASTMATH)
def _product(features, n_rows, cells, tile, out):
    """``out[:n_rows] = features @ tile[cells]`` in the precision of ``tile``, summed up in double every 64 cells.

    ``tile`` is flat, LANES numbers per cell. Rows go four at a time and cells four at a time, which keeps the multipliers busy; rows up to a
    multiple of four are read and written. Every number of ``out`` is summed in the same order whatever else is there.
    """
    lanes = uint64(LANES)
    n = cells.size
    p0, p1 = np.empty(LANES, tile.dtype), np.empty(LANES, tile.dtype)
    p2, p3 = np.empty(LANES, tile.dtype), np.empty(LANES, tile.dtype)
    for j in range(0, n_rows, 4):
        out[j : j + 4] = 0.0
        for k0 in range(0, n, 64):
            for b in range(lanes):
                p0[b] = 0.0
                p1[b] = 0.0
                p2[b] = 0.0
                p3[b] = 0.0
            for k in range(k0, min(k0 + 64, n), 4):
                c0 = uint64(cells[k]) * lanes
                c1 = uint64(cells[min(k + 1, n - 1)]) * lanes
                c2 = uint64(cells[min(k + 2, n - 1)]) * lanes
                c3 = uint64(cells[min(k + 3, n - 1)]) * lanes
                f00, f01, f02, f03 = features[j, k], features[j, k + 1], features[j, k + 2], features[j, k + 3]
                f10, f11, f12, f13 = features[j + 1, k], features[j + 1, k + 1], features[j + 1, k + 2], features[j + 1, k + 3]
                f20, f21, f22, f23 = features[j + 2, k], features[j + 2, k + 1], features[j + 2, k + 2], features[j + 2, k + 3]
                f30, f31, f32, f33 = features[j + 3, k], features[j + 3, k + 1], features[j + 3, k + 2], features[j + 3, k + 3]
                for b in range(lanes):
                    w0, w1, w2, w3 = tile[c0 + b], tile[c1 + b], tile[c2 + b], tile[c3 + b]
                    p0[b] += f00 * w0 + f01 * w1 + f02 * w2 + f03 * w3
                    p1[b] += f10 * w0 + f11 * w1 + f12 * w2 + f13 * w3
                    p2[b] += f20 * w0 + f21 * w1 + f22 * w2 + f23 * w3
                    p3[b] += f30 * w0 + f31 * w1 + f32 * w2 + f33 * w3
            for b in range(lanes):
                out[j, b] += p0[b]
                out[j + 1, b] += p1[b]
                out[j + 2, b] += p2[b]
                out[j + 3, b] += p3[b]


@compiled(fastmath=FASTMATH)
def _evaluate(moment, n_terms, n_last, power, exponents, lowered, value, gradient, hessian, last):
    """Polynomial, derivatives and the part of the terms from ``n_last`` on to ``last``, in every lane."""
    lanes = uint64(LANES)
    c = exponents.shape[1]
    value[:] = 0.0
    gradient[:] = 0.0
    hessian[:] = 0.0
    last[:] = 0.0
    for m in range(n_terms):
        coefficient, whole = moment[m], power[m]
        for b in range(lanes):
            value[b] += coefficient[b] * whole[b]
        if n_last[0] <= m < n_last[1]:
            for b in range(lanes):
                last[b] += coefficient[b] * whole[b]
        for j in range(c):
            once = lowered[m, j]
            if once < 0:
                continue
            factor, part, into = float(exponents[m, j]), power[once], gradient[j]
            for b in range(lanes):
                into[b] += factor * coefficient[b] * part[b]
            for k in range(j + 1):
                twice = lowered[once, k]
                if twice < 0:
                    continue
                both, part2, into2 = factor * exponents[once, k], power[twice], hessian[j * (j + 1) // 2 + k]
                for b in range(lanes):
                    into2[b] += both * coefficient[b] * part2[b]


@compiled(fastmath=FASTMATH)
def _powers(d, n_terms, parent, axis, power):
    lanes = uint64(LANES)
    power[0] = 1.0
    for m in range(1, n_terms):
        source, factor, target = power[parent[m]], d[axis[m]], power[m]
        for b in range(lanes):
            target[b] = source[b] * factor[b]


@compiled
def _factor(info, size, good):
    """Cholesky factor of ``info``, shape (size, size, LANES), in its lower triangle; marks lanes without one."""
    lanes = uint64(LANES)
    pivot = np.empty(LANES)
    for j in range(size):
        for b in range(lanes):
            pivot[b] = info[j, j, b]
        for m in range(j):
            for b in range(lanes):
                pivot[b] -= info[j, m, b] * info[j, m, b]
        for b in range(lanes):
            fine = pivot[b] > poisson.ALIAS_TOLERANCE * info[j, j, b]
            good[b] = good[b] and fine
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
    """Solve in place for ``right``, shape (size, LANES), given the Cholesky factor."""
    lanes = uint64(LANES)
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
def _score(moment, n_terms, n_last, y, y_z, values, theta, table, group, score, info):
    """Score and information of (delta, d) in every lane; keeps each group's part for the bound.

    ``theta`` is (p + c, LANES), ``group`` holds per group: value * rate, gradient * rate, last * rate.
    """
    lanes = uint64(LANES)
    exponents, parent, axis, lowered = table
    n_groups, p = values.shape
    c = exponents.shape[1]
    power = np.empty((n_terms, LANES))
    _powers(theta[p:], n_terms, parent, axis, power)
    hessian = np.empty((c * (c + 1) // 2, LANES))
    eta, rate, scratch = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    score[:p] = 0.0
    score[p:] = y_z
    info[:] = 0.0
    for g in range(n_groups):
        value, gradient, last = group[g, 0], group[g, 1 : 1 + c], group[g, 1 + c]
        _evaluate(moment[g], n_terms, n_last, power, exponents, lowered, value, gradient, hessian, last)
        eta[:] = 0.0
        for a in range(p):
            for b in range(lanes):
                eta[b] += values[g, a] * theta[a, b]
        exp_into(eta, rate, scratch)
        group[g] *= rate
        for a in range(p):
            x = values[g, a]
            if x == 0.0:
                continue
            for b in range(lanes):
                score[a, b] += x * (y[g, b] - value[b])
            for m in range(a + 1):
                xx = x * values[g, m]
                if xx != 0.0:
                    for b in range(lanes):
                        info[a, m, b] += xx * value[b]
            for j in range(c):
                for b in range(lanes):
                    info[p + j, a, b] += x * gradient[j, b]
        for j in range(c):
            for b in range(lanes):
                score[p + j, b] -= gradient[j, b]
            for k in range(j + 1):
                curve = hessian[j * (j + 1) // 2 + k]
                for b in range(lanes):
                    info[p + j, p + k, b] += rate[b] * curve[b]


@compiled
def _newton(moment, n_terms, n_last, y, y_z, values, theta, table, group, info, good):
    """Newton in every lane until it has converged; a lane's steps do not depend on its neighbours."""
    lanes = uint64(LANES)
    size = theta.shape[0]
    score, largest = np.empty((size, LANES)), np.empty(LANES)
    moving = np.ones(LANES, dtype=np.bool_)
    for _ in range(MAX_NEWTON):
        _score(moment, n_terms, n_last, y, y_z, values, theta, table, group, score, info)
        _factor(info, size, good)
        _solve(info, size, score)
        largest[:] = 0.0
        for j in range(size):
            for b in range(lanes):
                largest[b] = max(largest[b], abs(score[j, b]))
                theta[j, b] += score[j, b] if moving[b] and good[b] else 0.0
        n_moving = 0
        for b in range(lanes):
            good[b] = good[b] and largest[b] < 30.0  # false for NaN, too
            moving[b] = moving[b] and good[b] and not largest[b] < CONVERGED_STEP
            n_moving += moving[b]
        if n_moving == 0:
            return
    for b in range(lanes):
        good[b] = good[b] and not moving[b]


@compiled
def _certify(degree, theta, values, group, factor, first, largest_z, good):
    """Unmark lanes where the neglected terms may move an indicator's coefficient by more than ``TOLERANCE``."""
    lanes = uint64(LANES)
    n_groups, p = values.shape
    c, size = largest_z.size, theta.shape[0]
    reach, tail = np.zeros(LANES), np.empty((n_groups, LANES))
    for j in range(c):
        for b in range(lanes):
            reach[b] += abs(theta[p + j, b]) * largest_z[j]
    for g in range(n_groups):
        for b in range(lanes):
            within = 1.0 - reach[b] / (degree + 1.0)
            top = abs(group[g, 1 + c, b]) * (1.0 if degree % 2 == 0 else reach[b] / degree)
            tail[g, b] = top / within if within > 0.1 else np.inf
    right, error = np.empty((size, LANES)), np.empty(LANES)
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
            good[b] = good[b] and error[b] <= TOLERANCE


@compiled
def _count_sums(counts, z, tile, features, out):
    """Counts times (1, z), summed over cells."""
    expressed = np.flatnonzero(counts).astype(np.uint32)
    for k in range(expressed.size):
        cell = expressed[k]
        features[0, k] = counts[cell]
        for j in range(z.shape[0]):
            features[1 + j, k] = counts[cell] * z[j, cell]
    features[: 1 + z.shape[0], expressed.size : expressed.size + 3] = 0.0
    _product(features, 1 + z.shape[0], expressed, tile, out)


@compiled
def _share(mean, z, basis_rows, basis_tile, degree, reach, table, n_terms_to, coefficients, shared):
    """Coefficients of each gene's moments in the shared basis, and the degree up to which it holds them.

    A term of degree k weighs ``reach ** (k - 1)`` in the score; what the basis misses of it, summed over cells, must be
    below ``SHARE_TOLERANCE`` of the expected counts.
    """
    exponents, parent, axis, _ = table
    n_rows, n = n_terms_to[-1] + 4, z.shape[1]
    work, features = np.empty((n_rows, n + 4)), np.empty((n_rows, n + 4), dtype=np.float32)
    everything, rest = np.arange(n).astype(np.uint32), np.empty(n)
    for gene in range(mean.shape[0]):
        if degree[gene] < 0:
            continue
        n_terms = n_terms_to[degree[gene]]
        _features(mean[gene], z, everything, n_terms, exponents, parent, axis, work, features)
        _product(work, n_terms, everything, basis_tile, coefficients[gene])
        allowed = SHARE_TOLERANCE * np.sum(mean[gene])
        shared[gene] = degree[gene]
        for m in range(n_terms):
            rest[:] = work[m, :n]
            for k in range(basis_rows.shape[0]):
                rest -= coefficients[gene, m, k] * basis_rows[k]
            order = np.sum(exponents[m])
            if not np.sum(np.abs(rest)) * max(1, order) * reach[gene] ** max(0, order - 1) <= allowed:
                shared[gene] = order - 1
                break


@compiled
def _highest_degrees(tests, degree, shared):
    """Highest degree among tests that take their gene's moments from the basis, and among those that do not."""
    by_basis, by_cells = EXACT, EXACT
    for k in range(tests.size):
        if degree[tests[k]] <= shared:
            by_basis = max(by_basis, degree[tests[k]])
        else:
            by_cells = max(by_cells, degree[tests[k]])
    return by_basis, by_cells


@compiled
def _refit_tile(
    tile, sharing, n_there, which, gene, counts, mean, z, groups, degree, start, table, n_terms_to, largest_z, first,
    out, good,
):  # fmt: skip
    """Coefficients of the tests' indicators in one tile of resamples; ``good`` marks what can be relied on."""
    exponents, parent, axis, _ = table
    shared, in_basis, sums = sharing
    layout_of, group_first, group_values, group_bounds, group_cells = groups
    n, c, p = counts.shape[1], z.shape[0], group_values.shape[1]
    n_rows = n_terms_to[-1] + c + 8
    work, features = np.empty((n_rows, n + 4)), np.zeros((n_rows, n + 4), dtype=np.float32)
    from_basis, from_cells, y_sums = np.empty((n_rows, LANES)), np.empty((n_rows, LANES)), np.empty((c + 5, LANES))
    info, theta = np.empty((p + c, p + c, LANES)), np.empty((p + c, LANES))
    every_cell, basis_rows = np.arange(n).astype(np.uint32), np.arange(sums.size // LANES).astype(np.uint32)
    fine = np.empty(LANES, dtype=np.bool_)
    done = -1
    for a in range(which.size):
        test = which[a]
        good[a] = False
        if degree[test] < 0:
            continue
        if gene[test] != done:
            done = gene[test]
            end = a
            while end < which.size and gene[which[end]] == done:
                end += 1
            by_basis, by_cells = _highest_degrees(which[a:end], degree, shared[done])
            _count_sums(counts[done], z, tile, features, y_sums)
            if by_basis >= 0:
                _product(in_basis[done], n_terms_to[by_basis], basis_rows, sums, from_basis)
            if by_cells >= 0:
                n_terms = n_terms_to[by_cells]
                _features(mean[done], z, every_cell, n_terms, exponents, parent, axis, work, features)
                _product(features, n_terms, every_cell, tile, from_cells)
        all_moments = from_basis if degree[test] <= shared[done] else from_cells
        n_terms = n_terms_to[degree[test]]
        top = degree[test] - degree[test] % 2  # the highest even degree
        n_last = (n_terms_to[top - 1] if top > 0 else 0, n_terms_to[top])
        g0, g1 = group_first[layout_of[test]], group_first[layout_of[test] + 1]
        values = group_values[g0:g1]
        moments, y = np.empty((g1 - g0, n_terms + 5, LANES)), np.empty((g1 - g0, LANES))
        moments[0, :n_terms] = all_moments[:n_terms]
        y[0] = y_sums[0]
        for g in range(1, g1 - g0):
            cells = group_cells[group_bounds[g0 + g] : group_bounds[g0 + g + 1]]
            _features(mean[done], z, cells, n_terms, exponents, parent, axis, work, features)
            for k in range(cells.size):
                features[n_terms, k] = counts[done, cells[k]]
            features[n_terms, cells.size : cells.size + 3] = 0.0
            _product(features, n_terms + 1, cells, tile, moments[g])
            moments[0, :n_terms] -= moments[g, :n_terms]
            y[g] = moments[g, n_terms]
            y[0] -= y[g]
        for j in range(p + c):
            theta[j] = start[test, j]
        fine[:] = True
        group = np.empty((g1 - g0, 2 + c, LANES))
        _newton(moments, n_terms, n_last, y, y_sums[1 : 1 + c], values, theta, table, group, info, fine)
        _certify(degree[test], theta, values, group, info, first, largest_z, fine)
        good[a] = fine[:n_there]
        for j in range(first, p):
            out[a, :, j - first] = theta[j, :n_there]


# -- the engine --------------------------------------------------------------------------------------------


def moments_engine(batch: Batch) -> Refitter:
    """Newton on expansions of the likelihood, certified per resample; exact refits where the bound does not hold.

    Covariates of two values (dummies), indicators and their products are taken exactly, by groups of cells.
    """
    z_all, two_valued = batch.nuisance.z, batch.nuisance.two_valued
    z, discrete = np.ascontiguousarray(z_all[:, ~two_valued].T), np.flatnonzero(two_valued)
    continuous = np.flatnonzero(~two_valued)
    n, c, k = z.shape[1], len(z), 1 + z_all.shape[1]
    centres = _centres(batch, 1 + continuous)
    groups = _groups(batch)
    from_centre = batch.start.copy()
    from_centre[:, :k] -= centres.coefficients[batch.gene]
    largest_z = np.abs(z).max(axis=1, initial=0.0)
    degree = _degrees(batch, centres, groups, largest_z, from_centre[:, 1 + continuous])
    table = monomials(c, max(0, int(degree.max(initial=0))))
    rows = basis(z, batch.nuisance.offset, LANES) if not len(discrete) else np.empty((0, n))
    shared, in_basis = _sharing(centres, z, rows, degree, batch.gene, tuple(table[:4]), table.n_terms)
    q = batch.peak.shape[1]
    order = np.concatenate([[0], 1 + discrete, np.arange(k, k + q), 1 + continuous])
    prepared = (
        batch.gene, batch.counts, centres.mean, z, tuple(groups), degree, np.ascontiguousarray(from_centre[:, order]),
        tuple(table[:4]), table.n_terms, largest_z, 1 + len(discrete),
    )  # fmt: skip
    every_cell, single = np.arange(n, dtype=np.uint32), np.zeros((len(rows) + 4, n + 4), dtype=np.float32)
    single[: len(rows), :n] = rows

    def refitter(resamples: NDArray[np.integer], which: Ints) -> tuple[Floats, Ints]:
        resamples = np.ascontiguousarray(resamples, dtype=np.uint16)
        n_resamples = len(resamples)
        out = np.empty((len(which), n_resamples, q))
        good = np.empty((len(which), n_resamples), dtype=np.bool_)
        tile, sums = np.empty((n, LANES), dtype=np.float32), np.empty((len(single), LANES))
        for start in range(0, n_resamples, LANES):
            part = slice(start, min(start + LANES, n_resamples))
            _fill_tile(resamples, start, tile)
            _product(single, len(rows), every_cell, tile.reshape(-1), sums)
            sharing = (shared, in_basis, sums[: len(rows)].reshape(-1))
            _refit_tile(tile.reshape(-1), sharing, part.stop - start, which, *prepared, out[:, part], good[:, part])
        marked = ~good
        refit_exactly(batch, resamples, which, marked, out)
        return out, marked.sum(axis=1)

    return refitter


def _sharing(
    centres: Centres, z: Floats, rows: Floats, degree: Ints, gene: Ints, table: tuple[Any, ...], n_terms_to: Ints
) -> tuple[Ints, Floats]:
    """Up to which degree the basis holds each gene's moments, and their coefficients in it."""
    n_genes, (c, n) = len(centres.mean), z.shape
    shared = np.full(n_genes, EXACT)
    in_basis = np.zeros((n_genes if len(rows) else 0, n_terms_to[-1] + 4, LANES))
    if len(rows):
        wanted = np.full(n_genes, EXACT)
        np.maximum.at(wanted, gene, degree)
        tile = np.zeros((n, LANES))
        tile[:, : len(rows)] = rows.T
        spread = np.diagonal(np.linalg.inv(np.where(centres.usable[:, None, None], centres.inverse_spread, np.eye(c))), axis1=1, axis2=2)
        reach = REACH * np.sqrt(spread.max(axis=1, initial=0.0))
        _share(centres.mean, z, rows, tile.reshape(-1), wanted, reach, table, n_terms_to, in_basis, shared)
    return shared, in_basis
