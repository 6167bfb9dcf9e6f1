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
    """Of each peak of the store."""

    @property
    def n_listed(self) -> Ints:
        """Cells that the refit engine lists for each peak: those of the rarer state; any of them where dummies are."""
        most = np.full(len(self.open_cells), self.n) if self.n_dummies else self.open_cells
        return most if self.n_dummies else np.minimum(most, self.n - most)


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
    held = counts_bytes(n_genes, n_peaks, cells) + n_genes * n * FLOAT + 2 * n_peaks * n
    held += (ROWS_OF_FITS + 3 * cells.n_covariates) * n * FLOAT
    refits = ladder_bytes(n, n_pairs, options.ladder)
    if options.regression == "negbin":  # each test keeps its peak
        refits += n_pairs * n
    elif options.engine != "exact":
        refits += moments_bytes(n_genes, int(cells.n_listed[peaks].sum()), cells, cells.n_dummies)
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


def ladder_bytes(n: int, n_tests: int, ladder: Sequence[Rung]) -> int:
    """Resamples of a block and their coefficients, as if no test stopped before the last rung."""
    largest = max(rung.n_resamples for rung in ladder)
    block = min(largest, bootstrap._block_size(n, n_tests))
    return block * (2 * n + COEFFICIENT * n_tests)


def moments_bytes(n_genes: int, n_listed: int, cells: Cells, n_dummies: int) -> int:
    """What the moments engine keeps beside counts and indicators; ``n_listed`` cells are in its groups."""
    n, c = cells.n, cells.n_covariates - n_dummies
    n_terms = len(monomials(c, moments._highest_degree(c)).axis)
    # expected counts, as a list of rows and as an array; moments in the shared basis
    of_genes = 2 * n_genes * n * FLOAT + n_genes * (n_terms + 4) * LANES * FLOAT
    listed = 3 * n_listed * 4  # the list, while it grows or is copied
    features = (n_terms + c + 8) * n * (FLOAT + 4)
    tiles = LANES * n * (4 + FLOAT) + LANES * n * (FLOAT + 4)  # of resamples; basis, in both precisions
    making = 0
    if c in shared_sums.POINTS_PER_AXIS and not n_dummies:
        n_thetas = shared_sums.POINTS_PER_AXIS[c] ** c
        if n * n_thetas <= shared_sums.MOST_NUMBERS:
            making = 2 * n_thetas * n * FLOAT + 2 * LANES * n * FLOAT  # a grid of functions, twice
    return of_genes + listed + max(features + tiles, making)
