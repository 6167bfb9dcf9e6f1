"""Scores of the candidate enhancers of all genes of a folder of shards, by several methods side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.models.activity_by_contact import REACH_BP, activity_by_contact, activity_of, contact_of
from enhancer_dask.models.candidate_pairs import (
    check_elements,
    element_candidates,
    genes_of,
    linked_candidates,
    near_candidates,
    simulated_truth,
    with_names_of,
)
from enhancer_dask.models.enhancer_scores import COARSE_REACH, FINE_REACH, enhancer_scores, signed_scores
from enhancer_dask.shard_store import Graph, ShardStore

try:
    from torch import nn
    from torch_geometric.data import Data

    from enhancer_dask.models.attribution import GRADIENT_METHODS, attribute, attribute_channels
    from enhancer_dask.models.copies import input_tensors, on_device
    from enhancer_dask.models.data import ShardDataset, to_data
    from enhancer_dask.models.deletion import deletion
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

METHODS = (*GRADIENT_METHODS, "deletion", "abc")
OnContributions = Callable[[Graph, NDArray[np.int64], str, NDArray[np.float32]], None]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How candidates are chosen and scored."""

    methods: tuple[str, ...] = ("gradient-x-input", "integrated-gradients", "abc")
    """Some of ``METHODS``."""
    candidates: str | int | pd.DataFrame = "edges"
    """``edges``: bins with an edge to the gene; a number: all bins up to so many bins away; a table of elements, see
    :func:`enhancer_dask.models.candidate_pairs.check_elements`."""
    reach: int | None = None
    """Bins on both sides of a candidate: of the finer ones where the model reads tracks in those alone, 40 by default,
    else of the graph, 1 by default. Deletion takes whole bins of the graph: 1, or as many as the finer ones begin."""
    gene_reach: int = 1
    """Bins on both sides of a gene whose prediction is its own."""
    absolute: bool = True
    """Scores of size; else, as published, of positive contributions only."""
    baseline: str = "zero"
    n_steps: int = 50
    n_samples: int = 200
    seed: int = 0
    deletion: str = "features"
    """What is deleted: features, edges or both."""
    activity: tuple[str, ...] | None = None
    """Tracks of ABC, see :func:`enhancer_dask.models.activity_by_contact.activity_of`."""
    contact: str | None = None
    """Of ABC, see :func:`enhancer_dask.models.activity_by_contact.contact_of`."""
    bin_size: int | None = None
    """bp of a bin; by default as the shards say, of simulated chromosomes 5,000."""
    copies: int | None = None
    """Copies of a graph that pass the model together."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise InputError(f"no method is given, want some of {', '.join(METHODS)}")
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"method is {method!r}, want one of {', '.join(METHODS)}")
        if isinstance(self.candidates, str) and self.candidates != "edges":
            raise InputError(f"candidates is {self.candidates!r}, want edges, a number of bins or a table")
        if self.reach is not None and self.reach < 0:
            raise InputError(f"reach is {self.reach}, want at least 0")


def score_columns(methods: Sequence[str]) -> list[str]:
    """Columns of the scores of methods."""
    return [method.replace("-", "_") for method in methods]


def score_shards(
    model: nn.Module,
    shards: str | Path,
    *,
    options: ScoreOptions | None = None,
    genes: Sequence[str] | None = None,
    split: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    on_contributions: OnContributions | None = None,
) -> pd.DataFrame:
    """Scores of the candidate enhancers of genes.

    Parameters
    ----------
    model : module
        See :func:`enhancer_dask.models.runs.load_model`.
    shards : path
        Folder of graph shards.
    options : ScoreOptions, optional
    genes : sequence of str, optional
        ``GRAPH:NODE``, or names of genes where the nodes are genes or elements name them; by default all that the
        graphs know, or that the elements have.
    split, where : str, optional
        Which graphs, see :class:`enhancer_dask.models.data.ShardDataset`.
    limit : int, optional
        At most so many genes, the first.
    on_contributions : function, optional
        Gets graph, genes, method and contributions of shape (G, N) of the gradient methods.

    Returns
    -------
    DataFrame
        A row per pair: graph, gene, candidate (nodes), distance (bins), per method its score (``gradient_x_input``,
        0 to 1 within a gene) and, but for ABC, ``..._signed``, its contribution in the unit of the prediction. For
        simulated chromosomes ``is_linked``, ``sign``, ``effect``; of elements whatever their table has.

    Raises
    ------
    InputError
        If there is no gene or no candidate, or the graphs do not fit the model.
    """
    options = options or ScoreOptions()
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, want at least 1")
    dataset = ShardDataset(shards, split=split, where=where, shuffle=False)
    if isinstance(options.candidates, pd.DataFrame):
        elements = check_elements(options.candidates, "elements")
        options = replace(options, candidates=with_names_of(dataset.store.index, elements))
    tables, n_genes, seen = [], 0, set()
    for graph in _graphs(dataset.store, dataset.index):
        pairs = _pairs(graph, dataset.store, options, genes, None if limit is None else limit - n_genes)
        if pairs.empty:
            continue
        seen |= set(_names(graph, pairs["gene"].unique(), dataset.store)) | set(pairs.get("gene_name", ()))
        n_genes += pairs["gene"].nunique()
        tables.append(_scored(model, graph, dataset.store, pairs, options, on_contributions))
        if limit is not None and n_genes >= limit:
            break
    missing = [name for name in genes or () if name not in seen]
    if missing and (limit is None or n_genes < limit):
        raise InputError(f"{shards}: gene {missing[0]!r} is not there or has no candidate; want GRAPH:NODE or a name")
    if not tables:
        raise InputError(f"{shards}: no gene of these graphs has a candidate")
    return pd.concat(tables, ignore_index=True).drop(columns="at")


def _graphs(store: ShardStore, index: pd.DataFrame) -> Iterator[Graph]:
    for shard, rows in index.groupby("shard", sort=False):
        graphs = store.read_shard(str(shard))
        yield from (graphs[i] for i in rows["graph"])


def _names(graph: Graph, nodes: NDArray[np.int64], store: ShardStore) -> list[str]:
    """What genes may be called by."""
    found = [f"{graph.name}:{node}" for node in nodes]
    listed = store.params.get("genes")
    if "gene" in graph.nodes and isinstance(listed, list):
        found += [str(listed[i]) for i in graph.nodes["gene"][nodes]]
    return found


def _pairs(
    graph: Graph, store: ShardStore, options: ScoreOptions, wanted: Sequence[str] | None, limit: int | None
) -> pd.DataFrame:
    """Candidates of the genes of a graph that are wanted."""
    if isinstance(options.candidates, pd.DataFrame):
        pairs = element_candidates(graph, options.candidates, _bin_size(options, store, simulated=False))
        names = pairs.get("gene_name", pd.Series([""] * len(pairs), index=pairs.index)).astype(str)
        if wanted is not None:
            by_node = [f"{graph.name}:{gene}" for gene in pairs["gene"]]
            pairs = pairs[names.isin(wanted).to_numpy() | np.isin(by_node, list(wanted))]
    else:
        nodes = genes_of(graph) if wanted is None else _named(graph, store, wanted)
        if options.candidates == "edges":
            pairs = linked_candidates(graph, nodes)
        else:
            pairs = near_candidates(graph, nodes, int(options.candidates))
    first = pd.unique(pairs["gene"])[:limit]
    return pairs[pairs["gene"].isin(first)].reset_index(drop=True)


def _named(graph: Graph, store: ShardStore, wanted: Sequence[str]) -> NDArray[np.int64]:
    nodes = np.arange(graph.n_nodes)
    names = np.array(_names(graph, nodes, store)).reshape(-1, graph.n_nodes)
    return np.flatnonzero(np.isin(names, list(wanted)).any(axis=0))


def _bin_size(options: ScoreOptions, store: ShardStore, *, simulated: bool = True) -> int | None:
    known = options.bin_size or store.params.get("resolution") or store.params.get("bin_size")
    return int(known) if known else (5_000 if simulated else None)


def _scored(
    model: nn.Module,
    graph: Graph,
    store: ShardStore,
    pairs: pd.DataFrame,
    options: ScoreOptions,
    on_contributions: OnContributions | None,
) -> pd.DataFrame:
    data = to_data(graph)
    per_bin = _per_bin(model, data) if set(options.methods) - {"abc"} else 1
    for method, column in zip(options.methods, score_columns(options.methods), strict=True):
        if method == "abc":
            pairs[column] = _abc(graph, store, pairs, options)
        elif method == "deletion":
            pairs[column], pairs[f"{column}_signed"] = _deleted(model, data, pairs, options, per_bin)
        else:
            genes = pd.unique(pairs["gene"]).astype(np.int64)
            found = _contributions(model, data, genes, method, options, per_bin)
            if on_contributions is not None:
                whole = found.reshape(len(genes), graph.n_nodes, per_bin).sum(axis=2)
                on_contributions(graph, genes, method, whole)
            pairs[column], pairs[f"{column}_signed"] = _near(found, per_bin, genes, pairs, options)
    if store.params.get("simulation") == "chromosomes" and "is_linked" not in pairs:
        pairs = simulated_truth(graph, pairs, options.gene_reach)
    return pairs


def _per_bin(model: nn.Module, data: Data) -> int:
    """Finer bins in a bin, where the model reads tracks in those alone; else 1."""
    inputs = input_tensors(model, on_device(model, data))
    (shape, *others) = {tuple(values.shape) for values in inputs.values()}
    return 1 if "x" in inputs or others or len(shape) != 2 else int(shape[1])


def _contributions(
    model: nn.Module, data: Data, genes: NDArray[np.int64], method: str, options: ScoreOptions, per_bin: int
) -> NDArray[np.float32]:
    """Of the bins of a graph, or of the finer ones, shape (G, N * per_bin)."""
    keywords: dict[str, Any] = {
        "method": method, "reach": options.gene_reach, "n_steps": options.n_steps, "n_samples": options.n_samples,
        "baseline": options.baseline, "seed": options.seed, "copies": options.copies,
    }  # fmt: skip
    if per_bin == 1:
        return attribute(model, data, genes, **keywords)
    tracks = list(attribute_channels(model, data, genes, **keywords).values())
    return np.asarray(np.sum(tracks, axis=0, dtype=np.float32)).reshape(len(genes), -1)


def _near(
    contributions: NDArray[np.float32],
    per_bin: int,
    genes: NDArray[np.int64],
    pairs: pd.DataFrame,
    options: ScoreOptions,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and signed contributions of pairs, gene by gene."""
    row_of = {gene: row for row, gene in enumerate(genes.tolist())}
    reach = options.reach if options.reach is not None else (FINE_REACH if per_bin > 1 else COARSE_REACH)
    middle = np.floor((pairs["candidate"] + pairs["at"]).to_numpy() * per_bin).astype(np.int64)
    score, signed = np.zeros(len(pairs)), np.zeros(len(pairs))
    for gene, rows in _rows_of_genes(pairs):
        mine = contributions[row_of[gene]]
        score[rows] = enhancer_scores(mine, middle[rows], reach=reach, absolute=options.absolute)
        signed[rows] = signed_scores(mine, middle[rows], reach=reach)
    return score, signed


def _deleted(
    model: nn.Module, data: Data, pairs: pd.DataFrame, options: ScoreOptions, per_bin: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What genes lose with a candidate: as a share of the largest loss among the gene's candidates, and as it is."""
    genes, gene = np.unique(pairs["gene"].to_numpy(), return_inverse=True)
    bins, bin_ = np.unique(pairs["candidate"].to_numpy(), return_inverse=True)
    width = COARSE_REACH if options.reach is None else -(-options.reach // per_bin)
    change = deletion(
        model, data, genes, bins, mode=options.deletion, width=width, baseline=options.baseline,
        reach=options.gene_reach, copies=options.copies,
    )  # fmt: skip
    signed = -change[gene, bin_].astype(np.float64)
    size = np.abs(signed) if options.absolute else signed
    score = np.zeros(len(pairs))
    for _, rows in _rows_of_genes(pairs):
        largest = size[rows].max()
        score[rows] = size[rows] / largest if largest > 0 else 0.0
    return score, signed


def _abc(graph: Graph, store: ShardStore, pairs: pd.DataFrame, options: ScoreOptions) -> NDArray[np.float64]:
    """Of the pairs, as a share of all bins within reach of a gene, whichever of them are candidates."""
    bin_size = _bin_size(options, store) or 1
    near = near_candidates(graph, pd.unique(pairs["gene"]), max(1, int(REACH_BP) // bin_size))
    wanted, others = (of["gene"].to_numpy() * graph.n_nodes + of["candidate"].to_numpy() for of in (pairs, near))
    keys = np.union1d(wanted, others)  # elements may share a bin, or lie in that of the gene
    gene, candidate = np.divmod(keys, graph.n_nodes)
    away = (candidate - gene) * float(bin_size)
    activity = activity_of(graph, tuple(map(str, store.params.get("x", ()))), options.activity)[candidate]
    contact = contact_of(graph, gene, candidate, away, options.contact)
    return activity_by_contact(gene, activity, contact, away)[np.searchsorted(keys, wanted)]


def _rows_of_genes(pairs: pd.DataFrame) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for gene, rows in pairs.groupby("gene", sort=False).indices.items():
        yield int(gene), np.asarray(rows, dtype=np.int64)
