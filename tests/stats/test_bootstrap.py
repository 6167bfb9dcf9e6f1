from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhancer_dask.stats import bootstrap, poisson
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.resampling import resample_counts

ON_CPU = ["moments", "exact"]


@pytest.fixture(params=ON_CPU)
def engine(request):
    return request.param


def test_refit__matches_r_on_fixed_resamples(shared, oracle, celltype_arrays, engine):
    # oracle, R: glm on the expanded rows of 200 explicit resamples of 8 pairs
    resamples = np.load(shared / "oracles" / "bootstrap_resamples.npz")
    table = oracle("bootstrap_refits")
    n_separated = n_missing = 0
    for i in range(8):
        gene, peak = str(resamples["gene"][i]), str(resamples["peak"][i])
        counts, tile, covariates = celltype_arrays("CD14+ Monocytes", gene, peak)
        boot = bootstrap.refit(counts, (tile > 0)[:, None], covariates, resamples["counts"][i], engine=engine)[:, 0]
        rows = table[table["pair"] == i].sort_values("resample")
        separated, estimable = rows["separated"].to_numpy(bool), rows["estimable"].to_numpy(bool)
        plain = estimable & ~separated
        np.testing.assert_allclose(boot[plain], rows["beta"].to_numpy()[plain], rtol=0, atol=1e-6)
        assert (boot[separated] == -np.inf).all()
        assert np.isnan(boot[~estimable]).all()
        n_separated, n_missing = n_separated + separated.sum(), n_missing + (~estimable).sum()
    assert n_separated > 0
    assert n_missing > 0


@pytest.mark.parametrize("engine", ON_CPU)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_refit__equals_a_fit_of_the_expanded_rows(engine, data):
    n = data.draw(st.sampled_from([1, *range(3, 26)]))  # with 2 cells a covariate is a dummy
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    counts = rng.poisson(data.draw(st.sampled_from([0.0, 0.1, 1.0, 30.0])), n)
    peak = rng.random(n) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    covariates = rng.normal(size=(n, data.draw(st.integers(0, 2))))
    offset = rng.normal(size=n)
    resamples = resample_counts(n, 0, 5, seed=1, celltype="x", rung=0)
    boot = bootstrap.refit(counts, peak[:, None], covariates, resamples, offset=offset, engine=engine)
    assert boot.shape == (5, 1)
    for r in range(5):
        rows = np.repeat(np.arange(n), resamples[r])
        open_counts, closed_counts = counts[rows][peak[rows]], counts[rows][~peak[rows]]
        if not len(open_counts) or not len(closed_counts):
            assert np.isnan(boot[r, 0])
        elif open_counts.sum() == 0:
            assert boot[r, 0] == -np.inf
        elif closed_counts.sum() == 0:
            assert boot[r, 0] == np.inf
        else:
            fit = poisson.fit_poisson(counts[rows], peak[rows], covariates[rows], offset=offset[rows])
            if fit.status == poisson.CONVERGED and np.isfinite(boot[r, 0]):
                np.testing.assert_allclose(boot[r, 0], fit.coefficients[-1], atol=1e-6)
            elif np.isfinite(boot[r, 0]):
                assert fit.status == poisson.ALIASED  # covariates aliased, the peak itself is not
            else:
                assert np.isnan(boot[r, 0])
                assert fit.status != poisson.CONVERGED


def test_refit__three_states_of_an_enhancer_pair(engine):
    rng = np.random.default_rng(2)
    n = 500
    e1, e2 = rng.random(n) < 0.3, rng.random(n) < 0.4
    indicators = np.column_stack([e1 & ~e2, ~e1 & e2, e1 & e2])
    counts = rng.poisson(np.exp(0.2 + 0.5 * e1 - 0.3 * e2))
    resamples = resample_counts(n, 0, 20, seed=0, celltype="x", rung=0)
    boot = bootstrap.refit(counts, indicators, np.empty((n, 0)), resamples, engine=engine)
    state = e1 + 2 * e2
    for r in range(20):  # without covariates the coefficients are log ratios of means
        means = [(resamples[r] * counts)[state == s].sum() / resamples[r][state == s].sum() for s in (0, 1, 2, 3)]
        np.testing.assert_allclose(boot[r], np.log(means[1:]) - np.log(means[0]), atol=1e-6)


def test_refit__nested_indicators_are_not_mixed_up(engine):
    counts = np.array([2, 1, 3, 4, 0, 0, 5, 1, 2, 2])
    e1 = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, 1])
    never = np.zeros(10)
    once, none = np.ones((1, 10), int), np.empty((10, 0))
    boot = bootstrap.refit(counts, np.column_stack([e1, never, e1]), none, once, engine=engine)
    assert np.isnan(boot[0]).all()  # e1 twice: neither is estimable; never open: not estimable
    boot = bootstrap.refit(counts, np.column_stack([e1, never]), none, once, engine=engine)
    np.testing.assert_allclose(boot[0], [np.log((9 / 5) / (11 / 5)), np.nan], atol=1e-8)


def test_refit__refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="engine 'fast' is unknown"):
        bootstrap.refit(np.ones(3), np.ones((3, 1)), np.ones((3, 0)), np.ones((1, 3), int), engine="fast")
    with pytest.raises(ValueError, match=r"resamples have shape \(1, 4\), want \(R, 3\)"):
        bootstrap.refit(np.ones(3), np.ones((3, 1)), np.ones((3, 0)), np.ones((1, 4), int))


@pytest.mark.parametrize(("k", "want"), [(0, 0.02), (1, 0.02), (50, 1.0), (60, 0.8), (99, 0.02), (100, 0.02)])
def test_basic_p__is_the_rule_of_scent(k, want):
    assert bootstrap.basic_p(k, 100) == pytest.approx(want)


def test_basic_p__is_never_above_one():
    assert bootstrap.basic_p(0, 1) == bootstrap.basic_p(1, 1) == 1.0
    assert np.isnan(bootstrap.basic_p(0, 0))


def test_refit__a_rare_dummy_does_not_lose_resamples(engine):
    # one count in the cells of a level: a third of the resamples draw none of it, and must not be lost
    rng = np.random.default_rng(1)
    n = 300
    level = np.arange(n) < 15
    counts = np.where(level, 0, rng.poisson(1.0, n))
    counts[3] = 1
    peak = rng.random(n) < 0.4
    resamples = resample_counts(n, 0, 300, seed=0, celltype="x", rung=0)
    boot = bootstrap.refit(counts, peak[:, None], level[:, None].astype(float), resamples, engine=engine)[:, 0]
    without = (resamples[:, level] * counts[level]).sum(axis=1) == 0
    assert 0.2 < without.mean() < 0.5
    assert np.isfinite(boot).all()
    none = np.empty((n - 15, 0))
    rest = bootstrap.refit(counts[~level], peak[~level, None], none, resamples[:, ~level], engine=engine)[:, 0]
    np.testing.assert_allclose(boot[without], rest[without], atol=1e-6)


def test_climb__stops_where_the_rule_says_and_draws_each_rung_afresh():
    drawn = []

    def draw(rung, start, stop):
        drawn.append((rung, start, stop))
        return np.column_stack([np.arange(start, stop), np.full(stop - start, rung)])

    def refitter(resamples, which):
        index, rung = resamples[:, 0], resamples[0, 1]
        share = 0.04 if rung == 0 else 0.5
        tests = [
            np.zeros(len(index)),  # never beyond: p = 2 / R on every rung
            np.where(index % 2, 3.0, 0.0),  # half beyond: p = 1
            np.where(index < share * (100 if rung == 0 else 500), 3.0, 0.0),  # 4% on the first rung, half on the second
        ]
        return np.array(tests)[which][:, :, None], np.full(len(which), 1)

    found = bootstrap.climb(refitter, np.array([1.0, 1.0, 1.0]), draw, n_cells=1)
    np.testing.assert_allclose(found.p, [2 / 50_000, 1.0, 1.0])
    np.testing.assert_array_equal(found.n_resamples, [50_000, 100, 500])
    np.testing.assert_array_equal(found.n_refits, [78_100, 100, 600])
    np.testing.assert_array_equal(found.n_exact, [len(drawn), 1, 2])
    assert [d for d in drawn if d[1] == 0] == [
        (k, 0, rung.n_resamples) for k, rung in enumerate(bootstrap.SCENT_LADDER)
    ]


def test_climb__block_size_changes_nothing(monkeypatch, engine):
    rng = np.random.default_rng(0)
    n = 80
    counts, peak, nuisance = rng.poisson(1.0, n), rng.random(n) < 0.4, poisson.make_nuisance(rng.normal(size=(n, 1)))
    counts = counts + 2 * peak
    fit = poisson.fit_prepared(counts, peak[:, None], nuisance)
    only = np.zeros(1, dtype=np.int64)
    start = bootstrap.start_from(fit, counts, nuisance)[None]
    refitter = bootstrap.ENGINES[engine](make_batch(counts[None], peak[None], only, only, nuisance, start))

    def draw(rung, start, stop):
        return resample_counts(n, start, stop, seed=0, celltype="x", rung=rung)

    found = []
    for block in (80 * 7, 80 * 333, 10**9):
        monkeypatch.setattr(bootstrap, "BLOCK_DRAWS", block)
        found.append(bootstrap.climb(refitter, fit.coefficients[-1:], draw, n_cells=n, ladder=bootstrap.up_to(2500)))
    assert found[0] == found[1] == found[2]


def test_climb__separated_resamples_rank_as_infinite_and_missing_ones_are_left_out():
    def refitter(resamples, which):
        return np.array([-np.inf] * 10 + [np.inf] * 20 + [np.nan] * 50 + [1.0] * 20)[None, :, None], np.array([100])

    found = bootstrap.climb(
        refitter, np.array([1.0]), lambda *_: np.zeros((100, 1), int), n_cells=1, ladder=[bootstrap.Rung(100, 0.0)]
    )
    assert found.n_resamples[0] == 50
    assert found.p[0] == pytest.approx(2 * 20 / 50)  # 2 * 1 - inf <= 0 in 20 of the 50 that have an estimate
