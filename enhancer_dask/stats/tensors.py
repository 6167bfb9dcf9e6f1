"""Torch for the engines that may run on a GPU: found when asked for, small solves for many systems at once.

Torch is optional, so no module imports it: functions of tensors use their methods, and ask :func:`import_torch` for the
rest. Tensors hold float64, lanes (refits, pairs) first.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensor = Any
"""A ``torch.Tensor``; checkers of types see no torch."""

MEMORY = 2**28  # bytes of a block where the caller does not say


class NoTorchError(ImportError):
    """Torch is not installed."""


class NoDeviceError(ValueError):
    """There is no such device here."""


def import_torch() -> Any:
    """The module ``torch``.

    Raises
    ------
    NoTorchError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as err:
        raise NoTorchError("this engine needs torch: pip install 'enhancer-dask[gnn]'") from err


def find_device(device: str) -> Any:
    """The ``torch.device`` of that name.

    Raises
    ------
    NoDeviceError
        If torch does not know the name or sees no such device.
    """
    torch = import_torch()
    try:
        found = torch.device(device)
    except RuntimeError as err:
        raise NoDeviceError(f"device {device!r} is unknown to torch; choose cpu or cuda") from err
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise NoDeviceError(f"device {device!r}: torch sees {torch.cuda.device_count()} GPUs")
    return found


def send(array: NDArray[Any], device: Any) -> Tensor:
    """A float64 tensor on the device; bytes travel as bytes."""
    narrow = array.dtype == np.uint8
    rows = np.ascontiguousarray(array, dtype=np.uint8 if narrow else np.float64)
    torch = import_torch()
    return torch.tensor(rows, device=device).to(torch.float64)


def factor(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors, shape (B, k, k), and which lanes have one, shape (B,); the others get the identity.

    A pivot must be above ``tolerance`` of its diagonal element.
    """
    torch = import_torch()
    lower, failed = torch.linalg.cholesky_ex(matrix)
    pivots, own = lower.diagonal(dim1=1, dim2=2) ** 2, matrix.diagonal(dim1=1, dim2=2)
    good = (failed == 0) & (pivots > tolerance * own).all(dim=1)
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(good[:, None, None], lower, identity), good


def solve(lower: Tensor, right: Tensor) -> Tensor:
    """Solutions of ``lower lower' x = right``, shapes (B, k, k) and (B, k)."""
    return import_torch().cholesky_solve(right.unsqueeze(2), lower).squeeze(2)
