"""Compiled fits, saddlepoints and refits of the four tests of enhancer pairs against plain forms and R."""

from __future__ import annotations

import numpy as np
import pytest

from enhancer_dask.stats import poisson, saddlepoint
from enhancer_dask.stats.distribution import NoSaddleError, bootstrap_distribution
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.state_exact import exact_engine
from enhancer_dask.stats.state_fits import fit_states
from enhancer_dask.stats.state_moments import moments_engine
from enhancer_dask.stats.state_saddle import FEWEST_IN_STATE, RARE_STATE, saddle_states
from enhancer_dask.stats.states import (
    CONTRAST,
    INTERACTION,
    TESTS,
    StateFits,
    fit_states_plainly,
    in_own_units,
    limit_of,
    make_state_pairs,
    some_cells,
)

FIELDS = [name for name in StateFits.__dataclass_fields__ if name != "status"]


@pytest.fixture(scope="module")
def triples(oracle, celltype_arrays):
    """The 30 real triples of the oracles, one gene row and two peak rows each."""
    table = oracle("epistasis_contrasts").query("contrast == '10_vs_00'").reset_index(drop=True)
    rna, atac = [], []
    for row in table.itertuples():
        y, first, covariates = celltype_arrays("CD14+ Monocytes", row.gene, row.tile1)
        rna.append(y)
        atac += [first, celltype_arrays("CD14+ Monocytes", row.gene, row.tile2)[1]]
    nuisance = poisson.make_nuisance(covariates[:, 1:], covariates[:, 0])
    each = np.arange(len(table))
    return make_state_pairs(np.array(rna), np.array(atac), each, 2 * each, 2 * each + 1, nuisance)


def random_pairs(seed, *, n=None, c=None, dummies=0, spread=0.5):
    """Five genes (one silent, one sparse) and six peaks (one always open, one never, two the same): all pairs."""
    rng = np.random.default_rng(seed)
    n, c = n or int(rng.integers(40, 400)), int(rng.integers(0, 4)) if c is None else c
    z = rng.normal(size=(n, c)) * rng.uniform(0.1, 3.0, c)
    z = np.column_stack([z, rng.random((n, dummies)) < 0.3]) if dummies else z
    atac = (rng.random((6, n)) < rng.uniform(0.02, 0.7, (6, 1))).astype(int)
    atac[3], atac[4], atac[5] = 1, 0, atac[0]
    depth = rng.normal(size=n) * spread
    mean = np.exp(depth + rng.normal(size=(5, 1)) + 0.5 * atac[0] - 0.4 * atac[1] + 0.3 * atac[0] * atac[1])
    rna = rng.poisson(mean * rng.gamma(2.0, 0.5, (5, n)))
    rna[3], rna[4] = 0, rng.random(n) < 3.0 / n
    gene, first, second = (x.ravel() for x in np.meshgrid(np.arange(5), np.arange(6), np.arange(6), indexing="ij"))
    return make_state_pairs(rna, atac, gene, first, second, poisson.make_nuisance(z, depth))


def swapped(pairs):
    """The same pairs, the enhancers exchanged."""
    return make_state_pairs(pairs.counts, pairs.peaks, pairs.gene, pairs.second, pairs.first, pairs.nuisance)


# -- fits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [fit_states_plainly, fit_states], ids=["plain", "compiled"])
def test_fit_states__equals_r(fit, triples, oracle):
    # glm(y ~ x + percent.mito + offset(log(nUMI)), family = poisson), and y ~ tile1 * tile2 + ...; R takes the
    # weights of its last iterate but one, hence 1e-5 for standard errors
    fits = fit(triples)
    contrasts, joint = oracle("epistasis_contrasts"), oracle("epistasis_interaction").query("family == 'poisson'")
    for t, name in enumerate(("10_vs_00", "01_vs_00", "11_vs_00")):
        r = contrasts[contrasts["contrast"] == name]
        np.testing.assert_allclose(fits.beta[:, t], r["beta"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(fits.se[:, t], r["se"], rtol=1e-5)
        intercept = in_own_units(fits.contrasts[:, t, :-1], triples.nuisance)[:, 0]
        np.testing.assert_allclose(intercept, r["intercept"], rtol=0, atol=1e-7)
    r = dict(iter(joint.groupby("term")))
    np.testing.assert_allclose(fits.beta[:, 3], r["tile1:tile2"]["beta"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(fits.se[:, 3], r["tile1:tile2"]["se"], rtol=1e-5)
    np.testing.assert_allclose(fits.joint[:, -3], r["tile1"]["beta"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(fits.joint[:, -2], r["tile2"]["beta"], rtol=0, atol=1e-7)
    own = in_own_units(fits.joint[:, :2], triples.nuisance)
    np.testing.assert_allclose(own[:, 0], r["intercept"]["beta"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(own[:, 1], r["percent.mito"]["beta"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("dummies", [0, 2])
@pytest.mark.parametrize("seed", range(6))
def test_fit_states__equals_the_plain_form(seed, dummies):
    pairs = random_pairs(seed, dummies=dummies)
    plain, fast = fit_states_plainly(pairs), fit_states(pairs)
    np.testing.assert_array_equal(fast.status, plain.status)
    assert (plain.status == poisson.CONVERGED).mean() > 0.1
    assert (plain.status != poisson.CONVERGED).any()
    for name in FIELDS:
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_fit_states__equals_the_plain_form_at_wide_offsets_and_long_tails(seed):
    pairs = random_pairs(seed, n=500, c=1, spread=3.0)
    nuisance = poisson.make_nuisance(np.sinh(2.0 * pairs.nuisance.z), pairs.nuisance.offset)
    pairs = make_state_pairs(pairs.counts, pairs.peaks, pairs.gene, pairs.first, pairs.second, nuisance)
    plain, fast = fit_states_plainly(pairs), fit_states(pairs)
    np.testing.assert_array_equal(fast.status, plain.status)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("fit", [fit_states_plainly, fit_states], ids=["plain", "compiled"])
def test_fit_states__drops_a_covariate_that_does_not_vary_in_the_two_states(fit):
    """A donor seen in doubly open cells alone: R drops its dummy from 10 against 00 and 01 against 00, and so do we."""
    rng = np.random.default_rng(0)
    peaks = rng.random((2, 400)) < 0.4
    donor = (peaks.all(axis=0) & (rng.random(400) < 0.5)).astype(float)
    z = np.column_stack([rng.normal(size=400), donor])
    counts, row = rng.poisson(2.0 + peaks[0]), np.zeros(1, dtype=int)
    whole = fit(make_state_pairs(counts[None], peaks, row, row, row + 1, poisson.make_nuisance(z)))
    without = fit(make_state_pairs(counts[None], peaks, row, row, row + 1, poisson.make_nuisance(z[:, :1])))
    np.testing.assert_allclose(whole.beta[0, :2], without.beta[0, :2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(whole.se[0, :2], without.se[0, :2], rtol=1e-6)
    assert (whole.status == poisson.CONVERGED).all()
    assert np.isnan(whole.contrasts[0, :2, 2]).all()
    assert np.isfinite(whole.contrasts[0, 2]).all()


@pytest.mark.parametrize("fit", [fit_states_plainly, fit_states], ids=["plain", "compiled"])
def test_fit_states__is_the_ratio_of_means_without_covariates(fit):
    counts = np.array([[3, 5, 8, 2, 4, 30, 7, 1]])
    peaks = np.array([[0, 0, 1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]])
    zero = np.zeros(1, dtype=int)
    pairs = make_state_pairs(counts, peaks, zero, zero, zero + 1, poisson.make_nuisance(np.empty((8, 0))))
    found = fit(pairs)
    total = np.array([8, 10, 5, 37])  # of 2 cells each
    want = np.log([10 / 8, 5 / 8, 37 / 8, 37 * 8 / (10 * 5)])
    np.testing.assert_allclose(found.beta[0], want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.se[0] ** 2, [*(1 / 8 + 1 / total[1:]), (1 / total).sum()], rtol=1e-8)
    mean = total[peaks[0] + 2 * peaks[1]] / 2
    squares = np.bincount(peaks[0] + 2 * peaks[1], (counts[0] - mean) ** 2) / total**2
    robust = CONTRAST @ found.sandwich[0, -3:, -3:] @ CONTRAST
    np.testing.assert_allclose(robust, squares.sum(), rtol=1e-10)


def test_fit_states__a_pair_does_not_depend_on_the_others():
    pairs = random_pairs(3)
    whole, order = fit_states(pairs), np.random.default_rng(0).permutation(len(pairs.gene))
    for rows in (order, order[:1], np.sort(order[:7])):
        some = fit_states(pairs.some(rows))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[rows], err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_fit_and_saddle__swapping_the_enhancers_swaps_the_columns(seed):
    pairs = random_pairs(seed, n=300, c=2)
    other = swapped(pairs)
    fits, again = fit_states(pairs), fit_states(other)
    columns = [1, 0, 2, 3]
    np.testing.assert_allclose(again.beta[:, columns], fits.beta, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(again.se[:, columns], fits.se, rtol=1e-9)
    np.testing.assert_array_equal(again.status[:, columns], fits.status)
    saddles, there = saddle_states(pairs, fits), saddle_states(other, again)
    np.testing.assert_allclose(there.p[:, columns], saddles.p, rtol=1e-6)
    np.testing.assert_allclose(there.low, saddles.low, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(there.trust[:, columns], saddles.trust)


def test_limit_of__says_what_a_fit_would():
    """States without counts pull the coefficient to infinity as the likelihood of the cells says."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        cells = rng.integers(0, 3, 4)
        totals = np.where(cells > 0, rng.integers(0, 3, 4), 0)
        with np.errstate(all="ignore"):
            rate = np.log(totals / cells)  # NaN without cells, -inf without counts
            want = [rate[1] - rate[0], rate[2] - rate[0], rate[3] - rate[0], rate[3] + rate[0] - rate[1] - rate[2]]
        for test in range(4):
            found = limit_of(test, cells, totals)
            if np.isfinite(want[test]):
                assert found == 0.0
            else:
                np.testing.assert_equal(found, want[test])


# -- saddlepoint -------------------------------------------------------------------------------------------


def plain_saddle(pairs, pair, level=0.95):
    """P-values and interval of one pair, each from the plain form of the distribution."""
    y, state, nuisance = pairs.counts[pairs.gene[pair]], pairs.states(pair), pairs.nuisance
    p = []
    for test in range(3):
        inside = (state == 0) | (state == test + 1)
        indicator = (state[inside] > 0)[:, None]
        p.append(bootstrap_distribution(y[inside], indicator, some_cells(nuisance, inside)).p_basic())
    dummies = state[:, None] == np.arange(1, 4)
    whole = bootstrap_distribution(y, dummies, nuisance, contrast=CONTRAST)
    return [*p, whole.p_basic()], whole.interval(level, "bca"), whole


@pytest.mark.parametrize("pair", [3, 7, 13, 21, 29])
def test_saddle_states__equals_the_plain_form_on_real_cells(triples, pair):
    some = triples.some(np.array([pair]))
    found = saddle_states(some, fit_states(some))
    p, (low, high), whole = plain_saddle(triples, pair)
    np.testing.assert_allclose(found.p[0], p, rtol=1e-5)
    np.testing.assert_allclose([found.low[0], found.high[0]], [low, high], rtol=0, atol=2e-4)
    assert found.sd[0, INTERACTION] == pytest.approx(whole.first_order_sd, rel=1e-8)


@pytest.mark.parametrize("seed", [0, 1])
def test_saddle_states__equals_the_plain_form(seed):
    pairs = random_pairs(seed, n=400, c=2)
    fits = fit_states(pairs)
    found = saddle_states(pairs, fits, level=0.9)
    compared = 0
    for pair in np.flatnonzero((found.trust == saddlepoint.TRUSTED).all(axis=1)):
        try:
            p, (low, high), _ = plain_saddle(pairs, pair, 0.9)
        except NoSaddleError:
            continue
        compared += 1
        np.testing.assert_allclose(np.log(found.p[pair]), np.log(p), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose([found.low[pair], found.high[pair]], [low, high], rtol=0, atol=1e-3)
    assert compared >= 5


def test_saddle_states__the_test_inverts_the_interval(triples):
    """At level 1 - p an end of the interval is 0, so that test and interval never disagree."""
    fits = fit_states(triples)
    p = saddle_states(triples, fits).p_interval
    for pair in (4, 9, 22, 28):
        some = np.array([pair])
        at = saddle_states(triples.some(some), fits.some(some), level=1.0 - p[pair])
        assert min(abs(at.low[0]), abs(at.high[0])) < 2e-3


def test_saddle_states__flags_rare_states_and_the_unfitted(triples):
    fits = fit_states(triples)
    found = saddle_states(triples, fits)
    rarest = np.array([np.bincount(triples.states(pair), minlength=4).min() for pair in range(30)])
    np.testing.assert_array_equal(found.trust[:, INTERACTION] == RARE_STATE, rarest < FEWEST_IN_STATE)
    assert 0 < (rarest < FEWEST_IN_STATE).sum() < 30
    nasty = random_pairs(0)
    fits = fit_states(nasty)
    unfitted = fits.status != poisson.CONVERGED
    found = saddle_states(nasty, fits)
    np.testing.assert_array_equal(found.trust == saddlepoint.NOT_FITTED, unfitted)
    assert np.isnan(found.p[unfitted]).all()


def test_saddle_states__is_what_resamples_say(triples):
    """Trusted ones within 4.5 Monte-Carlo errors of 20,000 resamples of all cells of the type, 120 tests at once."""
    fits = fit_states(triples)
    found = saddle_states(triples, fits)
    refitter, tests, n = moments_engine(triples, fits), np.arange(120), 20_000
    beyond = np.zeros(120)
    for start in range(0, n, 4_000):
        draws = resample_counts(2_597, start, start + 4_000, seed=11, celltype="mono", rung=0)
        beyond += (2 * fits.beta.reshape(-1, 1) - refitter(draws, tests)[0][:, :, 0] <= 0).sum(axis=1)
    p = 2 * np.minimum(beyond, n - beyond) / n
    trusted = (found.trust.ravel() == saddlepoint.TRUSTED) & (np.minimum(beyond, n - beyond) >= 20)
    z = (found.p.ravel() - p) / np.sqrt(p * (2 - p) / n, where=p > 0, out=np.full(120, np.inf))
    assert trusted.sum() > 80
    assert np.abs(z[trusted]).max() < 4.5
    assert 0.7 < np.sqrt((z[trusted] ** 2).mean()) < 1.4


# -- refits ------------------------------------------------------------------------------------------------


def drawn_row_fits(pairs, test, weights):
    """The plain fit of the drawn rows, as R would have them."""
    pair, which = test // 4, test % 4
    cells = np.repeat(np.arange(len(weights)), weights)
    nuisance = some_cells(pairs.nuisance, cells)
    rows = make_state_pairs(
        pairs.counts[pairs.gene[pair]][None, cells], pairs.peaks[[pairs.first[pair], pairs.second[pair]]][:, cells],
        np.array([0]), np.array([0]), np.array([1]), nuisance,
    )  # fmt: skip
    return fit_states_plainly(rows).beta[0, which]


@pytest.mark.parametrize("dummies", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_exact_engine__fits_the_drawn_rows(seed, dummies):
    pairs = random_pairs(seed, n=80, dummies=dummies)
    fits = fit_states(pairs)
    draws = resample_counts(80, 0, 12, seed=seed, celltype="x", rung=0)
    tests = np.random.default_rng(seed).choice(4 * len(pairs.gene), 80, replace=False)
    found, n_exact = exact_engine(pairs, fits)(draws, tests)
    want = np.array([[drawn_row_fits(pairs, test, draw) for draw in draws] for test in tests])
    np.testing.assert_allclose(found[:, :, 0], want, rtol=1e-6, atol=1e-6)
    assert (n_exact == 12).all()
    assert np.isfinite(want).any()
    assert np.isinf(want).any()
    assert np.isnan(want).any()


@pytest.mark.parametrize("c", [0, 1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_moments_engine__equals_the_exact_one(seed, c):
    pairs = random_pairs(seed, n=300, c=c)
    fits = fit_states(pairs)
    draws = resample_counts(300, 0, 150, seed=seed, celltype="x", rung=0)
    tests = np.sort(np.random.default_rng(seed).choice(4 * len(pairs.gene), 160, replace=False))
    exact, _ = exact_engine(pairs, fits)(draws, tests)
    found, n_exact = moments_engine(pairs, fits)(draws, tests)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    assert np.isinf(exact).any()
    assert n_exact.mean() < 75  # the expansion serves


def test_moments_engine__equals_the_exact_one_on_real_cells(triples):
    fits, tests = fit_states(triples), np.arange(120)
    draws = resample_counts(2_597, 0, 128, seed=1, celltype="mono", rung=0)
    found, n_exact = moments_engine(triples, fits)(draws, tests)
    exact, _ = exact_engine(triples, fits)(draws, tests)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    assert n_exact.sum() < 0.01 * 120 * 128


def test_moments_engine__a_test_does_not_depend_on_the_others(triples):
    draws = resample_counts(2_597, 0, 200, seed=2, celltype="mono", rung=0)
    fits = fit_states(triples)
    whole, _ = moments_engine(triples, fits)(draws, np.arange(120))
    for tests in ([17], [16, 19, 40], [5, 6, 7]):
        some, _ = moments_engine(triples, fits)(draws, np.array(tests))
        np.testing.assert_array_equal(some, whole[tests])
    rows = np.array([4, 10])
    alone, _ = moments_engine(triples.some(rows), fits.some(rows))(draws[:70], np.arange(8))
    np.testing.assert_array_equal(alone, whole[[16, 17, 18, 19, 40, 41, 42, 43]][:, :70])


def test_tests__are_named_in_the_order_of_their_columns():
    assert TESTS == ("10", "01", "11", "interaction")
