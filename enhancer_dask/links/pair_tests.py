"""SCENT's test of gene-peak pairs in the cells of one type, on arrays: fits, saddlepoint and ladder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from enhancer_dask.stats import poisson, saddlepoint
from enhancer_dask.stats.bootstrap import ENGINES, SCENT_LADDER, Rung, climb
from enhancer_dask.stats.exact import make_batch, settled
from enhancer_dask.stats.pairfits import PairFits, fit_pairs
from enhancer_dask.stats.resampling import resample_counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PValues = Literal["saddle", "ladder", "both"]
P_VALUES: tuple[str, ...] = get_args(PValues)

_FIT_STATUS = {
    poisson.CONVERGED: "tested",
    poisson.NOT_CONVERGED: "not converged",
    poisson.SEPARATED: "separated",
    poisson.ALIASED: "collinear covariates",
    poisson.CONSTANT: "peak open in all cells",
}
_SADDLE_STATUS = {
    saddlepoint.TRUSTED: "trusted",
    saddlepoint.NOT_FITTED: "no finite fit",
    saddlepoint.NO_SADDLE: "no saddlepoint",
    saddlepoint.FEW_CELLS: "few open cells with counts",
    saddlepoint.CONCENTRATED: "few cells carry the tail",
    saddlepoint.ONE_CELL: "one cell decides a coefficient",
}
_NUMBERS = ("beta", "se", "z", "p", "boot_se", "boot_bias", "p_saddle", "boot_basic_p")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything about the test that is not data."""

    p: PValues = "both"
    """Which p-values: the saddlepoint's, the ladder's, or both."""
    engine: str = "moments"
    """Refit engine of the ladder."""
    seed: int = 0
    """Same seed, same resamples."""
    binarise: bool = True
    """Use open / closed instead of the peak's count."""
    min_fraction: float = 0.05
    """Gene and peak must be non-zero in more than this share of the cells."""
    ladder: tuple[Rung, ...] = SCENT_LADDER
    """Resamples per rung and the p-value below which the next one follows."""


def scent_block(
    rna: NDArray[np.integer],
    atac: NDArray[np.integer],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    covariates: Floats,
    *,
    celltype: str,
    offset: Floats | None = None,
    options: Options = Options(),  # frozen
) -> pd.DataFrame:
    """Test pairs of genes and peaks in the cells of one type.

    Parameters
    ----------
    rna : integer array, shape (G, n)
        Raw counts of the genes.
    atac : integer array, shape (P, n)
        Raw counts of the peaks.
    gene, peak : integer arrays, shape (L,)
        Pair ``i`` is row ``gene[i]`` of ``rna`` and row ``peak[i]`` of ``atac``.
    covariates : float64 array, shape (n, c)
    celltype : str
        Names the random stream, with the seed.
    offset : float64 array, shape (n,), optional
        Added to the linear predictor, log scale.
    options : Options

    Returns
    -------
    DataFrame
        One row per pair in the given order: beta, se, z, p (Wald, two-sided), boot_se and boot_bias (of beta over
        resamples, computed with the saddlepoint), p_saddle, boot_basic_p, n_cells, fraction_expressed, fraction_open,
        n_resamples (with an estimate, on the last rung), n_refits, n_exact (refits over all cells), saddle_status,
        status. A pair that was not tested has NaN (beta -inf or +inf if separated) and a status that says why. Where the saddlepoint is not to be trusted, ``saddle_status`` says why and ``p_saddle`` is
        the ladder's p-value.
    """
    n = rna.shape[1]
    expressed, opened = np.count_nonzero(rna, axis=1)[gene] / n, np.count_nonzero(atac, axis=1)[peak] / n
    table = pd.DataFrame(dict.fromkeys(_NUMBERS, np.full(len(gene), np.nan)))
    table["n_cells"] = n
    table["fraction_expressed"], table["fraction_open"] = expressed, opened
    for column in ("n_resamples", "n_refits", "n_exact"):
        table[column] = 0
    table["saddle_status"] = ""
    table["status"] = _too_rare(expressed > options.min_fraction, opened > options.min_fraction, options.min_fraction)
    frequent = np.flatnonzero(table["status"] == "")
    if not len(frequent):
        return table
    nuisance = poisson.make_nuisance(covariates, offset)
    counts, used = np.ascontiguousarray(rna, dtype=np.float64), settled(atac > 0 if options.binarise else atac)
    fits = fit_pairs(counts, used, gene[frequent], peak[frequent], nuisance)
    table.loc[frequent, "beta"], table.loc[frequent, "se"] = fits.beta, fits.se
    table.loc[frequent, "status"] = [_FIT_STATUS[code] for code in fits.status]
    table["z"] = table["beta"] / table["se"]
    table["p"] = 2.0 * ndtr(-np.abs(table["z"]))

    fitted = np.flatnonzero(fits.status == poisson.CONVERGED)
    rows, fits = frequent[fitted], _some(fits, fitted)
    trusted = np.zeros(len(rows), dtype=np.bool_)
    if options.p != "ladder":
        saddle = saddlepoint.saddle_pairs(counts, used, gene[rows], peak[rows], nuisance, fits)
        trusted = saddle.trust == saddlepoint.TRUSTED
        for column, values in (("p_saddle", saddle.p), ("boot_se", saddle.sd), ("boot_bias", saddle.bias)):
            table.loc[rows, column] = values
        table.loc[rows, "saddle_status"] = [_SADDLE_STATUS[code] for code in saddle.trust]
    on_ladder = np.flatnonzero(~trusted) if options.p == "saddle" else np.arange(len(rows))
    _climb(table, rows[on_ladder], _some(fits, on_ladder), counts, used, gene, peak, nuisance, celltype, options)
    if options.p != "ladder":
        table.loc[rows[~trusted], "p_saddle"] = table.loc[rows[~trusted], "boot_basic_p"]
    return table


def _some(fits: PairFits, rows: Ints) -> PairFits:
    return PairFits(fits.coefficients[rows], fits.beta[rows], fits.se[rows], fits.status[rows])


def _climb(
    table: pd.DataFrame,
    rows: Ints,
    fits: PairFits,
    counts: Floats,
    used: NDArray[Any],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    nuisance: poisson.Nuisance,
    celltype: str,
    options: Options,
) -> None:
    """Enter the ladder's results for some rows of the table."""
    n = counts.shape[1]

    def draw(rung: int, start: int, stop: int) -> NDArray[np.integer]:
        return resample_counts(n, start, stop, seed=options.seed, celltype=celltype, rung=rung)

    if not len(rows):
        return
    start = np.where(np.isfinite(fits.coefficients), fits.coefficients, 0.0)
    batch = make_batch(counts, used, gene[rows], peak[rows], nuisance, start)
    found = climb(ENGINES[options.engine](batch), fits.beta, draw, n_cells=n, ladder=options.ladder)
    table.loc[rows, "boot_basic_p"] = found.p
    for column in ("n_resamples", "n_refits", "n_exact"):
        table.loc[rows, column] = getattr(found, column)
    table.loc[rows[np.isnan(found.p)], "status"] = "no resample estimable"


def _too_rare(gene_ok: NDArray[np.bool_], peak_ok: NDArray[np.bool_], min_fraction: float) -> NDArray[Any]:
    below = f"below {100 * min_fraction:g}%"
    cases = [~gene_ok & ~peak_ok, ~gene_ok, ~peak_ok]
    return np.select(cases, [f"gene and peak {below}", f"gene {below}", f"peak {below}"], default="").astype(object)
