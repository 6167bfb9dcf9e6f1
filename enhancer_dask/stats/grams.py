"""Weighted sums of products of design columns, what every Newton step of a regression costs, and small solves.

A pair's design is the rows shared by all pairs (ones and covariates, dense) and one peak, kept as the cells where it
is not zero: a tenth of the cells, so the peak's sums are nearly free.
"""

import numpy as np

from enhancer_dask.stats.compiled import FASTMATH, compiled

# Sums over cells may be reordered so that they vectorise; infinities and NaN keep their meaning.


@compiled(fastmath=FASTMATH)
def dot(x, y):
    """Sum of products of two contiguous arrays, shape (n,)."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@compiled(fastmath=FASTMATH)
def total(x):
    """Sum of a contiguous array; one order of adding, whatever the array is part of."""
    out = 0.0
    for i in range(x.size):
        out += x[i]
    return out


@compiled
def cells_of(peak, rows):
    """Cells where a peak is not zero, shape (m,), and there its value times each of the rows, shape (k, m)."""
    cells = np.flatnonzero(peak)
    opened = np.empty((rows.shape[0], cells.size))
    for j in range(rows.shape[0]):
        for i in range(cells.size):
            opened[j, i] = peak[cells[i]] * rows[j, cells[i]]
    return cells, opened


@compiled(fastmath=FASTMATH)
def linear_predictor(rows, cells, opened, offset, coef, eta):
    """Write ``offset + rows' coef[:-1]`` to ``eta`` and add the peak times ``coef[-1]`` where it is not zero."""
    k, first = rows.shape[0], coef[0]
    for i in range(eta.size):
        eta[i] = offset[i] + first
    for j in range(1, k - 1, 2):  # two rows at a time, since memory is slower than arithmetic
        slope, row, next_slope, next_row = coef[j], rows[j], coef[j + 1], rows[j + 1]
        for i in range(eta.size):
            eta[i] += slope * row[i] + next_slope * next_row[i]
    if k % 2 == 0:
        slope, row = coef[k - 1], rows[k - 1]
        for i in range(eta.size):
            eta[i] += slope * row[i]
    last, values = coef[k], opened[0]
    for i in range(cells.size):
        eta[cells[i]] += last * values[i]


@compiled(fastmath=FASTMATH)
def gram_of_rows(rows, weights, scratch, out):
    """Write ``X' diag(weights) X`` of the k rows to the upper left of ``out``, lower triangle."""
    out[0, 0] = total(weights)
    for j in range(1, rows.shape[0]):
        row, ones, own = rows[j], 0.0, 0.0
        for i in range(row.size):
            weighted = row[i] * weights[i]
            scratch[i] = weighted
            ones += weighted
            own += weighted * row[i]
        out[j, 0], out[j, j] = ones, own
        for m in range(1, j):
            out[j, m] = dot(rows[m], scratch)


@compiled(fastmath=FASTMATH)
def gram_of_peak(cells, opened, weights, scratch, out):
    """Write the last row of ``X' diag(weights) X``, that of the peak, from the open cells alone."""
    k, gathered = opened.shape[0], scratch[: cells.size]
    for i in range(cells.size):
        gathered[i] = weights[cells[i]]
    for j in range(k):
        out[k, j] = dot(opened[j], gathered)
    values, own = opened[0], 0.0
    for i in range(cells.size):
        own += values[i] * values[i] * gathered[i]
    out[k, k] = own


@compiled
def gram(rows, cells, opened, weights, scratch, out):
    """Write both halves of ``X' diag(weights) X`` of rows and peak to ``out``, shape (k + 1, k + 1).

    ``rows``, shape (k, n), begins with the row of ones; ``scratch``, shape (n,), is overwritten.
    """
    gram_of_rows(rows, weights, scratch, out)
    gram_of_peak(cells, opened, weights, scratch, out)
    for j in range(out.shape[0]):
        for m in range(j):
            out[m, j] = out[j, m]


@compiled(fastmath=FASTMATH)
def totals(rows, cells, opened, weights, out):
    """Write ``X' weights`` of the rows and the peak to ``out``, shape (k + 1,)."""
    k = rows.shape[0]
    out[0] = total(weights)
    for j in range(1, k):
        out[j] = dot(rows[j], weights)
    values, last = opened[0], 0.0
    for i in range(cells.size):
        last += values[i] * weights[cells[i]]
    out[k] = last


@compiled
def cholesky(matrix, chol):
    """Lower factor of a small symmetric matrix; False if it is not safely positive definite."""
    k = matrix.shape[0]
    for j in range(k):
        pivot = matrix[j, j]
        for m in range(j):
            pivot -= chol[j, m] * chol[j, m]
        if not pivot > 1e-12 * matrix[j, j]:
            return False
        chol[j, j] = np.sqrt(pivot)
        for i in range(j + 1, k):
            value = matrix[i, j]
            for m in range(j):
                value -= chol[i, m] * chol[j, m]
            chol[i, j] = value / chol[j, j]
    return True


@compiled
def solve(chol, vector):
    """Overwrite ``vector`` with the solution of ``chol chol' x = vector``."""
    k = vector.size
    for j in range(k):
        for m in range(j):
            vector[j] -= chol[j, m] * vector[m]
        vector[j] /= chol[j, j]
    for j in range(k - 1, -1, -1):
        for m in range(j + 1, k):
            vector[j] -= chol[m, j] * vector[m]
        vector[j] /= chol[j, j]


@compiled
def half_log_det(chol):
    """Half the logarithm of the determinant of ``chol chol'``."""
    out = 0.0
    for j in range(chol.shape[0]):
        out += np.log(chol[j, j])
    return out


@compiled
def multiply(a, b, out):
    """Matrix product; np.dot of arrays this small costs more, and five seconds of compilation."""
    for j in range(a.shape[0]):
        for m in range(b.shape[1]):
            out[j, m] = 0.0
            for i in range(a.shape[1]):
                out[j, m] += a[j, i] * b[i, m]


@compiled
def trace_of_product(a, b):
    """Trace of the product of two symmetric matrices."""
    out = 0.0
    for j in range(a.shape[0]):
        for m in range(a.shape[1]):
            out += a[j, m] * b[j, m]
    return out


@compiled
def invert(chol, out):
    """Write the inverse of ``chol chol'`` to ``out``."""
    for j in range(out.shape[0]):
        for m in range(out.shape[0]):
            out[j, m] = 1.0 if m == j else 0.0
        solve(chol, out[j])
