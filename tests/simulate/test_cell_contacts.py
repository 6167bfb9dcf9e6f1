from __future__ import annotations

import cooler
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import ShardStore
from enhancer_dask.simulate.cell_contacts import CellDesign, CellExperiment
from enhancer_dask.simulate.cell_shards import simulate_cells

SMALL = CellDesign(stages=("early", "late"), chromosomes=2, bins=20, genes=6, drivers_per_gene=1, contacts=1_000.0)


@pytest.fixture(scope="module")
def experiment():
    return CellExperiment(CellDesign(), seed=0)


@pytest.fixture(scope="module")
def cells(experiment):
    return [experiment.cell("train", i) for i in range(420)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("cells")
    simulate_cells(top / "shards", SMALL, n_train=5, n_validation=2, n_test=2, seed=7, raw=top / "raw")
    return top


def loops_of(experiment):
    return experiment.drivers.drop_duplicates(["gene", "driver_bin"])


def loop_counts(experiment, cells):
    """Contacts of each gene with each of its drivers, shape (cells, loops)."""
    ends = np.sort(loops_of(experiment)[["gene_bin", "driver_bin"]].to_numpy(), axis=1)
    n = len(experiment.bins)
    out = np.zeros((len(cells), len(ends)))
    for i, cell in enumerate(cells):
        count = pd.Series(cell.contacts["count"].to_numpy(), cell.contacts["bin1_id"] * n + cell.contacts["bin2_id"])
        out[i] = count.reindex(ends[:, 0] * n + ends[:, 1], fill_value=0)
    return out


def held_out_r2(features, y, n_train):
    mean, sd = features[:n_train].mean(axis=0), features[:n_train].std(axis=0)
    x = (features - mean) / sd
    a, b = x[:n_train], y[:n_train] - y[:n_train].mean()
    slope = np.linalg.solve(a.T @ a + 10.0 * np.eye(x.shape[1]), a.T @ b)
    resid = y[n_train:] - y[:n_train].mean()
    return 1 - ((resid - x[n_train:] @ slope) ** 2).sum() / (resid**2).sum()


def test_cell_experiment__drivers_tell_expression_and_nothing_tells_the_other_genes(experiment, cells):
    # ridge on the log contacts of all loops, 320 cells to train on, 100 held out; shuffled: cells' contacts exchanged
    x = np.log1p(loop_counts(experiment, cells))
    y = np.log1p(np.array([cell.expression for cell in cells]))
    driven = experiment.genes["driven"].to_numpy()
    r2 = np.array([held_out_r2(x, y[:, g], 320) for g in range(y.shape[1])])
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    r2_shuffled = np.array([held_out_r2(shuffled, y[:, g], 320) for g in range(y.shape[1])])
    assert r2[driven].mean() > 0.2
    assert r2[~driven].mean() < 0.02
    assert r2_shuffled[driven].mean() < 0.02
    assert (r2 > r2_shuffled)[driven].mean() > 0.9


def test_cell_experiment__loops_follow_their_stages(experiment, cells):
    counts = loop_counts(experiment, cells)
    stage = np.array([cell.stage for cell in cells])
    strength = experiment.drivers.pivot_table(index=["gene", "driver_bin"], columns="stage", values="strength")
    agreement = []
    for i, loop in enumerate(loops_of(experiment).itertuples()):
        course = strength.loc[(loop.gene, loop.driver_bin)]
        means = np.array([counts[stage == s, i].mean() for s in course.index])
        agreement.append(np.corrcoef(means, course)[0, 1])
    assert np.median(agreement) > 0.9


def test_cell_experiment__contacts_fall_with_distance_and_have_the_depth_asked_for(experiment, cells):
    total = [cell.contacts["count"].sum() for cell in cells]
    assert np.median(total) == pytest.approx(20_000, rel=0.1)
    assert np.std(np.log(total)) == pytest.approx(0.3, rel=0.2)
    pooled = pd.concat([cell.contacts for cell in cells[:50]])
    chrom = experiment.bins["chrom"].to_numpy()
    cis = chrom[pooled["bin1_id"]] == chrom[pooled["bin2_id"]]
    share = pooled.loc[~cis, "count"].sum() / pooled["count"].sum()
    assert share == pytest.approx(0.2, abs=0.05)
    distance = (pooled["bin2_id"] - pooled["bin1_id"])[cis]
    by_distance = pooled.loc[cis, "count"].groupby(distance).sum()
    pairs = 3 * (60 - by_distance.index.to_numpy())
    rate = by_distance / pairs
    assert rate[1] / rate[40] == pytest.approx(41 / 2, rel=0.3)


def test_cell_experiment__expression_is_drawn_around_what_is_expected(cells):
    expected = np.array([cell.expected for cell in cells])
    observed = np.array([cell.expression for cell in cells])
    assert observed.sum() / expected.sum() == pytest.approx(0.99, abs=0.01)  # 1% dropout
    kept = observed > 0
    z = (observed - expected)[kept] / np.sqrt(expected[kept])
    assert z.std() == pytest.approx(1.0, abs=0.05)


def test_simulate_cells__a_graph_holds_its_cell(folders):
    store, experiment = ShardStore(folders / "shards"), CellExperiment(SMALL, seed=7)
    assert store.index["split"].tolist() == ["train"] * 5 + ["validation"] * 2 + ["test"] * 2
    assert store.index["stage"].tolist() == ["early", "late"] * 2 + ["early"] + ["early", "late"] * 2
    graph = store.read_shard(store.shards[0])[3]
    cell = experiment.cell("train", 3)
    np.testing.assert_array_equal(graph.values["expression"], cell.expression)
    dense = np.zeros((40, 40))
    dense[cell.contacts["bin1_id"], cell.contacts["bin2_id"]] = cell.contacts["count"]
    np.fill_diagonal(dense, 0)
    dense += dense.T
    edges = np.zeros((40, 40))
    edges[graph.source, graph.target] = graph.edges["count"]
    np.testing.assert_array_equal(edges, dense)
    np.testing.assert_array_equal(graph.nodes["x"][:, 0], (dense > 0).sum(axis=0))
    drivers = pd.read_parquet(folders / "shards" / "drivers.parquet")
    pd.testing.assert_frame_equal(drivers, experiment.drivers)
    assert len(drivers) == 3 * 1 * 2  # driven genes, drivers of each, stages


def test_simulate_cells__the_raw_files_hold_the_same_cells(folders):
    cells = pd.read_parquet(folders / "raw" / "cells.parquet")
    expression = pd.read_parquet(folders / "raw" / "expression.parquet")
    assert cells["cell"].tolist() == expression["cell"].tolist()
    assert len(cooler.fileops.list_scool_cells(str(folders / "raw" / "contacts.scool"))) == 9
    cell = CellExperiment(SMALL, seed=7).cell("test", 1)
    file = cooler.Cooler(str(folders / "raw" / "contacts.scool") + f"::/cells/{cell.name}")
    pixels = file.pixels()[:][["bin1_id", "bin2_id", "count"]]
    pd.testing.assert_frame_equal(pixels, cell.contacts, check_dtype=False)
    assert file.binsize == 1_000_000
    row = expression.set_index("cell").loc[cell.name]
    np.testing.assert_array_equal(row, cell.expression)


def test_simulate_cells__a_seed_fixes_the_bytes(folders, tmp_path):
    again = simulate_cells(tmp_path / "again", SMALL, n_train=5, n_validation=2, n_test=2, seed=7)
    for path in sorted((folders / "shards").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again.path / path.relative_to(folders / "shards")).read_bytes(), path
    other = simulate_cells(tmp_path / "other", SMALL, n_train=1, n_validation=0, n_test=0, seed=8)
    assert len(next(other.graphs()).source) != len(next(again.graphs()).source)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"drivers_per_gene": 50}, "drivers_per_gene is 50, want at most 13 in 60 bins"),
        ({"stages": ("a", "a")}, "stages are a, a; want one or more, each once"),
        ({"genes": 500}, "genes is 500, want at most 180, one per bin"),
        ({"contacts": float("inf")}, "contacts is inf, want at least 0"),
        ({"dropout": 2.0}, "dropout is 2.0, want at most 1"),
    ],
)
def test_cell_design__impossible_numbers_are_named(numbers, message):
    with pytest.raises(InputError, match=message):
        CellDesign(**numbers)


@pytest.mark.parametrize("name", ["out", "raw"])
def test_simulate_cells__overwrites_nothing_else(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    folders = {"out": tmp_path / "out", "raw": tmp_path / "raw"}
    with pytest.raises(InputError, match=f"{name}: exists and has no .*, so it is not overwritten"):
        simulate_cells(**folders, n_train=1, n_validation=0, n_test=0, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == [name, "notes.txt"]


def test_command__writes_cells(tmp_path):
    args = ["simulate", "cells", "--bins", "20", "--genes", "4", "--contacts", "500", "--stages", "a, b"]
    sizes = ["--n-train", "3", "--n-validation", "1", "--n-test", "0", "--out", str(tmp_path / "shards")]
    done = CliRunner().invoke(app, [*args, *sizes], catch_exceptions=False)
    assert '"n_graphs": 4, "n_train": 3, "n_validation": 1, "n_test": 0, "n_nodes": 240' in done.stdout
    params = ShardStore(tmp_path / "shards").params
    assert (params["stages"], params["x"]) == (["a", "b"], ["degree"])
    assert params["expressed"] == pd.read_parquet(tmp_path / "shards" / "genes.parquet")["gene"].tolist()
    with pytest.raises(InputError, match="^--genes is 200, want at most 60, one per bin"):
        CliRunner().invoke(app, [*args, "--genes", "200", "--out", str(tmp_path / "no")], catch_exceptions=False)


@pytest.mark.parametrize("numbers", [{"genes": 0}, {"driven_share": 0.0}])
def test_cell__without_drivers(numbers):
    experiment = CellExperiment(CellDesign(bins=20, contacts=500.0, **numbers))
    cell = experiment.cell("train", 0)
    assert len(experiment.drivers) == 0
    assert len(cell.contacts) > 0
    np.testing.assert_array_equal(cell.expression.shape, len(experiment.genes))


@pytest.mark.parametrize(("out", "raw"), [("a", "a"), ("a/shards", "a")])
def test_simulate_cells__raw_must_not_replace_the_shards(tmp_path, out, raw):
    with pytest.raises(InputError, match=r"a: would replace the shards; choose another folder for raw"):
        simulate_cells(tmp_path / out, n_train=1, n_validation=0, n_test=0, raw=tmp_path / raw, overwrite=True)
    assert not (tmp_path / "a").exists()
