"""SCENT's test of gene-peak pairs in the cells of one type, on arrays: fits, saddlepoint and ladder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from enhancer_dask.links.regressions import MODELS, TRUSTED, Fits, Pairs
from enhancer_dask.stats import poisson
from enhancer_dask.stats.bootstrap import SCENT_LADDER, Rung, climb
from enhancer_dask.stats.exact import settled
from enhancer_dask.stats.resampling import resample_counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PValues = Literal["saddle", "ladder", "both"]
Regression = Literal["poisson", "negbin"]
P_VALUES: tuple[str, ...] = get_args(PValues)
REGRESSIONS: tuple[str, ...] = get_args(Regression)

_FIT_STATUS = {
    poisson.CONVERGED: "tested",
    poisson.NOT_CONVERGED: "not converged",
    poisson.SEPARATED: "separated",
    poisson.ALIASED: "collinear covariates",
    poisson.CONSTANT: "peak open in all cells",
}
_NUMBERS = ("beta", "se", "z", "p", "theta", "boot_se", "boot_bias", "p_saddle", "boot_basic_p")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything about the test that is not data."""

    regression: Regression = "poisson"
    """Poisson, or negative binomial with theta by maximum likelihood (slower: no shared kernels)."""
    p: PValues = "both"
    """Which p-values: the saddlepoint's, the ladder's, or both."""
    engine: str = "moments"
    """Refit engine of the ladder; the negative binomial model has one of its own."""
    seed: int = 0
    """Same seed, same resamples."""
    binarise: bool = True
    """Use open / closed instead of the peak's count."""
    min_fraction: float = 0.05
    """Gene and peak must be non-zero in more than this share of the cells."""
    ladder: tuple[Rung, ...] = SCENT_LADDER
    """Resamples per rung and the p-value below which the next one follows."""


DEFAULTS = Options()


def scent_block(
    rna: NDArray[np.integer],
    atac: NDArray[np.integer],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    covariates: Floats,
    *,
    celltype: str,
    offset: Floats | None = None,
    options: Options = DEFAULTS,
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
        One row per pair in the given order: beta, se, z, p (Wald, two-sided), theta (of the negative binomial), boot_se
        and boot_bias (of beta over resamples, computed with the saddlepoint), p_saddle, boot_basic_p, n_cells,
        fraction_expressed, fraction_open, n_resamples (with an estimate, on the last rung), n_refits, n_exact (refits
        over all cells), saddle_status, status. A pair that was not tested has NaN (beta -inf or +inf if separated) and
        a status that says why. Where the saddlepoint is not to be trusted, ``saddle_status`` says why and ``p_saddle``
        is the ladder's p-value.
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
    data = Pairs(
        np.ascontiguousarray(rna, dtype=np.float64), indicators_of(atac, options),
        np.asarray(gene, dtype=np.int64), np.asarray(peak, dtype=np.int64), poisson.make_nuisance(covariates, offset),
    )  # fmt: skip
    fits = MODELS[options.regression].fit(data.some(frequent))
    _enter(table, frequent, beta=fits.beta, se=fits.se, theta=fits.theta)
    table.loc[frequent, "status"] = [_FIT_STATUS[int(code)] for code in fits.status]
    table["z"] = table["beta"] / table["se"]
    table["p"] = 2.0 * ndtr(-np.abs(table["z"]))
    fitted = np.flatnonzero(fits.status == poisson.CONVERGED)
    _bootstrap(table, frequent[fitted], data, fits.some(fitted), celltype, options)
    return table


def indicators_of(atac: NDArray[np.integer], options: Options) -> NDArray[Any]:
    """Peaks as they enter the regression."""
    return settled(atac > 0 if options.binarise else atac)


def _enter(table: pd.DataFrame, rows: Ints, **columns: NDArray[Any]) -> None:
    for name, values in columns.items():
        table.loc[rows, name] = values


def _bootstrap(table: pd.DataFrame, rows: Ints, data: Pairs, fits: Fits, celltype: str, options: Options) -> None:
    """Enter p_saddle and the ladder's p-values for fitted pairs, the ladder's also where the other is not trusted."""
    if not len(rows):
        return
    if options.p == "ladder":
        _climb(table, rows, data, fits, celltype, options)
        return
    saddles = MODELS[options.regression].saddle(data.some(rows), fits)
    _enter(table, rows, p_saddle=saddles.p, boot_se=saddles.se, boot_bias=saddles.bias)
    table.loc[rows, "saddle_status"] = saddles.status
    doubtful = np.array([status != TRUSTED for status in saddles.status])
    on_ladder = np.flatnonzero(doubtful) if options.p == "saddle" else np.arange(len(rows))
    _climb(table, rows[on_ladder], data, fits.some(on_ladder), celltype, options)
    _enter(table, rows[doubtful], p_saddle=table.loc[rows[doubtful], "boot_basic_p"].to_numpy())


def _climb(table: pd.DataFrame, rows: Ints, data: Pairs, fits: Fits, celltype: str, options: Options) -> None:
    """Enter the ladder's results for some rows of the table."""
    n = data.counts.shape[1]

    def draw(rung: int, start: int, stop: int) -> NDArray[np.integer]:
        return resample_counts(n, start, stop, seed=options.seed, celltype=celltype, rung=rung)

    if not len(rows):
        return
    refitter = MODELS[options.regression].refitter(data.some(rows), fits, options.engine)
    found = climb(refitter, fits.beta, draw, n_cells=n, ladder=options.ladder)
    _enter(
        table, rows, boot_basic_p=found.p, n_resamples=found.n_resamples, n_refits=found.n_refits, n_exact=found.n_exact
    )
    lost = rows[np.isnan(found.p) & (table.loc[rows, "saddle_status"] != TRUSTED).to_numpy()]
    table.loc[lost, "status"] = "no resample estimable"


def _too_rare(gene_ok: NDArray[np.bool_], peak_ok: NDArray[np.bool_], min_fraction: float) -> NDArray[Any]:
    below = f"below {100 * min_fraction:g}%"
    cases = [~gene_ok & ~peak_ok, ~gene_ok, ~peak_ok]
    return np.select(cases, [f"gene and peak {below}", f"gene {below}", f"peak {below}"], default="").astype(object)
