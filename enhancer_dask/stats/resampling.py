"""Bootstrap resamples of cells as counts, each a pure function of (seed, cell type, rung, index).

A resample of n cells draws n times with replacement; it is kept as how often each cell was drawn. The draws
come from Philox4x32-10 [1]_, a counter-based generator: key and upper counter are a hash of seed, cell type and rung,
the lower counter starts at a multiple of the resample's index. So resample r is the same alone or in a batch, on any
worker, and streams cannot overlap.

References
----------
.. [1] Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3. SC '11.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from enhancer_dask.stats.compiled import compiled

_PER_COUNTER = 4  # 32-bit numbers that Philox makes of one counter value
_ROUNDS = 10
_LOW, _HALF = uint64(0xFFFFFFFF), uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = uint64(0xD2511F53), uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = uint64(0x9E3779B9), uint64(0xBB67AE85)


def stream_key(seed: int, celltype: str, rung: int) -> NDArray[np.uint64]:
    """128 bits that name the stream of resamples of one cell type on one rung of the ladder, as two numbers."""
    text = f"{seed}\x1f{celltype}\x1f{rung}".encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8").astype(np.uint64)


@compiled
def philox(counter, upper, key, out):
    """Numbers of ``counter`` to ``counter + m``: rows of ``out``, shape (4, m), uint64 holding 32 bits each.

    ``upper`` is the upper half of the 128-bit counter; one loop over counters that turns into vector instructions.
    """
    for i in range(uint64(out.shape[1])):
        now = uint64(counter) + i
        x0, x1 = now & _LOW, now >> _HALF
        x2, x3 = uint64(upper) & _LOW, uint64(upper) >> _HALF
        k0, k1 = uint64(key) & _LOW, uint64(key) >> _HALF
        for _ in range(_ROUNDS):
            product_0, product_1 = _MULTIPLIER_0 * x0, _MULTIPLIER_1 * x2
            x0, x1 = (product_1 >> _HALF) ^ x1 ^ k0, product_1 & _LOW
            x2, x3 = (product_0 >> _HALF) ^ x3 ^ k1, product_0 & _LOW
            k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
        out[0, i] = x0
        out[1, i] = x1
        out[2, i] = x2
        out[3, i] = x3


@compiled
def _draw(start, upper, key, n_cells, counts):
    """Fill ``counts``, shape (R, n): a 32-bit number u picks cell ``u * n >> 32``."""
    per_resample = -(-n_cells // _PER_COUNTER)
    raw = np.empty((_PER_COUNTER, per_resample), dtype=np.uint64)
    n = uint64(n_cells)
    for r in range(counts.shape[0]):
        philox((start + r) * per_resample, upper, key, raw)
        row = counts[r]
        for lane in range(_PER_COUNTER):
            for i in range(uint64(max(0, min(per_resample, n_cells - lane * per_resample)))):
                row[(raw[lane, i] * n) >> _HALF] += 1


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
        Every row sums to ``n_cells``. The chance of each cell deviates from 1 / n_cells by less than 2**-32.

    Examples
    --------
    >>> batch = resample_counts(5, 0, 4, seed=1, celltype="B", rung=0)
    >>> bool((batch[2:3] == resample_counts(5, 2, 3, seed=1, celltype="B", rung=0)).all())
    True
    """
    key, upper = stream_key(seed, celltype, rung)
    counts = np.zeros((stop - start, n_cells), dtype=np.uint16)
    _draw(start, upper, key, n_cells, counts)
    return counts
