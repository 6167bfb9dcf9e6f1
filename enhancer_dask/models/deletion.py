"""What becomes of a gene's predicted expression if a bin is deleted, a base changed, or a motif knocked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.models.copies import (
    baselines,
    batch_of,
    copies_at_once,
    evaluating,
    expression_of,
    input_tensors,
    nodes_in,
    on_device,
    one_graph,
    predicted,
)

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

MODES = ("features", "edges", "both")
FILLS = ("zero", "shuffle")
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Altered = tuple[list[Data], dict[str, Tensor]]


def deletion(
    model: nn.Module,
    data: Data,
    genes: ArrayLike,
    bins: ArrayLike | None = None,
    *,
    mode: str = "features",
    width: int = 0,
    baseline: str = "zero",
    reach: int = 1,
    copies: int | None = None,
) -> Floats:
    """Change of predicted expression of genes when bins are deleted, one after the other.

    Parameters
    ----------
    model, data, genes, reach, copies
        See :func:`enhancer_dask.models.attribution.attribute`.
    bins : int array, shape (B,), optional
        Nodes to delete; by default every one.
    mode : str
        ``features``: inputs of the bin become the baseline; ``edges``: its edges, in and out, are removed; ``both``.
        Features that were made of edges (degree) are not made anew.
    width : int
        Bins on both sides that are deleted with it.
    baseline : str
        ``zero``, or ``median`` of each channel over the bins of the graph.

    Returns
    -------
    float32 array, shape (G, B)
        Without the bin minus with it: negative where the bin raises the gene's expression.

    Raises
    ------
    InputError
        If a node is not in the graph, an argument makes no sense, or the graph does not fit the model.

    Notes
    -----
    One forward pass of the whole graph per bin, for all genes together, ``copies`` of them at once.
    """
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, want one of {', '.join(MODES)}")
    if width < 0:
        raise InputError(f"width is {width}, want at least 0")
    n_nodes = int(data.num_nodes)
    targets = one_graph(data, genes)
    deleted = np.arange(n_nodes) if bins is None else nodes_in(bins, n_nodes, "deleted")
    data = on_device(model, data)
    whole = input_tensors(model, data)
    base = baselines(whole, baseline)

    def alter(which: Ints) -> Altered:
        gone = torch.zeros(len(which), n_nodes, dtype=torch.bool)
        for row, bin_ in enumerate(deleted[which]):
            gone[row, max(0, bin_ - width) : bin_ + width + 1] = True
        gone = gone.to(data.edge_index.device)
        graphs = [data] * len(which) if mode == "features" else [without_edges(data, row) for row in gone]
        if mode == "edges":
            return graphs, {name: _repeated(values, len(which)) for name, values in whole.items()}
        return graphs, {
            name: torch.where(gone.view(*gone.shape, *[1] * (values.dim() - 1)), base[name], values)
            for name, values in whole.items()
        }

    return _changes(model, data, whole, targets, len(deleted), alter, reach, copies)


def without_edges(data: Data, gone: Tensor) -> Data:
    """A graph without the edges that begin or end at some of its nodes.

    Parameters
    ----------
    data : Data
    gone : bool tensor, shape (N,)
    """
    source, target = data.edge_index
    kept = ~(gone[source] | gone[target])
    found = copy(data)
    found.edge_index = data.edge_index[:, kept]
    if data.get("edge_attr") is not None:
        found.edge_attr = data.edge_attr[kept]
    return found


def mutagenesis(
    model: nn.Module,
    data: Data,
    node: int,
    window: tuple[int, int],
    genes: ArrayLike,
    *,
    reach: int = 1,
    copies: int | None = None,
) -> Floats:
    """In-silico saturation mutagenesis: every base of a window becomes each of the four letters.

    Parameters
    ----------
    model : module
        One that reads sequence.
    data : Data
        A graph with the sequence of its bins.
    node : int
        Bin of the window.
    window : (int, int)
        Start and end, bp from the start of the bin, 0-based, half-open.
    genes, reach, copies
        See :func:`enhancer_dask.models.attribution.attribute`.

    Returns
    -------
    float32 array, shape (G, L, 4)
        Mutant minus reference, letters A, C, G, T; exactly 0 for the letter that is there.

    Raises
    ------
    InputError
        If the model reads no sequence, or the window is not in the bin.

    Notes
    -----
    3 L forward passes of the whole graph. Of GraphReg: ``Seq-GraphReg_ISM.py``.
    """
    targets = one_graph(data, genes)
    data = on_device(model, data)
    whole, name = _sequence(model, data, node, [window])
    start, stop = window
    reference = whole[name][node, :, start:stop]  # (4, L)
    place, letter = np.nonzero((reference.T == 0).numpy(force=True))

    def alter(which: Ints) -> Altered:
        sequences = _repeated(whole[name], len(which)).clone()
        rows, at = torch.arange(len(which)), torch.from_numpy(place[which] + start)
        sequences[rows, node, :, at] = 0.0
        sequences[rows, node, torch.from_numpy(letter[which]), at] = 1.0
        return _with(data, whole, name, sequences)

    found = np.zeros((targets.size, stop - start, 4), dtype=np.float32)
    found[:, place, letter] = _changes(model, data, whole, targets, len(place), alter, reach, copies)
    return found


def knock_out(
    model: nn.Module,
    data: Data,
    node: int,
    windows: Sequence[tuple[int, int]],
    genes: ArrayLike,
    *,
    fill: str = "zero",
    n_shuffles: int = 10,
    seed: int = 0,
    reach: int = 1,
    copies: int | None = None,
) -> Floats:
    """Change of predicted expression when motifs are taken out of the sequence of a bin, one after the other.

    Parameters
    ----------
    model, data, node, genes, reach, copies
        See :func:`mutagenesis`.
    windows : sequence of (int, int)
        W motifs: start and end, bp from the start of the bin.
    fill : str
        ``zero``: the bases become N; ``shuffle``: they are permuted, and the mean over ``n_shuffles`` is taken, which
        keeps their composition.
    seed : int
        Of the permutations.

    Returns
    -------
    float32 array, shape (G, W)
        Without the motif minus with it.
    """
    if fill not in FILLS:
        raise InputError(f"fill is {fill!r}, want one of {', '.join(FILLS)}")
    if n_shuffles < 1:
        raise InputError(f"n_shuffles is {n_shuffles}, want at least 1")
    targets = one_graph(data, genes)
    data = on_device(model, data)
    whole, name = _sequence(model, data, node, windows)
    times = n_shuffles if fill == "shuffle" else 1
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(stop - start) for start, stop in windows for _ in range(times)]

    def alter(which: Ints) -> Altered:
        sequences = _repeated(whole[name], len(which)).clone()
        for row, i in enumerate(which):
            start, stop = windows[i // times]
            here = sequences[row, node, :, start:stop]
            here[:] = 0.0 if fill == "zero" else here[:, torch.from_numpy(orders[i])]
        return _with(data, whole, name, sequences)

    found = _changes(model, data, whole, targets, len(orders), alter, reach, copies)
    return found.reshape(targets.size, len(windows), times).mean(axis=2)


def _changes(
    model: nn.Module,
    data: Data,
    whole: dict[str, Tensor],
    genes: Ints,
    n: int,
    alter: Callable[[Ints], Altered],
    reach: int,
    copies: int | None,
) -> Floats:
    """Expression of genes in each of n altered copies minus that in the graph as it is, shape (G, n)."""
    if reach < 0:
        raise InputError(f"reach is {reach}, want at least 0")
    found = np.zeros((genes.size, n), dtype=np.float32)
    if not found.size:
        return found
    step = copies_at_once(whole, int(data.num_nodes), copies)
    with evaluating(model), torch.no_grad():
        one = batch_of([data], {name: values[None] for name, values in whole.items()})
        before = expression_of(predicted(model, one, 1), genes, reach)
        for start in range(0, n, step):
            which = np.arange(start, min(start + step, n))
            after = expression_of(predicted(model, batch_of(*alter(which)), len(which)), genes, reach)
            found[:, which] = (after - before).T.numpy(force=True)
    return found


def _sequence(
    model: nn.Module, data: Data, node: int, windows: Sequence[tuple[int, int]]
) -> tuple[dict[str, Tensor], str]:
    """All inputs, and the name of the one that is sequence."""
    nodes_in(node, int(data.num_nodes), "mutated")
    whole = input_tensors(model, data)
    names = [name for name, values in whole.items() if values.dim() == 3 and values.shape[1] == 4]
    if not names:
        shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in whole.items())
        raise InputError(f"the model reads no sequence, want an input of shape (N, 4, L); it has {shapes}")
    length = whole[names[0]].shape[2]
    for start, stop in windows:
        if not 0 <= start < stop <= length:
            raise InputError(f"window is {start}:{stop}, want one within 0:{length} of the bin")
    return whole, names[0]


def _with(data: Data, whole: dict[str, Tensor], name: str, values: Tensor) -> Altered:
    others = {other: _repeated(tensor, len(values)) for other, tensor in whole.items()}
    return [data] * len(values), {**others, name: values}


def _repeated(values: Tensor, n: int) -> Tensor:
    """(N, ...) -> (n, N, ...) without a copy."""
    return values.expand(n, *values.shape)
