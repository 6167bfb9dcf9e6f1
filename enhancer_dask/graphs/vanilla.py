"""Vanilla coverage: weights from row sums alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.graphs.weights import check_matrix


def vc(matrix: Any) -> NDArray[np.float64]:
    """Vanilla coverage: each contact over the row sums of both bins.

    Parameters
    ----------
    matrix : sparse matrix, shape (bins, bins)
        Symmetric counts, both triangles, a contact of a bin with itself once; Juicer takes one chromosome at a time.

    Returns
    -------
    float64 array, shape (bins,)
        Multiplicative weights, NaN for empty bins, scaled so that the balanced contacts have the sum of the counts.

    Raises
    ------
    InputError
        If the matrix is not sparse, square, symmetric, finite and non-negative.

    References
    ----------
    .. [1] Lieberman-Aiden et al. (2009), Science 326, 289-293.
    .. [2] Rao et al. (2014), Cell 159, 1665-1680, for the scale (Juicer).
    """
    return _coverage_weights(matrix, 1.0)


def vc_sqrt(matrix: Any) -> NDArray[np.float64]:
    """Square root of vanilla coverage: each contact over the roots of both row sums.

    Parameters, returns, errors and scale as for :func:`vc`.
    """
    return _coverage_weights(matrix, 0.5)


def _coverage_weights(matrix: Any, power: float) -> NDArray[np.float64]:
    checked = check_matrix(matrix)
    sums = checked @ np.ones(checked.shape[0])
    covered = sums > 0
    weights = np.where(covered, np.where(covered, sums, 1) ** -power, 0)
    total = weights @ (checked @ weights)
    weights *= np.sqrt(sums.sum() / total) if total > 0 else 1
    weights[~covered] = np.nan
    return weights
