"""Predictions in a table and as tracks: every node once, values of the model, positions that hold when read back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from tiny_model import LENGTHS, SIZE, expected, register, windowed_shards, write_run
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io import track_writer
from enhancer_dask.io.pixels import make_bins
from enhancer_dask.io.tables import read_meta
from enhancer_dask.io.track_writer import write_bigwig, write_tracks
from enhancer_dask.models.prediction_tracks import plan_tracks, write_prediction_tracks
from enhancer_dask.models.predictions import chromosome_lengths, in_order, predict
from enhancer_dask.shard_store import Graph, ShardStore, finish_shards, sorted_edges, write_shard
from enhancer_dask.simulate.chromosomes import preset_design, simulate_chromosomes

FACTORS = [0.5, -0.25, 2.0]  # of degree, strength, dnase


@pytest.fixture(autouse=True)
def scaled(monkeypatch):
    register(monkeypatch)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    design = preset_design("enhancers", bins=200)
    return simulate_chromosomes(tmp_path_factory.mktemp("s") / "s", design, n_train=3, n_validation=1, n_test=4)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return windowed_shards(tmp_path_factory.mktemp("w"))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [3.0], x=["accessibility"])


@pytest.fixture
def run3(tmp_path):
    return write_run(tmp_path / "run3", FACTORS, x=["degree", "strength", "dnase"])


# -- the table -------------------------------------------------------------------------------------------------


def test_predict__simulated_chromosomes(simulated, run):
    table = predict(run, simulated.path, split="test", accelerator="cpu")
    graphs = [g for g in simulated.graphs() if g.labels["split"] == "test"]
    assert list(table.columns) == [
        "graph", "node", "y", "prediction", "loss_mask", "is_gene", "n_contacts", "track_accessibility",
    ]  # fmt: skip
    assert list(dict.fromkeys(table["graph"])) == [g.name for g in graphs]
    for graph in graphs:
        rows = table[table["graph"] == graph.name]
        np.testing.assert_array_equal(rows["node"], np.arange(graph.n_nodes))
        np.testing.assert_array_equal(rows["y"], graph.nodes["y"])
        np.testing.assert_array_equal(rows["is_gene"], graph.nodes["is_gene"])
        np.testing.assert_array_equal(rows["track_accessibility"], graph.nodes["x"][:, 0])
        np.testing.assert_array_equal(rows["n_contacts"], 3 * graph.nodes["is_gene"])
        np.testing.assert_allclose(rows["prediction"], expected(graph, [3.0]), rtol=1e-5)  # float32
    assert table["loss_mask"].all()
    assert table["prediction"].dtype == np.float32


def test_predict__does_not_depend_on_batches_or_the_order_of_graphs(windowed, run3):
    store, _, _ = windowed
    one = predict(run3, store.path, accelerator="cpu")
    pd.testing.assert_frame_equal(one, predict(run3, store.path, accelerator="cpu", batch_size=3), rtol=1e-5)
    # loader workers take turns, so graphs may come in another order than that of the index
    pd.testing.assert_frame_equal(one, in_order(one.sample(frac=1, random_state=0), store))


def test_predict__windows_know_where_they_are(windowed, run3):
    store, cage, dnase = windowed
    table = predict(run3, store.path, accelerator="cpu")
    bins = make_bins(LENGTHS, SIZE)
    here = bins.loc[table["bin"]].reset_index(drop=True)
    for column in ("chrom", "start", "end"):
        np.testing.assert_array_equal(table[column].astype(str), here[column].astype(str))
    counted = table[table["loss_mask"]]
    assert sorted(counted["bin"]) == list(range(len(bins)))  # every bin in exactly one mask
    assert len(table) > len(counted)
    fine = dnase.groupby([dnase.index.get_level_values(0), dnase.index.get_level_values(1) // SIZE]).mean()
    want = fine[pd.MultiIndex.from_arrays([table["chrom"], table["start"] // SIZE])].to_numpy()
    np.testing.assert_allclose(table["track_dnase"], want, rtol=1e-5)
    whole = (table["end"] - table["start"] == SIZE).to_numpy()  # sums of 100 bp; the short bin has parts beyond the end
    sums = cage.groupby([cage.index.get_level_values(0), cage.index.get_level_values(1) // SIZE]).sum() * 100
    sums = sums[pd.MultiIndex.from_arrays([table["chrom"], table["start"] // SIZE])].to_numpy()
    np.testing.assert_allclose(table["y"][whole], sums[whole], rtol=1e-6)
    np.testing.assert_allclose(table["track_fine"][whole], 100 * want[whole], rtol=1e-5)
    graphs = {g.name: g for g in store.graphs()}
    for name, rows in table.groupby("graph"):
        np.testing.assert_allclose(rows["prediction"], expected(graphs[name], FACTORS), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(rows["n_contacts"], np.bincount(graphs[name].target, minlength=len(rows)))
    assert table["is_gene"].any()


def graphs_of_genes(folder):
    """Nodes are genes; a self-edge is no contact; there is no target."""
    source, target, edges = sorted_edges(np.array([0, 1, 2, 2]), np.array([1, 0, 2, 0]), {})
    nodes = {"x": np.ones((3, 1), np.float32), "gene": np.array([2, 0, 1], np.int32), "bin": np.arange(3)}
    folder.mkdir()
    rows = write_shard(folder / "shard-00000000.zarr", [Graph("cell", 3, source, target, nodes, edges)])
    finish_shards(folder, rows, {"nodes": "genes", "genes": ["A", "B", "C"], "x": ["degree"]})
    return folder


def test_predict__nodes_that_are_genes_and_no_target(tmp_path, run):
    (tmp_path / "run" / "run.json").write_text((run / "run.json").read_text().replace("accessibility", "degree"))
    table = predict(run, graphs_of_genes(tmp_path / "g"), accelerator="cpu")
    assert table["gene"].tolist() == ["C", "A", "B"]
    assert table["is_gene"].all()
    assert table["n_contacts"].tolist() == [2, 1, 0]
    assert table["y"].isna().all()
    assert "chrom" not in table


def test_predict__writes_the_table(simulated, run, tmp_path):
    table = predict(run, simulated.path, tmp_path / "t.parquet", where="split == 'test' and number < 2", tsv=True)
    assert table["graph"].nunique() == 2
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)
    assert len(pd.read_csv(tmp_path / "t.tsv.gz", sep="\t")) == len(table)
    assert read_meta(tmp_path / "t.parquet")["params"]["where"] == "split == 'test' and number < 2"
    predict(run, simulated.path, tmp_path / "folder", split="test")
    assert len(pd.read_parquet(tmp_path / "folder" / "predictions.parquet")) == 800
    for out in ("t.parquet", "folder"):
        with pytest.raises(InputError, match="exists; choose another name or overwrite it"):
            predict(run, simulated.path, tmp_path / out)
    (tmp_path / "u.tsv.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"u\.tsv\.gz: exists"):
        predict(run, simulated.path, tmp_path / "u.parquet", tsv=True)
    assert (tmp_path / "u.tsv.gz").read_bytes() == b"mine"
    predict(run, simulated.path, tmp_path / "t.parquet", overwrite=True)
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 1600


def test_predict__refuses_what_does_not_fit(simulated, windowed, run, run3, tmp_path):
    with pytest.raises(
        InputError, match="x has the columns accessibility; .*run3 was trained on degree, strength, dnase"
    ):
        predict(run3, simulated.path)
    nameless = write_run(tmp_path / "nameless", [1.0, 1.0])
    with pytest.raises(InputError, match="x has 1 columns; .*nameless was trained on 2"):
        predict(nameless, simulated.path)
    needy = write_run(tmp_path / "needy", [1.0], needs="sequence")
    with pytest.raises(InputError, match=r"model 'scaled' of .*needy cannot read graph 'train-000000' \(KeyError"):
        predict(needy, simulated.path)
    with pytest.raises(StoreError, match="no training run here"):
        predict(tmp_path, simulated.path)
    with pytest.raises(StoreError, match="no graph shards here"):
        predict(run, tmp_path)
    with pytest.raises(InputError, match="no graph is in split 'tset'"):
        predict(run, simulated.path, split="tset")
    with pytest.raises(InputError, match="accelerator is 'tpu', want one of"):
        predict(run, simulated.path, accelerator="tpu")
    with pytest.raises(InputError, match="want a path"):
        predict(run, simulated.path, "s3://bucket/t.parquet")


# -- tracks ----------------------------------------------------------------------------------------------------


def read_bigwig(path):
    import pybigtools

    reader = pybigtools.open(str(path))
    rows = [(chrom, *record) for chrom in reader.chroms() for record in reader.records(chrom)]
    return reader.chroms(), pd.DataFrame(rows, columns=["chrom", "start", "end", "value"])


def test_bigwig__reads_back_as_predicted(windowed, run3, tmp_path):
    store, _, _ = windowed
    table = predict(run3, store.path, accelerator="cpu")
    plan = plan_tracks(store.path, bigwig=tmp_path / "p.bw")
    written = write_prediction_tracks(plan, table)
    bins, counted = make_bins(LENGTHS, SIZE), table[table["loss_mask"]].sort_values("bin")
    assert written["n_bins"] == len(bins)
    for file, column in (("p.bw", "prediction"), ("p.target.bw", "y")):
        lengths, found = read_bigwig(tmp_path / file)
        assert lengths == LENGTHS
        assert list(found["chrom"]) == list(bins["chrom"])
        np.testing.assert_array_equal(found[["start", "end"]], bins[["start", "end"]])
        np.testing.assert_array_equal(found["value"].to_numpy(np.float32), counted[column])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.bw", "p.target.bw", "run3"]


def test_tracks__name_chromosomes_as_the_sizes_do(windowed, run3, tmp_path):
    store, _, _ = windowed
    sizes = {name.removeprefix("chr"): size for name, size in LENGTHS.items()}
    plan = plan_tracks(store.path, bigwig=tmp_path / "p.bw", zarr=tmp_path / "p.zarr", chromsizes=sizes)
    table = predict(run3, store.path, accelerator="cpu")
    write_prediction_tracks(plan, table)
    assert read_bigwig(tmp_path / "p.bw")[0] == sizes
    tracks = xr.open_zarr(tmp_path / "p.zarr")
    assert tracks["chrom_name"].values.tolist() == list(sizes)
    assert tracks["chrom_n_bins"].values.tolist() == [41, 20, 8]
    twice = pd.concat([table, table[table["loss_mask"]][:1]])
    with pytest.raises(InputError, match="overlaps the one before it"):
        write_prediction_tracks(plan_tracks(store.path, zarr=tmp_path / "twice.zarr"), twice)
    assert not (tmp_path / "twice.zarr").exists()


def test_tracks__an_old_target_does_not_stay(windowed, run3, tmp_path):
    store, _, _ = windowed
    table = predict(run3, store.path, accelerator="cpu")
    write_prediction_tracks(plan_tracks(store.path, bigwig=tmp_path / "p.bw"), table)
    assert (tmp_path / "p.target.bw").exists()
    plan = plan_tracks(store.path, bigwig=tmp_path / "p.bw", overwrite=True)
    assert "target_bigwig" not in write_prediction_tracks(plan, table.assign(y=np.nan))
    assert not (tmp_path / "p.target.bw").exists()


@pytest.mark.parametrize("kind", ["bigwig", "zarr"])
@pytest.mark.parametrize("form", [str, Path])
def test_tracks__are_written_to_folders_only(windowed, kind, form):
    with pytest.raises(InputError, match="want a path"):
        plan_tracks(windowed[0].path, **{kind: form("s3://bucket/p.bw")})


def test_bigwig__chromosome_sizes_of_the_user(windowed, tmp_path):
    store, _, _ = windowed
    assert chromosome_lengths(store) == LENGTHS
    sizes = {"2": 20_000, "1": 41_000, "10": 8_000, "X": 5}
    assert plan_tracks(store.path, bigwig=tmp_path / "p.bw", chromsizes=sizes).lengths == sizes
    with pytest.raises(InputError, match="'chr1' has 40000 bp, bins reach to 40500"):
        plan_tracks(store.path, chromsizes=sizes | {"1": 40_000})
    with pytest.raises(InputError, match="'chr10' is missing"):
        plan_tracks(store.path, chromsizes={"1": 41_000, "2": 20_000})


def bins_of(*rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "value"])


def test_write_bigwig__refuses_what_the_writer_would_lose(tmp_path, monkeypatch):
    good, path = ("chr1", 0, 10, 1.0), tmp_path / "a.bw"
    for rows, message in [
        ([good, ("chr1", 5, 15, 1.0)], "chr1:5-15 overlaps the one before it"),
        ([good, good], "chr1:0-10 overlaps"),
        ([("chr1", 95, 105, 1.0)], "chr1:95-105 is not within its chromosome"),
        ([("chr3", 0, 10, 1.0)], "no length of chromosome 'chr3'; there are chr2, chr1"),
        ([("chr1", 0, 10, np.inf)], "chr1:0-10 is infinite"),
        ([("chr1", 0, 10, np.nan)], "no bin has a 'value' to write"),
    ]:
        with pytest.raises(InputError, match=message):
            write_bigwig(bins_of(*rows), path, "value", {"chr2": 50, "chr1": 100})
    with pytest.raises(InputError, match=r"want a name that ends in \.bw"):
        write_bigwig(bins_of(good), tmp_path / "a.wig", "value", {"chr1": 100})
    monkeypatch.setattr(track_writer, "_placed", lambda bins, *_: bins.assign(code=0))  # nothing is checked
    with pytest.raises(OSError, match=r"a\.bw"):
        write_bigwig(bins_of(("chr1", 95, 105, 1.0)), path, "value", {"chr1": 100})
    assert list(tmp_path.iterdir()) == []


def test_write_bigwig__sorts_and_leaves_out_nan(tmp_path):
    rows = [("chr1", 20, 30, 2.0), ("chr1", 0, 10, np.nan), ("1", 10, 20, 1.0), ("chr2", 0, 5, 3.0)]
    assert write_bigwig(bins_of(*rows[:2], rows[3]), tmp_path / "a.bigWig", "value", {"2": 5, "1": 30}) == 2
    _, found = read_bigwig(tmp_path / "a.bigWig")
    assert found.values.tolist() == [["2", 0, 5, 3.0], ["1", 20, 30, 2.0]]


def test_zarr__simulated_chromosomes_read_back(simulated, run, tmp_path):
    table = predict(run, simulated.path, split="test", accelerator="cpu")
    with pytest.raises(InputError, match="no chrom, start and end, so no bigWig"):
        plan_tracks(simulated.path, bigwig=tmp_path / "p.bw")
    written = write_prediction_tracks(plan_tracks(simulated.path, zarr=tmp_path / "p.zarr"), table)
    assert written["n_bins"] == len(table)
    tracks = xr.open_zarr(tmp_path / "p.zarr")
    assert tracks["prediction"].dims == ("bin",)
    assert tracks.attrs["unit"] == "bin"
    for i, (name, rows) in enumerate(table.groupby("graph", sort=False)):
        assert str(tracks["chrom_name"].values[i]) == name
        first, n = int(tracks["chrom_first_bin"][i]), int(tracks["chrom_n_bins"][i])
        mine = tracks.isel(bin=slice(first, first + n))
        assert (mine["bin_chrom"] == i).all()
        np.testing.assert_array_equal(mine["bin_start"], rows["node"])
        np.testing.assert_array_equal(mine["prediction"], rows["prediction"])
        np.testing.assert_array_equal(mine["target"], rows["y"])


def test_zarr__windows_become_chromosomes(windowed, run3, tmp_path):
    store, _, _ = windowed
    table = predict(run3, store.path, accelerator="cpu", where="chrom != 'chr2'")
    write_prediction_tracks(plan_tracks(store.path, zarr=tmp_path / "p.zarr"), table)
    tracks = xr.open_zarr(tmp_path / "p.zarr")
    bins = make_bins(LENGTHS, SIZE).query("chrom != 'chr2'")
    assert tracks["chrom_name"].values.tolist() == list(LENGTHS)
    assert tracks["chrom_n_bins"].values.tolist() == [41, 0, 8]
    np.testing.assert_array_equal(tracks["bin_start"], bins["start"])
    np.testing.assert_array_equal(tracks["bin_end"], bins["end"])
    np.testing.assert_array_equal(tracks["prediction"], table[table["loss_mask"]].sort_values("bin")["prediction"])
    with pytest.raises(InputError, match="exists; choose another name"):
        plan_tracks(store.path, zarr=tmp_path / "p.zarr")
    with pytest.raises(InputError, match="no bin to write"):
        write_tracks(table[:0], tmp_path / "n.zarr", {}, LENGTHS)


# -- the command -----------------------------------------------------------------------------------------------


def test_cli__predict(windowed, run3, tmp_path, monkeypatch):
    store, _, _ = windowed
    monkeypatch.chdir(tmp_path)
    args = ["predict", "run3", str(store.path), "--out", "p", "--bigwig", "p.bw", "--zarr", "p.zarr", "--tsv"]
    done = CliRunner().invoke(app, [*args, "--batch-size", "4"], catch_exceptions=False)
    made = json.loads(done.stdout.splitlines()[-1])
    table = pd.read_parquet(tmp_path / "p" / "predictions.parquet")
    assert (made["n_nodes"], made["n_graphs"]) == (len(table), len(ShardStore(store.path).index))
    assert {"p", "p.bw", "p.target.bw", "p.zarr", "run3"} == {p.name for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"p\.bw: exists"):
        CliRunner().invoke(app, args, catch_exceptions=False)
    assert CliRunner().invoke(app, [*args, "--overwrite"], catch_exceptions=False).exit_code == 0
