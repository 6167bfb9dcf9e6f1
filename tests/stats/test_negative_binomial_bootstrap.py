from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhancer_dask.stats import bootstrap, negative_binomial, negative_binomial_bootstrap, poisson
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.resampling import resample_counts


def overdispersed(rng, mean, theta, n):
    return rng.poisson(mean * rng.gamma(theta, 1.0 / theta, n))


def test_refit__equals_a_fit_of_the_expanded_rows_on_real_cells(celltype_arrays):
    resamples = resample_counts(2597, 0, 25, seed=0, celltype="CD14+ Monocytes", rung=0)
    pairs = [("HLA-DQB1", "chr6-32474000-32474500"), ("ZEB2", "chr2-144332500-144333000")]
    for gene, peak in pairs:
        counts, tile, covariates = celltype_arrays("CD14+ Monocytes", gene, peak)
        boot = negative_binomial_bootstrap.refit(counts, tile > 0, covariates, resamples)[:, 0]
        for r in range(25):
            rows = np.repeat(np.arange(2597), resamples[r])
            fit = negative_binomial.fit_negative_binomial(counts[rows], tile[rows] > 0, covariates[rows])
            # refits stop at a step of 1e-4 and so carry about its square; 6e-9 was seen over 2,000 resamples
            np.testing.assert_allclose(boot[r], fit.coefficients[-1], rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_refit__equals_a_fit_of_the_expanded_rows(data):
    n = data.draw(st.integers(3, 30))  # a covariate of two values would be a dummy, and leave with its cells
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    counts = overdispersed(rng, data.draw(st.sampled_from([0.0, 0.1, 1.0, 30.0])), rng.choice([0.3, 3.0, 1e3]), n)
    counts = counts + data.draw(st.sampled_from([0.0, 0.01]))
    peak = rng.random(n) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    covariates, offset = rng.normal(size=(n, data.draw(st.integers(0, 2)))), rng.normal(size=n)
    resamples = resample_counts(n, 0, 5, seed=1, celltype="x", rung=0)
    boot = negative_binomial_bootstrap.refit(counts, peak, covariates, resamples, offset=offset)
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
            check_against_expanded(boot[r, 0], counts, peak, covariates, offset, rows)


def check_against_expanded(boot, counts, peak, z, offset, rows):
    """A refit is the fit of the drawn rows; or, where theta has two maxima, that uphill from the original's fit."""
    fit = negative_binomial.fit_negative_binomial(counts[rows], peak[rows], z[rows], offset=offset[rows])
    if fit.status != negative_binomial.CONVERGED:
        # covariates collinear among few cells: the peak may still have an estimate
        assert np.isnan(boot) or fit.status == negative_binomial.ALIASED
    elif abs(boot - fit.coefficients[-1]) > 1e-5:
        original = negative_binomial.fit_negative_binomial(counts, peak, z, offset=offset)
        nuisance = poisson.make_nuisance(z, offset)
        mean, beta = counts.mean(), negative_binomial.standardised(original.coefficients, nuisance)
        design = np.ascontiguousarray(nuisance.design(peak[:, None])[:, rows])
        values, level = negative_binomial.distinct(counts[rows])
        status, kappa, _ = negative_binomial.newton(
            design, counts[rows].astype(float), np.ones(len(rows)), offset[rows], mean, values,
            np.bincount(level).astype(float), beta, np.log1p(mean / original.theta), 1e-8,
        )  # fmt: skip
        assert status == negative_binomial.CONVERGED
        assert kappa > 0.0
        np.testing.assert_allclose(boot, beta[-1], atol=1e-6)


def test_refit__theta_is_estimated_in_each_resample():
    rng = np.random.default_rng(2)
    n = 300
    counts, z = overdispersed(rng, 2.0, 1.0, n), rng.normal(size=(n, 1))
    peak = (rng.random(n) < 0.4)[:, None]
    nuisance = poisson.make_nuisance(z)
    values, level = negative_binomial.distinct(counts)
    mean, start = float(counts.mean()), np.array([np.log(2.0), 0.0, 0.0])
    for resample in resample_counts(n, 0, 10, seed=0, celltype="x", rung=0):
        _, kappa = negative_binomial_bootstrap.refit_weighted(
            nuisance.design(peak), 2, nuisance.watched(1), counts.astype(float), level, values,
            resample.astype(float), nuisance.offset, mean, start, 0.5, poisson.STEP_TOLERANCE,
        )  # fmt: skip
        rows = np.repeat(np.arange(n), resample)
        fit = negative_binomial.fit_negative_binomial(counts[rows], peak[rows], z[rows])
        np.testing.assert_allclose(mean / np.expm1(kappa), fit.theta, rtol=1e-6)


def test_refit__without_more_than_poisson_variation_is_the_poisson_refit():
    rng = np.random.default_rng(1)
    n = 150
    counts, peak, z = rng.binomial(3, 0.5, n), rng.random(n) < 0.3, rng.normal(size=(n, 1))
    resamples = resample_counts(n, 0, 40, seed=0, celltype="x", rung=0)
    boot = negative_binomial_bootstrap.refit(counts, peak, z, resamples)
    want = bootstrap.refit(counts, peak[:, None], z, resamples, engine="exact")
    np.testing.assert_allclose(boot, want, atol=1e-7)


def test_refit__three_states_of_an_enhancer_pair():
    rng = np.random.default_rng(2)
    n = 500
    e1, e2 = rng.random(n) < 0.3, rng.random(n) < 0.4
    indicators = np.column_stack([e1 & ~e2, ~e1 & e2, e1 & e2])
    counts = overdispersed(rng, np.exp(0.2 + 0.5 * e1 - 0.3 * e2), 1.5, n)
    resamples = resample_counts(n, 0, 20, seed=0, celltype="x", rung=0)
    boot = negative_binomial_bootstrap.refit(counts, indicators, np.empty((n, 0)), resamples)
    state = e1 + 2 * e2
    for r in range(20):  # without covariates the coefficients are log ratios of means, whatever theta is
        means = [(resamples[r] * counts)[state == s].sum() / resamples[r][state == s].sum() for s in (0, 1, 2, 3)]
        np.testing.assert_allclose(boot[r], np.log(means[1:]) - np.log(means[0]), atol=1e-6)


def test_refit__never_open_and_twice_the_same_peak_are_not_estimable():
    counts = np.array([2, 1, 3, 14, 0, 0, 5, 1, 2, 2])
    e1, never = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, 1]), np.zeros(10)
    once = np.ones((1, 10), int)
    boot = negative_binomial_bootstrap.refit(counts, np.column_stack([e1, never, e1]), np.empty((10, 0)), once)
    assert np.isnan(boot[0]).all()
    boot = negative_binomial_bootstrap.refit(counts, np.column_stack([e1, never]), np.empty((10, 0)), once)
    np.testing.assert_allclose(boot[0], [np.log((9 / 5) / (21 / 5)), np.nan], atol=1e-8)


def test_refit__a_resample_alone_or_in_a_batch():
    rng = np.random.default_rng(4)
    n = 120
    counts, peak, z = overdispersed(rng, 1.0, 0.7, n), rng.random(n) < 0.2, rng.normal(size=(n, 2))
    resamples = resample_counts(n, 0, 12, seed=0, celltype="x", rung=0)
    batch = negative_binomial_bootstrap.refit(counts, peak, z, resamples)
    alone = [negative_binomial_bootstrap.refit(counts, peak, z, resamples[r : r + 1])[0] for r in range(12)]
    np.testing.assert_array_equal(batch, alone)


def test_refit__refuses_resamples_of_another_shape():
    with pytest.raises(ValueError, match=r"resamples have shape \(1, 4\), want \(R, 3\)"):
        negative_binomial_bootstrap.refit(np.ones(3), np.ones((3, 1)), np.ones((3, 0)), np.ones((1, 4), int))


def test_fit_and_prepare__climbs_the_ladder_from_the_fit_or_without_one():
    rng = np.random.default_rng(0)
    n = 60
    nuisance = poisson.make_nuisance(rng.normal(size=(n, 1)))
    peak = np.arange(n) < 15
    counts = overdispersed(rng, 1.0 + 6.0 * peak, 2.0, n)

    def draw(rung, start, stop):
        return resample_counts(n, start, stop, seed=0, celltype="x", rung=rung)

    ladder = bootstrap.up_to(500)
    fit, refitter = negative_binomial_bootstrap.fit_and_prepare(counts, peak, nuisance)
    start = negative_binomial.standardised(fit.coefficients, nuisance)[None]
    only = np.zeros(1, dtype=int)
    batch = negative_binomial_bootstrap.batch_engine(make_batch(counts[None], peak[None], only, only, nuisance, start))
    np.testing.assert_array_equal(batch(draw(0, 0, 9), only)[0][0], refitter(draw(0, 0, 9)))
    found = bootstrap.climb(batch, fit.coefficients[-1:], draw, n_cells=n, ladder=ladder)
    assert found.p[0] == pytest.approx(2 / 500)  # an effect of log 7 has no resample beyond twice itself
    assert found.n_resamples[0] == 500
    fit, refitter = negative_binomial_bootstrap.fit_and_prepare(np.where(peak, 0, counts), peak, nuisance)
    assert fit.status == negative_binomial.SEPARATED
    assert (refitter(draw(0, 0, 20)) == -np.inf).all()


def test_exact_engine__starts_anywhere():
    rng = np.random.default_rng(7)
    n = 200
    counts, peak = overdispersed(rng, 2.0, 1.0, n), (rng.random(n) < 0.4)[:, None]
    nuisance = poisson.make_nuisance(rng.normal(size=(n, 1)))
    resamples = resample_counts(n, 0, 10, seed=0, celltype="x", rung=0)
    boots = [
        negative_binomial_bootstrap.exact_engine(counts, peak, nuisance, np.array(start))(resamples)
        for start in ([0.7, 0.0, 0.0], [3.0, -1.0, 2.0])
    ]
    np.testing.assert_allclose(boots[0], boots[1], atol=1e-6)
