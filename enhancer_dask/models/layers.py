"""Graph layers: what travels over the edges of a chromosome, and how much of it.

Every layer takes ``x`` (N, in_channels), ``edge_index`` (2, E) from source to target and, in its weighted form, one
weight per edge (E,); it returns the new features (N, out_channels) and what each edge was worth in each head
(E, heads). Time and memory are O(N + E). Bins without contacts keep a term of their own; an edge that is listed twice
counts twice.
"""

from __future__ import annotations

from typing import Any

from enhancer_dask.errors import InputError

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from torch_geometric.data import Data
    from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, GraphConv, SimpleConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm
    from torch_geometric.utils import softmax
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

KINDS = ("graphreg", "general", "gcn", "gat", "gatv2", "mean", "sum")


def graph_layer(
    kind: str,
    in_channels: int,
    out_channels: int,
    *,
    heads: int = 1,
    edge_dim: int | None = None,
    dropout: float = 0.0,
    shared_kernel: bool = False,
) -> nn.Module:
    """A graph layer by name.

    Parameters
    ----------
    kind : str
        One of ``KINDS``: graphreg is :class:`GraphRegAttention`, general :class:`General`, gcn :class:`Gcn`, gat and
        gatv2 :class:`Gat`, mean and sum :class:`Aggregate`.
    in_channels, out_channels : int
        Features per bin before and after, all heads together.
    heads : int
        Attention heads, side by side in the output; 1 for the layers without attention.
    edge_dim : int, optional
        1 for the weighted form, None for the binary one.
    dropout : float
        Share of features that is set to zero in training.
    shared_kernel : bool
        One kernel for a bin and its neighbours where there could be two (graphreg, gatv2, mean, sum); gcn and gat have
        one in any case.

    Raises
    ------
    InputError
        If there is no such layer, or the heads do not divide the channels.

    Examples
    --------
    >>> layer = graph_layer("graphreg", 2, 4, heads=2)
    >>> out, gates = layer(torch.ones(3, 2), torch.tensor([[0, 2], [1, 1]]))
    >>> tuple(out.shape), tuple(gates.shape)
    ((3, 4), (2, 2))
    """
    if kind not in KINDS:
        raise InputError(f"graph is {kind!r}, want one of {', '.join(KINDS)}")
    if edge_dim not in (None, 1):
        raise InputError(f"edge_dim is {edge_dim}, want 1 (one weight per edge) or None")
    if heads < 1 or out_channels % heads:
        raise InputError(f"heads is {heads}, want a divisor of the {out_channels} channels")
    if kind in ("gcn", "mean", "sum"):
        if heads != 1:
            raise InputError(f"heads is {heads}, but graph {kind!r} has no attention; want 1")
        if kind == "gcn":
            return Gcn(in_channels, out_channels, dropout=dropout)
        return Aggregate(kind, in_channels, out_channels, dropout=dropout, shared_kernel=shared_kernel)
    options: dict[str, Any] = {"heads": heads, "dropout": dropout}
    if kind == "graphreg":
        return GraphRegAttention(in_channels, out_channels, shared_kernel=shared_kernel, **options)
    if kind == "general":
        return General(in_channels, out_channels, edge_dim=edge_dim, **options)
    shared = kind == "gat" or shared_kernel
    return Gat(kind, in_channels, out_channels, edge_dim=edge_dim, shared_kernel=shared, **options)


def edge_weight(batch: Data, name: str | None) -> Tensor | None:
    """Weight of each edge by its name.

    Parameters
    ----------
    batch : Data or Batch
        With ``edge_attr`` (E, W) and ``edge_attr_names``.
    name : str, optional
        None: the graph is binary.

    Returns
    -------
    float tensor, shape (E,), or None

    Raises
    ------
    InputError
        If the graphs have no such weight.
    """
    if name is None:
        return None
    names = batch.get("edge_attr_names") or ()
    if isinstance(names, list):  # a batch holds those of each of its graphs
        names = names[0] if names else ()
    if isinstance(names, str):
        names = (names,)
    if name not in names:
        raise InputError(f"edge_weight is {name!r}, but the edges have {', '.join(names) or 'no weights'}")
    return batch.edge_attr[:, list(names).index(name)]


class GraphRegAttention(nn.Module):
    r"""Attention of GraphReg: a gate on each contact, and a bin that always keeps a share for itself.

    .. math::
        e_{ij} &= w_{ij}\,\sigma(\mathrm{LeakyReLU}_{0.2}(a_1 \cdot W_s x_i + a_2 \cdot W_n x_j)) \\
        x'_i &= \frac{W_s x_i + \sum_j e_{ij} W_n x_j}{1 + \sum_j e_{ij}}

    over the edges j -> i, for each head; heads are concatenated. Dropout acts on :math:`W_s x` and :math:`W_n x` where
    they are averaged, not where they are scored. A gate does not take from the others as a softmax does.

    Parameters
    ----------
    in_channels, out_channels : int
        ``out_channels`` is that of all heads together.
    heads : int
    dropout : float
    shared_kernel : bool
        :math:`W_n = W_s`: half the parameters.

    Notes
    -----
    [1]_ masks a dense matrix of N x N scores; here scores are made on edges only, with the same result. The weighted
    form multiplies the gate by the weight: 1 is the binary form, 0 is no edge, and no parameters are added. Weights
    must not be negative.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        dropout: float = 0.0,
        shared_kernel: bool = False,
    ) -> None:
        super().__init__()
        width = out_channels // heads
        self.kernel_self = nn.Parameter(torch.empty(heads, in_channels, width))
        self.kernel_neighbour = None if shared_kernel else nn.Parameter(torch.empty(heads, in_channels, width))
        self.score_self = nn.Parameter(torch.empty(heads, width))
        self.score_neighbour = nn.Parameter(torch.empty(heads, width))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, as Keras does: Glorot's, head by head."""
        for kernel in (self.kernel_self, self.kernel_neighbour):
            if kernel is not None:
                nn.init.uniform_(kernel, *_glorot(*kernel.shape[1:]))
        for score in (self.score_self, self.score_neighbour):
            nn.init.uniform_(score, *_glorot(score.shape[1], 1))

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the module: features (N, out_channels) and attention of the edges (E, heads)."""
        source, target = edge_index
        own = torch.einsum("nf,hfc->nhc", x, self.kernel_self)
        other = own if self.kernel_neighbour is None else torch.einsum("nf,hfc->nhc", x, self.kernel_neighbour)
        score = (own * self.score_self).sum(-1)[target] + (other * self.score_neighbour).sum(-1)[source]
        score = score.to(torch.promote_types(score.dtype, torch.float32))  # sums of many want full precision
        gate = torch.sigmoid(functional.leaky_relu(score, 0.2))
        if weight is not None:
            gate = gate * _not_negative(weight, "graphreg").unsqueeze(1)
        total = 1.0 + gate.new_zeros(len(x), gate.shape[1]).index_add(0, target, gate)
        attention = gate / total[target]
        out = self.dropout(own) / total.unsqueeze(-1)
        messages = attention.unsqueeze(-1) * self.dropout(other)[source]
        return out.index_add(0, target, messages).flatten(1), attention


class General(nn.Module):
    r"""The layer of Bell's script: a bin keeps its features and adds what attention picks from its neighbours.

    .. math::
        m_{ij} &= W x_j + b + w_{ij} u \\
        \alpha_{ij} &= \mathrm{softmax}_j(\mathrm{LeakyReLU}_{0.2}(a \cdot m_{ij})) \\
        x'_i &= x_i + \sum_j \alpha_{ij} m_{ij}

    over the edges j -> i, for each head; heads are concatenated; :math:`x_i` becomes :math:`W_0 x_i` where the number
    of channels changes. :math:`u` is there in the weighted form only. With one head this is PyTorch Geometric's
    ``GeneralConv(attention=True)``, which does not say how much attention each edge got. Dropout acts on the
    neighbours' features.

    References
    ----------
    .. [1] You, Ying and Leskovec (2020), Design space for graph neural networks. NeurIPS 33.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        edge_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.message = nn.Linear(in_channels, out_channels)
        self.keep = nn.Identity() if in_channels == out_channels else nn.Linear(in_channels, out_channels, bias=False)
        self.score = nn.Parameter(torch.empty(heads, out_channels // heads))
        nn.init.uniform_(self.score, *_glorot(heads, out_channels // heads))
        self.edge = None if edge_dim is None else nn.Parameter(torch.zeros(out_channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the module: features (N, out_channels) and attention of the edges (E, heads)."""
        source, target = edge_index
        sent = self.message(self.dropout(x)).index_select(0, source)
        if self.edge is not None and weight is not None:
            sent = sent + weight.unsqueeze(1) * self.edge
        sent = sent.unflatten(1, self.score.shape)
        attention = softmax(functional.leaky_relu((sent * self.score).sum(-1), 0.2), target, num_nodes=len(x))
        messages = (sent * attention.unsqueeze(-1)).flatten(1)  # in full precision, as the softmax is
        return self.keep(x).to(messages.dtype).index_add(0, target, messages), attention


class Gcn(nn.Module):
    r"""Graph convolution of Kipf and Welling, by PyTorch Geometric.

    .. math:: x'_i = W \sum_{j \in N(i) \cup \{i\}} \frac{w_{ij}}{\sqrt{d_i d_j}} x_j + b, \quad d_i = 1 + \sum_j w_{ij}

    over the edges j -> i, with :math:`w_{ii} = 1` where the graph has no such edge. The gates are the factors before
    :math:`x_j`. Weights must not be negative.

    References
    ----------
    .. [1] Kipf and Welling (2017), ICLR.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = GCNConv(in_channels, out_channels, normalize=False, add_self_loops=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the module: features (N, out_channels) and factors of the edges (E, 1)."""
        if weight is not None:
            weight = _not_negative(weight, "gcn")
        with_self, factors = gcn_norm(edge_index, weight, len(x), dtype=x.dtype)
        out = self.conv(self.dropout(x), with_self, factors)
        return out, _of_edges(edge_index, factors.unsqueeze(1))


class Gat(nn.Module):
    r"""Graph attention, by PyTorch Geometric: a softmax over a bin's contacts and itself.

    .. math::
        \text{gat:}\quad s_{ij} &= \mathrm{LeakyReLU}_{0.2}(a_1 \cdot W x_i + a_2 \cdot W x_j + a_3 \cdot u w_{ij}) \\
        \text{gatv2:}\quad s_{ij} &= a \cdot \mathrm{LeakyReLU}_{0.2}(W_1 x_i + W_2 x_j + u w_{ij}) \\
        x'_i &= \sum_{j \in N(i) \cup \{i\}} \mathrm{softmax}_j(s_{ij})\, W_2 x_j + b

    for each head (:math:`W_2 = W` in gat, and in gatv2 with ``shared_kernel`` :math:`W_1 = W_2`); heads are
    concatenated. The terms with :math:`w` are those of the weighted form; a bin's weight to itself is the mean of those
    of its edges. The gates are the softmax. Dropout acts on the features before the kernels.

    References
    ----------
    .. [1] Velickovic et al. (2018), ICLR.
    .. [2] Brody, Alon and Yahav (2022), ICLR.
    """

    def __init__(
        self,
        kind: str,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        edge_dim: int | None = None,
        dropout: float = 0.0,
        shared_kernel: bool = True,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"heads": heads, "edge_dim": edge_dim}
        width = out_channels // heads
        if kind == "gat":
            self.conv = GATConv(in_channels, width, **options)
        else:
            self.conv = GATv2Conv(in_channels, width, share_weights=shared_kernel, **options)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the module: features (N, out_channels) and attention of the edges (E, heads)."""
        attributes = None if weight is None else weight.unsqueeze(1)
        out, (_, attention) = self.conv(self.dropout(x), edge_index, attributes, return_attention_weights=True)
        return out, _of_edges(edge_index, attention)


class Aggregate(nn.Module):
    r"""Mean or sum of what comes over the edges, by PyTorch Geometric.

    .. math:: x'_i = W_1 x_i + W_2 \sum_j c_{ij} x_j + b

    over the edges j -> i, with :math:`c_{ij} = w_{ij}` for the sum and :math:`w_{ij} / n_i` for the mean over the
    :math:`n_i` edges of bin i; these are the gates. With ``shared_kernel`` :math:`W_1 = W_2`. Weights may be negative.

    References
    ----------
    .. [1] Morris et al. (2019), AAAI 33, 4602-4609.
    """

    def __init__(
        self,
        kind: str,
        in_channels: int,
        out_channels: int,
        *,
        dropout: float = 0.0,
        shared_kernel: bool = False,
    ) -> None:
        super().__init__()
        self.mean = kind == "mean"
        self.linear = nn.Linear(in_channels, out_channels) if shared_kernel else None
        if shared_kernel:
            self.conv = SimpleConv(kind, combine_root="sum")
        else:
            self.conv = GraphConv(in_channels, out_channels, aggr=kind)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the module: features (N, out_channels) and factors of the edges (E, 1)."""
        out = self.conv(self.dropout(x), edge_index, weight)
        if self.linear is not None:
            out = self.linear(out)
        target = edge_index[1]
        factors = x.new_ones(len(target)) if weight is None else weight
        if self.mean:
            factors = factors / torch.bincount(target, minlength=len(x))[target]
        return out, factors.unsqueeze(1)


def _glorot(n_in: int, n_out: int) -> tuple[float, float]:
    limit = (6.0 / (n_in + n_out)) ** 0.5
    return -limit, limit


def _not_negative(weight: Tensor, kind: str) -> Tensor:
    if bool((weight < 0).any()):
        raise InputError(f"edge weights go down to {float(weight.min()):g}; graph {kind!r} wants none below 0")
    return weight


def _of_edges(edge_index: Tensor, values: Tensor) -> Tensor:
    """Values of the edges as they were given, of those that PyG keeps: edges between bins, then each bin to itself."""
    source, target = edge_index
    between = source != target
    n_between = int(between.sum())
    found = values.new_empty(len(source), values.shape[1])
    found[between] = values[:n_between]
    found[~between] = values[n_between:][source[~between]]
    return found
