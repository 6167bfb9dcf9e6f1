"""Loss and errors of a model on graphs, summed over batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from enhancer_dask.errors import InputError
from enhancer_dask.models.losses import Loss, mask_of, squared, sums
from enhancer_dask.models.metrics import GENE_MASKS, PUBLISHED_MASK, WINDOW
from enhancer_dask.models.registry import Expression

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

NOTHING = 0.1
"""Predictions with less than this share of the standard deviation of the target are worth a word."""
Context = Callable[[], AbstractContextManager[Any]]


def loss_totals(
    model: Expression,
    batches: Iterable[Data],
    loss: Loss,
    *,
    device: Any = None,
    context: Context | None = None,
) -> Tensor:
    """Sum of the loss of each replica over the bins that count, and how many they are.

    Returns
    -------
    float64 tensor, shape (R + 1,)
        Of the ranks of a training they add up.

    Notes
    -----
    A model that is judged by something else than its expression has ``validation_loss(batch, loss)``, a mean over bins.
    """
    own = getattr(model, "validation_loss", None)
    n_losses = 1 if own is not None else int(getattr(model, "replicas", 1))
    totals = torch.zeros(n_losses + 1, dtype=torch.float64)  # the shape that all ranks have, also one without a graph
    with _judged(model):
        for batch in batches:
            here = moved(batch, device)
            with torch.no_grad(), (context or nullcontext)():
                if own is not None:
                    means = own(here, loss).reshape(1)
                else:
                    means = loss(model.predictions(here).float(), here.y, mask_of(here))
            n = _n_bins(here)
            totals = totals + torch.cat([means.cpu().double() * n, torch.tensor([float(n)], dtype=torch.float64)])
    return totals


def error_totals(
    model: Expression, batches: Iterable[Data], *, device: Any = None, context: Context | None = None
) -> Tensor:
    """Squared error and number of bins, float64, shape (10,): of all that count, and of two kinds of gene regions.

    Then sums over all that count: target, its square, prediction, its square. The regions are ``WINDOW`` and
    ``PUBLISHED_MASK`` of :mod:`enhancer_dask.models.metrics`. Nothing counts of a model that is judged by something
    else than its expression, see :func:`loss_totals`.
    """
    totals = torch.zeros(10, dtype=torch.float64)
    if hasattr(model, "validation_loss"):
        return totals
    with _judged(model):
        for batch in batches:
            here = moved(batch, device)
            if "y" not in here:
                continue
            with torch.no_grad(), (context or nullcontext)():
                prediction = model(here).float()
            error, mask = squared(prediction, here.y), mask_of(here)
            kinds = [mask]
            for regions in (gene_regions(here, WINDOW), gene_regions(here, PUBLISHED_MASK)):
                if regions is not None:
                    kinds.append(regions if mask is None else regions & mask)
            for i, which in enumerate(kinds):
                total, n = sums(error, which)
                totals[2 * i : 2 * i + 2] += torch.tensor([float(total), float(n)], dtype=torch.float64)
            totals[6:] += torch.cat([_moments(here.y, mask), _moments(prediction, mask)])
    return totals


def _moments(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sums of values and their squares over the bins that count, on the CPU: not every GPU has float64."""
    counted = (values if mask is None else values[mask]).cpu().double()
    return torch.stack([counted.sum(), counted.square().sum()])


def mean_errors(totals: Tensor) -> dict[str, float | None]:
    """Mean squared errors of all bins, and near genes as ``roi_masked_mse`` and ``roi_window_mse`` are defined in
    :mod:`enhancer_dask.models.metrics`; None where there is no such bin.

    ``test_variance`` is that of the target, the error of the best constant, beside that of the prediction.
    """
    error, n, inside, n_inside, masked, n_masked, y, y_squared, p, p_squared = totals.tolist()
    return {
        "test_mse": error / n if n else None,
        "test_variance": _variance(y, y_squared, n) if n else None,
        "test_prediction_variance": _variance(p, p_squared, n) if n else None,
        "roi_mse": masked / n if n_masked else None,
        "roi_window_mse": inside / n_inside if n_inside else None,
    }


def hardly_varies(result: Mapping[str, Any]) -> bool:
    """Whether the predictions of a finished training are nearly one constant, where the target is not.

    Examples
    --------
    >>> hardly_varies({"test_variance": 4.0, "test_prediction_variance": 0.03})
    True
    """
    target, predicted = result.get("test_variance"), result.get("test_prediction_variance")
    return target is not None and predicted is not None and bool(NOTHING**2 * target > predicted)


def _variance(total: float, squared: float, n: float) -> float:
    """From sums of values and their squares; what is left of a constant by rounding is 0."""
    found = squared / n - (total / n) ** 2
    return 0.0 if found < 1e-14 * squared / n else found


@contextmanager
def _judged(model: Expression) -> Iterator[None]:
    """The model in evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def moved(batch: Data, device: Any) -> Data:
    """The batch on a device; None: where it is."""
    return batch if device is None or batch.edge_index.device == device else batch.to(device)


def _n_bins(batch: Data) -> int:
    """Bins that count."""
    mask = mask_of(batch)
    return int(batch.num_nodes) if mask is None else int(mask.sum())


def gene_regions(batch: Data, offsets: tuple[int, int]) -> Tensor | None:
    """Bins at some offsets, first and last, from that of a gene: bool, shape (N,); None if genes are not known.

    Examples
    --------
    >>> genes = torch.tensor([False, True, False, False])
    >>> gene_regions(Data(is_gene=genes, num_nodes=4), (-1, 1)).tolist()
    [True, True, True, False]
    """
    genes = next((batch[name] for name in GENE_MASKS if name in batch), None)
    if genes is None:
        return None
    n = genes.shape[0]
    graph = batch.get("batch")
    graph = torch.zeros(n, dtype=torch.int64, device=genes.device) if graph is None else graph
    centres = genes.nonzero().squeeze(1)
    near = centres[:, None] + torch.arange(offsets[0], offsets[1] + 1, device=genes.device)
    inside = near.clamp(0, n - 1)
    same = (near == inside) & (graph[inside] == graph[centres][:, None])
    out = torch.zeros(n, dtype=torch.bool, device=genes.device)
    out[inside[same]] = True
    return out
