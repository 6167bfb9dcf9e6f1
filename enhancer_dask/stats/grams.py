"""Weighted sums of products of design columns: what every Newton step of a regression costs.

A pair's design is the rows shared by all pairs (ones and covariates, dense) and one peak, kept as the cells where it
is not zero with its values there: a tenth of the cells, so the peak's sums are nearly free.
"""

import numpy as np
from numba import njit

# Sums over cells may be reordered so that they vectorise; infinities and NaN keep their meaning.
FASTMATH = {"reassoc", "contract"}


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def dot(x, y):
    """Sum of products of two contiguous arrays, shape (n,)."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def total(x):
    """Sum of a contiguous array; one order of adding, whatever the array is part of."""
    out = 0.0
    for i in range(x.size):
        out += x[i]
    return out


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def linear_predictor(rows, cells, values, offset, coef, eta):
    """Write ``offset + rows' coef[:-1]`` to ``eta`` and add the peak times ``coef[-1]`` where it is not zero."""
    first = coef[0]
    for i in range(eta.size):
        eta[i] = offset[i] + first
    for j in range(1, rows.shape[0]):
        slope, row = coef[j], rows[j]
        for i in range(eta.size):
            eta[i] += slope * row[i]
    last = coef[rows.shape[0]]
    for i in range(cells.size):
        eta[cells[i]] += last * values[i]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def gram(rows, cells, values, weights, scratch, out):
    """Write both halves of ``X' diag(weights) X`` of the rows and the peak to ``out``, shape (k + 1, k + 1).

    ``rows``, shape (k, n), begins with the row of ones. ``scratch`` has shape (n,) and is overwritten.
    """
    k = rows.shape[0]
    out[0, 0] = total(weights)
    for j in range(1, k):
        row = rows[j]
        for i in range(row.size):
            scratch[i] = row[i] * weights[i]
        out[j, 0] = total(scratch)
        for m in range(1, j + 1):
            out[j, m] = dot(rows[m], scratch)
    gram_of_peak(rows, cells, values, weights, out)
    for j in range(k):
        for m in range(j):
            out[m, j] = out[j, m]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def gram_of_peak(rows, cells, values, weights, out):
    """Write the last row and column of :func:`gram` alone, from the open cells."""
    k = rows.shape[0]
    for j in range(k + 1):
        out[k, j] = 0.0
    for j in range(1, k):
        row, cross = rows[j], 0.0
        for i in range(cells.size):
            cross += values[i] * weights[cells[i]] * row[cells[i]]
        out[k, j] = cross
    ones, own = 0.0, 0.0
    for i in range(cells.size):
        weighted = values[i] * weights[cells[i]]
        ones += weighted
        own += weighted * values[i]
    out[k, 0], out[k, k] = ones, own
    for j in range(k):
        out[j, k] = out[k, j]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def totals(rows, cells, values, weights, out):
    """Write ``X' weights`` of the rows and the peak to ``out``, shape (k + 1,)."""
    k = rows.shape[0]
    out[0] = total(weights)
    for j in range(1, k):
        out[j] = dot(rows[j], weights)
    last = 0.0
    for i in range(cells.size):
        last += values[i] * weights[cells[i]]
    out[k] = last


@njit(nogil=True, cache=True)
def cells_of(peak):
    """Cells where a peak is not zero, and its values there as float64."""
    n = 0
    for i in range(peak.size):
        n += peak[i] != 0
    cells, values = np.empty(n, np.int64), np.empty(n)
    n = 0
    for i in range(peak.size):
        if peak[i] != 0:
            cells[n], values[n] = i, peak[i]
            n += 1
    return cells, values
