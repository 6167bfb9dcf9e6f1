from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.candidates import candidate_pairs
from enhancer_dask.simulate.enhancer_pairs import KINDS, simulate_enhancer_pairs
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.states import StatePairs, fit_states_plainly

MIXED = {"multiplicative": 2.0, "additive": 1.0, "synergistic": 1.0}


@pytest.fixture(scope="module")
def mixed():
    return simulate_enhancer_pairs(n_pairs=200, n_cells=400, truth=MIXED, interaction=[-1.0, 0.5], seed=4)


def states(sim):
    return sim.atac[0::2] + 2 * sim.atac[1::2]


def test_simulate_enhancer_pairs__a_seed_fixes_everything():
    one, same, other = (simulate_enhancer_pairs(n_pairs=5, n_cells=30, truth=MIXED, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.rna, same.rna)
    np.testing.assert_array_equal(one.atac, same.atac)
    for name in ("genes", "peaks", "cells", "pairs", "truth"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.rna, other.rna)
    assert not one.truth["beta_10"].equals(other.truth["beta_10"])


def test_simulate_enhancer_pairs__kinds_have_their_shares_and_their_rule(mixed):
    truth = mixed.truth
    assert dict(truth["kind"].value_counts()) == {"multiplicative": 100, "additive": 50, "synergistic": 50}
    fold = {s: np.exp(truth[f"beta_{s}"]) for s in ("10", "01", "11")}
    for s in fold:
        np.testing.assert_allclose(truth[f"fold_{s}"], fold[s], rtol=1e-13)
    # rounding of exp and log only, here and below
    np.testing.assert_allclose(
        truth["interaction"], truth["beta_11"] - truth["beta_10"] - truth["beta_01"], rtol=0, atol=1e-12
    )
    additive, synergistic = (truth["kind"] == kind for kind in ("additive", "synergistic"))
    np.testing.assert_allclose((fold["10"] + fold["01"] - 1)[additive], fold["11"][additive], rtol=1e-12)
    assert (truth["fold_11"][additive] > 0.199).all()
    assert dict(truth.loc[synergistic, "interaction"].value_counts()) == {-1.0: 25, 0.5: 25}
    assert (truth.loc[truth["kind"] == "multiplicative", "interaction"] == 0.0).all()
    assert (truth.loc[additive, "interaction"].abs() > 0.01).mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_simulate_enhancer_pairs__a_regression_finds_the_truth(kind):
    sim = simulate_enhancer_pairs(
        n_pairs=12, n_cells=40_000, truth=kind, interaction=-0.7, open_share=(0.3, 0.5), dispersion=0.2, seed=5
    )
    nuisance = make_nuisance(sim.cells[["percent.mito"]].to_numpy(), np.log(sim.cells["nUMI"].to_numpy(float)))
    own = np.arange(12)
    fits = fit_states_plainly(
        StatePairs(sim.rna.astype(float), sim.atac.astype(np.uint8), own, 2 * own, 2 * own + 1, nuisance)
    )
    want = sim.truth[["beta_10", "beta_01", "beta_11", "interaction"]].to_numpy()
    z = (fits.beta - want) / fits.se
    # dispersion 0.2 makes counts vary up to twice as much as the Poisson errors say at these means
    assert np.abs(z).max() < 6.0
    assert np.sqrt((z**2).mean()) < 1.6
    assert fits.se.max() < 0.1


def test_simulate_enhancer_pairs__mean_counts_are_proportional_to_depth():
    sim = simulate_enhancer_pairs(
        n_pairs=60, n_cells=5_000, effect_mean=0.0, effect_sd=0.0, mito_effect_sd=0.0, dispersion=0.0, seed=6
    )
    umi = sim.cells["nUMI"].to_numpy(float)
    expected = sim.truth["mean"].to_numpy()[:, None] * umi / umi.mean()
    residual = (sim.rna - expected) / np.sqrt(expected)
    halves = residual[:, umi > np.median(umi)], residual[:, umi <= np.median(umi)]
    for half in halves:  # 150,000 standardised residuals each: standard error 0.0026
        assert abs(half.mean()) < 0.013
    assert (residual**2).mean() == pytest.approx(1.0, abs=0.03)  # Poisson; sparse genes widen its error


@pytest.mark.parametrize("dispersion", [0.0, 0.5, 2.0])
def test_simulate_enhancer_pairs__counts_have_the_dispersion(dispersion):
    sim = simulate_enhancer_pairs(
        n_pairs=100, n_cells=4_000, effect_mean=0.0, effect_sd=0.0, mito_effect_sd=0.0, mean_count=1.0,
        dispersion=dispersion, seed=7,
    )  # fmt: skip
    umi = sim.cells["nUMI"].to_numpy(float)
    mean = sim.truth["mean"].to_numpy()[:, None] * umi / umi.mean()
    found = ((sim.rna - mean) ** 2 - mean).sum() / (mean**2).sum()
    assert found == pytest.approx(dispersion, abs=0.02 + 0.1 * dispersion)


def test_simulate_enhancer_pairs__peaks_are_open_as_often_as_asked_and_together():
    sim = simulate_enhancer_pairs(n_pairs=100, n_cells=4_000, open_share=(0.2, 0.4), seed=8)
    share = sim.atac.mean(axis=1)
    assert 0.18 < share.min() < 0.23
    assert 0.37 < share.max() < 0.42
    both = (states(sim) == 3).mean(axis=1)
    excess = both / (share[0::2] * share[1::2])
    assert 1.05 < excess.mean() < 1.3  # independent peaks would have 1 +- 0.003
    umi = np.log(sim.cells["nUMI"].to_numpy(float))
    assert np.corrcoef(umi, sim.atac.sum(axis=0))[0, 1] > 0.2
    assert 0.030 < sim.cells["percent.mito"].mean() < 0.048  # 3.3 / (3.3 + 81.48) = 0.039


def test_simulate_enhancer_pairs__windows_hold_a_genes_own_peaks_only(mixed):
    found = candidate_pairs(mixed.genes, mixed.peaks, 500_000)
    own = mixed.pairs.melt("gene", value_name="peak")[["gene", "peak"]]
    assert set(found.itertuples(index=False, name=None)) == set(own.itertuples(index=False, name=None))
    assert len(found) == 400
    pd.testing.assert_frame_equal(mixed.truth[["gene", "enhancer_1", "enhancer_2"]], mixed.pairs)


def test_write__a_store_holds_what_was_simulated(mixed, tmp_path):
    paths = mixed.write(tmp_path)
    from_file = ingest(paths["multiome"], tmp_path / "file.zarr", cells=paths["cells"], gtf=paths["gtf"])
    from_memory = ingest(mixed.to_mudata(), tmp_path / "memory.zarr")
    pd.testing.assert_frame_equal(pd.read_parquet(paths["pairs"]), mixed.pairs)
    for store in (from_file, from_memory):
        frame = store[["cell_n_umi", "cell_percent_mito"]].to_dataframe().loc[mixed.cells["barcode"]]
        np.testing.assert_array_equal(frame["cell_n_umi"], mixed.cells["nUMI"])
        # pandas reads numbers from text to about 15 digits
        np.testing.assert_allclose(frame["cell_percent_mito"], mixed.cells["percent.mito"], rtol=1e-13)
        order = {"cell": mixed.cells["barcode"].to_numpy()}
        for name, dim, table, counts in (
            ("rna", "gene", mixed.genes, mixed.rna),
            ("atac", "peak", mixed.peaks, mixed.atac),
        ):
            there = store[name].sel(order | {dim: table["name"].to_numpy()}).to_numpy()
            np.testing.assert_array_equal(there, counts)
        np.testing.assert_array_equal(
            store["gene_start"].sel(gene=mixed.genes["name"].to_numpy()), mixed.genes["start"]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": "epistatic"}, "truth 'epistatic' is unknown; choose from multiplicative, additive, synergistic"),
        ({"truth": {"additive": -1.0}}, "truth has the shares {'additive': -1.0}; want numbers of 0 or more"),
        ({"truth": {}}, "not all 0"),
        ({"n_pairs": 0}, "n_pairs is 0; want 1 or more"),
        ({"n_cells": 1}, "n_cells is 1; want 2 or more"),
        ({"dispersion": -0.1}, "dispersion is -0.1; want 0 or more"),
        ({"positive_share": 1.2}, "positive_share is 1.2; want a share from 0 to 1"),
        ({"mean_count": 0.0}, "mean_count is 0.0; want more than 0"),
        ({"interaction": []}, "interaction is []; want a finite number or several"),
        ({"interaction": [0.1, float("nan")]}, "want a finite number or several"),
        ({"open_share": (0.0, 0.5)}, "open_share is 0.0 to 0.5"),
        ({"open_share": (0.5, 0.4)}, "open_share is 0.5 to 0.4"),
    ],
)
def test_simulate_enhancer_pairs__names_a_bad_argument(change, message):
    with pytest.raises(InputError) as err:
        simulate_enhancer_pairs(**{"n_pairs": 2, "n_cells": 10} | change)
    assert message in str(err.value)
