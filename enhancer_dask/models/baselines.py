"""Linear regression on a bin's own window and those that its contacts bring: what any other model must beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from enhancer_dask.errors import InputError
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.registry import Expression, columns_of
from enhancer_dask.models.windows import Places, places, put_down, sides, windows

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

Floats = NDArray[np.float64]


class LinkedWindows(Expression):
    r"""Ridge or non-negative regression on own and linked signal.

    .. math:: \hat y_i = w^\top X_i + \sum_{o = i - g} A_o \sum_{r \to g} w_{rg} X_r + b

    where X is the window of ``2 * reach + 1`` bins around a bin; the sum runs over the targets g within ``reach`` of i
    and over the edges that reach them. ``w`` has F * W numbers, ``A`` W * F * W.

    Parameters
    ----------
    in_channels : int
        F, columns of ``x`` that are read.
    columns : sequence of int, optional
        Their numbers; None: all.
    reach : int
    alpha : float
        Ridge: minimises mean squared error + alpha * sum of squared weights (not of b).
    positive : bool
        No weight below 0 (b is free), by Lawson and Hanson's algorithm; the ridge penalty holds, too.
    edge_weight : str, optional
        Name of the weight :math:`w_{rg}`; None: 1.

    Notes
    -----
    One pass over the data sums X'X and X'y: memory does not depend on the number of graphs. On synthetic chromosomes
    with enhancers only this is all there is to learn.

    References
    ----------
    .. [1] Lawson and Hanson (1974), Solving Least Squares Problems.
    """

    closed_form = True

    def __init__(
        self,
        in_channels: int = 1,
        reach: int = 5,
        alpha: float = 1e-4,
        positive: bool = False,
        edge_weight: str | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if reach < 0 or in_channels < 1 or alpha < 0:
            raise InputError(f"reach is {reach}, in_channels {in_channels}, alpha {alpha}; want at least 0, 1 and 0")
        self.reach, self.alpha, self.positive, self.edge_weight = reach, alpha, positive, edge_weight
        self.in_channels, self.columns = in_channels, columns_of(columns, in_channels)
        size = in_channels * (2 * reach + 1)
        self.own = nn.Parameter(torch.zeros(size))
        self.linked = nn.Parameter(torch.zeros(2 * reach + 1, size))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, shape (N,)."""
        at, own, genes, heard = self._windows(batch)
        brought = heard @ self.linked.T
        return own @ self.own + put_down(brought[..., None], genes, at, self.reach)[:, 0] + self.bias

    def fit(self, batches: Iterable[Data]) -> None:
        """Learn from all bins of some batches, those in ``loss_mask`` where there is one.

        Raises
        ------
        InputError
            If no bin counts.
        """
        size = self.own.numel() + self.linked.numel()
        gram, moment, sums, total, n = np.zeros((size, size)), np.zeros(size), np.zeros(size), 0.0, 0
        for batch in batches:
            features, y = (values.double().numpy() for values in self._observations(batch))
            gram += features.T @ features
            moment += features.T @ y
            sums, total, n = sums + features.sum(0), total + y.sum(), n + len(y)
        if n == 0:
            raise InputError("no bin to learn from: y is missing or loss_mask leaves out all bins")
        if not (np.isfinite(gram).all() and np.isfinite(moment).all()):
            raise InputError("x, y or the edge weight has NaN or infinity")
        mean, mean_y = sums / n, total / n
        weights = _solve(gram / n - np.outer(mean, mean), moment / n - mean * mean_y, self.alpha, self.positive)
        with torch.no_grad():
            self.own.copy_(torch.from_numpy(weights[: self.own.numel()]))
            self.linked.copy_(torch.from_numpy(weights[self.own.numel() :]).view_as(self.linked))
            self.bias.fill_(float(mean_y - mean @ weights))

    def _windows(self, batch: Data) -> tuple[Places, Tensor, Tensor, Tensor]:
        """Places, windows of all bins, targets of edges, and the sum of the windows that reach each of them."""
        at, ends = places(batch, self.reach), sides(batch.edge_index)
        own = windows(self.signal(batch), at, self.reach).flatten(1)
        sent = own.index_select(0, batch.edge_index[0])
        weight = weight_named(batch, self.edge_weight)
        heard = own.new_zeros(len(ends.genes), own.shape[1])
        heard = heard.index_add(0, ends.of_target, sent if weight is None else sent * weight[:, None])
        return at, own, ends.genes, heard

    def _observations(self, batch: Data) -> tuple[Tensor, Tensor]:
        """Features (bins that count, F * W + W * F * W) and targets."""
        at, own, genes, heard = self._windows(batch)
        width = 2 * self.reach + 1
        placed = []
        for offset in range(width):  # the sum at this offset of its target, nothing elsewhere
            block = heard.new_zeros(len(genes), width, heard.shape[1])
            block[:, offset] = heard
            placed.append(put_down(block, genes, at, self.reach))
        counts = batch.get("loss_mask")
        counts = torch.ones(len(own), dtype=torch.bool) if counts is None else counts
        return torch.cat([own, *placed], 1)[counts], batch.y[counts]


def _solve(gram: Floats, moment: Floats, alpha: float, positive: bool) -> Floats:
    """Weights that minimise w'Gw - 2 m'w + alpha w'w, none below 0 if ``positive``."""
    ridge = gram + max(alpha, 1e-12 * np.trace(gram) / len(gram)) * np.eye(len(gram))
    if not ridge.any():  # all features are constant
        return np.zeros(len(gram))
    if not positive:
        return np.asarray(linalg.solve(ridge, moment, assume_a="pos"))
    root = linalg.cholesky(ridge)
    return np.asarray(optimize.nnls(root, linalg.solve_triangular(root, moment, trans="T"))[0])
