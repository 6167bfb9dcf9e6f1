"""Poisson fits of many pairs of a gene and a peak in the same cells, in one compiled call.

Pairs of a gene share its counts and its fit without a peak; that fit and the open cells of a peak give a start from
which Newton needs three or four passes over the cells. :func:`poisson.fit_prepared` says what every number means and
fits what is unusual here (separated dummies, collinear columns, steps that do not settle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.grams import cells_of, dot, gram, gram_of_peak, linear_predictor, totals
from enhancer_dask.stats.poisson import CONSTANT, CONVERGED, FIT_TOLERANCE, MAX_ITERATIONS, SEPARATED, standardised

Floats = NDArray[np.float64]

_UNUSUAL = -1  # left to fit_prepared
# Newton from the start taken here is done in 3-6 steps; what takes more, or longer ones, is worth the damped fit.
_MAX_STEPS, _LONGEST_STEP = 15, 5.0
# The damped fit and its rules decide long before a column is as collinear as poisson.ALIAS_TOLERANCE says.
_NEARLY_ALIASED = 1e-6


@dataclass(frozen=True, slots=True)
class PairFits:
    """Maximum-likelihood fits of L pairs."""

    coefficients: Floats
    """Intercept, slopes of the standardised covariates ``nuisance.z``, peak; shape (L, 1 + c + 1). Finite only where
    ``status`` is CONVERGED, and there -inf or +inf for a dummy without counts on one side."""
    beta: Floats
    """Coefficient of the peak, natural log, shape (L,); NaN or +-inf as :func:`poisson.fit_prepared` says."""
    se: Floats
    """Standard error of ``beta`` from the Fisher information, shape (L,); NaN where not CONVERGED."""
    status: NDArray[np.int64]
    """Codes of :mod:`enhancer_dask.stats.poisson`, shape (L,)."""


@compiled
def unusual_gene(rows, watched, counts):
    """Whether a dummy among the rows has no counts on one of its sides."""
    for j in watched:
        low, high = rows[j].min(), rows[j].max()
        above, below = 0.0, 0.0
        for i in range(counts.size):
            above += counts[i] if rows[j, i] > low else 0.0
            below += counts[i] if rows[j, i] < high else 0.0
        if above == 0.0 or below == 0.0:
            return True
    return False


@compiled
def _without_estimate(cells, values, counts):
    """Status and coefficient of a peak that is constant or separated; CONVERGED if it is neither."""
    low = 0.0 if cells.size < counts.size else values.min()
    high = values.max() if cells.size > 0 else 0.0
    if not low < high:
        return CONSTANT, np.nan
    everywhere, above, at_top = counts.sum(), 0.0, 0.0
    for i in range(cells.size):
        above += counts[cells[i]] if values[i] > low else 0.0
        at_top += counts[cells[i]] if values[i] == high else 0.0
    if above == 0.0:
        return SEPARATED, -np.inf
    if at_top == everywhere:
        return SEPARATED, np.inf
    return CONVERGED, 0.0


@compiled
def _outside(basis, cells, values):
    """Share of a peak's squared length outside the span of the orthonormal rows ``basis``."""
    whole, inside = dot(values, values), 0.0
    for j in range(basis.shape[0]):
        part = 0.0
        for i in range(cells.size):
            part += values[i] * basis[j, cells[i]]
        inside += part * part
    return 1.0 - inside / whole


@compiled
def _fit_null(rows, counts, offset, mean, info):
    """Fit the rows without a peak: coefficients; ``mean`` and ``info`` receive means and information there."""
    null, ones = np.zeros(rows.shape[0]), np.ones(counts.size)
    null[0] = np.log(counts.sum() / np.sum(np.exp(offset)))
    status, _ = poisson.newton(rows, counts, ones, offset, null, info, FIT_TOLERANCE, MAX_ITERATIONS)
    eta, scratch, coef = np.empty(counts.size), np.empty(counts.size), np.zeros(null.size + 1)
    coef[: null.size] = null
    linear_predictor(rows, np.empty(0, np.int64), np.empty((1, 0)), offset, coef, eta)
    exp_into(eta, mean, scratch)
    return null, status == CONVERGED


@compiled
def _start(rows, cells, opened, counts, null, null_mean, info, coef, scratch):
    """Newton's first step from the null fit, cut like a logarithm where it is long; all sums are over open cells."""
    k = rows.shape[0]
    gram_of_peak(cells, opened, null_mean, scratch, info)
    chol, pi = np.zeros((k, k)), np.empty(k)
    if not poisson._cholesky_solve(info[:k, :k], info[k, :k].copy(), chol, pi, _NEARLY_ALIASED):
        return False
    values, score = opened[0], 0.0
    for i in range(cells.size):
        score += values[i] * (counts[cells[i]] - null_mean[cells[i]])
    step = score / (info[k, k] - np.sum(info[k, :k] * pi))
    slope = np.log1p(step) if step > 0.0 else -np.log1p(-step)
    for j in range(k):
        coef[j] = null[j] - slope * pi[j]
    coef[k] = slope
    return True


@compiled
def _newton(rows, cells, opened, counts, sums, offset, coef, info, work):
    """Undamped Newton steps from ``coef``, in place; standard error of the peak, NaN where they do not settle.

    ``sums`` holds X'y. A stationary point is the maximum, since the likelihood is concave.
    """
    k = coef.size
    eta, mean, scratch = work[0], work[1], work[2]
    fitted, chol, step = np.empty(k), np.zeros((k, k)), np.empty(k)
    for _ in range(_MAX_STEPS):
        linear_predictor(rows, cells, opened, offset, coef, eta)
        exp_into(eta, mean, scratch)
        gram(rows, cells, opened, mean, scratch, info)
        fitted[:] = info[:, 0]  # the first row is ones
        if not poisson._cholesky_solve(info, sums - fitted, chol, step, _NEARLY_ALIASED):
            return np.nan
        size = np.max(np.abs(step))
        if not size < _LONGEST_STEP:
            return np.nan
        coef += step
        if size < FIT_TOLERANCE:
            return 1.0 / chol[k - 1, k - 1]  # the peak is last, so its pivot is what the others leave of it
    return np.nan


@compiled
def _fit_pairs(rows, basis, watched, offset, rna, atac, gene, peak, coefficients, se, status):
    """Fill the results pair by pair; only the null fit of a gene is kept from one pair to the next."""
    k, n = rows.shape
    work, info, null_mean, null_info = np.empty((3, n)), np.empty((k + 1, k + 1)), np.empty(n), np.empty((k, k))
    counts, null, sums = np.empty(n), np.empty(k), np.empty(k + 1)
    current, regular, fitted = -1, False, False
    for pair in range(gene.size):
        if gene[pair] != current:
            current, fitted = gene[pair], False
            counts[:] = rna[current]
            regular = not unusual_gene(rows, watched, counts)
        status[pair] = _UNUSUAL
        cells, opened = cells_of(atac[peak[pair]], rows)
        if not regular:
            continue
        code, limit = _without_estimate(cells, opened[0], counts)
        if code != CONVERGED:
            status[pair], coefficients[pair, k] = code, limit
            continue
        if not fitted:
            null, regular = _fit_null(rows, counts, offset, null_mean, null_info)
            fitted = True
        if not regular or _outside(basis, cells, opened[0]) < _NEARLY_ALIASED:
            continue
        for j in range(k):
            for m in range(j + 1):
                info[j, m] = null_info[j, m]
        coef = coefficients[pair]
        totals(rows, cells, opened, counts, sums)
        if _start(rows, cells, opened, counts, null, null_mean, info, coef, work[0]):
            se[pair] = _newton(rows, cells, opened, counts, sums, offset, coef, info, work)
        if np.isfinite(se[pair]):
            status[pair] = CONVERGED


def fit_pairs(
    rna: NDArray[Any],
    atac: NDArray[Any],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    nuisance: poisson.Nuisance,
) -> PairFits:
    """Fit ``rna[gene[i]] ~ 1 + covariates + atac[peak[i]]`` for every pair i.

    Parameters
    ----------
    rna : array, shape (G, n)
        Counts of the genes.
    atac : array, shape (P, n)
        Peaks as used: 0/1, or counts.
    gene, peak : integer arrays, shape (L,)
        Rows of the two; pairs of a gene that follow each other share its null fit. L may be 0.
    nuisance : poisson.Nuisance
        Covariates and offset of the n cells.

    Returns
    -------
    PairFits
        As :func:`poisson.fit_prepared` on each pair; the numbers of a pair do not depend on the others.

    Notes
    -----
    About 20 microseconds a pair at 2,600 cells and two covariates; memory is that of a few rows of cells.

    Examples
    --------
    >>> rna = np.array([[2, 0, 1, 4, 3, 5]])
    >>> atac = np.array([[0, 0, 0, 1, 1, 1]], dtype=np.uint8)
    >>> pairs = np.array([0])
    >>> fits = fit_pairs(rna, atac, pairs, pairs, poisson.make_nuisance(np.empty((6, 0))))
    >>> float(np.exp(fits.beta[0]).round(6)), float(fits.se[0].round(6))  # ratio of the means, (1/3 + 1/12)^(1/2)
    (4.0, 0.645497)
    """
    gene, peak = np.asarray(gene, dtype=np.int64), np.asarray(peak, dtype=np.int64)
    rows, watched = nuisance.design(np.empty((len(nuisance.z), 0))), nuisance.watched(0)
    k = rows.shape[0]
    coefficients, se = np.full((len(gene), k + 1), np.nan), np.full(len(gene), np.nan)
    status = np.full(len(gene), _UNUSUAL, dtype=np.int64)
    basis = orthonormal(rows)
    if basis is not None:
        _fit_pairs(rows, basis, watched, nuisance.offset, rna, atac, gene, peak, coefficients, se, status)
    for pair in np.flatnonzero(status == _UNUSUAL):
        fit = poisson.fit_prepared(rna[gene[pair]], np.asarray(atac[peak[pair]])[:, None], nuisance)
        status[pair], se[pair] = fit.status, fit.standard_errors[-1]
        coefficients[pair] = standardised(fit.coefficients, nuisance)
    beta = coefficients[:, -1].copy()
    coefficients[status != CONVERGED] = np.nan
    return PairFits(coefficients, beta, se, status)


def orthonormal(rows: Floats) -> Floats | None:
    """Orthonormal rows of the same span, shape (k, n); None if they are nearly collinear."""
    basis, upper = np.linalg.qr(rows.T)
    pivots, lengths = np.abs(np.diag(upper)), np.sqrt((rows**2).sum(axis=1))
    if not (pivots**2 > _NEARLY_ALIASED * lengths**2).all():
        return None
    return np.ascontiguousarray(basis.T)
