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

where ``H_D`` is the part of degree D of the polynomial (D odd: that of degree D - 1, times X / D). It bounds the
error of the score; the inverse information carries it to the coefficient, to first order. Resamples whose bound is
above ``TOLERANCE``, or where Newton fails for whatever reason, are refitted exactly and counted.

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
from enhancer_dask.stats.cell_groups import Groups, groups_of
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exact import Batch, Floats, Ints, Refitter, refit_exactly, settled_weights
from enhancer_dask.stats.lanes import WIDTH, certify, newton
from enhancer_dask.stats.monomials import Monomials, monomials
from enhancer_dask.stats.products import LANES, features_of, fill_tile, product
from enhancer_dask.stats.shared_sums import basis

TOLERANCE = 5e-7  # on a coefficient; sums in single precision add about as much
REACH = 3.2  # standard deviations of a resample's coefficients that the degree is chosen for
MAX_DEGREE, MAX_TERMS = 12, 252
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


class Plan(NamedTuple):
    """What is settled once for a batch, whoever computes the products; c' covariates are continuous."""

    z: Floats
    """Continuous covariates, shape (c', n)."""
    centres: Centres
    """Fits of the genes without peaks."""
    groups: Groups
    """Cells by dummies and indicators."""
    degree: Ints
    """Degree of the expansion for each test, shape (T,); ``EXACT`` where it does not serve."""
    start: Floats
    """First (delta, d) of Newton: intercept, dummies, indicators, slopes of ``z``; shape (T, p + c')."""
    largest_z: Floats
    """Largest absolute value of each row of ``z``, shape (c',)."""
    first: int
    """Place of the first indicator in (delta, d)."""

    @property
    def monomials(self) -> Monomials:
        """Terms up to the highest degree of a test."""
        return monomials(len(self.z), max(0, int(self.degree.max(initial=0))))


def prepare(batch: Batch) -> Plan:
    """Fit the genes without peaks, group the cells, choose the degrees."""
    two_valued, k, q = batch.nuisance.two_valued, 1 + batch.nuisance.z.shape[1], batch.peak.shape[1]
    discrete, continuous = np.flatnonzero(two_valued), np.flatnonzero(~two_valued)
    z = np.ascontiguousarray(batch.nuisance.z[:, continuous].T)
    centres, groups = _centres(batch, 1 + continuous), groups_of(batch)
    from_centre = batch.start.copy()
    from_centre[:, :k] -= centres.coefficients[batch.gene]
    largest_z = np.abs(z).max(axis=1, initial=0.0)
    degree = _degrees(batch, centres, groups, largest_z, from_centre[:, 1 + continuous])
    order = np.concatenate([[0], 1 + discrete, np.arange(k, k + q), 1 + continuous])
    start = np.ascontiguousarray(from_centre[:, order])
    return Plan(z, centres, groups, degree, start, largest_z, 1 + len(discrete))


def _table(table: Monomials) -> tuple[Ints, Ints, Ints, Ints]:
    """Exponents, parent and axis of the terms, and which moment goes with power m in the value and each derivative."""
    n_terms, c = table.exponents.shape
    once = table.raised  # (terms below the highest degree, c)
    index = [np.arange(n_terms), *once.T]
    for j in range(c):
        for k in range(j + 1):
            lower = np.flatnonzero(once[:, j] < len(once))  # those that can be raised once more
            index.append(once[once[lower, j], k])
    padded = np.zeros((len(index), n_terms), dtype=np.int64)
    for row, values in zip(padded, index, strict=True):
        row[: len(values)] = values
    return table.exponents, table.parent, table.axis, padded


def _highest_degree(n_variables: int) -> int:
    degree = 0
    while degree < MAX_DEGREE and len(monomials(n_variables, degree + 1).axis) <= MAX_TERMS:
        degree += 1
    return degree


# -- kernels ------------------------------------------------------------------------------------------------


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
    product(features, 1 + z.shape[0], expressed, tile, out)


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
        features_of(mean[gene], z, everything, n_terms, parent, axis, work, features)
        product(work, n_terms, everything, basis_tile, coefficients[gene])
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
def _gather(all_moments, y_sums, moments, n_terms, b0, compact, y, y_z):
    """Some lanes of the groups' moments and counts, close together; the first group is what the others leave of all."""
    width = uint64(WIDTH)
    first = uint64(b0)
    for b in range(width):
        y[0, b] = y_sums[0, first + b]
    for m in range(n_terms):
        term = uint64(m)
        for b in range(width):
            compact[0, term, b] = all_moments[term, first + b]
    for g in range(1, compact.shape[0]):
        this, listed, last = uint64(g), uint64(g - 1), uint64(n_terms)
        for m in range(n_terms):
            term = uint64(m)
            for b in range(width):
                value = moments[listed, term, first + b]
                compact[this, term, b] = value
                compact[0, term, b] -= value
        for b in range(width):
            y[this, b] = moments[listed, last, first + b]
            y[0, b] -= y[this, b]
    for j in range(y_z.shape[0]):
        row, source = uint64(j), uint64(1 + j)
        for b in range(width):
            y_z[row, b] = y_sums[source, first + b]


@compiled
def _refit_tile(
    tile, sharing, n_there, which, gene, counts, mean, z, groups, degree, start, table, n_terms_to, largest_z, first,
    out, good,
):  # fmt: skip
    """Coefficients of the tests' indicators in one tile of resamples; ``good`` marks what can be relied on."""
    _, parent, axis, _ = table
    shared, in_basis, sums = sharing
    layout_of, group_first, group_values, group_bounds, group_cells = groups
    n, c, p = counts.shape[1], z.shape[0], group_values.shape[1]
    n_rows = n_terms_to[-1] + c + 8
    work, features = np.empty((n_rows, n + 4)), np.zeros((n_rows, n + 4), dtype=np.float32)
    from_basis, from_cells, y_sums = np.empty((n_rows, LANES)), np.empty((n_rows, LANES)), np.empty((c + 5, LANES))
    info, theta = np.empty((p + c, p + c, WIDTH)), np.empty((p + c, WIDTH))
    every_cell, basis_rows = np.arange(n).astype(np.uint32), np.arange(sums.size // LANES).astype(np.uint32)
    fine = np.empty(WIDTH, dtype=np.bool_)
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
                product(in_basis[done], n_terms_to[by_basis], basis_rows, sums, from_basis)
            if by_cells >= 0:
                n_terms = n_terms_to[by_cells]
                features_of(mean[done], z, every_cell, n_terms, parent, axis, work, features)
                product(features, n_terms, every_cell, tile, from_cells)
        all_moments = from_basis if degree[test] <= shared[done] else from_cells
        n_terms = n_terms_to[degree[test]]
        n_each = (n_terms, n_terms_to[max(0, degree[test] - 1)], n_terms_to[max(0, degree[test] - 2)])
        top = degree[test] - degree[test] % 2  # the highest even degree
        n_last = (n_terms_to[top - 1] if top > 0 else 0, n_terms_to[top])
        g0, g1 = group_first[layout_of[test]], group_first[layout_of[test] + 1]
        values = group_values[g0:g1]
        n_groups = g1 - g0
        moments = np.empty((n_groups - 1, n_terms + 5, LANES))
        for g in range(1, n_groups):
            cells = group_cells[group_bounds[g0 + g] : group_bounds[g0 + g + 1]]
            features_of(mean[done], z, cells, n_terms, parent, axis, work, features)
            for k in range(cells.size):
                features[n_terms, k] = counts[done, cells[k]]
            features[n_terms, cells.size : cells.size + 3] = 0.0
            product(features, n_terms + 1, cells, tile, moments[g - 1])
        compact, y = np.empty((n_groups, n_terms, WIDTH)), np.empty((n_groups, WIDTH))
        y_z, group = np.empty((c, WIDTH)), np.empty((n_groups, 2 + c, WIDTH))
        for b0 in range(0, n_there, WIDTH):
            _gather(all_moments, y_sums, moments, n_terms, b0, compact, y, y_z)
            for j in range(p + c):
                theta[j] = start[test, j]
            fine[:] = True
            newton(compact, n_each, n_last, y, y_z, values, theta, table, group, info, fine)
            certify(degree[test], theta, values, group, info, first, largest_z, TOLERANCE, fine)
            for b in range(min(WIDTH, n_there - b0)):
                good[a, b0 + b] = fine[b]
                for j in range(first, p):
                    out[a, b0 + b, j - first] = theta[j, b]


# -- the engine --------------------------------------------------------------------------------------------


def moments_engine(batch: Batch) -> Refitter:
    """Newton on expansions of the likelihood, certified per resample; exact refits where the bound does not hold.

    Covariates of two values (dummies), indicators and their products are taken exactly, by groups of cells.
    """
    plan = prepare(batch)
    z, mean, degree = plan.z, plan.centres.mean, plan.degree
    n, q = z.shape[1], batch.peak.shape[1]
    terms, n_terms_to = _table(plan.monomials), plan.monomials.n_terms
    rows = basis(z, batch.nuisance.offset, LANES) if plan.first == 1 else np.empty((0, n))  # 1: there are no dummies
    shared, in_basis = _sharing(plan.centres, z, rows, degree, batch.gene, terms, n_terms_to)
    prepared = (
        batch.gene, batch.counts, mean, z, tuple(plan.groups), degree, plan.start, terms, n_terms_to, plan.largest_z,
        plan.first,
    )  # fmt: skip
    every_cell, single = np.arange(n, dtype=np.uint32), np.zeros((len(rows) + 4, n + 4), dtype=np.float32)
    single[: len(rows), :n] = rows

    def refitter(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        resamples = settled_weights(resamples)
        n_resamples = len(resamples)
        out, part = np.empty((len(which), n_resamples, q)), np.empty((len(which), LANES, q))
        good, fine = np.empty((len(which), n_resamples), dtype=np.bool_), np.empty((len(which), LANES), dtype=np.bool_)
        tile, sums = np.empty((n, LANES), dtype=np.float32), np.empty((len(single), LANES))
        for start in range(0, n_resamples, LANES):
            n_there = min(LANES, n_resamples - start)
            fill_tile(resamples, start, tile)
            product(single, len(rows), every_cell, tile.reshape(-1), sums)
            sharing = (shared, in_basis, sums[: len(rows)].reshape(-1))
            _refit_tile(tile.reshape(-1), sharing, n_there, which, *prepared, part, fine)
            out[:, start : start + n_there] = part[:, :n_there]
            good[:, start : start + n_there] = fine[:, :n_there]
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
        spread = np.diagonal(
            np.linalg.inv(np.where(centres.usable[:, None, None], centres.inverse_spread, np.eye(c))), axis1=1, axis2=2
        )
        reach = REACH * np.sqrt(spread.max(axis=1, initial=0.0))
        _share(centres.mean, z, rows, tile.reshape(-1), wanted, reach, table, n_terms_to, in_basis, shared)
    return shared, in_basis
