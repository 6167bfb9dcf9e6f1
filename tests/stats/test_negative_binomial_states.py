from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from enhancer_dask.stats import negative_binomial, poisson, saddlepoint, state_saddle
from enhancer_dask.stats.negative_binomial_saddle import saddle_negative_binomial
from enhancer_dask.stats.negative_binomial_states import fit_states, refitter, saddle_states
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.states import INTERACTION, StatePairs, some_cells

SWAPPED = [1, 0, 2, 3]  # tests, after the enhancers changed places


def simulated(seed, n=240, covariates=1, n_pairs=3):
    rng = np.random.default_rng(seed)
    z, offset = rng.normal(size=(n, covariates)), rng.normal(size=n)
    peaks = (rng.random((4, n)) < 0.4).astype(np.uint8)
    mean = np.exp(0.5 + 0.5 * peaks[0] + 0.3 * peaks[1] + 0.2 * z.sum(axis=1) + 0.5 * offset)
    counts = rng.poisson(mean * rng.gamma(1.5, 1 / 1.5, (2, n))).astype(float)
    gene, first, second = np.array([0, 0, 1])[:n_pairs], np.array([0, 2, 3])[:n_pairs], np.array([1, 0, 1])[:n_pairs]
    return StatePairs(counts, peaks, gene, first, second, poisson.make_nuisance(z, 0.5 * offset))


def test_fit_states__matches_r_glm_nb(oracle, celltype_arrays):
    # oracle, R: MASS::glm.nb(y ~ tile1 * tile2 + percent.mito + offset(log(nUMI))), epsilon 1e-12
    table = oracle("epistasis_interaction").query("family == 'negbin'")
    assert table["triple"].nunique() == 30
    for _, rows in table.groupby("triple"):
        row = rows.iloc[0]
        counts, tile1, covariates = celltype_arrays("CD14+ Monocytes", row.gene, row.tile1)
        _, tile2, _ = celltype_arrays("CD14+ Monocytes", row.gene, row.tile2)
        nuisance = poisson.make_nuisance(covariates[:, 1:], covariates[:, 0])
        one = np.array([0])
        peaks = np.array([tile1 > 0, tile2 > 0]).astype(np.uint8)
        fits = fit_states(StatePairs(counts[None].astype(float), peaks, one, one, one + 1, nuisance))
        want = rows.set_index("term")
        np.testing.assert_allclose(fits.beta[0, INTERACTION], want.loc["tile1:tile2", "beta"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(fits.se[0, INTERACTION], want.loc["tile1:tile2", "se"], rtol=1e-5)
        np.testing.assert_allclose(fits.theta[0, INTERACTION], row.theta, rtol=1e-4)
        joint, errors = fits.joint[0], np.sqrt(np.diag(fits.covariance[0]))
        np.testing.assert_allclose(joint[[2, 3]], want.loc[["tile1", "tile2"], "beta"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(errors[[2, 3]], want.loc[["tile1", "tile2"], "se"], rtol=1e-5)
        np.testing.assert_allclose(joint[4], want.loc[["tile1", "tile2", "tile1:tile2"], "beta"].sum(), atol=3e-7)


def test_fit_states__contrasts_are_fits_of_the_cells_of_two_states():
    pairs = simulated(0)
    fits = fit_states(pairs)
    for pair in range(3):
        state = pairs.states(pair)
        for test in range(3):
            inside = (state == 0) | (state == test + 1)
            counts, z = pairs.counts[pairs.gene[pair]][inside], pairs.nuisance.z[inside]
            offset = pairs.nuisance.offset[inside]
            want = negative_binomial.fit_negative_binomial(counts, state[inside] > 0, z, offset=offset)
            np.testing.assert_allclose(fits.contrasts[pair, test], want.coefficients, rtol=1e-8)
            np.testing.assert_allclose(fits.beta[pair, test], want.coefficients[-1], rtol=1e-8)
            np.testing.assert_allclose(fits.se[pair, test], want.standard_errors[-1], rtol=1e-7)
            np.testing.assert_allclose(fits.theta[pair, test], want.theta, rtol=1e-6)


def test_fit_states__sandwich_is_the_spread_over_resamples():
    pairs = simulated(1, n=2_000, n_pairs=1)
    fits = fit_states(pairs)
    draws = resample_counts(2_000, 0, 600, seed=0, celltype="a", rung=0)
    boot, _ = refitter(pairs, fits)(draws, np.array([INTERACTION]))
    sd = saddle_states(pairs, fits).sd[0, INTERACTION]
    # 600 resamples know a standard deviation to 3%, twice that is allowed
    np.testing.assert_allclose(boot[0, :, 0].std(), sd, rtol=0.06)


@pytest.mark.parametrize("covariates", [0, 2])
def test_refitter__equals_fits_of_the_drawn_rows(covariates):
    pairs = simulated(2, covariates=covariates)
    n, which = pairs.counts.shape[1], np.array([11, 0, 1, 2, 3, 6])
    draws = resample_counts(n, 0, 5, seed=4, celltype="a", rung=0)
    boot, n_exact = refitter(pairs, fit_states(pairs))(draws, which)
    assert boot.shape == (6, 5, 1)
    assert (n_exact == 5).all()
    for r in range(5):
        rows = np.repeat(np.arange(n), draws[r])
        nuisance = some_cells(pairs.nuisance, rows)
        drawn = replace(pairs, counts=pairs.counts[:, rows], peaks=pairs.peaks[:, rows], nuisance=nuisance)
        want = fit_states(drawn).beta.ravel()[which]
        np.testing.assert_allclose(boot[:, r, 0], want, rtol=1e-6, atol=1e-7)  # Newton of a refit ends at 1e-4


def few_cells(counts):
    """States 00, 10, 01, 11 of three cells each."""
    state, row = np.repeat([0, 1, 2, 3], 3), np.array([0])
    peaks = np.array([state & 1, state >> 1]).astype(np.uint8)
    nuisance = poisson.make_nuisance(np.empty((12, 0)))
    return StatePairs(np.array([counts], dtype=float), peaks, row, row, row + 1, nuisance)


@pytest.mark.parametrize(
    ("empty", "want"),
    [
        ([], [0, 0, 0, 0]),
        ([3], [0, 0, -np.inf, -np.inf]),
        ([1], [-np.inf, 0, 0, np.inf]),
        ([0], [np.inf, np.inf, np.inf, -np.inf]),
        ([1, 3], [-np.inf, 0, -np.inf, np.nan]),
        ([0, 1, 2, 3], [np.nan, np.nan, np.nan, np.nan]),
    ],
)
def test_fit_states__states_without_counts(empty, want):
    counts = np.array([[1, 0, 7]] * 4)
    counts[empty] = 0
    pairs = few_cells(counts.ravel())
    fits = fit_states(pairs)
    np.testing.assert_allclose(fits.beta[0], want, atol=1e-9)
    status = [poisson.CONVERGED if w == 0 else poisson.SEPARATED if np.isinf(w) else poisson.CONSTANT for w in want]
    np.testing.assert_array_equal(fits.status[0], status)
    # the same by resampling: every cell once, and then cells with counts of the states named left out
    boot, _ = refitter(pairs, fits)(np.ones((1, 12), dtype=np.uint16), np.arange(4))
    np.testing.assert_allclose(boot[:, 0, 0], want, atol=1e-9)
    full = few_cells([1, 0, 7] * 4)
    draw = np.ones((4, 3), dtype=np.uint16)
    draw[empty] = [0, 2, 0]
    boot, _ = refitter(full, fit_states(full))(draw.reshape(1, 12), np.arange(4))
    np.testing.assert_allclose(boot[:, 0, 0], want, atol=1e-9)


def test_refitter__a_state_that_was_not_drawn_has_no_estimate():
    pairs = few_cells([1, 0, 7] * 4)
    draw = np.ones((1, 12), dtype=np.uint16)
    draw[0, 3:6] = 0
    boot, _ = refitter(pairs, fit_states(pairs))(draw, np.arange(4))
    np.testing.assert_allclose(boot[:, 0, 0], [np.nan, 0, 0, np.nan], atol=1e-9)


def test_fit_states__swapping_the_enhancers_swaps_the_tests():
    pairs = simulated(3)
    swapped = replace(pairs, first=pairs.second, second=pairs.first)
    fits, other = fit_states(pairs), fit_states(swapped)
    for name in ("beta", "se", "theta", "status"):
        np.testing.assert_allclose(getattr(other, name), getattr(fits, name)[:, SWAPPED], rtol=1e-7, atol=1e-10)
    order = [0, 1, 3, 2, 4]
    for name in ("covariance", "sandwich"):
        want = getattr(fits, name)[:, order][:, :, order]
        np.testing.assert_allclose(getattr(other, name), want, rtol=1e-6, atol=1e-10)
    saddles, others = saddle_states(pairs, fits), saddle_states(swapped, other)
    np.testing.assert_allclose(others.p, saddles.p[:, SWAPPED], rtol=1e-4)
    np.testing.assert_array_equal(others.trust, saddles.trust[:, SWAPPED])


def test_saddle_states__is_the_saddlepoint_of_each_regression():
    pairs = simulated(4, n=1_500)
    fits = fit_states(pairs)
    saddles = saddle_states(pairs, fits, level=0.9)
    for pair in range(3):
        y, z, state = pairs.counts[pairs.gene[pair]], pairs.nuisance.z, pairs.states(pair)
        offset = pairs.nuisance.offset
        for test in range(3):
            inside = (state == 0) | (state == test + 1)
            want = saddle_negative_binomial(y[inside], state[inside] > 0, z[inside], offset=offset[inside])
            np.testing.assert_allclose(saddles.p[pair, test], want.p, rtol=1e-6)
        beside = np.column_stack([z, state % 2, state // 2])
        want = saddle_negative_binomial(y, state == 3, beside, offset=offset)
        np.testing.assert_allclose(saddles.p[pair, INTERACTION], want.p, rtol=1e-6)
    assert (saddles.trust == saddlepoint.TRUSTED).all()
    sd = saddles.sd[:, INTERACTION]
    np.testing.assert_allclose(saddles.high - saddles.low, 2 * 1.6448536269514722 * sd, rtol=1e-12)
    np.testing.assert_allclose((saddles.high + saddles.low) / 2, fits.beta[:, INTERACTION], rtol=1e-12)
    edge = saddle_states(pairs, fits, level=1.0 - saddles.p_interval[0])  # the interval that just reaches 0
    np.testing.assert_allclose(np.abs([edge.low[0], edge.high[0]]).min(), 0.0, atol=1e-12)


def test_saddle_states__says_what_is_not_to_be_trusted():
    pairs = few_cells([0, 0, 0, 1, 0, 7, 1, 0, 7, 1, 0, 7])
    trust = saddle_states(pairs, fit_states(pairs)).trust[0]
    np.testing.assert_array_equal(trust, saddlepoint.NOT_FITTED)
    few = few_cells([1, 0, 7, 2, 2, 5, 1, 0, 7, 1, 1, 9])  # no test has five cells with counts in each state
    trust = saddle_states(few, fit_states(few)).trust[0]
    np.testing.assert_array_equal(trust, [saddlepoint.FEW_CELLS] * 3 + [state_saddle.RARE_STATE])
    small = simulated(5, n=150)
    trust = saddle_states(small, fit_states(small)).trust
    assert saddlepoint.CONCENTRATED in trust
    assert set(trust.ravel()) <= {saddlepoint.CONCENTRATED, saddlepoint.TRUSTED}


def test_fit_states__no_pairs():
    pairs = simulated(0).some(np.empty(0, dtype=np.int64))
    fits = fit_states(pairs)
    assert fits.beta.shape == (0, 4)
    assert saddle_states(pairs, fits).p.shape == (0, 4)
    assert refitter(pairs, fits)(np.ones((2, 240), dtype=np.uint16), np.empty(0, dtype=np.int64))[0].shape == (0, 2, 1)
