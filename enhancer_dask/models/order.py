"""Which graphs of a folder of shards a loader worker reads, and in which order: a pure function of few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some graphs of one shard, read together."""

    shard: str
    graphs: Ints
    """Positions in the shard."""


def shards_in_order(index: pd.DataFrame, *, shuffle: bool, seed: int, epoch: int) -> list[Piece]:
    """All shards with the graphs of an index, in the order of an epoch.

    Parameters
    ----------
    index : DataFrame
        Rows of the graphs wanted: columns shard, graph.
    shuffle : bool
        Permute the shards by ``seed`` and ``epoch``; else as they stand.
    """
    pieces = [
        Piece(str(shard), rows["graph"].to_numpy(dtype=np.int64)) for shard, rows in index.groupby("shard", sort=False)
    ]
    if not shuffle:
        return pieces
    return [pieces[i] for i in np.random.default_rng([seed, epoch]).permutation(len(pieces))]


def pieces_of_rank(pieces: list[Piece], rank: int, world_size: int, *, even: bool) -> list[Piece]:
    """What one rank reads of an epoch.

    With ``even`` every rank gets the same number of graphs: the graphs in their order are cut into runs of equal
    length, the ``n % world_size`` last ones are left out. Else every rank gets whole shards, one after the other.

    Examples
    --------
    >>> both = [Piece("a", np.arange(3)), Piece("b", np.arange(2))]
    >>> [[(p.shard, p.graphs.tolist()) for p in pieces_of_rank(both, rank, 2, even=True)] for rank in (0, 1)]
    [[('a', [0, 1])], [('a', [2]), ('b', [0])]]
    """
    if not even:
        return pieces[rank::world_size]
    n_each = sum(len(piece.graphs) for piece in pieces) // world_size
    return _cut(pieces, rank * n_each, (rank + 1) * n_each)


def pieces_of_worker(pieces: list[Piece], worker: int, n_workers: int, *, even: bool) -> list[Piece]:
    """What one of the loader workers of a rank reads.

    With ``even`` by number of graphs, so that the workers of all ranks make the same number of batches.
    """
    if not even:
        return pieces[worker::n_workers]
    n = sum(len(piece.graphs) for piece in pieces)
    return _cut(pieces, worker * n // n_workers, (worker + 1) * n // n_workers)


def n_graphs(pieces: list[Piece]) -> int:
    """Graphs of some pieces."""
    return sum(len(piece.graphs) for piece in pieces)


def _cut(pieces: list[Piece], start: int, stop: int) -> list[Piece]:
    """The graphs at positions ``start:stop`` of all."""
    found, begin = [], 0
    for piece in pieces:
        graphs = piece.graphs[max(0, start - begin) : max(0, stop - begin)]
        if len(graphs):
            found.append(Piece(piece.shard, graphs))
        begin += len(piece.graphs)
    return found
