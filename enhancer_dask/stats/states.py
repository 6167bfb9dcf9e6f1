"""Cells by the state of two enhancers, and the four tests of an enhancer pair: plain definitions.

A cell is in state 00, 10, 01 or 11: first digit the first enhancer, 1 if it is open. Three contrasts compare a state
with 00, each in a regression of its own on the cells of these two states,

    log E y = offset + a + z'g + b_s [state is s],        s = 10, 01, 11,

and one regression on all cells has all states,

    log E y = offset + a + z'g + b_10 [10] + b_01 [01] + b_11 [11],        I = b_11 - b_10 - b_01.

The latter is the model ``enhancer_1 * enhancer_2`` in other coordinates: its product term is the interaction I, zero if
the enhancers multiply. In these coordinates a state without counts shows as an infinite coefficient of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TESTS = ("10", "01", "11", "interaction")
STATES = ("00", "10", "01", "11")  # codes 0 to 3
INTERACTION = 3  # place among the tests
CONTRAST = np.array([-1.0, -1.0, 1.0])  # of (b_10, b_01, b_11), gives I


@dataclass(frozen=True, slots=True)
class StatePairs:
    """L enhancer pairs in the same n cells."""

    counts: Floats
    """Counts of the genes, shape (G, n)."""
    peaks: NDArray[np.uint8]
    """1 if open, else 0, shape (P, n)."""
    gene: Ints
    """Row of ``counts`` of each pair, shape (L,)."""
    first: Ints
    """Row of ``peaks`` of the first enhancer, shape (L,)."""
    second: Ints
    """Row of ``peaks`` of the second enhancer, shape (L,)."""
    nuisance: poisson.Nuisance
    """Covariates and offset."""

    def some(self, rows: Ints) -> StatePairs:
        """Some of the pairs, and only their genes."""
        genes, gene = np.unique(self.gene[rows], return_inverse=True)
        counts = self.counts if len(genes) == len(self.counts) else self.counts[genes]
        return replace(self, counts=counts, gene=gene, first=self.first[rows], second=self.second[rows])

    def states(self, pair: int) -> NDArray[np.uint8]:
        """Code of the state of each cell, shape (n,)."""
        both: NDArray[np.uint8] = self.peaks[self.first[pair]] + np.uint8(2) * self.peaks[self.second[pair]]
        return both


def make_state_pairs(
    rna: NDArray[Any],
    atac: NDArray[Any],
    gene: NDArray[np.integer],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    nuisance: poisson.Nuisance,
) -> StatePairs:
    """:class:`StatePairs` with settled types, so that kernels are compiled once; a peak is open above zero."""
    g, one, two = (np.asarray(row, dtype=np.int64) for row in (gene, first, second))
    counts, peaks = np.ascontiguousarray(rna, dtype=np.float64), np.ascontiguousarray(np.asarray(atac) > 0)
    return StatePairs(counts, peaks.astype(np.uint8), g, one, two, nuisance)


@dataclass(frozen=True, slots=True)
class StateFits:
    """Fits of the four tests of L pairs; c covariates, standardised as in ``nuisance.z``."""

    beta: Floats
    """Of 10, 01 and 11 in their own regressions, and I; natural log, shape (L, 4). -inf or +inf where a state has no
    counts, NaN where one has no cells or the fit failed."""
    se: Floats
    """Standard errors from the Fisher information, shape (L, 4); NaN where there is no finite fit."""
    contrasts: Floats
    """Intercept, slopes, b_s of the three contrasts, shape (L, 3, 2 + c); NaN if a covariate does not vary there."""
    joint: Floats
    """Intercept, slopes, b_10, b_01, b_11 of the regression on all cells, shape (L, 4 + c)."""
    covariance: Floats
    """Inverse Fisher information of ``joint``, shape (L, 4 + c, 4 + c)."""
    sandwich: Floats
    """Covariance of ``joint`` that holds whatever the variance of the counts, shape (L, 4 + c, 4 + c)."""
    theta: Floats
    """Of the negative binomial regressions, NaN for Poisson, shape (L, 4)."""
    status: Ints
    """Codes of :mod:`enhancer_dask.stats.poisson` per test, shape (L, 4)."""

    def some(self, rows: Ints) -> StateFits:
        """Those of some pairs."""
        return StateFits(
            self.beta[rows], self.se[rows], self.contrasts[rows], self.joint[rows], self.covariance[rows],
            self.sandwich[rows], self.theta[rows], self.status[rows],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StateSaddles:
    """Bootstrap distribution of the four coefficients of L pairs by saddlepoint."""

    p: Floats
    """Two-sided basic-bootstrap p-values, shape (L, 4)."""
    sd: Floats
    """Standard deviation over resamples, shape (L, 4); NaN where not computed."""
    low: Floats
    """Lower end of the confidence interval of I, shape (L,); NaN where it was not found."""
    high: Floats
    """Upper end."""
    p_interval: Floats
    """P-value of the test that the interval inverts: below 1 - level where the interval leaves 0 out, shape (L,)."""
    trust: Ints
    """Codes of :mod:`enhancer_dask.stats.saddlepoint`, shape (L, 4)."""


def empty_fits(n_pairs: int, n_covariates: int) -> StateFits:
    """Without any result: NaN, and status ``poisson.CONSTANT``."""
    k = 4 + n_covariates
    return StateFits(
        np.full((n_pairs, 4), np.nan), np.full((n_pairs, 4), np.nan), np.full((n_pairs, 3, k - 2), np.nan),
        np.full((n_pairs, k), np.nan), np.full((n_pairs, k, k), np.nan), np.full((n_pairs, k, k), np.nan),
        np.full((n_pairs, 4), np.nan), np.full((n_pairs, 4), poisson.CONSTANT, dtype=np.int64),
    )  # fmt: skip


def robust_sd(fits: StateFits) -> Floats:
    """Standard deviation of I by the sandwich, shape (L,).

    A product per pair: sums over all pairs at once have an order that depends on how many there are.
    """
    of_states = fits.sandwich[:, -3:, -3:]
    variance: Floats = CONTRAST[None, None, :] @ of_states @ CONTRAST[None, :, None]
    return np.sqrt(variance[:, 0, 0])


def limit_of(test: int, cells: NDArray[Any], totals: NDArray[Any]) -> float:
    """Coefficient of a test that the states' cells and counts decide without a fit; 0 if they do not.

    Parameters
    ----------
    test : int
        Place in ``TESTS``.
    cells, totals : arrays, shape (4,)
        Cells of each state, and their counts.

    Returns
    -------
    float
        NaN if a state of the test has no cells, or if states without counts pull in both directions; -inf or +inf if
        they pull in one.

    Examples
    --------
    >>> limit_of(INTERACTION, [5, 5, 5, 5], [9, 9, 9, 0]), limit_of(0, [5, 5, 5, 5], [0, 9, 9, 0])
    (-inf, inf)
    """
    up, down = ((3, 0), (1, 2)) if test == INTERACTION else ((test + 1,), (0,))
    if any(cells[s] == 0 for s in up + down):
        return float("nan")
    falls, rises = any(totals[s] == 0 for s in up), any(totals[s] == 0 for s in down)
    if falls and rises:
        return float("nan")
    return -np.inf if falls else np.inf if rises else 0.0


def fit_states_plainly(pairs: StatePairs) -> StateFits:
    """Four Poisson fits per pair, one after the other, by :func:`.poisson.fit_prepared`: the reference."""
    fits = empty_fits(len(pairs.gene), pairs.nuisance.z.shape[1])
    for pair in range(len(pairs.gene)):
        y, state = pairs.counts[pairs.gene[pair]], pairs.states(pair)
        cells, totals = np.bincount(state, minlength=4), np.bincount(state, y, minlength=4)
        for test in range(4):
            limit = limit_of(test, cells, totals)
            if limit != 0.0:
                fits.beta[pair, test] = limit
                fits.status[pair, test] = poisson.SEPARATED if np.isinf(limit) else poisson.CONSTANT
            elif test == INTERACTION:
                _fit_joint(fits, pair, y, state, pairs.nuisance)
            else:
                _fit_contrast(fits, pair, test, y, state, pairs.nuisance)
    return fits


def some_cells(nuisance: poisson.Nuisance, cells: NDArray[Any]) -> poisson.Nuisance:
    """Covariates and offset of some cells, in the units of all."""
    z = nuisance.z[cells]
    two_valued = np.array([len(np.unique(column)) <= 2 for column in z.T], dtype=np.bool_)
    return replace(nuisance, z=z, offset=nuisance.offset[cells], two_valued=two_valued)


def varying(nuisance: poisson.Nuisance) -> tuple[poisson.Nuisance, NDArray[np.bool_]]:
    """Without the covariates that have one value in the cells at hand, and which ones are left, shape (c,).

    A donor may have no cells in two of the states; R drops its dummy there, too.
    """
    varies = np.ptp(nuisance.z, axis=0) > 0.0
    if varies.all():
        return nuisance, varies
    columns = {name: getattr(nuisance, name)[varies] for name in ("centre", "scale", "two_valued")}
    return replace(nuisance, z=nuisance.z[:, varies], **columns), varies


def cells_left(design: Floats, coefficients: Floats) -> NDArray[np.bool_]:
    """Cells that a fit with infinite coefficients of dummies stands on, shape (n,).

    Examples
    --------
    >>> dummies = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    >>> cells_left(dummies, np.array([-np.inf, np.inf]))
    array([False,  True, False,  True])
    """
    left = np.ones(design.shape[1], dtype=np.bool_)
    for j in np.flatnonzero(np.isinf(coefficients)):
        left &= design[j] == (design[j].min() if coefficients[j] < 0.0 else design[j].max())
    return left


def in_own_units(coefficients: Floats, nuisance: poisson.Nuisance) -> Floats:
    """Intercept and slopes of covariates in their own units, from those of ``nuisance.z``, shape (..., 1 + c)."""
    slopes = coefficients[..., 1:] / nuisance.scale
    finite = np.where(np.isfinite(slopes), slopes, 0.0)  # the others stand apart
    intercept = coefficients[..., :1] - (finite * nuisance.centre).sum(axis=-1, keepdims=True)
    return np.concatenate([intercept, slopes], axis=-1)


def _fit_contrast(
    fits: StateFits, pair: int, test: int, y: Floats, state: NDArray[np.uint8], nuisance: poisson.Nuisance
) -> None:
    inside = (state == 0) | (state == test + 1)
    there, varies = varying(some_cells(nuisance, inside))
    fit = poisson.fit_prepared(y[inside], (state[inside] > 0)[:, None], there)
    fits.status[pair, test] = fit.status
    fits.beta[pair, test], fits.se[pair, test] = fit.coefficients[-1], fit.standard_errors[-1]
    if fit.status == poisson.CONVERGED:
        fits.contrasts[pair, test, np.r_[True, varies, True]] = poisson.standardised(fit.coefficients, there)


def _fit_joint(fits: StateFits, pair: int, y: Floats, state: NDArray[np.uint8], nuisance: poisson.Nuisance) -> None:
    dummies = (state[:, None] == np.arange(1, 4)).astype(np.float64)
    fit = poisson.fit_prepared(y, dummies, nuisance)
    fits.status[pair, INTERACTION] = fit.status
    if fit.status != poisson.CONVERGED:
        return
    fits.joint[pair] = poisson.standardised(fit.coefficients, nuisance)
    x = nuisance.design(dummies)
    finite, used = np.isfinite(fits.joint[pair]), cells_left(x, fits.joint[pair])
    x, y, offset = x[finite][:, used], y[used], nuisance.offset[used]
    mean = np.exp(fits.joint[pair][finite] @ x + offset)
    inverse = np.linalg.inv((x * mean) @ x.T)
    place = np.ix_(finite, finite)
    fits.covariance[pair][place] = inverse
    fits.sandwich[pair][place] = inverse @ ((x * (y - mean) ** 2) @ x.T) @ inverse
    fits.beta[pair, INTERACTION] = CONTRAST @ fits.joint[pair, -3:]
    fits.se[pair, INTERACTION] = np.sqrt(CONTRAST @ fits.covariance[pair, -3:, -3:] @ CONTRAST)
