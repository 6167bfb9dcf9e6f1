"""Products of features of cells and resample counts, many resamples side by side: where the time of the engine goes.

A tile holds ``LANES`` resamples as columns, flat: LANES numbers per cell. Loops run over lanes innermost; their index
is unsigned, since the check for negative ones stops vectorisation.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from enhancer_dask.stats.compiled import FASTMATH, compiled

LANES = 128  # a multiple of the vector length


@compiled
def fill_tile(resamples, start, tile):
    """Resamples ``start`` onwards as columns of ``tile``, shape (n, LANES); missing ones become all ones."""
    n_there = min(LANES, resamples.shape[0] - start)
    tile[:, n_there:] = 1.0
    for i in range(tile.shape[0]):
        for r in range(n_there):
            tile[i, r] = resamples[start + r, i]


@compiled
def features_of(mean, z, cells, n_terms, parent, axis, work, features):
    """Write ``mu z^a`` of some cells to ``features[:n_terms]``, in single precision, filled up with zeros to a
    multiple of 4 cells.
    """
    n_cells = cells.size
    for k in range(n_cells):
        work[0, k] = mean[cells[k]]
        features[0, k] = work[0, k]
    row = np.empty(n_cells)
    last = -1
    for m in range(1, n_terms):
        if axis[m] != last:
            last = axis[m]
            for k in range(n_cells):
                row[k] = z[last, cells[k]]
        source, target, single = work[parent[m]], work[m], features[m]
        for k in range(n_cells):
            target[k] = source[k] * row[k]
            single[k] = target[k]
    work[:n_terms, n_cells : n_cells + 3] = 0.0
    features[:n_terms, n_cells : n_cells + 3] = 0.0


@compiled(fastmath=FASTMATH)
def product(features, n_rows, cells, tile, out):
    """``out[:n_rows] = features @ tile[cells]`` in the precision of ``tile``, summed up in double every 64 cells.

    ``tile`` is flat, LANES numbers per cell. Rows go four at a time and cells four at a time, which keeps the
    multipliers busy; rows up to a multiple of four are read and written. Every number of ``out`` is summed in the
    same order whatever else is there.
    """
    lanes = uint64(LANES)
    n = cells.size
    p0, p1 = np.empty(LANES, tile.dtype), np.empty(LANES, tile.dtype)
    p2, p3 = np.empty(LANES, tile.dtype), np.empty(LANES, tile.dtype)
    for j in range(0, n_rows, 4):
        out[j : j + 4] = 0.0
        for k0 in range(0, n, 64):
            for b in range(lanes):
                p0[b] = 0.0
                p1[b] = 0.0
                p2[b] = 0.0
                p3[b] = 0.0
            for k in range(k0, min(k0 + 64, n), 4):
                c0 = uint64(cells[k]) * lanes
                c1 = uint64(cells[min(k + 1, n - 1)]) * lanes
                c2 = uint64(cells[min(k + 2, n - 1)]) * lanes
                c3 = uint64(cells[min(k + 3, n - 1)]) * lanes
                f00, f01, f02, f03 = features[j, k], features[j, k + 1], features[j, k + 2], features[j, k + 3]
                f10, f11, f12, f13 = (
                    features[j + 1, k],
                    features[j + 1, k + 1],
                    features[j + 1, k + 2],
                    features[j + 1, k + 3],
                )
                f20, f21, f22, f23 = (
                    features[j + 2, k],
                    features[j + 2, k + 1],
                    features[j + 2, k + 2],
                    features[j + 2, k + 3],
                )
                f30, f31, f32, f33 = (
                    features[j + 3, k],
                    features[j + 3, k + 1],
                    features[j + 3, k + 2],
                    features[j + 3, k + 3],
                )
                for b in range(lanes):
                    w0, w1, w2, w3 = tile[c0 + b], tile[c1 + b], tile[c2 + b], tile[c3 + b]
                    p0[b] += f00 * w0 + f01 * w1 + f02 * w2 + f03 * w3
                    p1[b] += f10 * w0 + f11 * w1 + f12 * w2 + f13 * w3
                    p2[b] += f20 * w0 + f21 * w1 + f22 * w2 + f23 * w3
                    p3[b] += f30 * w0 + f31 * w1 + f32 * w2 + f33 * w3
            for b in range(lanes):
                out[j, b] += p0[b]
                out[j + 1, b] += p1[b]
                out[j + 2, b] += p2[b]
                out[j + 3, b] += p3[b]
