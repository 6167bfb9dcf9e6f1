from __future__ import annotations

import sys

import numpy as np
import pytest

from enhancer_dask.stats import tensors


def test_import_torch__names_the_extra_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what import meets where nothing is installed
    with pytest.raises(ImportError, match=r"enhancer-dask\[gnn\]"):
        tensors.import_torch()


def test_find_device__says_what_is_wrong():
    torch = pytest.importorskip("torch")
    assert tensors.find_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device 'gpu' is unknown to torch"):
        tensors.find_device("gpu")
    with pytest.raises(ValueError, match=f"torch sees {torch.cuda.device_count()} GPUs"):
        tensors.find_device("cuda:99")


def test_factor__equals_numpy_and_marks_what_is_singular():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 5, 5))
    good = root @ root.transpose(0, 2, 1)
    singular, negative, missing = good[0].copy(), -good[1], np.full((5, 5), np.nan)
    singular[:, 4] = singular[:, 3]
    singular[4] = singular[3]
    matrix = np.stack([*good, singular, negative, missing, np.diag([1.0, np.inf, 1.0, 1.0, 1.0])])
    lower, fine = tensors.factor(torch.tensor(matrix), 1e-9)
    assert fine.tolist() == [True, True, True, False, False, False, False]
    np.testing.assert_allclose(lower[:3].numpy(), np.linalg.cholesky(good), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(lower[3:].numpy(), np.stack([np.eye(5)] * 4))
    right = rng.normal(size=(3, 5))
    solved = tensors.solve(lower[:3], torch.tensor(right)).numpy()
    # the condition of these matrices is up to 1e4
    np.testing.assert_allclose(solved, np.linalg.solve(good, right[..., None])[..., 0], rtol=1e-9)
