"""How far predictions are from expression: errors, likelihoods, correlations. NumPy and SciPy alone.

Functions of arrays stand first; :func:`metrics_table` and :func:`wilcoxon_table` apply them to tables of predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from enhancer_dask.errors import InputError
from enhancer_dask.models.paired import PairedTest, pair, paired_wilcoxon

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LEAST_RATE = 1e-7
"""Rate that a prediction at or below it has in a likelihood: models of squared error may predict 0 and less."""
EXPRESSED = 5.0
"""Least target of an expressed gene, that of GraphReg."""
CONTACTS = (1, 5)
"""Least contacts of a gene with contacts, those of GraphReg."""
WINDOW = (-5, 5)
"""Offsets from a gene's bin at which the simulated chromosomes write its expression."""
GENE_MASKS = ("gene_mask", "is_gene")
"""Variables of nodes that tell where genes start, of shards of contacts and of simulated ones."""
PUBLISHED_MASK = (-3, 1)
"""Offsets from a gene's bin that Bell's evaluation counts."""


# -- of arrays -------------------------------------------------------------------------------------------------


def mse(target: ArrayLike, prediction: ArrayLike) -> float:
    """Mean squared error; NaN if there is nothing to compare."""
    y, p = pair(target, prediction)
    with np.errstate(all="ignore"):
        return float(np.mean((y - p) ** 2)) if y.size else np.nan


def poisson_nll(target: ArrayLike, prediction: ArrayLike, *, least: float = LEAST_RATE) -> Floats:
    """Negative log-likelihood of each target under a Poisson distribution with the predicted rate.

    Parameters
    ----------
    target : array, shape (N,)
        Counts, or sums of a signal, which need not be whole; those below 0 give NaN.
    prediction : array, shape (N,)
        Rates.
    least : float
        Rates below it count as it.

    Returns
    -------
    float64 array, shape (N,)
        ``lgamma(y + 1) + mu - y log(mu)``, natural logarithm; GraphReg [1]_ reports its mean.

    References
    ----------
    .. [1] Karbalayghareh et al. (2022), Genome Research 32, 930-944.

    Examples
    --------
    >>> poisson_nll([0.0, 1.0], [2.0, 1.0])
    array([2., 1.])
    """
    y, p = pair(target, prediction)
    with np.errstate(all="ignore"):
        rate = np.maximum(p, least)
        found = special.gammaln(y + 1) + rate - special.xlogy(y, rate)
    return np.asarray(np.where(y < 0, np.nan, found), dtype=np.float64)


def gaussian_log_likelihood(target: ArrayLike, prediction: ArrayLike, *, sigma: float | None = None) -> float:
    """Mean log density of the targets under a normal distribution around the predictions.

    Parameters
    ----------
    target, prediction : array, shape (N,)
    sigma : float, optional
        Standard deviation, the same for all; by default that of largest likelihood, the root of the mean squared
        error. The latter uses the targets themselves, so it is what a model could reach with the best of sigmas; a
        fair figure takes sigma from validation data.

    Returns
    -------
    float
        Natural logarithm, per value. NaN if there are none, infinite if the fit is perfect and sigma is not given.

    Raises
    ------
    InputError
        If sigma is not above 0.

    Examples
    --------
    >>> round(gaussian_log_likelihood([1.0, -1.0], [0.0, 0.0]), 4)
    -1.4189
    """
    if sigma is not None and not 0 < sigma < np.inf:
        raise InputError(f"sigma is {sigma}, want more than 0")
    error = mse(target, prediction)
    variance = error if sigma is None else sigma**2
    with np.errstate(all="ignore"):
        if sigma is None:
            return float(-0.5 * (np.log(2 * np.pi * np.float64(variance)) + 1))
        return float(-0.5 * (np.log(2 * np.pi * variance) + error / variance))


def log_scale(values: ArrayLike) -> Floats:
    """log2(x + 1), on which correlations are taken; what is below 0 counts as 0."""
    return np.asarray(np.log2(np.maximum(np.asarray(values, dtype=np.float64), 0) + 1), dtype=np.float64)


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's correlation; NaN if one side is constant, has fewer than two values, or holds NaN or infinity."""
    x, y = pair(first, second)
    if x.size < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.nan
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # rounding of the mean would leave a constant some variance
        return np.nan
    x, y = ((side - side.mean()) / np.ptp(side) for side in (x, y))
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's correlation, ties sharing their mean rank; NaN as in :func:`pearson`."""
    x, y = pair(first, second)
    if np.isnan(x).any() or np.isnan(y).any() or not x.size:
        return np.nan
    return pearson(stats.rankdata(x), stats.rankdata(y))


def near_genes(graph: ArrayLike, node: ArrayLike, is_gene: ArrayLike, offsets: tuple[int, int]) -> Mask:
    """Which nodes lie around a gene of their graph.

    Parameters
    ----------
    graph : array, shape (N,)
        Name of the graph of each node.
    node : int array, shape (N,)
        Position in the graph.
    is_gene : bool array, shape (N,)
    offsets : (int, int)
        First and last position relative to a gene, both included.

    Returns
    -------
    bool array, shape (N,)

    Examples
    --------
    >>> near_genes(["a"] * 5, range(5), [False, False, True, False, False], (-1, 0)).tolist()
    [False, True, True, False, False]
    """
    names, positions, genes = np.asarray(graph), np.asarray(node, dtype=np.int64), np.asarray(is_gene, dtype=bool)
    if not genes.any():
        return np.zeros(len(positions), dtype=bool)
    stride = int(positions.max()) + 1 + max(map(abs, offsets)) * 2  # so that no gene reaches into the next graph
    keys = pd.factorize(names)[0] * stride + positions
    around = np.arange(offsets[0], offsets[1] + 1)
    return np.asarray(np.isin(keys, (keys[genes][:, None] + around).ravel()))


def roi_window_mse(target: ArrayLike, prediction: ArrayLike, near: Mask) -> float:
    """Mean squared error over the bins near genes alone; ``near`` as :func:`near_genes` with ``WINDOW`` has it.

    It is above the error over all bins: expression stands near genes, so errors do, too.
    """
    y, p = pair(target, prediction)
    return mse(y[near], p[near])


def roi_masked_mse(target: ArrayLike, prediction: ArrayLike, near: Mask) -> float:
    """Squared error summed over the bins near genes, divided by the number of **all** bins.

    With ``near`` of ``PUBLISHED_MASK`` this is the error over regions of interest in Bell's report: target and
    prediction are set to 0 elsewhere, then averaged over the chromosome, hence values below those over all bins. Its
    mask is off centre, from three bins before a gene to one after it.
    """
    y, p = pair(target, prediction)
    if not np.any(near):
        return np.nan  # nothing is known of regions
    return mse(np.where(near, y, 0), np.where(near, p, 0))


# -- of tables -------------------------------------------------------------------------------------------------


def model_columns(predictions: pd.DataFrame, labels: Sequence[str] | None = None) -> dict[str, str]:
    """Column of each model in a table of predictions.

    Parameters
    ----------
    predictions : DataFrame
        With ``prediction``, or ``prediction_<label>`` of several models.
    labels : sequence of str, optional
        The models wanted, in order; by default all there are. A single model without a label is called ``model``,
        or as the only label says.

    Raises
    ------
    InputError
        Naming the first that is missing.
    """
    there = {str(c).removeprefix("prediction_"): str(c) for c in predictions if str(c).startswith("prediction_")}
    if "prediction" in predictions and not there:
        return {(labels[0] if labels and len(labels) == 1 else "model"): "prediction"}
    if labels is not None:
        missing = [label for label in labels if label not in there]
        if missing:
            raise InputError(f"no column 'prediction_{missing[0]}'; models there: {', '.join(there) or 'none'}")
        there = {label: there[label] for label in labels}
    if not there:
        columns = ", ".join(map(str, predictions.columns))
        raise InputError(f"no column 'prediction' or 'prediction_<label>'; columns: {columns}")
    return there


def gene_groups(
    target: ArrayLike, n_contacts: ArrayLike, *, expressed: float = EXPRESSED, contacts: Sequence[int] = CONTACTS
) -> dict[str, Mask]:
    """The groups of genes that are looked at separately.

    Returns
    -------
    dict of bool arrays, shape (genes,)
        ``genes`` (all), ``expressed`` (target at least ``expressed``), ``contacts_<n>`` (at least n contacts) and
        ``expressed_contacts_<n>`` (both: GraphReg's groups with contacts are of expressed genes).
    """
    y, n = np.asarray(target, dtype=np.float64), np.asarray(n_contacts)
    groups = {"genes": np.ones(len(y), dtype=bool), "expressed": y >= expressed}
    groups |= {f"contacts_{least}": n >= least for least in contacts}
    groups |= {f"expressed_contacts_{least}": (n >= least) & (y >= expressed) for least in contacts}
    return groups


def metrics_table(
    predictions: pd.DataFrame,
    labels: Sequence[str] | None = None,
    *,
    sigma: Mapping[str, float] | None = None,
    expressed: float = EXPRESSED,
    contacts: Sequence[int] = CONTACTS,
) -> pd.DataFrame:
    """All metrics of all models, over bins and over groups of genes.

    Parameters
    ----------
    predictions : DataFrame
        As :func:`enhancer_dask.models.predictions.predict` makes it, of one model or several.
    labels : sequence of str, optional
        See :func:`model_columns`.
    sigma : mapping, optional
        Standard deviation of the Gaussian log-likelihood by model, for instance from validation data.
    expressed, contacts
        See :func:`gene_groups`.

    Returns
    -------
    DataFrame
        Columns model, group, metric, value, n (the values that count). Group ``bins`` is all bins of the loss mask
        that have a target, with the metrics mse, poisson_nll (mean), gaussian_ll (mean), gaussian_sigma, pearson_log2,
        spearman_log2, roi_window_mse, roi_masked_mse; the groups of genes have the same without the regions.
        A metric that is not defined, for instance of no genes or of a constant prediction, is NaN.
    """
    counted = counted_bins(predictions)
    near = {
        name: near_genes(predictions["graph"], predictions["node"], predictions["is_gene"], offsets)[counted]
        for name, offsets in (("window", WINDOW), ("masked", PUBLISHED_MASK))
    }
    table = predictions[counted]
    y, genes = table["y"].to_numpy(np.float64), np.flatnonzero(table["is_gene"])
    groups = gene_groups(y[genes], table["n_contacts"].to_numpy()[genes], expressed=expressed, contacts=contacts)
    rows: list[tuple[str, str, str, float, int]] = []
    for label, column in model_columns(predictions, labels).items():
        p = table[column].to_numpy(np.float64)
        given = None if sigma is None else sigma.get(label)
        regions = [
            ("roi_window_mse", roi_window_mse(y, p, near["window"]), int(near["window"].sum())),
            ("roi_masked_mse", roi_masked_mse(y, p, near["masked"]), len(y)),
        ]
        rows += [(label, "bins", *found) for found in (*_metrics(y, p, given), *regions)]
        for group, mask in groups.items():
            mine = genes[mask]
            rows += [(label, group, *found) for found in _metrics(y[mine], p[mine], given)]
    return pd.DataFrame(rows, columns=["model", "group", "metric", "value", "n"])


def _metrics(y: Floats, p: Floats, sigma: float | None) -> list[tuple[str, float, int]]:
    error = mse(y, p)
    values = {
        "mse": error,
        "poisson_nll": float(np.mean(poisson_nll(y, p))) if y.size else np.nan,
        "gaussian_ll": gaussian_log_likelihood(y, p, sigma=sigma),
        "gaussian_sigma": float(np.sqrt(error)) if sigma is None else sigma,
        "pearson_log2": pearson(log_scale(y), log_scale(p)),
        "spearman_log2": spearman(log_scale(y), log_scale(p)),
    }
    return [(name, value, len(y)) for name, value in values.items()]


def counted_bins(predictions: pd.DataFrame) -> Mask:
    """Rows of a table of predictions that count: in the loss mask, with a target."""
    return np.asarray(predictions["loss_mask"].to_numpy(bool) & predictions["y"].notna().to_numpy())


def wilcoxon_table(
    predictions: pd.DataFrame,
    labels: Sequence[str] | None = None,
    *,
    expressed: float = EXPRESSED,
    contacts: Sequence[int] = CONTACTS,
) -> pd.DataFrame:
    """Each model against each other: is its Poisson negative log-likelihood smaller, gene by gene?

    Returns
    -------
    DataFrame
        Columns model, against, group, then those of :class:`PairedTest`. A small ``p`` says that ``model`` is better
        than ``against``. Without rows if there is one model only.
    """
    table = predictions[counted_bins(predictions) & predictions["is_gene"].to_numpy(bool)]
    y = table["y"].to_numpy(np.float64)
    nll = {label: poisson_nll(y, table[c].to_numpy()) for label, c in model_columns(predictions, labels).items()}
    groups = gene_groups(y, table["n_contacts"], expressed=expressed, contacts=contacts)
    rows: list[tuple[Any, ...]] = []
    for one, other in permutations(nll, 2):
        for group, mask in groups.items():
            found = paired_wilcoxon(nll[one][mask], nll[other][mask])
            rows.append((one, other, group, *astuple(found)))
    return pd.DataFrame(rows, columns=["model", "against", "group", *(field.name for field in fields(PairedTest))])
