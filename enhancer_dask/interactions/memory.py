"""Memory that a chunk of enhancer pairs takes at its peak; see :mod:`enhancer_dask.links.memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enhancer_dask.interactions.rows import PairRows
from enhancer_dask.links.memory import (
    FLOAT,
    READING,
    ROWS_OF_FITS,
    SMALL,
    Cells,
    counts_bytes,
    ladder_bytes,
    moments_bytes,
    resamples_of_block,
)

if TYPE_CHECKING:
    from enhancer_dask.interactions.contrasts import Options  # which knows the census


def epistasis_bytes(rows: PairRows, cells: Cells, options: Options) -> int:
    """Peak of :func:`~enhancer_dask.interactions.work.epistasis_chunk`."""
    n_genes, n_peaks, n_pairs, n = *_distinct(rows), len(rows.gene), cells.n
    counts = counts_bytes(n_genes, n_peaks, cells)
    # counts as float64, once more where some pairs have no fit; open or closed, and on the way there a mask
    held = counts + 2 * n_genes * n * FLOAT + 2 * n_peaks * n
    held += (ROWS_OF_FITS + 6 * cells.n_covariates) * n * FLOAT + options.expected * n * (2 + FLOAT)
    refits = ladder_bytes(n, 4 * n_pairs, options.ladder)
    if options.regression == "poisson" and options.engine != "exact":
        refits += moments_bytes(n_genes, _listed(rows, cells), n, cells.n_covariates)
    elif options.regression == "negbin":  # resamples of a test's own cells, twice, and as float64
        refits += resamples_of_block(n, 4 * n_pairs, options.ladder) * n * (2 + 2 + FLOAT)
    reading = counts + max(n_genes, n_peaks) * n + READING
    return SMALL + max(reading, _census(rows, cells) + held, held + refits)


def census_bytes(rows: PairRows, cells: Cells) -> int:
    """Peak of :func:`~enhancer_dask.interactions.census.census_chunk`."""
    n_genes, n_peaks = _distinct(rows)
    counts = counts_bytes(n_genes, n_peaks, cells)
    results = 300 * len(rows.gene)  # three tables of four columns, while they are joined
    return SMALL + results + counts + max(max(n_genes, n_peaks) * cells.n + READING, _census(rows, cells))


def _distinct(rows: PairRows) -> tuple[int, int]:
    """Genes and peaks of some pairs."""
    return len(np.unique(rows.gene)), len(np.union1d(rows.first, rows.second))


def _census(rows: PairRows, cells: Cells) -> int:
    """Of the gene with most peaks: these in single precision in all cells and in those without a count, and sums."""
    order = np.argsort(rows.gene, kind="stable")
    most = 0
    for of_gene in np.split(order, np.flatnonzero(np.diff(rows.gene[order])) + 1):
        left, right = len(np.unique(rows.first[of_gene])), len(np.unique(rows.second[of_gene]))
        most = max(most, (left + right) * cells.n * (4 + 4 + cells.atac_bytes + 1) + left * right * 4)
    return most


def _listed(rows: PairRows, cells: Cells) -> int:
    """Cells of the three smaller states of each distinct pair of peaks."""
    peaks = np.unique(np.column_stack([rows.first, rows.second]), axis=0)
    opened = cells.open_cells[peaks].sum(axis=1)
    return int(np.minimum(opened, 3 * cells.n // 4).sum())
