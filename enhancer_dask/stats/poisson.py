"""Poisson regression with log link, offset and integer case weights, by damped Newton steps.

One compiled fit serves the original sample (all weights 1) and the bootstrap (weights = how often each cell
was drawn). The first column of the design is the intercept, then covariates, then indicators (the peaks).

A maximum need not exist. Three cases are told apart before any step is taken, per indicator and per covariate of
two values (a dummy):

* it is constant in the cells at hand: it is not estimable, coefficient NaN;
* no counts in the cells above its smallest value (no counts in open cells): the likelihood grows for ever as
  the coefficient falls, coefficient -inf;
* no counts in the cells below its largest value (counts in open cells alone): coefficient +inf.

Separated cells (those above or below) then have mean zero and carry no information on the other
coefficients, so they leave the fit, and so does the column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exponential import exp_into

Floats = NDArray[np.float64]

MAX_ITERATIONS = 50
# A Newton step below this (standardised covariates, log scale) leaves an error of about its square.
STEP_TOLERANCE = 1e-4
FIT_TOLERANCE = 1e-8
# A column whose squared length outside the span of its predecessors is below this share of the whole is aliased.
ALIAS_TOLERANCE = 1e-9

CONVERGED, NOT_CONVERGED, SEPARATED, ALIASED, CONSTANT = 0, 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class PoissonFit:
    """Maximum-likelihood fit of a Poisson regression."""

    coefficients: Floats
    """Intercept, covariates, indicators; log scale, covariates in their own units, shape (1 + c + q,)."""
    standard_errors: Floats
    """From the inverse Fisher information at the maximum (dispersion 1), shape (1 + c + q,)."""
    status: int
    """CONVERGED, NOT_CONVERGED, SEPARATED (an indicator is infinite), ALIASED (collinear columns) or CONSTANT (an
    indicator has one value)."""
    iterations: int
    """Newton steps taken."""


@compiled
def _cholesky_solve(info, score, chol, step, tolerance):
    """Solve ``info @ step = score``; returns False if a pivot falls below ``tolerance`` of its diagonal."""
    k = score.size
    for j in range(k):
        pivot = info[j, j]
        for m in range(j):
            pivot -= chol[j, m] * chol[j, m]
        if not pivot > tolerance * info[j, j]:
            return False
        chol[j, j] = np.sqrt(pivot)
        for i in range(j + 1, k):
            value = info[i, j]
            for m in range(j):
                value -= chol[i, m] * chol[j, m]
            chol[i, j] = value / chol[j, j]
    for j in range(k):
        value = score[j]
        for m in range(j):
            value -= chol[j, m] * step[m]
        step[j] = value / chol[j, j]
    for j in range(k - 1, -1, -1):
        value = step[j]
        for m in range(j + 1, k):
            value -= chol[m, j] * step[m]
        step[j] = value / chol[j, j]
    return True


@compiled(fastmath=FASTMATH)
def _linear_predictor(design, offset, beta, eta):
    eta[:] = offset + beta[0]
    for j in range(1, beta.size):
        slope = beta[j]
        column = design[j]
        for i in range(eta.size):
            eta[i] += slope * column[i]


@compiled(fastmath=FASTMATH)
def _score_and_information(design, counts, weights, eta, work, score, info):
    """Fill score and Fisher information (lower triangle) and return the log-likelihood, constants left out.

    ``work`` holds two rows: weighted means and weighted residuals. Loops run over cells innermost, one product
    at a time, which the compiler turns into vector instructions.
    """
    mean, resid = work[0], work[1]
    exp_into(eta, mean, resid)
    loglik = 0.0
    for i in range(eta.size):
        mean[i] *= weights[i]
        weighted = weights[i] * counts[i]
        loglik += weighted * eta[i] - mean[i]
        resid[i] = weighted - mean[i]
    for j in range(score.size):
        column = design[j]
        total = 0.0
        for i in range(eta.size):
            total += column[i] * resid[i]
        score[j] = total
        for m in range(j + 1):
            other = design[m]
            total = 0.0
            for i in range(eta.size):
                total += column[i] * other[i] * mean[i]
            info[j, m] = total
    return loglik


@compiled
def newton(design, counts, weights, offset, beta, info, tolerance, max_iterations):
    """Maximise the Poisson likelihood from ``beta``, in place; returns (status, iterations).

    ``design`` has one contiguous row per column of the regression, shape (k, cells). ``info`` receives the
    Fisher information of the last evaluation but one step, so its error is of the order of the last step.
    """
    k, n = design.shape
    eta, work = np.empty(n), np.empty((2, n))
    score, step, chol, trial = np.empty(k), np.empty(k), np.zeros((k, k)), np.empty(k)
    _linear_predictor(design, offset, beta, eta)
    loglik = _score_and_information(design, counts, weights, eta, work, score, info)
    for iteration in range(1, max_iterations + 1):
        if not _cholesky_solve(info, score, chol, step, ALIAS_TOLERANCE):
            return NOT_CONVERGED, iteration
        size = np.max(np.abs(step))
        if size < tolerance:
            beta += step
            return CONVERGED, iteration
        scale, better = 1.0, False
        for _ in range(30):  # halve a step that overshoots; the likelihood is concave, so this ends
            trial[:] = beta + scale * step
            _linear_predictor(design, offset, trial, eta)
            value = _score_and_information(design, counts, weights, eta, work, score, info)
            if value >= loglik - 1e-12 * (1.0 + abs(loglik)):
                better = True
                break
            scale *= 0.5
        if not better:
            return NOT_CONVERGED, iteration
        beta[:] = trial
        loglik = value
    return NOT_CONVERGED, max_iterations


@compiled(fastmath=FASTMATH | {"nnan", "nsz"})
def _extent(row, weights):
    """Smallest and largest value of a row among the cells of positive weight."""
    low, high = np.inf, -np.inf
    for i in range(row.size):
        drawn = weights[i] > 0
        low = min(low, row[i] if drawn else np.inf)
        high = max(high, row[i] if drawn else -np.inf)
    return low, high


@compiled(fastmath=FASTMATH)
def _counts_beyond(row, counts, weights, low, high):
    """Weighted counts in the cells above ``low``, and in those below ``high``."""
    above, below = 0.0, 0.0
    for i in range(row.size):
        weighted = weights[i] * counts[i]
        above += weighted if row[i] > low else 0.0
        below += weighted if row[i] < high else 0.0
    return above, below


@compiled
def _separate(design, watched, counts, weights, limit):
    """Apply the separation rule to some rows of the design; sets ``weights`` of separated cells to 0.

    ``limit[j]`` becomes -inf, +inf or NaN where row j has no finite coefficient and stays 0 otherwise.
    """
    changed = True
    while changed:
        changed = False
        for j in watched:
            if limit[j] != 0.0:
                continue
            row = design[j]
            low, high = _extent(row, weights)
            if not low < high:
                limit[j] = np.nan
                continue
            above, below = _counts_beyond(row, counts, weights, low, high)
            if above == 0.0 or below == 0.0:
                limit[j] = -np.inf if above == 0.0 else np.inf
                bound = low if above == 0.0 else high
                for i in range(row.size):
                    if row[i] != bound:
                        weights[i] = 0.0
                changed = True


@compiled
def _independent_columns(design, weights, use, estimable):
    """Switch off rows of ``design`` that depend on rows before them, and what cannot be estimated with them.

    Modified Gram-Schmidt in the order given. Where a row depends on earlier ones, neither it nor any indicator
    with a part in that dependence has an estimate of its own.
    """
    k, n = design.shape
    basis = np.empty((k, n))
    origin = np.zeros((k, k))  # basis[j] = sum_m origin[j, m] * design[m]
    for j in range(k):
        if not use[j]:
            continue
        basis[j] = design[j]
        origin[j, j] = 1.0
        start = np.sum(weights * basis[j] * basis[j])
        for m in range(j):
            if use[m]:
                share = np.sum(weights * basis[j] * basis[m]) / np.sum(weights * basis[m] * basis[m])
                basis[j] -= share * basis[m]
                origin[j] -= share * origin[m]
        if not np.sum(weights * basis[j] * basis[j]) > ALIAS_TOLERANCE * start:
            use[j] = False
            for m in range(k):
                if abs(origin[j, m]) > 1e-6:
                    estimable[m] = False


@compiled
def _drawn(design, counts, weights, offset):
    """The cells of positive weight, close together: a third of a resample's cells are not drawn."""
    cells = np.flatnonzero(weights)
    m = cells.size
    rows = np.empty((design.shape[0], m))
    y, w, o = np.empty(m), np.empty(m), np.empty(m)
    for i in range(m):
        cell = cells[i]
        y[i], w[i], o[i] = counts[cell], weights[cell], offset[cell]
    for j in range(design.shape[0]):
        row, source = rows[j], design[j]
        for i in range(m):
            row[i] = source[cells[i]]
    return rows, y, w, o


@compiled
def refit_weighted(design, first, watched, counts, weights, offset, start, tolerance):
    """Coefficients of the indicators for one set of integer case weights.

    Parameters
    ----------
    design : float64 array, shape (1 + c + q, n)
        Rows: ones, covariates (best standardised), indicators.
    first : int
        Row of the first indicator, 1 + c.
    watched : int64 array
        Rows that the separation rule looks at: the indicators and covariates of two values.
    counts, weights, offset : float64 arrays, shape (n,)
        Cells that were not drawn have weight 0.
    start : float64 array, shape (1 + c + q,)
        Coefficients to start from, usually those of the original sample.
    tolerance : float
        Newton stops when no coefficient moves by more; the error left is about its square.

    Returns
    -------
    coefficient : float64 array, shape (q,)
        -inf or +inf where separated, NaN where not estimable or where Newton failed.
    """
    k = design.shape[0]
    limit = np.zeros(k)
    rows, y, w, o = _drawn(design, counts, weights, offset)
    _separate(rows, watched, y, w, limit)
    use = limit == 0.0
    if not np.any(use[first:]):
        return limit[first:]
    estimable = np.ones(k, dtype=np.bool_)
    chosen = np.flatnonzero(use)
    columns = rows if chosen.size == k else rows[chosen]
    beta, info = start[chosen].copy(), np.zeros((chosen.size, chosen.size))
    status, _ = newton(columns, y, w, o, beta, info, tolerance, MAX_ITERATIONS)
    if status != CONVERGED:  # rare: drop aliased columns, start afresh
        _independent_columns(rows, w, use, estimable)
        chosen = np.flatnonzero(use)
        beta, info = np.zeros(chosen.size), np.zeros((chosen.size, chosen.size))
        beta[0] = np.log(np.sum(w * y) / np.sum(w * np.exp(o)))
        status, _ = newton(rows[chosen], y, w, o, beta, info, tolerance, MAX_ITERATIONS)
    for position in range(chosen.size):
        limit[chosen[position]] = beta[position]
    for j in range(first, k):
        if np.isfinite(limit[j]) and (status != CONVERGED or not estimable[j]):
            limit[j] = np.nan
    return limit[first:]


@dataclass(frozen=True, slots=True)
class Nuisance:
    """Covariates and offset, made ready once for all fits in the same cells."""

    z: Floats
    """Covariates centred and scaled, shape (n, c)."""
    centre: Floats
    """Mean of each covariate, in its own unit, shape (c,)."""
    scale: Floats
    """Standard deviation of each covariate, 1 where it is constant, shape (c,)."""
    two_valued: NDArray[np.bool_]
    """Whether a covariate takes two values, as dummies do, shape (c,)."""
    offset: Floats
    """Log scale, shape (n,)."""

    def design(self, indicators: NDArray[Any]) -> Floats:
        """One contiguous row per column of the regression: ones, z, indicators; shape (1 + c + q, n)."""
        ones = np.ones(len(self.z))
        return np.ascontiguousarray(np.vstack([ones, self.z.T, np.asarray(indicators, dtype=np.float64).T]))

    def watched(self, n_indicators: int) -> NDArray[np.int64]:
        """Rows of the design that the separation rule looks at."""
        c = self.z.shape[1]
        return np.concatenate([1 + np.flatnonzero(self.two_valued), np.arange(1 + c, 1 + c + n_indicators)])

    def null_intercept(self, counts: NDArray[Any]) -> float:
        """Intercept of the model without anything else, half a count taken where there are none."""
        return float(np.log(max(counts.sum(), 0.5) / np.exp(self.offset).sum()))


def make_nuisance(covariates: NDArray[Any], offset: NDArray[Any] | None = None) -> Nuisance:
    """Standardise covariates, shape (n, c) with c >= 0, and settle the offset (zeros if None)."""
    covariates = np.asarray(covariates, dtype=np.float64)
    centre, scale = covariates.mean(axis=0), covariates.std(axis=0)
    # rounding leaves a constant column with a spread of about 1e-16 of its size, which must not be blown up
    scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(centre)), scale, 1.0)
    z = (covariates - centre) / scale
    two_valued = ((z == z.min(axis=0)) | (z == z.max(axis=0))).all(axis=0)
    shift = np.zeros(len(z)) if offset is None else np.ascontiguousarray(offset, dtype=np.float64)
    return Nuisance(z, centre, scale, two_valued, shift)


def standardised(coefficients: Floats, nuisance: Nuisance) -> Floats:
    """Coefficients of a fit in the covariates' own units as those of ``nuisance.z``; infinite dummies stay apart."""
    out, slopes = coefficients.copy(), slice(1, 1 + nuisance.z.shape[1])
    finite = np.isfinite(out[slopes])
    out[0] += np.where(finite, out[slopes], 0.0) @ nuisance.centre
    out[slopes] *= nuisance.scale
    return out


def fit_poisson(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    covariates: NDArray[Any],
    *,
    offset: NDArray[Any] | None = None,
) -> PoissonFit:
    """Fit ``counts ~ 1 + covariates + indicators`` with log link and optional offset.

    Parameters
    ----------
    counts : array, shape (n,)
        Non-negative counts.
    indicators : array, shape (n, q)
        Peaks: 0/1, or counts where they are not binarised.
    covariates : array, shape (n, c)
        Continuous covariates and dummies; c may be 0.
    offset : array, shape (n,), optional
        Added to the linear predictor, log scale.

    Returns
    -------
    PoissonFit
        Coefficients are NaN if the columns are collinear or the fit did not converge. Where an indicator is
        separated it is -inf or +inf and everything else is NaN. A dummy without counts in its cells (or in all
        others) is -inf (+inf) and leaves the other coefficients as the remaining cells give them.

    Notes
    -----
    The same maximum as R's ``glm(..., family = poisson)``. R takes standard errors from the weights of its last
    iteration but one; here they belong to the maximum itself (differences up to 2.4e-6, relative, were seen).
    """
    n = len(counts)
    nuisance = make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    return fit_prepared(counts, np.asarray(indicators).reshape(n, -1), nuisance)


def fit_prepared(counts: NDArray[Any], indicators: NDArray[Any], nuisance: Nuisance) -> PoissonFit:
    """:func:`fit_poisson` with covariates and offset made ready by :func:`make_nuisance`."""
    y = np.ascontiguousarray(counts, dtype=np.float64)
    rows = nuisance.design(indicators)
    k, first = rows.shape[0], 1 + nuisance.z.shape[1]
    nothing = np.full(k, np.nan)
    weights, limit = np.ones(y.size), np.zeros(k)
    _separate(rows, nuisance.watched(k - first), y, weights, limit)
    if np.isinf(limit[first:]).any():
        coefficients = nothing.copy()
        coefficients[first:] = np.where(np.isinf(limit[first:]), limit[first:], np.nan)
        return PoissonFit(coefficients, nothing, SEPARATED, 0)
    if np.isnan(limit[first:]).any():
        return PoissonFit(nothing, nothing.copy(), CONSTANT, 0)

    use = ~np.isinf(limit)  # a constant covariate stays and shows as collinear
    independent, estimable = use.copy(), np.ones(k, dtype=np.bool_)
    _independent_columns(rows, weights, independent, estimable)
    if (independent != use).any():
        return PoissonFit(nothing, nothing.copy(), ALIASED, 0)

    beta, info = np.zeros(use.sum()), np.zeros((use.sum(), use.sum()))
    beta[0] = nuisance.null_intercept(y)
    status, iterations = newton(rows[use], y, weights, nuisance.offset, beta, info, FIT_TOLERANCE, MAX_ITERATIONS)
    if status != CONVERGED:
        return PoissonFit(nothing, nothing.copy(), NOT_CONVERGED, iterations)
    coefficients, errors = _in_own_units(beta, info, nuisance, use)
    limit[use] = coefficients
    nothing[use] = errors
    return PoissonFit(limit, nothing, CONVERGED, iterations)


def _in_own_units(beta: Floats, info: Floats, nuisance: Nuisance, use: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Undo the standardisation of the covariates: coefficients and standard errors of the columns in use."""
    first = 1 + nuisance.z.shape[1]
    back = np.eye(use.size)
    back[range(1, first), range(1, first)] = 1.0 / nuisance.scale
    back[0, 1:first] = -nuisance.centre / nuisance.scale
    back = back[np.ix_(use, use)]
    covariance = back @ np.linalg.inv(np.tril(info) + np.tril(info, -1).T) @ back.T
    return back @ beta, np.sqrt(np.diag(covariance))
