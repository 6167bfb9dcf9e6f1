"""Expression from epigenomic tracks in bins of 100 bp: Epi-GraphReg and Epi-CNN in the form of GraphReg itself."""

from __future__ import annotations

from collections.abc import Sequence

from enhancer_dask.errors import InputError
from enhancer_dask.models.blocks import ContactHead, DilatedHead, PoolingTrunk, names_of, start_as_keras
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.registry import Expression
from enhancer_dask.models.strands import lengths

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

TRACKS = ("h3k4me3", "h3k27ac", "dnase")
HEADS = ("contacts", "dilated")


class FineEpigenome(Expression):
    """Convolutions and pooling from 100 bp to 5 kb, then attention over contacts, or dilated convolutions.

    Tracks (N, F) each, F fine bins per bin, ``edge_index`` (2, E) -> (N,):

    - trunk, :class:`enhancer_dask.models.blocks.PoolingTrunk`: convolutions over 25, 3 and 3 fine bins, ``width``
      channels, pools 2, 5 and 5, so F = 50;
    - ``head="contacts"`` (Epi-GraphReg), :class:`enhancer_dask.models.blocks.ContactHead`: ``graph_layers`` times
      attention of ``heads`` x ``head_width``; ``head="dilated"`` (Epi-CNN), :class:`~.blocks.DilatedHead`: ``dilated``
      residual convolutions with dilations 2, 4, ... 256;
    - the exponential of a linear function.

    Parameters
    ----------
    tracks : names
        Node variables of the shards, each (N, F).
    head : str
    width, hidden : int
        Channels of the trunk, and before the output.
    kernels, pools : sequences of int
        Of the trunk. The product of the pools is F.
    graph : str
        Layer of :func:`enhancer_dask.models.layers.graph_layer`.
    graph_layers, heads, head_width : int
    dilated : int
        Dilated convolutions.
    dropout : float
    momentum : float
        Share of the new batch in what batch norms remember. 0.01 is Keras's 0.99; with few windows to train on
        validation wants more, 0.1.
    edge_weight : str, optional
        Name of an edge weight: the weighted form.

    Notes
    -----
    Tracks are used as they are; GraphReg takes log2(x + 1), then min-max. Trained on Poisson deviance of CAGE. One
    window of 6 Mb (60,000 fine bins) is trained in less than 1 GB.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.
    """

    def __init__(
        self,
        *,
        tracks: str | Sequence[str] = TRACKS,
        head: str = "contacts",
        width: int = 128,
        kernels: Sequence[int] = (25, 3, 3),
        pools: Sequence[int] = (2, 5, 5),
        graph: str = "graphreg",
        graph_layers: int = 2,
        heads: int = 4,
        head_width: int = 32,
        hidden: int = 64,
        dilated: int = 8,
        dropout: float = 0.5,
        momentum: float = 0.01,
        edge_weight: str | None = None,
    ) -> None:
        super().__init__()
        self.tracks, self.edge_weight, self.gate_layers = names_of(tracks, "tracks"), edge_weight, graph_layers
        if len(kernels) != len(pools):
            raise InputError(f"kernels is {tuple(kernels)}, pools {tuple(pools)}; want as many of both")
        self.trunk = PoolingTrunk(len(self.tracks), width, kernels, pools, dropout=dropout, momentum=momentum)
        self.head = head_of(
            head, width, graph=graph, graph_layers=graph_layers, heads=heads, head_width=head_width, hidden=hidden,
            dilated=dilated, dropout=dropout, momentum=momentum, weighted=edge_weight is not None,
        )  # fmt: skip
        start_as_keras(self)

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, shape (N,)."""
        sizes = lengths(batch)
        weight = weight_named(batch, self.edge_weight)
        return self.head(self.trunk(tracks_of(batch, self.tracks), sizes), sizes, batch.edge_index, weight)

    def edge_gates(self, batch: Data) -> Tensor | None:
        """Attention of the edges, layer by layer and head by head, (E, graph_layers * heads); None without contacts."""
        weight = weight_named(batch, self.edge_weight)
        return self.head.gates(self.trunk(tracks_of(batch, self.tracks), lengths(batch)), batch.edge_index, weight)

    def inputs(self, batch: Data) -> dict[str, Tensor]:
        """The tracks, (N, F) each."""
        tracks_of(batch, self.tracks)
        return {name: batch[name] for name in self.tracks}


def head_of(
    head: str,
    channels: int,
    *,
    graph: str,
    graph_layers: int,
    heads: int,
    head_width: int,
    hidden: int,
    dilated: int,
    dropout: float,
    momentum: float,
    weighted: bool,
) -> ContactHead | DilatedHead:
    """What reads expression from bins, by name.

    Raises
    ------
    InputError
        If there is no such head, or it would ignore an edge weight.
    """
    if head == "contacts":
        return ContactHead(
            channels, graph=graph, layers=graph_layers, heads=heads, head_width=head_width, hidden=hidden,
            dropout=dropout, momentum=momentum, weighted=weighted,
        )  # fmt: skip
    if head != "dilated":
        raise InputError(f"head is {head!r}, want one of {', '.join(HEADS)}")
    if weighted:
        raise InputError("edge_weight is given, but the model does not look at contacts (head is 'dilated')")
    return DilatedHead(channels, layers=dilated, hidden=hidden, dropout=dropout, momentum=momentum)


def tracks_of(batch: Data, names: Sequence[str]) -> Tensor:
    """Tracks in finer bins, side by side.

    Returns
    -------
    float32 tensor, shape (N, tracks, F)

    Raises
    ------
    InputError
        If a track is missing, or not in finer bins, or in bins of another size than the first.
    """
    there = ", ".join(sorted(map(str, batch.keys())))
    missing = [name for name in names if name not in batch]
    if missing:
        raise InputError(
            f"tracks {', '.join(missing)} are not in the graphs, which have {there}; signal per bin, in x, is for "
            "the models epi-cnn and epi-graphreg"
        )
    found = [batch[name] for name in names]
    for name, track in zip(names, found, strict=True):
        if track.ndim != 2 or track.shape != found[0].shape:
            wants = "shape (bins, fine bins), the same for all tracks"
            raise InputError(f"track {name!r} has shape {tuple(track.shape)}, want {wants}")
    return torch.stack(found, dim=1).float()
