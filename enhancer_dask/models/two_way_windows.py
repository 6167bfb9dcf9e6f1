"""Windows that travel over contacts in both directions: gates that regulators and genes settle between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from enhancer_dask.errors import InputError
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.options import TrainingOptions
from enhancer_dask.models.registry import Expression, columns_of, n_parameters
from enhancer_dask.models.scales import Scales
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
    hears the gates of its regulators, each without what g itself has told it, and tells each of them what the others
    say and how sure they are:

    .. math::
        s_r^0 &= \tfrac12 \big(f(X_r, \log n_r) + f(\overleftarrow{X_r}, \log n_r)\big), \qquad
        t_{r \to g}^l = \tanh(s_r^l - m_{g \to r}^l) \\
        m_{g \to r}^{l+1} &= \frac1\lambda h\Big(\frac1\kappa \sum_{r' \ne r} t_{r' \to g}^l,\ t_{r \to g}^l,\
        \frac1\kappa \sum_{r' \ne r} \big(1 - (t_{r' \to g}^l)^2\big),\ \log n_g\Big), \qquad
        s_r^{l+1} = s_r^0 + \sum_g m_{g \to r}^{l+1} \\
        z_{g + o} &\mathrel{+}= \frac1\zeta \sum_r (\tanh(s_r^L) a_o + b_o)^\top X_{r, o}, \qquad
        y_i = \sigma \big(\rho_\epsilon(w^\top X_i + d + z_i) + c\big) + \mu, \qquad
        \rho_\epsilon(v) = \tfrac12 (v + \sqrt{v^2 + \epsilon^2})

    X is the window of ``2 * reach + 1`` bins, aligned by offset o, n the edges of a node; f and h have one hidden layer
    and are the same in every round. So whether a regulator activates or silences is inferred from its own signal and
    from what its genes make of it. ``b`` and ``w`` are a linear path beside the gates: of the map that the model
    ``ridge`` has from a linked window to that of the gene, ``b`` is the diagonal, offset to the same offset. The scale
    of the signal is kept (no norm), and only bins with edges carry more than the linear path.

    Columns of X, weights of edges, the sums over edges (kappa, lambda, zeta) and the target (mu, sigma) are in units of
    the graphs that the model is trained on, see :class:`.Scales`: they do not change with the bins that are predicted,
    as those of a norm do, and features of any size and genes with any number of contacts begin where the ReLU bends.

    Parameters
    ----------
    in_channels : int
        F, columns of ``x`` that are read.
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
    softness : float
        epsilon, in standard deviations of the target: how far from 0 the bend of the output reaches.
    columns : sequence of int, optional
        Numbers of the columns of ``x`` that are read; None: all.

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
        rounds: int = 3,
        replicas: int = 6,
        kept: int = 3,
        edge_weight: str | None = None,
        softness: float = 0.05,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= kept <= replicas:
            raise InputError(f"kept is {kept}, want 1 to the {replicas} replicas")
        if min(reach, rounds) < 0 or min(in_channels, hidden, message_width) < 1 or not softness > 0:
            raise InputError("reach and rounds want at least 0, in_channels, hidden and message_width at least 1")
        self.reach, self.rounds, self.replicas, self.kept = reach, rounds, replicas, kept
        self.in_channels, self.columns = in_channels, columns_of(columns, in_channels)
        self.edge_weight, self.softness = edge_weight, softness
        self.scales = Scales(in_channels)
        size = in_channels * (2 * reach + 1)
        self.encoder, self.encoder_bias = _random(size, hidden, replicas), _zeros(hidden, replicas)
        self.encoder_degree = _zeros(hidden, replicas)
        self.state, self.state_bias = _random(hidden, replicas), _zeros(replicas)
        self.message = nn.Parameter(torch.randn(replicas, 4, message_width) / 2)
        self.message_bias = _zeros(replicas, message_width)
        self.reply = nn.Parameter(torch.randn(replicas, message_width) * 0.3 / math.sqrt(message_width))
        self.reply_bias = _zeros(replicas)
        self.gated = nn.Parameter(torch.ones(size, replicas))
        self.ungated, self.own = _zeros(size, replicas), _zeros(size, replicas)
        self.own_bias, self.offset = _zeros(replicas), _zeros(replicas)
        if edge_weight is not None:
            self.shift, self.stretch = _zeros(replicas), _zeros(replicas)
        self.register_buffer("ranking", torch.arange(replicas))

    def forward(self, batch: Data) -> Tensor:
        """Mean of the best replicas, shape (N,)."""
        return self.predictions(batch)[self.ranking[: self.kept]].mean(0)

    def calibrate(self, batches: Iterable[Data]) -> None:
        """Take the units of inputs, sums and output from the graphs to train on.

        It begins as the mean of the target, on the rising side of the bend, and with no prediction below the least
        target, where a Poisson loss of counts would have no gradient.
        """
        self.scales.learn(batches, self.signal, self.reach, self.edge_weight)
        with torch.no_grad():
            self.own_bias.copy_(-self.scales.floor.expand(self.replicas))
            self.offset.copy_(self.scales.floor.expand(self.replicas))

    def choose(self, losses: Tensor) -> None:
        """Rank the replicas by their validation losses, shape (R,)."""
        self.ranking.copy_(losses.nan_to_num(nan=math.inf).argsort())
        super().choose(losses)

    def optimiser(self, options: TrainingOptions) -> torch.optim.Optimizer:
        """Adam, with a decay of weights that does not pass through its moments: replicas do not meet in it."""
        return torch.optim.AdamW(
            self.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=options.fused
        )

    def schedule(self, optimiser: torch.optim.Optimizer, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Up for a fifth of the steps, then down to nothing: what few steps learn must settle."""
        largest = optimiser.param_groups[0]["lr"]
        up = 0.2 if total_steps != 5 else 0.4  # a way up of one step is one of length 0 to torch, which divides by it
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, largest, total_steps=total_steps, pct_start=up)

    def predictions(self, batch: Data) -> Tensor:
        """Of every replica, shape (R, N)."""
        view = self._view(batch)
        signal = view.own @ self.own + self.own_bias
        if len(view.sides.genes):
            signal = signal + self._linked(view, self._gates(view))
        expression = _smooth_relu(signal, self.softness) + self.offset
        return (expression * self.scales.spread + self.scales.base).T

    def edge_gates(self, batch: Data) -> Tensor:
        """Gate of each edge, -1 to 1, mean of the best replicas, shape (E, 1)."""
        gates = self._gates(self._view(batch))
        sign = self.gated.mean(0).sign()  # a replica may have learnt both the other way round
        return (gates * sign)[:, self.ranking[: self.kept]].mean(1, keepdim=True)

    def parts(self, batch: Data) -> list[tuple[str, tuple[int, ...], int]]:
        """Windows, states, messages and read-out, with the parameters of one replica."""
        view = self._view(batch)
        states = ("encoder", "encoder_bias", "encoder_degree", "state", "state_bias")
        messages = ("message", "message_bias", "reply", "reply_bias")

        def size(names: tuple[str, ...]) -> int:
            return sum(self.get_parameter(name).numel() for name in names) // self.replicas

        n_edges, n_bins = len(view.sides.of_source), len(view.own)
        rest = n_parameters(self) - size(states) - size(messages)
        return [
            ("windows", tuple(view.own.shape), 0),
            ("states of regulators (f)", (len(view.linked),), size(states)),
            (f"messages, there and back × {self.rounds} (h)", (n_edges,), size(messages)),
            ("gates of edges", (n_edges,), 0),
            ("linear read-out, soft ReLU", (n_bins,), rest),
        ]

    def _view(self, batch: Data) -> _View:
        at, ends = places(batch, self.reach), sides(batch.edge_index)
        own = windows(self.signal(batch) / self.scales.signal, at, self.reach).flatten(1)
        weight = weight_named(batch, self.edge_weight)
        weight = None if weight is None else weight[:, None] / self.scales.weight
        return _View(at, ends, own, own.index_select(0, ends.regulators), weight)

    def _gates(self, view: _View) -> Tensor:
        """Gate of each edge, shape (E, R)."""
        ends, first = view.sides, self._first_state(view)
        n_regulators = torch.bincount(ends.of_target, minlength=len(ends.genes)).to(first.dtype)
        crowd = self.message[:, 3, :, None] * n_regulators.log()[ends.of_target] + self.message_bias[..., None]
        state, replies = first, first.new_zeros(())
        for _ in range(self.rounds):
            gate = torch.tanh(self._of_edges(state, view) - replies)
            replies = self._replies(self._others(gate, ends), gate, self._others(1 - gate.square(), ends), crowd)
            state = first.index_add(0, ends.of_source, replies)
        return torch.tanh(self._of_edges(state, view))

    def _others(self, values: Tensor, ends: Sides) -> Tensor:
        """Sum over the other edges that reach the same gene, shape (E, R)."""
        total = values.new_zeros(len(ends.genes), self.replicas).index_add(0, ends.of_target, values)
        return (total.index_select(0, ends.of_target) - values) / self.scales.crowd

    def _replies(self, others: Tensor, gate: Tensor, doubt: Tensor, crowd: Tensor) -> Tensor:
        """What genes tell their regulators, shape (E, R). Edges are the last axis inside: long rows are quick."""
        said = crowd
        for i, values in enumerate((others, gate, doubt)):
            said = said + values.T[:, None].contiguous() * self.message[:, i, :, None]
        replies = (functional.silu(said) * self.reply[..., None]).sum(1) + self.reply_bias[:, None]
        return replies.T / self.scales.audience

    def _first_state(self, view: _View) -> Tensor:
        """State of the regulators from their own windows, shape (U, R); the same for a window and its mirror image."""
        mirrored = view.linked.unflatten(1, (-1, 2 * self.reach + 1)).flip(2).flatten(1)
        n_genes = torch.bincount(view.sides.of_source, minlength=len(view.linked)).to(mirrored.dtype)
        both = torch.stack([view.linked, mirrored]) @ self.encoder.flatten(1)
        bias = n_genes.log()[:, None, None] * self.encoder_degree + self.encoder_bias
        hidden = functional.silu(both.unflatten(2, self.encoder.shape[1:]) + bias).mean(0)
        return (hidden * self.state).sum(1) + self.state_bias

    def _of_edges(self, state: Tensor, view: _View) -> Tensor:
        """State of the regulator at the source of each edge, shape (E, R)."""
        of_source = state.index_select(0, view.sides.of_source)
        return of_source if view.weight is None else of_source + self.shift * view.weight

    def _linked(self, view: _View, gates: Tensor) -> Tensor:
        """What the edges bring, shape (N, R)."""
        ends, sent = view.sides, view.linked.index_select(0, view.sides.of_source)
        if view.weight is not None:
            gates = gates * (1 + self.stretch * view.weight)
            plain = sent[..., None] * (1 + self.stretch * view.weight)[:, None]
        else:
            plain = sent[..., None]
        heard = gates.new_zeros(len(ends.genes), sent.shape[1], self.replicas)
        heard = heard.index_add(0, ends.of_target, sent[..., None] * gates[:, None]) * self.gated
        silent = plain.new_zeros(len(ends.genes), *plain.shape[1:]).index_add(0, ends.of_target, plain)
        brought = heard + silent * self.ungated
        brought = brought.unflatten(1, (-1, 2 * self.reach + 1)).sum(1) / self.scales.linked
        return put_down(brought, ends.genes, view.at, self.reach)


def _smooth_relu(values: Tensor, softness: float) -> Tensor:
    """A ReLU whose gradient does not die, and that costs a square root."""
    return (values + torch.sqrt(values.square() + softness**2)) / 2


def _random(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[0]))


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))
