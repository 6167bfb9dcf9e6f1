"""The stream of graphs: every graph once whoever shares the work, an order fixed by few numbers, and nothing lost."""

import pickle
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph, finish_shards, sorted_edges, write_shard

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch_geometric.utils import to_scipy_sparse_matrix  # noqa: E402

from enhancer_dask.models import data as loading  # noqa: E402
from enhancer_dask.models.data import ShardDataset, one_hot, shard_loader, shuffled, to_data  # noqa: E402

SIZES = (5, 1, 4, 3, 6, 2)  # graphs of each shard
EVERY = list(range(sum(SIZES)))


def make_graph(number, rng):
    n_nodes, n_edges = int(rng.integers(2, 9)), int(rng.integers(0, 15))
    pairs = np.unique(rng.integers(0, n_nodes, (n_edges, 2)), axis=0)
    edges = {"oe": rng.random(len(pairs)).astype(np.float32), "count": rng.integers(1, 9, len(pairs))}
    source, target, edges = sorted_edges(*pairs.T, edges)
    nodes = {
        "x": rng.random((n_nodes, 3)).astype(np.float32),
        "y": rng.random(n_nodes).astype(np.float32),
        "loss_mask": rng.random(n_nodes) < 0.5,
        "sequence": rng.integers(0, 5, (n_nodes, 10)).astype(np.uint8),
    }
    labels = {"cell": f"cell{number}", "stage": number % 3, "split": "test" if number % 4 == 0 else "train"}
    values = {"expression": rng.random(2).astype(np.float32), "number": np.int64(number)}
    return Graph(f"g{number}", n_nodes, source, target, nodes, edges, values, labels)


@pytest.fixture(scope="module")
def graphs():
    rng = np.random.default_rng(8)
    return [make_graph(number, rng) for number in range(sum(SIZES))]


@pytest.fixture(scope="module")
def shards(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs") / "shards"
    folder.mkdir()
    ends = np.cumsum(SIZES)
    rows = [
        write_shard(folder / f"shard-{i:08d}.zarr", graphs[end - size : end])
        for i, (size, end) in enumerate(zip(SIZES, ends, strict=True))
    ]
    finish_shards(folder, pd.concat(rows, ignore_index=True), {})
    return folder


def numbers(dataset):
    return [int(data.number) for data in dataset]


def in_batches(loader):
    return [batch.number.tolist() for batch in loader]


def test_to_data__has_the_adjacency_and_every_variable(shards, graphs):
    found = list(ShardDataset(shards, shuffle=False))
    for graph, data in zip(graphs, found, strict=True):
        for column, name in enumerate(data.edge_attr_names):
            shape = (graph.n_nodes, graph.n_nodes)
            want = sparse.coo_array((graph.edges[name], (graph.source, graph.target)), shape=shape).toarray()
            have = to_scipy_sparse_matrix(data.edge_index, data.edge_attr[:, column], data.num_nodes).toarray()
            np.testing.assert_array_equal(have, want.astype(np.float32))
        assert data.edge_attr_names == ("count", "oe")
        assert data.num_nodes == graph.n_nodes
        for name, values in graph.nodes.items():
            np.testing.assert_array_equal(data[name].numpy(), values, strict=True)
        np.testing.assert_array_equal(data.expression.numpy(), graph.values["expression"][None])
        assert (data.name, data.cell, data.stage) == (graph.name, graph.labels["cell"], graph.labels["stage"])


def test_to_data__names_that_are_taken(graphs):
    graph = graphs[0]
    for name in ("x", "batch"):
        with pytest.raises(InputError, match=f"graph 'g': '{name}' names two"):
            to_data(Graph("g", graph.n_nodes, graph.source, graph.target, graph.nodes, values={name: np.zeros(1)}))


def test_one_hot__leaves_n_empty():
    codes = torch.tensor([[0, 3, 4]], dtype=torch.uint8)
    want = [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    assert one_hot(codes).tolist() == want


def test_batch__stacks_values_and_joins_nodes(shards, graphs):
    batch = next(iter(shard_loader(shards, batch_size=5, shuffle=False)))
    first = graphs[:5]
    np.testing.assert_array_equal(batch.expression.numpy(), np.stack([g.values["expression"] for g in first]))
    np.testing.assert_array_equal(batch.x.numpy(), np.concatenate([g.nodes["x"] for g in first]))
    np.testing.assert_array_equal(batch.ptr.numpy(), np.cumsum([0, *(g.n_nodes for g in first)]))
    assert batch.edge_index.shape[1] == sum(len(g.source) for g in first)
    assert batch.cell == [g.labels["cell"] for g in first]
    assert batch.stage.tolist() == [g.labels["stage"] for g in first]


def test_batch__names_that_pyg_takes_for_its_own(tmp_path):
    none, values = np.zeros(0, np.int32), np.full((2, 3), 2.0, np.float32)
    nodes = {"atac_batch2": values, "index_of_growth": values, "face": values[:, 0], "y": values[:, 0]}
    graphs = [Graph(name, 2, none, none, nodes, values={"batch_index": np.int64(7)}) for name in "ab"]
    finish_shards(tmp_path, write_shard(tmp_path / "shard-00000000.zarr", graphs), {})
    (batch,) = shard_loader(tmp_path, batch_size=2, shuffle=False)
    for name, want in nodes.items():
        np.testing.assert_array_equal(batch[name].numpy(), np.concatenate([want, want]))
    assert batch.batch_index.tolist() == [7, 7]
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.atac_batch2, batch.atac_batch2)


@pytest.mark.parametrize(("buffer", "prefetch"), [(1, 1), (4, 0), (1000, 2)])
def test_order__every_graph_once_and_fixed_by_seed_and_epoch(shards, buffer, prefetch):
    def epoch(seed, number):
        dataset = ShardDataset(shards, seed=seed, buffer=buffer, prefetch=prefetch)
        dataset.set_epoch(number)
        return numbers(dataset)

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    assert all(sorted(order) == EVERY for order in orders)
    assert epoch(0, 1) == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert numbers(ShardDataset(shards, shuffle=False, prefetch=prefetch)) == EVERY


def test_order__is_shuffled_across_shards(shards):
    order = numbers(ShardDataset(shards, buffer=100))
    assert np.abs(np.diff(order)).max() > max(SIZES)


def test_workers__share_all_graphs_and_follow_the_epoch(shards):
    loader = shard_loader(shards, batch_size=4, num_workers=2, buffer=3)
    assert loader.multiprocessing_context.get_start_method() == "forkserver"  # forks may hang
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(in_batches(loader))
        assert len(epochs[-1]) == len(loader)
        assert sorted(chain(*epochs[-1])) == EVERY
    assert epochs[0] == epochs[2] != epochs[1]


def of_pieces(pieces):
    """Graphs by number, without reading them."""
    starts = np.cumsum([0, *SIZES])
    return [int(starts[int(piece.shard[6:14])] + graph) for piece in pieces for graph in piece.graphs]


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks__are_disjoint_and_cover_all(shards, world_size, n_workers):
    sets = [ShardDataset(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        seen = []
        for dataset in sets:
            dataset.set_epoch(epoch)
            mine = [of_pieces(dataset.of_worker(worker, n_workers)) for worker in range(n_workers)]
            assert len(dataset) == sum(map(len, mine))
            seen += list(chain(*mine))
        assert sorted(seen) == EVERY


def test_ranks__read_what_is_theirs(shards):
    for even in (False, True):
        sets = [ShardDataset(shards, rank=rank, world_size=2, even=even) for rank in range(2)]
        for dataset in sets:
            assert sorted(numbers(dataset)) == sorted(of_pieces(dataset.of_worker(0, 1)))


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("world_size", [2, 4, 5])
def test_ranks__even_means_as_many_graphs_and_batches(shards, world_size, n_workers):
    sets = [ShardDataset(shards, rank=rank, world_size=world_size, even=True) for rank in range(world_size)]
    n_each, dropped = len(EVERY) // world_size, set()
    for epoch in range(4):
        for dataset in sets:
            dataset.set_epoch(epoch)
        seen = [[of_pieces(dataset.of_worker(w, n_workers)) for w in range(n_workers)] for dataset in sets]
        sizes = [[len(share) for share in shares] for shares in seen]
        assert all(one == sizes[0] for one in sizes)
        assert sum(sizes[0]) == len(sets[0]) == n_each
        graphs = set(chain.from_iterable(chain.from_iterable(seen)))
        assert len(graphs) == n_each * world_size
        dropped.add(frozenset(set(EVERY) - graphs))
    assert len(dropped) > 1 or not len(EVERY) % world_size


def test_chosen__by_split_and_condition(shards):
    test = [n for n in EVERY if n % 4 == 0]
    assert sorted(numbers(ShardDataset(shards, split="test"))) == test
    assert sorted(numbers(ShardDataset(shards, where="split == 'test' and stage > 0"))) == [n for n in test if n % 3]
    with pytest.raises(InputError, match="no graph is in split 'tset'"):
        ShardDataset(shards, split="tset")
    with pytest.raises(InputError, match="'colour == 1' is no condition"):
        ShardDataset(shards, where="colour == 1")
    with pytest.raises(InputError, match="rank is 2 of 2; want 0 to 1"):
        ShardDataset(shards, rank=2, world_size=2)
    with pytest.raises(InputError, match="give rank and world_size both"):
        ShardDataset(shards, rank=1)


def test_buffer__holds_no_more_than_it_should(graphs):
    taken = 0

    def counted():
        nonlocal taken
        for graph in graphs:
            taken += 1
            yield graph

    for given, graph in enumerate(shuffled(counted(), 4, np.random.default_rng(0)), start=1):
        assert taken - given <= 4
        assert graph.nodes["x"].base is None  # no view that keeps a shard alive


def test_prefetch__reads_no_further_ahead(shards, monkeypatch):
    read = []
    whole = loading.ShardStore.read_shard
    monkeypatch.setattr(loading.ShardStore, "read_shard", lambda self, shard: read.append(shard) or whole(self, shard))
    stream = iter(ShardDataset(shards, shuffle=False, prefetch=1))
    next(stream)
    stream.close()
    assert len(read) <= 2
