from __future__ import annotations

import numpy as np
import pytest

from enhancer_dask.stats import (
    bootstrap,
    negative_binomial,
    negative_binomial_bootstrap,
    negative_binomial_saddle,
    poisson,
)
from enhancer_dask.stats.negative_binomial_saddle import saddle_negative_binomial, saddlepoint, two_sided_p
from enhancer_dask.stats.resampling import resample_counts


def overdispersed(rng, mean, theta):
    return rng.poisson(mean * rng.gamma(theta, 1.0 / theta, np.shape(mean)))


def simulated(seed, n=400, effect=0.4, theta=1.5, mean=2.0, share=0.3):
    rng = np.random.default_rng(seed)
    z, peak = np.column_stack([rng.normal(size=n), np.exp(0.5 * rng.normal(size=n))]), rng.random(n) < share
    return overdispersed(rng, mean * np.exp(0.2 * z[:, 0] + effect * peak), theta), peak, z


def resampled_p(counts, peak, nuisance, n_resamples):
    """The basic p-value of plain resamples, each refitted, and its Monte-Carlo standard error."""
    fit, refitter = negative_binomial_bootstrap.fit_and_prepare(counts, peak, nuisance)
    resamples = resample_counts(len(counts), 0, n_resamples, seed=3, celltype="x", rung=0)
    boot = refitter(resamples)[:, 0]
    p = bootstrap.basic_p(int((2 * fit.coefficients[-1] - boot <= 0).sum()), int((~np.isnan(boot)).sum()))
    return p, np.sqrt(p * (2 - p) / n_resamples)


def tilted_p(counts, peak, nuisance, n_resamples):
    """The same by importance resampling, to any depth: cells drawn in proportion to their weight in the last round."""
    fit, refitter = negative_binomial_bootstrap.fit_and_prepare(counts, peak, nuisance)
    scores, t = settled_scores(np.asarray(counts, float), np.asarray(peak, float), nuisance, fit)
    n, held = len(counts), 2 * fit.coefficients[-1]
    drawn = np.exp(t * scores - np.max(t * scores))
    cumulant = n * (np.log(drawn.mean()) + np.max(t * scores))
    resamples = np.random.default_rng(1).multinomial(n, drawn / drawn.sum(), size=n_resamples).astype(np.uint16)
    boot = refitter(resamples)[:, 0]
    hit = boot >= held if t > 0 else boot <= held
    ratio = np.where(hit, np.exp(cumulant - t * (resamples @ scores)), 0.0)
    return 2 * ratio.mean(), 2 * ratio.std() / np.sqrt(n_resamples)


def settled_scores(counts, peak, nuisance, fit, rounds=8):
    model = negative_binomial_saddle._Held(counts, peak, nuisance, fit)
    weights = np.ones(counts.size)
    for i in range(1, rounds + 1):
        held = fit.coefficients[-1] * (1 + min(1.0, 2 * i / rounds))
        assert model.fit(weights, held)
        scores = model.scores(weights, held)
        t = saddlepoint(scores)
        weights = np.exp(t * scores - np.max(t * scores))
        weights *= weights.size / weights.sum()
    return scores, t


REAL = [
    ("HLA-DQB1", "chr6-32473500-32474000"),  # p about 2e-8
    ("HLA-DQB1", "chr6-32445500-32446000"),  # 2e-4
    ("HLA-DQB1", "chr6-32604500-32605000"),  # 0.04
    ("ZEB2", "chr2-144460000-144460500"),  # 2e-6
    ("ZEB2", "chr2-144382500-144383000"),  # 7e-3
    ("HLA-DQB1", "chr6-32853000-32853500"),  # 0.07, negative
]


@pytest.mark.parametrize(("gene", "peak"), REAL)
def test_saddle_negative_binomial__is_the_p_of_tilted_resamples_of_real_cells(celltype_arrays, gene, peak):
    counts, tile, covariates = celltype_arrays("CD14+ Monocytes", gene, peak)
    saddle = saddle_negative_binomial(counts, tile > 0, covariates)
    assert saddle.status == negative_binomial.CONVERGED
    p, error = tilted_p(counts, tile > 0, poisson.make_nuisance(covariates), 3_000)
    assert abs(np.log(saddle.p / p)) < 0.07 + 3 * error / p  # 7% is what the method promises


@pytest.mark.parametrize(
    "case",
    [
        {"seed": 0, "effect": 0.2},
        {"seed": 1, "effect": -0.3, "n": 800},
        {"seed": 2, "mean": 0.5, "theta": 30.0, "effect": 0.2},
        {"seed": 3, "effect": 0.0, "mean": 8.0, "share": 0.5},
        {"seed": 4, "theta": 1e6, "effect": 0.15},  # Poisson: theta is infinite in many resamples
    ],
)
def test_saddle_negative_binomial__is_the_p_of_plain_resamples(case):
    counts, peak, z = simulated(**case)
    saddle = saddle_negative_binomial(counts, peak, z)
    p, error = resampled_p(counts, peak, poisson.make_nuisance(z), 20_000)
    assert p > 1e-3
    assert saddle.status == negative_binomial.CONVERGED
    assert abs(saddle.p - p) < 0.07 * p + 3 * error


@pytest.mark.parametrize("case", [{"seed": 4, "effect": 0.8}, {"seed": 1}, {"seed": 6, "effect": -1.0}])
def test_saddle_negative_binomial__does_not_ask_which_cells_are_called_open(case):
    counts, peak, z = simulated(**case)
    offset = 0.1 * z[:, 0] ** 2
    p = saddle_negative_binomial(counts, peak, z, offset=offset).p
    order = np.random.default_rng(0).permutation(len(counts))
    # rounds end when p moves by less than half a percent, at starts that differ by rounding alone
    np.testing.assert_allclose(saddle_negative_binomial(counts, ~peak, z, offset=offset).p, p, rtol=1e-3)
    again = saddle_negative_binomial(counts[order], peak[order], 3 * z[order] + 1, offset=offset[order] - 2.0)
    np.testing.assert_allclose(again.p, p, rtol=1e-3)


@pytest.mark.parametrize("theta", [0.8, 1e6])
def test_scores__are_what_another_weight_of_a_cell_does_to_the_slope(theta):
    counts, peak, z = simulated(5, n=60, theta=theta)
    if theta > 1e3:
        counts = np.minimum(counts, 3)  # less than Poisson: kappa is 0
    counts, peak, nuisance = counts.astype(float), peak.astype(float), poisson.make_nuisance(z)
    fit = negative_binomial.fit_prepared(counts, peak[:, None], nuisance)
    held = fit.coefficients[-1] + 0.3
    weights = np.random.default_rng(0).uniform(0.5, 1.5, 60)

    def slope(w):  # of the likelihood in the held coefficient, all others fitted to the weighted cells
        model = negative_binomial_saddle._Held(counts, peak, nuisance, fit)
        for _ in range(3):  # each stops at a step of 1e-4, so that the last is at rounding
            assert model.fit(w, held)
        mean = np.exp(model.beta @ model.design[:-1] + held * peak)
        theta_here = model.mean_count / np.expm1(model.kappa) if model.kappa > 0 else np.inf
        assert np.isinf(theta_here) == (theta > 1e3)
        return w @ ((counts - mean) / (1 + mean / theta_here) * peak), model.scores(w, held)

    _, scores = slope(weights)
    for cell in range(0, 60, 7):
        step = 1e-4 * (np.arange(60) == cell)
        np.testing.assert_allclose(
            (slope(weights + step)[0] - slope(weights - step)[0]) / 2e-4, scores[cell], rtol=1e-4, atol=1e-5
        )


def test_saddlepoint__makes_the_tilted_mean_zero():
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1.0, 1e6):
        scores = scale * (rng.exponential(size=300) - 1.4)
        t = saddlepoint(scores)
        tilted = np.exp(t * scores)
        assert t > 0
        assert abs(tilted @ scores) < 1e-9 * (tilted @ np.abs(scores))
    assert np.isnan(saddlepoint(np.array([1.0, 2.0, 0.0])))
    assert np.isnan(saddlepoint(np.zeros(3)))
    assert saddlepoint(np.array([-1.0, 1.0])) == 0.0


@pytest.mark.parametrize("t", [-2.0, -1e-3, 0.0, 1e-4, 0.7])
@pytest.mark.parametrize("jit", [False, True], ids=["python", "numba"])
def test_tilted_moments__equal_their_definition(t, jit):
    kernel = negative_binomial_saddle.tilted_moments
    scores = np.random.default_rng(0).normal(size=50)
    cumulant, moments = (kernel if jit else kernel.py_func)(scores, t)
    np.testing.assert_allclose(cumulant, np.log(np.mean(np.exp(t * scores))), rtol=1e-9, atol=1e-16)
    tilted = np.exp(t * scores)
    np.testing.assert_allclose(moments, [tilted @ scores**k / tilted.sum() for k in (1, 2, 3, 4)], rtol=1e-10)


@pytest.mark.parametrize("shift", [-0.25, -0.1, 0.0, 0.2])
def test_two_sided_p__is_the_chance_of_the_sum(shift):
    rng = np.random.default_rng(0)
    scores = rng.exponential(size=60) ** 1.3
    scores += shift - scores.mean()
    sums = rng.multinomial(60, np.full(60, 1 / 60), size=200_000) @ scores
    p, _ = two_sided_p(scores, saddlepoint(scores))
    want = 2 * min((sums >= 0).mean(), (sums < 0).mean())
    assert abs(p - want) < 0.01 * want + 3 * np.sqrt(want * 2 / 200_000)


def test_two_sided_p__has_no_step_where_the_formula_changes():
    scores = np.random.default_rng(0).exponential(size=200) - 1.0
    scores -= scores.mean()
    values = []
    for root in (0.9e-3, 1.1e-3):  # the mean that puts the signed root there, to first order
        moved = scores - root * scores.std() / np.sqrt(200)
        values.append(two_sided_p(moved, saddlepoint(moved))[0])
    slope = 2 * 0.2e-3 / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(values[0] - values[1], slope, atol=2e-5)


def test_saddle_negative_binomial__leaves_out_cells_of_a_dummy_without_counts():
    counts, peak, z = simulated(7, n=800, effect=0.3)
    level = np.arange(800) < 200
    counts = np.where(level, 0, counts)
    covariates = np.column_stack([z, level])
    saddle = saddle_negative_binomial(counts, peak, covariates)
    p, error = resampled_p(counts, peak, poisson.make_nuisance(covariates), 20_000)
    assert saddle.status == negative_binomial.CONVERGED
    assert p > 1e-3
    assert abs(saddle.p - p) < 0.07 * p + 3 * error


@pytest.mark.parametrize(
    ("counts", "peak", "status"),
    [
        ([0, 0, 0, 3, 9, 2], [1, 1, 1, 0, 0, 0], negative_binomial.SEPARATED),
        ([3, 9, 2, 0, 0, 1], [1, 1, 1, 1, 1, 1], negative_binomial.CONSTANT),
        # twice the coefficient would need open cells of mean 5^2: no resample has them
        ([1, 1, 1, 1, 5, 5, 5, 5], [0, 0, 0, 0, 1, 1, 1, 1], negative_binomial_saddle.NO_SADDLEPOINT),
    ],
)
def test_saddle_negative_binomial__says_why_there_is_no_value(counts, peak, status):
    saddle = saddle_negative_binomial(np.array(counts), np.array(peak), np.empty((len(counts), 0)))
    assert saddle.status == status
    assert np.isnan(saddle.p)


def test_saddle_negative_binomial__marks_what_few_cells_carry():
    rng = np.random.default_rng(3)
    counts, peak = overdispersed(rng, np.full(300, 2.0), 1.0), np.arange(300) < 6
    saddle = saddle_negative_binomial(counts, peak, np.empty((300, 0)))
    assert saddle.status == negative_binomial_saddle.FEW_CELLS
    assert 0 < saddle.p <= 1
    assert saddle.n_effective < negative_binomial_saddle.FEWEST_CELLS
