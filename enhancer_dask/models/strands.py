"""Nodes of a batch <-> rows of bins along chromosomes, as convolutions take them."""

from __future__ import annotations

from collections.abc import Callable

from enhancer_dask.errors import InputError

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


def lengths(batch: Data) -> list[int]:
    """Bins of each graph of a batch."""
    ptr = batch.get("ptr")
    return [int(batch.num_nodes)] if ptr is None else ptr.diff().tolist()


def along(values: Tensor, sizes: list[int], apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of rows of bins to nodes.

    Parameters
    ----------
    values : tensor, shape (N, C)
        Channels of all nodes, graph after graph.
    sizes : list of int
        Bins of each graph, see :func:`lengths`; their sum is N.
    apply : function
        Takes (graphs, C, bins) of graphs of equal length, returns (graphs, D, bins).

    Returns
    -------
    tensor, shape (N, D)

    Notes
    -----
    Graphs of one length are one call, so a batch of equal windows costs no copy. Nothing is padded: a chromosome is not
    seen to go on where another of the batch is longer, and norms see its own bins only.

    Examples
    --------
    >>> along(torch.arange(5.0)[:, None], [2, 3], lambda rows: rows.cumsum(-1)).squeeze(1).tolist()
    [0.0, 1.0, 2.0, 5.0, 9.0]
    """
    if len(set(sizes)) <= 1:
        return _rows(values, len(sizes), apply)
    parts: list[Tensor] = [values] * len(sizes)
    chunks = values.split(sizes)
    for size in sorted(set(sizes)):
        mine = [i for i, n in enumerate(sizes) if n == size]
        done = _rows(torch.cat([chunks[i] for i in mine]), len(mine), apply)
        for i, part in zip(mine, done.split(size), strict=True):
            parts[i] = part
    return torch.cat(parts)


def _rows(values: Tensor, n_graphs: int, apply: Callable[[Tensor], Tensor]) -> Tensor:
    rows = values.unflatten(0, (n_graphs, -1)).transpose(1, 2)
    return apply(rows).transpose(1, 2).flatten(0, 1)
