"""What a training minimises: a number per bin, and its mean over the bins that count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from enhancer_dask.errors import InputError

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

LEAST_RATE = 1e-6
"""A predicted rate below it counts as it: the logarithm of a Poisson mean must be there."""
PerBin = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    """``(prediction - y)^2`` per bin."""
    return (prediction - y).square()


def poisson(prediction: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of counts ``y`` under the rate ``mu``: ``mu - y log(mu) + lgamma(y + 1)`` per bin [1]_.

    Notes
    -----
    ``mu`` is the prediction, at least ``LEAST_RATE``; below it the gradient is 0.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.

    Examples
    --------
    >>> round(poisson(torch.tensor([2.0]), torch.tensor([3.0])).item(), 4)  # -log(exp(-2) 2^3 / 3!)
    1.7123
    """
    rate = prediction.clamp_min(LEAST_RATE)
    return rate - y * rate.log() + torch.lgamma(y + 1)


def huber(prediction: Tensor, y: Tensor, *, delta: float = 1.0) -> Tensor:
    """``e^2 / 2`` where the error ``e`` is at most ``delta``, ``delta (|e| - delta / 2)`` beyond, per bin [1]_.

    References
    ----------
    .. [1] Huber (1964), Annals of Mathematical Statistics 35, 73-101.
    """
    return functional.huber_loss(prediction, y.expand_as(prediction), reduction="none", delta=delta)


def per_bin(name: str, *, delta: float = 1.0) -> PerBin:
    """The loss of each bin, by name: ``mse``, ``poisson`` or ``huber``.

    Returns
    -------
    function
        Of predictions, shape (..., N), and targets, shape (N,); returns shape (..., N).

    Raises
    ------
    InputError
        If there is no such loss.
    """
    known: dict[str, PerBin] = {"mse": squared, "poisson": poisson, "huber": partial(huber, delta=delta)}
    if name not in known:
        raise InputError(f"loss is {name!r}, want one of {', '.join(known)}")
    return known[name]


def sums(values: Tensor, mask: Tensor | None) -> tuple[Tensor, int | Tensor]:
    """Sum over the bins that count, shape (...), and how many they are.

    Parameters
    ----------
    values : tensor, shape (..., N)
    mask : bool tensor, shape (N,), optional
        The bins that count; all without it.
    """
    if mask is None:
        return values.sum(-1), values.shape[-1]
    return torch.where(mask, values, 0.0).sum(-1), mask.sum()


def mean_loss(name: str, *, delta: float = 1.0) -> Loss:
    """The mean loss over the bins that count, by name; 0 where none counts.

    Returns
    -------
    function
        Of predictions, shape (..., N), targets, shape (N,), and a mask or None; returns shape (...).

    Examples
    --------
    >>> y, mask = torch.tensor([1.0, 0.0, 9.0]), torch.tensor([True, True, False])
    >>> mean_loss("mse")(torch.zeros(2, 3), y, mask).tolist()
    [0.5, 0.5]
    """
    values = per_bin(name, delta=delta)

    def loss(prediction: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            y = torch.where(mask, y, 0.0)  # a target that is not known would leave no gradient: 0 * NaN is NaN
        total, n = sums(values(prediction, y), mask)
        return total / (n.clamp_min(1) if isinstance(n, Tensor) else max(n, 1))

    return loss


def mask_of(batch: Data) -> Tensor | None:
    """The bins that count in a batch; None if all do."""
    return batch.get("loss_mask")
