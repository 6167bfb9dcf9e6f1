"""From contributions of bins to scores of candidate enhancers, and how well these find the true ones. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from enhancer_dask.errors import InputError
from enhancer_dask.models.metrics import spearman

Floats = NDArray[np.float64]
COARSE_REACH, FINE_REACH = 1, 40  # bins around a candidate: of the graph, and of 100 bp as published


def enhancer_scores(
    contributions: ArrayLike, candidates: ArrayLike, *, reach: int = COARSE_REACH, absolute: bool = True
) -> Floats:
    """Score of candidate enhancers of one gene: the largest contribution near each, as a share of the largest of all.

    Parameters
    ----------
    contributions : array, shape (M,)
        Of all bins of the window to the gene, see :func:`enhancer_dask.models.attribution.attribute`.
    candidates : int array, shape (P,)
        Their middle bins.
    reach : int
        Bins on both sides of the middle that are searched. Published: 40 bins of 100 bp.
    absolute : bool
        Size of the contributions; without it only positive ones count, as published, and silencers score low.

    Returns
    -------
    float64 array, shape (P,)
        0 to 1; without ``absolute`` also negative. All 0 if no contribution is above 0.

    Notes
    -----
    Of GraphReg: Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.

    Examples
    --------
    >>> enhancer_scores([0, 0, -4, 1, 0, 2], [0, 4, 2]).tolist()
    [0.0, 0.5, 1.0]
    >>> enhancer_scores([0, 0, -4, 1, 0, 2], [0, 4, 2], absolute=False).tolist()
    [0.0, 1.0, 0.5]
    """
    values = np.asarray(contributions, dtype=np.float64)
    at = _inside(candidates, values.size)
    if reach < 0:
        raise InputError(f"reach is {reach}, want at least 0")
    if not values.size:
        return np.zeros(0)
    values = np.abs(values) if absolute else values
    largest = values.max()
    if not largest > 0:
        return np.zeros(at.size)
    return np.asarray(ndimage.maximum_filter1d(values, 2 * reach + 1, mode="nearest")[at] / largest)


def signed_scores(contributions: ArrayLike, candidates: ArrayLike, *, reach: int = COARSE_REACH) -> Floats:
    """Contribution of candidates to a gene, summed over the bins around the middle of each: negative for silencers.

    Examples
    --------
    >>> signed_scores([0, 0, -4, 1, 0, 2], [0, 4, 2]).tolist()
    [0.0, 3.0, -3.0]
    """
    values = np.asarray(contributions, dtype=np.float64)
    at = _inside(candidates, values.size)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(sums[np.minimum(at + reach + 1, values.size)] - sums[np.maximum(at - reach, 0)])


def _inside(candidates: ArrayLike, size: int) -> NDArray[np.int64]:
    at = np.asarray(candidates, dtype=np.int64)
    if at.size and not (at.min() >= 0 and at.max() < size):
        raise InputError(f"candidates lie in bins {at.min()} to {at.max()}, want 0 to {size - 1}")
    return at


def precision_recall(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Precision and recall at each distinct score, the highest first; equal scores are called together.

    Raises
    ------
    InputError
        If a score is not a number.
    """
    values, is_true = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if np.isnan(values).any():
        raise InputError(f"{np.isnan(values).sum()} of {values.size} scores are not numbers")
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True)) if values.size else np.zeros(0, dtype=np.int64)
    hits = np.cumsum(is_true[order])[last]
    n_true = is_true.sum()
    return hits / (last + 1.0), hits / n_true if n_true else np.full(last.size, np.nan)


def auprc(scores: ArrayLike, labels: ArrayLike) -> float:
    r"""Area under the precision-recall curve as average precision: :math:`\sum_k (R_k - R_{k-1}) P_k`.

    Parameters
    ----------
    scores : array, shape (P,)
        High for what is called first.
    labels : bool array, shape (P,)

    Returns
    -------
    float
        Of random scores about the share of true labels. NaN if no label is true.

    Examples
    --------
    >>> round(auprc([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]), 4)
    0.8333
    """
    precision, recall = precision_recall(scores, labels)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if np.asarray(labels).any() else float("nan")


def trapezoidal_auprc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The same area by the trapezoidal rule from precision 1 at recall 0, which GraphReg prints as AUPRC."""
    if not np.asarray(labels).any():
        return float("nan")
    precision, recall = precision_recall(scores, labels)
    return float(np.trapezoid(np.append(1.0, precision), np.append(0.0, recall)))


def judge(table: pd.DataFrame, methods: Sequence[str], *, min_elements: int = 1, min_hits: int = 1) -> pd.DataFrame:
    """How well scores find the true links.

    Parameters
    ----------
    table : DataFrame
        Columns graph, gene, ``is_linked``, perhaps ``effect`` and ``sign``, and per method its score, and perhaps
        ``METHOD_signed``, its signed effect.
    methods : sequence of str
        Columns.
    min_elements, min_hits : int
        Only genes with so many candidates, and true ones among them. GraphReg: 10 and 1.

    Returns
    -------
    DataFrame
        Per method: ``n_genes, n_pairs, n_linked``; ``prevalence``, the AUPRC of random scores; ``auprc`` and
        ``auprc_trapezoidal`` of all pairs together; ``auprc_gene_mean`` over genes; ``spearman`` of the signed effect
        (of the score, where there is none) with the true ``effect`` of all pairs; ``sign_agreement``, the share of
        true links whose sign is found. NaN where nothing is known.
    """
    genes = table.groupby(["graph", "gene"], sort=False)["is_linked"]
    kept = table[(genes.transform("size") >= min_elements) & (genes.transform("sum") >= min_hits)]
    labels = kept["is_linked"].to_numpy(bool)
    rows = []
    for method in methods:
        each = [auprc(part[method], part["is_linked"]) for _, part in kept.groupby(["graph", "gene"], sort=False)]
        signed = kept.get(f"{method}_signed")
        rows.append({
            "method": method, "n_genes": len(each), "n_pairs": len(kept), "n_linked": int(labels.sum()),
            "prevalence": float(labels.mean()) if len(kept) else np.nan,
            "auprc": auprc(kept[method], labels), "auprc_trapezoidal": trapezoidal_auprc(kept[method], labels),
            "auprc_gene_mean": float(np.nanmean(each)) if each else np.nan,
            "spearman": _spearman(kept[method] if signed is None else signed, kept.get("effect")),
            "sign_agreement": _agreement(signed, kept.get("sign"), labels),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _spearman(scores: pd.Series, effect: pd.Series | None) -> float:
    if effect is None:
        return float("nan")
    known = effect.notna().to_numpy()
    return spearman(scores.to_numpy()[known], effect.to_numpy()[known])


def _agreement(signed: pd.Series | None, sign: pd.Series | None, labels: NDArray[np.bool_]) -> float:
    if signed is None or sign is None or not labels.any():
        return float("nan")
    return float(np.mean(np.sign(signed.to_numpy()[labels]) == np.sign(sign.to_numpy()[labels])))
