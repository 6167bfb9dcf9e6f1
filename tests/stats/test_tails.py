from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import gamma, norm

from enhancer_dask.stats import tails


@pytest.mark.parametrize("x", [-30.0, -3.0, 0.0, 1e-9, 2.0, 3.999, 4.0, 12.0, 100.0])
def test_mills__equals_scipy(x):
    want = np.exp(log_ndtr(-x) - norm.logpdf(x))
    np.testing.assert_allclose(tails.mills(x), want, rtol=1e-11)


@pytest.mark.parametrize("r", [-20.0, -2.0, -0.3, 0.3, 2.0, 20.0])
def test_log_tail__is_normal_where_the_roots_agree_and_its_tails_sum_to_one(r):
    np.testing.assert_allclose(tails.log_tail(r, r), log_ndtr(-r), rtol=1e-10, atol=1e-15)
    u = r * 1.05
    both = np.exp(tails.log_tail(r, u)) + np.exp(tails.log_tail(-r, -u))
    assert both == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("x", [4.0, 7.0, 9.0, 11.0, 15.0, 40.0, 400.0])
def test_log_tail__of_a_gamma_sum(x):
    # the sum of 10 exponentials: K(t) = -10 log(1 - t), saddle t = 1 - 10 / x; far out the error of
    # Lugannani and Rice is that of Stirling's formula for 10!, 1 / 120
    t = 1.0 - 10.0 / x
    r = np.sign(t) * np.sqrt(2.0 * (t * x + 10.0 * np.log1p(-t)))
    u = t * np.sqrt(10.0) / (1.0 - t)
    np.testing.assert_allclose(tails.log_tail(r, u), gamma(10).logsf(x), rtol=0, atol=1 / 120)
    want = 2.0 * min(gamma(10).sf(x), gamma(10).cdf(x))
    np.testing.assert_allclose(tails.two_sided(r, u), want, rtol=1 / 120)


def test_two_sided__never_zero_and_nan_without_a_tail():
    assert tails.two_sided(60.0, 60.0) == tails.SMALLEST_P
    assert np.isnan(tails.two_sided(np.nan, 1.0))
    assert np.isnan(tails.two_sided(1.0, np.inf))
    rows = np.array([[1e-9, 1e-9], [np.nan, 1.0]])
    np.testing.assert_allclose(tails.two_sided_all(rows), [1.0, np.nan], rtol=1e-8)


def test_root__small_ones_by_cumulants():
    # v normal with small variance s: K(1) of the tilt that has mean zero is -n s / 2 but for terms of order s^2
    n, s = 1_000, 1e-9
    root = tails.root(-0.5 * n * s, n, 0.0, n * s, 0.0, 3.0 * n * s**2)
    assert root == pytest.approx(np.sqrt(n * s), rel=1e-12)
    assert tails.root(-8.0, n, 0.0, 0.0, 0.0, 0.0) == 4.0
