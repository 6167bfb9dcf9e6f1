"""log(1 + x) of an array in loops that the compiler turns into vector instructions; the twin of ``exponential``.

With 1 + x = 2^k z and z near 1, log(1 + x) = k ln 2 + log z, and log z is a series in (z - 1) / (z + 1). What
rounding took from 1 + x comes back as a first-order term, so the result is accurate relative to x however small.
"""

import numpy as np

from enhancer_dask.stats.compiled import compiled

_LN2 = 0.6931471805599453
_EXPONENT = -(1 << 52)  # mask of the sign and exponent in a float's bits
_SQRT_HALF = 0x3FE6A09E667F3BCD  # bits of sqrt(1/2): z is taken from there up to sqrt(2)


@compiled(fastmath=frozenset({"contract"}))
def log1p_into(x, out, scratch):
    """Write log(1 + x), x >= 0 and finite, to ``out``; three contiguous float64 arrays of one size.

    ``scratch`` is overwritten. The error is within three units in the last place.
    """
    bits = scratch.view(np.int64)  # and numpy's error model, as a check of each divisor would keep the loops scalar
    for i in range(x.size):
        u = 1.0 + x[i]
        scratch[i] = u
        out[i] = (x[i] - (u - 1.0)) / u
    for i in range(x.size):
        shifted = bits[i] - _SQRT_HALF
        out[i] += np.float64(shifted >> 52) * _LN2
        bits[i] -= shifted & _EXPONENT
    for i in range(x.size):
        s = (scratch[i] - 1.0) / (scratch[i] + 1.0)
        r = s * s
        p = 1.0 / 21.0
        p = p * r + 1.0 / 19.0
        p = p * r + 1.0 / 17.0
        p = p * r + 1.0 / 15.0
        p = p * r + 1.0 / 13.0
        p = p * r + 1.0 / 11.0
        p = p * r + 1.0 / 9.0
        p = p * r + 1.0 / 7.0
        p = p * r + 1.0 / 5.0
        p = p * r + 1.0 / 3.0
        out[i] += 2.0 * (s + s * (r * p))
