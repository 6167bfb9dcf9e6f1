"""Contrasts and interaction of enhancer pairs in the cells of one type, on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from enhancer_dask.interactions.census import census_block
from enhancer_dask.interactions.layouts import Coding
from enhancer_dask.interactions.regressions import MODELS, TRUST, TRUSTED
from enhancer_dask.links.pair_tests import PValues, Regression
from enhancer_dask.stats import poisson, saddlepoint
from enhancer_dask.stats.bootstrap import SCENT_LADDER, Rung, climb
from enhancer_dask.stats.influence import Influence, influence_of_pairs
from enhancer_dask.stats.natural_scale import SUB, SUPER, UNDECIDED, natural_scale
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.state_fits import fit_states
from enhancer_dask.stats.state_summary import EXPECTED, summarise_states
from enhancer_dask.stats.states import (
    INTERACTION,
    TESTS,
    StateFits,
    StatePairs,
    StateSaddles,
    in_own_units,
    make_state_pairs,
    robust_sd,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PUBLISHED_LADDER = (Rung(100, 0.1), Rung(5_000, 0.0))
LADDERS = {"published": PUBLISHED_LADDER, "scent": SCENT_LADDER}

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
    """Predictor of the contrast 11 against 00: 0/1, or 0/2 as published, which halves beta_11 and its errors."""
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
    expected: int = 0
    """Resamples over which the expected count in each state is given (GLiMMIRS: 100); some 0.1 ms a pair each."""


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
    pairs = make_state_pairs(rna, atac, gene, first, second, poisson.make_nuisance(covariates, offset))
    model = MODELS[options.regression]
    fits = model.fit(pairs)
    columns: dict[str, Any] = dict(census_block(rna, atac, pairs.gene, pairs.first, pairs.second))
    columns |= _per_test("beta", fits.beta) | _per_test("se", fits.se)
    with np.errstate(invalid="ignore"):  # infinite by infinite
        columns |= _per_test("p", 2.0 * ndtr(-np.abs(fits.beta / fits.se)))
    columns |= _bootstrap(pairs, fits, celltype, options)
    columns |= _joint(fits, names, pairs.nuisance)
    columns |= _natural_scale(columns, fits, options)
    poisson_fits = fits if options.regression == "poisson" else fit_states(pairs)
    p = columns["p_interval_interaction"]
    columns |= _influence(influence_of_pairs(pairs, poisson_fits, p, alpha=1.0 - options.level))
    if options.expected:
        columns |= _expected(pairs, fits, celltype, options)
    if options.regression == "negbin":
        columns |= _per_test("theta", fits.theta)
    columns |= _per_test("status", _texts(fits.status, _STATUS))
    if options.coding == "legacy":
        for name in ("beta_11", "se_11", "boot_se_11"):
            columns[name] = columns[name] / 2.0
    return pd.DataFrame(columns)


def _per_test(name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {f"{name}_{test}": values[:, t] for t, test in enumerate(TESTS)}


def _texts(codes: Ints, texts: dict[int, str]) -> NDArray[Any]:
    out = np.empty(codes.shape, dtype=object)
    for code in np.unique(codes):
        out[codes == code] = texts[int(code)]
    return out


def _bootstrap(pairs: StatePairs, fits: StateFits, celltype: str, options: Options) -> dict[str, Any]:
    """P-values of both kinds, the ladder's also in place of a saddlepoint's that is not trusted, and the interval."""
    tested = fits.status == poisson.CONVERGED
    columns: dict[str, Any] = {}
    doubtful = tested
    p_saddle, saddles = np.full(tested.shape, np.nan), None
    if options.p != "ladder":
        saddles = MODELS[options.regression].saddle(pairs, fits, options.level)
        doubtful = tested & (saddles.trust != saddlepoint.TRUSTED)
        p_saddle = np.where(tested & ~doubtful, saddles.p, np.nan)
        status = _texts(saddles.trust, TRUST)
        status[~tested] = ""
        columns |= _per_test("saddle_status", status) | _per_test("boot_se", saddles.sd)
    else:
        columns |= _per_test("saddle_status", np.full(tested.shape, "", dtype=object))
        columns |= _per_test("boot_se", np.full(tested.shape, np.nan))
    tests = np.flatnonzero(doubtful if options.p == "saddle" else tested)
    climbed = _climb(pairs, fits, tests, celltype, options)
    if saddles is not None:
        p_saddle = np.where(doubtful, climbed["boot_p"], p_saddle)
    columns |= _per_test("p_saddle", p_saddle) | _interval(fits, saddles, options.level)
    for name, values in climbed.items():
        columns |= _per_test(name, values)
    return columns


def _climb(pairs: StatePairs, fits: StateFits, tests: Ints, celltype: str, options: Options) -> dict[str, NDArray[Any]]:
    """The ladder's results for some tests, numbered ``4 * pair + test``; each of shape (L, 4)."""
    n, shape = pairs.counts.shape[1], fits.beta.shape
    out: dict[str, NDArray[Any]] = {"boot_p": np.full(shape, np.nan)}
    out |= {name: np.zeros(shape, dtype=np.int64) for name in ("n_resamples", "n_refits", "n_exact")}
    if not len(tests):
        return out
    wanted, place = np.unique(tests // 4, return_inverse=True)
    refitter = MODELS[options.regression].refitter(pairs.some(wanted), fits.some(wanted), options.engine)
    numbers = 4 * place + tests % 4
    found = climb(
        lambda resamples, which: refitter(resamples, numbers[which]), fits.beta.reshape(-1)[tests],
        lambda rung, start, stop: resample_counts(n, start, stop, seed=options.seed, celltype=celltype, rung=rung),
        n_cells=n, ladder=options.ladder,
    )  # fmt: skip
    for name, values in zip(out, found, strict=True):
        out[name].reshape(-1)[tests] = values
    return out


def _interval(fits: StateFits, saddles: StateSaddles | None, level: float) -> dict[str, Floats]:
    """Interval of I and its test: BCa, or normal with the robust standard error where there is no saddlepoint."""
    interaction = fits.beta[:, INTERACTION]
    sd = robust_sd(fits)
    half = float(ndtri(0.5 + 0.5 * level)) * sd
    with np.errstate(invalid="ignore"):
        low, high, p = interaction - half, interaction + half, 2.0 * ndtr(-np.abs(interaction / sd))
    if saddles is not None:
        found = np.isfinite(saddles.low) & np.isfinite(saddles.high) & np.isfinite(saddles.p_interval)
        low, high, p = (
            np.where(found, exact, normal)
            for exact, normal in ((saddles.low, low), (saddles.high, high), (saddles.p_interval, p))
        )
    return {"low_interaction": low, "high_interaction": high, "p_interval_interaction": p}


def _joint(fits: StateFits, names: tuple[str, ...], nuisance: poisson.Nuisance) -> dict[str, Floats]:
    """Intercepts of the contrasts, and the four-state model with standard errors, covariates in their own units."""
    c = len(names)
    intercepts = in_own_units(fits.contrasts[:, :, :-1], nuisance)[:, :, 0]
    columns = {f"intercept_{test}": intercepts[:, t] for t, test in enumerate(TESTS[:3])}
    values = np.concatenate([in_own_units(fits.joint[:, : 1 + c], nuisance), fits.joint[:, 1 + c :]], axis=1)
    back = np.eye(4 + c)
    back[range(1, 1 + c), range(1, 1 + c)] = 1.0 / nuisance.scale
    back[0, 1 : 1 + c] = -nuisance.centre / nuisance.scale
    known = np.isfinite(fits.joint)
    covariance = np.where(known[:, :, None] & known[:, None, :], fits.covariance, 0.0)
    errors = np.where(known, np.sqrt(np.diagonal(back @ covariance @ back.T, axis1=1, axis2=2)), np.nan)
    for at, term in enumerate(("intercept", *names, *TESTS[:3])):
        columns |= {f"joint_{term}": values[:, at], f"se_joint_{term}": errors[:, at]}
    return columns


def _natural_scale(columns: dict[str, Any], fits: StateFits, options: Options) -> dict[str, Any]:
    """Fold changes of the four-state model, both expectations, and the verdict."""
    found = natural_scale(
        fits.joint[:, -3:], fits.sandwich[:, -3:, -3:], (columns["low_interaction"], columns["high_interaction"]),
        level=options.level, margin=options.margin,
    )  # fmt: skip
    out: dict[str, Any] = {f"fold_{test}": found.fold[:, t] for t, test in enumerate(TESTS[:3])}
    quantities = {"additive_11": found.additive, "multiplicative_11": found.multiplicative}
    for name, estimates in {**quantities, "departure_additive": found.departure}.items():
        out |= {name: estimates.value, f"{name}_low": estimates.low, f"{name}_high": estimates.high}
    trusted = columns["saddle_status_interaction"] == TRUSTED
    p = np.where(
        np.isnan(columns["p_saddle_interaction"]), columns["boot_p_interaction"], columns["p_saddle_interaction"]
    )
    departs = (found.verdict == SUPER) | (found.verdict == SUB)
    unsure = departs & ~trusted & ~(p < 1.0 - options.level)  # the interval alone, where it is a rough one
    return out | {"verdict": np.where(unsure, UNDECIDED, found.verdict)}


def _expected(pairs: StatePairs, fits: StateFits, celltype: str, options: Options) -> dict[str, Floats]:
    """Expected count of an average cell in each state, with its band over the first resamples of the ladder."""
    draws = resample_counts(pairs.counts.shape[1], 0, options.expected, seed=options.seed, celltype=celltype, rung=0)
    found = summarise_states(pairs, fits, draws)
    values = (("mean", found.mean), ("q05", found.low), ("q95", found.high))
    return {f"{name}_{state}": of[:, j] for j, state in enumerate(EXPECTED) for name, of in values}


def _influence(found: Influence) -> dict[str, NDArray[Any]]:
    """The cell that moves the interaction most, and the interaction without it."""
    return {
        "cook_cell": found.cell, "cook": found.cook, "cook_ratio": found.ratio, "beta_dropped": found.beta_dropped,
        "se_dropped": found.se_dropped, "p_dropped": found.p_dropped, "one_cell": found.one_cell,
    }  # fmt: skip
