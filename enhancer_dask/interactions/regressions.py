"""The two regressions of enhancer pairs behind one interface: fits, saddlepoint and refit engine of the four tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from enhancer_dask.stats import negative_binomial_states, saddlepoint, state_saddle
from enhancer_dask.stats.exact import Refitter
from enhancer_dask.stats.state_exact import exact_engine
from enhancer_dask.stats.state_fits import fit_states
from enhancer_dask.stats.state_moments import moments_engine
from enhancer_dask.stats.state_saddle import saddle_states
from enhancer_dask.stats.states import StateFits, StatePairs, StateSaddles

ENGINES: dict[str, Callable[[StatePairs, StateFits], Refitter]] = {"moments": moments_engine, "exact": exact_engine}

TRUSTED = "trusted"
TRUST = {
    saddlepoint.TRUSTED: TRUSTED,
    saddlepoint.NOT_FITTED: "a covariate without a finite coefficient",
    saddlepoint.NO_SADDLE: "no saddlepoint",
    saddlepoint.FEW_CELLS: "few cells with counts in a state",
    saddlepoint.CONCENTRATED: "few cells carry the tail",
    saddlepoint.ONE_CELL: "one cell decides a coefficient",
    state_saddle.RARE_STATE: f"fewer than {state_saddle.FEWEST_IN_STATE} cells in a state",
}


class Model(Protocol):
    """Regressions of a gene's counts on the states of two enhancers."""

    def fit(self, pairs: StatePairs) -> StateFits:
        """Fit the original sample."""

    def saddle(self, pairs: StatePairs, fits: StateFits, level: float) -> StateSaddles:
        """Saddlepoint p-values, and the interval of the interaction."""

    def refitter(self, pairs: StatePairs, fits: StateFits, engine: str) -> Refitter:
        """Prepare the refits of resamples; tests are numbered ``4 * pair + test``."""


class Poisson:
    """Everything in kernels over many pairs."""

    def fit(self, pairs: StatePairs) -> StateFits:
        """See :func:`~enhancer_dask.stats.state_fits.fit_states`."""
        return fit_states(pairs)

    def saddle(self, pairs: StatePairs, fits: StateFits, level: float) -> StateSaddles:
        """See :func:`~enhancer_dask.stats.state_saddle.saddle_states`."""
        return saddle_states(pairs, fits, level=level)

    def refitter(self, pairs: StatePairs, fits: StateFits, engine: str) -> Refitter:
        """An engine of ``ENGINES``."""
        return ENGINES[engine](pairs, fits)


class NegativeBinomial:
    """One pair after the other; theta is estimated afresh in every resample."""

    def fit(self, pairs: StatePairs) -> StateFits:
        """See :func:`~enhancer_dask.stats.negative_binomial_states.fit_states`."""
        return negative_binomial_states.fit_states(pairs)

    def saddle(self, pairs: StatePairs, fits: StateFits, level: float) -> StateSaddles:
        """See :func:`~enhancer_dask.stats.negative_binomial_states.saddle_states`."""
        return negative_binomial_states.saddle_states(pairs, fits, level=level)

    def refitter(self, pairs: StatePairs, fits: StateFits, engine: str) -> Refitter:
        """Exact refits, whatever the engine."""
        return negative_binomial_states.refitter(pairs, fits)


MODELS: dict[str, Model] = {"poisson": Poisson(), "negbin": NegativeBinomial()}
