"""Batches of graphs for training: from memory or streamed from the shards, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.models.crossing import rows_of
from enhancer_dask.models.data import shard_loader, to_data
from enhancer_dask.models.order import Piece, pieces_of_rank, shards_in_order
from enhancer_dask.shard_store import ShardStore

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Batch, Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

IN_MEMORY_BYTES = 1_000_000_000
LARGE_BATCH_BYTES = 4_000_000  # of graphs that are judged together: their activations take many times that
BUFFER = 64  # graphs that the shuffling holds, as of the loader
Item = TypeVar("Item")


class Batches(Protocol):
    """Batches of an epoch, again and again."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Data]: ...


class MemoryBatches:
    """Batches of graphs that are kept in memory.

    Parameters
    ----------
    graphs : sequence of Data
        In the order of ``index``.
    index : DataFrame
        Their rows.
    batch_size : int
    shuffle : bool
    seed : int
        With the epoch it fixes the order, which is that of the stream: see :class:`.ShardDataset`.
    rank, world_size : int
        Which share of the graphs, of how many.
    even : bool
        All shares are equal, the graphs left over change with the epoch. Without it every graph is in one share.

    Notes
    -----
    Batches that come again are joined once: that of a single graph, and all if nothing is shuffled.
    """

    def __init__(
        self,
        graphs: Sequence[Data],
        index: pd.DataFrame,
        *,
        batch_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        self.graphs, self.index, self.batch_size = graphs, index, batch_size
        self.shuffle, self.seed, self.rank, self.world_size, self.even = shuffle, seed, rank, world_size, even
        keys = zip(index["shard"].astype(str), index["graph"], strict=True)
        self._number = {(shard, int(graph)): i for i, (shard, graph) in enumerate(keys)}
        self._joined: dict[tuple[int, ...], Data] = {}
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.even:
            n_graphs = len(self.graphs) // self.world_size
        else:
            n_graphs = sum(len(piece.graphs) for piece in self._pieces())
        return -(-n_graphs // self.batch_size)

    def __iter__(self) -> Iterator[Data]:
        order, again = self.order(), self.batch_size == 1 or not self.shuffle
        for start in range(0, len(order), self.batch_size):
            yield self._batch(tuple(order[start : start + self.batch_size]), keep=again)

    def order(self) -> list[int]:
        """Graphs of this rank in this epoch."""
        numbers = (self._number[piece.shard, int(graph)] for piece in self._pieces() for graph in piece.graphs)
        if not self.shuffle:
            return list(numbers)
        return list(in_buffer(numbers, BUFFER, np.random.default_rng([self.seed, self.epoch, self.rank, 0])))

    def _pieces(self) -> list[Piece]:
        pieces = shards_in_order(self.index, shuffle=self.shuffle, seed=self.seed, epoch=self.epoch)
        return pieces_of_rank(pieces, self.rank, self.world_size, even=self.even)

    def _batch(self, numbers: tuple[int, ...], *, keep: bool) -> Data:
        if numbers in self._joined:
            return self._joined[numbers]
        batch = join([self.graphs[i] for i in numbers])
        if keep:
            self._joined[numbers] = batch
        return batch


def in_buffer(items: Iterator[Item], buffer: int, rng: np.random.Generator) -> Iterator[Item]:
    """The order in which :func:`.data.shuffled` gives the graphs of a stream."""
    held: list[Item] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        place = int(rng.integers(buffer))
        yield held[place]
        held[place] = item
    for place in rng.permutation(len(held)):
        yield held[place]


def join(graphs: Sequence[Data]) -> Batch:
    """One batch of some graphs, as ``Batch.from_data_list`` makes it, in a tenth of the time.

    It cannot be taken apart again.
    """
    first, sizes = graphs[0], torch.tensor([int(graph.num_nodes) for graph in graphs])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    batch = Batch(_base_cls=type(first))
    for name in first.keys():  # noqa: SIM118, of PyG
        if name == "num_nodes":
            continue
        values: list[Any] = [graph[name] for graph in graphs]
        if name == "edge_index":
            values = [edges + start for edges, start in zip(values, ptr.tolist(), strict=False)]
        if isinstance(values[0], Tensor):
            batch[name] = torch.cat(values, dim=first.__cat_dim__(name, values[0]))
        else:
            numbers = isinstance(values[0], int | float)
            batch[name] = torch.tensor(values) if numbers else values
    batch.num_nodes = int(ptr[-1])
    batch.batch, batch.ptr = torch.arange(len(graphs)).repeat_interleave(sizes), ptr
    batch._num_graphs = len(graphs)
    return batch


def read_graphs(store: ShardStore, index: pd.DataFrame) -> list[Data]:
    """The graphs of some rows of the index as tensors, in the order of the rows."""
    found: dict[tuple[str, int], Data] = {}
    for shard, rows in index.groupby("shard", sort=False):
        graphs = store.read_shard(str(shard))
        found |= {(str(shard), int(i)): to_data(graphs[int(i)]) for i in rows["graph"]}
    return [found[str(shard), int(i)] for shard, i in zip(index["shard"], index["graph"], strict=True)]


class GraphSet:
    """The graphs of a condition; in memory they are read once, when they are first asked for.

    Parameters
    ----------
    store : ShardStore
    condition : str
        Over the columns of its index.
    in_memory : bool, optional
        By default if they take less than 1 GB.
    """

    def __init__(self, store: ShardStore, condition: str, *, in_memory: bool | None = None) -> None:
        self.store, self.condition = store, condition
        self.index = rows_of(store, condition)
        small = int(self.index["nbytes"].sum()) < IN_MEMORY_BYTES
        self.in_memory = small if in_memory is None else in_memory
        self._graphs: list[Data] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the shards that are kept in memory."""
        return int(self.index["nbytes"].sum()) if self.in_memory else 0

    def nothing_counts(self) -> str:
        """What is wrong where no bin counts."""
        return f"{self.store.path}: loss_mask leaves out all bins of the graphs with {self.condition!r}"

    def not_finite(self) -> str | None:
        """Where the first NaN or infinity stands among the variables of nodes and edges; None if there is none."""
        for shard, rows in self.index.groupby("shard", sort=False):
            graphs = self.store.read_shard(str(shard))
            for graph in (graphs[int(i)] for i in rows["graph"]):
                for name, values in {**graph.nodes, **graph.edges}.items():
                    if values.dtype.kind == "f" and not np.isfinite(values).all():
                        return f"{self.store.path}: graph {graph.name!r} has NaN or infinity in {name!r}"
        return None

    def large_batch(self, least: int) -> int:
        """Graphs of a batch that is only looked at, without gradients."""
        return max(least, min(len(self), LARGE_BATCH_BYTES * len(self) // max(1, int(self.index["nbytes"].sum()))))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
        num_workers: int = 0,
    ) -> Batches:
        """Batches of all graphs, or of the share of a rank; where one batch holds all, in the order of the index.

        Raises
        ------
        InputError
                If there are fewer graphs than ranks that want equal shares.
        """
        if even and len(self) < world_size:
            raise InputError(f"{self.store.path}: {len(self)} graphs satisfy {self.condition!r}, want {world_size}")
        shuffle = shuffle and not (batch_size >= len(self) and world_size == 1 and num_workers < 2)
        share: dict[str, Any] = {
            "batch_size": batch_size, "shuffle": shuffle, "seed": seed, "rank": rank, "world_size": world_size,
            "even": even,
        }  # fmt: skip
        if not self.in_memory:
            own = torch.Generator()  # else PyTorch's loader draws from the numbers of dropout
            return shard_loader(
                self.store.path, where=self.condition, buffer=BUFFER, num_workers=num_workers, generator=own, **share
            )
        if self._graphs is None:
            self._graphs = read_graphs(self.store, self.index)
        return MemoryBatches(self._graphs, self.index, **share)
