"""Real contacts have hubs: models must learn from them what an invented signal makes of expression."""

import sys
from pathlib import Path

import numpy as np
import pytest

from enhancer_dask.graphs.build import graph_shards
from enhancer_dask.io.contact_ingest import ingest_contacts
from enhancer_dask.shard_store import ShardStore, finish_shards, write_shard

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

from enhancer_dask.models.predictions import predict  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models  # noqa: E402

tiny_models.register()
TEST = "chrom in ['chrIV', 'chrVII', 'chrXII']"
SPLIT = {"train": "chrom not in ['chrII', 'chrIV', 'chrVII', 'chrXII']", "validation": "chrom == 'chrII'", "test": TEST}
SHORT = {"epochs": 200, "check_every": 50, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def yeast(shared, tmp_path_factory):
    """Contacts of yeast, each bin with its degree and strength."""
    folder = tmp_path_factory.mktemp("yeast")
    ingest_contacts(shared / "data" / "hic" / "yeast.10kb.cool", folder / "contacts", resolution=10_000, progress=False)
    return graph_shards(folder / "contacts", folder / "shards", rule="oe>1.5", progress=False)


def with_signal(yeast, path, size=1.0, *, counts=False):
    """A signal beside degree and strength; expression is its own and twice the mean of what contacts bring.

    ``counts``: numbers with a long tail, most of them 0.
    """
    rng, graphs = np.random.default_rng(1), []
    for graph in yeast.graphs():
        signal = rng.gamma(1.5, 1.0, graph.n_nodes)
        n = np.bincount(graph.target, minlength=graph.n_nodes)
        brought = np.bincount(graph.target, signal[graph.source], minlength=graph.n_nodes) / np.maximum(n, 1)
        y = signal + 2 * brought + rng.normal(0, 0.3, graph.n_nodes)
        if counts:
            y = rng.poisson(np.exp(np.maximum(2 * (y - 4), 0)) - 1)
        graph.nodes["x"] = np.column_stack([graph.nodes["x"], signal * size]).astype(np.float32)
        graph.nodes["y"] = (y * size).astype(np.float32)
        graphs.append(graph)
    path.mkdir()
    params = {**yeast.params, "x": [*yeast.params["x"], "signal"]}
    finish_shards(path, write_shard(path / "shard-00000000.zarr", graphs), params)
    return path


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_two_way_windows__learn_beside_hubs_in_any_unit(yeast, tmp_path, size):
    shards, said = with_signal(yeast, tmp_path / "shards", size), []
    degree = np.concatenate([graph.nodes["x"][:, 0] for graph in ShardStore(shards).graphs()])
    assert degree.max() > 60 > 5 * np.median(degree)
    options, training = {"replicas": 2, "kept": 1}, {**SHORT, "delta": 0.3 * size}
    run = train(shards, "two-way-windows", tmp_path / "run", options=options, training=training, progress=False,
                note=said.append, **SPLIT)  # fmt: skip
    table = predict(run.path, shards, where=TEST)
    assert run.result["test_variance"] == pytest.approx(table["y"].var(ddof=0), rel=1e-5)
    assert run.result["test_mse"] < 0.75 * run.result["test_variance"]
    assert np.corrcoef(table["prediction"], table["y"])[0, 1] > 0.5
    assert len(said) == 1  # how large it is, nothing else


def test_train__a_constant_is_called_one(yeast, tmp_path):
    said = []
    run = train(with_signal(yeast, tmp_path / "shards"), "mean-of-y", tmp_path / "run", progress=False,
                note=said.append, **SPLIT)  # fmt: skip
    assert said[1].startswith("the predictions hardly vary over the test graphs: standard deviation 0, of")
    again = train(run.path.parent / "shards", "mean-of-y", run.path, progress=False, note=said.append, **SPLIT)
    assert again.result == run.result
    assert said[2] == said[1]


def test_two_way_windows__counts_begin_where_a_poisson_loss_has_a_gradient(yeast, tmp_path):
    """Most of them 0, some large. And units are the same where graphs are streamed."""
    shards = with_signal(yeast, tmp_path / "shards", counts=True)
    training = {"epochs": 2, "check_every": 1, "loss": "poisson", "accelerator": "cpu", "lr": 1e-12}
    kept, streamed = (
        train(shards, "two-way-windows", tmp_path / str(in_memory), training={**training, "in_memory": in_memory},
              progress=False, **SPLIT).model().state_dict()
        for in_memory in (True, False)
    )  # fmt: skip
    table = predict(tmp_path / "True", shards, where=SPLIT["train"])
    assert table["y"].std() > 2 * table["y"].mean()  # so its mean less its deviation is below 0
    assert table["prediction"].min() >= 0
    assert float(kept["scales.base"]) == pytest.approx(table["y"].mean(), rel=1e-5)
    for name, value in kept.items():
        assert torch.equal(value, streamed[name]), name
