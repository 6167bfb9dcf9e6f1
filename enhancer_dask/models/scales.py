"""What the graphs of a training hold: sizes of signal, sums and target, in whose units a model can work."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from enhancer_dask.errors import InputError
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.losses import mask_of
from enhancer_dask.models.windows import places, put_down, sides, windows

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

FEW = 5
"""Edges in whose units sums over the edges of a node are: those of a gene in Bell's chromosomes with silencers."""


class Scales(nn.Module):
    """Units of a model's inputs, sums and output, learnt before its first step and kept with its weights.

    All are 1, ``base`` 0 and ``floor`` -1, until :meth:`learn` is called.

    Parameters
    ----------
    in_channels : int
        F, columns of ``x``.

    Attributes
    ----------
    signal : tensor, shape (F,)
        Root mean square of each column of ``x``.
    weight : tensor, shape ()
        The same of the weight of edges.
    linked : tensor, shape ()
        The same over the bins that count of what windows bring, each column in its unit, all added up.
    crowd, audience : tensor, shape ()
        Edges that reach the gene of an edge, and that leave its regulator, means over edges, in units of ``FEW``.
    base, spread : tensor, shape ()
        Mean and standard deviation of the target over the bins that count.
    floor : tensor, shape ()
        Its least value there in these units, below 0; -1 where that is lower.
    """

    signal: Tensor
    weight: Tensor
    linked: Tensor
    crowd: Tensor
    audience: Tensor
    base: Tensor
    spread: Tensor
    floor: Tensor

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("signal", torch.ones(in_channels))
        for name in ("weight", "linked", "crowd", "audience", "spread"):
            self.register_buffer(name, torch.ones(()))
        self.register_buffer("base", torch.zeros(()))
        self.register_buffer("floor", -torch.ones(()))

    def learn(
        self, batches: Iterable[Data], read: Callable[[Data], Tensor], reach: int, edge_weight: str | None
    ) -> None:
        """Take the units from all bins and edges of some batches; one that would be 0 or not finite stays as it was.

        Parameters
        ----------
        batches : iterable of Data
        read : function
            Gives the columns of ``x`` of a batch that count, shape (N, F).
        reach : int
            Bins of a window on each side.
        edge_weight : str, optional
            Name of the weight of edges.
        """
        totals: dict[str, Tensor] = {}
        least = torch.tensor(torch.inf, dtype=torch.float64)
        for batch in batches:
            for name, value in _sums(batch, read(batch).double(), reach, edge_weight).items():
                totals[name] = totals.get(name, 0) + value
            least = torch.minimum(least, _counted(batch).min()) if len(_counted(batch)) else least
        n_bins, n_edges, n_counted = (totals[name].clamp_min(1) for name in ("bins", "edges", "counted"))
        _keep(self.signal, (totals["signal"] / n_bins).sqrt())
        in_units = totals["brought"] / torch.outer(self.signal, self.signal)
        _keep(self.linked, (in_units.sum() / n_counted).sqrt())
        _keep(self.weight, (totals["weight"] / n_edges).sqrt())
        _keep(self.crowd, totals["crowd"] / n_edges / FEW)
        _keep(self.audience, totals["audience"] / n_edges / FEW)
        mean = totals["target"] / n_counted
        _keep(self.base, mean)
        _keep(self.spread, (totals["target_squared"] / n_counted - mean.square()).clamp_min(0).sqrt())
        _keep(self.floor, ((least - mean) / self.spread).clamp_min(-1))


def _sums(batch: Data, x: Tensor, reach: int, edge_weight: str | None) -> dict[str, Tensor]:
    """What batches add up to, float64; ``x`` (N, F)."""
    ends, weight, mask = sides(batch.edge_index), weight_named(batch, edge_weight), mask_of(batch)
    brought, y = _brought(x, batch, reach), _counted(batch)
    brought = brought if mask is None else brought[mask]
    return {
        "bins": x.new_tensor(len(x)),
        "signal": x.square().sum(0),
        "edges": x.new_tensor(len(ends.of_source)),
        "weight": x.new_zeros(()) if weight is None else weight.double().square().sum(),
        "crowd": torch.bincount(ends.of_target).double().square().sum(),
        "audience": torch.bincount(ends.of_source).double().square().sum(),
        "counted": x.new_tensor(len(y)),
        "brought": brought.T @ brought,
        "target": y.sum(),
        "target_squared": y.square().sum(),
    }


def _counted(batch: Data) -> Tensor:
    """Targets of the bins that count, float64."""
    mask = mask_of(batch)
    return (batch.y if mask is None else batch.y[mask]).double()


def _brought(x: Tensor, batch: Data, reach: int) -> Tensor:
    """What the windows that reach the genes around a bin bring to it, shape (N, F)."""
    at, ends = places(batch, reach), sides(batch.edge_index)
    own = windows(x, at, reach)
    heard = own.new_zeros(len(ends.genes), *own.shape[1:]).index_add(0, ends.of_target, own[batch.edge_index[0]])
    return put_down(heard.movedim(1, 2), ends.genes, at, reach)


def _keep(unit: Tensor, found: Tensor) -> None:
    """Set a unit where it can be one."""
    unit.copy_(torch.where(found.isfinite() & (found != 0), found.to(unit.dtype), unit))
