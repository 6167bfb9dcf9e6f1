"""The whole bootstrap distribution of a coefficient or contrast, by saddlepoint: tails, quantiles, intervals.

The plain form of :mod:`enhancer_dask.stats.saddlepoint`, whose notation it shares, in NumPy and for one test with all
options: units of resampling are cells or clusters of cells (donors), whose psi are then sums over their cells; cells
may have prior weights; the parameter may be any linear combination of several indicators' coefficients, which becomes
the last coordinate of a design of equal span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import ndtri, ndtri_exp

from enhancer_dask.stats import poisson, saddlepoint, tails

Floats = NDArray[np.float64]


class NoSaddleError(ArithmeticError):
    """No reweighting of the cells near the original sample gives the coefficient this value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Cells, grouped into units of resampling, and a Poisson regression whose last coefficient is of interest."""

    design: Floats
    """Columns: nuisance, then the parameter's; shape (n, p)."""
    counts: Floats
    """Shape (n,)."""
    offset: Floats
    """Log scale, shape (n,)."""
    weights: Floats
    """Prior weight of each cell's likelihood, shape (n,)."""
    unit: NDArray[np.int64]
    """Unit of each cell, 0 to n_units - 1, shape (n,); 0, 1, 2, ... where cells are drawn one by one."""
    n_units: int
    """Units drawn in a resample."""

    def per_unit(self, cellwise: Floats) -> Floats:
        """Sum rows of shape (n, m) over the cells of each unit, shape (n_units, m)."""
        if self.n_units == len(self.unit):
            return cellwise
        return np.column_stack([np.bincount(self.unit, column, self.n_units) for column in cellwise.T])


@dataclass(frozen=True, slots=True)
class Derivatives:
    """K(tau, theta) and its derivatives; theta holds gamma and, last, the cut-off c."""

    k: float
    tau: Floats
    theta: Floats
    tau_tau: Floats
    tau_theta: Floats
    theta_theta: Floats
    tilt: Floats
    """Weight of each unit under the tilt, summing to n_units."""
    information: Floats
    """Of theta under the tilt."""


def derivatives(sample: Sample, tau: Floats, theta: Floats) -> Derivatives:
    """Evaluate K and its derivatives as their definitions say."""
    x, units = sample.design, sample.n_units
    mean = sample.weights * np.exp(x @ theta + sample.offset)
    lean = x @ tau
    psi = sample.per_unit((sample.weights * sample.counts - mean)[:, None] * x)  # (units, p)
    slope = sample.per_unit((-mean * lean)[:, None] * x)  # of tau'psi in theta
    exponent = psi @ tau
    tilt = np.exp(exponent - exponent.max())
    k = units * (np.log(tilt.mean()) + exponent.max())
    tilt *= units / tilt.sum()
    k_tau, k_theta = tilt @ psi, tilt @ slope
    of_cell = tilt[sample.unit]
    information = x.T @ ((of_cell * mean)[:, None] * x)
    bend = x.T @ ((of_cell * mean * lean)[:, None] * x)
    return Derivatives(
        k, k_tau, k_theta,
        psi.T @ (tilt[:, None] * psi) - np.outer(k_tau, k_tau) / units,
        psi.T @ (tilt[:, None] * slope) - information - np.outer(k_tau, k_theta) / units,
        slope.T @ (tilt[:, None] * slope) - bend - np.outer(k_theta, k_theta) / units,
        tilt, information,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saddle:
    """The reweighting nearest to the original sample that gives the parameter a value."""

    r: float
    """Signed root of -2K."""
    u: float
    """Second number of Lugannani and Rice."""
    tau: Floats
    theta: Floats
    tilt: Floats
    """Weight of each unit, summing to n_units."""

    @property
    def log_upper(self) -> float:
        """Log of P(parameter* >= value)."""
        return float(tails.log_tail(self.r, self.u))

    @property
    def log_lower(self) -> float:
        """Log of P(parameter* < value)."""
        return float(tails.log_tail(-self.r, -self.u))

    @property
    def z(self) -> float:
        """Normal quantile of P(parameter* < value), accurate in both tails."""
        return float(ndtri_exp(self.log_lower) if self.r < 0 else -ndtri_exp(self.log_upper))


def _is_positive_definite(matrix: Floats) -> bool:
    return bool(np.linalg.eigvalsh(matrix).min() > 1e-12 * np.abs(matrix).max())


def _schur(d: Derivatives) -> Floats:
    g = slice(0, -1)
    inner: Floats = d.tau_theta[:, g].T @ np.linalg.solve(d.tau_tau, d.tau_theta[:, g]) - d.theta_theta[g, g]
    return inner


def _newton(sample: Sample, tau: Floats, theta: Floats) -> Derivatives | None:
    """Move (tau, gamma) to the saddle at cut-off ``theta[-1]``, in place."""
    p = len(tau)
    for _ in range(30):
        d = derivatives(sample, tau, theta)
        jacobian = np.block([[d.tau_tau, d.tau_theta[:, :-1]], [d.tau_theta[:, :-1].T, d.theta_theta[:-1, :-1]]])
        if not np.isfinite(jacobian).all() or not _is_positive_definite(d.tau_tau):
            return None
        if not _is_positive_definite(_schur(d)):
            return None
        step = np.linalg.solve(jacobian, -np.concatenate([d.tau, d.theta[:-1]]))
        if np.abs(step[p:]).max(initial=0.0) > 2.0:
            return None
        tau += step[:p]
        theta[:-1] += step[p:]
        if np.abs(step).max() <= 1e-11 * (1.0 + np.abs(tau).max()):
            return derivatives(sample, tau, theta)
    return None


class BootstrapDistribution:
    """Distribution of a coefficient over resamples of the cells, or of clusters of cells.

    Made by :func:`bootstrap_distribution`. Values are on the scale of the coefficient, natural log.
    """

    def __init__(self, sample: Sample, theta: Floats) -> None:
        self.sample = sample
        self.estimate = float(theta[-1])
        """Value in the original sample."""
        self._theta = theta
        at_fit = derivatives(sample, np.zeros(len(theta)), theta)
        if not _is_positive_definite(at_fit.tau_tau) or not _is_positive_definite(_schur(at_fit)):
            raise NoSaddleError(f"{sample.n_units} units are too few for {len(theta)} coefficients")
        influence = np.linalg.solve(at_fit.information, self._psi(theta).T)[-1]
        self.influence = influence
        """First-order change of the value per unit and unit of weight, shape (n_units,)."""
        self.first_order_sd = float(np.sqrt((influence**2).sum()))
        """Spread of the linear part, the sandwich standard error."""
        zero = np.zeros((len(theta) - 1, len(theta) - 1))
        mixed = at_fit.tau_theta[:, :-1]
        jacobian = np.block([[at_fit.tau_tau, mixed], [mixed.T, zero]])
        self._slope = np.linalg.solve(jacobian, -np.append(at_fit.tau_theta[:, -1], np.zeros(len(theta) - 1)))

    def __repr__(self) -> str:
        return f"BootstrapDistribution(estimate={self.estimate:.4g}, sd~{self.first_order_sd:.3g})"

    def _psi(self, theta: Floats) -> Floats:
        x, sample = self.sample.design, self.sample
        resid = sample.weights * (sample.counts - np.exp(x @ theta + sample.offset))
        return sample.per_unit(resid[:, None] * x)

    def saddle(self, cutoff: float) -> Saddle:
        """Find the saddle at a cut-off, in one piece or in several from the estimate.

        Raises
        ------
        NoSaddleError
            If no reweighting of the units gives this value, or Newton does not find it.
        """
        p, distance = len(self._theta), cutoff - self.estimate
        nearest = saddlepoint.NEAREST * self.first_order_sd
        if abs(distance) < nearest:
            distance = float(np.copysign(nearest, distance))
        for pieces in (1, 4, 16, 64):
            start = self._slope * (distance / pieces)
            tau, theta = start[:p].copy(), self._theta.copy()
            theta[:-1] += start[p:]
            for piece in range(1, pieces + 1):
                theta[-1] = self.estimate + distance * (piece / pieces)
                found = _newton(self.sample, tau, theta)
                if found is None:
                    break
            else:
                assert found is not None
                return self._tail(found, tau, theta)
        raise NoSaddleError(f"no saddle at {cutoff:.6g} (estimate {self.estimate:.6g})")

    def _tail(self, d: Derivatives, tau: Floats, theta: Floats) -> Saddle:
        v = self._psi(theta) @ tau
        moments = [float(d.tilt @ v**power) for power in (1, 2, 3, 4)]
        r = np.copysign(tails.root(d.k, self.sample.n_units, *moments), tau[-1])
        logs = [np.linalg.slogdet(m)[1] for m in (d.information[:-1, :-1], d.tau_tau, _schur(d))]
        u = tau[-1] * np.exp(0.5 * (logs[1] + logs[2]) - logs[0])
        return Saddle(float(r), float(u), tau, theta, d.tilt)

    def upper_tail(self, cutoff: float) -> float:
        """P(value in a resample >= cutoff)."""
        return float(np.exp(self.saddle(cutoff).log_upper))

    def p_basic(self, null: float = 0.0) -> float:
        """Two-sided basic-bootstrap p-value of ``value = null``: that of SCENT with resamples without end."""
        at = self.saddle(2.0 * self.estimate - null)
        return max(min(1.0, 2.0 * float(np.exp(min(at.log_upper, at.log_lower)))), tails.SMALLEST_P)

    def quantile(self, level: float) -> float:
        """Value that a resample stays below with this probability."""
        return self._at_z(float(ndtri(level)))

    def _at_z(self, z: float) -> float:
        """Solve saddle(c).z = z by secants; z is nearly linear in c."""
        last, z_last = self.estimate, self.saddle(self.estimate).z
        c = last + (z - z_last) * self.first_order_sd
        value = self.saddle(c).z
        flat = saddlepoint.NEAREST * self.first_order_sd  # so far about the estimate, z does not move
        for _ in range(40):
            if abs(value - z) < 1e-9 or max(abs(c - self.estimate), abs(last - self.estimate)) < flat:
                return c
            slope = (value - z_last) / (c - last)
            if not slope > 0.0:
                break
            last, z_last, c = c, value, c + (z - value) / slope
            value = self.saddle(c).z
        raise NoSaddleError(f"no value at the normal quantile {z:.4g}")

    def interval(self, level: float = 0.95, kind: Literal["percentile", "basic", "bca"] = "bca") -> tuple[float, float]:
        """Confidence interval with a coverage of about ``level``.

        ``percentile`` is from quantile to quantile, ``basic`` its mirror image about the estimate, ``bca`` the
        percentile interval corrected for bias and skewness (Efron 1987), with the acceleration of the influence values.
        """
        z = float(ndtri(0.5 + 0.5 * level))
        ends = [-z, z]
        if kind == "bca":
            bias = self.saddle(self.estimate).z
            acceleration = float((self.influence**3).sum() / (6.0 * (self.influence**2).sum() ** 1.5))
            ends = [bias + (bias + end) / (1.0 - acceleration * (bias + end)) for end in ends]
        low, high = (self._at_z(end) for end in ends)
        if kind == "basic":
            return 2.0 * self.estimate - high, 2.0 * self.estimate - low
        return low, high

    def moments(self, nodes: int = 9) -> tuple[float, float]:
        """Bootstrap bias and standard error: mean of value less estimate, and standard deviation.

        Gauss-Hermite quadrature of the quantile function, whose argument is a normal deviate.
        """
        z, weight = hermegauss(nodes)
        weight = weight / weight.sum()
        values = np.array([self._at_z(float(at)) for at in z]) - self.estimate
        bias = float(weight @ values)
        return bias, float(np.sqrt(weight @ (values - bias) ** 2))


def bootstrap_distribution(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    nuisance: poisson.Nuisance,
    *,
    contrast: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
    clusters: NDArray[Any] | None = None,
) -> BootstrapDistribution:
    """Saddlepoint distribution of a combination of indicator coefficients over bootstrap resamples.

    Parameters
    ----------
    counts : array, shape (n,)
    indicators : array, shape (n, q)
    nuisance : poisson.Nuisance
        Covariates (dummies too) and offset.
    contrast : array, shape (q,), optional
        The parameter is ``contrast @ coefficients``; with q = 1 the coefficient itself.
    weights : array, shape (n,), optional
        Prior weights of the cells, zero or more.
    clusters : array, shape (n,), optional
        Labels of donors or samples; whole clusters are drawn, as many as there are. Cells by default.

    Returns
    -------
    BootstrapDistribution

    Raises
    ------
    ValueError
        If a shape does not fit or the contrast is zero.
    NoSaddleError
        If the original sample has no finite fit, or too few units.

    Notes
    -----
    A few milliseconds per cut-off at 2,600 cells; :func:`saddlepoint.saddle_pairs` is the fast form for p-values of
    many pairs. Few clusters (below about 20) are a coarse lattice that no smooth approximation follows.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> peak = rng.random(500) < 0.3
    >>> counts = rng.poisson(np.exp(0.5 * peak))
    >>> boot = bootstrap_distribution(counts, peak[:, None], poisson.make_nuisance(rng.normal(size=(500, 2))))
    >>> [round(end, 3) for end in boot.interval(0.95)]
    [0.38, 0.708]
    """
    y = np.ascontiguousarray(counts, dtype=np.float64)
    a = np.asarray(indicators, dtype=np.float64).reshape(len(y), -1)
    v = np.ones(1) if contrast is None else np.asarray(contrast, dtype=np.float64)
    if v.shape != (a.shape[1],) or not v.any():
        raise ValueError(f"contrast has shape {v.shape}, want ({a.shape[1]},) and not all zero")
    prior = np.ones(len(y)) if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
    unit, n_units = np.arange(len(y)), len(y)
    if clusters is not None:
        labels, of_cell = np.unique(np.asarray(clusters), return_inverse=True)
        if len(labels) < len(y):
            unit, n_units = of_cell, len(labels)
    rows = nuisance.design(_with_contrast_last(a, v))
    start = np.zeros(len(rows))
    start[0] = nuisance.null_intercept(y)
    watched = nuisance.watched(a.shape[1])
    theta = poisson.refit_weighted(rows, 0, watched, y, prior, nuisance.offset, start, poisson.FIT_TOLERANCE)
    if not np.isfinite(theta).all():
        raise NoSaddleError("the original sample has no finite fit")
    return BootstrapDistribution(Sample(rows.T.copy(), y, nuisance.offset, prior, unit, n_units), theta)


def _with_contrast_last(indicators: Floats, contrast: Floats) -> Floats:
    """Columns of the same span as the indicators, so that the last one's coefficient is ``contrast @ coefficients``.

    Solve the contrast for the coefficient that weighs most and put it into the linear predictor.
    """
    pivot = int(np.argmax(np.abs(contrast)))
    last = indicators[:, pivot] / contrast[pivot]
    others = indicators - last[:, None] * contrast
    return np.column_stack([np.delete(others, pivot, axis=1), last])
