"""Graph shards -> PyTorch Geometric, streamed: shards shuffled, graphs shuffled within a buffer, memory constant."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.models.crossing import holds
from enhancer_dask.models.order import Piece, n_graphs, pieces_of_rank, pieces_of_worker, shards_in_order
from enhancer_dask.shard_store import Graph, ShardStore

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

Transform = Callable[[Data], Data]
BATCH_NAMES = ("batch", "ptr")  # what PyG puts into a batch itself


class GraphData(Data):
    """A graph whose variables keep their numbers in a batch, whatever they are called.

    PyG takes those with ``batch`` or ``index`` in their names for its own, and adds to them.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """What is added for the graphs before this one in a batch."""
        return self.num_nodes if key == "edge_index" else 0

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """The axis along which graphs are joined."""
        return 1 if key == "edge_index" else 0


def to_data(graph: Graph) -> Data:
    """One graph as PyTorch Geometric has it.

    Returns
    -------
    GraphData
        ``edge_index`` int64, shape (2, E), from source to target, sorted by target, then source; ``edge_attr`` float32,
        shape (E, W), the weights in the order of their names, which ``edge_attr_names`` lists (both only if there are
        weights); the variables of nodes under their own names, for instance ``x``, ``y``, ``loss_mask``; those of the
        graph as a whole with a first axis of 1, so that a batch stacks them; ``name`` and the labels. Sequence codes
        stay uint8, see :func:`one_hot`. All tensors are copies.

    Raises
    ------
    InputError
        If two of these have one name, or one is called ``batch`` or ``ptr``, as PyG calls parts of a batch.
    """
    edge_index = np.stack([graph.source, graph.target], dtype=np.int64)
    data = GraphData(edge_index=torch.from_numpy(edge_index), num_nodes=graph.n_nodes)
    if graph.edges:
        names = sorted(graph.edges)
        weights = np.stack([graph.edges[name] for name in names], axis=1, dtype=np.float32, casting="unsafe")
        _put(data, graph, "edge_attr", torch.from_numpy(weights))
        _put(data, graph, "edge_attr_names", tuple(names))
    for name, values in graph.nodes.items():
        _put(data, graph, name, torch.from_numpy(np.array(values)))
    for name, value in graph.values.items():
        _put(data, graph, name, torch.from_numpy(np.array(value)[None]))
    for name, label in {"name": graph.name, **graph.labels}.items():
        _put(data, graph, name, label)
    return data


def _put(data: Data, graph: Graph, name: str, value: Any) -> None:
    if name in data or name in BATCH_NAMES:
        raise InputError(f"graph {graph.name!r}: {name!r} names two of its variables and labels, or is one of PyG's")
    data[name] = value


def fine_tracks(store: ShardStore) -> list[str]:
    """Names of the variables with several numbers per node, which are tracks in finer bins; sorted."""
    nodes = store.variables["nodes"].items()
    return sorted(
        name for name, one in nodes
        if name not in ("x", "y") and len(one["shape"]) == 1 and np.dtype(one["dtype"]).kind == "f"
    )  # fmt: skip


def one_hot(codes: torch.Tensor) -> torch.Tensor:
    """Sequence codes as channels: A, C, G, T are 0 to 3, any other code is zero in all four.

    Parameters
    ----------
    codes : uint8 tensor, shape (..., L)

    Returns
    -------
    float32 tensor, shape (..., 4, L)
        As convolutions take it.
    """
    return (codes.unsqueeze(-2) == torch.arange(4, dtype=codes.dtype, device=codes.device).unsqueeze(-1)).float()


class ShardDataset(IterableDataset[Data]):
    """Graphs of a folder of shards as a stream.

    Parameters
    ----------
    path : path
        Folder of :func:`enhancer_dask.graph_shards` or of a simulator.
    split : str, optional
        Only graphs with this value in the column ``split`` of the index.
    where : str, optional
        Only graphs for which this holds, an expression of pandas over the columns of the index, for instance
        ``"chrom not in ['chr1', 'chr11']"``.
    shuffle : bool
        Shuffle the shards, and the graphs within the buffer, anew every epoch.
    seed : int
        With the epoch, rank and worker it fixes the order.
    buffer : int
        Graphs that the shuffling holds.
    rank, world_size : int, optional
        Which share of the graphs, of how many; by default those of torch.distributed when the dataset is made, or all
        graphs. See ``even``.
    even : bool
        Give every rank the same number of graphs, and the same batches to the workers of all ranks, as
        DistributedDataParallel wants; fewer than ``world_size`` graphs of an epoch are left out, others in the next.
        Without it a rank reads whole shards, every graph is seen once, and ranks may differ by some shards. By
        default it is on where rank and world size come from torch.distributed.
    prefetch : int
        Shards that a thread reads ahead.
    transform : function, optional
        Applied to every graph.

    Raises
    ------
    InputError
        If no graph is wanted, or an argument makes no sense.
    StoreError
        If the folder is not one of graph shards.

    Notes
    -----
    A loader worker holds at most ``buffer`` graphs and ``1 + prefetch`` shards. Without ``even`` shards are shared
    whole, so more workers than shards do not help. Call :meth:`set_epoch` before each epoch; persistent workers
    hear of it, too.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        where: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        buffer: int = 64,
        rank: int | None = None,
        world_size: int | None = None,
        even: bool | None = None,
        prefetch: int = 1,
        transform: Transform | None = None,
    ) -> None:
        self.store = ShardStore(Path(path))
        self.index = _chosen(self.store, split, where)
        self.shuffle, self.seed, self.buffer = shuffle, seed, buffer
        self.even = (rank is None and _distributed()) if even is None else even
        self.rank, self.world_size = _place(rank, world_size)
        self.prefetch, self.transform = prefetch, transform
        if buffer < 1 or prefetch < 0:
            raise InputError(f"buffer is {buffer}, prefetch {prefetch}; want at least 1 and 0")
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; workers that are running take it with their next pass."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """As :meth:`set_epoch` had it, 0 at first."""
        return int(self._epoch[0])

    def __len__(self) -> int:
        """Graphs of this rank in this epoch, over all its workers."""
        return n_graphs(self._of_rank())

    def of_worker(self, worker: int, n_workers: int) -> list[Piece]:
        """What one of the loader workers of this rank reads in this epoch."""
        return pieces_of_worker(self._of_rank(), worker, n_workers, even=self.even)

    def _of_rank(self) -> list[Piece]:
        pieces = shards_in_order(self.index, shuffle=self.shuffle, seed=self.seed, epoch=self.epoch)
        return pieces_of_rank(pieces, self.rank, self.world_size, even=self.even)

    def __iter__(self) -> Iterator[Data]:
        info = get_worker_info()
        worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
        graphs = self._read(self.of_worker(worker, n_workers))
        if self.shuffle:
            rng = np.random.default_rng([self.seed, self.epoch, self.rank, worker])
            graphs = shuffled(graphs, self.buffer, rng)
        for graph in graphs:
            data = to_data(graph)
            yield data if self.transform is None else self.transform(data)

    def _read(self, pieces: list[Piece]) -> Iterator[Graph]:
        """Graphs of some shards; the next shards are read meanwhile."""
        if self.prefetch == 0:
            for piece in pieces:
                yield from self._graphs(piece)
            return
        with ThreadPoolExecutor(1, "next-shard") as pool:
            ahead: deque[Future[list[Graph]]] = deque()
            todo = deque(pieces)
            try:
                while todo or ahead:
                    while todo and len(ahead) <= self.prefetch:
                        ahead.append(pool.submit(self._graphs, todo.popleft()))
                    yield from ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _graphs(self, piece: Piece) -> list[Graph]:
        graphs = self.store.read_shard(piece.shard)
        return [graphs[i] for i in piece.graphs]


def _chosen(store: ShardStore, split: str | None, where: str | None) -> pd.DataFrame:
    """Rows of the index that are wanted."""
    index = store.index
    if split is not None:
        if "split" not in index:
            raise InputError(f"{store.path}: the index has no column 'split'; columns are: {', '.join(index.columns)}")
        index = index[index["split"] == split]
    if where is not None:
        index = index[holds(store, where).loc[index.index]]
    if index.empty:
        raise InputError(f"{store.path}: no graph is in split {split!r} with where {where!r}")
    return index


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise InputError("give rank and world_size both, or neither")
    if rank is None or world_size is None:
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _distributed() else (0, 1)
    if not 0 <= rank < world_size:
        raise InputError(f"rank is {rank} of {world_size}; want 0 to {world_size - 1}")
    return rank, world_size


def shuffled(graphs: Iterator[Graph], buffer: int, rng: np.random.Generator) -> Iterator[Graph]:
    """Graphs in random order within a buffer: each new one takes the place of one drawn from it."""
    held: list[Graph] = []
    for graph in graphs:
        if len(held) < buffer:
            held.append(_copied(graph))
            continue
        place = int(rng.integers(buffer))
        yield held[place]
        held[place] = _copied(graph)
    for place in rng.permutation(len(held)):
        yield held[place]


def _copied(graph: Graph) -> Graph:
    """The same graph with arrays of its own: slices would keep their whole shard in memory."""

    def own(arrays: Any) -> dict[str, NDArray[Any]]:
        return {name: np.array(values) for name, values in arrays.items()}

    return replace(
        graph, source=graph.source.copy(), target=graph.target.copy(), nodes=own(graph.nodes), edges=own(graph.edges),
        values=own(graph.values),
    )  # fmt: skip


class ShardLoader(DataLoader):  # type: ignore[misc]  # PyG's loader has no types
    """PyG's loader of a :class:`ShardDataset`; knows how many batches its workers make."""

    def __len__(self) -> int:
        """Batches of this epoch: every worker fills batches of its own."""
        dataset, n_workers = self.dataset, max(1, self.num_workers)
        sizes = [n_graphs(dataset.of_worker(worker, n_workers)) for worker in range(n_workers)]
        if self.drop_last:
            return sum(n // self.batch_size for n in sizes)
        return sum(-(-n // self.batch_size) for n in sizes)

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`ShardDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)


def shard_loader(
    path: str | Path,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    split: str | None = None,
    where: str | None = None,
    shuffle: bool = True,
    seed: int = 0,
    buffer: int = 64,
    rank: int | None = None,
    world_size: int | None = None,
    even: bool | None = None,
    prefetch: int = 1,
    transform: Transform | None = None,
    **options: Any,
) -> ShardLoader:
    """Batches of the graphs of a folder of shards.

    Parameters
    ----------
    path, split, where, shuffle, seed, buffer, rank, world_size, even, prefetch, transform
        See :class:`ShardDataset`.
    batch_size : int
        Graphs per batch.
    num_workers : int
        Processes that read and convert; 0: this one. They are started by a fork server and kept between epochs: a
        script that makes them wants ``if __name__ == "__main__":``, and ``transform`` must be importable.
    options
        Passed on to ``torch_geometric.loader.DataLoader``, for instance ``pin_memory`` or ``follow_batch``.

    Returns
    -------
    torch_geometric.loader.DataLoader
        Of ``torch_geometric.data.Batch``. ``len`` is the number of batches of the current epoch; ``set_epoch``
        chooses the next.

    Examples
    --------
    >>> loader = shard_loader("graphs", batch_size=8, num_workers=2, where="chrom != 'chr1'")  # doctest: +SKIP
    >>> for epoch in range(10):  # doctest: +SKIP
    ...     loader.set_epoch(epoch)
    ...     for batch in loader:
    ...         model(batch.x, batch.edge_index, batch.edge_attr)
    """
    dataset = ShardDataset(
        path, split=split, where=where, shuffle=shuffle, seed=seed, buffer=buffer, rank=rank, world_size=world_size,
        even=even, prefetch=prefetch, transform=transform,
    )  # fmt: skip
    if num_workers:  # a fork of a process with threads (Zarr, Numba, hictkpy) may hang for ever
        options = {"multiprocessing_context": "forkserver", "persistent_workers": True} | options
    return ShardLoader(dataset, batch_size=batch_size, num_workers=num_workers, **options)
