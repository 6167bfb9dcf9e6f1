"""Windows that travel over contacts in both directions: gates that regulators and genes settle between them."""

from __future__ import annotations

import math
from typing import NamedTuple

from enhancer_dask.errors import InputError
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.registry import Expression
from enhancer_dask.models.windows import Places, Sides, places, put_down, sides, windows

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


class _View(NamedTuple):
    """A batch as the model sees it."""

    at: Places
    sides: Sides
    own: Tensor
    """Windows of all bins, shape (N, F * W)."""
    linked: Tensor
    """Windows of the regulators, shape (U, F * W)."""
    weight: Tensor | None
    """Of the edges, shape (E, 1)."""


class TwoWayWindows(Expression):
    r"""Expression from whole windows of signal that are sent over the edges, gated and signed.

    A regulator r has a state, first from the window of bins around it, then also from messages of its genes. A gene g
    hears the gates of its regulators and tells each of them what the others say:

    .. math::
        s_r^0 &= \tfrac12 (f(X_r) + f(\overleftarrow{X_r})), \qquad t_r^l = \tanh(s_r^l) \\
        m_{g \to r}^{l+1} &= h\Big(\sum_{r' \in N(g) \setminus r} t_{r'}^l,\ t_r^l,\ \log |N(g)|\Big), \qquad
        s_r^{l+1} = s_r^0 + \sum_{g \ni r} m_{g \to r}^{l+1} \\
        z_{g + o} &\mathrel{+}= \sum_{r \in N(g)} (t_r^L a_o + b_o)^\top X_{r, o}, \qquad
        y_i = \mathrm{softplus}_\beta(w^\top X_i + z_i) + c

    X is the window of ``2 * reach + 1`` bins, aligned by offset o; f and h have one hidden layer and are the same in
    every round. So whether a regulator activates or silences is inferred from its own signal and from what its genes
    make of it. ``b`` and ``w`` are a linear read-out beside the gates: ridge regression is a special case. The scale of
    the signal is kept (no norm), and only bins with edges carry more than the linear path.

    Parameters
    ----------
    in_channels : int
        F, columns of ``x``.
    reach : int
        Bins of a window on each side of its middle.
    hidden, message_width : int
        Hidden units of f and h.
    rounds : int
        L, there and back; 0: gates from the regulator's own window alone.
    replicas : int
        Independent copies trained side by side, each from other random weights.
    kept : int
        Of which so many, the best by validation, are averaged.
    edge_weight : str, optional
        Name of a weight of the edges that shifts the gate and scales the window; None: all edges are alike.
    sharpness : float
        beta, per unit of ``y``.

    Notes
    -----
    Time and memory are linear in bins and edges. About 200 parameters a replica for one channel.

    The messages are those of belief propagation [1]_ for a factor per gene that sees how many of its regulators are
    active, with a learned function in place of the factor's sum.

    References
    ----------
    .. [1] Kschischang, Frey and Loeliger (2001), Factor graphs and the sum-product algorithm. IEEE Transactions on
       Information Theory 47, 498-519.
    """

    ranking: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        reach: int = 5,
        hidden: int = 8,
        message_width: int = 8,
        rounds: int = 4,
        replicas: int = 8,
        kept: int = 2,
        edge_weight: str | None = None,
        sharpness: float = 20.0,
    ) -> None:
        super().__init__()
        if not 1 <= kept <= replicas:
            raise InputError(f"kept is {kept}, want 1 to the {replicas} replicas")
        if min(reach, rounds) < 0 or min(in_channels, hidden, message_width) < 1 or not sharpness > 0:
            raise InputError("reach and rounds want at least 0, in_channels, hidden and message_width at least 1")
        self.reach, self.rounds, self.replicas, self.kept = reach, rounds, replicas, kept
        self.edge_weight, self.sharpness = edge_weight, sharpness
        size = in_channels * (2 * reach + 1)
        self.encoder, self.encoder_bias = _random(size, hidden, replicas), _zeros(hidden, replicas)
        self.state, self.state_bias = _random(hidden, replicas), _zeros(replicas)
        self.message, self.message_bias = _random(3, message_width, replicas), _zeros(message_width, replicas)
        self.reply, self.reply_bias = _random(message_width, replicas, gain=0.3), _zeros(replicas)
        self.gated = nn.Parameter(torch.ones(size, replicas))
        self.ungated, self.own, self.own_bias = _zeros(size, replicas), _zeros(size, replicas), _zeros(replicas)
        self.offset = _zeros(replicas)
        if edge_weight is not None:
            self.shift, self.stretch = _zeros(replicas), _zeros(replicas)
        self.register_buffer("ranking", torch.arange(replicas))

    def forward(self, batch: Data) -> Tensor:
        """Mean of the best replicas, shape (N,)."""
        return self.predictions(batch)[self.ranking[: self.kept]].mean(0)

    def choose(self, losses: Tensor) -> None:
        """Rank the replicas by their validation losses, shape (R,)."""
        self.ranking.copy_(losses.nan_to_num(nan=math.inf).argsort())
        self.chosen.copy_(self.ranking[0])

    def predictions(self, batch: Data) -> Tensor:
        """Of every replica, shape (R, N)."""
        view = self._view(batch)
        signal = view.own @ self.own + self.own_bias
        if len(view.sides.genes):
            signal = signal + self._linked(view, self._gates(view))
        return (functional.softplus(signal, beta=self.sharpness) + self.offset).T

    def edge_gates(self, batch: Data) -> Tensor:
        """Gate of each edge, -1 to 1, mean of the best replicas, shape (E, 1)."""
        gates = self._gates(self._view(batch))
        sign = self.gated.mean(0).sign()  # a replica may have learnt both the other way round
        return (gates * sign)[:, self.ranking[: self.kept]].mean(1, keepdim=True)

    def _view(self, batch: Data) -> _View:
        at, ends = places(batch, self.reach), sides(batch.edge_index)
        own = windows(batch.x, at, self.reach).flatten(1)
        weight = weight_named(batch, self.edge_weight)
        return _View(at, ends, own, own[ends.regulators], weight)

    def _gates(self, view: _View) -> Tensor:
        """Gate of each edge, shape (E, R)."""
        ends = view.sides
        first = self._first_state(view.linked)
        n_regulators = torch.bincount(ends.of_target, minlength=len(ends.genes)).to(first.dtype)
        crowd = n_regulators.log()[ends.of_target][:, None, None] * self.message[2] + self.message_bias
        state = first
        for _ in range(self.rounds):
            gate = torch.tanh(self._of_edges(state, view))
            heard = gate.new_zeros(len(ends.genes), self.replicas).index_add(0, ends.of_target, gate)
            others = heard[ends.of_target] - gate
            said = functional.silu(others[:, None] * self.message[0] + gate[:, None] * self.message[1] + crowd)
            replies = (said * self.reply).sum(1) + self.reply_bias
            state = first.index_add(0, ends.of_source, replies)
        return torch.tanh(self._of_edges(state, view))

    def _first_state(self, linked: Tensor) -> Tensor:
        """State of the regulators from their own windows, shape (U, R); the same for a window and its mirror image."""
        mirrored = linked.unflatten(1, (-1, 2 * self.reach + 1)).flip(2).flatten(1)
        both = torch.stack([linked, mirrored]) @ self.encoder.flatten(1)
        hidden = functional.silu(both.unflatten(2, self.encoder.shape[1:]) + self.encoder_bias).mean(0)
        return (hidden * self.state).sum(1) + self.state_bias

    def _of_edges(self, state: Tensor, view: _View) -> Tensor:
        """State of the regulator at the source of each edge, shape (E, R)."""
        of_source = state[view.sides.of_source]
        return of_source if view.weight is None else of_source + self.shift * view.weight

    def _linked(self, view: _View, gates: Tensor) -> Tensor:
        """What the edges bring, shape (N, R)."""
        ends, window = view.sides, 2 * self.reach + 1
        if view.weight is None:
            ungated = gates.new_ones(len(gates), 1)
        else:
            ungated = 1 + self.stretch * view.weight
            gates = gates * ungated
        brought = gates.new_zeros(len(ends.genes), view.linked.shape[1], self.replicas)
        sent = view.linked[ends.of_source][..., None]
        brought = brought.index_add(0, ends.of_target, sent * (gates[:, None] * self.gated + ungated[:, None] * self.ungated))
        return put_down(brought.unflatten(1, (-1, window)).sum(1), ends.genes, view.at, self.reach)


def _random(*shape: int, gain: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * gain / math.sqrt(shape[0]))


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))
