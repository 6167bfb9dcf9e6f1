"""Bootstrap resamples of cells as counts, each a pure function of (seed, cell type, rung, index).

A resample of n cells draws n times with replacement; it is kept as how often each cell was drawn. The draws
come from Philox [1]_, a counter-based generator: the key is a hash of seed, cell type and rung, the counter
starts at a multiple of the resample's index. So resample r is the same alone or in a batch, on any worker.

References
----------
.. [1] Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3. SC '11.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

_PER_COUNTER = 4  # 64-bit numbers that Philox makes of one counter value


def stream_key(seed: int, celltype: str, rung: int) -> int:
    """128-bit key of the stream of resamples of one cell type on one rung of the ladder."""
    text = f"{seed}\x1f{celltype}\x1f{rung}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


@njit(nogil=True, cache=True)
def _tally(raw, n_cells, counts):
    """Count draws: a 64-bit number u picks cell ``u * n >> 64``, computed in two halves that fit 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    n = np.uint64(n_cells)
    for r in range(counts.shape[0]):
        for i in range(n_cells):
            u = raw[r, i]
            cell = ((u >> half) * n + (((u & low) * n) >> half)) >> half
            counts[r, cell] += 1


def resample_counts(n_cells: int, start: int, stop: int, *, seed: int, celltype: str, rung: int) -> NDArray[np.uint16]:
    """How often each cell is drawn in resamples ``start`` to ``stop`` (exclusive).

    Parameters
    ----------
    n_cells : int
        Cells of the cell type, below 2**32.
    start, stop : int
        Indices of the resamples.
    seed, celltype, rung
        Name the stream.

    Returns
    -------
    uint16 array, shape (stop - start, n_cells)
        Every row sums to ``n_cells``. The chance of each cell deviates from 1 / n_cells by less than 2**-64.

    Examples
    --------
    >>> batch = resample_counts(5, 0, 4, seed=1, celltype="B", rung=0)
    >>> bool((batch[2:3] == resample_counts(5, 2, 3, seed=1, celltype="B", rung=0)).all())
    True
    """
    per_resample = -(-n_cells // _PER_COUNTER)
    generator = np.random.Philox(key=stream_key(seed, celltype, rung), counter=start * per_resample)
    raw = generator.random_raw((stop - start) * per_resample * _PER_COUNTER)
    counts = np.zeros((stop - start, n_cells), dtype=np.uint16)
    _tally(raw.reshape(stop - start, -1), n_cells, counts)
    return counts
