"""The bootstrap's p-value without resampling: a saddlepoint approximation for many pairs at once.

A resample of n cells draws weights w that are multinomial; its coefficients solve ``sum_i w_i psi_i = 0`` with
``psi_i = (y_i - mu_i) x_i``, x_i the row of the design. Write gamma for the coefficients beside the peak's beta. Among
all reweightings of the cells that make beta equal a cut-off c, the one nearest to the original sample (in the
Kullback-Leibler sense) is ``q_i`` proportional to ``exp(tau' psi_i(gamma, c))`` where tau and gamma are the saddle

    K(tau, gamma) = n log mean_i exp(tau' psi_i(gamma, c)),    dK/dtau = 0,    dK/dgamma = 0.

Then ``r = sign(c - beta) sqrt(-2 K)`` is nearly normal, and the tail is that of Lugannani and Rice [1]_,

    P(beta* >= c) = 1 - Phi(r) + phi(r) (1/u - 1/r),
    1/u = |A| / (t |K_tautau|^(1/2) |K_gammatau K_tautau^-1 K_taugamma - K_gammagamma|^(1/2)),

A being the information on gamma under q, t the last element of tau [2]_ [3]_. Solving for gamma under q, and not once
on the original cells as in [4]_, is what makes the error that of 1/n and not of the square root of p's logarithm; it
needs no fit with beta held at c, since Newton from the full fit arrives in three or four steps.

References
----------
.. [1] Lugannani and Rice (1980), Advances in Applied Probability 12, 475-490.
.. [2] DiCiccio, Field and Fraser (1990), Biometrika 77, 77-95.
.. [3] Robinson, Ronchetti and Young (2003), Annals of Statistics 31, 1154-1169.
.. [4] Davison and Hinkley (1988), Biometrika 75, 417-431.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.grams import (
    FASTMATH,
    cells_of,
    cholesky,
    dot,
    gram,
    gram_of_rows,
    half_log_det,
    linear_predictor,
    solve,
    total,
    totals,
)
from enhancer_dask.stats.pairfits import PairFits

Floats = NDArray[np.float64]

LOG_SQRT_2_PI = 0.9189385332046728
SMALLEST_P = 2.2250738585072014e-308

_MAX_STEPS, _LONGEST_STEP = 12, 2.0
_STEP_TOLERANCE = 1e-4  # the error left is about its square
_PIECES = (1, 4, 16)  # ways from beta to the cut-off, tried in turn
# Where the cut-off is beta itself, 1/u - 1/r is 0/0; moved by this many standard errors, the tail moves by less than that.
_NEAREST = 1e-5
_SMALL_ROOT = 0.1


@njit(nogil=True, cache=True)
def mills(x):
    """``(1 - Phi(x)) / phi(x)`` for any x above -37, to 14 digits."""
    if x < 4.0:
        return 0.5 * math.erfc(x * math.sqrt(0.5)) * math.exp(0.5 * x * x + LOG_SQRT_2_PI)
    fraction = x
    for level in range(60, 0, -1):  # the continued fraction of Laplace
        fraction = x + level / fraction
    return 1.0 / fraction


@njit(nogil=True, cache=True)
def log_tail(r, u):
    """Logarithm of ``1 - Phi(r) + phi(r) (1/u - 1/r)``, by way of the modified root where that is not positive.

    Both tails are had from one pair of numbers: the other one is ``log_tail(-r, -u)``.
    """
    excess = 1.0 / u - 1.0 / r
    sum_ = mills(r) + excess if r > -30.0 else 1.0
    if sum_ > 0.0:
        return min(0.0, math.log(sum_) - 0.5 * r * r - LOG_SQRT_2_PI) if r > -30.0 else 0.0
    root = r + math.log(u / r) / r
    return math.log(mills(root)) - 0.5 * root * root - LOG_SQRT_2_PI if root > -30.0 else 0.0


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def _exponents(counts, mean, lean, out):
    for i in range(counts.size):
        out[i] = lean[i] * (counts[i] - mean[i])


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def _factors(counts, work):
    """Weights of the sums that K's derivatives are made of, cell by cell; the tilt loses its scale."""
    lean, tilt, mean, first, second, mixed, both = work[1], work[2], work[3], work[4], work[5], work[6], work[7]
    scale = counts.size / total(tilt)
    for i in range(counts.size):
        resid, w, pull = counts[i] - mean[i], tilt[i] * scale, mean[i] * lean[i]
        leant = w * pull
        tilt[i] = w
        first[i] = w * resid
        second[i] = w * resid * resid
        mixed[i] = w * mean[i] + leant * resid
        both[i] = leant * (pull - 1.0)
        lean[i] = leant
    return scale


@njit(nogil=True, cache=True)
def _derivatives(rows, cells, opened, counts, offset, coef, tau, work, d):
    """K at (tau, coef) and its derivatives into ``d``; coef is gamma and, last, the cut-off.

    ``d`` is (d_tau, d_gamma, d_tautau, d_taugamma, d_gammagamma), the last two of the lower triangle. Rows of ``work``
    are scratch, but row 2 keeps the weights under the tilt, which sum to n, row 3 the means, and row 8 is zero.

    No largest exponent is subtracted: at the saddle K <= 0, so none is above log n, and where an exponent overflows
    on the way K is not finite, which the caller takes as a step too far.
    """
    n, p = counts.size, tau.size
    d_tau, d_gamma, d_tautau, d_taugamma, d_gammagamma = d
    eta, lean, tilt, mean, scratch = work[0], work[1], work[2], work[3], work[4]
    linear_predictor(rows, cells, opened, offset, coef, eta)
    exp_into(eta, mean, scratch)
    linear_predictor(rows, cells, opened, work[8], tau, lean)
    _exponents(counts, mean, lean, eta)
    exp_into(eta, tilt, scratch)
    log_mean = -np.log(_factors(counts, work))
    totals(rows, cells, opened, work[4], d_tau)
    totals(rows, cells, opened, lean, d_gamma)
    gram(rows, cells, opened, work[5], eta, d_tautau)
    gram(rows, cells, opened, work[6], eta, d_taugamma)
    gram_of_rows(rows, work[7], eta, d_gammagamma)
    for j in range(p):
        d_gamma[j] = -d_gamma[j]
    for j in range(p):
        for m in range(p):
            d_tautau[j, m] -= d_tau[j] * d_tau[m] / n
            d_taugamma[j, m] = -d_taugamma[j, m] - d_tau[j] * d_gamma[m] / n
            if m <= j and j < p - 1:
                d_gammagamma[j, m] -= d_gamma[j] * d_gamma[m] / n
    return n * log_mean


@njit(nogil=True, cache=True)
def _newton_step(d, small, step_tau, step_gamma):
    """Newton's step towards the saddle; False where K is not convex in tau and concave in gamma there.

    ``small`` receives the Cholesky factors of K_tautau and of minus the second derivative of max_tau K in gamma.
    """
    d_tau, d_gamma, d_tautau, d_taugamma, d_gammagamma = d
    chol, chol_gamma, half, schur = small
    p = d_tau.size
    if not cholesky(d_tautau, chol):
        return False
    for j in range(p):  # half = chol^-1 K_taugamma, and chol^-1 K_tau in its last column
        for m in range(p):
            value = d_taugamma[j, m] if m < p - 1 else d_tau[j]
            for i in range(j):
                value -= chol[j, i] * half[i, m]
            half[j, m] = value / chol[j, j]
    for j in range(p - 1):
        step_gamma[j] = d_gamma[j]
        for i in range(p):
            step_gamma[j] -= half[i, j] * half[i, p - 1]
        for m in range(j + 1):
            schur[j, m] = -d_gammagamma[j, m]
            for i in range(p):
                schur[j, m] += half[i, j] * half[i, m]
    if not cholesky(schur, chol_gamma):
        return False
    solve(chol_gamma, step_gamma)
    for j in range(p):
        step_tau[j] = -d_tau[j]
        for m in range(p - 1):
            step_tau[j] -= d_taugamma[j, m] * step_gamma[m]
    solve(chol, step_tau)
    return True


@njit(nogil=True, cache=True)
def _largest(vector):
    out = 0.0
    for j in range(vector.size):
        out = max(out, abs(vector[j]))
    return out


@njit(nogil=True, cache=True)
def _find_saddle(rows, cells, opened, counts, offset, coef, tau, work, d, small, step_tau, step_gamma):
    """Newton from (tau, gamma) at the cut-off ``coef[-1]``, in place; K there, NaN if it does not settle."""
    p = tau.size
    settled = False
    for _ in range(_MAX_STEPS):
        k_value = _derivatives(rows, cells, opened, counts, offset, coef, tau, work, d)
        if not _newton_step(d, small, step_tau, step_gamma):
            return np.nan
        if settled:
            return k_value
        size, length = _largest(step_tau), _largest(step_gamma)
        if not (length < _LONGEST_STEP and size < np.inf):
            return np.nan
        tau += step_tau
        coef[: p - 1] += step_gamma
        settled = size < _STEP_TOLERANCE * _largest(tau) and length < _STEP_TOLERANCE
    return np.nan


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def _spread(rows, cells, opened, counts, tau, work):
    """Of the exponents v under the tilt: moments 1 to 4 about zero, and the largest share of a cell in sum w v^2."""
    lean, weights, mean, n = work[1], work[2], work[3], counts.size
    linear_predictor(rows, cells, opened, work[8], tau, lean)
    m1, m2, m3, m4, largest = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        v = lean[i] * (counts[i] - mean[i])
        wv = weights[i] * v
        wv2 = wv * v
        m1 += wv
        m2 += wv2
        m3 += wv2 * v
        m4 += wv2 * v * v
        largest = max(largest, wv2)
    return m1, m2, m3, m4, largest / m2


@njit(nogil=True, cache=True)
def _root(k_value, n, m1, m2, m3, m4):
    """sqrt(-2 K) at the saddle; where it is small K is lost in rounding, and its cumulants are summed instead."""
    root = math.sqrt(max(0.0, -2.0 * k_value))
    if root > _SMALL_ROOT:
        return root
    # K(1) of K(s) = K(s tau): integrate s K''(s) with K'' expanded at s = 1
    k1, k2, k3, k4 = m1, m2 - m1 * m1 / n, m3, m4 - 3.0 * m2 * m2 / n
    return math.sqrt(max(0.0, k2 - k3 / 3.0 + k4 / 12.0 - 2.0 * k1))


@njit(nogil=True, cache=True)
def _tail(rows, cells, opened, counts, offset, coef, tau, work, d, small, k_value):
    """(r, u, largest share) from the saddle that was just found."""
    weights, mean, product, eta = work[2], work[3], work[4], work[0]
    p, n = tau.size, counts.size
    for i in range(n):
        product[i] = weights[i] * mean[i]
    information, factor = d[4], small[3]
    gram_of_rows(rows, product, eta, information)
    if not cholesky(information, factor):
        return np.nan, np.nan, np.nan
    log_ratio = 2.0 * half_log_det(factor) - half_log_det(small[0]) - half_log_det(small[1])
    m1, m2, m3, m4, share = _spread(rows, cells, opened, counts, tau, work)
    root, t = _root(k_value, n, m1, m2, m3, m4), tau[p - 1]
    return math.copysign(root, t), t * math.exp(-log_ratio), share


@njit(nogil=True, cache=True)
def _saddle_pair(rows, cells, opened, counts, offset, fit, cutoff, work, d, small, out):
    """Fill ``out`` with r, u, share, sd, steps; returns whether a saddle was found."""
    p = fit.size
    coef, tau, slope_tau, slope_gamma = fit.copy(), np.zeros(p), np.empty(p), np.empty(p - 1)
    step_tau, step_gamma = np.empty(p), np.empty(p - 1)
    _derivatives(rows, cells, opened, counts, offset, coef, tau, work, d)
    towards = d[3][:, p - 1].copy()  # K_tau moves so when the cut-off leaves beta
    d[0][:] = towards
    if not _newton_step(d, small, slope_tau, slope_gamma):
        return False
    sd = 1.0 / math.sqrt(-np.sum(slope_tau * towards))
    out[3] = sd
    distance = cutoff - fit[p - 1]
    if abs(distance) < _NEAREST * sd:
        distance = math.copysign(_NEAREST * sd, distance)
    for pieces in _PIECES:
        for piece in range(1, pieces + 1):
            coef[p - 1] = fit[p - 1] + distance * (piece / pieces)
            if piece == 1:
                tau[:] = slope_tau * (distance / pieces)
                coef[: p - 1] = fit[: p - 1] + slope_gamma * (distance / pieces)
            k_value = _find_saddle(rows, cells, opened, counts, offset, coef, tau, work, d, small, step_tau, step_gamma)
            if not np.isfinite(k_value):
                break
        if np.isfinite(k_value):
            out[0], out[1], out[2] = _tail(rows, cells, opened, counts, offset, coef, tau, work, d, small, k_value)
            return True
    return False


@njit(nogil=True, cache=True)
def _saddle_pairs(rows, offset, rna, atac, gene, peak, coefficients, table, found):
    k, n = rows.shape
    p = k + 1
    work = np.zeros((9, n))
    d = (np.empty(p), np.empty(p), np.empty((p, p)), np.empty((p, p)), np.empty((k, k)))
    small = (np.empty((p, p)), np.empty((k, k)), np.empty((p, p)), np.empty((k, k)))
    counts, current = np.empty(n), -1
    for pair in range(gene.size):
        fit = coefficients[pair]
        if not np.all(np.isfinite(fit)):
            continue
        if gene[pair] != current:
            current = gene[pair]
            counts[:] = rna[current]
        cells, opened = cells_of(atac[peak[pair]], rows)
        found[pair] = _saddle_pair(rows, cells, opened, counts, offset, fit, 2.0 * fit[k], work, d, small, table[pair])
