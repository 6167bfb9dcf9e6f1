"""The tasks of graph shards: weights of all bins once, then one shard each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError, NoBalanceError
from enhancer_dask.graphs.bins import bins_of
from enhancer_dask.graphs.contact_matrix import as_matrix
from enhancer_dask.graphs.edges import contact_graph, edge_weights
from enhancer_dask.graphs.expression import Expression, cell_expression
from enhancer_dask.graphs.gene_graph import between_genes
from enhancer_dask.graphs.genes import Genes, read_genes
from enhancer_dask.graphs.nodes import Arrays, feature_names, node_arrays
from enhancer_dask.graphs.normalise import balance
from enhancer_dask.graphs.recipe import CARRIED, Recipe, contacts_of
from enhancer_dask.graphs.windows import Window
from enhancer_dask.io.pixels import chromosome_codes
from enhancer_dask.shard_store import Graph, sorted_edges, write_shard

Labels = dict[str, str | int | float]
_ONE_CHROMOSOME = Lock()  # threads of a worker wait for its edges, instead of making them, too


@dataclass(frozen=True, slots=True)
class Unit:
    """One graph to make."""

    name: str
    chromosomes: tuple[str, ...]
    """Whose bins are the nodes."""
    labels: Labels
    """Columns of the index."""
    window: Window | None = None
    """Bins of the one chromosome; None for all."""
    cell: str | None = None


def weights_chunk(recipe: Recipe) -> pd.DataFrame:
    """Balance the contacts of the whole genome on a worker: columns weight, dropped (the reason) and message."""
    store = contacts_of(recipe.store, recipe.fingerprint)
    contacts = store.contacts(recipe.resolution)
    codes = chromosome_codes(contacts.attrs["bins"])
    found = balance(as_matrix(contacts), recipe.balance, chromosomes=codes)  # type: ignore[arg-type]  # checked
    if np.isnan(found.weights).all():
        raise InputError(
            f"{recipe.store}: balance {recipe.balance!r} leaves out all bins, its filters want more contacts at "
            f"{recipe.resolution} bp; use larger bins, or balance 'none'"
        )
    reason = np.full(len(codes), "", dtype=object)
    for name, bins in found.dropped.items():
        reason[bins] = name
    return pd.DataFrame({"weight": found.weights, "dropped": reason, "message": found.doubt})


def read_weights(recipe: Recipe, part: Path | None) -> NDArray[np.float64] | None:
    """Multiplicative weights, shape (bins,), NaN where a bin is left out; None for ones."""
    if part is not None:
        return np.asarray(pd.read_parquet(part, columns=["weight"])["weight"], dtype=np.float64)
    if recipe.balance.startswith(CARRIED):
        vectors = contacts_of(recipe.store, recipe.fingerprint).vectors(recipe.resolution)
        return vectors[recipe.balance.removeprefix(CARRIED)]
    return None


def cell_weights(recipe: Recipe, cell: str) -> NDArray[np.float64]:
    """Weights from the contacts of one cell; all NaN, so that it has no edges, where it has too few to be balanced."""
    contacts = contacts_of(recipe.store, recipe.fingerprint).contacts(recipe.resolution, cell=cell)
    codes = chromosome_codes(contacts.attrs["bins"])
    try:
        return balance(as_matrix(contacts), recipe.balance, chromosomes=codes).weights  # type: ignore[arg-type]  # checked
    except NoBalanceError:
        return np.full(len(codes), np.nan)


def shard_chunk(recipe: Recipe, units: Sequence[Unit], shard: Path, weights: Path | None) -> pd.DataFrame:
    """Make and write one shard on a worker; its rows of the index are the part."""
    return write_shard(shard, list(_graphs(recipe, units, weights)))


def _graphs(recipe: Recipe, units: Sequence[Unit], weights: Path | None) -> Iterator[Graph]:
    bins = contacts_of(recipe.store, recipe.fingerprint).bins(recipe.resolution)
    ids_of = [_ids(unit, bins) for unit in units]
    every = np.unique(np.concatenate(ids_of))
    features, variables = node_arrays(recipe, bins, every)
    genes = (
        read_genes(recipe.genes, bins, values=recipe.gene_values)
        if recipe.nodes == "genes" and recipe.genes is not None
        else None
    )
    of_bins = None if recipe.balances_cells else read_weights(recipe, weights)
    expression: Expression = {}
    if recipe.expression is not None:
        expression = cell_expression(recipe.expression, [str(unit.cell) for unit in units])
    for unit, ids in zip(units, ids_of, strict=True):
        if recipe.balances_cells:
            of_bins = cell_weights(recipe, str(unit.cell))
        if unit.window is None:
            edges = _edges(recipe, unit.chromosomes, unit.cell, of_bins)
        else:
            with _ONE_CHROMOSOME:
                edges = _shared_edges(recipe, unit.chromosomes, weights)
        edges, loss_mask = _in_window(edges, unit.window, len(ids))
        own: dict[str, NDArray[Any]] = {}
        if genes is not None:
            edges, ids, loss_mask, own = _of_genes(genes, edges, ids, loss_mask)
        at = np.searchsorted(every, ids)
        valid = np.ones(len(ids), dtype=bool) if of_bins is None else ~np.isnan(of_bins[ids])
        nodes = {name: values[at] for name, values in variables.items()} | own
        yield _graph(
            recipe, unit, edges, {name: values[at] for name, values in features.items()},
            {**nodes, "valid": valid, "loss_mask": loss_mask},
            {"expression": expression[str(unit.cell)]} if expression else {},
        )  # fmt: skip


def _ids(unit: Unit, bins: pd.DataFrame) -> NDArray[np.int64]:
    ids = bins_of(bins, unit.chromosomes)
    return ids if unit.window is None else ids[unit.window.start : unit.window.stop]


def _edges(
    recipe: Recipe, chromosomes: tuple[str, ...], cell: str | None, weights: NDArray[np.float64] | None
) -> pd.DataFrame:
    store = contacts_of(recipe.store, recipe.fingerprint)
    contacts = store.contacts(recipe.resolution, chromosomes, inter=recipe.inter, cell=cell)
    if cell is not None and weights is not None and np.isnan(weights).all():  # too sparse to be balanced
        bins = contacts.attrs["bins"]
        contacts, weights = contacts.iloc[:0], None
        contacts.attrs["bins"] = bins
    return contact_graph(
        contacts, weights, recipe.rule, recipe.min_distance, chromosomes, recipe.inter, extra=recipe.extra
    )


@lru_cache(maxsize=1)
def _shared_edges(recipe: Recipe, chromosomes: tuple[str, ...], weights: Path | None) -> pd.DataFrame:
    """Edges of a chromosome, kept for its next windows: making them takes longer than cutting all shards from them."""
    return _edges(recipe, chromosomes, None, read_weights(recipe, weights))


def _in_window(edges: pd.DataFrame, window: Window | None, n_bins: int) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Edges within a window, and the bins that a loss counts; all for None."""
    if window is None:
        return edges, np.ones(n_bins, dtype=bool)
    start, stop, loss_start, loss_stop = window
    edges = edges.iloc[slice(*np.searchsorted(edges["node1"], [start, stop]))]
    edges = edges[edges["node2"] < stop]
    loss_mask = np.zeros(n_bins, dtype=bool)
    loss_mask[loss_start - start : loss_stop - start] = True
    return edges.assign(node1=edges["node1"] - start, node2=edges["node2"] - start), loss_mask


def _of_genes(
    genes: Genes, edges: pd.DataFrame, ids: NDArray[np.int64], loss_mask: NDArray[np.bool_]
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.bool_], dict[str, NDArray[Any]]]:
    """A graph of bins as one of the genes that start there: edges, bin ids, loss mask, and what is the genes' own."""
    place_of = pd.Index(ids).get_indexer(pd.Index(genes.bin))
    mine = np.flatnonzero(place_of >= 0)
    mine = mine[np.argsort(place_of[mine], kind="stable")]
    place = place_of[mine]
    own: dict[str, NDArray[Any]] = {"gene": mine.astype(np.int32)}
    if genes.columns:
        values = genes.values[mine].astype(np.float32)
        own["y"] = values[:, 0] if len(genes.columns) == 1 else values
    return between_genes(edges, place, len(ids)), ids[place], loss_mask[place], own


def _graph(recipe: Recipe, unit: Unit, edges: pd.DataFrame, features: Arrays, nodes: Arrays, values: Arrays) -> Graph:
    n_nodes = len(nodes["bin"])
    node1, node2 = edges["node1"].to_numpy(), edges["node2"].to_numpy()
    kinds = edge_weights(edges, recipe.edge_weights)
    source, target, both = sorted_edges(
        np.concatenate([node1, node2]), np.concatenate([node2, node1]),
        {name: np.concatenate([weight, weight]) for name, weight in kinds.items()},
    )  # fmt: skip
    columns = {**_of_edges(edges, n_nodes, "count" if recipe.cells else "oe"), **features}
    names = feature_names(recipe)
    x = {"x": np.stack([columns[name] for name in names], axis=1).astype(np.float32)} if names else {}
    return Graph(unit.name, n_nodes, source, target, {**nodes, **x}, both, values, unit.labels)


def _of_edges(edges: pd.DataFrame, n_nodes: int, weight: str) -> dict[str, Any]:
    """Neighbours of each node, and the sum of a weight of its edges."""
    ends = np.concatenate([edges["node1"], edges["node2"]])
    strength = np.tile(edges[weight].to_numpy(np.float64), 2)
    return {
        "degree": np.bincount(ends, minlength=n_nodes),
        "strength": np.bincount(ends, weights=strength, minlength=n_nodes),
    }
