"""The basic-bootstrap p-value of a negative binomial coefficient without resampling, by saddlepoint.

A resample's coefficient is at or beyond c when the likelihood of the resample, maximised over all other parameters
with the coefficient held at c, still rises there. To first order that slope is a sum over the drawn cells of fixed
scores s_i: the cell's slope in the coefficient less its projection on the slopes in the other parameters, theta
among them. Resampling makes the sum multinomial, so its cumulants are known and Lugannani and Rice's formula [1]_
gives its tail; Davison and Hinkley [2]_ apply it to the bootstrap.

Where the scores are taken decides the accuracy. At the original cells the model with the coefficient at c fits
badly. The resamples that matter look different: cells are drawn in proportion to exp(t s_i), t the saddlepoint,
and in such cells c *is* the estimate. So the other parameters, their information and the scores are taken at the
cells so weighted, and the weights follow from the scores; a few rounds settle it. In deep tails this is
the difference between a few percent and a factor of 1.5.

References
----------
.. [1] Lugannani and Rice (1980), Advances in Applied Probability 12, 475-490.
.. [2] Davison and Hinkley (1988), Biometrika 75, 417-431.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from enhancer_dask.stats import negative_binomial, poisson
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.gamma_differences import gamma_differences
from enhancer_dask.stats.negative_binomial import CONVERGED, NOT_CONVERGED, NegativeBinomialFit
from enhancer_dask.stats.poisson import Floats
from enhancer_dask.stats.tails import two_sided

NO_SADDLEPOINT, FEW_CELLS = 5, 6  # further statuses

MAX_ROUNDS = 60
P_TOLERANCE = 0.005  # rounds end when p moves by less, relative
# Chosen on 1,050 simulated designs (100 to 2,500 cells, rare peaks, skewed covariates, p > 1e-9): of those above the
# bound 2 of 186 were off by more than 10% and two Monte-Carlo errors; on 622 fresh designs 2 of 116, the worst 38% too
# low (with a bound of 30: 6 of 183). Nearly all errors are downwards: what the refit of the other parameters does
# beyond first order counts where cells are few, and most in deep tails.
FEWEST_CELLS = 50.0


@dataclass(frozen=True, slots=True)
class NegativeBinomialSaddle:
    """The basic-bootstrap p-value of one coefficient by saddlepoint."""

    p: float
    """Two-sided, as :func:`.bootstrap.basic_p` has it with endless resamples. NaN without an answer."""
    n_effective: float
    """How many cells carry the tail: n times the squared second by the fourth moment of the tilted scores."""
    status: int
    """CONVERGED; FEW_CELLS (a value, not to be trusted: resample instead); NOT_CONVERGED; NO_SADDLEPOINT (twice the
    coefficient is beyond what resamples can reach); or why the original fit failed, as in :mod:`.poisson`."""
    rounds: int
    """Times the scores were taken."""


@compiled
def tilted_moments(scores, t):
    """Cumulant function of a draw from the scores at ``t``, and raw moments 1 to 4 of the scores so tilted."""
    top = max(t * scores.min(), t * scores.max())
    total, sums = 0.0, np.zeros(4)
    for i in range(scores.size):
        weight = np.exp(t * scores[i] - top)
        total += weight
        for power in range(4):
            weight *= scores[i]
            sums[power] += weight
    cumulant = np.log(total / scores.size) + top
    if abs(cumulant) < 0.1:  # near 1 it is better to take the logarithm of what is above 1
        rise = 0.0
        for i in range(scores.size):
            rise += np.expm1(t * scores[i])
        cumulant = np.log1p(rise / scores.size)
    return cumulant, sums / total


@compiled
def saddlepoint(scores):
    """The t at which the tilted scores have mean 0, by Newton within a bracket; NaN if all are on one side."""
    if not scores.min() < 0.0 < scores.max():
        return np.nan
    below, above, t = -np.inf, np.inf, 0.0
    for _ in range(200):
        _, moments = tilted_moments(scores, t)
        if moments[0] > 0.0:
            above = t
        else:
            below = t
        new = t - moments[0] / (moments[1] - moments[0] ** 2)
        if not below < new < above:
            new = 0.5 * (below + above) if np.isfinite(below + above) else 2.0 * t
        if abs(new - t) <= 1e-10 * abs(new):
            return new
        t = new
    return np.nan


def two_sided_p(scores: Floats, t: float) -> tuple[float, float]:
    """Twice the smaller of the chances that n draws sum to 0 or more, or to less; and the effective cells.

    Parameters
    ----------
    scores : float64 array, shape (n,)
    t : float
        Their :func:`saddlepoint`.

    Returns
    -------
    p, n_effective : float
    """
    n = scores.size
    cumulant, moments = tilted_moments(scores, t)
    root = np.sign(t) * np.sqrt(max(-2.0 * n * cumulant, 0.0))
    if abs(root) < 1e-3:  # the two parts of the correction cancel: their difference at t = 0
        shift = -moments[2] / moments[1] ** 1.5 / np.sqrt(n) / 6.0 / np.sqrt(2.0 * np.pi)
        p = min(1.0, 2.0 * min(ndtr(-root) + shift, ndtr(root) - shift))
    else:
        p = two_sided(root, t * np.sqrt(n * moments[1]))
    return float(p), float(n * moments[1] ** 2 / moments[3])


class _Held:
    """The model with the indicator's coefficient held, fitted to weighted cells.

    Cells of a dummy without counts are no part of it, in any resample; ``n_idle`` says how many there are.
    """

    def __init__(self, counts: Floats, indicator: Floats, nuisance: poisson.Nuisance, fit: NegativeBinomialFit):
        use = np.isfinite(fit.coefficients)
        rows, self.counts, _, self.offset = negative_binomial.cells_in_use(counts, indicator[:, None], nuisance)
        self.design, self.indicator = np.ascontiguousarray(rows[use]), rows[-1]
        self.n_idle = counts.size - self.counts.size
        self.values, self.level = negative_binomial.distinct(self.counts)
        self.mean_count = float(self.counts.mean())
        self.beta = poisson.standardised(fit.coefficients, nuisance)[use][:-1]
        self.kappa = float(np.log1p(self.mean_count / fit.theta))
        self.work = np.empty((4, self.counts.size))

    def fit(self, weights: Floats, held: float) -> bool:
        """Fit all but the indicator's coefficient; False if that failed."""
        status, self.kappa, _ = negative_binomial.newton(
            self.design[:-1], self.counts, weights, self.offset + held * self.indicator, self.mean_count,
            self.values, self._tally(weights), self.beta, self.kappa, poisson.STEP_TOLERANCE,
        )  # fmt: skip
        return bool(status == CONVERGED)

    def scores(self, weights: Floats, held: float) -> Floats:
        """Slope of each cell's likelihood in the held coefficient, less what the others' refit takes away."""
        kappa = max(self.kappa, negative_binomial.EDGE)
        eta = self.offset + held * self.indicator + self.beta @ self.design[:-1]
        k = self.beta.size
        slopes, lower = np.empty(k + 2), np.zeros((k + 2, k + 2))
        negative_binomial.score_and_information(
            self.design, self.counts, weights, eta, kappa, self.mean_count, self.values, self._tally(weights),
            self.work, slopes, lower,
        )  # fmt: skip
        information = np.tril(lower) + np.tril(lower, -1).T
        by_eta, by_kappa = self._slopes(np.exp(eta), kappa)
        others = [*range(k), k + 1] if self.kappa > 0.0 else [*range(k)]  # at the edge theta does not move
        share = np.linalg.solve(information[np.ix_(others, others)], information[others, k])
        scores: Floats = by_eta * (self.indicator - share[:k] @ self.design[:-1])
        if self.kappa > 0.0:
            scores -= share[k] * by_kappa
        return scores

    def _slopes(self, mean: Floats, kappa: float) -> tuple[Floats, Floats]:
        """Slopes of each cell's log-likelihood in its linear predictor and in kappa."""
        theta = self.mean_count / np.expm1(kappa)
        digamma = np.array([gamma_differences(theta, value)[1] for value in self.values])
        by_eta = (self.counts - mean) / (1.0 + mean / theta)
        by_log_theta = theta * (digamma[self.level] - np.log1p(mean / theta)) - by_eta
        return by_eta, by_log_theta / np.expm1(-kappa)

    def _tally(self, weights: Floats) -> Floats:
        return np.bincount(self.level, weights, self.values.size).astype(np.float64)


def saddle_negative_binomial(
    counts: NDArray[Any],
    indicator: NDArray[Any],
    covariates: NDArray[Any],
    *,
    offset: NDArray[Any] | None = None,
) -> NegativeBinomialSaddle:
    """P-value of the basic bootstrap over cells for one peak in a negative binomial regression, without resampling.

    Parameters
    ----------
    counts : array, shape (n,)
        Non-negative; need not be integers.
    indicator : array, shape (n,)
        The peak, 0/1.
    covariates : array, shape (n, c)
        Continuous covariates, dummies, other peaks; c may be 0.
    offset : array, shape (n,), optional
        Added to the linear predictor, log scale.

    Returns
    -------
    NegativeBinomialSaddle
        ``p`` approximates :func:`.bootstrap.basic_p` of endless resamples, each refitted with its own theta.

    Notes
    -----
    See the head of the module for the method. Of 110 pairs in 2,597 monocytes, p from 1 to 3e-9, 95% agree with
    4,000 tilted resamples within 5.4% and all within 8.7%, most of it the resamples' own error; the seven below 1e-3
    lie 5% low on average. With fewer than 50 effective cells p can be too small, by a factor of 2 where cells are
    few and the tail is deep.

    Examples
    --------
    >>> peak, counts = np.tile([0, 1], 300), np.tile([0, 1, 2, 2, 5, 7], 100)
    >>> saddle = saddle_negative_binomial(counts, peak, np.empty((600, 0)))
    >>> f"{saddle.p:.1e}", saddle.status == CONVERGED
    ('5.1e-07', True)
    """
    n = len(counts)
    nuisance = poisson.make_nuisance(np.asarray(covariates, dtype=np.float64).reshape(n, -1), offset)
    return saddle_prepared(counts, indicator, nuisance)


def saddle_prepared(
    counts: NDArray[Any], indicator: NDArray[Any], nuisance: poisson.Nuisance
) -> NegativeBinomialSaddle:
    """:func:`saddle_negative_binomial` with covariates and offset made ready by :func:`.poisson.make_nuisance`."""
    y, peak = np.ascontiguousarray(counts, dtype=np.float64), np.ascontiguousarray(indicator, dtype=np.float64)
    fit = negative_binomial.fit_prepared(y, peak[:, None], nuisance)
    if fit.status != CONVERGED:
        return NegativeBinomialSaddle(np.nan, 0.0, fit.status, 0)
    return _rounds(_Held(y, peak, nuisance, fit), fit)


def _rounds(model: _Held, fit: NegativeBinomialFit) -> NegativeBinomialSaddle:
    """Go from the coefficient to twice it in steps of two standard errors, then on until p settles."""
    beta, last = fit.coefficients[-1], np.inf
    steps = 1 + int(abs(beta / fit.standard_errors[-1]) / 2.0)
    weights = np.ones(model.counts.size)
    for round_ in range(1, MAX_ROUNDS + 1):
        held = beta * (1.0 + min(1.0, round_ / steps))
        if not model.fit(weights, held):
            return NegativeBinomialSaddle(np.nan, 0.0, NOT_CONVERGED, round_)
        scores = np.concatenate([model.scores(weights, held), np.zeros(model.n_idle)])
        t = saddlepoint(scores)
        if np.isnan(t):
            return NegativeBinomialSaddle(np.nan, 0.0, NO_SADDLEPOINT, round_)
        if round_ >= steps:
            p, n_effective = two_sided_p(scores, t)
            if abs(p - last) <= P_TOLERANCE * p:
                status = CONVERGED if n_effective >= FEWEST_CELLS else FEW_CELLS
                return NegativeBinomialSaddle(p, n_effective, status, round_)
            last = p
        exponent = t * scores[: model.counts.size]
        weights = np.exp(exponent - exponent.max())
        weights *= weights.size / weights.sum()
    return NegativeBinomialSaddle(np.nan, 0.0, NOT_CONVERGED, MAX_ROUNDS)
