"""Two enhancers on the natural scale: do their fold changes add up, or multiply?

With F_s = exp(b_s) the fold change of state s to state 00, the joint effect is F_11 = F_10 + F_01 - 1 if the effects
add up and F_11 = F_10 F_01 if they multiply. How far F_11 is off is measured on the log scale for both,

    I = b_11 - b_10 - b_01,        D = b_11 - log(F_10 + F_01 - 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]

MULTIPLICATIVE, ADDITIVE = "multiplicative-compatible", "additive-compatible"
SUPER, SUB, UNDECIDED, NO_FIT = "super-multiplicative", "sub-multiplicative", "undecided", ""
VERDICTS = (MULTIPLICATIVE, ADDITIVE, SUPER, SUB, UNDECIDED, NO_FIT)


@dataclass(frozen=True, slots=True)
class Estimates:
    """A quantity of L pairs with its confidence interval, each of shape (L,); NaN where it does not exist."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class NaturalScale:
    """What is expected of two enhancers on the natural scale, and what they do."""

    fold: Floats
    """Fold changes of 10, 01, 11 to 00, shape (L, 3); 0 or inf where the coefficient is infinite."""
    additive: Estimates
    """F_11 expected if fold changes minus one add up; may be below zero."""
    multiplicative: Estimates
    """F_11 expected if fold changes multiply."""
    departure: Estimates
    """D; NaN where the additive expectation is not positive."""
    verdict: NDArray[Any]
    """One of ``VERDICTS`` per pair, shape (L,), object."""


def natural_scale(
    b: Floats, covariance: Floats, interval: tuple[Floats, Floats], *, level: float = 0.95, margin: float = 1.25
) -> NaturalScale:
    """Fold changes, expectations with confidence intervals, and a verdict for L enhancer pairs.

    Parameters
    ----------
    b : float64 array, shape (L, 3)
        b_10, b_01, b_11 of the four-state regression, natural log. Infinite where a state has no counts.
    covariance : float64 array, shape (L, 3, 3)
        Of ``b``.
    interval : two float64 arrays, shape (L,)
        Lower and upper end of the confidence interval of I, at the same level.
    level : float
        Coverage of the intervals.
    margin : float
        Ratio, above 1: a joint effect that is off by less is as good as the expectation.

    Returns
    -------
    NaturalScale

    Raises
    ------
    ValueError
        If ``level`` is not between 0 and 1 or ``margin`` is not a finite ratio above 1.

    Notes
    -----
    Intervals of the additive expectation and of D are by the delta method, that of the multiplicative expectation is
    normal on the log scale. With m = log(margin), the verdict is, first that holds:

    - the interval of I is within [-m, m]: multiplicative-compatible;
    - the interval of D is within [-m, m]: additive-compatible;
    - the interval of I is above or below 0: super- or sub-multiplicative;
    - undecided: the data exclude neither.

    An interval within the margins is an equivalence test [1]_, so "evidence of no interaction" and "no evidence"
    differ. At weak effects both expectations agree and the first verdict covers either. A pair without a finite fit
    has the verdict "".

    References
    ----------
    .. [1] Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680.

    Examples
    --------
    >>> b, covariance = np.log([[2.0, 3.0, 4.0]]), np.diag([1e-3] * 3)[None]
    >>> interval = np.log([4.0 / 6.0]) - 0.1, np.log([4.0 / 6.0]) + 0.1
    >>> found = natural_scale(b, covariance, interval)
    >>> found.additive.value.round(6), found.multiplicative.value.round(6), found.verdict
    (array([4.]), array([6.]), array(['additive-compatible'], dtype=object))
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; want a coverage between 0 and 1")
    if not 1.0 < margin < np.inf:
        raise ValueError(f"margin is {margin}; want a ratio above 1")
    b, z = np.asarray(b, dtype=np.float64), float(ndtri(0.5 + level / 2.0))
    with np.errstate(all="ignore"):  # what does not exist is inf or NaN
        fold, one = np.exp(b), np.ones(len(b))
        expected = fold[:, 0] + fold[:, 1] - 1.0
        positive = np.where(expected > 0.0, expected, np.nan)
        additive = _around(expected, np.stack([fold[:, 0], fold[:, 1], 0 * one], axis=1), covariance, z)
        product = _around(b[:, 0] + b[:, 1], np.stack([one, one, 0 * one], axis=1), covariance, z)
        gradient = np.stack([-fold[:, 0] / positive, -fold[:, 1] / positive, one], axis=1)
        departure = _around(b[:, 2] - np.log(positive), gradient, covariance, z)
        multiplicative = Estimates(np.exp(product.value), np.exp(product.low), np.exp(product.high))
    fitted = np.logical_and.reduce(np.isfinite(b), axis=1)
    verdict = _verdicts(fitted, *interval, departure, np.log(margin))
    return NaturalScale(fold, additive, multiplicative, departure, verdict)


def _around(value: Floats, gradient: Floats, covariance: Floats, z: float) -> Estimates:
    """A quantity with its delta-method interval."""
    variance = gradient[:, None, :] @ covariance @ gradient[:, :, None]  # pair by pair, so that bits do not depend on L
    half = z * np.sqrt(variance[:, 0, 0])
    return Estimates(value, value - half, value + half)


def _verdicts(fitted: NDArray[np.bool_], low: Floats, high: Floats, departure: Estimates, m: float) -> NDArray[Any]:
    """First rule that holds; a bound that is NaN holds none."""
    multiplies, adds = (low >= -m) & (high <= m), (departure.low >= -m) & (departure.high <= m)
    rules = [~fitted, multiplies, adds, low > 0.0, high < 0.0]
    return np.select(rules, [NO_FIT, MULTIPLICATIVE, ADDITIVE, SUPER, SUB], default=UNDECIDED).astype(object)
