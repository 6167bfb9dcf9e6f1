"""Parts that the models share: convolutions along bins of any fineness, norms, pooling, heads that read expression.

Features are (N, C) per bin, or (N, C, F) with F finer bins in each; ``sizes`` are the bins of each graph
(:func:`enhancer_dask.models.strands.lengths`). A convolution runs along one graph and never into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

from enhancer_dask.errors import InputError
from enhancer_dask.models.layers import graph_layer
from enhancer_dask.models.strands import along

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

NORMS = ("instance", "batch", "none")
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "softplus": functional.softplus,
    "linear": lambda values: values,
    "exp": torch.exp,
}
KERAS_EPS = 1e-3  # of the batch norms of GraphReg


class InstanceNorm(nn.Module):
    """Each channel of each graph to mean 0 and variance 1 over its bins; rows (graphs, C, bins), no parameters.

    As ``torch.nn.InstanceNorm1d``, but a graph of a single bin becomes 0 instead of an error.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the same shape."""
        return torch.zeros_like(rows) if rows.shape[2] == 1 else functional.instance_norm(rows)


def norm_of(kind: str, channels: int) -> nn.Module:
    """A norm of rows (graphs, channels, bins) by name.

    Raises
    ------
    InputError
        If there is no such norm.
    """
    if kind not in NORMS:
        raise InputError(f"norm is {kind!r}, want one of {', '.join(NORMS)}")
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    return InstanceNorm() if kind == "instance" else nn.Identity()


def output_of(kind: str) -> Callable[[Tensor], Tensor]:
    """The function at the end of a model by name.

    Raises
    ------
    InputError
        If there is no such function.
    """
    if kind not in OUTPUTS:
        raise InputError(f"output is {kind!r}, want one of {', '.join(OUTPUTS)}")
    return OUTPUTS[kind]


def run_along(steps: Iterable[nn.Module], values: Tensor, sizes: list[int]) -> Tensor:
    """Steps that take rows of bins, on features (N, C) of all graphs.

    One call along each length of graph; batch norms see all graphs of a batch whatever their lengths.
    """
    steps = list(steps)
    if len(set(sizes)) <= 1 or not any(isinstance(step, nn.BatchNorm1d) for step in steps):
        return along(values, sizes, nn.Sequential(*steps))
    for step in steps:
        values = step(values) if isinstance(step, nn.BatchNorm1d) else along(values, sizes, step)
    return values


def along_fine(values: Tensor, sizes: list[int], apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of rows of fine bins.

    Parameters
    ----------
    values : tensor, shape (N, C, F)
        Channels of the F finer bins of each bin.
    sizes : list of int
        Bins of each graph.
    apply : function
        Takes (graphs, C, bins * F), returns (graphs, D, bins * F).

    Returns
    -------
    tensor, shape (N, D, F)

    Examples
    --------
    >>> values = torch.arange(6.0).reshape(3, 1, 2)
    >>> along_fine(values, [1, 2], lambda rows: rows.cumsum(-1)).flatten().tolist()
    [0.0, 1.0, 2.0, 5.0, 9.0, 14.0]
    """
    _, channels, fine = values.shape

    def rows(coarse: Tensor) -> Tensor:
        bins = coarse.shape[2]
        done = apply(coarse.unflatten(1, (channels, fine)).transpose(2, 3).flatten(2))
        return done.unflatten(2, (bins, fine)).transpose(2, 3).flatten(1, 2)

    return along(values.flatten(1), sizes, rows).unflatten(1, (-1, fine))


def conv(channels_in: int, channels_out: int, kernel: int, *, dilation: int = 1) -> nn.Conv1d:
    """A convolution that keeps the number of bins; zeros beyond the ends."""
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"kernel is {kernel}, want an odd number of bins")
    for channels in (channels_in, channels_out):
        if not isinstance(channels, int) or channels < 1:
            raise InputError(f"a convolution has {channels!r} channels, want a whole number, at least 1")
    return nn.Conv1d(channels_in, channels_out, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def batch_norm(channels: int, momentum: float) -> nn.BatchNorm1d:
    """Batch norm with the epsilon of Keras; ``momentum`` is the share of the new batch."""
    return nn.BatchNorm1d(channels, eps=KERAS_EPS, momentum=momentum)


def start_as_keras(model: nn.Module) -> None:
    """Draw kernels as Keras does: Glorot's uniform, no bias at first."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PoolingTrunk(nn.Module):
    """From fine bins to bins: (N, C, F) -> (N, width).

    For each pool: convolution along the fine bins of a graph, ReLU, batch norm, maximum over ``pool`` fine bins;
    dropout before each convolution but the first.

    Parameters
    ----------
    channels, width : int
        Channels before, and after each convolution.
    kernels, pools : sequences of int
        Of each step. The product of the pools is F.
    dropout, momentum : float
    dropout_first : bool
        Dropout on the input, too.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernels: Sequence[int],
        pools: Sequence[int],
        *,
        dropout: float,
        momentum: float,
        dropout_first: bool = False,
    ) -> None:
        super().__init__()
        if not pools or min(pools) < 1:
            raise InputError(f"pools is {tuple(pools)}, want numbers of fine bins, at least 1")
        widths = [channels] + [width] * len(pools)
        self.pools = tuple(pools)
        self.convs = nn.ModuleList(conv(widths[i], width, kernel) for i, kernel in enumerate(kernels))
        self.norms = nn.ModuleList(batch_norm(width, momentum) for _ in pools)
        self.dropout, self.dropout_first = nn.Dropout(dropout), dropout_first

    def forward(self, values: Tensor, sizes: list[int]) -> Tensor:
        """See the class."""
        if prod(self.pools) != values.shape[2]:
            want = f"{' x '.join(map(str, self.pools))} = {prod(self.pools)}"
            raise InputError(
                f"pools is {self.pools}, so {want} fine bins per bin are wanted; there are {values.shape[2]}"
            )
        for i, (convolve, norm, pool) in enumerate(zip(self.convs, self.norms, self.pools, strict=True)):
            if i or self.dropout_first:
                values = self.dropout(values)
            values = norm(functional.relu(along_fine(values, sizes, convolve)))
            values = functional.max_pool1d(values, pool)
        return values.squeeze(2)


class DilatedStack(nn.Module):
    """Residual convolutions with dilations 2, 4, 8, ...

    ``x <- norm(relu(conv(x)) + x)`` after dropout on x, as GraphReg has it. ``x`` is of any layout with channels
    second: ``apply(convolution, x)`` knows how to run along it.
    """

    def __init__(self, channels: int, layers: int, *, dropout: float, momentum: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(channels, channels, 3, dilation=2 ** (i + 1)) for i in range(layers))
        self.norms = nn.ModuleList(batch_norm(channels, momentum) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, apply: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Values of the same shape."""
        for convolve, norm in zip(self.convs, self.norms, strict=True):
            values = self.dropout(values)
            values = norm(functional.relu(apply(convolve, values)) + values)
        return values


class ContactHead(nn.Module):
    """Expression from bins and their contacts: (N, channels) -> (N,).

    ``layers`` times graph layer, ELU, batch norm; dropout; linear, ReLU, batch norm; linear, exp.

    Parameters
    ----------
    channels : int
    graph : str
        Kind of :func:`enhancer_dask.models.layers.graph_layer`.
    layers, heads, head_width, hidden : int
        A graph layer has ``heads * head_width`` channels, the linear one ``hidden``.
    dropout, momentum : float
    weighted : bool
    """

    def __init__(
        self,
        channels: int,
        *,
        graph: str,
        layers: int,
        heads: int,
        head_width: int,
        hidden: int,
        dropout: float,
        momentum: float,
        weighted: bool,
    ) -> None:
        super().__init__()
        width, attends = heads * head_width, graph not in ("gcn", "mean", "sum")
        widths = [channels] + [width] * layers
        self.layers = nn.ModuleList(
            graph_layer(
                graph,
                widths[i],
                width,
                heads=heads if attends else 1,
                edge_dim=1 if weighted else None,
                dropout=dropout,
            )
            for i in range(layers)
        )
        self.norms = nn.ModuleList(batch_norm(width, momentum) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.hidden, self.hidden_norm = nn.Linear(widths[-1], hidden), batch_norm(hidden, momentum)
        self.out = nn.Linear(hidden, 1)

    def forward(self, values: Tensor, sizes: list[int], edge_index: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        values, _ = self._layers(values, edge_index, weight)
        values = self.hidden_norm(functional.relu(self.hidden(self.dropout(values))))
        return self.out(values).squeeze(1).float().exp()

    def gates(self, values: Tensor, edge_index: Tensor, weight: Tensor | None) -> Tensor | None:
        """Attention of the edges, layer by layer and head by head, shape (E, layers * heads)."""
        return side_by_side(self._layers(values, edge_index, weight)[1])

    def _layers(self, values: Tensor, edge_index: Tensor, weight: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        found = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            values, gates = layer(values, edge_index, weight)
            values = norm(functional.elu(values))
            found.append(gates)
        return values, found


class DilatedHead(nn.Module):
    """Expression from bins and what lies along the chromosome: (N, channels) -> (N,), no contacts.

    Dropout, convolution over 3 bins, ReLU, batch norm; :class:`DilatedStack`; linear, exp.
    """

    def __init__(self, channels: int, *, layers: int, hidden: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.conv, self.norm = conv(channels, hidden, 3), batch_norm(hidden, momentum)
        self.stack = DilatedStack(hidden, layers, dropout=dropout, momentum=momentum)
        self.out = nn.Linear(hidden, 1)

    def forward(self, values: Tensor, sizes: list[int], edge_index: Tensor, weight: Tensor | None) -> Tensor:
        """See the class; edges are not looked at."""
        values = self.norm(functional.relu(along(self.dropout(values), sizes, self.conv)))
        values = self.stack(values, lambda convolve, now: along(now, sizes, convolve))
        return self.out(values).squeeze(1).float().exp()

    def gates(self, values: Tensor, edge_index: Tensor, weight: Tensor | None) -> Tensor | None:
        """There are none."""
        return None


def side_by_side(gates: Iterable[Tensor]) -> Tensor | None:
    """Gates of several layers as columns, None of no layer."""
    found = list(gates)
    return torch.cat(found, dim=1) if found else None


def names_of(value: str | Sequence[str], option: str) -> tuple[str, ...]:
    """A list of names, or one string of them with commas.

    Raises
    ------
    InputError
        If there are none, or one is there twice.
    """
    names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)
    if not names or not all(names) or len(set(names)) < len(names):
        raise InputError(f"{option} is {value!r}, want different names")
    return names
