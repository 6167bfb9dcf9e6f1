from __future__ import annotations

import numpy as np
import pytest

from enhancer_dask.stats import grams, poisson
from enhancer_dask.stats.pairfits import fit_pairs, standardised


def assert_equals_fit_prepared(fits, rna, atac, gene, peak, nuisance):
    for i in range(len(gene)):
        want = poisson.fit_prepared(rna[gene[i]], atac[peak[i]][:, None], nuisance)
        assert fits.status[i] == want.status, i
        # both stop where a Newton step is below 1e-8, which leaves 1e-16 on the coefficients; the information is that
        # of the iterate before, hence 1e-8 on the standard error
        np.testing.assert_allclose(fits.beta[i], want.coefficients[-1], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(fits.se[i], want.standard_errors[-1], rtol=2e-8)
        if want.status == poisson.CONVERGED:
            inner = standardised(want.coefficients, nuisance)
            np.testing.assert_allclose(fits.coefficients[i], inner, rtol=1e-8, atol=1e-9)
        else:
            assert np.isnan(fits.coefficients[i]).all()


def test_fit_pairs__matches_r_glm(oracle, celltype_arrays):
    # oracle, R: glm(exprs ~ atac + log(nUMI) + percent.mito, family = poisson); tolerances as for fit_poisson
    for celltype, table in oracle("poisson_glm").groupby("celltype"):
        data = [celltype_arrays(celltype, row.gene, row.peak) for row in table.itertuples()]
        rna = np.array([counts for counts, _, _ in data])
        atac = np.array([tile > 0 for _, tile, _ in data]).astype(np.uint8)
        each = np.arange(len(table))
        fits = fit_pairs(rna, atac, each, each, poisson.make_nuisance(data[0][2]))
        assert (fits.status == poisson.CONVERGED).all()
        np.testing.assert_allclose(fits.beta, table["beta"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(fits.se, table["se"], rtol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_fit_pairs__equals_fit_prepared(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([8, 40, 300]))
    covariates = rng.normal(size=(n, seed % 3)) ** (3 if seed % 2 else 1)
    if seed % 4 == 0:  # dummies of a rare level: some genes have no counts there
        covariates = np.column_stack([covariates, rng.random(n) < 0.15])
    offset = rng.normal(size=n) if seed % 5 == 0 else None
    rate = rng.choice([0.0, 0.05, 0.5, 3.0, 50.0], 8)[:, None] * np.exp(0.5 * rng.normal(size=n))
    rna = rng.poisson(rate)
    share = rng.choice([0.0, 0.02, 0.1, 0.5, 0.97, 1.0], 9)[:, None]
    atac = rng.poisson(share, (9, n)) if seed % 6 == 5 else (rng.random((9, n)) < share).astype(np.uint8)
    gene, peak = (index.ravel() for index in np.meshgrid(np.arange(8), np.arange(9), indexing="ij"))
    nuisance = poisson.make_nuisance(covariates.astype(float), offset)
    assert_equals_fit_prepared(fit_pairs(rna, atac, gene, peak, nuisance), rna, atac, gene, peak, nuisance)


def test_fit_pairs__names_what_has_no_estimate():
    rng = np.random.default_rng(0)
    n = 60
    z = rng.normal(size=(n, 1))
    batch = np.arange(n) < 20
    rna = np.array([rng.poisson(1.0, n), np.zeros(n, int), np.where(batch, 0, 1 + rng.poisson(1.0, n))])
    atac = np.array([rng.random(n) < 0.4, np.zeros(n), np.ones(n), batch, ~batch]).astype(np.uint8)
    gene, peak = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 2, 0, 3, 4])
    fits = fit_pairs(rna, atac, gene, peak, poisson.make_nuisance(z))
    separated, constant = poisson.SEPARATED, poisson.CONSTANT
    np.testing.assert_array_equal(fits.status, [poisson.CONVERGED, constant, constant, separated, separated, separated])
    np.testing.assert_array_equal(fits.beta[1:], [np.nan, np.nan, -np.inf, -np.inf, np.inf])
    aliased = poisson.make_nuisance(np.hstack([z, 2 * z + 1]))
    assert fit_pairs(rna, atac, gene[:1], peak[:1], aliased).status[0] == poisson.ALIASED
    peak_again = poisson.make_nuisance(atac[:1].T.astype(float))
    assert fit_pairs(rna, atac, gene[:1], peak[:1], peak_again).status[0] == poisson.ALIASED
    assert len(fit_pairs(rna, atac, gene[:0], peak[:0], poisson.make_nuisance(z)).beta) == 0


def test_fit_pairs__a_dummy_without_counts_is_infinite_and_the_rest_as_fit_prepared():
    rng = np.random.default_rng(3)
    n = 300
    level = np.arange(n) < 40
    rna = np.array([np.where(level, 0, rng.poisson(1.0, n)), rng.poisson(1.0, n)])
    atac = (rng.random((2, n)) < 0.3).astype(np.uint8)
    nuisance = poisson.make_nuisance(np.column_stack([rng.normal(size=n), level]).astype(float))
    gene, peak = np.array([0, 0, 1]), np.array([0, 1, 1])
    fits = fit_pairs(rna, atac, gene, peak, nuisance)
    assert_equals_fit_prepared(fits, rna, atac, gene, peak, nuisance)
    np.testing.assert_array_equal(fits.coefficients[:, 2] == -np.inf, [True, True, False])


def test_fit_pairs__a_pair_does_not_depend_on_the_others():
    rng = np.random.default_rng(1)
    n = 203
    rna, atac = rng.poisson(1.0, (5, n)), (rng.random((7, n)) < 0.3).astype(np.uint8)
    nuisance = poisson.make_nuisance(rng.normal(size=(n, 2)))
    gene, peak = rng.integers(0, 5, 40), rng.integers(0, 7, 40)
    whole = fit_pairs(rna, atac, gene, peak, nuisance)
    for i in range(40):
        alone = fit_pairs(rna[gene[i]][None], atac[peak[i]][None], np.array([0]), np.array([0]), nuisance)
        np.testing.assert_array_equal(alone.coefficients[0], whole.coefficients[i])
        assert alone.se[0] == whole.se[i]


@pytest.mark.parametrize("kernel", [grams.gram, grams.gram.py_func], ids=["numba", "python"])
@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_gram__equals_its_definition(kernel, n):
    rng = np.random.default_rng(n)
    rows, peak, weights = np.vstack([np.ones(n), rng.normal(size=(2, n))]), rng.poisson(0.4, n), rng.normal(size=n)
    cells, opened = grams.cells_of(peak, rows)
    out = np.empty((4, 4))
    kernel(rows, cells, opened, weights, np.empty(n), out)
    design = np.vstack([rows, peak])
    np.testing.assert_allclose(out, design @ (weights[:, None] * design.T), rtol=1e-12, atol=1e-12)
