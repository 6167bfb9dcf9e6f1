"""Differences f(x + y) - f(x) of log-gamma, digamma and trigamma, compiled.

The negative binomial likelihood holds nothing else of the gamma function. As differences they stay accurate
where the functions themselves cancel: at x = 1e7 and y = 1, digamma(x + y) - digamma(x) is 1e-7 of what is
subtracted. SciPy's functions cannot be called from compiled code without further packages.
"""

import numpy as np

from enhancer_dask.stats.compiled import compiled

_ASYMPTOTIC_FROM = 10.0  # from here on the series below are exact to 1e-13


@compiled
def gamma_differences(x, y):
    """Differences between x + y and x of three functions, for x > 0 and y >= 0.

    Parameters
    ----------
    x, y : float
        ``y`` need not be an integer. The cost does not grow with it.

    Returns
    -------
    log_gamma, digamma, trigamma : float
        ``log_gamma`` is less its leading term: lgamma(x + y) - lgamma(x) - y log(x), which falls to
        y (y - 1) / (2 x) as x grows.

    Notes
    -----
    The recurrence f(x) -> f(x + 1) up to x = 10, there Stirling's series [1]_, each term as a difference.

    References
    ----------
    .. [1] Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 6.1.41, 6.3.18, 6.4.12.

    Examples
    --------
    >>> log_gamma, digamma, trigamma = gamma_differences(2.0, 3.0)
    >>> bool(np.isclose(log_gamma, np.log(24) - 3 * np.log(2)))
    True
    >>> bool(np.isclose(digamma, 1 / 2 + 1 / 3 + 1 / 4)), bool(np.isclose(trigamma, -1 / 4 - 1 / 9 - 1 / 16))
    (True, True)
    """
    low, product, digamma, trigamma = x, 1.0, 0.0, 0.0
    while low < _ASYMPTOTIC_FROM:
        high = low + y
        product *= high / low
        digamma += y / (low * high)
        trigamma -= y * (low + high) / (low * low * high * high)
        low += 1.0
    high = low + y
    growth = np.log1p(y / low)
    r, s = 1.0 / (low * low), 1.0 / (high * high)
    digamma += growth + 0.5 * y / (low * high)
    digamma += _digamma_tail(s) - _digamma_tail(r)
    trigamma += -y / (low * high) + 0.5 * (s - r)
    trigamma += _trigamma_tail(s) / high - _trigamma_tail(r) / low
    log_gamma = (low - 0.5) * growth + y * np.log1p((high - x) / x) - y - np.log(product)
    log_gamma += _log_gamma_tail(s) / high - _log_gamma_tail(r) / low
    return log_gamma, digamma, trigamma


@compiled
def _log_gamma_tail(r):
    """Stirling's series of lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2, times x, in r = 1 / x**2."""
    return 1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r * (1 / 1188 - r * 691 / 360360))))


@compiled
def _digamma_tail(r):
    """Series of digamma(x) - log(x) + 1 / (2 x) in r = 1 / x**2."""
    return -r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r * (1 / 132 - r * 691 / 32760)))))


@compiled
def _trigamma_tail(r):
    """Series of trigamma(x) - 1 / x - 1 / (2 x**2), times x, in r = 1 / x**2."""
    return r * (1 / 6 - r * (1 / 30 - r * (1 / 42 - r * (1 / 30 - r * (5 / 66 - r * 691 / 2730)))))
