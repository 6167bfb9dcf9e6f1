from __future__ import annotations

import numpy as np
import pytest

from enhancer_dask.stats.exponential import LARGEST, exp_into


def exp(x, kernel=exp_into):
    x = np.asarray(x, dtype=np.float64)
    out = np.empty_like(x)
    kernel(x, out, np.empty_like(x))
    return out


@pytest.mark.parametrize("kernel", [exp_into, exp_into.py_func], ids=["numba", "python"])
@pytest.mark.parametrize("width", [1e-300, 1e-9, 1.0, 30.0, LARGEST])
def test_exp_into__equals_numpy(kernel, width):
    x = np.random.default_rng(0).uniform(-width, width, 2_000)
    edges = np.array([0.0, -0.0, width, -width, np.log(2) / 2, -np.log(2) / 2, np.log(2), 1.5 * np.log(2)])
    x = np.concatenate([x, edges])
    np.testing.assert_allclose(exp(x, kernel), np.exp(x), rtol=4.5e-16)  # two units in the last place


def test_exp_into__cuts_what_would_overflow():
    beyond = exp([800.0, np.inf, -800.0, -np.inf])
    np.testing.assert_allclose(beyond, np.exp([LARGEST, LARGEST, -LARGEST, -LARGEST]), rtol=4.5e-16)


@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_exp_into__any_length(n):
    x = np.linspace(-3, 3, n)
    np.testing.assert_allclose(exp(x), np.exp(x), rtol=4.5e-16)
