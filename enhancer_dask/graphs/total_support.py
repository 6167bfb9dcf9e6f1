"""Which bins keep a matrix of contacts from having Knight-Ruiz weights.

A symmetric non-negative matrix A has x > 0 with x[i] * (A x)[i] = 1 if and only if it has total support: each of its
non-zero entries lies on a permutation of non-zero entries (a positive diagonal). A matching of rows to columns decides
whether there is one at all; entries between different strongly connected components of the matched graph lie on none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """What keeps a matrix from total support."""

    culprits: Ids
    """Bins that must go first; all have an empty diagonal. None if the matrix has total support."""
    n_unmatched: int
    """Bins beyond the largest matching of rows to columns."""
    n_entries: int
    """Stored non-zero entries on no positive diagonal; counted only if all bins are matched."""


def unsupported(matrix: sparse.csr_array) -> Unsupported:
    """Look for what keeps a symmetric non-negative matrix from total support.

    Parameters
    ----------
    matrix : csr_array, shape (bins, bins)
        Symmetric, no negative entries, no stored zeros.

    Returns
    -------
    Unsupported
        ``culprits`` are the unmatched bins if there are any. Otherwise they are one bin of each set S of bins without
        contacts among themselves that have just |S| neighbours, which in turn have other contacts: these neighbours
        are used up by S. Of S it is the bin with the smallest sum; without it the rest of S stands in no one's way.

    Notes
    -----
    Existence: Csima and Datta [1]_. Matching and components: Dulmage and Mendelsohn [2]_. With a full diagonal there
    is nothing to look for; else the cost is a Hopcroft-Karp matching.

    References
    ----------
    .. [1] Csima and Datta (1972), Journal of Combinatorial Theory B 12, 147-152.
    .. [2] Pothen and Fan (1990), ACM Transactions on Mathematical Software 16, 303-324.
    """
    none = np.empty(0, dtype=np.int64)
    if (matrix.diagonal() > 0).all():
        return Unsupported(none, 0, 0)
    column = csgraph.maximum_bipartite_matching(matrix, perm_type="column")
    unmatched = np.flatnonzero(column < 0)
    if unmatched.size:
        return Unsupported(unmatched, unmatched.size, 0)
    row_of_column = np.empty_like(column)
    row_of_column[column] = np.arange(column.size)
    matched = sparse.csr_array((matrix.data, row_of_column[matrix.indices], matrix.indptr), shape=matrix.shape)
    n_components, component = csgraph.connected_components(matched, directed=True, connection="strong")
    source = np.repeat(component, np.diff(matched.indptr))
    target = component[matched.indices]
    across = source != target
    entered, left = np.zeros(n_components, dtype=bool), np.zeros(n_components, dtype=bool)
    entered[target[across]], left[source[across]] = True, True
    ends = np.flatnonzero((entered & ~left)[component])
    lightest = ends[np.lexsort((ends, (matrix @ np.ones(column.size))[ends], component[ends]))]
    _, first = np.unique(component[lightest], return_index=True)
    return Unsupported(np.sort(lightest[first]), 0, int(across.sum()))


def without_support(matrix: sparse.csr_array, kept: NDArray[np.bool_]) -> Ids:
    """Bins to drop, of those kept, so that the rest has total support; ascending."""
    kept = kept.copy()
    dropped = [np.empty(0, dtype=np.int64)]
    while (matrix.diagonal()[kept] == 0).any():
        bins = np.flatnonzero(kept)
        culprits = bins[unsupported(sparse.csr_array(matrix[bins][:, bins])).culprits]
        if not culprits.size:
            break
        kept[culprits] = False
        dropped.append(culprits)
    return np.sort(np.concatenate(dropped))
