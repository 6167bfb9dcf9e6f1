"""Which bins may regulate which genes, and which of them do, where that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.models.activity_by_contact import edge_places
from enhancer_dask.models.metrics import GENE_MASKS
from enhancer_dask.shard_store import Graph

Ints = NDArray[np.int64]
BY_NODE, BY_PLACE = ("graph", "gene", "candidate"), ("gene", "chrom", "tss", "start", "end")
KNOWN = ("is_linked", "effect")  # what a table of elements may know
MIDDLE = 0.5


def genes_of(graph: Graph) -> Ints:
    """Nodes at which a gene starts, of those that the loss counts.

    Raises
    ------
    InputError
        If the graph does not know its genes.
    """
    mask = np.ones(graph.n_nodes, dtype=bool)
    named = [name for name in GENE_MASKS if name in graph.nodes]
    if named:
        mask = graph.nodes[named[0]].astype(bool)
    elif "gene" not in graph.nodes:  # else every node is one
        raise InputError(f"graph {graph.name!r}: does not know its genes; make the shards with --genes")
    return np.flatnonzero(mask & graph.nodes["loss_mask"].astype(bool) if "loss_mask" in graph.nodes else mask)


def linked_candidates(graph: Graph, genes: ArrayLike) -> pd.DataFrame:
    """All bins with an edge to a gene.

    Returns
    -------
    DataFrame
        Columns graph, gene and candidate (nodes), distance (bins, candidate minus gene), at (where in the bin the
        candidate lies, 0 to 1). By gene in the order given, then candidate.
    """
    wanted = np.asarray(genes, dtype=np.int64)
    starts, stops = (np.searchsorted(graph.target, wanted, side=side) for side in ("left", "right"))
    found = [np.unique(graph.source[a:b]) for a, b in zip(starts, stops, strict=True)]
    return _pairs(graph, wanted, [sources[sources != gene] for sources, gene in zip(found, wanted, strict=True)])


def near_candidates(graph: Graph, genes: ArrayLike, distance: int) -> pd.DataFrame:
    """All bins up to so many bins from a gene, but its own; columns of :func:`linked_candidates`."""
    if distance < 1:
        raise InputError(f"distance is {distance} bins, want at least 1")
    wanted = np.asarray(genes, dtype=np.int64)
    near = [np.arange(max(0, g - distance), min(graph.n_nodes, g + distance + 1)) for g in wanted]
    return _pairs(graph, wanted, [bins[bins != gene] for bins, gene in zip(near, wanted, strict=True)])


def _pairs(graph: Graph, genes: Ints, candidates: list[NDArray[Any]]) -> pd.DataFrame:
    gene = np.repeat(genes, [len(found) for found in candidates])
    candidate = np.concatenate([np.zeros(0, dtype=np.int64), *candidates]).astype(np.int64)
    columns = {"gene": gene, "candidate": candidate, "distance": candidate - gene, "at": np.full(len(gene), MIDDLE)}
    return pd.DataFrame({"graph": [graph.name] * len(gene), **columns})


def check_elements(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """A table of elements whose effect on genes was tested.

    Parameters
    ----------
    table : DataFrame
        Columns gene (name), chrom, tss, start, end (bp, 0-based, of the element), or graph, gene, candidate (name of a
        graph, and two of its nodes). Perhaps ``is_linked`` (0 or 1) and ``effect`` (change of expression that it
        brings about; a deletion that lowers expression is a positive one). Others are kept.
    label : str
        Of the table, for errors.

    Raises
    ------
    InputError
        If columns are missing, or hold what they should not.
    """
    want = BY_NODE if "graph" in table.columns else BY_PLACE
    missing = [name for name in want if name not in table.columns]
    if missing:
        raise InputError(
            f"{label}: column {missing[0]!r} is missing; want {', '.join(BY_PLACE)}, or {', '.join(BY_NODE)}; "
            f"columns found: {', '.join(map(str, table.columns)) or 'none'}"
        )
    numbers = {*want, *KNOWN} & set(table.columns) - {"graph", "chrom", *(["gene"] if want is BY_PLACE else [])}
    table = table.copy()
    if want is BY_PLACE:
        table["gene"] = table["gene"].astype(str)  # Entrez's names are numbers
    for name in sorted(numbers):
        values = pd.to_numeric(table[name], errors="coerce")
        if values.isna().any() and name != "effect":
            raise InputError(f"{label}: column {name!r} has {table[name][values.isna()].iloc[0]!r}, want numbers")
        table[name] = values
    if "is_linked" in table and not table["is_linked"].isin([0, 1]).all():
        raise InputError(f"{label}: column 'is_linked' wants 0 and 1")
    return table.reset_index(drop=True)


def with_names_of(index: pd.DataFrame, elements: pd.DataFrame) -> pd.DataFrame:
    """Elements with their chromosomes called as in the index of shards: ``chr1`` for ``1``; others as they are."""
    if "chrom" not in index or "chrom" not in elements or "graph" in elements:
        return elements
    there = [str(name) for name in index["chrom"].unique()]
    names = ChromosomeNames(dict.fromkeys(there, 0), "elements")
    given = elements["chrom"].astype(str)
    called = {name: there[names.code(name)] if names.code(name) >= 0 else name for name in given.unique()}
    return elements.assign(chrom=given.map(called))


def element_candidates(graph: Graph, elements: pd.DataFrame, bin_size: int | None) -> pd.DataFrame:
    """The tested elements whose gene is in the loss mask of a graph.

    Parameters
    ----------
    graph : Graph
        With the labels chrom and start, where the elements are given by place.
    elements : DataFrame
        Of :func:`check_elements`, with the graph's name of its chromosome.
    bin_size : int, optional
        bp of a bin, where the elements are given by place.

    Returns
    -------
    DataFrame
        Columns of :func:`linked_candidates`, then all others of ``elements``; a gene's name is in ``gene_name``.
        Elements beyond the ends of the graph are left out.

    Raises
    ------
    InputError
        If the graph does not know its place, or has not the nodes.
    """
    if "graph" in elements:
        mine = elements[elements["graph"].astype(str) == graph.name]
        gene, place = mine["gene"].to_numpy(np.int64), mine["candidate"].to_numpy(np.float64) + MIDDLE
        others = mine.drop(columns=list(BY_NODE))
        inside = (gene >= 0) & (gene < graph.n_nodes) & (place >= 0) & (place < graph.n_nodes)
        if not inside.all():
            raise InputError(f"graph {graph.name!r}: the elements name nodes that are not among its {graph.n_nodes}")
    else:
        if bin_size is None or not {"chrom", "start"} <= set(graph.labels):
            raise InputError(f"graph {graph.name!r}: has no place in bp; give elements by graph, gene and candidate")
        mine = elements[elements["chrom"].astype(str) == str(graph.labels["chrom"])]
        begin = float(graph.labels["start"])
        gene = np.floor((mine["tss"].to_numpy(np.float64) - begin) / bin_size).astype(np.int64)
        place = ((mine["start"] + mine["end"]).to_numpy(np.float64) / 2 - begin) / bin_size
        others = mine.rename(columns={"gene": "gene_name"})
        inside = (gene >= 0) & (gene < graph.n_nodes) & (place >= 0) & (place < graph.n_nodes)
    if "loss_mask" in graph.nodes:
        inside[inside] = graph.nodes["loss_mask"].astype(bool)[gene[inside]]
    gene, place, others = gene[inside], place[inside], others[inside].reset_index(drop=True)
    candidate = np.floor(place).astype(np.int64)
    columns = {"gene": gene, "candidate": candidate, "distance": candidate - gene, "at": place - candidate}
    first = pd.DataFrame({"graph": [graph.name] * len(gene), **columns})
    return pd.concat([first, others.drop(columns=[c for c in first if c in others])], axis=1)


def simulated_truth(graph: Graph, pairs: pd.DataFrame, reach: int = 1) -> pd.DataFrame:
    """What is known of pairs of a synthetic chromosome.

    Parameters
    ----------
    graph : Graph
        Of :func:`enhancer_dask.simulate.chromosomes.chromosome`.
    pairs : DataFrame
        Columns gene, candidate.
    reach : int
        Bins on both sides of a gene that count as its own.

    Returns
    -------
    DataFrame
        The same with ``is_linked`` (the candidate is a regulator of the gene, no decoy), ``sign`` (1 enhancer, -1
        silencer, 0 neither) and ``effect``, what it adds to the noiseless expression of the gene before that is cut
        off at 0: its sign times its accessibility, summed over ``reach`` bins on both sides.
    """
    source, target = pairs["candidate"].to_numpy(np.int64), pairs["gene"].to_numpy(np.int64)
    at = edge_places(graph, source, target)
    signs = graph.edges["sign"].astype(np.float64)
    sign = np.where(at >= 0, signs[at] if len(signs) else 0.0, 0.0)
    padded = np.pad(graph.nodes["x"][:, 0].astype(np.float64), reach)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).sum(axis=1)
    return pairs.assign(is_linked=sign != 0, sign=sign.astype(np.int64), effect=sign * near[source])
