from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, polygamma, psi

from enhancer_dask.stats.gamma_differences import gamma_differences

KERNELS = pytest.mark.parametrize("kernel", [gamma_differences.py_func, gamma_differences], ids=["python", "numba"])


@KERNELS
@settings(deadline=None, max_examples=60)
@given(exponent=st.floats(-6, 9), y=st.integers(1, 2_000))
def test_gamma_differences__are_the_sums_over_integers(kernel, exponent, y):
    x = 10.0**exponent
    steps = x + np.arange(y)
    log_gamma, digamma, trigamma = kernel(x, float(y))
    want = math.fsum(np.log1p(np.arange(y) / x))
    # each logarithm is of the order of the result or of y, and is rounded a few times
    np.testing.assert_allclose(log_gamma, want, rtol=1e-13, atol=1e-14 * y)
    np.testing.assert_allclose(digamma, math.fsum(1 / steps), rtol=1e-13)
    np.testing.assert_allclose(trigamma, -math.fsum(1 / steps**2), rtol=2e-13)  # first omitted terms: 2e-14 each


@KERNELS
@settings(deadline=None, max_examples=60)
@given(x=st.floats(1e-3, 50.0), y=st.floats(0.0, 300.0))
def test_gamma_differences__agree_with_scipy_on_fractions(kernel, x, y):
    log_gamma, digamma, trigamma = kernel(x, y)
    # scipy's functions are subtracted here: their size times the rounding of doubles, at most 1e-15 * 1e6
    np.testing.assert_allclose(log_gamma, gammaln(x + y) - gammaln(x) - y * np.log(x), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(digamma, psi(x + y) - psi(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(trigamma, polygamma(1, x + y) - polygamma(1, x), rtol=1e-11, atol=1e-9)


@KERNELS
def test_gamma_differences__vanish_at_no_difference(kernel):
    np.testing.assert_allclose(kernel(0.3, 0.0), 0.0, atol=1e-15)
    np.testing.assert_allclose(kernel(1e8, 1.0), (0.0, 1e-8, -1e-16), rtol=1e-7, atol=1e-15)
