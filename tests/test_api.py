from __future__ import annotations

import subprocess
import sys

import pytest

import enhancer_dask as ed


def test_every_public_name_loads():
    for name in ed.__all__:
        assert callable(getattr(ed, name))
        assert name in dir(ed)
    with pytest.raises(AttributeError, match="has no attribute 'sent'"):
        _ = ed.sent


@pytest.mark.parametrize("module", ["enhancer_dask", "enhancer_dask.cli"])
def test_import__loads_nothing_heavy(module):
    heavy = ("numpy", "pandas", "dask", "numba", "xarray", "matplotlib")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == ""
