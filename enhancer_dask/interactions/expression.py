"""Expected expression by state of chosen enhancer pairs, with the band in which resamples of the cells have it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.interactions.rows import PairRows, cut, pair_rows
from enhancer_dask.io.tables import ENHANCER_PAIR, check_enhancer_pairs, read_enhancer_pairs
from enhancer_dask.links.covariates import check_covariates, parse_terms, read_covariates, read_offset
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.state_fits import fit_states
from enhancer_dask.stats.state_summary import EXPECTED, summarise_states
from enhancer_dask.stats.states import StatePairs
from enhancer_dask.stores import MultiomeStore

BLOCK_PAIRS = 512  # whose counts are in memory together


def expected_by_state(
    store: str | Path,
    pairs: str | Path | pd.DataFrame,
    celltype: str | Sequence[str] | None = None,
    *,
    covariates: str | Sequence[str] = ("percent.mito",),
    offset: str | None = "log(nUMI)",
    n_resamples: int = 100,
    seed: int = 0,
    warn: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Count expected of an average cell in each state of enhancer pairs, over resamples of the cells.

    Parameters
    ----------
    store : path
        Multiome store.
    pairs : path or DataFrame
        Columns gene, enhancer_1, enhancer_2; with a column celltype, each pair is taken in its own cell type only.
        Exact duplicates count once.
    celltype : str or sequence of str, optional
        All cell types if not given.
    covariates, offset
        Terms, as in :func:`enhancer_dask.scent`.
    n_resamples : int
        100 in GLiMMIRS [1]_.
    seed : int
        Same seed, same resamples: those of the first rung of the ladder.
    warn : function of str, optional
        Receives warnings; by default they are Python warnings.

    Returns
    -------
    DataFrame
        Columns celltype, gene, enhancer_1, enhancer_2 and for s = 00, 10, 01, 11, multiplicative, additive: mean_s,
        q05_s and q95_s (mean and quantiles over resamples, counts per cell) and n_resamples_s (that have the value).
        Multiplicative is what the doubly open cells have without interaction, additive if the enhancers add; 11 outside
        of the band speaks against it. By cell type, in the order given.

    Raises
    ------
    InputError
        On unknown names, cell types, covariates or values that are not finite.

    Notes
    -----
    Average means the averages of covariates and offset over the cells of the type. About 10 ms a pair at 2,600 cells,
    one after the other in this process: meant for the pairs that the tests point at.

    References
    ----------
    .. [1] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
       multiplicatively. Cell Genomics 4, 100672.
    """
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}; want 1 or more")
    data = MultiomeStore(Path(store).absolute())
    table = read_enhancer_pairs(pairs) if isinstance(pairs, str | Path) else check_enhancer_pairs(pairs, "pairs")
    of_types = pair_rows(data, table.drop_duplicates(ignore_index=True), celltype)
    terms = tuple(term for term, _, _ in parse_terms(covariates))
    check_covariates(data, [rows.celltype for rows in of_types], terms, offset, warn or warnings.warn)
    blocks = [of_types[t].some(part) for t, part in cut(of_types, BLOCK_PAIRS)]
    return pd.concat([_block(data, rows, terms, offset, n_resamples, seed) for rows in blocks], ignore_index=True)


def _block(
    store: MultiomeStore, rows: PairRows, terms: tuple[str, ...], offset: str | None, n_resamples: int, seed: int
) -> pd.DataFrame:
    genes, gene = np.unique(rows.gene, return_inverse=True)
    peaks, place = np.unique(np.concatenate([rows.first, rows.second]), return_inverse=True)
    first, second = np.split(place, 2)
    values = read_covariates(store, rows.celltype, terms).values
    shift = None if offset is None else read_offset(store, rows.celltype, offset)
    counts = store.counts("rna", genes, rows.celltype).astype(np.float64)
    opened = (store.counts("atac", peaks, rows.celltype) > 0).astype(np.uint8)
    data = StatePairs(counts, opened, gene, first, second, make_nuisance(values, shift))
    draws = resample_counts(counts.shape[1], 0, n_resamples, seed=seed, celltype=rows.celltype, rung=0)
    summary = summarise_states(data, fit_states(data), draws)
    names = [store.column(kind)[of] for kind, of in (("gene", rows.gene), ("peak", rows.first), ("peak", rows.second))]
    table = pd.DataFrame({"celltype": rows.celltype, **dict(zip(ENHANCER_PAIR, names, strict=True))})
    for j, state in enumerate(EXPECTED):
        table[f"mean_{state}"], table[f"q05_{state}"] = summary.mean[:, j], summary.low[:, j]
        table[f"q95_{state}"], table[f"n_resamples_{state}"] = summary.high[:, j], summary.n[:, j]
    return table
