"""The four tests of an enhancer pair with negative binomial regressions, theta by maximum likelihood in each.

Regressions, coefficients and what decides them without a fit are those of :mod:`.states`; the likelihood is that of
:mod:`.negative_binomial`. One regression after the other: the slow option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from enhancer_dask.stats import negative_binomial, poisson, saddlepoint, state_saddle
from enhancer_dask.stats import negative_binomial_saddle as nb_saddle
from enhancer_dask.stats.exact import Refitter
from enhancer_dask.stats.negative_binomial_bootstrap import exact_engine
from enhancer_dask.stats.states import (
    CONTRAST,
    INTERACTION,
    Floats,
    Ints,
    StateFits,
    StatePairs,
    StateSaddles,
    empty_fits,
    limit_of,
    robust_sd,
    some_cells,
    varying,
)

OF_TEST = ((0, 1), (0, 2), (0, 3), (0, 1, 2, 3))  # states whose cells are in the regression

_TRUST = {
    negative_binomial.CONVERGED: saddlepoint.TRUSTED,
    nb_saddle.FEW_CELLS: saddlepoint.CONCENTRATED,
    nb_saddle.NO_SADDLEPOINT: saddlepoint.NO_SADDLE,
    negative_binomial.NOT_CONVERGED: saddlepoint.NO_SADDLE,  # of the rounds: the fit is known to converge
}


@dataclass(frozen=True, slots=True)
class _Regression:
    """One test of one pair: its m cells and what stands in the regression."""

    cells: Ints
    """Among those of the pair, shape (m,)."""
    state: NDArray[np.uint8]
    """Shape (m,)."""
    counts: Floats
    """Shape (m,)."""
    dummies: Floats
    """Of the states but 00, shape (m, 1) or (m, 3)."""
    nuisance: poisson.Nuisance
    """Of the m cells, in the units of all."""

    @classmethod
    def of(cls, pairs: StatePairs, pair: int, test: int) -> _Regression:
        """Test ``test`` of a pair."""
        state = pairs.states(pair)
        cells = np.flatnonzero(np.isin(state, OF_TEST[test]))
        dummies = (state[cells, None] == OF_TEST[test][1:]).astype(np.float64)
        return cls(
            cells, state[cells], pairs.counts[pairs.gene[pair], cells], dummies, some_cells(pairs.nuisance, cells)
        )

    @property
    def combine(self) -> Floats:
        """The coefficient tested, as a combination of those of the dummies."""
        return CONTRAST if self.dummies.shape[1] == 3 else np.ones(1)

    def limits(self, test: int, weights: NDArray[Any]) -> Floats:
        """:func:`.states.limit_of` for each row of ``weights``, shape (R, m)."""
        members = (self.state[:, None] == np.arange(4)).astype(np.float64)
        cells, totals = weights @ members, weights @ (members * self.counts[:, None])
        return np.array([limit_of(test, *both) for both in zip(cells, totals, strict=True)])


def fit_states(pairs: StatePairs) -> StateFits:
    """Fit the four negative binomial regressions of every pair.

    Parameters
    ----------
    pairs : StatePairs
        L of them; L may be 0.

    Returns
    -------
    StateFits
        With theta of each regression, infinite where its maximum is the Poisson fit. Standard errors and
        ``covariance`` hold theta at its estimate, as ``summary`` of ``MASS::glm.nb`` does; so does ``sandwich``,
        which is right to first order if the means are: the information that coefficients and theta share is zero
        then.

    Examples
    --------
    >>> counts = np.array([[2.0, 4.0, 3.0, 9.0] * 2 + [0.0, 12.0, 1.0, 1.0]])  # states 00, 10, 01, 11 in turn
    >>> peaks = np.array([[0, 1, 0, 1] * 3, [0, 0, 1, 1] * 3], dtype=np.uint8)
    >>> row = np.array([0])
    >>> pairs = StatePairs(counts, peaks, row, row, row + 1, poisson.make_nuisance(np.empty((12, 0))))
    >>> fits = fit_states(pairs)
    >>> np.exp(fits.beta[0]).round(6).tolist(), float(fits.theta[0, 3].round(2))  # 20 / 4, 7 / 4, 19 / 4; 19 * 4 / 140
    ([5.0, 1.75, 4.75, 0.542857], 6.58)
    """
    fits = empty_fits(len(pairs.gene), pairs.nuisance.z.shape[1])
    for pair in range(len(pairs.gene)):
        for test in range(4):
            regression = _Regression.of(pairs, pair, test)
            limit = regression.limits(test, np.ones((1, regression.cells.size)))[0]
            if limit != 0.0:
                fits.beta[pair, test] = limit
                fits.status[pair, test] = poisson.SEPARATED if np.isinf(limit) else poisson.CONSTANT
            else:
                _fit(fits, pair, test, regression)
    return fits


def _fit(fits: StateFits, pair: int, test: int, regression: _Regression) -> None:
    nuisance, varies = varying(regression.nuisance)
    fit = negative_binomial.fit_prepared(regression.counts, regression.dummies, nuisance)
    fits.status[pair, test], fits.theta[pair, test] = fit.status, fit.theta
    if fit.status != poisson.CONVERGED:
        return
    coefficients = poisson.standardised(fit.coefficients, nuisance)
    fits.beta[pair, test] = regression.combine @ fit.coefficients[-len(regression.combine) :]
    if test != INTERACTION:
        fits.contrasts[pair, test, np.r_[True, varies, True]] = coefficients
        fits.se[pair, test] = fit.standard_errors[-1]
        return
    fits.joint[pair] = coefficients
    finite = np.isfinite(coefficients)
    x, y, _, offset = negative_binomial.cells_in_use(regression.counts, regression.dummies, nuisance)
    x, mean = x[finite], np.exp(coefficients[finite] @ x[finite] + offset)
    shrink = 1.0 + mean / fit.theta
    inverse = np.linalg.inv((x * (mean / shrink)) @ x.T)
    place = np.ix_(finite, finite)
    fits.covariance[pair][place] = inverse
    fits.sandwich[pair][place] = inverse @ ((x * ((y - mean) / shrink) ** 2) @ x.T) @ inverse
    fits.se[pair, test] = np.sqrt(CONTRAST @ fits.covariance[pair, -3:, -3:] @ CONTRAST)


def saddle_states(pairs: StatePairs, fits: StateFits, level: float = 0.95) -> StateSaddles:
    """Saddlepoint p-values of the four tests of fitted pairs, by :mod:`.negative_binomial_saddle`.

    Parameters
    ----------
    pairs : StatePairs
    fits : StateFits
        What :func:`fit_states` returned for them.
    level : float
        Of the confidence interval.

    Returns
    -------
    StateSaddles
        ``sd`` is known for I alone, from the sandwich, and the interval is normal: ``low`` and ``high`` are I less and
        plus so many of it. Trust has the codes of :mod:`.state_saddle` and its bounds on the cells of a state;
        CONCENTRATED stands for fewer than ``nb_saddle.FEWEST_CELLS`` effective cells.
    """
    n_pairs = len(pairs.gene)
    p, sd = np.full((n_pairs, 4), np.nan), np.full((n_pairs, 4), np.nan)
    trust = np.full((n_pairs, 4), saddlepoint.NOT_FITTED, dtype=np.int64)
    for pair, test in np.argwhere(fits.status == poisson.CONVERGED):
        regression = _Regression.of(pairs, pair, test)
        found = _saddle(regression)
        p[pair, test], trust[pair, test] = found.p, _trust(regression, found.status)
    sd[:, INTERACTION] = robust_sd(fits)
    interaction, spread = fits.beta[:, INTERACTION], sd[:, INTERACTION]
    margin = ndtri(0.5 + 0.5 * level) * spread
    p_interval = 2.0 * ndtr(-np.abs(interaction / spread))
    return StateSaddles(p, sd, interaction - margin, interaction + margin, p_interval, trust)


def _trust(regression: _Regression, status: int) -> int:
    code = _TRUST.get(status, saddlepoint.NO_SADDLE)
    cells = np.unique_counts(regression.state).counts
    with_counts = np.unique_counts(regression.state[regression.counts > 0.0]).counts
    if code == saddlepoint.NO_SADDLE:
        return code
    if len(cells) == 4 and cells.min() < state_saddle.FEWEST_IN_STATE:
        return state_saddle.RARE_STATE
    return saddlepoint.FEW_CELLS if with_counts.min() < saddlepoint.FEWEST_CELLS else code


def _saddle(regression: _Regression) -> nb_saddle.NegativeBinomialSaddle:
    """Of I with the enhancers as covariates and their product as the peak, whose coefficient it is."""
    if regression.dummies.shape[1] == 1:
        return nb_saddle.saddle_prepared(regression.counts, regression.dummies[:, 0], regression.nuisance)
    enhancers = np.column_stack([regression.state & 1, regression.state >> 1])
    nuisance = poisson.make_nuisance(np.hstack([regression.nuisance.z, enhancers]), regression.nuisance.offset)
    return nb_saddle.saddle_prepared(regression.counts, regression.dummies[:, 2], nuisance)


def refitter(pairs: StatePairs, fits: StateFits) -> Refitter:
    """Refits of resamples of all cells, theta estimated afresh in each.

    Parameters
    ----------
    pairs : StatePairs
    fits : StateFits
        What :func:`fit_states` returned for them; refits start from there.

    Returns
    -------
    Refitter
        Test ``t`` of pair ``i`` is number ``4 * i + t``; from resamples (R, n) to coefficients (A, R, 1). A contrast is
        refitted on the drawn cells of its two states. :func:`.states.limit_of` decides what needs no fit.
    """

    def refit(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        out = np.empty((len(which), len(resamples), 1))
        for a, number in enumerate(which):
            out[a, :, 0] = _refit(pairs, fits, *divmod(int(number), 4), np.asarray(resamples))
        return out, np.full(len(which), len(resamples))

    return refit


def _refit(pairs: StatePairs, fits: StateFits, pair: int, test: int, resamples: NDArray[Any]) -> Floats:
    regression = _Regression.of(pairs, pair, test)
    drawn = resamples[:, regression.cells]
    out = regression.limits(test, drawn)
    wanted = np.flatnonzero(out == 0.0)
    if wanted.size:
        full = fits.joint[pair] if test == INTERACTION else fits.contrasts[pair, test]
        start = np.where(np.isfinite(full), full, 0.0)
        engine = exact_engine(regression.counts, regression.dummies, regression.nuisance, start)
        out[wanted] = engine(drawn[wanted]) @ regression.combine
    return out
