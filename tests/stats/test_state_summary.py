from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from enhancer_dask.stats import poisson
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.state_summary import EXPECTED, expected_counts, summarise_states, with_rules
from enhancer_dask.stats.states import StatePairs, empty_fits, fit_states_plainly, some_cells


def simulated(seed, n=200, covariates=1, rate=0.5):
    rng = np.random.default_rng(seed)
    z, offset = rng.normal(size=(n, covariates)), 0.5 * rng.normal(size=n)
    peaks = (rng.random((3, n)) < 0.4).astype(np.uint8)
    mean = np.exp(np.log(rate) + 0.5 * peaks[0] + 0.3 * peaks[1] + 0.2 * z.sum(axis=1) + offset)
    counts, gene = rng.poisson(mean, (2, n)).astype(float), np.array([0, 1, 1])
    return StatePairs(counts, peaks, gene, np.array([0, 1, 2]), np.array([1, 2, 0]), poisson.make_nuisance(z, offset))


def draws_of(n, stop):
    return resample_counts(n, 0, stop, seed=3, celltype="a", rung=0)


@pytest.mark.parametrize("rate", [4.0, 0.03])
def test_expected_counts__without_covariates_are_rates_of_the_drawn_cells(rate):
    pairs = simulated(0, n=60, covariates=0, rate=rate)
    draws = draws_of(60, 40)
    size = np.exp(pairs.nuisance.offset)
    empty = 0
    for pair in range(3):
        found = expected_counts(pairs, fit_states_plainly(pairs), pair, draws)
        y, state = pairs.counts[pairs.gene[pair]], pairs.states(pair)
        for r in range(40):
            for s in range(4):
                w = draws[r] * (state == s)
                drawn = (w * size).sum()  # 0 where the state was not drawn
                want = (w * y).sum() / drawn * np.exp(pairs.nuisance.offset.mean()) if drawn else np.nan
                empty += want == 0.0
                # refits end where a step is below 1e-4, which leaves 1e-8
                np.testing.assert_allclose(found[r, s], want, rtol=1e-7)
    assert (empty > 0) == (rate < 1.0)


def test_expected_counts__are_those_of_fits_of_the_drawn_rows():
    pairs = simulated(1, covariates=2)
    draws = draws_of(200, 6)
    for r in range(6):
        rows = np.repeat(np.arange(200), draws[r])
        nuisance = some_cells(pairs.nuisance, rows)
        drawn = replace(pairs, counts=pairs.counts[:, rows], peaks=pairs.peaks[:, rows], nuisance=nuisance)
        want = fit_states_plainly(drawn).joint
        for pair in range(3):
            levels = want[pair, 0] + np.append(0.0, want[pair, -3:]) + pairs.nuisance.offset.mean()
            found = expected_counts(pairs, fit_states_plainly(pairs), pair, draws[r : r + 1])
            np.testing.assert_allclose(found[0], np.exp(levels), rtol=1e-6)


def test_expected_counts__do_not_depend_on_where_fits_start():
    pairs, draws = simulated(2), draws_of(200, 5)
    found = expected_counts(pairs, fit_states_plainly(pairs), 1, draws)
    np.testing.assert_allclose(expected_counts(pairs, empty_fits(3, 1), 1, draws), found, rtol=1e-6)


@pytest.mark.parametrize("silent", range(4))
def test_expected_counts__a_state_without_counts_leaves_the_others_as_they_are(silent):
    pairs = simulated(3, covariates=2)
    state = pairs.states(0)
    pairs.counts[0, state == silent] = 0.0
    rest = np.flatnonzero(state != silent)
    found = expected_counts(pairs, empty_fits(3, 2), 0, np.ones((1, 200)))[0]
    others = [s for s in range(4) if s != silent]
    nuisance = some_cells(pairs.nuisance, rest)
    fit = poisson.fit_prepared(pairs.counts[0, rest], state[rest, None] == others[1:], nuisance)
    coefficients = poisson.standardised(fit.coefficients, nuisance)
    levels = coefficients[0] + np.append(0.0, coefficients[-2:]) + pairs.nuisance.offset.mean()
    np.testing.assert_allclose(found[others], np.exp(levels), rtol=1e-6)
    assert found[silent] == 0.0


def test_expected_counts__of_a_gene_without_counts_are_zero_and_of_a_state_without_cells_unknown():
    pairs = simulated(4)
    pairs.counts[0] = 0.0
    assert (expected_counts(pairs, fit_states_plainly(pairs), 0, np.ones((2, 200))) == 0.0).all()
    draw = np.where(pairs.states(1) == 2, 0, 1)[None]
    found = expected_counts(pairs, fit_states_plainly(pairs), 1, draw)[0]
    assert np.isnan(found).tolist() == [False, False, True, False]


def test_expected_counts__a_dummy_without_counts_stands_on_the_other_side():
    rng = np.random.default_rng(6)
    batch = np.arange(120) < 30
    peaks, row = (rng.random((2, 120)) < 0.5).astype(np.uint8), np.array([0])
    counts = np.where(batch, 0, rng.poisson(2.0, 120))[None].astype(float)
    pairs = StatePairs(counts, peaks, row, row, row + 1, poisson.make_nuisance(batch[:, None].astype(float)))
    found = expected_counts(pairs, fit_states_plainly(pairs), 0, np.ones((1, 120)))[0]
    want = [counts[0, ~batch & (pairs.states(0) == s)].mean() for s in range(4)]
    np.testing.assert_allclose(found, want, rtol=1e-7)


def test_with_rules__multiply_and_add():
    expected = np.array([[2.0, 4.0, 3.0, 9.0], [0.0, 4.0, 3.0, 9.0], [2.0, np.nan, 3.0, 9.0]])
    want = [[6.0, 5.0], [np.nan, 7.0], [np.nan, np.nan]]
    np.testing.assert_array_equal(with_rules(expected), np.column_stack([expected, want]))


def test_summarise_states__leaves_out_and_counts_what_is_unknown():
    pairs = simulated(5, n=30, covariates=0, rate=0.4)
    draws, fits = draws_of(30, 50), fit_states_plainly(pairs)
    summary = summarise_states(pairs, fits, draws)
    for pair in range(3):
        values = with_rules(expected_counts(pairs, fits, pair, draws))
        np.testing.assert_array_equal(summary.n[pair], (~np.isnan(values)).sum(axis=0))
        np.testing.assert_allclose(summary.mean[pair], np.nanmean(values, axis=0), rtol=1e-12)
        np.testing.assert_allclose(summary.low[pair], np.nanquantile(values, 0.05, axis=0), rtol=1e-12)
        np.testing.assert_allclose(summary.high[pair], np.nanquantile(values, 0.95, axis=0), rtol=1e-12)
    assert summary.n.min() < 50 == summary.n.max()
    itself = replace(pairs, second=pairs.first)  # no cells in 10 and 01
    assert summarise_states(itself, fits, draws).n[0].tolist() == [50, 0, 0, 50, 0, 0]
    assert np.isnan(summarise_states(itself, fits, draws).low[0, [1, 2, 4, 5]]).all()


def test_summarise_states__swapping_the_enhancers_swaps_the_columns():
    pairs, draws = simulated(7), draws_of(200, 20)
    swapped = replace(pairs, first=pairs.second, second=pairs.first)
    one = summarise_states(pairs, fit_states_plainly(pairs), draws)
    other = summarise_states(swapped, fit_states_plainly(swapped), draws)
    order = [EXPECTED.index(name) for name in ("00", "01", "10", "11", "multiplicative", "additive")]
    for name in ("mean", "low", "high", "n"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name)[:, order], rtol=1e-6)
