"""ICE: iterative correction, as cooler does it, on a matrix in memory."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.bin_filters import low_support, without_diagonals
from enhancer_dask.graphs.weights import Balance, BalanceWarning, check_matrix

IGNORE_DIAGS, MIN_NNZ, MAD_MAX = 2, 10, 5


def ice(
    matrix: Any,
    *,
    chromosomes: ArrayLike | None = None,
    ignore_diags: int = IGNORE_DIAGS,
    mad_max: float = MAD_MAX,
    min_nnz: int = MIN_NNZ,
    min_count: float = 0,
    rescale_marginals: bool = True,
    tol: float = 1e-5,
    max_iters: int = 200,
) -> NDArray[np.float64]:
    """Weights that make the row sums of a matrix of contacts equal, by iterative correction.

    Parameters
    ----------
    matrix : sparse matrix, shape (bins, bins)
        Symmetric counts, both triangles, a contact of a bin with itself once.
    chromosomes : array, shape (bins,), or None
        Chromosome of each bin, for ``mad_max``; None if all are of one.
    ignore_diags : int
        Separations below this, in bins, are left out.
    mad_max : float
        Drop bins whose log row sum, relative to its chromosome, lies more than this many median absolute deviations
        below the median; 0 for no such filter.
    min_nnz : int
        Drop bins with fewer non-zero entries.
    min_count : float
        Drop bins with a smaller row sum.
    rescale_marginals : bool
        Scale the weights so that the row sums are 1.
    tol : float
        Largest variance of the row sums, before they are scaled to 1.
    max_iters : int
        Largest number of rounds.

    Returns
    -------
    float64 array, shape (bins,)
        Multiplicative weights: balanced = count * weights[i] * weights[j]. NaN where a bin is dropped; all are NaN
        if the filters leave nothing.

    Raises
    ------
    InputError
        If the matrix is not sparse, square, symmetric, finite and non-negative.

    Warns
    -----
    BalanceWarning
        If the variance is above ``tol`` after ``max_iters`` rounds.

    Notes
    -----
    The algorithm [1]_ and the defaults of ``cooler.balance_cooler`` [2]_, which reads its file once a round; here a
    round is one product of the matrix with a vector. With all filters off an empty bin keeps a weight, as there.

    References
    ----------
    .. [1] Imakaev et al. (2012), Nature Methods 9, 999-1003.
    .. [2] Abdennur and Mirny (2020), Bioinformatics 36, 311-316.

    Examples
    --------
    >>> from scipy import sparse
    >>> ice(sparse.csr_array([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), ignore_diags=1, min_nnz=0)
    array([0.5, 0.5, 0.5])
    """
    found = balance_ice(
        matrix,
        chromosomes=chromosomes,
        ignore_diags=ignore_diags,
        mad_max=mad_max,
        min_nnz=min_nnz,
        min_count=min_count,
        rescale_marginals=rescale_marginals,
        tol=tol,
        max_iters=max_iters,
    )
    if found.doubt:
        warnings.warn(f"{found.doubt}: raise max_iters", BalanceWarning, stacklevel=2)
    return found.weights


def balance_ice(
    matrix: Any,
    *,
    chromosomes: ArrayLike | None = None,
    ignore_diags: int = IGNORE_DIAGS,
    mad_max: float = MAD_MAX,
    min_nnz: int = MIN_NNZ,
    min_count: float = 0,
    rescale_marginals: bool = True,
    tol: float = 1e-5,
    max_iters: int = 200,
) -> Balance:
    """:func:`ice` with what was dropped and whether it converged, without a warning."""
    if max_iters < 1:
        raise InputError(f"max_iters is {max_iters}, want 1 or more")
    used = without_diagonals(check_matrix(matrix), ignore_diags)
    dropped = low_support(used, chromosomes, min_nnz=min_nnz, min_count=min_count, mad_max=mad_max)
    weights = np.ones(used.shape[0])
    for bins in dropped.values():
        weights[bins] = 0
    for n_iterations in range(1, max_iters + 1):
        sums = weights * (used @ weights)
        positive = sums[sums != 0]
        if not positive.size:
            return Balance(np.full(weights.size, np.nan), "ice", dropped, n_iterations, True)
        mean = positive.mean()
        weights /= np.where(sums == 0, 1, sums / mean)
        if positive.var() < tol:
            break
    weights[weights == 0] = np.nan
    if rescale_marginals:
        weights /= np.sqrt(mean)
    converged = bool(positive.var() < tol)
    doubt = "" if converged else f"ICE did not converge in {n_iterations} rounds"
    return Balance(weights, "ice", dropped, n_iterations, converged, doubt)
