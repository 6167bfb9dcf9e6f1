from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from enhancer_dask.stats.logarithm import log1p_into


@pytest.mark.parametrize("kernel", [log1p_into.py_func, log1p_into], ids=["python", "numba"])
@settings(deadline=None)
@given(x=arrays(np.float64, st.integers(0, 9), elements=st.floats(0.0, 1e300, allow_subnormal=False)))
def test_log1p_into__is_the_library_function_to_three_units(kernel, x):
    out, scratch = np.full_like(x, np.nan), np.full_like(x, np.nan)
    kernel(x, out, scratch)
    np.testing.assert_array_max_ulp(out, np.log1p(x), 4)  # three of its own and one of the library's


def test_log1p_into__over_the_whole_range():
    rng = np.random.default_rng(0)
    x = np.concatenate([10.0 ** rng.uniform(-300, 300, 50_000), rng.uniform(0, 4, 50_000), [0.0, np.sqrt(2) - 1, 1.0]])
    out, scratch = np.empty_like(x), np.empty_like(x)
    log1p_into(x, out, scratch)
    np.testing.assert_array_max_ulp(out, np.log1p(x), 4)
