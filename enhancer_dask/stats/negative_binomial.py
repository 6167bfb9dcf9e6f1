"""Negative binomial regression with log link: variance mu + mu^2 / theta, theta by maximum likelihood.

The model of ``MASS::glm.nb``, which SCENT fits with ``regr = "negbin"``. As in :mod:`.poisson` one compiled fit
serves the original sample and the bootstrap, and the same rules say when an indicator has no finite coefficient:
at any theta the likelihood is concave in the coefficients and grows without end in the same directions.

Coefficients and theta move together in damped Newton steps. The dispersion is carried as

    kappa = log(1 + m / theta),    m the mean count,

which is log(1 / theta) where the counts are far from Poisson and 1 / theta where they are close to it. So the
edge kappa = 0, where the model is the Poisson one, is an ordinary point: counts that vary no more than Poisson
counts do have their maximum there, and theta is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.gamma_differences import gamma_differences
from enhancer_dask.stats.logarithm import log1p_into
from enhancer_dask.stats.poisson import ALIASED, CONSTANT, CONVERGED, NOT_CONVERGED, SEPARATED, Floats, standardised

MAX_ITERATIONS = 100
# Below this kappa, that is theta above 1e6 times the mean count, the fit counts as Poisson: at the mean count the
# variances of the two differ by 1e-6 of themselves, and further down rounding would hide the curvature.
EDGE = 1e-6
LARGEST_STEP = 1.5  # of kappa: theta moves by a factor of 4.5 at most

__all__ = ["ALIASED", "CONSTANT", "CONVERGED", "NOT_CONVERGED", "SEPARATED"]


@dataclass(frozen=True, slots=True)
class NegativeBinomialFit:
    """Maximum-likelihood fit of a negative binomial regression."""

    coefficients: Floats
    """Intercept, covariates, indicators; log scale, covariates in their own units, shape (1 + c + q,)."""
    standard_errors: Floats
    """From the inverse Fisher information at the maximum, theta held at its estimate, shape (1 + c + q,)."""
    theta: float
    """Size: the variance is mu + mu^2 / theta. Infinite where the maximum is the Poisson fit, NaN without a fit."""
    se_theta: float
    """Standard error of ``theta`` from the observed information, coefficients held; NaN if theta is infinite."""
    twologlik: float
    """Twice the log-likelihood, constants included."""
    status: int
    """As in :class:`.poisson.PoissonFit`; CONVERGED also where theta is infinite."""
    iterations: int
    """Newton steps taken, those of the Poisson fit that starts them included."""


@compiled
def _theta_of(kappa, mean_count):
    return mean_count / np.expm1(kappa) if kappa > 0.0 else np.inf


@compiled
def _kappa_of(theta, mean_count):
    return np.log1p(mean_count / theta)


@compiled(fastmath=FASTMATH)
def _cell_terms(counts, weights, eta, theta, work):
    """Fill ``work`` for one pass over the cells; returns the sums that the derivatives in theta need.

    Rows: score in eta; minus its derivative in eta; its derivative in log theta; one of scratch.
    """
    score, curvature, cross, scratch = work[0], work[1], work[2], work[3]
    exp_into(eta, curvature, scratch)
    for i in range(eta.size):
        curvature[i] /= theta
    log1p_into(curvature, cross, scratch)
    loglik, logs, scores, bends = 0.0, 0.0, 0.0, 0.0
    for i in range(eta.size):
        ratio = curvature[i]  # mu / theta
        shrink = 1.0 / (1.0 + ratio)
        loglik += weights[i] * (counts[i] * eta[i] - (counts[i] + theta) * cross[i])
        logs += weights[i] * cross[i]
        score[i] = weights[i] * (counts[i] - theta * ratio) * shrink
        curvature[i] = weights[i] * (theta + counts[i]) * ratio * shrink * shrink
        cross[i] = score[i] * ratio * shrink
        scores += score[i]
        bends += (weights[i] * theta * ratio + score[i]) * shrink
    return loglik, logs, scores, bends


@compiled(fastmath=FASTMATH)
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@compiled(fastmath=FASTMATH)
def _dot3(a, b, c):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i] * c[i]
    return total


@compiled
def _log_theta_derivatives(values, tally, theta, logs, scores, bends):
    """Log-likelihood and its first two derivatives in log theta, from sums over distinct counts and over cells."""
    log_gamma, digamma, trigamma = 0.0, 0.0, 0.0
    for v in range(values.size):
        if tally[v] > 0.0 and values[v] > 0.0:
            g, d, t = gamma_differences(theta, values[v])
            log_gamma += tally[v] * g
            digamma += tally[v] * d
            trigamma += tally[v] * t
    first = theta * (digamma - logs) - scores
    second = first + theta * theta * trigamma + bends
    return log_gamma, first, second


@compiled
def score_and_information(design, counts, weights, eta, kappa, mean_count, values, tally, work, score, info):
    """Fill score and observed information (lower triangle) in (coefficients, kappa), return the log-likelihood.

    Constants are left out of it. ``values`` are the distinct counts and ``tally`` the weight of each, so that the
    gamma function is called once a value and not once a cell. ``work`` holds four rows of the length of ``eta``.
    """
    k = score.size - 1
    theta = _theta_of(kappa, mean_count)
    loglik, logs, scores, bends = _cell_terms(counts, weights, eta, theta, work)
    log_gamma, first, second = _log_theta_derivatives(values, tally, theta, logs, scores, bends)
    slope = np.expm1(-kappa)  # of kappa by log theta: -r / (1 + r) with r = m / theta
    for j in range(k):
        score[j] = _dot(design[j], work[0])
        for m in range(j + 1):
            info[j, m] = _dot3(design[j], design[m], work[1])
        info[k, j] = -_dot(design[j], work[2]) / slope
    score[k] = first / slope
    info[k, k] = -(second + first * np.exp(-kappa)) / (slope * slope)
    return loglik + log_gamma


@compiled(fastmath=FASTMATH)
def _excess(counts, weights, eta, work):
    """At the Poisson fit: the slope of the log-likelihood in 1 / theta at 0, and a first guess of 1 / theta."""
    mean, scratch = work[0], work[1]
    exp_into(eta, mean, scratch)
    slope, size = 0.0, 0.0
    for i in range(eta.size):
        resid = counts[i] - mean[i]
        slope += weights[i] * (resid * resid - counts[i])
        size += weights[i] * mean[i] * mean[i]
    return 0.5 * slope, slope / size


@compiled
def _uphill(info, score, chol, step):
    """Newton's step in (coefficients, kappa), or one in each apart where the likelihood is not concave in both."""
    k = score.size - 1
    if not poisson._cholesky_solve(info, score, chol, step, poisson.ALIAS_TOLERANCE):
        info[k, :k] = 0.0
        info[k, k] = max(abs(info[k, k]), 1e-300)
        if not poisson._cholesky_solve(info, score, chol, step, poisson.ALIAS_TOLERANCE):
            return False
    if abs(step[k]) > LARGEST_STEP:
        step *= LARGEST_STEP / abs(step[k])
    return True


@compiled
def _scan(counts, weights, eta, mean_count, values, tally, work):
    """The best kappa of a coarse grid at fixed coefficients, 0 if the edge is better than all.

    The likelihood may fall from the edge and yet have a higher maximum inside: a few cells of large mean that
    vary little hide many of small mean that vary much.
    """
    best, kappa = -np.inf, 0.0
    for power in range(9):
        trial = EDGE if power == 0 else np.log1p(4.0 ** (power - 5))
        theta = _theta_of(trial, mean_count)
        value, logs, scores, bends = _cell_terms(counts, weights, eta, theta, work)
        value += _log_theta_derivatives(values, tally, theta, logs, scores, bends)[0]
        if value > best:
            best, kappa = value, (0.0 if power == 0 else trial)
    return kappa


@compiled
def _from_poisson(design, counts, weights, offset, mean_count, values, tally, beta, tolerance, work):
    """Move ``beta`` to the Poisson fit and look what lies inside.

    Returns (status, iterations, kappa to go on from or 0 if this is the maximum, whether the likelihood rises
    from the edge).
    """
    info, eta = np.zeros((beta.size, beta.size)), np.empty(counts.size)
    status, taken = poisson.newton(design, counts, weights, offset, beta, info, tolerance, poisson.MAX_ITERATIONS)
    if status != CONVERGED:
        return status, taken, np.nan, False
    poisson._linear_predictor(design, offset, beta, eta)
    slope, guess = _excess(counts, weights, eta, work)
    if slope > 0.0:
        return status, taken, min(max(np.log1p(mean_count * guess), 2.0 * EDGE), 10.0), True
    return status, taken, _scan(counts, weights, eta, mean_count, values, tally, work), False


@compiled
def _climb(design, counts, weights, offset, mean_count, values, tally, beta, kappa, tolerance, rises, work):
    """Damped Newton steps inside, kappa > EDGE; returns (status, kappa, iterations), kappa 0 if they lead out.

    ``rises`` says that the likelihood is known to rise from the edge, so that a step across it goes too far.
    """
    k = beta.size
    eta, trial = np.empty(counts.size), np.empty(k)
    score, step = np.empty(k + 1), np.empty(k + 1)
    info, chol = np.zeros((k + 1, k + 1)), np.zeros((k + 1, k + 1))
    poisson._linear_predictor(design, offset, beta, eta)
    loglik = score_and_information(design, counts, weights, eta, kappa, mean_count, values, tally, work, score, info)
    for iteration in range(1, MAX_ITERATIONS + 1):
        if not _uphill(info, score, chol, step):
            return NOT_CONVERGED, np.nan, iteration
        if kappa + step[k] < EDGE:
            if not rises or kappa < 4.0 * EDGE:
                return CONVERGED, 0.0, iteration
            step *= 0.75 * kappa / -step[k]
        elif np.max(np.abs(step)) < tolerance:
            beta += step[:k]
            return CONVERGED, kappa + step[k], iteration
        scale, better = 1.0, False
        for _ in range(40):
            trial[:] = beta + scale * step[:k]
            poisson._linear_predictor(design, offset, trial, eta)
            value = score_and_information(
                design, counts, weights, eta, kappa + scale * step[k], mean_count, values, tally, work, score, info
            )
            if value >= loglik - 1e-12 * (1.0 + abs(loglik)):
                better = True
                break
            scale *= 0.5
        if not better:
            return NOT_CONVERGED, np.nan, iteration
        beta[:] = trial
        kappa += scale * step[k]
        loglik = value
    return NOT_CONVERGED, np.nan, MAX_ITERATIONS


@compiled
def newton(design, counts, weights, offset, mean_count, values, tally, beta, kappa, tolerance):
    """Maximise the likelihood from ``beta`` (changed in place) and ``kappa``.

    Parameters
    ----------
    design : float64 array, shape (k, n)
        One contiguous row per column of the regression.
    counts, weights, offset : float64 arrays, shape (n,)
    mean_count : float
        The m that turns theta into kappa.
    values, tally : float64 arrays, shape (v,)
        Distinct counts and the sum of weights of each.
    beta : float64 array, shape (k,)
    kappa : float
        If 0, or if the steps from here lead to the edge, the Poisson fit is made and says how to go on.
    tolerance : float
        Newton stops when neither a coefficient nor kappa moves by more; the error left is about its square.

    Returns
    -------
    status, kappa, iterations
        Kappa is 0 where the Poisson fit is the maximum.
    """
    work, taken = np.empty((4, counts.size)), 0
    if kappa > EDGE:
        status, kappa, taken = _climb(
            design, counts, weights, offset, mean_count, values, tally, beta, kappa, tolerance, False, work
        )
        if status != CONVERGED or kappa > 0.0:
            return status, kappa, taken
    status, more, kappa, rises = _from_poisson(
        design, counts, weights, offset, mean_count, values, tally, beta, tolerance, work
    )
    taken += more
    if status != CONVERGED or kappa == 0.0:
        return status, kappa, taken
    at_edge = beta.copy()
    status, kappa, more = _climb(
        design, counts, weights, offset, mean_count, values, tally, beta, kappa, tolerance, rises, work
    )
    if status == CONVERGED and kappa == 0.0:
        beta[:] = at_edge
    return status, kappa, taken + more


def log_likelihood(counts: NDArray[Any], mean: NDArray[Any], theta: float) -> float:
    """Log-likelihood of counts with given means, constants included; Poisson if ``theta`` is infinite.

    Parameters
    ----------
    counts : array, shape (n,)
        Non-negative, not necessarily integer.
    mean : array, shape (n,)
        Positive.
    theta : float
        Size; the variance is mean + mean^2 / theta.

    Examples
    --------
    >>> p = 2.0 / (2.0 + 3.0)  # one count of two at mean 3 and size 2: (2 + 1) p^2 (1 - p)^2
    >>> bool(np.isclose(np.exp(log_likelihood(np.array([2]), np.array([3.0]), 2.0)), 3 * p**2 * (1 - p) ** 2))
    True
    """
    if np.isinf(theta):
        return float((counts * np.log(mean) - mean - gammaln(counts + 1.0)).sum())
    gamma = gammaln(counts + theta) - gammaln(theta) - gammaln(counts + 1.0)
    return float((gamma + counts * np.log(mean / theta) - (counts + theta) * np.log1p(mean / theta)).sum())


def distinct(counts: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """Distinct counts in ascending order, shape (v,), and which of them each cell has, shape (n,)."""
    values, level = np.unique(np.asarray(counts, dtype=np.float64), return_inverse=True)
    return values, level.astype(np.int64)


def fit_negative_binomial(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    covariates: NDArray[Any],
    *,
    offset: NDArray[Any] | None = None,
) -> NegativeBinomialFit:
    """Fit ``counts ~ 1 + covariates + indicators`` with log link, optional offset and theta by maximum likelihood.

    Parameters
    ----------
    counts : array, shape (n,)
        Non-negative; need not be integers.
    indicators : array, shape (n, q)
        Peaks: 0/1, or counts where they are not binarised.
    covariates : array, shape (n, c)
        Continuous covariates and dummies; c may be 0.
    offset : array, shape (n,), optional
        Added to the linear predictor, log scale.

    Returns
    -------
    NegativeBinomialFit
        Where no maximum exists (no counts in open cells, collinear columns ...) the status and coefficients are
        those of :func:`.poisson.fit_poisson`, and theta is NaN.

    Notes
    -----
    The maximum of ``MASS::glm.nb`` [1]_, reached by joint Newton steps where that alternates. Standard errors are
    those of ``summary.negbin``. Counts that vary no more than Poisson counts have no finite theta: glm.nb gives up
    at a large one with a warning, here theta is infinite and the rest is the Poisson fit. The likelihood can have
    more than one maximum in theta; that found is uphill from the moment estimate at the Poisson fit.

    References
    ----------
    .. [1] Venables and Ripley (2002), Modern Applied Statistics with S, 7.4.

    Examples
    --------
    >>> counts, peak = np.array([0, 7, 1, 2, 0, 3, 9, 1]), np.array([0, 1, 0, 0, 0, 1, 1, 1])
    >>> fit = fit_negative_binomial(counts, peak, np.empty((8, 0)))
    >>> bool(np.isclose(fit.coefficients[1], np.log(20 / 4) - np.log(3 / 4))), fit.status == CONVERGED
    (True, True)
    """
    n = len(counts)
    nuisance = poisson.make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    return fit_prepared(counts, np.asarray(indicators).reshape(n, -1), nuisance)


def fit_prepared(counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance) -> NegativeBinomialFit:
    """:func:`fit_negative_binomial` with covariates and offset made ready by :func:`.poisson.make_nuisance`."""
    start = poisson.fit_prepared(counts, indicators, nuisance)
    no_fit = (np.nan, np.nan, np.nan)
    if start.status != CONVERGED:
        return NegativeBinomialFit(start.coefficients, start.standard_errors, *no_fit, start.status, start.iterations)
    coefficients, errors = start.coefficients.copy(), np.full(start.coefficients.size, np.nan)
    use = np.isfinite(coefficients)  # a dummy without counts has left, and its cells with it
    rows, y, weights, offset = cells_in_use(counts, indicators, nuisance)
    rows = rows[use]
    values, level = distinct(y)
    tally = np.bincount(level, minlength=values.size).astype(np.float64)
    beta, mean_count = standardised(coefficients, nuisance)[use], float(y.mean())
    status, kappa, iterations = newton(
        rows, y, weights, offset, mean_count, values, tally, beta, 0.0, poisson.FIT_TOLERANCE
    )
    iterations += start.iterations
    if status != CONVERGED:
        nothing = np.full(use.size, np.nan)
        return NegativeBinomialFit(nothing, nothing.copy(), *no_fit, status, iterations)
    theta = _theta_of(kappa, mean_count)
    mean = np.exp(offset + beta @ rows)
    information = (rows * (mean / (1.0 + mean / theta))) @ rows.T
    coefficients[use], errors[use] = poisson._in_own_units(beta, information, nuisance, use)
    se_theta = _se_theta(y, mean, theta) if np.isfinite(theta) else np.nan
    twologlik = 2.0 * log_likelihood(y, mean, theta)
    return NegativeBinomialFit(coefficients, errors, theta, se_theta, twologlik, CONVERGED, iterations)


def cells_in_use(
    counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance
) -> tuple[Floats, Floats, Floats, Floats]:
    """Design, counts, weights and offset of the cells that the separation rule leaves."""
    rows = nuisance.design(indicators)
    y, weights = np.ascontiguousarray(counts, dtype=np.float64), np.ones(len(counts))
    watched = nuisance.watched(len(rows) - 1 - nuisance.z.shape[1])
    poisson._separate(rows, watched, y, weights, np.zeros(len(rows)))
    drawn: tuple[Floats, Floats, Floats, Floats] = poisson._drawn(rows, y, weights, nuisance.offset)
    return drawn


def _se_theta(counts: Floats, mean: Floats, theta: float) -> float:
    """Standard error of theta with the means held, from the observed information as ``MASS::theta.ml`` takes it."""
    values, level = distinct(counts)
    trigamma = np.array([gamma_differences(theta, value)[2] for value in values])
    share = mean / theta / (1.0 + mean / theta)
    information = -(trigamma[level] + (share + (counts - mean) / (theta + mean) * (1.0 - share)) / theta).sum()
    return float(1.0 / np.sqrt(information)) if information > 0.0 else float("nan")
