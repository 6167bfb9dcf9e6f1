from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import minimize

from enhancer_dask.stats import poisson


def test_fit_poisson__matches_r_glm(oracle, celltype_arrays):
    # oracle, R: glm(exprs ~ atac + log(nUMI) + percent.mito, family = poisson)
    table = oracle("poisson_glm")
    assert len(table) == 223
    for row in table.itertuples():
        counts, tile, covariates = celltype_arrays(row.celltype, row.gene, row.peak)
        fit = poisson.fit_poisson(counts, tile > 0, covariates)
        assert fit.status == poisson.CONVERGED
        own = (fit.coefficients[-1], fit.coefficients[0], fit.coefficients[1], fit.coefficients[2])
        np.testing.assert_allclose(own[0], row.beta, rtol=0, atol=1e-8)
        np.testing.assert_allclose(own[1:], (row.intercept, row.beta_log_nUMI, row.beta_percent_mito), rtol=1e-7)
        # R takes its weights one iteration early: up to 2.4e-6 was seen
        errors = (row.intercept_se, row.se_log_nUMI, row.se_percent_mito, row.se)
        np.testing.assert_allclose(fit.standard_errors, errors, rtol=1e-5)


def negative_loglik(beta, design, counts, offset):
    eta = design @ beta + offset
    return np.exp(eta).sum() - counts @ eta


@pytest.mark.parametrize("seed", range(8))
def test_fit_poisson__is_the_maximum_with_offset_and_real_valued_peak(seed):
    rng = np.random.default_rng(seed)
    n = 60
    covariates, peak, offset = rng.normal(size=(n, 2)), rng.poisson(1.5, n), rng.normal(size=n)
    counts = rng.poisson(np.exp(0.3 * covariates[:, 0] - 0.2 * peak + offset))
    fit = poisson.fit_poisson(counts, peak, covariates, offset=offset)
    design = np.column_stack([np.ones(n), covariates, peak])
    score = design.T @ (counts - np.exp(design @ fit.coefficients + offset))
    np.testing.assert_allclose(score, 0, atol=1e-6)
    slow = minimize(negative_loglik, np.zeros(4), args=(design, counts, offset), method="BFGS", tol=1e-9)
    np.testing.assert_allclose(fit.coefficients, slow.x, atol=1e-4)  # BFGS with numerical gradients
    information = design.T @ (design * np.exp(design @ fit.coefficients + offset)[:, None])
    np.testing.assert_allclose(fit.standard_errors, np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-8)


@pytest.mark.parametrize(
    ("counts", "peak", "status", "beta"),
    [
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], poisson.SEPARATED, -np.inf),  # a gene without counts
        ([0, 0, 0, 3, 1, 2], [1, 1, 1, 0, 0, 0], poisson.SEPARATED, -np.inf),  # none in open cells
        ([3, 1, 2, 0, 0, 0], [1, 1, 1, 0, 0, 0], poisson.SEPARATED, np.inf),  # all in open cells
        ([3, 1, 2, 0, 0, 1], [0, 0, 0, 0, 0, 0], poisson.CONSTANT, np.nan),  # never open
        ([3, 1, 2, 0, 0, 1], [1, 1, 1, 1, 1, 1], poisson.CONSTANT, np.nan),  # always open
        ([2], [1], poisson.CONSTANT, np.nan),  # one cell
    ],
)
def test_fit_poisson__says_why_there_is_no_estimate(counts, peak, status, beta):
    fit = poisson.fit_poisson(np.array(counts), np.array(peak), np.empty((len(counts), 0)))
    assert fit.status == status
    np.testing.assert_equal(fit.coefficients[-1], beta)
    assert np.isnan(fit.standard_errors).all()


def test_fit_poisson__names_collinear_covariates():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 1))
    peak = rng.integers(0, 2, 50)
    assert poisson.fit_poisson(rng.poisson(2.0, 50), peak, np.hstack([z, 3 * z + 1])).status == poisson.ALIASED
    assert poisson.fit_poisson(rng.poisson(2.0, 50), peak, peak[:, None].astype(float)).status == poisson.ALIASED


def test_fit_poisson__does_not_hang_on_separation_by_a_covariate():
    z = np.arange(20.0)[:, None]
    counts = np.where(np.arange(20) == 19, 5, 0)  # counts in the cell with the largest covariate alone
    fit = poisson.fit_poisson(counts, np.arange(20) % 2, z)
    assert fit.status == poisson.NOT_CONVERGED or fit.status == poisson.SEPARATED
    assert np.isnan(fit.standard_errors).all()


def test_fit_poisson__large_offsets_and_skewed_covariates():
    rng = np.random.default_rng(1)
    n = 400
    z = np.exp(rng.normal(0, 2, size=(n, 1)))
    peak = rng.integers(0, 2, n)
    offset = 30 + rng.normal(size=n)
    counts = rng.poisson(np.exp(-30 + offset + 0.5 * peak + 0.01 * z[:, 0]))
    fit = poisson.fit_poisson(counts, peak, z, offset=offset)
    assert fit.status == poisson.CONVERGED
    design = np.column_stack([np.ones(n), z, peak])
    resid = counts - np.exp(design @ fit.coefficients + offset)
    np.testing.assert_allclose(design.T @ resid / np.abs(design).sum(axis=0), 0, atol=1e-9)


def test_fit_poisson__a_dummy_without_counts_leaves_with_its_cells():
    rng = np.random.default_rng(3)
    n = 400
    batch = np.repeat([0, 1, 2], [250, 50, 100])
    dummies = np.column_stack([batch == 1, batch == 2]).astype(float)
    peak, z = rng.integers(0, 2, n), rng.normal(size=(n, 1))
    counts = np.where(batch == 1, 0, rng.poisson(1.0, n))
    fit = poisson.fit_poisson(counts, peak, np.hstack([z, dummies]))
    rest = batch != 1
    want = poisson.fit_poisson(counts[rest], peak[rest], np.hstack([z, dummies[:, 1:]])[rest])
    assert fit.status == want.status == poisson.CONVERGED
    np.testing.assert_allclose(fit.coefficients[[0, 1, 3, 4]], want.coefficients, atol=1e-9)
    np.testing.assert_allclose(fit.standard_errors[[0, 1, 3, 4]], want.standard_errors, rtol=1e-8)
    assert fit.coefficients[2] == -np.inf
    assert np.isnan(fit.standard_errors[2])


PLAIN = """
import numpy as np
from enhancer_dask.stats import bootstrap, poisson
from enhancer_dask.stats.resampling import resample_counts
rng = np.random.default_rng(5)
n = 40
counts, z = rng.poisson(0.5, n), np.column_stack([rng.normal(size=n), rng.integers(0, 2, n)])
peaks = np.column_stack([rng.random(n) < 0.4, rng.random(n) < 0.1])
resamples = resample_counts(n, 0, 30, seed=0, celltype="x", rung=0)
print(bootstrap.refit(counts, peaks, z, resamples, offset=0.1 * z[:, 0], engine="exact").tolist())
print(bootstrap.refit(counts, peaks, z, resamples, offset=0.1 * z[:, 0], engine="moments").tolist())
print(list(poisson.fit_poisson(counts, peaks[:, 0], z).coefficients))
"""


def test_kernels__plain_python_equals_compiled():
    printed = []
    for off in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": off}
        done = subprocess.run(
            [sys.executable, "-c", PLAIN], env=environment, capture_output=True, text=True, check=True
        )
        numbers = done.stdout.replace("nan", "float('nan')").replace("inf", "float('inf')")
        printed.append([eval(line.replace("np.float64", "")) for line in numbers.splitlines()])
    for compiled, plain, atol in zip(*printed, (1e-9, 1e-6, 1e-9), strict=True):  # moments sum in single precision
        np.testing.assert_allclose(compiled, plain, rtol=1e-7, atol=atol)
