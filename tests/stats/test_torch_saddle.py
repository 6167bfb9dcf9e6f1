from __future__ import annotations

import numpy as np
import pytest

from enhancer_dask.stats import poisson, saddlepoint, torch_saddle
from enhancer_dask.stats.pairfits import fit_pairs
from enhancer_dask.stats.saddlepoint import saddle_pairs
from enhancer_dask.stats.torch_saddle import saddle_pairs_torch

torch = pytest.importorskip("torch")

# both stop where the error is about the square of 1e-4; p, at the saddle, feels it to second order
CLOSE = {"p": 1e-6, "bias": 1e-7, "sd": 1e-9, "n_effective": 1e-6, "leverage": 1e-6}


def compare(rna, atac, gene, peak, nuisance, **options):
    """Held to the compiled form; returns its table."""
    data = rna, atac, np.asarray(gene), np.asarray(peak), nuisance
    fits = fit_pairs(*data)
    want, got = saddle_pairs(*data, fits), saddle_pairs_torch(*data, fits, **options)
    np.testing.assert_array_equal(got.n_informative, want.n_informative)
    # one open cell is fitted exactly: its score is rounding, and whether there is a saddle is chance; never trusted
    flat = want.n_informative < 2
    assert saddlepoint.TRUSTED not in [*got.trust[flat], *want.trust[flat]]
    np.testing.assert_array_equal(got.trust[~flat], want.trust[~flat])
    for field, rtol in CLOSE.items():
        atol = 1e-12 if field == "bias" else 0  # it crosses zero
        ours, theirs = getattr(got, field)[~flat], getattr(want, field)[~flat]
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=field)
    return want


@pytest.mark.parametrize("seed", range(12))
def test_saddle_pairs_torch__equals_the_compiled_form(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([60, 400, 1_000]))
    covariates = rng.normal(size=(n, seed % 4))
    if seed % 3 == 0:
        covariates = np.column_stack([covariates, rng.random(n) < 0.3])
    offset = 0.5 * rng.normal(size=n) if seed % 2 else None
    nuisance = poisson.make_nuisance(covariates.astype(float), offset)
    atac = rng.poisson(0.7, (4, n)) if seed % 5 == 4 else (rng.random((4, n)) < 0.3).astype(np.uint8)
    rna = rng.poisson(np.exp(rng.choice([-1.0, 1.0], (5, 1)) + rng.choice([-0.6, 0.0, 0.6], (5, 1)) * atac[0]))
    gene, peak = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    table = compare(rna, atac, gene, peak, nuisance)
    assert np.isfinite(table.p).mean() > 0.5
    # blocks of a pair, of a few, and of all of them
    compare(rna, atac, gene, peak, nuisance, memory=0)
    compare(rna, atac, gene, peak, nuisance, memory=3 * torch_saddle.bytes_of_pair(2 + covariates.shape[1], n))


def test_saddle_pairs_torch__equals_the_compiled_form_on_real_cells(oracle, celltype_arrays):
    table = oracle("bootstrap_tilted")  # 55 real pairs, down to 9e-8
    data = [celltype_arrays(row.celltype, row.gene, row.peak) for row in table.itertuples()]
    rna, atac = np.array([d[0] for d in data]), np.array([d[1] > 0 for d in data]).astype(np.uint8)
    each = np.arange(len(table))
    found = compare(rna, atac, each, each, poisson.make_nuisance(data[0][2]))
    assert (found.trust == saddlepoint.TRUSTED).all()
    assert found.p.min() < 1e-7


def test_saddle_pairs_torch__nasty_inputs_have_the_same_codes():
    rng = np.random.default_rng(0)
    n = 200
    peak = (rng.random(n) < 0.3).astype(np.uint8)
    few, one = (np.arange(n) < 4).astype(np.uint8), (np.arange(n) == 5).astype(np.uint8)
    atac = np.array([peak, few, one, np.zeros(n, np.uint8), np.ones(n, np.uint8)])
    usual, rare = rng.poisson(1.0, n), rng.poisson(0.1, n)
    high = np.where(np.arange(n) == np.flatnonzero(peak)[0], 60, rng.poisson(0.3, n))  # one cell holds most
    rna = np.array(
        [np.zeros(n, int), usual, rare, high, np.where(peak, 3, 0), np.where(peak, 0, 3), 60_000 * one.astype(int)]
    )
    gene, at = np.repeat(np.arange(len(rna)), 5), np.tile(np.arange(5), len(rna))
    z, level = rng.lognormal(0, 1, (n, 2)), (np.arange(n) >= n - 8)[:, None].astype(float)
    seen = set()
    for covariates in (z, z[:, :1], z[:, :0], level, np.hstack([z, level]), np.hstack([z[:, :1], z[:, :1]])):
        table = compare(rna, atac, gene, at, poisson.make_nuisance(covariates))
        seen |= set(table.trust.tolist())
    codes = {"TRUSTED", "NOT_FITTED", "NO_SADDLE", "FEW_CELLS", "CONCENTRATED", "ONE_CELL"}
    assert seen == {getattr(saddlepoint, code) for code in codes}
    empty = np.zeros(0, dtype=np.int64)
    assert len(compare(rna, atac, empty, empty, poisson.make_nuisance(z)).p) == 0


def test_saddle_pairs_torch__far_tails():
    rng = np.random.default_rng(0)
    n = 3_000
    peak = (rng.random(n) < 0.3).astype(np.uint8)
    rna = np.array([rng.poisson(np.exp(effect * peak)) for effect in (0.5, 0.9)])
    table = compare(rna, peak[None], [0, 1], [0, 0], poisson.make_nuisance(np.empty((n, 0))))
    assert table.p[0] < 1e-25
    assert table.p[1] < 1e-60


def test_saddle_pairs_torch__no_effect_at_all():
    # beta is zero to rounding: the cut-off moves by 1e-5 standard errors, and 1/u - 1/r enlarges the 1e-9 to 1e-8 of u
    # that Newton leaves to 1e-4 to 1e-3, in either form
    counts, peak = np.tile([1, 1, 2, 2], 300)[None], np.tile([0, 1], 600)[None]
    data = counts, peak, np.array([0]), np.array([0]), poisson.make_nuisance(np.empty((1_200, 0)))
    fits = fit_pairs(*data)
    got, want = saddle_pairs_torch(*data, fits), saddle_pairs(*data, fits)
    assert got.trust[0] == want.trust[0] == saddlepoint.TRUSTED
    np.testing.assert_allclose([got.p[0], want.p[0]], 1.0, atol=1e-3)


def test_saddle_pairs_torch__the_same_bits_each_time():
    rng = np.random.default_rng(1)
    nuisance = poisson.make_nuisance(rng.normal(size=(301, 2)))
    rna, atac = rng.poisson(1.0, (6, 301)), (rng.random((6, 301)) < 0.3).astype(np.uint8)
    data = rna, atac, np.arange(6), np.arange(6), nuisance
    fits = fit_pairs(*data)
    np.testing.assert_array_equal(saddle_pairs_torch(*data, fits).p, saddle_pairs_torch(*data, fits).p)


def test_walk__in_pieces_arrives_at_the_same_saddle(monkeypatch):
    # a long way in one piece may fail where four succeed; from where both do, they agree
    rng = np.random.default_rng(2)
    n = 500
    atac = (rng.random((3, n)) < 0.3).astype(np.uint8)
    data = (
        rng.poisson(np.exp(0.4 * atac)),
        atac,
        np.arange(3),
        np.arange(3),
        poisson.make_nuisance(rng.normal(size=(n, 1))),
    )
    fits = fit_pairs(*data)
    want = saddle_pairs_torch(*data, fits)
    monkeypatch.setattr(torch_saddle, "PIECES", (4,))
    np.testing.assert_allclose(saddle_pairs_torch(*data, fits).p, want.p, rtol=1e-6)
