"""Bootstrap over cells: refit engines behind one interface, the basic p-value, SCENT's ladder.

An engine is a function of a :class:`~enhancer_dask.stats.exact.Batch` of tests that returns a refitter; a refitter
takes resample counts and returns the coefficients of the tests' indicators. The ladder knows no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.exact import Engine, Floats, Ints, Refitter, exact_engine, make_batch
from enhancer_dask.stats.moments import moments_engine
from enhancer_dask.stats.products import LANES
from enhancer_dask.stats.torch_moments import moments_engine_torch

ENGINES: dict[str, Engine] = {
    "moments": moments_engine,
    "exact": exact_engine,
    "moments-cuda": partial(moments_engine_torch, device="cuda", memory=2**31),
}


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


# Draws held at a time, 64 bits each, and coefficients. The size of a block changes no result.
BLOCK_DRAWS, BLOCK_COEFFICIENTS = 4_000_000, 8_000_000


def start_from(fit: poisson.PoissonFit, counts: NDArray[Any], nuisance: poisson.Nuisance) -> Floats:
    """Coefficients from which refits start, covariates standardised: the fit, or an intercept where there is none."""
    if fit.status == poisson.CONVERGED:
        start = poisson.standardised(fit.coefficients, nuisance)
        return np.where(np.isfinite(start), start, 0.0)
    start = np.zeros(fit.coefficients.size)  # some resamples may still have a finite fit
    start[0] = nuisance.null_intercept(np.asarray(counts))
    return start


def refit(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    covariates: NDArray[Any],
    resamples: NDArray[np.integer],
    *,
    offset: NDArray[Any] | None = None,
    engine: str = "moments",
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
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    nuisance = poisson.make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    rows = np.ascontiguousarray(np.asarray(indicators).reshape(n, -1).T)
    start = start_from(poisson.fit_prepared(counts, rows.T, nuisance), counts, nuisance)
    only = np.zeros(1, dtype=np.int64)
    batch = make_batch(np.asarray(counts)[None], rows, only, np.arange(len(rows))[None], nuisance, start[None])
    coefficients, _ = ENGINES[engine](batch)(block, only)
    boot: Floats = coefficients[0]
    return boot


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


class Climbed(NamedTuple):
    """What the ladder found, one entry per test."""

    p: Floats
    """Basic-bootstrap p-value of the last rung reached; separated resamples rank as infinite, resamples without an
    estimate are left out."""
    n_resamples: Ints
    """Resamples of that rung with an estimate: its size, unless some were not estimable."""
    n_refits: Ints
    """Refits over all rungs."""
    n_exact: Ints
    """Refits among them that ran over all cells."""


def climb(
    refitter: Refitter,
    observed: Floats,
    draw: Callable[[int, int, int], NDArray[np.integer]],
    *,
    n_cells: int,
    ladder: Sequence[Rung] = SCENT_LADDER,
) -> Climbed:
    """Climb the ladder of resamples with T single-indicator tests of one cell type at once.

    Parameters
    ----------
    refitter : function
        Of an engine, for T tests.
    observed : float64 array, shape (T,)
        Coefficients of the original sample.
    draw : function (rung, start, stop) -> integer array, shape (stop - start, n)
        Resample counts; every rung is a fresh stream. Each block is drawn once for all tests.
    n_cells : int
    ladder : sequence of Rung

    Returns
    -------
    Climbed
    """
    n_tests = len(observed)
    p, last = np.full(n_tests, np.nan), np.zeros(n_tests, dtype=np.int64)
    n_refits, n_exact = np.zeros(n_tests, dtype=np.int64), np.zeros(n_tests, dtype=np.int64)
    active = np.arange(n_tests)
    for rung, (size, climb_below) in enumerate(ladder):
        if not len(active):
            break
        beyond, estimable = np.zeros(len(active), dtype=np.int64), np.zeros(len(active), dtype=np.int64)
        block = _block_size(n_cells, len(active))
        for start in range(0, size, block):
            resamples = draw(rung, start, min(start + block, size))
            coefficients, exact = refitter(resamples, active)
            boot = coefficients[:, :, 0]
            beyond += np.count_nonzero(2.0 * observed[active, None] - boot <= 0.0, axis=1)
            estimable += np.count_nonzero(~np.isnan(boot), axis=1)
            n_refits[active] += len(resamples)
            n_exact[active] += exact
        p[active] = [basic_p(int(k), int(n)) for k, n in zip(beyond, estimable, strict=True)]
        last[active] = estimable
        active = active[p[active] < climb_below]
    return Climbed(p, last, n_refits, n_exact)


def _block_size(n_cells: int, n_active: int) -> int:
    """Resamples drawn at a time: whole tiles of the moments engine."""
    fits = min(BLOCK_DRAWS // max(1, n_cells), BLOCK_COEFFICIENTS // max(1, n_active))
    return max(1, fits // LANES) * LANES
