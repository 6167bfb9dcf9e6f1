from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import enhancer_dask as ed
from enhancer_dask.errors import InputError


def test_every_public_name_loads():
    for name in ed.__all__:
        assert name in dir(ed)
        if not needs_torch(ed._WHERE[name]) or importlib.util.find_spec("torch_geometric"):
            assert callable(getattr(ed, name))
    with pytest.raises(AttributeError, match="has no attribute 'sent'"):
        _ = ed.sent


def test_models__build_by_name_from_a_bare_import():
    pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    code = "import enhancer_dask as ed; print('models' in dir(ed), type(ed.models.build('gcn', width=8)).__name__)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.split() == ["True", "EpiGraphReg"]


def test_every_module_imports():
    names = [module.name for module in pkgutil.walk_packages(ed.__path__, "enhancer_dask.")]
    assert len(names) > 100
    refused = [name for name in names if not name.endswith(".__main__") and needs_torch(name)]
    assert not refused or importlib.util.find_spec("torch_geometric") is None


def needs_torch(name):
    """Import a module; whether it asks for the optional extra, which is the only excuse."""
    try:
        importlib.import_module(name)
    except (ImportError, InputError) as err:
        if "torch" in str(err) or "enhancer-dask[gnn]" in str(err):
            return True
        raise
    return False


@pytest.mark.parametrize("module", ["enhancer_dask", "enhancer_dask.cli"])
def test_import__loads_nothing_heavy(module):
    heavy = ("numpy", "pandas", "dask", "numba", "xarray", "matplotlib", "torch")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == ""
