"""A basis that serves the sums over all cells of every gene of a cell type.

The moments engine needs, for each gene, sums over all cells of ``w_i mu_i z_i^a`` with ``mu_i = exp(o_i + b + theta .
z_i)``. Offset and covariates are the same for all genes of a cell type; a gene chooses theta alone. These functions
of the cell lie, to rounding, in a space of some hundred dimensions: so ``T = U w`` with orthonormal rows U is made
once per resample, and a gene's sums are a small matrix times T. How well U holds a gene's functions is computed, not
assumed; a gene outside (an extreme theta) is summed over its cells.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats.compiled import compiled

Floats = NDArray[np.float64]

THETA_BOX = (-1.0, 1.25)  # slopes of standardised covariates that a basis is made for
POINTS_PER_AXIS = {1: 48, 2: 22, 3: 9}  # of a grid of thetas, by the number of covariates
RANK_TOLERANCE = 1e-10  # of a function's length
MOST_NUMBERS = 64_000_000  # of the grid's functions, 8 bytes each; beyond, genes are summed over their cells
MAX_KNOWN = 4  # bases that a process remembers: a chunk after the other has the same cells
_KNOWN: dict[bytes, Floats] = {}
_MAKING = threading.Lock()  # threads of a process want the same basis at the same time


@compiled
def _pivoted_basis(columns, tolerance, max_rank):
    """Orthonormal rows that span ``columns``, shape (K, n), each to ``tolerance`` of its length; overwrites them.

    Gram-Schmidt that goes on with the largest remainder, up to ``max_rank`` rows. Plain loops and no BLAS: the same
    bits in every process of a machine.
    """
    n_columns, n = columns.shape
    rows, rest = np.empty((max_rank, n)), np.ones(n_columns)
    for k in range(n_columns):
        columns[k] /= np.sqrt(np.sum(columns[k] * columns[k]))
    for rank in range(max_rank):
        k = int(np.argmax(rest))
        if rest[k] <= tolerance:
            return rows[:rank].copy()
        row = columns[k].copy()
        for m in range(rank):  # once more, against rounding
            row -= np.sum(row * rows[m]) * rows[m]
        row /= np.sqrt(np.sum(row * row))
        rows[rank] = row
        rest[k] = 0.0
        for other in range(n_columns):
            if rest[other] > tolerance:
                columns[other] -= np.sum(columns[other] * row) * row
                rest[other] = np.sqrt(np.sum(columns[other] * columns[other]))
    return rows


def basis(z: Floats, offset: Floats, max_rank: int) -> Floats:
    """Orthonormal functions of the cells of one type that hold ``exp(offset + theta . z)`` for theta in a box.

    Parameters
    ----------
    z : float64 array, shape (c, n)
        Standardised covariates.
    offset : float64 array, shape (n,)
        Log scale.
    max_rank : int

    Returns
    -------
    float64 array, shape (r, n)
        r <= max_rank; no rows where sharing does not pay: no or more than three covariates, few or very many cells.
    """
    c, n = z.shape
    if c not in POINTS_PER_AXIS or n <= 2 * max_rank or n * POINTS_PER_AXIS[c] ** c > MOST_NUMBERS:
        return np.empty((0, n))
    key = hashlib.blake2b(z.tobytes() + offset.tobytes(), digest_size=16).digest()
    with _MAKING:
        if key not in _KNOWN:
            if len(_KNOWN) >= MAX_KNOWN:
                _KNOWN.clear()
            _KNOWN[key] = _make(z, offset, max_rank)
        return _KNOWN[key]


def _make(z: Floats, offset: Floats, max_rank: int) -> Floats:
    c, (low, high) = len(z), THETA_BOX
    per_axis = POINTS_PER_AXIS[c]
    # Chebyshev points: dense near the edges, where a function is hardest to hold
    points = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(per_axis) + 0.5) / per_axis)
    thetas = np.stack(np.meshgrid(*[points] * c, indexing="ij"), axis=-1).reshape(-1, c)
    columns = np.empty((len(thetas), z.shape[1]))
    for eta, theta in zip(columns, thetas, strict=True):  # row by row: at 50,000 cells the grid takes 200 MB
        eta[:] = offset
        for slope, row in zip(theta, z, strict=True):  # no matrix product, whose last bits depend on its threads
            eta += slope * row
        eta -= eta.max()
        np.exp(eta, out=eta)
    rows: Floats = _pivoted_basis(columns, RANK_TOLERANCE, max_rank)
    return rows
