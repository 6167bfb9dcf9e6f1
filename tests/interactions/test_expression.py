from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.interactions import expression as module
from enhancer_dask.interactions.expression import expected_by_state
from enhancer_dask.stats import poisson
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stores import MultiomeStore


@pytest.fixture(scope="module")
def some_pairs(store):
    """Six pairs of common peaks with each of three expressed genes."""
    data = MultiomeStore(store)
    common = np.argsort(-data.column("peak_n_nonzero").min(axis=1), kind="stable")[:4]
    genes = data.column("gene")[np.argsort(-data.column("gene_n_nonzero").min(axis=1), kind="stable")[:3]]
    peaks = data.column("peak")[common]
    return pd.DataFrame(
        [(gene, *two) for gene in genes for two in combinations(peaks, 2)], columns=["gene", "enhancer_1", "enhancer_2"]
    )


def test_expected_by_state__are_refits_of_the_drawn_cells(store, some_pairs):
    found = expected_by_state(store, some_pairs, celltype="B", n_resamples=20, seed=4)
    data = MultiomeStore(store)
    cells = data.cells_of("B")
    offset, mito = np.log(data.column("cell_n_umi")[cells]), data.column("cell_percent_mito")[cells]
    draws = resample_counts(len(mito), 0, 20, seed=4, celltype="B", rung=0)
    assert len(found) == len(some_pairs)
    row = found.iloc[7]
    at = {kind: list(data.column(kind)) for kind in ("gene", "peak")}
    y = data.counts("rna", [at["gene"].index(row["gene"])], "B")[0]
    e1, e2 = (data.counts("atac", [at["peak"].index(row[f"enhancer_{i}"])], "B")[0] > 0 for i in (1, 2))
    want = []
    for draw in draws:
        i = np.repeat(np.arange(len(mito)), draw)
        indicators = np.column_stack([e1, e2, e1 & e2])[i]
        b0, slope, b1, b2, b12 = poisson.fit_poisson(y[i], indicators, mito[i, None], offset=offset[i]).coefficients
        base = b0 + slope * mito.mean() + offset.mean()
        state = [base, base + b1, base + b2, base + b1 + b2 + b12, base + b1 + b2]
        want.append(np.append(np.exp(state), np.exp(base + b1) + np.exp(base + b2) - np.exp(base)))
    names = ("00", "10", "01", "11", "multiplicative", "additive")
    for statistic, values in (
        ("mean", np.mean(want, axis=0)),
        ("q05", np.quantile(want, 0.05, axis=0)),
        ("q95", np.quantile(want, 0.95, axis=0)),
    ):
        np.testing.assert_allclose(row[[f"{statistic}_{s}" for s in names]].astype(float), values, rtol=1e-6)
    assert (row[[f"n_resamples_{s}" for s in names]] == 20).all()


def test_expected_by_state__does_not_depend_on_blocks(store, some_pairs, monkeypatch):
    whole = expected_by_state(store, some_pairs, n_resamples=5)
    assert whole["celltype"].unique().tolist() == ["A", "B"]
    monkeypatch.setattr(module, "BLOCK_PAIRS", 4)
    pd.testing.assert_frame_equal(expected_by_state(store, some_pairs, n_resamples=5), whole, check_exact=True)


def test_expected_by_state__takes_pairs_in_their_own_cell_type_once(store, some_pairs, tmp_path):
    mine = some_pairs.assign(celltype=["A", "B", "B"] * 6)
    pd.concat([mine, mine]).to_parquet(tmp_path / "pairs.parquet")
    found = expected_by_state(store, tmp_path / "pairs.parquet", n_resamples=2, covariates=(), offset=None)
    assert found["celltype"].value_counts().to_dict() == {"A": 6, "B": 12}


def test_expected_by_state__refuses_and_warns(store, some_pairs):
    with pytest.raises(InputError, match="n_resamples is 0; want 1 or more"):
        expected_by_state(store, some_pairs, n_resamples=0)
    with pytest.raises(InputError, match="gene 'nobody' is not in"):
        expected_by_state(store, some_pairs.assign(gene="nobody"))
    with pytest.raises(InputError, match="no cell is of type 'C'"):
        expected_by_state(store, some_pairs, celltype="C")
    heard = []
    expected_by_state(
        store, some_pairs[:1], celltype="A", covariates="percent.mito,celltype", n_resamples=1, warn=heard.append
    )
    assert heard == ["covariate 'celltype' is constant in 'A' and left out there"]
