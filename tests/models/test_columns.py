"""Columns of x that a model reads: as if the others were not there."""

import sys
from pathlib import Path

import numpy as np
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph, finish_shards, sorted_edges, write_shard

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import cli, result  # noqa: E402

from enhancer_dask.models.explaining import explain  # noqa: E402
from enhancer_dask.models.predictions import predict  # noqa: E402
from enhancer_dask.models.registry import build  # noqa: E402
from enhancer_dask.models.scoring import ScoreOptions  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402
from enhancer_dask.models.tuning import tune  # noqa: E402

NAMES = ["degree", "strength", "dnase"]
MODELS = ("epi-cnn", "epi-graphreg", "ridge", "two-way-windows")
SMALL = {"epi-cnn": {"width": 4}, "epi-graphreg": {"width": 4}, "two-way-windows": {"replicas": 2, "kept": 1}}
SHORT = {"epochs": 3, "accelerator": "cpu", "check_every": 1}


def write(path, columns, *, named=True):
    """Four graphs with some of the same three columns."""
    rng, graphs = np.random.default_rng(0), []
    for i in range(4):
        source, target, _ = sorted_edges(*rng.integers(0, 20, (2, 40)), {})
        x = rng.gamma(1.0, [20.0, 40.0, 1.0], (20, 3)).astype(np.float32)
        nodes = {"x": np.ascontiguousarray(x[:, [NAMES.index(name) for name in columns]]), "y": x[:, 2] * 3 + 1}
        nodes["gene_mask"] = np.isin(np.arange(20), target)
        split = ("train", "train", "validation", "test")[i]
        graphs.append(Graph(f"g{i}", 20, source, target, nodes, labels={"split": split}))
    path.mkdir()
    finish_shards(path, write_shard(path / "shard-00000000.zarr", graphs), {"x": list(columns)} if named else {})
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write(tmp_path_factory.mktemp("columns") / "all", NAMES)


def trained(shards, model, out, **options):
    training = {} if model == "ridge" else SHORT
    return train(shards, model, out, options={**SMALL.get(model, {}), **options}, training=training, progress=False)


@pytest.mark.parametrize("model", MODELS)
def test_train__reads_the_named_columns_in_their_order_alone(shards, tmp_path, model):
    wanted = ["dnase", "degree"]
    alone = trained(write(tmp_path / "few", wanted), model, tmp_path / "alone")
    chosen = trained(shards, model, tmp_path / "chosen", columns="dnase,degree")
    assert chosen.description["options"]["columns"] == [2, 0]
    want = alone.model().state_dict()
    for name, value in chosen.model().state_dict().items():
        assert torch.equal(value, want[name]), name
    few = predict(alone.path, tmp_path / "few", split="test")
    found = predict(chosen.path, shards, split="test")
    np.testing.assert_array_equal(found["prediction"], few["prediction"])
    assert not np.array_equal(found["prediction"], predict(
        trained(shards, model, tmp_path / "every").path, shards, split="test")["prediction"])  # fmt: skip


def test_predict__the_columns_are_found_by_their_place_so_others_are_refused(shards, tmp_path):
    run = trained(shards, "ridge", tmp_path / "run", columns=["dnase"])
    turned = write(tmp_path / "turned", NAMES[::-1])
    with pytest.raises(InputError, match="x has the columns dnase, strength, degree; .* on degree, strength, dnase"):
        predict(run.path, turned, split="test")


def test_explain__refuses_other_columns_too(shards, tmp_path):
    run = trained(shards, "ridge", tmp_path / "run", columns="dnase")
    ask = {"split": "test", "limit": 2, "options": ScoreOptions(methods=("gradient-x-input",))}
    found = explain(run.path, shards, tmp_path / "scores", **ask)
    assert found["genes"] == 2
    other = write(tmp_path / "other", ["dnase", "degree", "strength"])
    with pytest.raises(InputError, match="x has the columns dnase, degree, strength; .* on degree, strength, dnase"):
        explain(run.path, other, tmp_path / "not", **ask)
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("ridge", {"columns": True}, "x has no column 'True'"),
        ("ridge", {"columns": "dnas"}, "x has no column 'dnas'; it has degree, strength, dnase"),
        ("ridge", {"columns": [3]}, "x has no column '3'; it has degree, strength, dnase"),
        ("ridge", {"columns": [-1]}, "x has no column '-1'"),
        ("ridge", {"columns": ""}, "x has no column ''"),
        ("ridge", {"columns": "dnase, dnase"}, r"columns is \[2, 2\], want 2 .in_channels. different"),
        ("epi-cnn", {"columns": "dnase", "in_channels": 2}, r"columns is \[2\], want 2 .in_channels. different"),
        (
            "graphreg-epi",
            {"columns": "dnase"},
            "'graphreg-epi' has no columns of x to choose from; its options: tracks",
        ),
    ],
)
def test_train__columns_that_are_not_there(shards, tmp_path, model, options, message):
    with pytest.raises(InputError, match=message):
        trained(shards, model, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_columns__numbers_serve_where_there_are_no_names(tmp_path):
    shards = write(tmp_path / "shards", NAMES, named=False)
    assert trained(shards, "ridge", tmp_path / "run", columns="2").description["options"]["columns"] == [2]
    with pytest.raises(InputError, match="no column 'dnase'; it has 3 columns without names, counted from 0"):
        trained(shards, "ridge", tmp_path / "other", columns="dnase")
    narrow = write(tmp_path / "narrow", NAMES[:2], named=False)
    with pytest.raises(InputError, match=r"wanted with the columns \[2\], counted from 0, found shape"):
        predict(tmp_path / "run", narrow, split="test")
    with pytest.raises(InputError, match="columns is .True., want 1"):
        build("ridge", columns=[True])


def test_tune__searches_columns(shards, tmp_path):
    grid = ['columns="dnase",["degree","strength"]']
    table = tune(shards, "ridge", tmp_path / "out", grid, options={"reach": 0}, progress=False)
    assert table["columns"].tolist() == ["dnase", '["degree", "strength"]']  # the target is a line of dnase
    assert table["val_loss"][0] < 1e-3 < table["val_loss"][1]


def test_command__x_names_columns(shards, tmp_path):
    ask = ("--model", "ridge", "--option", "reach=0")
    found = result(cli("train", shards, *ask, "--x", "dnase", "--out", "run", cwd=tmp_path))
    assert found["n_parameters"] == 3
    assert found["test_mse"] < 1e-3 < found["test_variance"]
    done = cli("tune", shards, *ask, "--x", "dnas", "--grid", "alpha=0,1", "--out", "search", cwd=tmp_path, ok=False)
    assert "x has no column 'dnas'; it has degree, strength, dnase" in done.stderr
