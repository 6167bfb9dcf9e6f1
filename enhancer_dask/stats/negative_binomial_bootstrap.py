"""Negative binomial refits of resamples of the cells, theta estimated afresh in each, as SCENT does.

The engine has the interface of :mod:`.bootstrap`, so the ladder climbs with it as with the Poisson engines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import negative_binomial, poisson
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exact import Batch, Ints, Refitter
from enhancer_dask.stats.negative_binomial import CONVERGED, NegativeBinomialFit
from enhancer_dask.stats.poisson import Floats

SingleRefitter = Callable[[NDArray[np.integer]], Floats]
"""From resample counts, shape (R, n), to the coefficients of one test's indicators, shape (R, q)."""


@compiled
def refit_weighted(design, first, watched, counts, level, values, weights, offset, mean_count, start, kappa, tolerance):
    """All coefficients for one set of integer case weights, and kappa.

    Parameters
    ----------
    design, first, watched, counts, weights, offset, start, tolerance
        As for :func:`.poisson.refit_weighted`.
    level : int64 array, shape (n,)
        Which of the distinct counts ``values``, shape (v,), each cell has.
    mean_count, kappa : float
        Of the original sample; see :func:`.negative_binomial.newton`.

    Returns
    -------
    coefficients : float64 array, shape (1 + c + q,)
        Indicators and dummies: -inf or +inf where separated. Indicators: NaN where not estimable.
    kappa : float
        NaN if Newton failed or nothing is left to estimate.
    """
    k = design.shape[0]
    limit, estimable = np.zeros(k), np.ones(k, dtype=np.bool_)
    rows, y, w, o = poisson._drawn(design, counts, weights, offset)
    poisson._separate(rows, watched, y, w, limit)
    use = limit == 0.0
    if not np.any(use[first:]):
        return limit, np.nan
    tally = np.bincount(level[np.flatnonzero(weights)], w, values.size)
    chosen = np.flatnonzero(use)
    columns = rows if chosen.size == k else rows[chosen]
    beta = start[chosen].copy()
    status, new, _ = negative_binomial.newton(columns, y, w, o, mean_count, values, tally, beta, kappa, tolerance)
    if status != CONVERGED:  # rare: drop aliased columns, start afresh from the Poisson fit
        poisson._independent_columns(rows, w, use, estimable)
        chosen = np.flatnonzero(use)
        beta = np.zeros(chosen.size)
        beta[0] = np.log(np.sum(w * y) / np.sum(w * np.exp(o)))
        status, new, _ = negative_binomial.newton(
            rows[chosen], y, w, o, mean_count, values, tally, beta, 0.0, tolerance
        )
    for position in range(chosen.size):
        limit[chosen[position]] = beta[position]
    for j in range(first, k):
        if np.isfinite(limit[j]) and (status != CONVERGED or not estimable[j]):
            limit[j] = np.nan
    return limit, new


@compiled
def _refit_block(design, first, watched, counts, level, values, offset, mean_count, start, kappa, resamples, tolerance):
    out, kappas = np.empty((resamples.shape[0], design.shape[0] - first)), np.empty(resamples.shape[0])
    for r in range(resamples.shape[0]):
        weights = resamples[r].astype(np.float64)
        limit, kappas[r] = refit_weighted(
            design, first, watched, counts, level, values, weights, offset, mean_count, start, kappa, tolerance
        )
        out[r] = limit[first:]
    return out, kappas


def _full_sample(
    counts: Floats, indicators: NDArray[Any], nuisance: poisson.Nuisance, start: Floats
) -> tuple[Floats, float]:
    """Where refits start: coefficients and kappa of the original sample, ``start`` and 0 where it has no fit."""
    values, level = negative_binomial.distinct(counts)
    limit, kappa = refit_weighted(
        nuisance.design(indicators), 1 + nuisance.z.shape[1], nuisance.watched(indicators.shape[1]), counts, level,
        values, np.ones(counts.size), nuisance.offset, float(counts.mean()), start, 0.0, poisson.STEP_TOLERANCE,
    )  # fmt: skip
    if np.isnan(kappa):
        return start, 0.0
    return np.where(np.isfinite(limit), limit, start), float(kappa)


def exact_engine(
    counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance, start: Floats
) -> SingleRefitter:
    """Newton on all cells of every resample, coefficients and theta, warm-started at the full-sample fit.

    Parameters
    ----------
    counts : array, shape (n,)
        Non-negative; need not be integers.
    indicators : array, shape (n, q)
    nuisance : Nuisance
    start : float64 array, shape (1 + c + q,)
        Coefficients of intercept, standardised covariates and indicators near the full-sample fit, for instance
        those of the Poisson model. The engine goes on from there to the negative binomial fit.
    """
    y = np.ascontiguousarray(counts, dtype=np.float64)
    begin, kappa = _full_sample(y, indicators, nuisance, start)

    def refitter(resamples: NDArray[np.integer]) -> Floats:
        design, first = nuisance.design(indicators), 1 + nuisance.z.shape[1]  # not kept, as in the Poisson engine
        watched, (values, level) = nuisance.watched(indicators.shape[1]), negative_binomial.distinct(y)
        boot: Floats
        boot, _ = _refit_block(
            design, first, watched, y, level, values, nuisance.offset, float(y.mean()), begin, kappa,
            np.ascontiguousarray(resamples), poisson.STEP_TOLERANCE,
        )  # fmt: skip
        return boot

    return refitter


def batch_engine(batch: Batch) -> Refitter:
    """:func:`exact_engine` for every test of a batch."""
    single = [
        exact_engine(batch.counts[gene], batch.indicators[peak].T, batch.nuisance, start)
        for gene, peak, start in zip(batch.gene, batch.peak, batch.start, strict=True)
    ]

    def refitter(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        return np.stack([single[test](resamples) for test in which]), np.full(len(which), len(resamples))

    return refitter


def fit_and_prepare(
    counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance
) -> tuple[NegativeBinomialFit, SingleRefitter]:
    """Fit the original sample once and prepare :func:`exact_engine` for its resamples."""
    indicators = np.asarray(indicators).reshape(len(counts), -1)
    fit = negative_binomial.fit_prepared(counts, indicators, nuisance)
    start = np.zeros(fit.coefficients.size)
    start[0] = nuisance.null_intercept(np.asarray(counts))  # no finite fit; some resamples may still have one
    if fit.status == CONVERGED:
        coefficients = poisson.standardised(fit.coefficients, nuisance)
        start = np.where(np.isfinite(coefficients), coefficients, 0.0)
    return fit, exact_engine(counts, indicators, nuisance, start)


def refit(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    covariates: NDArray[Any],
    resamples: NDArray[np.integer],
    *,
    offset: NDArray[Any] | None = None,
) -> Floats:
    """Refit a negative binomial regression on given resamples of the cells.

    Parameters
    ----------
    counts, indicators, covariates, resamples, offset
        As for :func:`.bootstrap.refit`.

    Returns
    -------
    float64 array, shape (R, q)
        Coefficients, natural log. -inf where no drawn open cell has a count (+inf where no drawn closed cell
        has one), NaN where the coefficient is not estimable (no open or no closed cell drawn, collinear). A
        resample whose counts vary no more than Poisson counts has theta infinite and the Poisson coefficients.

    Notes
    -----
    The likelihood of few cells with very unequal means can have two maxima in theta (under one in a hundred
    resamples of 10 to 80 such cells, none seen on real cell types). A refit takes the one that lies uphill from
    the fit of the original sample, a fit of the drawn rows on its own may take the other.

    Raises
    ------
    ValueError
        If the resamples are not of shape (R, n).

    Examples
    --------
    >>> counts, peak = np.array([0, 7, 1, 2, 0, 3, 9, 1]), np.array([0, 1, 0, 0, 0, 1, 1, 1])
    >>> resample = np.array([[1, 0, 2, 1, 0, 2, 2, 0]])  # closed: 0, 1, 1, 2; open: 3, 3, 9, 9
    >>> boot = refit(counts, peak[:, None], np.empty((8, 0)), resample)
    >>> bool(np.isclose(boot[0, 0], np.log(24 / 4) - np.log(4 / 4)))
    True
    """
    block, n = np.asarray(resamples), len(counts)
    if block.ndim != 2 or block.shape[1] != n:
        raise ValueError(f"resamples have shape {block.shape}, want (R, {n})")
    nuisance = poisson.make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    _, refitter = fit_and_prepare(counts, indicators, nuisance)
    return refitter(block)
