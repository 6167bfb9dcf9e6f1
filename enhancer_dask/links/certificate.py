"""The certificate of the saddlepoint: chosen pairs again, by importance resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.links.regressions import TRUSTED
from enhancer_dask.stats import poisson
from enhancer_dask.stats.distribution import NoSaddleError
from enhancer_dask.stats.tilted import tilted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLOSE = 0.07  # what the saddlepoint's error should stay below
SIGMAS = 3.0  # of the Monte-Carlo error, allowed on top


@dataclass(frozen=True, slots=True)
class Agreement:
    """How p_saddle agrees with p_tilted over the certified pairs."""

    n_pairs: int
    """Pairs where the saddlepoint is trusted and p_tilted is above 0."""
    median_abs_log_ratio: float | None
    """Of p_saddle / p_tilted, natural log; holds the Monte-Carlo error of p_tilted."""
    max_abs_log_ratio: float | None
    """The largest."""
    n_apart: int
    """Pairs whose values differ by more than 7% and three Monte-Carlo errors."""

    def asdict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def agreement(links: pd.DataFrame) -> Agreement | None:
    """Compare the columns p_saddle and p_tilted of a table of links; None if nothing was certified."""
    if "p_tilted" not in links:
        return None
    rows = links[links["p_tilted"].notna() & (links["p_tilted"] > 0) & (links["saddle_status"] == TRUSTED)]
    if rows.empty:
        return Agreement(0, None, None, 0)
    ratio = np.abs(np.log(rows["p_saddle"] / rows["p_tilted"]))
    apart = np.abs(rows["p_saddle"] - rows["p_tilted"]) > CLOSE * rows["p_tilted"] + SIGMAS * rows["se_p_tilted"]
    return Agreement(len(rows), float(ratio.median()), float(ratio.max()), int(apart.sum()))


def choose(p_saddle: Floats, *, n: int, below: float, seed: int) -> Ints:
    """Rows to certify: the ``n`` smallest p-values, ``n`` random ones, and all below a threshold, ascending.

    Examples
    --------
    >>> choose(np.array([0.5, np.nan, 1e-9, 0.2, 0.9]), n=1, below=0.3, seed=0).tolist()
    [2, 3, 4]
    """
    tested = np.flatnonzero(np.isfinite(p_saddle))
    smallest = tested[np.argsort(p_saddle[tested], kind="stable")[:n]]
    rest = np.setdiff1d(tested, smallest)
    random = np.random.default_rng(seed).permutation(rest)[:n]
    chosen: Ints = np.unique(np.concatenate([smallest, random, tested[p_saddle[tested] < below]])).astype(np.int64)
    return chosen


def certify_block(
    rna: NDArray[np.integer],
    indicators: NDArray[Any],
    gene: Ints,
    peak: Ints,
    nuisance: poisson.Nuisance,
    *,
    names: Sequence[tuple[str, ...]],
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Certify pairs of one cell type.

    Parameters
    ----------
    rna : integer array, shape (G, n)
    indicators : array, shape (P, n)
        Peaks as used, binarised or not.
    gene, peak : integer arrays, shape (L,)
    nuisance : Nuisance
    names : sequence of (cell type, gene, peak)
        A pair's random stream depends on its names and the seed alone.
    n_resamples, seed : int

    Returns
    -------
    DataFrame
        p_tilted and se_p_tilted (its Monte-Carlo standard error); NaN where there is no saddlepoint.
    """
    found = []
    for g, p, name in zip(gene, peak, names, strict=True):
        try:
            found.append(
                tilted(rna[g], indicators[p][:, None], nuisance, n_resamples=n_resamples, seed=seed, name=name)
            )
        except NoSaddleError:
            found.append((np.nan, np.nan))
    return pd.DataFrame(found, columns=["p_tilted", "se_p_tilted"], dtype=np.float64)
