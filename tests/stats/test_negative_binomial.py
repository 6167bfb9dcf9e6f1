from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from enhancer_dask.stats import negative_binomial, poisson
from enhancer_dask.stats.negative_binomial import fit_negative_binomial


def overdispersed(rng, mean, theta):
    return rng.poisson(mean * rng.gamma(theta, 1.0 / theta, np.shape(mean)))


def assert_theta_is_that_of_r(fit, row):
    np.testing.assert_allclose(fit.theta, row.theta, rtol=1e-6)
    # glm.nb takes this standard error one iteration early, where theta still moves by up to 1e-4: 7.7e-5 was seen
    np.testing.assert_allclose(fit.se_theta, row.se_theta, rtol=1e-3)
    np.testing.assert_allclose(fit.twologlik, row.twologlik, rtol=1e-12)


def test_fit_negative_binomial__matches_r_glm_nb(oracle, celltype_arrays):
    # oracle, R: MASS::glm.nb(exprs ~ atac + log(nUMI) + percent.mito), epsilon 1e-12
    table = oracle("negbin_glm")
    assert len(table) == 30
    for row in table.itertuples():
        counts, tile, covariates = celltype_arrays(row.celltype, row.gene, row.peak)
        fit = fit_negative_binomial(counts, tile > 0, covariates)
        assert fit.status == negative_binomial.CONVERGED
        want = (row.intercept, row.beta_log_nUMI, row.beta_percent_mito, row.beta)
        # 2e-11 was seen; R stops when the deviance moves by less than 1e-12 of itself
        np.testing.assert_allclose(fit.coefficients, want, rtol=0, atol=1e-9)
        errors = (row.intercept_se, row.se_log_nUMI, row.se_percent_mito, row.se)
        np.testing.assert_allclose(fit.standard_errors, errors, rtol=1e-7)
        assert_theta_is_that_of_r(fit, row)


def test_fit_negative_binomial__matches_r_with_offset_and_interaction(oracle, celltype_arrays):
    # oracle, R: MASS::glm.nb(y ~ tile1 * tile2 + percent.mito + offset(log(nUMI)))
    table = oracle("epistasis_interaction").query("family == 'negbin'")
    assert table["triple"].nunique() == 30
    for _, rows in table.groupby("triple"):
        row = rows.iloc[0]
        counts, tile1, covariates = celltype_arrays("CD14+ Monocytes", row.gene, row.tile1)
        _, tile2, _ = celltype_arrays("CD14+ Monocytes", row.gene, row.tile2)
        peaks = np.column_stack([tile1 > 0, tile2 > 0, (tile1 > 0) & (tile2 > 0)])
        fit = fit_negative_binomial(counts, peaks, covariates[:, 1:], offset=covariates[:, 0])
        want = rows.set_index("term").loc[["intercept", "percent.mito", "tile1", "tile2", "tile1:tile2"]]
        np.testing.assert_allclose(fit.coefficients, want["beta"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(fit.standard_errors, want["se"], rtol=1e-7)
        assert_theta_is_that_of_r(fit, row)


def cases(seed):
    """A small data set: counts of some kind, indicator, covariates, offset."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([8, 25, 120]))
    z, offset = rng.normal(size=(n, rng.integers(0, 3))), 0.3 * rng.normal(size=n)
    peak = rng.random(n) < rng.choice([0.1, 0.5])
    mean = np.exp(rng.uniform(-2, 4) + 0.3 * z.sum(axis=1) + rng.normal() * peak + offset)
    kinds = {
        "overdispersed": overdispersed(rng, mean, 10.0 ** rng.uniform(-1.0, 1.5)),
        "Poisson": rng.poisson(mean),
        "underdispersed": rng.binomial(4, 0.5, n),
        "shifted": overdispersed(rng, mean, 1.0) + 0.01,  # GLiMMIRS adds 0.01
        "real": mean * rng.gamma(0.7, 1.0, n),
    }
    return list(kinds.values())[seed % 5], peak, z, offset


@pytest.mark.parametrize("seed", range(40))
def test_fit_negative_binomial__no_other_point_is_better(seed):
    counts, peak, z, offset = cases(seed)
    fit = fit_negative_binomial(counts, peak, z, offset=offset)
    plain = poisson.fit_poisson(counts, peak, z, offset=offset)
    assert fit.status == plain.status
    if fit.status != negative_binomial.CONVERGED:
        return
    design = np.column_stack([np.ones(len(counts)), z, peak])

    def loss(x):
        return -negative_binomial.log_likelihood(counts, np.exp(design @ x[:-1] + offset), np.exp(x[-1]))

    mean = np.exp(design @ fit.coefficients + offset)
    np.testing.assert_allclose(fit.twologlik, 2 * negative_binomial.log_likelihood(counts, mean, fit.theta))
    # theta up to 1e6: further out gammaln(y + theta) - gammaln(theta) is mostly rounding
    bounds = [(None, None)] * design.shape[1] + [(np.log(1e-3), np.log(1e6))]
    for theta in (0.1, 2.0, 1e3):
        slow = minimize(loss, np.append(plain.coefficients, np.log(theta)), method="L-BFGS-B", bounds=bounds)
        assert fit.twologlik >= -2 * slow.fun - 1e-6 * (1 + abs(slow.fun))
    if np.isfinite(fit.theta):
        np.testing.assert_allclose(fit.twologlik, -2 * loss(np.append(fit.coefficients, np.log(fit.theta))))


@pytest.mark.parametrize("seed", [0, 3, 4, 5, 10])
def test_fit_negative_binomial__standard_errors_are_those_of_the_information(seed):
    counts, peak, z, offset = cases(seed)
    fit = fit_negative_binomial(counts, peak, z, offset=offset)
    assert np.isfinite(fit.theta)
    design = np.column_stack([np.ones(len(counts)), z, peak])
    mean = np.exp(design @ fit.coefficients + offset)
    information = design.T @ (design * (mean / (1 + mean / fit.theta))[:, None])
    np.testing.assert_allclose(fit.standard_errors, np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-8)
    h = 1e-3 * fit.theta
    three = [negative_binomial.log_likelihood(counts, mean, fit.theta + d) for d in (-h, 0.0, h)]
    curvature = (three[0] - 2 * three[1] + three[2]) / h**2
    np.testing.assert_allclose(fit.se_theta, 1 / np.sqrt(-curvature), rtol=1e-4)  # differences: h^2 and rounding / h^2


@pytest.mark.parametrize("kappa", [0.01, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_score_and_information__are_the_derivatives_of_the_likelihood(kappa, shift):
    rng = np.random.default_rng(4)
    n = 50
    design = np.vstack([np.ones(n), rng.normal(size=n), rng.random(n) < 0.4])
    counts, weights = overdispersed(rng, np.full(n, 3.0), 1.0) + shift, rng.integers(1, 4, n).astype(float)
    values, level = negative_binomial.distinct(counts)
    point = np.array([0.8, 0.2, -0.4, kappa])

    def at(x, kernel=negative_binomial.score_and_information):
        score, info, eta = np.empty(4), np.zeros((4, 4)), x[:3] @ design
        tally, work = np.bincount(level, weights), np.empty((4, n))
        loglik = kernel(design, counts, weights, eta, x[3], 3.0, values, tally, work, score, info)
        return loglik, score, np.tril(info) + np.tril(info, -1).T

    def plainly(x):
        theta, rows = 3.0 / np.expm1(x[3]), np.repeat(np.arange(n), weights.astype(int))
        return negative_binomial.log_likelihood(counts[rows], np.exp(x[:3] @ design)[rows], theta)

    loglik, score, info = at(point)
    steps = np.diag([1e-5, 1e-5, 1e-5, 1e-3 * kappa])
    for j in range(4):
        up, down, width = point + steps[j], point - steps[j], 2 * steps[j, j]
        np.testing.assert_allclose(score[j], (plainly(up) - plainly(down)) / width, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(info[j], -(at(up)[1] - at(down)[1]) / width, rtol=1e-4, atol=1e-4 * info.max())
        np.testing.assert_allclose(at(up)[0] - loglik, plainly(up) - plainly(point), rtol=1e-6, atol=1e-8)
    for compiled, plain in zip(at(point), at(point, negative_binomial.score_and_information.py_func), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize(
    ("counts", "peak", "status", "beta"),
    [
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], negative_binomial.SEPARATED, -np.inf),  # a gene without counts
        ([0, 0, 0, 3, 9, 2], [1, 1, 1, 0, 0, 0], negative_binomial.SEPARATED, -np.inf),  # none in open cells
        ([3, 9, 2, 0, 0, 0], [1, 1, 1, 0, 0, 0], negative_binomial.SEPARATED, np.inf),  # all in open cells
        ([3, 9, 2, 0, 0, 1], [0, 0, 0, 0, 0, 0], negative_binomial.CONSTANT, np.nan),  # never open
        ([3, 9, 2, 0, 0, 1], [1, 1, 1, 1, 1, 1], negative_binomial.CONSTANT, np.nan),  # always open
        ([2], [1], negative_binomial.CONSTANT, np.nan),  # one cell
    ],
)
def test_fit_negative_binomial__says_why_there_is_no_estimate(counts, peak, status, beta):
    fit = fit_negative_binomial(np.array(counts), np.array(peak), np.empty((len(counts), 0)))
    assert fit.status == status
    np.testing.assert_equal(fit.coefficients[-1], beta)
    assert np.isnan(fit.standard_errors).all()
    assert np.isnan([fit.theta, fit.se_theta, fit.twologlik]).all()


def test_fit_negative_binomial__names_collinear_covariates():
    rng = np.random.default_rng(0)
    z, peak = rng.normal(size=(50, 1)), rng.integers(0, 2, 50)
    counts = overdispersed(rng, np.full(50, 2.0), 1.0)
    for covariates in (np.hstack([z, 3 * z + 1]), peak[:, None].astype(float)):
        assert fit_negative_binomial(counts, peak, covariates).status == negative_binomial.ALIASED


def test_fit_negative_binomial__a_gene_without_counts_and_no_peak_has_no_fit():
    fit = fit_negative_binomial(np.zeros(20), np.empty((20, 0)), np.empty((20, 0)))
    assert fit.status == negative_binomial.NOT_CONVERGED
    assert np.isnan(fit.theta)


@pytest.mark.parametrize("seed", range(5))
def test_fit_negative_binomial__is_the_poisson_fit_where_counts_vary_too_little(seed):
    rng = np.random.default_rng(seed)
    counts, peak, z = rng.binomial(4, 0.5, 200), rng.random(200) < 0.3, rng.normal(size=(200, 2))
    fit, plain = fit_negative_binomial(counts, peak, z), poisson.fit_poisson(counts, peak, z)
    assert fit.status == negative_binomial.CONVERGED
    assert np.isinf(fit.theta)
    assert np.isnan(fit.se_theta)
    np.testing.assert_allclose(fit.coefficients, plain.coefficients, rtol=1e-9)
    np.testing.assert_allclose(fit.standard_errors, plain.standard_errors, rtol=1e-8)


@pytest.mark.parametrize("excess", [1e-2, 1e-4, -1e-4])
def test_fit_negative_binomial__crosses_the_edge_where_variance_equals_mean(excess):
    # half the counts s below 4 and half s above; 2 excess is then the slope of the mean log-likelihood in 1 / theta
    # at 0, and -20 / 3 its curvature there, from lgamma(y + theta) - lgamma(theta) to second order in 1 / theta
    counts = 4.0 + np.repeat([-2.0, 2.0], 500) * np.sqrt(1.0 + excess)
    fit = fit_negative_binomial(counts, np.tile([0, 1], 500), np.empty((1000, 0)))
    assert fit.status == negative_binomial.CONVERGED
    if excess < 0:
        assert np.isinf(fit.theta)
    else:
        np.testing.assert_allclose(fit.theta, 10.0 / (3.0 * excess), rtol=excess)  # the next order: 0.1 excess seen


def test_fit_negative_binomial__finds_the_maximum_behind_a_falling_edge():
    # 20 cells of large mean that hardly vary hide, at the edge, 1,500 of small mean that vary much
    rng = np.random.default_rng(0)
    low, high = overdispersed(rng, np.full(1500, 0.4), 0.3), np.tile([92, 96, 104, 108], 5)
    counts, peak = np.concatenate([low, high]), np.repeat([0, 1], [1500, 20])
    mean = np.where(peak, high.mean(), low.mean())
    assert ((counts - mean) ** 2 - counts).sum() < 0  # the likelihood falls from the edge
    fit = fit_negative_binomial(counts, peak, np.empty((1520, 0)))
    assert np.isfinite(fit.theta)
    assert fit.twologlik > 2 * negative_binomial.log_likelihood(counts, mean, np.inf) + 10


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_fit_negative_binomial__scales_and_orders_change_nothing(data):
    counts, peak, z, offset = cases(data.draw(st.integers(0, 10_000)))
    order = np.random.default_rng(0).permutation(len(counts))
    fit = fit_negative_binomial(counts, peak, z, offset=offset)
    other = fit_negative_binomial(counts[order], peak[order], 5.0 * z[order] - 2.0, offset=offset[order] + 3.0)
    assert fit.status == other.status
    if fit.status == negative_binomial.CONVERGED:
        np.testing.assert_allclose(other.coefficients[-1], fit.coefficients[-1], atol=1e-6)
        np.testing.assert_allclose(other.coefficients[1:-1], fit.coefficients[1:-1] / 5.0, atol=1e-6)
        np.testing.assert_allclose(1 / other.theta, 1 / fit.theta, rtol=1e-4, atol=1e-6)


def test_fit_negative_binomial__a_dummy_without_counts_leaves_with_its_cells():
    rng = np.random.default_rng(3)
    n = 400
    batch = np.repeat([0, 1, 2], [250, 50, 100])
    dummies = np.column_stack([batch == 1, batch == 2]).astype(float)
    peak, z = rng.integers(0, 2, n), rng.normal(size=(n, 1))
    counts = np.where(batch == 1, 0, overdispersed(rng, np.full(n, 1.5), 0.8))
    fit = fit_negative_binomial(counts, peak, np.hstack([z, dummies]))
    rest = batch != 1
    want = fit_negative_binomial(counts[rest], peak[rest], np.hstack([z, dummies[:, 1:]])[rest])
    assert fit.status == want.status == negative_binomial.CONVERGED
    np.testing.assert_allclose(fit.coefficients[[0, 1, 3, 4]], want.coefficients, atol=1e-8)
    np.testing.assert_allclose(fit.standard_errors[[0, 1, 3, 4]], want.standard_errors, rtol=1e-7)
    np.testing.assert_allclose([fit.theta, fit.twologlik], [want.theta, want.twologlik], rtol=1e-7)
    assert fit.coefficients[2] == -np.inf
    assert np.isnan(fit.standard_errors[2])


def test_fit_negative_binomial__does_not_hang_on_separation_by_a_covariate():
    z = np.arange(20.0)[:, None]
    counts = np.where(np.arange(20) == 19, 5, 0)  # counts in the cell with the largest covariate alone
    fit = fit_negative_binomial(counts, np.arange(20) % 2, z)
    assert fit.status in (negative_binomial.NOT_CONVERGED, negative_binomial.SEPARATED)
    assert np.isnan(fit.standard_errors).all()


PLAIN = """
import numpy as np
from enhancer_dask.stats import negative_binomial, negative_binomial_bootstrap
from enhancer_dask.stats.resampling import resample_counts
rng = np.random.default_rng(5)
n = 40
counts, z = rng.negative_binomial(1, 0.5, n), np.column_stack([rng.normal(size=n), rng.integers(0, 2, n)])
peaks = np.column_stack([rng.random(n) < 0.4, rng.random(n) < 0.1])
resamples = resample_counts(n, 0, 15, seed=0, celltype="x", rung=0)
print(negative_binomial_bootstrap.refit(counts, peaks, z, resamples, offset=0.1 * z[:, 0]).tolist())
fit = negative_binomial.fit_negative_binomial(counts, peaks[:, 0], z)
print([*fit.coefficients.tolist(), *fit.standard_errors.tolist(), float(fit.theta), fit.se_theta, fit.twologlik])
"""


def test_kernels__plain_python_equals_compiled():
    printed = []
    for off in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": off}
        done = subprocess.run(
            [sys.executable, "-c", PLAIN], env=environment, capture_output=True, text=True, check=True
        )
        numbers = done.stdout.replace("nan", "float('nan')").replace("inf", "float('inf')")
        printed.append([eval(line) for line in numbers.splitlines()])
    for compiled, plain in zip(*printed, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-7, atol=1e-9)
