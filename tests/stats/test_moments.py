from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from enhancer_dask.stats import moments, poisson, shared_sums
from enhancer_dask.stats.bootstrap import start_from
from enhancer_dask.stats.exact import exact_engine, make_batch
from enhancer_dask.stats.monomials import monomials
from enhancer_dask.stats.resampling import resample_counts

WITHIN = 1e-6  # what the engine promises for a coefficient


def batch_of(counts, indicators, gene, peak, covariates, offset=None):
    nuisance = poisson.make_nuisance(covariates, offset)
    gene, peak = np.asarray(gene), np.asarray(peak).reshape(len(gene), -1)
    start = [
        start_from(poisson.fit_prepared(counts[g], indicators[p].T, nuisance), counts[g], nuisance)
        for g, p in zip(gene, peak, strict=True)
    ]
    return make_batch(counts, indicators, gene, peak, nuisance, np.array(start))


def simulated(rng, n, n_genes, n_peaks, covariates, *, rate=1.0, effect=0.5, open_share=0.2):
    """Genes that all depend on the first covariate and on the first peak."""
    peaks = (rng.random((n_peaks, n)) < open_share).astype(np.uint8)
    slope = rng.normal(0.2, 0.2, (n_genes, covariates.shape[1]))
    eta = np.log(rate) + slope @ covariates.T + effect * peaks[0]
    return rng.poisson(np.exp(np.minimum(eta, 8))).astype(np.uint16), peaks


def both(batch, resamples, which=None):
    which = np.arange(len(batch.gene)) if which is None else np.asarray(which)
    fast, n_exact = moments.moments_engine(batch)(resamples, which)
    slow, _ = exact_engine(batch)(resamples, which)
    return fast, slow, n_exact


def agree(fast, slow):
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(slow))
    np.testing.assert_array_equal(np.where(np.isinf(fast), fast, 0), np.where(np.isinf(slow), slow, 0))
    finite = np.isfinite(slow)
    np.testing.assert_allclose(fast[finite], slow[finite], rtol=0, atol=WITHIN)


@pytest.mark.parametrize("rate", [0.03, 0.3, 5.0])
@pytest.mark.parametrize("skewed", [False, True])
def test_moments_engine__equals_the_exact_engine(rate, skewed):
    rng = np.random.default_rng(5)
    n = 900
    covariates = rng.normal(size=(n, 2))
    if skewed:
        covariates[:, 1] = rng.lognormal(0, 1, n)
    counts, peaks = simulated(rng, n, 3, 4, covariates / 2, rate=rate)
    gene, peak = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    fast, slow, n_exact = both(
        batch_of(counts, peaks, gene, peak, covariates), resample_counts(n, 0, 300, seed=1, celltype="x", rung=0)
    )
    agree(fast, slow)
    if rate == 5.0 and not skewed:
        assert n_exact.sum() < 0.05 * fast.size  # it is the expansion that was compared


@pytest.mark.parametrize("n_covariates", [0, 1, 3, 4])
def test_moments_engine__any_number_of_covariates(n_covariates):
    rng = np.random.default_rng(n_covariates)
    n = 600
    covariates = rng.normal(size=(n, n_covariates))
    counts, peaks = simulated(rng, n, 2, 2, covariates / 2, rate=3.0)
    batch = batch_of(counts, peaks, [0, 0, 1], [0, 1, 1], covariates, offset=rng.normal(0, 0.3, n))
    fast, slow, n_exact = both(batch, resample_counts(n, 0, 130, seed=1, celltype="x", rung=0))
    agree(fast, slow)
    assert n_exact.sum() < fast.size


def test_moments_engine__dummies_counts_of_peaks_and_enhancer_pairs_are_exact_groups():
    rng = np.random.default_rng(3)
    n = 800
    z, batch_of_cell = rng.normal(size=n), rng.integers(0, 3, n)
    covariates = np.column_stack([z, batch_of_cell == 1, batch_of_cell == 2]).astype(float)
    peaks = rng.poisson([[0.3], [0.5]], (2, n)).astype(np.uint8)
    opened = (peaks > 0).astype(np.uint8)
    indicators = np.vstack([peaks[:1], opened, opened[:1] * opened[1:]])
    counts = rng.poisson(np.exp(1 + 0.2 * z + 0.3 * (batch_of_cell == 1) + 0.4 * opened[0])).astype(np.uint16)[None]
    resamples = resample_counts(n, 0, 200, seed=1, celltype="x", rung=0)
    for peak in ([[0]], [[1]], [[1, 2, 3]]):
        fast, slow, n_exact = both(batch_of(counts, indicators, [0], peak, covariates), resamples)
        agree(fast, slow)
        assert n_exact[0] < 20


def test_moments_engine__nasty_inputs_go_the_exact_way():
    rng = np.random.default_rng(4)
    n = 120
    covariates = np.column_stack([rng.normal(size=n), rng.normal(size=n)])
    counts = np.zeros((5, n), dtype=np.uint16)
    peaks = np.zeros((4, n), dtype=np.uint8)
    peaks[0, :40], peaks[1, 5], peaks[3] = 1, 1, 1  # plain; one open cell; never; always
    counts[1, 50:] = 2  # counts in closed cells alone
    counts[2, 3] = 1  # one count
    counts[3] = rng.poisson(0.05, n)
    counts[4, 7] = 60_000  # one cell holds everything
    gene, peak = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    batch = batch_of(counts, peaks, gene, peak, covariates)
    agree(*both(batch, resample_counts(n, 0, 150, seed=1, celltype="x", rung=0))[:2])
    tiny = batch_of(np.array([[3]]), np.array([[1]]), [0], [0], np.zeros((1, 2)))
    agree(*both(tiny, np.ones((2, 1), dtype=np.uint16))[:2])


def test_moments_engine__bits_do_not_depend_on_company():
    rng = np.random.default_rng(6)
    n = 700  # enough for the shared basis
    covariates = rng.normal(size=(n, 2))
    counts, peaks = simulated(rng, n, 4, 3, covariates / 2, rate=2.0)
    gene, peak = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    whole = batch_of(counts, peaks, gene, peak, covariates)
    resamples = resample_counts(n, 0, 200, seed=1, celltype="x", rung=0)
    want, _ = moments.moments_engine(whole)(resamples, np.arange(12))
    alone, _ = moments.moments_engine(batch_of(counts[2:3], peaks[1:2], [0], [0], covariates))(
        resamples, np.zeros(1, dtype=np.int64)
    )
    np.testing.assert_array_equal(alone[0], want[7])  # gene 2, peak 1
    some, _ = moments.moments_engine(whole)(resamples[31:95], np.array([1, 7]))
    np.testing.assert_array_equal(some, want[[1, 7], 31:95])


def test_moments_engine__refuses_what_its_bound_does_not_cover(monkeypatch):
    # with too low a degree most resamples must be refitted exactly, and the coefficients stay right
    rng = np.random.default_rng(7)
    n = 500
    covariates = rng.normal(size=(n, 2))
    counts, peaks = simulated(rng, n, 1, 1, covariates / 2, rate=0.2)
    monkeypatch.setattr(moments, "_degrees", lambda batch, *_: np.full(len(batch.gene), 2))
    fast, slow, n_exact = both(
        batch_of(counts, peaks, [0], [0], covariates), resample_counts(n, 0, 300, seed=1, celltype="x", rung=0)
    )
    agree(fast, slow)
    assert n_exact[0] > 250


def test_basis__holds_the_functions_it_is_for():
    rng = np.random.default_rng(8)
    z, offset = rng.normal(size=(2, 1000)), rng.normal(0, 0.3, 1000)
    rows = shared_sums.basis(z, offset, 128)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-10)
    for theta in ([0.0, 0.0], [1.2, -0.9], [0.31, 0.77]):
        f = np.exp(offset + theta @ z)
        assert np.linalg.norm(f - rows.T @ (rows @ f)) < 1e-8 * np.linalg.norm(f)
    assert shared_sums.basis(z, offset, 128) is rows  # remembered
    assert len(shared_sums.basis(z[:, :200], offset[:200], 128)) == 0  # few cells: nothing to gain
    assert len(shared_sums.basis(rng.normal(size=(5, 1000)), offset, 128)) == 0


def test_monomials__terms_by_degree_with_their_derivatives():
    table = monomials(3, 4)
    assert table.n_terms.tolist() == [1, 4, 10, 20, 35]
    degrees = table.exponents.sum(axis=1)
    assert all(a <= b for a, b in pairwise(degrees))
    x = np.array([0.3, -1.2, 2.0])
    values = (x**table.exponents).prod(axis=1)
    assert table.raised.shape == (20, 3)  # terms below the highest degree
    for m in range(35):
        if m:
            assert values[m] == pytest.approx(values[table.parent[m]] * x[table.axis[m]])
        for j in range(3 if m < 20 else 0):
            assert values[table.raised[m, j]] == pytest.approx(values[m] * x[j])
