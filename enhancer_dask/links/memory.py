"""Memory that a chunk of SCENT takes at its peak, from its shape alone: an upper bound that is not far above.

Only arrays that grow with the cells are counted, at the moment when most of them live side by side.
``bench/chunk_memory.py`` compares with what chunks take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.links.covariates import read_covariates
from enhancer_dask.links.pair_tests import Options
from enhancer_dask.stats import bootstrap, moments, shared_sums, tilted
from enhancer_dask.stats.bootstrap import Rung
from enhancer_dask.stats.monomials import monomials
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.products import LANES
from enhancer_dask.stores import Location, opened

Ints = NDArray[np.int64]

FLOAT = 8
READING = 100_000_000  # chunks of the store that are decoded side by side
SMALL = 20_000_000  # tables, results, what the allocator keeps
ROWS_OF_FITS = 30  # float64 rows of cells in the kernels of fit and saddlepoint, beside design and covariates
COEFFICIENT = 20  # bytes of a refit: the coefficient, what it is compared with, three flags


@dataclass(frozen=True, slots=True)
class Cells:
    """What the memory of a chunk depends on in the cells of one type."""

    n: int
    n_covariates: int
    n_dummies: int
    """Covariates of two values among them."""
    rna_bytes: int
    """Of a count in the store."""
    atac_bytes: int
    open_cells: Ints
    """Of each peak of the store, shape (P,)."""


@lru_cache(maxsize=64)
def cells_of(store: Location, fingerprint: str, celltype: str, terms: tuple[str, ...] = ()) -> Cells:
    """The cells of one type of a store; looked up once for all its chunks."""
    data = opened(store, fingerprint)
    cells, t = data.cells_of(celltype), data.celltypes.index(celltype)
    nuisance = make_nuisance(read_covariates(data, celltype, terms).values)
    rna, atac = (np.dtype(data.group[name].dtype).itemsize for name in ("rna", "atac"))  # type: ignore[union-attr]
    return Cells(
        int(cells.stop - cells.start), nuisance.z.shape[1], int(nuisance.two_valued.sum()), rna, atac,
        data.column("peak_n_nonzero")[:, t].astype(np.int64),
    )  # fmt: skip


def scent_bytes(gene: Ints, peak: Ints, cells: Cells, options: Options) -> int:
    """Peak of :func:`~enhancer_dask.links.work.scent_chunk`."""
    peaks = np.unique(peak)
    n_genes, n_peaks, n_pairs, n = len(np.unique(gene)), len(peaks), len(gene), cells.n
    reading = counts_bytes(n_genes, n_peaks, cells) + max(n_genes, n_peaks) * n + READING
    # counts as float64; the peak's indicators, and on the way there a mask
    indicators = 2 if options.binarise or cells.atac_bytes == 1 else FLOAT
    held = counts_bytes(n_genes, n_peaks, cells) + (n_genes * FLOAT + n_peaks * indicators) * n
    held += (ROWS_OF_FITS + 3 * cells.n_covariates) * n * FLOAT
    refits = ladder_bytes(n, n_pairs, options.ladder)
    if options.regression == "negbin":  # each test keeps its peak
        refits += n_pairs * n
    elif options.engine != "exact":
        opened_in = cells.open_cells[peaks]
        rarer = int(np.minimum(opened_in, n - opened_in).sum())  # those of the commoner value are not listed
        n_listed = rarer if options.binarise and not cells.n_dummies else n_peaks * n
        refits += moments_bytes(n_genes, n_listed, n, cells.n_covariates - cells.n_dummies)
    return SMALL + max(reading, held + refits)


def certificate_bytes(gene: Ints, peak: Ints, cells: Cells, n_resamples: int) -> int:
    """Peak of :func:`~enhancer_dask.links.work.certify_chunk`."""
    n_genes, n_peaks = len(np.unique(gene)), len(np.unique(peak))
    n_draws = min(n_resamples * cells.n, max(tilted._BLOCK_DRAWS, cells.n))
    # random numbers of 8 bytes; counts of 2, and once more as float64 for the likelihood ratio
    drawing = n_draws * (8 + 2 + FLOAT)
    held = counts_bytes(n_genes, n_peaks, cells) + 2 * n_peaks * cells.n
    held += (ROWS_OF_FITS + 3 * cells.n_covariates) * cells.n * FLOAT
    return SMALL + max(held + max(n_genes, n_peaks) * cells.n + READING, held + drawing)


def counts_bytes(n_genes: int, n_peaks: int, cells: Cells) -> int:
    """Counts as they are in the store."""
    return (n_genes * cells.rna_bytes + n_peaks * cells.atac_bytes) * cells.n


def resamples_of_block(n: int, n_tests: int, ladder: Sequence[Rung]) -> int:
    """Resamples drawn at a time, as if no test stopped before the last rung."""
    return min(max(rung.n_resamples for rung in ladder), bootstrap._block_size(n, n_tests))


def ladder_bytes(n: int, n_tests: int, ladder: Sequence[Rung]) -> int:
    """Resamples of a block and their coefficients."""
    return resamples_of_block(n, n_tests, ladder) * (2 * n + COEFFICIENT * n_tests)


def moments_bytes(n_genes: int, n_listed: int, n: int, n_slopes: int) -> int:
    """What the moments engine keeps beside counts and indicators; ``n_listed`` cells are in its groups."""
    n_terms = len(monomials(n_slopes, moments._highest_degree(n_slopes)).axis)
    # expected counts, as a list of rows and as an array; moments in the shared basis
    of_genes = 2 * n_genes * n * FLOAT + n_genes * (n_terms + 4) * LANES * FLOAT
    listed = 3 * n_listed * 4  # the list, while it grows or is copied
    features = (n_terms + n_slopes + 8) * n * (FLOAT + 4)
    tiles = LANES * n * (4 + FLOAT) + LANES * n * (FLOAT + 4)  # of resamples; basis, in both precisions
    n_thetas = shared_sums.POINTS_PER_AXIS.get(n_slopes, 0) ** n_slopes
    shared = n_slopes in shared_sums.POINTS_PER_AXIS and n * n_thetas <= shared_sums.MOST_NUMBERS
    making = (n_thetas + 2 * LANES) * n * FLOAT if shared else 0  # of the basis: a grid of functions, rows and a copy
    return of_genes + listed + max(features + tiles, making)
