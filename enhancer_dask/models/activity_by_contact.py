"""Activity by contact: the score that attributions are compared with. Pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph

Floats = NDArray[np.float64]
OF_EDGES = ("degree", "strength")  # features that are no activity
CONTACTS = ("balanced", "count", "log_count", "oe", "binary")  # edge weights that are contacts, best first
EDGE, POWER_LAW = "edge", "power-law"
GAMMA, REACH_BP = 0.87, 5e6


def activity_by_contact(
    gene: ArrayLike, activity: ArrayLike, contact: ArrayLike, distance_bp: ArrayLike, *, reach_bp: float = REACH_BP
) -> Floats:
    r"""Share of a candidate in all activity that reaches a gene [1]_.

    .. math:: ABC_{c,g} = \frac{A_c C_{c,g}}{\sum_{e \text{ within 5 Mb of } g} A_e C_{e,g}}

    Parameters
    ----------
    gene : int array, shape (P,)
        Gene of each pair, any numbers.
    activity : array, shape (P,)
        Of the candidate: geometric mean of accessibility and H3K27ac.
    contact : array, shape (P,)
        Of candidate and gene.
    distance_bp : array, shape (P,)
        Between them.
    reach_bp : float
        Pairs farther apart score 0 and do not count.

    Returns
    -------
    float64 array, shape (P,)
        0 to 1; sums to 1 over the pairs of a gene, or is 0 where none has activity and contact. So give all that are
        within reach, not the candidates of interest alone. No pseudocount is added to contacts.

    Raises
    ------
    InputError
        If an activity or a contact is negative or not a number.

    References
    ----------
    .. [1] Fulco et al. (2019), Nature Genetics 51, 1664-1669.

    Examples
    --------
    >>> activity_by_contact([7, 7, 7, 9], [1, 1, 2, 5], [3, 1, 9, 1], [1e4, 2e5, 6e6, 0]).tolist()
    [0.75, 0.25, 0.0, 1.0]
    """
    codes = np.unique(np.asarray(gene), return_inverse=True)[1].reshape(-1)
    product = _not_negative("activity", activity) * _not_negative("contact", contact)
    product = np.where(np.abs(np.asarray(distance_bp, dtype=np.float64)) <= reach_bp, product, 0.0)
    total = np.bincount(codes, weights=product, minlength=1)[codes]
    return np.divide(product, total, out=np.zeros_like(product), where=total > 0)


def power_law(distance_bp: ArrayLike, *, gamma: float = GAMMA, least_bp: float = 5_000) -> Floats:
    """Contact expected from distance alone.

    Parameters
    ----------
    distance_bp : array
    gamma : float
        Exponent; 0.87 is that of the average Hi-C of ten cell types in the published software.
    least_bp : float
        Nearer pairs count as this far apart: a Hi-C bin shows no more.

    Returns
    -------
    float64 array
        1 at ``least_bp``. The scale does not matter, the score is a share.

    Examples
    --------
    >>> power_law([0, 5_000, 50_000], gamma=1.0).tolist()
    [1.0, 1.0, 0.1]
    """
    away = np.maximum(np.abs(np.asarray(distance_bp, dtype=np.float64)), least_bp)
    return np.asarray((away / least_bp) ** -gamma)


def geometric_mean(tracks: Mapping[str, ArrayLike]) -> Floats:
    """Activity of bins from several tracks, each of shape (N,).

    Raises
    ------
    InputError
        If there is no track, or one has negative values.
    """
    if not tracks:
        raise InputError("activity needs at least one track")
    values = [_not_negative(f"activity track {name!r}", track) for name, track in tracks.items()]
    with np.errstate(divide="ignore"):  # log of 0 is -inf, whose exponential is 0 again
        return np.asarray(np.exp(np.mean(np.log(values), axis=0)))


def activity_of(graph: Graph, columns: tuple[str, ...], names: tuple[str, ...] | None = None) -> Floats:
    """Activity of the bins of a graph.

    Parameters
    ----------
    graph : Graph
    columns : tuple of str
        Names of the columns of its ``x``.
    names : tuple of str, optional
        Columns of ``x``, or variables of nodes, to take the geometric mean of; finer bins of a variable are averaged.
        By default all columns but degree and strength, and all tracks in finer bins.

    Raises
    ------
    InputError
        If there is no track, one is not there or has negative values.
    """
    fine = tuple(
        name for name, values in graph.nodes.items()
        if name != "x" and values.ndim == 2 and np.issubdtype(values.dtype, np.floating)
    )  # fmt: skip
    there = (*(c for c in columns if c not in OF_EDGES), *fine)
    if names is None and not there:
        raise InputError(f"graph {graph.name!r}: has no track for the activity of ABC; leave that method out")
    tracks: dict[str, Any] = {}
    for name in there if names is None else names:
        if name in columns:
            tracks[name] = graph.nodes["x"][:, columns.index(name)]
        elif name in graph.nodes and graph.nodes[name].ndim in (1, 2):
            tracks[name] = graph.nodes[name].reshape(graph.n_nodes, -1).mean(axis=1, dtype=np.float64)
        else:
            raise InputError(f"graph {graph.name!r}: no track {name!r} for the activity; it has {', '.join(there)}")
    return geometric_mean(tracks)


def contact_of(
    graph: Graph, gene: NDArray[Any], candidate: NDArray[Any], distance_bp: NDArray[Any], kind: str | None = None
) -> Floats:
    """Contact of pairs of bins.

    Parameters
    ----------
    graph : Graph
    gene, candidate : int arrays, shape (P,)
        Nodes.
    distance_bp : array, shape (P,)
    kind : str, optional
        Name of an edge weight (``log_count`` is turned into counts); ``edge``: 1 where there is an edge, from the
        candidate to the gene; ``power-law`` of the distance. By default the first of ``CONTACTS`` that is there, else
        ``edge``, and where the graph has no edges ``power-law``.

    Returns
    -------
    float64 array, shape (P,)
        0 where there is no edge.
    """
    if kind is None:
        weights = [name for name in CONTACTS if name in graph.edges]
        kind = (weights or [EDGE])[0] if len(graph.source) else POWER_LAW
    if kind == POWER_LAW:
        return power_law(distance_bp)
    if kind != EDGE and kind not in graph.edges:
        have = ", ".join([*graph.edges, EDGE, POWER_LAW])
        raise InputError(f"graph {graph.name!r}: no contact {kind!r}; it has {have}")
    at = edge_places(graph, candidate, gene)
    values = np.ones(len(graph.source)) if kind == EDGE else graph.edges[kind].astype(np.float64)
    values = np.exp2(values) - 1.0 if kind == "log_count" else values
    return np.where(at >= 0, values[at] if len(values) else 0.0, 0.0)


def edge_places(graph: Graph, source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.int64]:
    """Where in the edges of a graph the one from source to target stands, the first of several; -1: there is none."""
    keys = graph.target.astype(np.int64) * graph.n_nodes + graph.source  # ascending, as the edges of a graph are
    wanted = np.asarray(target, dtype=np.int64) * graph.n_nodes + np.asarray(source, dtype=np.int64)
    at = np.searchsorted(keys, wanted)
    found = np.zeros(len(wanted), dtype=bool)
    within = at < len(keys)
    found[within] = keys[at[within]] == wanted[within]
    return np.where(found, at, -1)


def _not_negative(what: str, values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if not (found >= 0).all():  # also NaN
        bad = found[~(found >= 0)][0]
        raise InputError(f"{what} has the value {bad:g}, want none below 0")
    return found
