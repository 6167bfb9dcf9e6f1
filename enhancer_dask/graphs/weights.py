"""What balancing gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from enhancer_dask.errors import InputError

Method = Literal["ice", "kr", "vc", "vc_sqrt", "none"]
Dropped: TypeAlias = dict[str, NDArray[np.int64]]


class BalanceWarning(UserWarning):
    """The weights came out, but are not to be trusted as they stand."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Weights of the bins and how they came about."""

    weights: NDArray[np.float64]
    """Multiplicative, shape (bins,): balanced = count * weights[i] * weights[j]. NaN where a bin is left out."""
    method: Method
    """How they were found."""
    dropped: Dropped
    """Bins left out, ascending, by reason: ``empty``, ``min_nnz``, ``min_count``, ``mad_max``, ``no_support``. Each
    stands under the first reason that applies."""
    n_iterations: int
    """Rounds of the solver; 0 if there is nothing to solve."""
    converged: bool
    """The solver came to its end within its rounds."""
    doubt: str = ""
    """Why the weights are not to be trusted as they stand; empty if they are."""


def check_matrix(matrix: Any) -> sparse.csr_array:
    """A matrix of contacts as CSR, float64, each entry once.

    Raises
    ------
    InputError
        If it is not sparse and square, not symmetric, or has entries that are negative or not finite.
    """
    shape: tuple[int, ...] = getattr(matrix, "shape", ())
    if not sparse.issparse(matrix) or len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"matrix: {type(matrix).__name__} of shape {shape}, want a square sparse matrix")
    any_format: Any = matrix
    csr: sparse.csr_array[Any, tuple[int, int]] = sparse.csr_array(any_format).astype(np.float64, copy=False)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if not np.isfinite(csr.data).all() or (csr.data < 0).any():
        raise InputError("matrix: some entries are negative or not finite, want counts")
    probe = np.random.default_rng(0).uniform(1, 2, csr.shape[0])  # asymmetric matrices differ on it almost surely
    if not np.allclose(csr @ probe, csr.T @ probe, rtol=1e-9, atol=0):
        raise InputError("matrix: not symmetric, want both triangles")
    return csr
