"""Bins with too little to be balanced: the filters of cooler."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.weights import Dropped

Floats = NDArray[np.float64]


def without_diagonals(matrix: sparse.csr_array, n_diagonals: int) -> sparse.csr_array:
    """The matrix with zeros at separations below ``n_diagonals`` bins; zeros are stored, indices are shared."""
    if n_diagonals <= 0:
        return matrix
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    rows -= matrix.indices
    data = matrix.data.copy()
    data[np.abs(rows, out=rows) < n_diagonals] = 0
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def low_support(
    matrix: sparse.csr_array, chromosomes: ArrayLike | None, *, min_nnz: int, min_count: float, mad_max: float
) -> Dropped:
    """Bins with few entries or small sums.

    Parameters
    ----------
    matrix : csr_array, shape (bins, bins)
        Symmetric counts, without the diagonals that are not looked at.
    chromosomes : array, shape (bins,), or None
        Chromosome of each bin; None if all are of one.
    min_nnz : int
        Least number of non-zero entries in a row; 0 for no such filter.
    min_count : float
        Least sum of a row; 0 for no such filter.
    mad_max : float
        A row sum, over the median of its chromosome's, may lie so many median absolute deviations (of its logarithm)
        below the median of all; 0 for no such filter.

    Returns
    -------
    dict of int64 arrays
        Bins by the first filter they fail: ``min_nnz``, ``min_count``, ``mad_max``.

    Notes
    -----
    As ``cooler.balance_cooler``. A chromosome without contacts is dropped by ``mad_max``; cooler keeps it there.
    """
    sums = matrix @ np.ones(matrix.shape[0])
    failed = {}
    if min_nnz > 0:
        entries = sparse.csr_array((np.sign(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
        failed["min_nnz"] = entries @ np.ones(matrix.shape[0]) < min_nnz
    if min_count > 0:
        failed["min_count"] = sums < min_count
    if mad_max > 0:
        failed["mad_max"] = _below_median(sums, chromosomes, mad_max)
    return first_reasons(failed)


def first_reasons(failed: dict[str, NDArray[np.bool_]]) -> Dropped:
    """Masks by reason as bins by the first reason."""
    dropped: Dropped = {}
    seen: NDArray[np.bool_] | None = None
    for reason, mask in failed.items():
        dropped[reason] = np.flatnonzero(mask if seen is None else mask & ~seen)
        seen = mask if seen is None else mask | seen
    return dropped


def _below_median(sums: Floats, chromosomes: ArrayLike | None, mad_max: float) -> NDArray[np.bool_]:
    relative = sums.copy()
    for rows in _groups(chromosomes, sums.size):
        positive = sums[rows][sums[rows] > 0]
        if positive.size:
            relative[rows] /= np.median(positive)
    logs = np.log(relative[relative > 0])
    if not logs.size:
        return np.ones(sums.size, dtype=bool)
    middle = np.median(logs)
    return np.asarray(relative < np.exp(middle - mad_max * np.median(np.abs(logs - middle))))


def _groups(chromosomes: ArrayLike | None, n_bins: int) -> list[NDArray[np.int64]]:
    if chromosomes is None:
        return [np.arange(n_bins)]
    labels = np.asarray(chromosomes)
    if labels.shape != (n_bins,):
        raise InputError(f"chromosomes: shape {labels.shape}, want ({n_bins},), one per bin")
    _, code = np.unique(labels, return_inverse=True)
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
