"""Bootstrap over cells: refit engines behind one interface, the basic p-value, SCENT's ladder.

An engine is a function ``(counts, indicators, nuisance, start) -> refitter``; a refitter takes a block of
resample counts, shape (R, n), and returns the coefficients of the indicators, shape (R, q). The ladder knows no
more than that, so a faster engine is one more entry of ``ENGINES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from enhancer_dask.stats import poisson

Floats = NDArray[np.float64]
Refitter = Callable[[NDArray[np.integer]], Floats]
Engine = Callable[[NDArray[Any], NDArray[Any], poisson.Nuisance, Floats], Refitter]


class Rung(NamedTuple):
    """One step of the ladder."""

    n_resamples: int
    """Fresh resamples drawn on this rung."""
    climb_below: float
    """Go on to the next rung if the p-value of this one is below."""


SCENT_LADDER = (Rung(100, 0.1), Rung(500, 0.05), Rung(2_500, 0.01), Rung(25_000, 0.001), Rung(50_000, 0.0))


def up_to(max_resamples: int) -> tuple[Rung, ...]:
    """SCENT's ladder without the rungs beyond ``max_resamples``.

    Examples
    --------
    >>> [rung.n_resamples for rung in up_to(2_500)]
    [100, 500, 2500]
    """
    return tuple(rung for rung in SCENT_LADDER if rung.n_resamples <= max_resamples)


# Draws held at a time, 64 bits each. The size of a block changes no result: resample r depends on r alone.
BLOCK_DRAWS = 4_000_000


@njit(nogil=True, cache=True)
def _refit_block(design, first, watched, counts, offset, start, resamples, tolerance):
    out = np.empty((resamples.shape[0], design.shape[0] - first))
    for r in range(resamples.shape[0]):
        weights = resamples[r].astype(np.float64)
        out[r] = poisson.refit_weighted(design, first, watched, counts, weights, offset, start, tolerance)
    return out


def exact_engine(counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance, start: Floats) -> Refitter:
    """Newton on all cells of every resample, warm-started at the full-sample fit: the reference.

    Parameters
    ----------
    counts : array, shape (n,)
    indicators : array, shape (n, q)
    nuisance : Nuisance
    start : float64 array, shape (1 + c + q,)
        Full-sample coefficients of intercept, standardised covariates and indicators.
    """

    def refitter(resamples: NDArray[np.integer]) -> Floats:
        # built here and not kept: a chunk has many pairs, and their designs would fill the memory
        design, first = nuisance.design(indicators), 1 + nuisance.z.shape[1]
        watched = nuisance.watched(indicators.shape[1])
        y, block = np.ascontiguousarray(counts, dtype=np.float64), np.ascontiguousarray(resamples)
        boot: Floats = _refit_block(design, first, watched, y, nuisance.offset, start, block, poisson.STEP_TOLERANCE)
        return boot

    return refitter


ENGINES: dict[str, Engine] = {"exact": exact_engine}


def fit_and_prepare(
    counts: NDArray[Any], indicators: NDArray[Any], nuisance: poisson.Nuisance, *, engine: str = "exact"
) -> tuple[poisson.PoissonFit, Refitter]:
    """Fit the original sample once and prepare an engine for its resamples; see :func:`refit`.

    Raises
    ------
    ValueError
        If the engine is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    indicators = np.asarray(indicators).reshape(len(counts), -1)
    fit = poisson.fit_prepared(counts, indicators, nuisance)
    start = np.where(np.isfinite(fit.coefficients), fit.coefficients, 0.0)
    if fit.status == poisson.CONVERGED:
        slopes = slice(1, 1 + nuisance.z.shape[1])
        start[0] += start[slopes] @ nuisance.centre
        start[slopes] *= nuisance.scale
    else:  # no finite fit of the original sample; some resamples may still have one
        start[:] = 0.0
        start[0] = nuisance.null_intercept(np.asarray(counts))
    return fit, ENGINES[engine](counts, indicators, nuisance, start)


def refit(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    covariates: NDArray[Any],
    resamples: NDArray[np.integer],
    *,
    offset: NDArray[Any] | None = None,
    engine: str = "exact",
) -> Floats:
    """Refit a Poisson regression on given resamples of the cells.

    Parameters
    ----------
    counts : array, shape (n,)
        Counts of the gene per cell.
    indicators : array, shape (n, q)
        0/1 peaks (or products of peaks) whose coefficients are wanted.
    covariates : array, shape (n, c)
        Continuous covariates; an intercept is added.
    resamples : integer array, shape (R, n)
        How often each cell is drawn.
    offset : array, shape (n,), optional
        Added to the linear predictor, log scale.
    engine : str
        A key of ``ENGINES``.

    Returns
    -------
    float64 array, shape (R, q)
        Coefficients, natural log. -inf where no drawn open cell has a count (+inf where no drawn closed cell
        has one), NaN where the coefficient is not estimable (no open or no closed cell drawn, collinear).

    Raises
    ------
    ValueError
        If the engine is unknown or the resamples are not of shape (R, n).
    """
    block, n = np.asarray(resamples), len(counts)
    if block.ndim != 2 or block.shape[1] != n:
        raise ValueError(f"resamples have shape {block.shape}, want (R, {n})")
    nuisance = poisson.make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    _, refitter = fit_and_prepare(counts, indicators, nuisance, engine=engine)
    return refitter(block)


def basic_p(n_beyond: int, n_estimable: int) -> float:
    """Two-sided p-value of the basic bootstrap, SCENT's rule.

    With t = 2 * observed - resampled, ``n_beyond`` counts t <= 0 among ``n_estimable`` resamples R. The value is
    ``2 min(k / R, 1 - k / R)``, and 2 / R (at most 1) where k is 0 or R. NaN if nothing was estimable.

    Examples
    --------
    >>> basic_p(3, 100), basic_p(0, 100), basic_p(100, 100)
    (0.06, 0.02, 0.02)
    """
    if n_estimable == 0:
        return float("nan")
    if n_beyond in (0, n_estimable):
        return min(1.0, 2.0 / n_estimable)
    return 2.0 * min(n_beyond, n_estimable - n_beyond) / n_estimable


def climb(
    refitters: Sequence[Refitter],
    observed: Floats,
    draw: Callable[[int, int, int], NDArray[np.integer]],
    *,
    n_cells: int,
    ladder: Sequence[Rung] = SCENT_LADDER,
) -> tuple[Floats, NDArray[np.int64]]:
    """Climb the ladder of resamples with several single-indicator tests of one cell type at once.

    Parameters
    ----------
    refitters : sequence of T refitters with q = 1
    observed : float64 array, shape (T,)
        Coefficients of the original sample.
    draw : function (rung, start, stop) -> integer array, shape (stop - start, n)
        Resample counts; every rung is a fresh stream. Each block is drawn once for all tests.
    n_cells : int
    ladder : sequence of Rung

    Returns
    -------
    p : float64 array, shape (T,)
        Basic-bootstrap p-value of the last rung reached; separated resamples rank as infinite, resamples
        without an estimate are left out.
    n_resamples : int64 array, shape (T,)
        Resamples of that rung with an estimate: its size, unless some were not estimable.
    """
    p = np.full(len(refitters), np.nan)
    n_resamples = np.zeros(len(refitters), dtype=np.int64)
    active = list(range(len(refitters)))
    block = max(1, BLOCK_DRAWS // max(1, n_cells))
    for rung, (size, climb_below) in enumerate(ladder):
        beyond = np.zeros(len(refitters), dtype=np.int64)
        estimable = np.zeros(len(refitters), dtype=np.int64)
        for start in range(0, size if active else 0, block):
            resamples = draw(rung, start, min(start + block, size))
            for test in active:
                boot = refitters[test](resamples)[:, 0]
                beyond[test] += np.count_nonzero(2.0 * observed[test] - boot <= 0.0)
                estimable[test] += np.count_nonzero(~np.isnan(boot))
        for test in active:
            p[test] = basic_p(int(beyond[test]), int(estimable[test]))
            n_resamples[test] = estimable[test]
        active = [test for test in active if p[test] < climb_below]
    return p, n_resamples
