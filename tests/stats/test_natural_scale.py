from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from enhancer_dask.stats.natural_scale import natural_scale
from enhancer_dask.stats.states import CONTRAST

Z = norm.ppf(0.975)


def some_pairs(n=200, seed=0, se=0.15):
    """b, covariance and the normal interval of I of pairs with any correlation."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, 3, 3)) * se
    covariance = root @ root.transpose(0, 2, 1)
    b = rng.normal(0.0, 0.5, size=(n, 3))
    half = Z * np.sqrt(CONTRAST @ covariance @ CONTRAST)
    return b, covariance, (b @ CONTRAST - half, b @ CONTRAST + half)


def test_natural_scale__equals_its_definition():
    b, covariance, interval = some_pairs()
    found = natural_scale(b, covariance, interval)
    np.testing.assert_allclose(found.fold, np.exp(b))
    f, d = np.exp(b), 1e-6

    def departure(b):
        return b[2] - np.log(np.exp(b[0]) + np.exp(b[1]) - 1)

    def additive(b):
        return np.exp(b[0]) + np.exp(b[1]) - 1

    def by_differences(function, b, covariance):
        slope = [(function(b + d * e) - function(b - d * e)) / (2 * d) for e in np.eye(3)]
        return np.sqrt(slope @ covariance @ slope)

    for i in np.flatnonzero(f[:, 0] + f[:, 1] > 1.1):
        for function, got in ((additive, found.additive), (departure, found.departure)):
            value, se = function(b[i]), by_differences(function, b[i], covariance[i])
            want = value + Z * se * np.array([0, -1, 1])
            # central differences are good to d^2 and rounding / d
            np.testing.assert_allclose([got.value[i], got.low[i], got.high[i]], want, rtol=1e-6, atol=1e-7)
        se = np.sqrt(covariance[i, 0, 0] + covariance[i, 1, 1] + 2 * covariance[i, 0, 1])
        got = found.multiplicative
        want = f[i, 0] * f[i, 1] * np.exp(Z * se * np.array([0, -1, 1]))
        np.testing.assert_allclose([got.value[i], got.low[i], got.high[i]], want, rtol=1e-12)


def one(b, se, interval, **settings):
    """A single pair with uncorrelated coefficients."""
    low, high = map(np.array, interval)
    return natural_scale(np.array([b], float), np.eye(3)[None] * se**2, (low, high), **settings)


@pytest.mark.parametrize(
    ("folds", "se", "low", "high", "verdict"),
    [
        ((2, 3, 6), 0.01, -0.05, 0.05, "multiplicative-compatible"),
        ((2, 3, 6.5), 0.01, 0.03, 0.13, "multiplicative-compatible"),  # not zero, yet within the margin
        ((1.05, 1.05, 1.1), 0.01, -0.05, 0.05, "multiplicative-compatible"),  # additive as well
        ((2, 3, 4), 0.01, -0.45, -0.36, "additive-compatible"),
        ((2, 3, 4), 0.01, -0.9, 0.1, "additive-compatible"),  # I is unclear, D is not
        ((2, 3, 9), 0.01, 0.35, 0.45, "super-multiplicative"),
        ((2, 3, 9), 0.9, 0.1, 0.8, "super-multiplicative"),
        ((2, 3, 2), 0.01, -1.2, -1.0, "sub-multiplicative"),
        ((2, 3, 6), 0.5, -0.9, 0.9, "undecided"),
        ((2, 3, 6), 0.5, -0.1, 0.3, "undecided"),  # beyond log 1.25 = 0.22
        ((2, 3, 6), 0.5, -0.5, np.inf, "undecided"),
        ((2, 3, 6), 0.5, np.nan, np.nan, "undecided"),
        ((2, 3, 4), 0.01, np.nan, np.nan, "additive-compatible"),
        ((0.3, 0.4, 0.1), 0.01, -0.3, 0.1, "undecided"),  # additive expectation below zero
        ((0.3, 0.4, 0.05), 0.01, -1.0, -0.8, "sub-multiplicative"),
        ((2, 3, 0), 0.01, -0.1, 0.1, ""),
        ((np.nan, 3, 2), 0.01, -0.1, 0.1, ""),
        ((2, np.inf, 2), 0.01, np.nan, np.nan, ""),
    ],
)
def test_natural_scale__verdicts(folds, se, low, high, verdict):
    with np.errstate(divide="ignore"):
        found = one(np.log(np.array(folds, float)), se, ([low], [high]))
    assert found.verdict.tolist() == [verdict]


def test_natural_scale__margin_and_level_matter():
    b = np.log([2.0, 3.0, 6.0])
    assert one(b, 0.5, ([-0.1], [0.3])).verdict[0] == "undecided"
    assert one(b, 0.5, ([-0.1], [0.3]), margin=1.5).verdict[0] == "multiplicative-compatible"
    wide, narrow = one(b, 0.1, ([0.0], [0.0]), level=0.99), one(b, 0.1, ([0.0], [0.0]), level=0.9)
    ratio = norm.ppf(0.995) / norm.ppf(0.95)
    for name in ("additive", "departure"):
        w, n = getattr(wide, name), getattr(narrow, name)
        np.testing.assert_allclose((w.high - w.low) / (n.high - n.low), ratio)
    for settings, message in (({"margin": 1.0}, "margin is 1.0"), ({"level": 95}, "level is 95; want a coverage")):
        with pytest.raises(ValueError, match=message):
            one(b, 0.1, ([0.0], [0.0]), **settings)


def test_natural_scale__does_not_depend_on_the_order_of_enhancers():
    b, covariance, interval = some_pairs(seed=1)
    swap = [1, 0, 2]
    found = natural_scale(b, covariance, interval)
    other = natural_scale(b[:, swap], covariance[:, swap][:, :, swap], interval)
    np.testing.assert_array_equal(found.fold[:, swap], other.fold)
    np.testing.assert_array_equal(found.verdict, other.verdict)
    for name in ("additive", "multiplicative", "departure"):
        for end in ("value", "low", "high"):
            a, c = getattr(getattr(found, name), end), getattr(getattr(other, name), end)
            np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-13)  # sums in another order


def test_natural_scale__takes_what_has_no_number():
    b = np.array(
        [[-np.inf, 0.5, 0.2], [np.inf, 0.5, 0.2], [900.0, 0.0, 0.0], [np.nan] * 3, [-np.inf] * 3, [-2.0, -2.0, 0.1]]
    )
    none = np.full(len(b), np.nan)
    found = natural_scale(b, np.full((len(b), 3, 3), np.nan), (none, none))
    assert found.fold[:2, 0].tolist() == [0.0, np.inf]
    assert found.multiplicative.value[:2].tolist() == [0.0, np.inf]
    assert np.isnan(found.departure.value[3:]).all()
    assert found.additive.value[5] < 0  # and D does not exist there
    assert all(np.isnan(getattr(found, name).low).all() for name in ("additive", "multiplicative", "departure"))
    assert found.verdict.tolist() == ["", "", "undecided", "", "", "undecided"]
    empty = natural_scale(b[:0], np.empty((0, 3, 3)), (none[:0], none[:0]))
    assert len(empty.verdict) == len(empty.departure.value) == 0


@pytest.mark.parametrize("name", ["additive", "multiplicative", "departure"])
def test_natural_scale__intervals_cover_the_truth(name):
    """Estimates are normal about the truth with the covariance given; the delta method is good at these errors."""
    rng, n = np.random.default_rng(2), 20_000
    truth = np.log([1.8, 0.7, 1.9])
    root = np.array([[0.06, 0, 0], [0.02, 0.05, 0], [0.03, 0.01, 0.07]])
    covariance = root @ root.T
    b = truth + rng.normal(size=(n, 3)) @ root.T
    zeros = np.zeros(n)
    got = getattr(natural_scale(b, np.broadcast_to(covariance, (n, 3, 3)), (zeros, zeros)), name)
    want = {"additive": 1.8 + 0.7 - 1, "multiplicative": 1.8 * 0.7, "departure": np.log(1.9 / 1.5)}[name]
    covered = int(((got.low <= want) & (want <= got.high)).sum())
    # 0.5% for the curvature, beyond the binomial scatter at 1e-6
    assert binom.ppf(1e-6, n, 0.945) <= covered <= binom.ppf(1 - 1e-6, n, 0.955)
