"""Windows of bins around nodes: what an edge carries, and where it is put down."""

from __future__ import annotations

from typing import NamedTuple

from enhancer_dask.errors import InputError
from enhancer_dask.models.strands import lengths

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


class Places(NamedTuple):
    """Bins of a batch with room between its graphs, so that no window reaches from one graph into another."""

    of_node: Tensor
    """Row of each node, int64, shape (N,)."""
    n_rows: int
    """``reach`` empty rows lie before, between and behind the graphs."""


def places(batch: Data, reach: int) -> Places:
    """Rows for the bins of a batch."""
    sizes = lengths(batch)
    device = batch.edge_index.device
    shift = reach * torch.arange(1, len(sizes) + 1, device=device)
    of_graph = torch.repeat_interleave(shift, torch.tensor(sizes, device=device), output_size=sum(sizes))
    return Places(torch.arange(sum(sizes), device=device) + of_graph, sum(sizes) + reach * (len(sizes) + 1))


def windows(values: Tensor, at: Places, reach: int) -> Tensor:
    """The bins around each node.

    Parameters
    ----------
    values : tensor, shape (N, F)
    at : Places
    reach : int
        Bins on each side.

    Returns
    -------
    tensor, shape (N, F, 2 * reach + 1)
        0 beyond the ends of a graph.

    Examples
    --------
    >>> batch = Data(x=torch.tensor([[1.0], [2.0], [3.0]]), edge_index=torch.zeros(2, 0, dtype=torch.int64))
    >>> windows(batch.x, places(batch, 1), 1)[:, 0].tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """
    rows = values.new_zeros(at.n_rows, values.shape[1]).index_copy(0, at.of_node, values)
    return rows.unfold(0, 2 * reach + 1, 1).index_select(0, at.of_node - reach)


def put_down(values: Tensor, nodes: Tensor, at: Places, reach: int) -> Tensor:
    """Add windows up around their nodes, the reverse of :func:`windows`.

    Parameters
    ----------
    values : tensor, shape (M, 2 * reach + 1, R)
    nodes : int64 tensor, shape (M,)
        The middle of each window.

    Returns
    -------
    tensor, shape (N, R)
        What lies beyond the ends of a graph is lost.
    """
    around = at.of_node[nodes][:, None] + torch.arange(-reach, reach + 1, device=nodes.device)
    rows = values.new_zeros(at.n_rows, values.shape[-1])
    return rows.index_add(0, around.flatten(), values.flatten(0, 1)).index_select(0, at.of_node)


class Sides(NamedTuple):
    """Both ends of the edges, each node once."""

    regulators: Tensor
    """Nodes that an edge leaves, ascending, shape (U,)."""
    of_source: Tensor
    """Position in ``regulators`` of the source of each edge, shape (E,)."""
    genes: Tensor
    """Nodes that an edge reaches, ascending, shape (V,)."""
    of_target: Tensor
    """Position in ``genes`` of the target of each edge, shape (E,)."""


def sides(edge_index: Tensor) -> Sides:
    """The nodes that edges leave and reach."""
    regulators, of_source = edge_index[0].unique(return_inverse=True)
    genes, of_target = edge_index[1].unique(return_inverse=True)
    return Sides(regulators, of_source, genes, of_target)
