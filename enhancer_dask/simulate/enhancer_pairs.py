"""Simulated enhancer pairs whose interaction is known.

Each gene has two enhancers of its own, far from all others, so that pairs are independent. With the expected count
``lambda_s`` of a cell in state s (first digit the first enhancer, 1 if open) and fold changes ``f_s = lambda_s /
lambda_00``, a pair is

* multiplicative: ``f_11 = f_10 f_01``, interaction ``I = log f_11 - log f_10 - log f_01 = 0``;
* additive: ``f_11 = f_10 + f_01 - 1``;
* synergistic: ``f_11 = f_10 f_01 exp(I)`` with I given (antagonistic, if it is negative).

Expected counts are proportional to a cell's nUMI, which is log-normal, and depend on percent.mito; counts are negative
binomial. A peak is open with a chance that rises with the cell's ATAC depth, which goes along with nUMI: so states are
correlated, as in real cells, and depth is a confounder. Spreads are about those of real CD14+ monocytes; percent.mito
has the Beta distribution of GLiMMIRS' simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from enhancer_dask.errors import InputError
from enhancer_dask.simulate.multiome import SimulatedMultiome, write_simulation

if TYPE_CHECKING:
    from mudata import MuData

Floats = NDArray[np.float64]
Kind = Literal["multiplicative", "additive", "synergistic"]

KINDS: tuple[Kind, ...] = ("multiplicative", "additive", "synergistic")
CELLTYPE = "simulated"
SPACING = 1_500_000  # between genes, bp: no window of 500 kb around one reaches the peaks of another
FARTHEST = 400_000  # of a peak from its gene, bp
GENES_PER_CHROMOSOME = 100
LEAST_ADDITIVE = 0.2  # smallest additive fold change of 11 to 00


@dataclass(frozen=True)
class SimulatedPairs(SimulatedMultiome):
    """A multiome of one cell type, its enhancer pairs, and the truth behind them.

    ``cells`` has the columns barcode, celltype, nUMI, percent.mito. ``truth`` has a row per pair: gene, enhancer_1,
    enhancer_2, kind, mean (expected count at 00 in a cell of average depth), beta_10, beta_01, beta_11, interaction
    (natural log, to 00) and fold_10, fold_01, fold_11.
    """

    pairs: pd.DataFrame
    """gene, enhancer_1, enhancer_2."""

    def to_mudata(self) -> MuData:
        """Modalities rna and atac with the cells' columns, as :func:`enhancer_dask.ingest` takes them."""
        from anndata import AnnData
        from mudata import MuData

        obs = self.cells.set_index("barcode")
        parts = {
            name: AnnData(sparse.csr_matrix(counts.T), obs=obs, var=features.set_index("name"))
            for name, counts, features in (("rna", self.rna, self.genes), ("atac", self.atac, self.peaks))
        }
        data = MuData(parts)
        data.obs = obs
        return data

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write the files of :func:`~enhancer_dask.simulate.multiome.write_simulation` and ``pairs.parquet``.

        Returns
        -------
        dict
            Paths by the names multiome, cells, gtf, truth, pairs.
        """
        paths = write_simulation(self, folder) | {"pairs": Path(folder) / "pairs.parquet"}
        self.pairs.to_parquet(paths["pairs"])
        return paths


def simulate_enhancer_pairs(
    *,
    n_pairs: int = 2_000,
    n_cells: int = 2_597,
    truth: Kind | Mapping[Kind, float] = "multiplicative",
    interaction: float | Sequence[float] = 0.5,
    dispersion: float = 0.5,
    effect_mean: float = 0.5,
    effect_sd: float = 0.25,
    positive_share: float = 0.84,
    mean_count: float = 0.4,
    open_share: tuple[float, float] = (0.05, 0.6),
    median_umi: float = 4_000.0,
    mito_effect_sd: float = 5.0,
    seed: int = 0,
) -> SimulatedPairs:
    """Simulate genes with two enhancers each, in cells of one type.

    Parameters
    ----------
    n_pairs, n_cells : int
        Enhancer pairs, one gene each; cells.
    truth : {"multiplicative", "additive", "synergistic"} or mapping of these to shares
        How the enhancers combine. Shares are taken relative to their sum.
    interaction : float or sequence of float
        I of the synergistic pairs, natural log; of several values each pair takes one, all equally often.
    dispersion : float
        Variance of a count is mu + dispersion * mu^2; 0 gives Poisson counts.
    effect_mean, effect_sd, positive_share : float
        Size of the log fold changes of 10 and 01 (normal, at least 0), and the share of positive ones. Additive pairs
        whose f_11 would fall below 0.2 have positive ones instead.
    mean_count : float
        Median over genes of the expected count at 00 in a cell of average depth; log-normal with sd 1.
    open_share : (float, float)
        Range of the peaks' open shares, which are log-uniform in it.
    median_umi : float
        Median RNA depth of a cell.
    mito_effect_sd : float
        Spread over genes of the coefficient of percent.mito.
    seed : int

    Returns
    -------
    SimulatedPairs

    Raises
    ------
    InputError
        On an unknown kind, shares that are negative or all zero, and numbers out of range.

    Notes
    -----
    percent.mito is Beta(3.3, 81.48) [1]_. Memory is about 50 bytes for each pair and cell.

    References
    ----------
    .. [1] Zhou et al. (2024), Cell Genomics 4, 100672 (GLiMMIRS).

    Examples
    --------
    >>> sim = simulate_enhancer_pairs(n_pairs=3, n_cells=50, truth="additive", seed=1)
    >>> fold = sim.truth
    >>> bool(np.allclose(fold["fold_11"], fold["fold_10"] + fold["fold_01"] - 1))
    True
    """
    shares = _shares({truth: 1.0} if isinstance(truth, str) else truth)
    interactions = np.atleast_1d(np.asarray(interaction, dtype=np.float64))
    if not (len(interactions) and np.isfinite(interactions).all()):
        raise InputError(f"interaction is {interaction}; want a finite number or several")
    _check(n_pairs, n_cells, dispersion, positive_share, mean_count, open_share)
    rng = np.random.default_rng(seed)
    genes, peaks = _genome(rng, n_pairs)
    umi, atac_depth, mito = _cells(rng, n_cells, median_umi)
    opened = rng.random((2 * n_pairs, n_cells)) < _open_chances(rng, 2 * n_pairs, open_share, atac_depth)
    table = _truth(rng, n_pairs, shares, interactions, effect_mean, effect_sd, positive_share)
    table["mean"] = mean_count * rng.lognormal(0.0, 1.0, n_pairs)

    state = opened[0::2] + 2 * opened[1::2].astype(np.uint8)
    ratios = np.column_stack([np.ones(n_pairs), table[["fold_10", "fold_01", "fold_11"]]])
    slope = rng.normal(0.0, mito_effect_sd, n_pairs)
    rate = np.take_along_axis(ratios, state, axis=1) * np.exp(slope[:, None] * (mito - mito.mean()))
    rate *= table["mean"].to_numpy()[:, None] * (umi / umi.mean())
    if dispersion:
        rate *= rng.gamma(1.0 / dispersion, dispersion, size=rate.shape)
    cells = pd.DataFrame({"barcode": [f"CELL{i + 1}" for i in range(n_cells)], "celltype": CELLTYPE})
    cells = cells.assign(**{"nUMI": umi, "percent.mito": mito})
    names = peaks["name"].to_numpy()
    pairs = pd.DataFrame({"gene": genes["name"], "enhancer_1": names[0::2], "enhancer_2": names[1::2]})
    return SimulatedPairs(
        rng.poisson(rate), opened.astype(np.int64), genes, peaks, cells, pd.concat([pairs, table], axis=1), pairs
    )


def _shares(truth: Mapping[Kind, float]) -> Floats:
    """Share of each of ``KINDS``."""
    unknown = [name for name in truth if name not in KINDS]
    if unknown:
        raise InputError(f"truth {unknown[0]!r} is unknown; choose from {', '.join(KINDS)}")
    shares = np.array([truth.get(kind, 0.0) for kind in KINDS], dtype=np.float64)
    if not ((shares >= 0.0).all() and 0.0 < shares.sum() < np.inf):
        raise InputError(f"truth has the shares {dict(truth)}; want numbers of 0 or more, not all 0")
    relative: Floats = shares / shares.sum()
    return relative


def _check(
    n_pairs: int, n_cells: int, dispersion: float, positive_share: float, mean_count: float, open_share: Sequence[float]
) -> None:
    for name, value, least in (("n_pairs", n_pairs, 1), ("n_cells", n_cells, 2), ("dispersion", dispersion, 0)):
        if not value >= least:
            raise InputError(f"{name} is {value}; want {least} or more")
    if not 0.0 <= positive_share <= 1.0:
        raise InputError(f"positive_share is {positive_share}; want a share from 0 to 1")
    if not mean_count > 0.0:
        raise InputError(f"mean_count is {mean_count}; want more than 0")
    low, high = open_share
    if not 0.0 < low <= high <= 0.95:
        raise InputError(f"open_share is {low} to {high}; want a range within 0 (not included) and 0.95")


def _genome(rng: np.random.Generator, n_pairs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Genes 1.5 Mb apart and, per gene, two peaks on either side: rows 2i and 2i + 1 belong to gene i."""
    number = np.arange(n_pairs)
    chrom = np.array([f"chr{1 + k // GENES_PER_CHROMOSOME}" for k in number])
    start = SPACING // 2 + SPACING * (number % GENES_PER_CHROMOSOME)
    length = np.clip(rng.lognormal(9.5, 1.0, n_pairs), 500, 200_000).astype(np.int64)
    genes = pd.DataFrame({"id": [f"SIMP{k + 1:08d}" for k in number], "name": [f"GENE{k + 1}" for k in number]})
    genes = genes.assign(chrom=chrom, start=start, end=start + length, strand=rng.choice(["+", "-"], n_pairs))
    distance = rng.integers(2_000, FARTHEST, size=(2, n_pairs))
    begin = np.stack([start - distance[0], start + length + distance[1]], axis=1).ravel()
    end = begin + rng.integers(300, 1_200, 2 * n_pairs)
    twice = np.repeat(chrom, 2)
    names = [f"{c}:{a}-{b}" for c, a, b in zip(twice, begin, end, strict=True)]
    return genes, pd.DataFrame({"name": names, "chrom": twice, "start": begin, "end": end})


def _cells(rng: np.random.Generator, n: int, median_umi: float) -> tuple[NDArray[np.int64], Floats, Floats]:
    """nUMI, relative ATAC depth (correlation 0.5 of the logs), percent.mito as a fraction."""
    shared, rna, atac = rng.normal(size=(3, n)) / np.sqrt(2.0)
    umi = np.maximum(1, np.rint(median_umi * np.exp(0.4 * (shared + rna)))).astype(np.int64)
    return umi, np.exp(0.5 * (shared + atac)), rng.beta(3.3, 81.48, n)


def _open_chances(rng: np.random.Generator, n_peaks: int, open_share: tuple[float, float], depth: Floats) -> Floats:
    """Chance that a peak is open in a cell, ``1 - exp(-rate * depth)``, with the wanted mean; (peaks, cells)."""
    low, high = np.log(open_share)
    wanted = np.exp(rng.uniform(low, high, size=n_peaks))
    rates = np.geomspace(1e-4, 100.0, 400)
    rate = np.interp(wanted, -np.expm1(-rates[:, None] * depth).mean(axis=1), rates)
    chances: Floats = -np.expm1(-rate[:, None] * depth)
    return chances


def _truth(
    rng: np.random.Generator, n: int, shares: Floats, interactions: Floats, mean: float, sd: float, positive: float
) -> pd.DataFrame:
    """Kinds in their shares, rounded, in random order; log ratios and fold changes to 00."""
    bounds = np.rint(np.cumsum(shares) * n).astype(int)
    kind = rng.permutation(np.searchsorted(bounds, np.arange(n), side="right"))
    sign = np.where(rng.random((2, n)) < positive, 1.0, -1.0)
    beta = sign * np.maximum(rng.normal(mean, sd, (2, n)), 0.0)
    additive = kind == KINDS.index("additive")
    beta = np.where(additive & (np.exp(beta).sum(axis=0) - 1.0 < LEAST_ADDITIVE), np.abs(beta), beta)
    added = np.where(kind == KINDS.index("synergistic"), rng.permutation(np.resize(interactions, n)), 0.0)
    fold = np.exp(beta)
    both = np.log(np.where(additive, fold.sum(axis=0) - 1.0, fold.prod(axis=0) * np.exp(added)))
    table = pd.DataFrame({"kind": np.array(KINDS)[kind], "beta_10": beta[0], "beta_01": beta[1], "beta_11": both})
    table["interaction"] = np.where(additive, both - beta.sum(axis=0), added)
    return table.assign(fold_10=fold[0], fold_01=fold[1], fold_11=np.exp(both))
