"""Contrasts and interaction of enhancer pairs in the cells of one type, on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from enhancer_dask.epistasis.census import census_block
from enhancer_dask.epistasis.regressions import MODELS, TRUST
from enhancer_dask.links.pair_tests import PValues, Regression
from enhancer_dask.stats import poisson, saddlepoint
from enhancer_dask.stats.bootstrap import Rung, climb
from enhancer_dask.stats.influence import influence_of_pairs
from enhancer_dask.stats.natural_scale import natural_scale
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.states import INTERACTION, TESTS, StateFits, StatePairs, StateSaddles, in_own_units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Coding = Literal["fixed", "legacy"]
CODINGS: tuple[str, ...] = get_args(Coding)
PUBLISHED_LADDER = (Rung(100, 0.1), Rung(5_000, 0.0))

_STATUS = {
    poisson.CONVERGED: "tested",
    poisson.NOT_CONVERGED: "not converged",
    poisson.SEPARATED: "a state without counts",
    poisson.ALIASED: "collinear covariates",
    poisson.CONSTANT: "a state without cells",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything about the tests that is not data."""

    regression: Regression = "poisson"
    """Poisson, or negative binomial with theta by maximum likelihood (slow)."""
    coding: Coding = "fixed"
    """Predictor of the contrast 11 against 00: 0/1, or 0/2 as published, which halves beta_11 and its standard error."""
    p: PValues = "both"
    """Which bootstrap p-values: the saddlepoint's, the ladder's, or both."""
    engine: str = "moments"
    """Refit engine of the ladder; the negative binomial model has one of its own."""
    seed: int = 0
    """Same seed, same resamples."""
    ladder: tuple[Rung, ...] = PUBLISHED_LADDER
    """Resamples per rung and the p-value below which the next one follows."""
    margin: float = 1.25
    """Fold change within which a departure from additivity or multiplicativity counts as none."""
    level: float = 0.95
    """Confidence of the intervals."""


DEFAULTS = Options()


def epistasis_block(
    rna: NDArray[np.integer],
    atac: NDArray[np.integer],
    gene: NDArray[np.integer],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    covariates: Floats,
    names: tuple[str, ...],
    *,
    celltype: str,
    offset: Floats | None = None,
    options: Options = DEFAULTS,
) -> pd.DataFrame:
    """Test enhancer pairs in the cells of one type.

    Parameters
    ----------
    rna : integer array, shape (G, n)
        Raw counts of the genes.
    atac : integer array, shape (P, n)
        Raw counts of the peaks; open is above zero.
    gene, first, second : integer arrays, shape (L,)
        Pair ``i`` is row ``gene[i]`` of ``rna`` and rows ``first[i]`` and ``second[i]`` of ``atac``.
    covariates : float64 array, shape (n, c)
    names : c names
        Of the covariates.
    celltype : str
        Names the random stream, with the seed.
    offset : float64 array, shape (n,), optional
        Added to the linear predictor, log scale.
    options : Options

    Returns
    -------
    DataFrame
        One row per pair in the given order; columns as :func:`enhancer_dask.epistasis` says, but for names of cell
        type, genes and peaks and adjusted p-values; ``cook_cell`` is the cell's place.
    """
    ints = (np.asarray(rows, dtype=np.int64) for rows in (gene, first, second))
    pairs = StatePairs(
        np.ascontiguousarray(rna, dtype=np.float64), np.ascontiguousarray(atac > 0, dtype=np.uint8), *ints,
        poisson.make_nuisance(covariates, offset),
    )  # fmt: skip
    model = MODELS[options.regression]
    fits = model.fit(pairs)
    columns: dict[str, Any] = dict(census_block(rna, atac, gene, first, second))
    _enter(columns, "beta", fits.beta)
    _enter(columns, "se", fits.se)
    _enter(columns, "p", 2.0 * ndtr(-np.abs(fits.beta / fits.se)))
    saddles = _bootstrap(columns, pairs, fits, celltype, options)
    if options.regression == "negbin":
        _enter(columns, "theta", fits.theta)
    _enter(columns, "status", np.vectorize(_STATUS.__getitem__, otypes=[object])(fits.status))
    _joint(columns, fits, names, pairs.nuisance)
    low, high = _interval(columns, fits, saddles, options.level)
    ...
    return pd.DataFrame(columns)
