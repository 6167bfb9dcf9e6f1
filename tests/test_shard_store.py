"""Graph shards: what is written is read, the same graphs give the same bytes, and what is wrong is named."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.shard_store import Graph, ShardStore, finish_shards, sorted_edges, write_shard


def graph(name, rng, *, n_nodes=7, n_edges=12):
    source, target, edges = sorted_edges(
        rng.integers(0, n_nodes, n_edges), rng.integers(0, n_nodes, n_edges), {"count": rng.random(n_edges)}
    )
    nodes = {"x": rng.random((n_nodes, 3)).astype(np.float32), "loss_mask": rng.random(n_nodes) < 0.5}
    labels = {"chrom": "chr1", "start": 0, "split": "train"}
    return Graph(name, n_nodes, source, target, nodes, edges, {"expression": rng.random(2)}, labels)


def write(folder, *shards):
    folder.mkdir()
    rows = [write_shard(folder / f"shard-{i:08d}.zarr", graphs) for i, graphs in enumerate(shards)]
    finish_shards(folder, pd.concat(rows, ignore_index=True), {"seed": 1})
    return ShardStore(folder)


@pytest.fixture
def graphs(rng):
    return [graph("a", rng), graph("b", rng, n_nodes=1, n_edges=0), graph("c", rng, n_nodes=30, n_edges=90)]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_shards__come_back_as_they_were(tmp_path, graphs):
    store = write(tmp_path / "shards", graphs[:2], graphs[2:])
    assert store.index["name"].tolist() == ["a", "b", "c"]
    assert store.params == {"seed": 1}
    assert store.variables["nodes"]["x"] == {"dtype": "float32", "shape": [3]}
    for want, found in zip(graphs, store.graphs(), strict=True):
        assert (found.name, found.n_nodes, found.labels) == (want.name, want.n_nodes, want.labels)
        np.testing.assert_array_equal(found.source, want.source)
        np.testing.assert_array_equal(found.target, want.target)
        for kind in ("nodes", "edges", "values"):
            assert sorted(getattr(found, kind)) == sorted(getattr(want, kind))
            for name, values in getattr(want, kind).items():
                np.testing.assert_array_equal(getattr(found, kind)[name], values, strict=True)


def test_shards__a_missing_label_is_still_a_label(tmp_path, rng):
    some = [replace(graph(name, rng), labels={"age": age}) for name, age in (("a", 1.5), ("b", np.nan))]
    ages = [g.labels["age"] for g in write(tmp_path / "shards", some).graphs()]
    np.testing.assert_array_equal(ages, [1.5, np.nan])


def test_shards__same_graphs_same_bytes(tmp_path, graphs):
    write(tmp_path / "one", graphs)
    write(tmp_path / "two", graphs)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_shards__what_is_wrong_is_named(tmp_path, graphs, rng):
    shard = tmp_path / "shard-00000000.zarr"
    with pytest.raises(InputError, match="graph 'd': edges are not sorted by target and source"):
        write_shard(shard, [Graph("d", 3, np.array([0, 1]), np.array([2, 0]))])
    with pytest.raises(InputError, match="graph 'd': edges name nodes that are not there \\(2 nodes\\)"):
        write_shard(shard, [Graph("d", 2, np.array([0]), np.array([2]))])
    with pytest.raises(InputError, match="graph 'd': nodes \\[\\], want \\['loss_mask', 'x'\\] as in graph 'a'"):
        write_shard(shard, [graphs[0], Graph("d", 2, np.array([0]), np.array([1]))])
    with pytest.raises(InputError, match="two graphs are named 'a'"):
        write(tmp_path / "twice", [graphs[0]], [graphs[0]])
    assert not shard.exists()
    with pytest.raises(StoreError, match=r"no graph shards here \(shards.json is missing\)"):
        _ = ShardStore(tmp_path).index


def test_shards__damage_is_noticed(tmp_path, graphs):
    store = write(tmp_path / "shards", graphs)
    chunk = next(p for p in (tmp_path / "shards").rglob("c/*") if "count" in str(p))
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"shard-00000000\.zarr: missing or damaged"):
        list(store.graphs())
    chunk.unlink()
    with pytest.raises(StoreError, match=r"'edges/count' has 0 of 1 chunks"):
        list(store.graphs())


def test_sorted_edges__both_ways_of_sorting_agree(rng):
    source, target = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
    weight = np.arange(60)
    found = sorted_edges(source, target, {"weight": weight})
    assert (np.diff(found[1] * 9 + found[0]) >= 0).all()
    np.testing.assert_array_equal(source[found[2]["weight"]], found[0])
    np.testing.assert_array_equal(target[found[2]["weight"]], found[1])
    one, two = np.triu_indices(9, 1)
    both = sorted_edges(np.append(one, two), np.append(two, one), {"weight": np.arange(72)})
    again = sorted_edges(np.append(two, one), np.append(one, two), {"weight": np.arange(72)})
    np.testing.assert_array_equal(both[:2], again[:2])
    np.testing.assert_array_equal(both[2]["weight"], (again[2]["weight"] + 36) % 72)
