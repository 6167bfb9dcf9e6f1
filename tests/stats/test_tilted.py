from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from enhancer_dask.stats import poisson, tilted
from enhancer_dask.stats.distribution import bootstrap_distribution


def pair(seed=0, n=300, effect=0.4):
    rng = np.random.default_rng(seed)
    z, peak = rng.normal(size=(n, 1)), rng.random(n) < 0.3
    return rng.poisson(np.exp(0.3 * z[:, 0] + effect * peak)), peak[:, None], poisson.make_nuisance(z)


def test_tilted__matches_the_tables(oracle, celltype_arrays):
    # oracles: 10^6 plain and 5,000 tilted resamples of 2,597 real cells
    plain, deep = oracle("bootstrap_million"), oracle("bootstrap_tilted")
    for i in (0, 3, 30, 31, 40):
        row = plain.iloc[i]
        counts, tile, covariates = celltype_arrays(row.celltype, row.gene, row.peak)
        p, se = tilted.tilted(counts, tile[:, None] > 0, poisson.make_nuisance(covariates), n_resamples=2_000)
        assert abs(p - deep.p_tilted[i]) < 4 * np.hypot(se, deep.se_p_tilted[i])
        if row.k > 200:
            assert abs(p - row.boot_basic_p) < 4 * np.hypot(se, np.sqrt(2 * row.boot_basic_p / row.n_resamples))
        assert se < 0.08 * p


@pytest.mark.parametrize("effect", [0.4, -0.5])
def test_tilted__is_unbiased_with_the_error_it_states(effect):
    counts, peak, nuisance = pair(1, effect=effect)
    runs = [tilted.tilted(counts, peak, nuisance, n_resamples=400, seed=seed) for seed in range(60)]
    p, se = np.array(runs).T
    assert p.std(ddof=1) == pytest.approx(np.median(se), rel=0.4)  # relative error of a spread of 60 is 9%
    # 7% for the saddlepoint itself
    want = bootstrap_distribution(counts, peak, nuisance).p_basic()
    assert abs(p.mean() - want) < 4 * p.std() / np.sqrt(60) + 0.07 * want


def test_tilted__of_clusters_and_of_a_contrast_follow_the_saddlepoint():
    rng = np.random.default_rng(2)
    n = 900
    e1, e2 = rng.random(n) < 0.4, rng.random(n) < 0.4
    states = np.column_stack([e1 & ~e2, ~e1 & e2, e1 & e2])
    counts = rng.poisson(np.exp(0.5 + 0.3 * e1 + 0.2 * e2 + 0.4 * (e1 & e2)))
    nuisance, contrast = poisson.make_nuisance(rng.normal(size=(n, 1))), np.array([-1.0, -1.0, 1.0])
    for clusters in (None, rng.integers(0, 60, n)):
        options = {"contrast": contrast, "clusters": clusters}
        p, se = tilted.tilted(counts, states, nuisance, n_resamples=3_000, **options)
        want = bootstrap_distribution(counts, states, nuisance, **options).p_basic()
        assert abs(p - want) < 4 * se + 0.07 * want


def test_tilted__depends_on_seed_and_name_alone():
    data = pair(3)
    first = tilted.tilted(*data, n_resamples=300, seed=1, name=("B", "gene", "peak"))
    assert first == tilted.tilted(*data, n_resamples=300, seed=1, name=("B", "gene", "peak"))
    assert first != tilted.tilted(*data, n_resamples=300, seed=2, name=("B", "gene", "peak"))
    assert first != tilted.tilted(*data, n_resamples=300, seed=1, name=("B", "gene", "peak 2"))


def test_tilted__block_size_changes_nothing(monkeypatch):
    data = pair(3)
    whole = tilted.tilted(*data, n_resamples=300)
    monkeypatch.setattr(tilted, "_BLOCK_DRAWS", 300 * 7)
    np.testing.assert_allclose(tilted.tilted(*data, n_resamples=300), whole, rtol=1e-12)


def test_weighted_counts__are_multinomial_and_the_same_in_any_batch():
    share = np.array([0.0, 1e-3, 0.5, 0.1, 0.399, 0.0])
    counts = tilted.weighted_counts(share, 0, 20_000, key=7)
    assert (counts.sum(axis=1) == 6).all()
    total = counts.sum(axis=0)
    assert total[0] == total[5] == 0
    assert stats.chisquare(total[1:5], 6 * 20_000 * share[1:5]).pvalue > 1e-4
    np.testing.assert_array_equal(tilted.weighted_counts(share, 50, 60, key=7), counts[50:60])
    assert not np.array_equal(tilted.weighted_counts(share, 0, 100, key=8), counts[:100])
