from __future__ import annotations

import math

import numpy as np
import pytest

from enhancer_dask.stats import moments, poisson, torch_moments
from enhancer_dask.stats.bootstrap import start_from
from enhancer_dask.stats.exact import exact_engine, make_batch
from enhancer_dask.stats.monomials import monomials
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.torch_moments import moments_engine_torch

torch = pytest.importorskip("torch")

WITHIN = 1e-6  # what the engine promises for a coefficient


def batch_of(counts, indicators, gene, peak, covariates, offset=None):
    nuisance = poisson.make_nuisance(covariates, offset)
    gene, peak = np.asarray(gene), np.asarray(peak).reshape(len(gene), -1)
    start = [
        start_from(poisson.fit_prepared(counts[g], indicators[p].T, nuisance), counts[g], nuisance)
        for g, p in zip(gene, peak, strict=True)
    ]
    return make_batch(counts, indicators, gene, peak, nuisance, np.array(start))


def simulated(rng, n, n_genes, n_peaks, covariates, *, rate):
    """A batch of every gene with every peak; genes depend on the covariates and on the first peak."""
    peaks = (rng.random((n_peaks, n)) < 0.2).astype(np.uint8)
    slope = rng.normal(0.1, 0.1, (n_genes, covariates.shape[1]))
    counts = rng.poisson(np.exp(np.minimum(np.log(rate) + slope @ covariates.T + 0.5 * peaks[0], 8)))
    gene, peak = np.repeat(np.arange(n_genes), n_peaks), np.tile(np.arange(n_peaks), n_genes)
    return batch_of(counts, peaks, gene, peak, covariates, offset=rng.normal(0, 0.3, n))


def resamples_of(batch, n_resamples):
    return resample_counts(batch.shape[2], 0, n_resamples, seed=1, celltype="x", rung=0)


def agree(got, want):
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.where(np.isinf(got), got, 0), np.where(np.isinf(want), want, 0))
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=WITHIN)


def compare(batch, resamples, **options):
    """Held to both engines; returns refits over all cells, here and by the compiled engine."""
    which = np.arange(len(batch.gene))
    got, n_exact = moments_engine_torch(batch, **options)(resamples, which)
    agree(got, exact_engine(batch)(resamples, which)[0])
    compiled, n_compiled = moments.moments_engine(batch)(resamples, which)
    agree(got, compiled)
    return n_exact, n_compiled


@pytest.mark.parametrize("rate", [0.03, 0.5, 5.0])
@pytest.mark.parametrize("n_covariates", [0, 1, 2, 4])
def test_moments_engine_torch__equals_the_compiled_engines(rate, n_covariates):
    rng = np.random.default_rng([n_covariates, int(100 * rate)])
    covariates = rng.normal(size=(500, n_covariates))
    if n_covariates > 1 and rate == 0.5:
        covariates[:, 1] = rng.lognormal(0, 1, 500)
    batch = simulated(rng, 500, 2, 3, covariates, rate=rate)
    resamples = resamples_of(batch, 90)
    n_exact, n_compiled = compare(batch, resamples)
    # the same certificate: only a lane at its very edge may fall on the other side
    np.testing.assert_allclose(n_exact, n_compiled, atol=2)
    if rate == 5.0:
        assert n_exact.sum() < 0.1 * len(resamples) * len(batch.gene)  # it is the expansion that was compared


def test_moments_engine_torch__groups_of_dummies_counts_of_peaks_and_pairs_of_them():
    rng = np.random.default_rng(3)
    n = 800
    z, sample = rng.normal(size=n), rng.integers(0, 3, n)
    covariates = np.column_stack([z, sample == 1, sample == 2]).astype(float)
    peaks = rng.poisson([[0.3], [0.5]], (2, n)).astype(np.uint8)
    opened = (peaks > 0).astype(np.uint8)
    indicators = np.vstack([peaks[:1], opened, opened[:1] * opened[1:]])
    counts = rng.poisson(np.exp(1 + 0.2 * z + 0.3 * (sample == 1) + 0.4 * opened[0]), (2, n))
    for peak in ([[0], [1]], [[1], [2]], [[1, 2, 3], [3, 1, 2]]):
        batch = batch_of(counts, indicators, [0, 1], peak, covariates)
        n_exact, _ = compare(batch, resamples_of(batch, 100))
        assert n_exact.max() < 10


def test_moments_engine_torch__nasty_inputs_go_the_exact_way():
    rng = np.random.default_rng(4)
    n = 120
    covariates = np.column_stack([rng.normal(size=(n, 2)), np.arange(n) < 3])  # a rare dummy
    counts = np.zeros((5, n), dtype=np.uint16)  # the first has none at all
    peaks = np.zeros((4, n), dtype=np.uint8)
    peaks[0, :40], peaks[1, 5], peaks[3] = 1, 1, 1  # plain; one open cell; never; always
    counts[1, 50:] = 2  # counts in closed cells alone
    counts[2, 3] = 1  # one count
    counts[3] = rng.poisson(0.05, n)
    counts[4, 7] = 60_000  # one cell holds everything
    gene, peak = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    for some in (covariates, covariates[:, :2], covariates[:, 2:], covariates[:, :0]):
        batch = batch_of(counts, peaks, gene, peak, some)
        compare(batch, resamples_of(batch, 60))
    tiny = batch_of(np.array([[3]]), np.array([[1]]), [0], [0], np.zeros((1, 2)))
    compare(tiny, np.ones((2, 1), dtype=np.uint16))


def test_moments_engine_torch__blocks_and_order_do_not_matter():
    rng = np.random.default_rng(6)
    batch = simulated(rng, 400, 3, 3, rng.normal(size=(400, 2)), rate=2.0)
    resamples = resamples_of(batch, 50)
    want, n_exact = moments_engine_torch(batch)(resamples, np.arange(9))
    again, _ = moments_engine_torch(batch)(resamples, np.arange(9))
    np.testing.assert_array_equal(again, want)
    which = np.array([7, 1, 4])
    for memory in (1, 100_000, 3_000_000):
        some, n_some = moments_engine_torch(batch, memory=memory)(resamples[10:30], which)
        # products of other sizes are summed in another order: rounding in double precision, enlarged by the solve
        np.testing.assert_allclose(some, want[which, 10:30], rtol=0, atol=1e-11)
        assert (n_some <= n_exact[which]).all()
    nothing, n_nothing = moments_engine_torch(batch)(resamples, which[:0])
    assert nothing.shape == (0, 50, 1)
    assert n_nothing.shape == (0,)


def test_moments_engine_torch__refuses_what_its_bound_does_not_cover(monkeypatch):
    # with too low a degree most resamples must be refitted exactly, and the coefficients stay right
    monkeypatch.setattr(moments, "_degrees", lambda batch, *_: np.full(len(batch.gene), 2))
    rng = np.random.default_rng(7)
    batch = simulated(rng, 400, 1, 1, rng.normal(size=(400, 2)), rate=0.2)
    n_exact, n_compiled = compare(batch, resamples_of(batch, 100))
    assert n_exact[0] > 80
    assert abs(n_exact[0] - n_compiled[0]) <= 2


def test_certified__bounds_the_error_that_is_there():
    # at every degree: lanes it marks are within the tolerance of the exact coefficient
    rng = np.random.default_rng(8)
    batch = simulated(rng, 600, 1, 2, rng.normal(size=(600, 2)), rate=1.0)
    resamples = resamples_of(batch, 200)
    want, _ = exact_engine(batch)(resamples, np.arange(2))
    plan = moments.prepare(batch)
    device, marked, z = torch.device("cpu"), [], torch.tensor(plan.z)
    for degree in (2, 3, 4, 5):
        layout = torch_moments.Layout(degree, 2, len(monomials(2, degree).exponents), 2, 2, 600)
        terms = torch_moments._terms(plan, degree, device)
        weights = torch.tensor(resamples.astype(float))
        lanes = torch_moments._lanes(batch, plan, np.arange(2), layout, terms, z, weights)
        theta, good = torch_moments.newton(lanes, torch.tensor(plan.start).repeat(200, 1), terms)
        assert good.all()
        good = torch_moments.certified(lanes, theta, terms, plan.first).view(200, 2).T.numpy()
        off = np.abs(theta[:, 1].view(200, 2).T.numpy() - want[:, :, 0])
        assert off[good].max(initial=0) <= moments.TOLERANCE + 1e-8  # the exact one stops 1e-8 short
        marked.append(good.mean())
        assert degree > 2 or off.max() > moments.TOLERANCE  # there is something to refuse
    assert marked[0] < 0.2
    assert marked[-1] > 0.8


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("n_variables", [0, 1, 3])
def test_lowered__gives_value_and_derivatives_of_the_polynomial(n_variables, degree):
    rng = np.random.default_rng(degree)
    exponents = monomials(n_variables, degree).exponents
    moment, d = rng.normal(size=len(exponents)), rng.normal(size=n_variables)

    def term(a):
        return 0.0 if min(a, default=0) < 0 else math.prod(x**k / math.factorial(k) for x, k in zip(d, a, strict=True))

    power = np.array([*(term(a) for a in exponents), 0.0])
    unit, even = np.eye(n_variables, dtype=int), degree - degree % 2
    want = [sum(m * term(a) for m, a in zip(moment, exponents, strict=True))]
    want.append(sum(m * term(a) for m, a in zip(moment, exponents, strict=True) if a.sum() == even))
    want += [sum(m * term(a - e) for m, a in zip(moment, exponents, strict=True)) for e in unit]
    want += [sum(m * term(a - e - f) for m, a in zip(moment, exponents, strict=True)) for e in unit for f in unit]
    got = power[torch_moments.lowered(n_variables, degree)] @ moment
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_layout__block_keeps_to_the_memory():
    layout = torch_moments.Layout(5, 2, 21, 2, 2, 2_600)
    for memory in (10**7, 10**8, 10**10):
        tests, resamples = layout.block(10_000, 4_000, memory)
        used = tests * (layout.bytes_of_test + resamples * layout.bytes_of_lane) + 8 * layout.n_cells * resamples
        assert 0.2 * memory < used <= memory
    assert layout.block(3, 7, 10**12) == (3, 7)
    assert layout.block(3, 7, 0) == (1, 1)
