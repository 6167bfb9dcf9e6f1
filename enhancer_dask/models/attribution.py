"""How much each bin of a graph contributes to the predicted expression of a gene, by gradients.

The copies of a graph at all points of a path pass the model together, once; each gene then costs one backward pass
through them. (captum makes the forward pass, too, anew for every gene; its values are the same.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.models.copies import (
    around,
    baselines,
    batch_of,
    copies_at_once,
    evaluating,
    input_tensors,
    on_device,
    one_graph,
    predicted,
)

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

GRADIENT_METHODS = ("gradient-x-input", "integrated-gradients", "shap")
Floats = NDArray[np.float32]
Path = tuple[NDArray[np.float64], NDArray[np.float64]]


def attribute(
    model: nn.Module,
    data: Data,
    genes: ArrayLike,
    *,
    method: str = "gradient-x-input",
    reach: int = 1,
    n_steps: int = 50,
    n_samples: int = 200,
    baseline: str = "zero",
    seed: int = 0,
    copies: int | None = None,
) -> Floats:
    r"""Contribution of each bin to the predicted expression of genes.

    With :math:`f_g` the prediction summed over the bins of gene g, input :math:`x_i` of bin i and baseline
    :math:`b_i`:

    - ``gradient-x-input`` [1]_, GraphReg's "saliency": :math:`x_i \, \partial f_g(x) / \partial x_i`;
    - ``integrated-gradients`` [2]_: :math:`(x_i - b_i) \int_0^1 \partial_i f_g(b + a (x - b)) \, da`, by
      Gauss-Legendre quadrature. It is complete: over all bins it sums to :math:`f_g(x) - f_g(b)`;
    - ``shap``: the same integral from points drawn at random, which is what the GradientExplainer of SHAP [3]_ (and
      captum's GradientShap) computes with one background. GraphReg: 200 samples, zero background.

    Parameters
    ----------
    model : module
        Takes a batch, returns expression of shape (N,). Its ``inputs`` names what gradients are taken of.
    data : Data
        One graph, see :func:`enhancer_dask.models.data.to_data`.
    genes : int or int array, shape (G,)
        Nodes.
    method : str
        One of ``GRADIENT_METHODS``.
    reach : int
        Bins on both sides of a gene whose prediction counts as its own. GraphReg: 1.
    n_steps, n_samples : int
        Points of the integral, of the two last methods.
    baseline : str
        ``zero`` or ``median`` (of each channel over the bins of the graph), of the two last methods.
    seed : int
        Of the samples.
    copies : int, optional
        Points of the path that pass the model together; by default as many as memory is sure to hold.

    Returns
    -------
    float32 array, shape (G, N)
        In the unit of the prediction, summed over the channels of a bin. Positive: the bin raises the gene.

    Raises
    ------
    InputError
        If a gene is not in the graph, an argument makes no sense, or the graph does not fit the model.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.
    .. [2] Sundararajan, Taly and Yan (2017), ICML, PMLR 70, 3319-3328.
    .. [3] Lundberg and Lee (2017), NeurIPS 30, 4765-4774.
    """
    nodes = one_graph(data, genes)
    found = np.zeros((nodes.size, int(data.num_nodes)), dtype=np.float32)
    parts = _contributions(
        model, data, nodes, path_points(method, n_steps, n_samples, seed), method, reach, baseline, copies
    )
    for row, parts_of_gene in parts:
        for values in parts_of_gene.values():
            found[row] += values.flatten(1).sum(dim=1).numpy(force=True)
    return found


def attribute_channels(
    model: nn.Module,
    data: Data,
    genes: ArrayLike,
    *,
    method: str = "gradient-x-input",
    reach: int = 1,
    n_steps: int = 50,
    n_samples: int = 200,
    baseline: str = "zero",
    seed: int = 0,
    copies: int | None = None,
) -> dict[str, Floats]:
    """Contribution of each channel of each bin: see :func:`attribute`.

    Returns
    -------
    dict of float32 arrays, shape (G, N, ...)
        By the names of the model's inputs, each of its shape: features of ``x``, the finer bins of a track, the bases
        of a sequence (4, L). Large where the inputs are.
    """
    nodes = one_graph(data, genes)
    found: dict[str, Floats] = {}
    parts = _contributions(
        model, data, nodes, path_points(method, n_steps, n_samples, seed), method, reach, baseline, copies
    )
    for row, parts_of_gene in parts:
        for name, values in parts_of_gene.items():
            whole = found.setdefault(name, np.zeros((nodes.size, *values.shape), dtype=np.float32))
            whole[row] += values.numpy(force=True)
    return found


def path_points(method: str, n_steps: int, n_samples: int, seed: int) -> Path:
    """Where on the way from baseline (0) to input (1) the gradients are taken, and their weights, which sum to 1.

    Raises
    ------
    InputError
        If the method is unknown or a number is not possible.
    """
    if method not in GRADIENT_METHODS:
        raise InputError(f"method is {method!r}, want one of {', '.join(GRADIENT_METHODS)}")
    for name, value in (("n_steps", n_steps), ("n_samples", n_samples)):
        if value < 1:
            raise InputError(f"{name} is {value}, want at least 1")
    if method == "gradient-x-input":
        return np.ones(1), np.ones(1)
    if method == "shap":
        return np.random.default_rng(seed).random(n_samples), np.full(n_samples, 1.0 / n_samples)
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    return (1.0 + points) / 2.0, weights / 2.0


def _contributions(
    model: nn.Module,
    data: Data,
    genes: NDArray[np.int64],
    path: Path,
    method: str,
    reach: int,
    baseline: str,
    copies: int | None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Row of a gene and a part of its contributions, to be added up: (N, ...) per input."""
    if reach < 0:
        raise InputError(f"reach is {reach}, want at least 0")
    data = on_device(model, data)
    whole = input_tensors(model, data)
    base = baselines(whole, "zero" if method == "gradient-x-input" else baseline)
    away = {name: whole[name] - base[name] for name in whole}
    step = copies_at_once(whole, int(data.num_nodes), copies)
    points, weights = path
    with evaluating(model), torch.enable_grad():
        for start in range(0, len(points), step):
            here, weight = points[start : start + step], weights[start : start + step]
            inputs = {name: _between(base[name], away[name], here) for name in whole}
            output = predicted(model, batch_of([data] * len(here), inputs), len(here))
            for row, gene in enumerate(genes):
                total = output[:, around(int(gene), reach)].sum()
                gradients = _gradients(total, inputs, last=row == len(genes) - 1)
                yield row, {name: away[name] * _weighted(gradients[name], weight) for name in whole}


def _between(base: Tensor, away: Tensor, points: NDArray[Any]) -> Tensor:
    at = torch.as_tensor(points, dtype=base.dtype, device=base.device)
    return (base + at.view(-1, *[1] * base.dim()) * away).requires_grad_()


def _gradients(total: Tensor, inputs: dict[str, Tensor], *, last: bool) -> dict[str, Tensor]:
    """Of one number with respect to each input; zeros for what it does not depend on."""
    if not total.requires_grad:
        return {name: torch.zeros_like(values) for name, values in inputs.items()}
    found = torch.autograd.grad(total, list(inputs.values()), retain_graph=not last, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def _weighted(gradients: Tensor, weights: NDArray[Any]) -> Tensor:
    """(C, N, ...) -> (N, ...)."""
    return torch.tensordot(torch.as_tensor(weights, dtype=gradients.dtype, device=gradients.device), gradients, dims=1)
