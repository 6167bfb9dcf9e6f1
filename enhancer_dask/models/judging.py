"""Loss and errors of a model on graphs, summed over batches of any size."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from enhancer_dask.errors import InputError
from enhancer_dask.models.losses import PerBin, mask_of, squared, sums
from enhancer_dask.models.registry import Expression

try:
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

AROUND_GENE = 5
"""A bin up to so many bins from that of a gene is of its region."""
GENE_MASKS = ("gene_mask", "is_gene")


def loss_totals(
    model: Expression,
    batches: Iterable[Data],
    values: PerBin,
    *,
    device: Any = None,
    context: AbstractContextManager[Any] | None = None,
) -> Tensor:
    """Loss of each replica on some graphs, and how many bins count: float64, shape (R + 1,); they add up over ranks."""
    totals = torch.zeros(1, dtype=torch.float64)
    for batch, prediction in _predictions(model, batches, device, context):
        total, n = sums(values(prediction, batch.y), mask_of(batch))
        totals = totals + torch.cat([total.double().cpu(), torch.tensor([float(n)], dtype=torch.float64)])
    return totals


def error_totals(
    model: Expression,
    batches: Iterable[Data],
    *,
    device: Any = None,
    context: AbstractContextManager[Any] | None = None,
) -> Tensor:
    """Squared error of the chosen replica and number of bins, then both in gene regions: float64, shape (4,)."""
    totals = torch.zeros(4, dtype=torch.float64)
    for batch, prediction in _predictions(model, batches, device, context):
        error, mask = squared(prediction[int(model.chosen)], batch.y), mask_of(batch)
        regions = gene_regions(batch)
        inside = regions if mask is None or regions is None else regions & mask
        for start, which in ((0, mask), (2, inside)):
            if start == 0 or inside is not None:
                total, n = sums(error, which)
                totals[start : start + 2] += torch.tensor([float(total), float(n)], dtype=torch.float64)
    return totals


def mean_errors(totals: Tensor) -> dict[str, float | None]:
    """Mean squared errors, of all bins that count and of those in gene regions; None where there is no such bin."""
    error, n, inside, n_inside = totals.tolist()
    return {"test_mse": error / n if n else None, "roi_mse": inside / n_inside if n_inside else None}


def _predictions(
    model: Expression, batches: Iterable[Data], device: Any, context: AbstractContextManager[Any] | None
) -> Iterable[tuple[Data, Tensor]]:
    """Each batch with the predictions of all replicas, shape (R, N), in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            here = batch if device is None or batch.edge_index.device == device else batch.to(device)
            with torch.no_grad(), context or nullcontext():
                prediction = model.predictions(here).float()
            yield here, prediction
    finally:
        model.train(was_training)


def gene_regions(batch: Data, reach: int = AROUND_GENE) -> Tensor | None:
    """Bins up to ``reach`` bins from that of a gene, bool, shape (N,); None if genes are not known.

    Examples
    --------
    >>> genes = torch.tensor([False, True, False, False])
    >>> gene_regions(Data(is_gene=genes, num_nodes=4), reach=1).tolist()
    [True, True, True, False]
    """
    genes = next((batch[name] for name in GENE_MASKS if name in batch), None)
    if genes is None:
        return None
    n = genes.shape[0]
    graph = batch.get("batch")
    graph = torch.zeros(n, dtype=torch.int64, device=genes.device) if graph is None else graph
    centres = genes.nonzero().squeeze(1)
    near = centres[:, None] + torch.arange(-reach, reach + 1, device=genes.device)
    inside = near.clamp(0, n - 1)
    same = (near == inside) & (graph[inside] == graph[centres][:, None])
    out = torch.zeros(n, dtype=torch.bool, device=genes.device)
    out[inside[same]] = True
    return out
