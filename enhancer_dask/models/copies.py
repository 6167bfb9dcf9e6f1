"""Many altered copies of one graph as one batch: what attribution and deletion put to a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Batch, Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

BINS_AT_ONCE, VALUES_AT_ONCE = 20_000, 2_000_000  # of all copies: bins, and numbers of all their inputs
BASELINES = ("zero", "median")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and the like; afterwards every part of the model is as it was."""
    was = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training


def on_device(model: nn.Module, data: Data) -> Data:
    """The graph where the model is."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return data if first is None else data.to(first.device)


def input_tensors(model: nn.Module, data: Data) -> dict[str, Tensor]:
    """What a model reads of a graph, as :meth:`enhancer_dask.models.registry.Expression.inputs` names it.

    Raises
    ------
    InputError
        If the graph lacks it.
    """
    try:
        read = getattr(model, "inputs", None)
        inputs = read(data) if callable(read) else {"x": data.x}
    except (AttributeError, KeyError) as err:
        raise InputError(f"graph {data.get('name')!r}: the model reads what is not there ({err})") from err
    for name, values in inputs.items():
        if values is None:
            raise InputError(f"graph {data.get('name')!r}: the model reads {name!r}, which is not there")
    return {name: values.detach().float() for name, values in inputs.items()}


def baselines(inputs: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """What stands for nothing there: zeros, or the median over the bins of the graph, of each channel.

    Raises
    ------
    InputError
        If ``kind`` is neither of ``BASELINES``.
    """
    if kind not in BASELINES:
        raise InputError(f"baseline is {kind!r}, want one of {', '.join(BASELINES)}")
    if kind == "zero":
        return {name: torch.zeros_like(values) for name, values in inputs.items()}
    return {name: values.median(dim=0).values.expand_as(values) for name, values in inputs.items()}


def one_graph(data: Data, genes: ArrayLike) -> NDArray[np.int64]:
    """Positions of genes, checked.

    Raises
    ------
    InputError
        If ``data`` is a batch of several graphs, or has no such bins.
    """
    if data.get("ptr") is not None and len(data.ptr) > 2:
        raise InputError(f"{len(data.ptr) - 1} graphs in one batch; attribution wants one graph at a time")
    return nodes_in(genes, int(data.num_nodes), "gene")


def nodes_in(nodes: ArrayLike, n_nodes: int, what: str) -> NDArray[np.int64]:
    """Positions of nodes, shape (nodes,), checked."""
    found = np.atleast_1d(np.asarray(nodes))
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"{what} nodes are {found.dtype}, want whole numbers")
    found = found.astype(np.int64)
    outside = found[(found < 0) | (found >= n_nodes)]
    if outside.size:
        raise InputError(f"{what} node {outside[0]} is not in the graph of {n_nodes} nodes")
    return found


def copies_at_once(inputs: dict[str, Tensor], n_nodes: int, asked: int | None) -> int:
    """How many copies of a graph fit into one batch."""
    if asked is not None:
        if asked < 1:
            raise InputError(f"copies is {asked}, want at least 1")
        return asked
    values = sum(tensor.numel() for tensor in inputs.values())
    return max(1, min(BINS_AT_ONCE // max(1, n_nodes), VALUES_AT_ONCE // max(1, values)))


def batch_of(copies: Sequence[Data], inputs: dict[str, Tensor]) -> Data:
    """Copies of a graph as one batch, with other inputs.

    Parameters
    ----------
    copies : sequence of Data
        C graphs of N nodes.
    inputs : dict of tensors, shape (C, N, ...)
    """
    batch = Batch.from_data_list(list(copies))
    for name, values in inputs.items():
        batch[name] = values.flatten(0, 1)
    return batch


def predicted(model: nn.Module, batch: Data, n_copies: int) -> Tensor:
    """Expression in each copy, shape (C, N).

    Raises
    ------
    InputError
        If the graph does not fit the model, for instance has other features.
    """
    try:
        return model(batch).view(n_copies, -1)
    except (RuntimeError, KeyError, AttributeError, IndexError) as err:
        if isinstance(err, torch.OutOfMemoryError):
            raise
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"graph {batch.get('name', ['?'])[0]!r} does not fit the model ({reason})") from err


def around(gene: int, reach: int) -> slice:
    """The bins whose expression is that of a gene: its own and ``reach`` on both sides, within the graph."""
    return slice(max(0, gene - reach), gene + reach + 1)


def expression_of(output: Tensor, genes: NDArray[np.int64], reach: int) -> Tensor:
    """Expression of genes, summed over the bins around them: (C, N) -> (C, genes)."""
    return torch.stack([output[:, around(int(gene), reach)].sum(dim=1) for gene in genes], dim=1)
