"""Graph shards: write, open, validate, read. The schema is documented in stores/README.md.

A folder of shards holds ``shards.json`` (schema, parameters, names and shapes of the variables), ``index.parquet``
(one row per graph) and one Zarr group per shard, in which the graphs stand one after the other. A reader takes a whole
shard at a time: a few large reads, then slices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from enhancer_dask._version import __version__
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.files import staged
from enhancer_dask.io.tables import read_table, write_parquet
from enhancer_dask.stores import check_schema

SCHEMA = "enhancer-dask graph shards"
SCHEMA_VERSION = 1
DESCRIPTION, INDEX = "shards.json", "index.parquet"
INDEX_COLUMNS = ("shard", "graph", "name", "n_nodes", "n_edges", "nbytes")
ELEMENTS_PER_CHUNK = 4_000_000
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph with everything known about its nodes and edges. N nodes, E directed edges."""

    name: str
    """Unique within a folder of shards."""
    n_nodes: int
    source: NDArray[np.int32]
    """Shape (E,), node numbers from 0."""
    target: NDArray[np.int32]
    """Shape (E,), ascending, and ``source`` ascends within a target: CSR without sorting. An undirected contact stands
    here in both directions."""
    nodes: Mapping[str, Array] = field(default_factory=dict)
    """Features, targets and masks per node, first axis N; ``x`` holds the features, ``y`` the targets, ``loss_mask``
    the nodes that count, ``bin`` the bin ids."""
    edges: Mapping[str, Array] = field(default_factory=dict)
    """Weights per edge, first axis E, in the order of ``source`` and ``target``; for instance ``count`` and ``oe``."""
    values: Mapping[str, Array] = field(default_factory=dict)
    """Of the graph as a whole, any shape; for instance ``expression`` of the genes of a cell."""
    labels: Mapping[str, str | int | float] = field(default_factory=dict)
    """Become columns of the index; for instance chrom, start, end, cell, split."""


def sorted_edges(
    source: Array, target: Array, edges: Mapping[str, Array] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], dict[str, Array]]:
    """Edges by target, then source, as a :class:`Graph` wants them."""
    source, target = (np.asarray(ends, dtype=np.int32) for ends in (source, target))
    order = np.argsort(target, kind="stable")  # enough for both directions of contacts that are sorted
    if not _is_sorted(source[order], target[order]):
        order = np.lexsort((source, target))
    return source[order], target[order], {name: np.asarray(values)[order] for name, values in (edges or {}).items()}


def _is_sorted(source: NDArray[np.int32], target: NDArray[np.int32]) -> bool:
    back = target[1:] < target[:-1]
    back |= (target[1:] == target[:-1]) & (source[1:] < source[:-1])
    return not back.any()


def write_shard(path: Path, graphs: Sequence[Graph]) -> pd.DataFrame:
    """Write graphs as one shard, whole or not at all; the same graphs give the same bytes.

    Parameters
    ----------
    path : path
        Folder ``shard-00000000.zarr`` or the like; replaced if it exists.
    graphs : sequence of Graph
        At least one; all with the same variables.

    Returns
    -------
    DataFrame
        Their rows of the index: shard, graph (position in the shard), name, n_nodes, n_edges, nbytes, and the labels.

    Raises
    ------
    InputError
        If the graphs do not have the same variables, or edges are not sorted or point outside.
    OSError
        If writing fails.
    """
    _check(graphs)
    with staged(path, make_parent=False) as work:
        group = zarr.create_group(str(work), attributes={"schema": SCHEMA, "schema_version": SCHEMA_VERSION})
        _put(group, "node_offset", _offsets([g.n_nodes for g in graphs]))
        _put(group, "edge_offset", _offsets([len(g.source) for g in graphs]))
        _put(group, "source", _joined([g.source for g in graphs]).astype(np.int32, copy=False))
        _put(group, "target", _joined([g.target for g in graphs]).astype(np.int32, copy=False))
        for kind in ("nodes", "edges"):
            for name in sorted(getattr(graphs[0], kind)):
                _put(group, f"{kind}/{name}", _joined([getattr(g, kind)[name] for g in graphs]))
        for name in sorted(graphs[0].values):
            _put(group, f"values/{name}", np.stack([np.asarray(g.values[name]) for g in graphs]))
    return _index_rows(path.name, graphs)


def _joined(parts: Sequence[Array]) -> Array:
    """One after the other; a single one, which may be large, as it is."""
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def _put(group: zarr.Group, name: str, values: Array) -> None:
    rows = max(1, min(len(values), ELEMENTS_PER_CHUNK // max(1, int(np.prod(values.shape[1:])))))
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(rows, *(max(1, n) for n in values.shape[1:])),
        dtype=values.dtype,
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    if values.size:
        array[...] = values


def _offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _check(graphs: Sequence[Graph]) -> None:
    if not graphs:
        raise InputError("a shard needs at least one graph")
    first = graphs[0]
    for graph in graphs:
        for kind in ("nodes", "edges", "values"):
            found, want = sorted(getattr(graph, kind)), sorted(getattr(first, kind))
            if found != want:
                raise InputError(f"graph {graph.name!r}: {kind} {found}, want {want} as in graph {first.name!r}")
        for kind, size in (("nodes", graph.n_nodes), ("edges", len(graph.source))):
            for name, values in getattr(graph, kind).items():
                if len(values) != size:
                    raise InputError(f"graph {graph.name!r}: {len(values)} values of {kind} {name!r}, want {size}")
        _check_edges(graph)


def _check_edges(graph: Graph) -> None:
    ends = [end for end in (graph.source, graph.target) if len(end)]
    if len(graph.source) != len(graph.target) or any(end.min() < 0 or end.max() >= graph.n_nodes for end in ends):
        raise InputError(f"graph {graph.name!r}: edges name nodes that are not there ({graph.n_nodes} nodes)")
    if not _is_sorted(graph.source, graph.target):
        raise InputError(f"graph {graph.name!r}: edges are not sorted by target and source")


def _index_rows(shard: str, graphs: Sequence[Graph]) -> pd.DataFrame:
    rows = [
        {
            "shard": shard, "graph": i, "name": g.name, "n_nodes": g.n_nodes, "n_edges": len(g.source),
            "nbytes": _nbytes(g), **g.labels,
        }
        for i, g in enumerate(graphs)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _nbytes(graph: Graph) -> int:
    arrays = [graph.source, graph.target, *graph.nodes.values(), *graph.edges.values(), *graph.values.values()]
    return int(sum(np.asarray(a).nbytes for a in arrays))


def finish_shards(folder: Path, index: pd.DataFrame, params: Mapping[str, Any]) -> None:
    """Write index and description into a folder whose shards are all there; the description comes last.

    Parameters
    ----------
    folder : path
    index : DataFrame
        Rows of :func:`write_shard`, in the order of the graphs.
    params : mapping
        Everything the shards were made with, as JSON values.

    Raises
    ------
    InputError
        If two graphs have one name.
    """
    twice = index["name"][index["name"].duplicated()]
    if len(twice):
        raise InputError(f"{folder}: two graphs are named {twice.iloc[0]!r}")
    write_parquet(index, folder / INDEX, make_parent=False)
    description = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "software": __version__,
        "params": dict(params),
        "variables": _variables(zarr.open_group(str(folder / index["shard"].iloc[0]), mode="r")),
    }
    with staged(folder / DESCRIPTION, make_parent=False) as work:
        work.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def _variables(group: zarr.Group) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("nodes", "edges", "values"):
        members = dict(group[kind].arrays()) if kind in group else {}  # type: ignore[union-attr]
        found[kind] = {n: {"dtype": str(a.dtype), "shape": list(a.shape[1:])} for n, a in sorted(members.items())}
    return found


@dataclass(frozen=True)
class ShardStore:
    """Read-only access to a folder of graph shards."""

    path: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        """Content of ``shards.json``, checked."""
        file = Path(self.path) / DESCRIPTION
        if not file.exists():
            raise StoreError(f"{self.path}: no graph shards here ({DESCRIPTION} is missing)")
        try:
            description = dict(json.loads(file.read_text()))
        except (ValueError, OSError) as err:
            raise StoreError(f"{file}: damaged ({str(err).splitlines()[0]})") from err
        check_schema(description, file, SCHEMA, SCHEMA_VERSION, "make the shards again")
        return description

    @property
    def params(self) -> dict[str, Any]:
        """What the shards were made with."""
        return dict(self.description["params"])

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        """Names, dtypes and shapes (without the first axis) of ``nodes``, ``edges`` and ``values``."""
        return dict(self.description["variables"])

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per graph, in order."""
        _ = self.description
        return read_table(Path(self.path) / INDEX, required=INDEX_COLUMNS)

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in order."""
        return [str(name) for name in self.index["shard"].unique()]

    def read_shard(self, shard: str) -> list[Graph]:
        """All graphs of one shard, in order.

        Raises
        ------
        StoreError
            If the shard is missing or damaged.
        """
        rows = self.index[self.index["shard"] == shard]
        try:
            arrays = _read_arrays(Path(self.path) / shard)
        except Exception as err:  # zarr raises whatever the files make it raise
            raise StoreError(f"{Path(self.path) / shard}: missing or damaged ({type(err).__name__}: {err})") from err
        sizes = np.diff(arrays["node_offset"]).tolist(), np.diff(arrays["edge_offset"]).tolist()
        if sizes != (rows["n_nodes"].tolist(), rows["n_edges"].tolist()):
            raise StoreError(f"{Path(self.path) / shard}: its graphs are not those of {INDEX}")
        return [_cut(arrays, i, row) for i, (_, row) in enumerate(rows.iterrows())]

    def graphs(self) -> Iterator[Graph]:
        """All graphs in order, one shard in memory at a time."""
        for shard in self.shards:
            yield from self.read_shard(shard)


def _read_arrays(path: Path) -> dict[str, Array]:
    group = zarr.open_group(str(path), mode="r")
    found = dict(group.arrays())
    for kind in ("nodes", "edges", "values"):
        if kind in group:
            members = group[kind].arrays()  # type: ignore[union-attr]
            found |= {f"{kind}/{name}": array for name, array in members}
    for name, array in found.items():  # zarr reads zeros where a chunk is missing
        n_files = sum(len(files) for _, _, files in os.walk(path / name / "c"))
        if n_files != array.nchunks:
            raise StoreError(f"{name!r} has {n_files} of {array.nchunks} chunks")
    return {name: np.asarray(array[...]) for name, array in found.items()}


def _cut(arrays: Mapping[str, Array], i: int, row: pd.Series) -> Graph:
    nodes = slice(*arrays["node_offset"][i : i + 2])
    edges = slice(*arrays["edge_offset"][i : i + 2])

    def of(kind: str, where: Any) -> dict[str, Array]:
        return {n.removeprefix(f"{kind}/"): a[where] for n, a in arrays.items() if n.startswith(f"{kind}/")}

    return Graph(
        str(row["name"]),
        int(row["n_nodes"]),
        arrays["source"][edges],
        arrays["target"][edges],
        of("nodes", nodes),
        of("edges", edges),
        of("values", i),
        {str(n): v for n, v in row.items() if n not in INDEX_COLUMNS},
    )
