"""The two regressions of SCENT behind one interface: fits, saddlepoint and refit engine for pairs in the same cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.stats import negative_binomial, negative_binomial_bootstrap, poisson, saddlepoint
from enhancer_dask.stats import negative_binomial_saddle as nb_saddle
from enhancer_dask.stats.bootstrap import ENGINES
from enhancer_dask.stats.exact import Refitter, make_batch
from enhancer_dask.stats.pairfits import PairFits, fit_pairs
from enhancer_dask.stats.tensors import NoDeviceError, NoTorchError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRUSTED = "trusted"
_POISSON_TRUST = {
    saddlepoint.TRUSTED: TRUSTED,
    saddlepoint.NOT_FITTED: "no finite fit",
    saddlepoint.NO_SADDLE: "no saddlepoint",
    saddlepoint.FEW_CELLS: "few open cells with counts",
    saddlepoint.CONCENTRATED: "few cells carry the tail",
    saddlepoint.ONE_CELL: "one cell decides a coefficient",
}
_NEGATIVE_BINOMIAL_TRUST = {
    negative_binomial.CONVERGED: TRUSTED,
    nb_saddle.FEW_CELLS: "few cells carry the tail",
}


@dataclass(frozen=True, slots=True)
class Pairs:
    """L pairs of a gene and a peak in the same n cells."""

    counts: Floats
    """Shape (G, n)."""
    peaks: NDArray[Any]
    """As used: 0/1, or counts; shape (P, n)."""
    gene: Ints
    """Row of ``counts``, shape (L,)."""
    peak: Ints
    """Row of ``peaks``, shape (L,)."""
    nuisance: poisson.Nuisance
    """Covariates and offset."""

    def some(self, rows: Ints) -> Pairs:
        """Some of the pairs."""
        return replace(self, gene=self.gene[rows], peak=self.peak[rows])


@dataclass(frozen=True, slots=True)
class Fits:
    """Fits of L pairs in the original sample."""

    coefficients: Floats
    """Intercept, standardised covariates, peak; shape (L, 1 + c + 1)."""
    beta: Floats
    """Coefficient of the peak, shape (L,)."""
    se: Floats
    """Its standard error, shape (L,)."""
    theta: Floats
    """Of the negative binomial, infinite where its fit is the Poisson one; NaN for the Poisson regression; shape
    (L,)."""
    status: Ints
    """Codes of :mod:`enhancer_dask.stats.poisson`, shape (L,)."""

    def some(self, rows: Ints) -> Fits:
        """Those of some pairs."""
        return Fits(self.coefficients[rows], self.beta[rows], self.se[rows], self.theta[rows], self.status[rows])


@dataclass(frozen=True, slots=True)
class Saddles:
    """Bootstrap distribution of L coefficients by saddlepoint."""

    p: Floats
    """Two-sided basic-bootstrap p-value, shape (L,)."""
    se: Floats
    """Standard deviation over resamples, shape (L,); NaN where not computed."""
    bias: Floats
    """Mean over resamples less the estimate, shape (L,); NaN where not computed."""
    status: list[str]
    """``TRUSTED``, or why not."""


class Model(Protocol):
    """A regression of a gene's counts on a peak."""

    def fit(self, pairs: Pairs) -> Fits:
        """Fit the original sample."""

    def saddle(self, pairs: Pairs, fits: Fits) -> Saddles:
        """Saddlepoint p-values of fitted pairs."""

    def refitter(self, pairs: Pairs, fits: Fits, engine: str) -> Refitter:
        """Prepare the refits of resamples."""


class Poisson:
    """Everything in kernels over many pairs."""

    def fit(self, pairs: Pairs) -> Fits:
        """See :func:`~enhancer_dask.stats.pairfits.fit_pairs`."""
        fits = fit_pairs(pairs.counts, pairs.peaks, pairs.gene, pairs.peak, pairs.nuisance)
        return Fits(fits.coefficients, fits.beta, fits.se, np.full(len(fits.beta), np.nan), fits.status)

    def saddle(self, pairs: Pairs, fits: Fits) -> Saddles:
        """See :func:`~enhancer_dask.stats.saddlepoint.saddle_pairs`."""
        fitted = PairFits(fits.coefficients, fits.beta, fits.se, fits.status)
        found = saddlepoint.saddle_pairs(pairs.counts, pairs.peaks, pairs.gene, pairs.peak, pairs.nuisance, fitted)
        return Saddles(found.p, found.sd, found.bias, [_POISSON_TRUST[int(code)] for code in found.trust])

    def refitter(self, pairs: Pairs, fits: Fits, engine: str) -> Refitter:
        """An engine of :data:`~enhancer_dask.stats.bootstrap.ENGINES`."""
        start = np.where(np.isfinite(fits.coefficients), fits.coefficients, 0.0)
        batch = make_batch(pairs.counts, pairs.peaks, pairs.gene, pairs.peak, pairs.nuisance, start)
        try:
            return ENGINES[engine](batch)
        except (NoTorchError, NoDeviceError) as err:
            raise InputError(f"engine {engine!r}: {err}") from err


class NegativeBinomial:
    """One pair after the other; theta is estimated afresh in every resample, as SCENT does."""

    def fit(self, pairs: Pairs) -> Fits:
        """See :func:`~enhancer_dask.stats.negative_binomial.fit_prepared`."""
        fits = [
            negative_binomial.fit_prepared(pairs.counts[g], pairs.peaks[p][:, None], pairs.nuisance)
            for g, p in zip(pairs.gene, pairs.peak, strict=True)
        ]
        coefficients = [poisson.standardised(fit.coefficients, pairs.nuisance) for fit in fits]
        return Fits(
            np.array(coefficients).reshape(len(fits), 2 + pairs.nuisance.z.shape[1]),
            np.array([fit.coefficients[-1] for fit in fits]),
            np.array([fit.standard_errors[-1] for fit in fits]),
            np.array([fit.theta for fit in fits]),
            np.array([fit.status for fit in fits], dtype=np.int64),
        )

    def saddle(self, pairs: Pairs, fits: Fits) -> Saddles:
        """See :func:`~enhancer_dask.stats.negative_binomial_saddle.saddle_prepared`."""
        found = [
            nb_saddle.saddle_prepared(pairs.counts[g], pairs.peaks[p], pairs.nuisance)
            for g, p in zip(pairs.gene, pairs.peak, strict=True)
        ]
        nothing = np.full(len(found), np.nan)
        status = [_NEGATIVE_BINOMIAL_TRUST.get(one.status, "no saddlepoint") for one in found]
        return Saddles(np.array([one.p for one in found]), nothing, nothing, status)

    def refitter(self, pairs: Pairs, fits: Fits, engine: str) -> Refitter:
        """Exact refits, whatever the engine."""
        start = np.where(np.isfinite(fits.coefficients), fits.coefficients, 0.0)
        batch = make_batch(pairs.counts, pairs.peaks, pairs.gene, pairs.peak, pairs.nuisance, start)
        return negative_binomial_bootstrap.batch_engine(batch)


MODELS: dict[str, Model] = {"poisson": Poisson(), "negbin": NegativeBinomial()}
