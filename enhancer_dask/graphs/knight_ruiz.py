"""Knight-Ruiz balancing: weights for which every row of the balanced matrix sums to 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from enhancer_dask.errors import NoBalanceError
from enhancer_dask.graphs.bin_filters import first_reasons, low_support, without_diagonals
from enhancer_dask.graphs.iterative import IGNORE_DIAGS
from enhancer_dask.graphs.total_support import unsupported, without_support
from enhancer_dask.graphs.weights import Balance, BalanceWarning, Dropped, check_matrix

Floats = NDArray[np.float64]
LARGEST_STEP = 5.0
LARGEST_SPREAD = 1e8
CG_ACCURACY, CG_ROUNDS = (1e-3, 0.1), 1000


def kr(
    matrix: Any,
    *,
    chromosomes: ArrayLike | None = None,
    filter: bool = True,
    min_nnz: int = 0,
    mad_max: float = 0,
    tol: float = 1e-12,
    max_iters: int = 200,
) -> Floats:
    """Weights that make each row of a matrix of contacts sum to 1, the diagonal included (Knight-Ruiz).

    Parameters
    ----------
    matrix : sparse matrix, shape (bins, bins)
        Symmetric counts, both triangles, a contact of a bin with itself once.
    chromosomes : array, shape (bins,), or None
        Chromosome of each bin, for ``mad_max``; None if all are of one.
    filter : bool
        Drop bins that keep the others from being balanced; see Notes. Empty bins are dropped in any case.
    min_nnz, mad_max
        With ``filter``, also drop bins as :func:`enhancer_dask.graphs.normalise.ice` does (its two first diagonals
        are not looked at here either); 0 for no such filter.
    tol : float
        Largest difference of a row sum from 1.
    max_iters : int
        Largest number of Newton steps.

    Returns
    -------
    float64 array, shape (bins,)
        Multiplicative weights: balanced = count * weights[i] * weights[j]. NaN where a bin is dropped.

    Raises
    ------
    NoBalanceError
        Without ``filter``, if no such weights exist; or if ``max_iters`` steps do not find them.
    InputError
        If the matrix is not sparse, square, symmetric, finite and non-negative.

    Warns
    -----
    BalanceWarning
        If the weights exist but the largest is more than 1e8 times the smallest: some bins hang on to the others by
        so few contacts that their balanced contacts mean nothing.

    Notes
    -----
    The equations of Knight and Ruiz [1]_, x[i] * (A x)[i] = 1, are those of the minimum of the convex function
    sum(A[i,j] exp(u[i] + u[j])) / 2 - sum(u) with x = exp(u). It is found by damped Newton steps, each solved by
    conjugate gradients: products of A with vectors only, O(entries) memory. Weights exist if and only if A has total
    support. If not, iterates run off to 0 and infinity while the row sums look right, so that is decided first, from
    the zeros of A alone; ``filter`` drops bins one by one until there is total support
    (:mod:`enhancer_dask.graphs.total_support`).

    References
    ----------
    .. [1] Knight and Ruiz (2013), IMA Journal of Numerical Analysis 33, 1029-1047.

    Examples
    --------
    >>> from scipy import sparse
    >>> kr(sparse.csr_array([[4.0, 0, 0], [0, 0, 0], [0, 0, 16]]))
    array([0.5 ,  nan, 0.25])
    """
    found = balance_kr(
        matrix,
        chromosomes=chromosomes,
        filter=filter,
        min_nnz=min_nnz,
        mad_max=mad_max,
        tol=tol,
        max_iters=max_iters,
    )
    if found.doubt:
        warnings.warn(found.doubt, BalanceWarning, stacklevel=2)
    return found.weights


def balance_kr(
    matrix: Any,
    *,
    chromosomes: ArrayLike | None = None,
    filter: bool = True,
    min_nnz: int = 0,
    mad_max: float = 0,
    tol: float = 1e-12,
    max_iters: int = 200,
) -> Balance:
    """:func:`kr` with what was dropped, without a warning."""
    checked = check_matrix(matrix)
    checked = checked if (checked.data > 0).all() else _without_zeros(checked)
    empty = {"empty": np.diff(checked.indptr) == 0}
    dropped = _filtered(checked, chromosomes, empty, min_nnz, mad_max) if filter else first_reasons(empty)
    kept = np.ones(checked.shape[0], dtype=bool)
    kept[np.concatenate(list(dropped.values()))] = False
    if not filter:
        _check_total_support(checked, kept)
    weights = np.full(kept.size, np.nan)
    weights[kept], n_iterations = _solve(checked, kept, tol, max_iters)
    doubt = ""
    if kept.any() and np.ptp(np.log(weights[kept])) > np.log(LARGEST_SPREAD):
        doubt = (
            f"Knight-Ruiz weights run from {weights[kept].min():.1e} to {weights[kept].max():.1e}: bin "
            f"{int(np.nanargmax(weights))} hardly hangs on to the others; filter by min_nnz or mad_max"
        )
    return Balance(weights, "kr", dropped, n_iterations, True, doubt)


def _without_zeros(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix = matrix.copy()
    matrix.eliminate_zeros()
    return matrix


def _filtered(
    matrix: sparse.csr_array,
    chromosomes: ArrayLike | None,
    empty: dict[str, NDArray[np.bool_]],
    min_nnz: int,
    mad_max: float,
) -> Dropped:
    failed = dict(empty)
    if min_nnz > 0 or mad_max > 0:
        used = without_diagonals(matrix, IGNORE_DIAGS)
        for reason, bins in low_support(used, chromosomes, min_nnz=min_nnz, min_count=0, mad_max=mad_max).items():
            failed[reason] = np.isin(np.arange(matrix.shape[0]), bins)
    kept = ~np.any(list(failed.values()), axis=0)
    return {**first_reasons(failed), "no_support": without_support(matrix, kept)}


def _check_total_support(matrix: sparse.csr_array, kept: NDArray[np.bool_]) -> None:
    bins = np.flatnonzero(kept)
    found = unsupported(sparse.csr_array(matrix[bins][:, bins]))
    if not found.culprits.size:
        return
    named = ", ".join(map(str, bins[found.culprits[:5]])) + (", ..." if found.culprits.size > 5 else "")
    why = (
        f"{found.n_unmatched} bins cannot be matched"
        if found.n_unmatched
        else f"{found.n_entries} of {matrix.nnz} entries lie on no positive diagonal"
    )
    raise NoBalanceError(
        f"matrix: no Knight-Ruiz weights exist, {why} (no total support, first because of bins {named}); let the "
        "filter drop such bins, or use ICE"
    )


def _solve(matrix: sparse.csr_array, kept: NDArray[np.bool_], tol: float, max_iters: int) -> tuple[Floats, int]:
    """Weights of the kept bins, and Newton steps taken."""

    def times(vector: Floats) -> Floats:
        full = np.zeros(kept.size)
        full[kept] = vector
        return np.asarray((matrix @ full)[kept])

    diagonal = matrix.diagonal()[kept]
    x = 1 / np.sqrt(times(np.ones(diagonal.size)))
    x /= np.sqrt(np.mean(x * times(x))) if x.size else 1.0
    sums = x * times(x)
    for step in range(max_iters + 1):
        distance = np.abs(sums - 1).max(initial=0)
        if distance <= tol:
            return x, step
        direction = _newton_direction(times, x, sums, diagonal, float(np.clip(distance, *CG_ACCURACY)))
        x, sums = _line_search(times, x, sums, direction)
    raise NoBalanceError(
        f"matrix: Knight-Ruiz weights not found in {max_iters} steps, row sums are within {distance:.1e} of 1, want "
        f"{tol:.1e}; filter bins by min_nnz or mad_max"
    )


def _newton_direction(
    times: Callable[[Floats], Floats], x: Floats, sums: Floats, diagonal: Floats, accuracy: float
) -> Floats:
    """Solve ``(diag(sums) + X A X) d = 1 - sums`` by conjugate gradients, preconditioned by the diagonal."""
    scale = 1 / (sums + x * diagonal * x)
    direction = np.zeros(x.size)
    residual = 1 - sums
    target = accuracy**2 * (residual @ (scale * residual))
    search, norm = scale * residual, residual @ (scale * residual)
    for _ in range(CG_ROUNDS):
        product = sums * search + x * times(x * search)
        length = norm / (search @ product)
        direction += length * search
        residual -= length * product
        previous, norm = norm, residual @ (scale * residual)
        if norm <= target:
            break
        search = scale * residual + norm / previous * search
    return direction


def _line_search(
    times: Callable[[Floats], Floats], x: Floats, sums: Floats, direction: Floats
) -> tuple[Floats, Floats]:
    """Shorten a step in log x until the convex function decreases, or, where rounding hides that, its gradient."""
    value, slope, distance = sums.sum() / 2, (sums - 1) @ direction, np.abs(sums - 1).max()
    length = min(1.0, LARGEST_STEP / np.abs(direction).max())
    while True:
        new = x * np.exp(length * direction)
        new_sums = new * times(new)
        decrease = new_sums.sum() / 2 - length * direction.sum() - value
        if decrease <= 1e-4 * length * slope or np.abs(new_sums - 1).max() <= distance / 2 or length < 1e-10:
            return new, new_sums
        length /= 2
