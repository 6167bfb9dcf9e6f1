"""Tail probabilities from the two numbers of a saddlepoint approximation, on a log scale and near its singularity.

References
----------
.. [1] Lugannani and Rice (1980), Advances in Applied Probability 12, 475-490.
.. [2] Barndorff-Nielsen (1986), Biometrika 73, 307-322: the modified root r + log(u / r) / r.
"""

import math

import numpy as np

from enhancer_dask.stats.compiled import compiled

LOG_SQRT_2_PI = 0.9189385332046728
SMALLEST_P = 2.2250738585072014e-308
SMALL_ROOT = 0.1


@compiled
def mills(x):
    """``(1 - Phi(x)) / phi(x)`` for any x above -37, to 14 digits."""
    if x < 4.0:
        return 0.5 * math.erfc(x * math.sqrt(0.5)) * math.exp(0.5 * x * x + LOG_SQRT_2_PI)
    fraction = x
    for level in range(60, 0, -1):  # the continued fraction of Laplace
        fraction = x + level / fraction
    return 1.0 / fraction


@compiled
def log_tail(r, u):
    """Logarithm of ``1 - Phi(r) + phi(r) (1/u - 1/r)``, by way of the modified root where that is not positive.

    Both tails are had from one pair of numbers: the other one is ``log_tail(-r, -u)``.
    """
    excess = 1.0 / u - 1.0 / r
    sum_ = mills(r) + excess if r > -30.0 else 1.0
    if sum_ > 0.0:
        return min(0.0, math.log(sum_) - 0.5 * r * r - LOG_SQRT_2_PI) if r > -30.0 else 0.0
    modified = r + math.log(u / r) / r
    return math.log(mills(modified)) - 0.5 * modified * modified - LOG_SQRT_2_PI if modified > -30.0 else 0.0


@compiled
def root(k_value, n, m1, m2, m3, m4):
    """sqrt(-2 K) at the saddle; where it is small K is lost in rounding, and its cumulants are summed instead."""
    plain = math.sqrt(max(0.0, -2.0 * k_value))
    if plain > SMALL_ROOT:
        return plain
    # K(1) of K(s) = K(s tau): integrate s K''(s) with K'' expanded at s = 1
    k1, k2, k3, k4 = m1, m2 - m1 * m1 / n, m3, m4 - 3.0 * m2 * m2 / n
    return math.sqrt(max(0.0, k2 - k3 / 3.0 + k4 / 12.0 - 2.0 * k1))


@compiled
def two_sided(r, u):
    """``2 min(P, 1 - P)`` of an upper tail P, never 0; NaN if there is no tail."""
    if not (np.isfinite(r) and np.isfinite(u)):
        return np.nan
    return max(min(1.0, 2.0 * math.exp(min(log_tail(r, u), log_tail(-r, -u)))), SMALLEST_P)


@compiled
def two_sided_all(roots):
    """:func:`two_sided` of each row (r, u), shape (L, 2)."""
    out = np.empty(len(roots))
    for i in range(out.size):
        out[i] = two_sided(roots[i, 0], roots[i, 1])
    return out
