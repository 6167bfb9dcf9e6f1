from __future__ import annotations

import gzip

import numpy as np
import pytest

from enhancer_dask.simulate.multiome import simulate_multiome


def test_simulate_multiome__a_seed_fixes_everything():
    small = {"n_cells": {"A": 30}, "n_genes": 4, "n_background_genes": 20}
    one, same, other = (simulate_multiome(**small, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.rna, same.rna)
    np.testing.assert_array_equal(one.atac, same.atac)
    assert one.truth.equals(same.truth)
    assert one.cells.equals(same.cells)
    assert not np.array_equal(one.rna, other.rna)


def test_simulate_multiome__looks_like_an_experiment():
    sim = simulate_multiome(n_genes=100, links_per_gene=1.5, seed=0)
    depth = sim.rna.sum(axis=0)
    assert 3_000 < np.median(depth) < 6_500
    assert 0.2 < np.std(np.log(depth)) < 0.7
    assert 0.05 < (sim.atac > 0).mean() < 0.4
    assert 0.1 < (sim.rna[:100] == 0).mean() < 0.9
    assert (sim.peaks["end"] > sim.peaks["start"]).all()
    for _, chrom in sim.peaks.groupby("chrom"):  # neighbours do not overlap
        assert (chrom["start"].to_numpy()[1:] >= chrom["end"].to_numpy()[:-1]).all()
    assert set(sim.truth["gene"]) <= set(sim.genes["name"][:100])
    assert set(sim.truth["peak"]) <= set(sim.peaks["name"])
    assert (sim.truth["beta"] > 0).mean() == pytest.approx(0.84, abs=0.12)
    assert len(sim.truth) == pytest.approx(100 * 1.5 * 3 * 0.7, rel=0.3)


def test_simulate_multiome__links_have_the_effect_they_claim():
    sim = simulate_multiome(n_cells={"A": 20_000}, n_genes=20, links_per_gene=0.7, dispersion=0.05, seed=1)
    genes, peaks = list(sim.genes["name"]), list(sim.peaks["name"])
    depth = sim.rna.sum(axis=0)
    alone = sim.truth[~sim.truth["gene"].duplicated(keep=False)]
    assert len(alone) >= 2
    for link in alone.itertuples():
        counts, is_open = sim.rna[genes.index(link.gene)], sim.atac[peaks.index(link.peak)] > 0
        ratio = np.log(counts[is_open].sum() / depth[is_open].sum()) - np.log(
            counts[~is_open].sum() / depth[~is_open].sum()
        )
        assert ratio == pytest.approx(link.beta, abs=0.15)


def test_write_simulation__gtf_is_the_same_twice(simulated):
    text = gzip.decompress(simulated["gtf"].read_bytes()).decode()
    assert text.count("\tgene\t") == 48
    assert simulated["gtf"].read_bytes()[4:8] == bytes(4)  # no time stamp
