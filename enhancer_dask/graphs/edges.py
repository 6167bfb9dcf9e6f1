"""Contacts that satisfy a rule, as the edges of a graph of bins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.contact_matrix import Bins, Pixels, read_pixels, read_weights
from enhancer_dask.graphs.expected import balanced, over_expected
from enhancer_dask.graphs.rules import Rule, parse_rule

EXTRA = ("balanced", "distance", "fdr")
WEIGHT_COLUMNS = {
    "binary": "count",
    "count": "count",
    "log_count": "count",
    "oe": "oe",
    "balanced": "balanced",
    "minus_log10_fdr": "fdr",
}
SMALLEST_FDR = 1e-300


def contact_graph(
    contacts: pd.DataFrame,
    weights: ArrayLike | None,
    rule: str = "oe>1",
    min_distance: int = 1,
    chromosomes: Sequence[str] | None = None,
    inter: bool = False,
    *,
    extra: Iterable[str] = (),
) -> pd.DataFrame:
    """Edges between bins: the contacts that satisfy a rule.

    Parameters
    ----------
    contacts : DataFrame
        bin1_id, bin2_id, count (upper triangle, each pair of bins once), the bins as ``attrs["bins"]``, as
        :func:`enhancer_dask.read_contacts` gives them. A column ``fdr`` is used by a rule with ``fdr``.
    weights : array, shape (bins,), or None
        Multiplicative weights; a bin with NaN is a node without edges. None for ones.
    rule : str
        For instance ``oe>1`` or ``count>=5 and distance>=20000``; see :func:`enhancer_dask.graphs.rules.parse_rule`.
    min_distance : int
        Smallest separation within a chromosome, in bins. A bin is never its own neighbour.
    chromosomes : sequence of str, or None
        Nodes are the bins of these chromosomes, numbered from 0 in this order; None for all bins, a node being the
        bin id.
    inter : bool
        Also contacts between (the chosen) chromosomes.
    extra : names among balanced, distance, fdr
        Further columns, beside those that the rule uses.

    Returns
    -------
    DataFrame
        node1, node2 (int32, node1 < node2, sorted, each edge once), count, oe, and what the rule or ``extra`` names of
        balanced, distance (bp; NaN between chromosomes) and fdr. ``attrs["n_nodes"]`` is the number of nodes.

    Raises
    ------
    InputError
        If the contacts, the weights, the rule or ``min_distance`` are malformed or a chromosome is unknown.

    Notes
    -----
    The expected contact of a pair of bins is that of their separation on their chromosome, or of their pair of
    chromosomes, as in :func:`enhancer_dask.graphs.expected.expected_cis` and ``expected_trans``, so an edge does not
    depend on which other chromosomes are chosen. Time and memory are linear in contacts.

    Examples
    --------
    >>> contacts = pd.DataFrame({"bin1_id": [0, 0, 1], "bin2_id": [1, 2, 2], "count": [3, 1, 1]})
    >>> contacts.attrs["bins"] = pd.DataFrame({"chrom": "chr1", "start": [0, 10, 20], "end": [10, 20, 30]})
    >>> contact_graph(contacts, weights=None)
       node1  node2  count   oe
    0      0      1      3  1.5
    """
    parsed = parse_rule(rule)
    pixels = read_pixels(contacts)
    values = read_weights(weights, pixels.bins.n)
    columns = _columns(parsed, extra)
    nodes = node_bins(pixels.bins, chromosomes)
    rows = np.flatnonzero(_candidates(pixels, values, nodes, min_distance, inter))
    fdr = _fdr(contacts, pixels, rows) if "fdr" in columns else None
    pixels = pixels.take(rows)  # here and below a step lets go of what it replaces: there may be many contacts
    del rows
    pixels, edges = _satisfying(parsed, pixels, values, fdr, columns)
    edges = _numbered(pixels, nodes) | edges
    del pixels
    return _table(edges, nodes.size, parsed.top)


def node_bins(bins: Bins, chromosomes: Sequence[str] | None) -> NDArray[np.int32]:
    """Bin id of each node, shape (nodes,): all bins, or those of some chromosomes, in the order given."""
    if chromosomes is None:
        return np.arange(bins.n, dtype=np.int32)
    where = bins.positions(chromosomes)
    return np.concatenate([np.arange(bins.edges[c], bins.edges[c + 1], dtype=np.int32) for c in where])


def edge_weights(edges: pd.DataFrame, kinds: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Weights of edges by kind.

    Parameters
    ----------
    edges : DataFrame
        Of :func:`contact_graph`, with the columns that the kinds need.
    kinds : names among binary, count, log_count, oe, balanced, minus_log10_fdr
        ``binary`` is 1 for every edge, ``log_count`` is log2(count + 1), ``minus_log10_fdr`` is at most 300,
        and 0 for contacts that were not tested.

    Returns
    -------
    dict of float32 arrays, shape (edges,)

    Raises
    ------
    InputError
        If a kind is unknown or its column is missing.
    """
    found = {}
    for kind in kinds:
        if kind not in WEIGHT_COLUMNS:
            raise InputError(f"edge weight {kind!r} is unknown, want some of {', '.join(WEIGHT_COLUMNS)}")
        name = WEIGHT_COLUMNS[kind]
        if name not in edges.columns:
            raise InputError(f"edge weight {kind!r}: the edges have no column {name!r}")
        values = edges[name].to_numpy(np.float64)
        match kind:
            case "binary":
                values = np.ones(values.size)
            case "log_count":
                values = np.log2(values + 1)
            case "minus_log10_fdr":
                values = -np.log10(np.maximum(np.nan_to_num(values, nan=1.0), SMALLEST_FDR))
        found[kind] = values.astype(np.float32)
    return found


def _columns(rule: Rule, extra: Iterable[str]) -> list[str]:
    wanted = [extra] if isinstance(extra, str) else list(extra)
    unknown = [name for name in wanted if name not in EXTRA]
    if unknown:
        raise InputError(f"extra column {unknown[0]!r} is unknown, want some of {', '.join(EXTRA)}")
    return [name for name in EXTRA if name in rule.quantities or name in wanted]


def _candidates(
    pixels: Pixels, weights: NDArray[np.float64], nodes: NDArray[np.int32], min_distance: int, inter: bool
) -> NDArray[np.bool_]:
    """Contacts between nodes that could be edges; the expected contacts of these need no others."""
    if min_distance < 0:
        raise InputError(f"min_distance is {min_distance}, want bins from 0")
    usable = np.zeros(pixels.bins.n, dtype=bool)
    usable[nodes] = np.isfinite(weights[nodes])
    cis = pixels.bins.code[pixels.bin1] == pixels.bins.code[pixels.bin2]
    far = pixels.bin2 - pixels.bin1 >= max(min_distance, 1)
    kept: NDArray[np.bool_] = (far | ~cis) if inter else (far & cis)
    return kept & usable[pixels.bin1] & usable[pixels.bin2] & (pixels.count > 0)


def _distance(pixels: Pixels) -> NDArray[np.float64]:
    bins = pixels.bins
    distance = (bins.start[pixels.bin2] - bins.start[pixels.bin1]).astype(np.float64)
    distance[bins.code[pixels.bin1] != bins.code[pixels.bin2]] = np.nan
    return distance


def _fdr(contacts: pd.DataFrame, pixels: Pixels, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    if "fdr" in contacts.columns:
        return np.asarray(contacts["fdr"], dtype=np.float64)[rows]
    from enhancer_dask.graphs.significance import significant_contacts

    tested = significant_contacts(contacts)
    known = pd.Index(tested["bin1_id"].to_numpy(np.int64) * pixels.bins.n + tested["bin2_id"].to_numpy(np.int64))
    where = known.get_indexer(pixels.bin1[rows].astype(np.int64) * pixels.bins.n + pixels.bin2[rows])
    fdr = np.append(tested["fdr"].to_numpy(np.float64), np.nan)  # the last for contacts that were not tested
    return np.asarray(fdr[where], dtype=np.float64)


def _satisfying(
    rule: Rule, pixels: Pixels, weights: NDArray[np.float64], fdr: NDArray[np.float64] | None, columns: list[str]
) -> tuple[Pixels, dict[str, NDArray[Any]]]:
    """Pixels that satisfy the conditions, with their columns."""
    scaled = balanced(pixels, weights)
    known = {"count": pixels.count, "oe": over_expected(pixels, scaled, np.isfinite(weights)), "balanced": scaled}
    if fdr is not None:
        known["fdr"] = fdr
    if "distance" in columns:
        known["distance"] = _distance(pixels)
    del scaled
    kept: NDArray[np.bool_] = ~np.isnan(known["oe"])
    for condition in rule.conditions:
        held = condition.holds(known[condition.quantity])
        kept &= held | np.isnan(known["distance"]) if condition.quantity == "distance" else held
    return pixels.take(kept), _taken({name: known.pop(name) for name in ("count", "oe", *columns)}, kept)


def _numbered(pixels: Pixels, nodes: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Numbers of the two nodes of each pixel, the smaller first."""
    number = np.zeros(pixels.bins.n, dtype=np.int32)
    number[nodes] = np.arange(nodes.size, dtype=np.int32)
    first, second = number[pixels.bin1], number[pixels.bin2]
    return {"node1": np.minimum(first, second), "node2": np.maximum(first, second)}


def _table(edges: dict[str, NDArray[Any]], n_nodes: int, top: int | None) -> pd.DataFrame:
    """Edges sorted by their nodes, those of the ``top`` only."""
    key = edges["node1"] * np.int64(n_nodes) + edges["node2"]
    if not (key[1:] > key[:-1]).all():
        order = np.argsort(key)
        edges = _taken(edges, order)
        del order
    del key
    if top is not None:
        edges = _taken(edges, _among_top(edges["node1"], edges["node2"], edges["oe"], top))
    table = pd.DataFrame(edges, copy=False)
    table.attrs["n_nodes"] = n_nodes
    return table


def _taken(edges: dict[str, NDArray[Any]], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Some of the edges; empties the given columns one by one."""
    return {name: edges.pop(name)[rows] for name in list(edges)}


def _among_top(
    node1: NDArray[np.int32], node2: NDArray[np.int32], oe: NDArray[np.float64], top: int
) -> NDArray[np.bool_]:
    """Edges among the ``top`` highest O/E of either end, of edges sorted by node1, node2."""
    order = np.argsort(-oe)
    rank = np.empty(oe.size, dtype=np.int64)
    rank[order] = np.append(0, np.cumsum(np.diff(oe[order]) != 0))[: oe.size]
    # lower neighbours first: a stable sort then leaves equal O/E in the order of the neighbour
    key = np.concatenate([node2, node1]).astype(np.int64) * oe.size
    key.reshape(2, -1)[...] += rank
    order = np.argsort(key, kind="stable")
    del key, rank
    degree = np.bincount(np.concatenate([node1, node2]))
    taken = np.minimum(degree, top)
    first = np.repeat(np.cumsum(degree) - degree - np.cumsum(taken) + taken, taken)
    kept = np.zeros(oe.size, dtype=bool)
    kept[order[first + np.arange(first.size)] % oe.size] = True
    return kept
