"""Metrics against SciPy, hand-computed values and brute force; what is undefined is NaN, without a word."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from enhancer_dask.errors import InputError
from enhancer_dask.models.metrics import (
    PUBLISHED_MASK,
    WINDOW,
    gaussian_log_likelihood,
    gene_groups,
    log_scale,
    metrics_table,
    model_columns,
    mse,
    near_genes,
    pearson,
    poisson_nll,
    roi_masked_mse,
    roi_window_mse,
    spearman,
    wilcoxon_table,
)
from enhancer_dask.models.paired import paired_wilcoxon
from enhancer_dask.simulate.chromosomes import chromosome, preset_design

RNG = np.random.default_rng(5)


def table_of(y, prediction, *, graph="g", genes=(), **columns):
    n = len(y)
    base = {
        "graph": [graph] * n, "node": np.arange(n), "y": np.asarray(y, dtype=float), "prediction": prediction,
        "loss_mask": np.ones(n, dtype=bool), "is_gene": np.isin(np.arange(n), genes), "n_contacts": np.zeros(n, int),
    }  # fmt: skip
    return pd.DataFrame(base | columns)


def value(table, group, metric, model="model"):
    rows = table[(table["model"] == model) & (table["group"] == group) & (table["metric"] == metric)]
    assert len(rows) == 1
    return rows["value"].iloc[0]


# -- errors and likelihoods ------------------------------------------------------------------------------------


def test_poisson_nll__is_that_of_scipy_and_of_graphreg():
    y, rate = RNG.poisson(4, 50), RNG.uniform(0.1, 9, 50)
    np.testing.assert_allclose(poisson_nll(y, rate), -stats.poisson.logpmf(y, rate), rtol=1e-12)
    # a sum of a signal need not be whole: lgamma(3.5) + 2 - 2.5 log 2
    np.testing.assert_allclose(poisson_nll([2.5], [2.0]), [1.2009736 + 2 - 2.5 * 0.6931472], rtol=1e-6)


def test_poisson_nll__predictions_below_zero_and_targets_that_are_none():
    found = poisson_nll([0, 0, 1, -1, np.nan, 3], [0, -5, -5, 1, 1, np.nan])
    np.testing.assert_allclose(found, [1e-7, 1e-7, 1e-7 - np.log(1e-7), np.nan, np.nan, np.nan], rtol=1e-12)
    assert poisson_nll([1.0], [0.0], least=0.5)[0] == pytest.approx(0.5 - np.log(0.5))


def test_gaussian_log_likelihood__is_that_of_scipy_and_largest_at_its_sigma():
    y, p = RNG.normal(size=(2, 40))
    for sigma in (0.3, 2.0):
        want = stats.norm.logpdf(y, p, sigma).mean()
        assert gaussian_log_likelihood(y, p, sigma=sigma) == pytest.approx(want, rel=1e-12)
    best = np.sqrt(mse(y, p))
    assert gaussian_log_likelihood(y, p) == pytest.approx(gaussian_log_likelihood(y, p, sigma=best), rel=1e-12)
    assert gaussian_log_likelihood(y, p) > max(gaussian_log_likelihood(y, p, sigma=best * f) for f in (0.9, 1.1))
    assert gaussian_log_likelihood(y, y) == np.inf
    assert np.isnan(gaussian_log_likelihood([], []))
    with pytest.raises(InputError, match="sigma is 0, want more than 0"):
        gaussian_log_likelihood(y, p, sigma=0)


def test_mse__shapes_that_do_not_fit():
    assert mse([1, 2], [2, 4]) == 2.5
    assert np.isnan(mse([], []))
    with pytest.raises(InputError, match=r"shapes \(2,\) and \(3,\)"):
        mse([1, 2], [1, 2, 3])


# -- correlations ----------------------------------------------------------------------------------------------


@given(arrays(np.float64, (2, 9), elements=st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0, 1e6])))
@settings(deadline=None)
def test_correlations__equal_scipy(xy):
    x, y = xy
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(pearson(x, y))
        assert np.isnan(spearman(x, y))
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_correlations__constants_short_input_and_nan_are_nan():
    constant = np.full(7, 0.1)  # its mean is not 0.1 in floating point
    for found in (pearson, spearman):
        assert np.isnan(found(constant, np.arange(7.0)))
        assert np.isnan(found([1.0], [2.0]))
        assert np.isnan(found([], []))
        assert np.isnan(found([1.0, np.nan, 2.0], [1.0, 2.0, 3.0]))
    assert pearson([1e200, 2e200, 4e200], [1.0, 2.0, 4.0]) == pytest.approx(1)  # squares would overflow


def test_spearman__does_not_see_monotone_changes():
    x, y = RNG.uniform(0, 50, (2, 30))
    assert spearman(log_scale(x), log_scale(y)) == spearman(x, y)
    np.testing.assert_allclose(log_scale([-3, 0, 1, 7]), [0, 0, 1, 3])


# -- regions ---------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.sampled_from([WINDOW, PUBLISHED_MASK, (0, 0)]))
def test_near_genes__equals_its_definition_and_stays_in_its_graph(is_gene, offsets):
    half = len(is_gene) // 2
    graph = ["b"] * half + ["a"] * (len(is_gene) - half)
    node = [*range(half), *range(len(is_gene) - half)]
    genes = {(g, i) for g, i, yes in zip(graph, node, is_gene, strict=True) if yes}
    want = [
        any((g, i - o) in genes for o in range(offsets[0], offsets[1] + 1)) for g, i in zip(graph, node, strict=True)
    ]
    assert near_genes(graph, node, is_gene, offsets).tolist() == want
    order = np.random.default_rng(0).permutation(len(node))
    shuffled = near_genes(*(np.array(v)[order] for v in (graph, node, is_gene)), offsets)
    assert shuffled.tolist() == np.array(want)[order].tolist()


def test_roi__by_hand():
    y, p = np.zeros(20), np.arange(20.0)
    near = near_genes(["g"] * 20, np.arange(20), np.arange(20) == 10, PUBLISHED_MASK)
    assert np.flatnonzero(near).tolist() == [7, 8, 9, 10, 11]
    total = 49 + 64 + 81 + 100 + 121
    assert roi_window_mse(y, p, near) == total / 5
    assert roi_masked_mse(y, p, near) == total / 20
    nowhere = np.zeros(20, dtype=bool)
    assert np.isnan(roi_window_mse(y, p, nowhere))
    assert np.isnan(roi_masked_mse(y, p, nowhere))


@pytest.mark.parametrize("preset", ["enhancers", "silencers"])
def test_roi__only_the_masked_error_is_below_that_of_all_bins_as_published(preset):
    # published: 0.373/1.105, 0.045/0.199, 0.189/0.524, 0.062/0.140
    ratios = []
    for number in range(5):
        nodes = chromosome(preset_design(preset), "test", number).nodes
        y, half = nodes["y"].astype(float), nodes["y_noiseless"] / 2
        for prediction in (np.full(1000, y.mean()), half):
            where = ["g"] * 1000, np.arange(1000), nodes["is_gene"]
            masked = roi_masked_mse(y, prediction, near_genes(*where, PUBLISHED_MASK))
            window = roi_window_mse(y, prediction, near_genes(*where, WINDOW))
            ratios.append((masked / mse(y, prediction), window / mse(y, prediction)))
    masked, window = np.array(ratios).T
    assert masked.max() < 1
    assert window.min() > 1


# -- paired tests ----------------------------------------------------------------------------------------------


def brute_force_p(difference):
    difference = difference[difference != 0]
    ranks = stats.rankdata(abs(difference))
    sums = np.array([np.dot(signs, ranks) for signs in product([0, 1], repeat=len(ranks))])
    return np.mean(sums <= ranks[difference > 0].sum() + 1e-9)


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 5.0]), min_size=1, max_size=8))
@settings(deadline=None)
def test_paired_wilcoxon__is_exact_with_ties(difference):
    difference = np.array(difference)
    found = paired_wilcoxon(difference, np.zeros(len(difference)))
    assert found.n == len(difference)
    assert found.n_differ == np.count_nonzero(difference)
    assert found.p == pytest.approx(brute_force_p(difference) if found.n_differ else 1.0, rel=1e-9)
    assert found.median_difference == -np.median(difference)


@pytest.mark.parametrize("n", [5, 50, 51, 400])
def test_paired_wilcoxon__is_that_of_scipy(n):
    x, y = np.random.default_rng(n).exponential(size=(2, n))
    want = stats.wilcoxon(x, y, alternative="less")
    found = paired_wilcoxon(x, y)
    assert (found.n, found.n_differ, found.statistic) == (n, n, pytest.approx(want.statistic))
    assert found.p == pytest.approx(want.pvalue, rel=1e-9)


def test_paired_wilcoxon__direction():
    worse = RNG.exponential(size=30)
    better = worse - RNG.uniform(0.1, 0.2, 30)
    assert paired_wilcoxon(better, worse).p == pytest.approx(0.5**30)
    assert paired_wilcoxon(worse, better).p == 1
    assert paired_wilcoxon(better, worse).median_difference > 0


def test_paired_wilcoxon__too_few_ties_alone_and_nan():
    assert np.isnan(paired_wilcoxon([], []).p)
    assert np.isnan(paired_wilcoxon([np.nan], [1.0]).p)
    same = paired_wilcoxon([1.0, 2.0, np.nan], [1.0, 2.0, 3.0])
    assert (same.n, same.n_differ, same.p, same.median_difference) == (2, 0, 1.0, 0.0)
    assert paired_wilcoxon([1.0], [2.0]).p == 0.5


# -- tables ----------------------------------------------------------------------------------------------------


def test_metrics_table__values_and_counts():
    rng = np.random.default_rng(1)
    y, p = rng.poisson(5, 60).astype(float), rng.uniform(0.5, 12, 60)
    mask = rng.random(60) < 0.8
    y[[3, 30]] = np.nan
    contacts = rng.integers(0, 9, 60)
    table = table_of(y, p, genes=np.arange(0, 60, 4), loss_mask=mask, n_contacts=contacts)
    found = metrics_table(table)
    counted = mask & ~np.isnan(y)
    assert value(found, "bins", "mse") == pytest.approx(np.mean((y - p)[counted] ** 2))
    genes = np.flatnonzero(counted & (np.arange(60) % 4 == 0))
    groups = {
        "genes": genes,
        "expressed": genes[y[genes] >= 5],
        "contacts_1": genes[contacts[genes] >= 1],
        "contacts_5": genes[contacts[genes] >= 5],
        "expressed_contacts_5": genes[(contacts[genes] >= 5) & (y[genes] >= 5)],
    }
    for group, rows in groups.items():
        assert (found["n"][found["group"] == group] == len(rows)).all()
        assert len(rows) > 2
        want = -stats.poisson.logpmf(y[rows], p[rows]).mean()
        assert value(found, group, "poisson_nll") == pytest.approx(want)
        want = stats.pearsonr(np.log2(y[rows] + 1), np.log2(p[rows] + 1)).statistic
        assert value(found, group, "pearson_log2") == pytest.approx(want)
        assert value(found, group, "spearman_log2") == pytest.approx(stats.spearmanr(y[rows], p[rows]).statistic)
    near = near_genes(["g"] * 60, np.arange(60), table["is_gene"], WINDOW) & counted
    assert value(found, "bins", "roi_window_mse") == pytest.approx(np.mean((y - p)[near] ** 2))
    pd.testing.assert_frame_equal(found, metrics_table(table.sample(frac=1, random_state=0)), check_exact=False)


def test_metrics_table__a_gene_outside_the_mask_still_has_a_window():
    inside = np.arange(12) < 6
    table = table_of(np.zeros(12), np.ones(12), genes=[7], loss_mask=inside)
    found = metrics_table(table)
    rows = found[found["metric"] == "roi_window_mse"]
    assert rows["n"].tolist() == [4]  # bins 2 to 5
    assert value(found, "bins", "roi_masked_mse") == pytest.approx(2 / 6)  # bins 4 and 5 of 6


@pytest.mark.parametrize(
    "table",
    [
        table_of([0.0] * 8, [0.0] * 8, genes=[1, 2]),
        table_of([0.0] * 8, [3.0] * 8, genes=range(8)),
        table_of([1.0, 2.0, 3.0], [2.0] * 3, genes=[1]),
        table_of([1.0, 2.0], [np.nan, np.inf], genes=[0, 1]),
        table_of([np.nan] * 3, [1.0] * 3, genes=[1]),
        table_of([1.0, -1.0], [-1.0, 1.0]),
        table_of([], [], genes=[]),
    ],
    ids=["zeros", "constant", "one gene", "not finite", "no target", "no genes", "empty"],
)
def test_metrics_table__nasty_input_has_every_row_and_no_warning(table):
    found = metrics_table(table)  # warnings are errors here
    assert len(found) == 8 + 6 * 6
    assert found.loc[found["metric"].str.endswith("log2"), "value"].isna().all() or len(table) == 2
    assert len(wilcoxon_table(table)) == 0


def test_metrics_table__sigma_from_elsewhere():
    table = table_of(np.zeros(4), np.ones(4), genes=[0])
    found = metrics_table(table, sigma={"model": 2.0})
    assert value(found, "bins", "gaussian_sigma") == 2
    assert value(found, "genes", "gaussian_ll") == pytest.approx(stats.norm.logpdf(1, 0, 2))


def test_model_columns__by_label():
    one, two = pd.DataFrame({"prediction": [1]}), pd.DataFrame({"prediction_a": [1], "prediction_b-1": [2]})
    assert model_columns(one) == {"model": "prediction"}
    assert model_columns(one, ["mine"]) == {"mine": "prediction"}
    assert model_columns(two, ["b-1", "a"]) == {"b-1": "prediction_b-1", "a": "prediction_a"}
    with pytest.raises(InputError, match="no column 'prediction_c'; models there: a, b-1"):
        model_columns(two, ["c"])
    with pytest.raises(InputError, match="no column 'prediction'"):
        model_columns(pd.DataFrame({"y": [1]}))


def test_gene_groups__thresholds_are_options():
    groups = gene_groups([0, 5, 9], [3, 0, 2], expressed=6, contacts=(3,))
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "genes": [True] * 3,
        "expressed": [False, False, True],
        "contacts_3": [True, False, False],
        "expressed_contacts_3": [False, False, False],
    }


def test_wilcoxon_table__each_model_against_each_other():
    y = RNG.poisson(20, 40).astype(float)
    table = table_of(y, y, genes=range(0, 40, 2)).drop(columns="prediction")
    table = table.assign(prediction_good=y + 0.1, prediction_bad=y * 2 + 5, prediction_worst=y * 4 + 9)
    found = wilcoxon_table(table).query("group == 'genes'").set_index(["model", "against"])
    assert len(found) == 6
    assert found.loc[("good", "bad"), "p"] == pytest.approx(0.5**20)
    assert found.loc[("bad", "good"), "p"] == 1
    assert found.loc[("good", "bad"), "median_difference"] > 0
    assert (found["n"] == 20).all()
    few = wilcoxon_table(table, ["worst", "good"])
    assert set(few["model"]) == {"worst", "good"}
    assert few.query("group == 'contacts_1'")["p"].isna().all()  # no gene has a contact
