"""Expression from epigenomic signal per bin: Epi-CNN, and Epi-GraphReg with any graph layer, in Bell's form."""

from __future__ import annotations

from collections.abc import Sequence

from enhancer_dask.errors import InputError
from enhancer_dask.models.blocks import conv, norm_of, output_of, run_along, side_by_side
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.layers import graph_layer
from enhancer_dask.models.registry import Expression, columns_of
from enhancer_dask.models.strands import along, lengths

try:
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


class EpiCnn(Expression):
    r"""Convolutions along the chromosome, blind to contacts.

    .. math:: h_0 = \mathrm{conv}(x), \quad h_{k+1} = \mathrm{ReLU}(\mathrm{conv}(\mathrm{norm}(h_k))), \quad
        \hat y = f(\mathrm{conv}(h_{depth}))

    ``x`` (N, in_channels) -> (N,); convolutions over ``kernel`` bins with ``width`` channels.

    Parameters
    ----------
    in_channels : int
        Columns of ``x`` that are read.
    columns : sequence of int, optional
        Their numbers; None: all.
    width, depth, kernel : int
        Channels, convolutions after the first, bins that one sees.
    dropout : float
        Before each of those.
    norm : str
        ``instance`` (over the bins of one graph), ``batch``, or ``none``. The published instance norm takes the scale
        of the signal away.
    output : str
        f: ``linear`` as published, ``relu``, ``softplus``, ``exp``.

    References
    ----------
    .. [1] Bell, Predicting Gene Regulation and Expression with Graph Neural Networks.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        columns: Sequence[int] | None = None,
        width: int = 64,
        depth: int = 5,
        kernel: int = 3,
        dropout: float = 0.0,
        norm: str = "instance",
        output: str = "linear",
    ) -> None:
        super().__init__()
        self.in_channels, self.columns = in_channels, columns_of(columns, in_channels)
        self.output = output_of(output)
        self.encoder = _encoder(in_channels, width, depth, kernel, dropout, norm)
        self.last = conv(width, 1, kernel)

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, shape (N,)."""
        sizes = lengths(batch)
        hidden = run_along(self.encoder, self.signal(batch), sizes)
        return self.output(along(hidden, sizes, self.last).squeeze(1).float())


class EpiGraphReg(Expression):
    r"""The encoder of :class:`EpiCnn`, rounds of messages over contacts, and a decoder of convolutions.

    .. math::
        h &= \mathrm{encoder}(x) \\
        h &\leftarrow \mathrm{ReLU}(\mathrm{graph}(\mathrm{norm}(h), E)) \quad \text{graph\_layers times} \\
        h &\leftarrow \mathrm{ReLU}(\mathrm{conv}(\mathrm{norm}(h))) \quad \text{twice} \\
        \hat y &= f(\mathrm{conv}(h))

    ``x`` (N, in_channels), ``edge_index`` (2, E) -> (N,).

    Parameters
    ----------
    in_channels, columns, width, depth, kernel, dropout, norm
        See :class:`EpiCnn`; dropout acts in the graph layers, too.
    graph : str
        Layer of :func:`enhancer_dask.models.layers.graph_layer`.
    graph_layers, heads : int
        Rounds, and attention heads, which share the width.
    shared_kernel : bool
        One kernel for a bin and its neighbours where the layer has two.
    edge_weight : str, optional
        Name of an edge weight in the shards: the weighted form. None: all contacts are alike.
    output : str
        f: ``relu`` as published, ``softplus``, ``linear``, ``exp``. Where all of its inputs turn negative a ReLU passes
        no gradient any more, and the model predicts 0 for ever; some seeds end so.

    Notes
    -----
    The model ``epi-graphreg`` has the layer of Bell's script (``general``) at 64 channels, 99,585 parameters. Layers
    with two kernels (``graphreg``, ``gatv2``, ``mean``, ``sum``) stay below 100,000 at 60 channels or with
    ``shared_kernel``.

    References
    ----------
    .. [1] Bell, Predicting Gene Regulation and Expression with Graph Neural Networks.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        columns: Sequence[int] | None = None,
        width: int = 64,
        depth: int = 5,
        graph_layers: int = 3,
        graph: str = "general",
        heads: int = 1,
        shared_kernel: bool = False,
        kernel: int = 3,
        dropout: float = 0.0,
        norm: str = "instance",
        edge_weight: str | None = None,
        output: str = "relu",
    ) -> None:
        super().__init__()
        self.in_channels, self.columns = in_channels, columns_of(columns, in_channels)
        self.edge_weight, self.output = edge_weight, output_of(output)
        self.gate_layers = graph_layers
        self.encoder = _encoder(in_channels, width, depth, kernel, dropout, norm)
        self.norms = nn.ModuleList(norm_of(norm, width) for _ in range(graph_layers))
        self.layers = nn.ModuleList(
            graph_layer(
                graph, width, width, heads=heads, edge_dim=None if edge_weight is None else 1, dropout=dropout,
                shared_kernel=shared_kernel,
            )
            for _ in range(graph_layers)
        )  # fmt: skip
        self.decoder = nn.Sequential(*_block(width, kernel, dropout, norm), *_block(width, kernel, dropout, norm))
        self.last = conv(width, 1, kernel)

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, shape (N,)."""
        sizes = lengths(batch)
        hidden, _ = self._messages(batch, sizes)
        hidden = run_along(self.decoder, hidden, sizes)
        return self.output(along(hidden, sizes, self.last).squeeze(1).float())

    def edge_gates(self, batch: Data) -> Tensor | None:
        """What each edge was worth, layer by layer and head by head, shape (E, graph_layers * heads)."""
        return side_by_side(self._messages(batch, lengths(batch))[1])

    def _messages(self, batch: Data, sizes: list[int]) -> tuple[Tensor, list[Tensor]]:
        weight = weight_named(batch, self.edge_weight)
        hidden = run_along(self.encoder, self.signal(batch), sizes)
        found = []
        for norm, layer in zip(self.norms, self.layers, strict=True):
            hidden, gates = layer(run_along([norm], hidden, sizes), batch.edge_index, weight)
            hidden = hidden.relu()
            found.append(gates)
        return hidden, found


def _encoder(in_channels: int, width: int, depth: int, kernel: int, dropout: float, norm: str) -> nn.Sequential:
    if depth < 0:
        raise InputError(f"depth is {depth}, want at least 0")
    blocks = [step for _ in range(depth) for step in _block(width, kernel, dropout, norm)]
    return nn.Sequential(conv(in_channels, width, kernel), *blocks)


def _block(width: int, kernel: int, dropout: float, norm: str) -> list[nn.Module]:
    return [norm_of(norm, width), nn.Dropout(dropout), conv(width, width, kernel), nn.ReLU()]
