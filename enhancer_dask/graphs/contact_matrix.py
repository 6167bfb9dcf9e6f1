"""Contacts as checked arrays and as a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import named_chromosomes

COLUMNS = ("bin1_id", "bin2_id", "count")
Ids = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of a genome, chromosome by chromosome."""

    chroms: tuple[str, ...]
    """Names, in the order of the bins."""
    edges: NDArray[np.int64]
    """Shape (chromosomes + 1,): chromosome c has the bins ``edges[c]:edges[c + 1]``."""
    code: Ids
    """Shape (bins,): position of the bin's chromosome in ``chroms``."""
    start: NDArray[np.int64]
    """Shape (bins,): first base of the bin, bp, 0-based."""

    @property
    def n(self) -> int:
        """Number of bins."""
        return int(self.code.size)

    def positions(self, chromosomes: Sequence[str]) -> list[int]:
        """Positions of chosen chromosomes; an :class:`InputError` if one is unknown or named twice."""
        wanted = named_chromosomes([chromosomes] if isinstance(chromosomes, str) else chromosomes, self.chroms)
        unknown = [name for name in wanted if name not in self.chroms]
        if unknown:
            raise InputError(f"unknown chromosome {unknown[0]!r}; the contacts have {', '.join(self.chroms)}")
        if len(set(wanted)) < len(wanted) or not wanted:
            raise InputError(f"chromosomes {','.join(wanted)!r}: want one or more names, each once")
        return [self.chroms.index(name) for name in wanted]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Contacts as arrays, K pixels."""

    bins: Bins
    """Where the contacts are."""
    bin1: Ids
    """Shape (K,)."""
    bin2: Ids
    """Shape (K,), not below ``bin1``."""
    count: NDArray[Any]
    """Shape (K,), finite and not negative."""

    def take(self, rows: NDArray[Any]) -> Pixels:
        """Some of the pixels, by mask or position."""
        return Pixels(self.bins, self.bin1[rows], self.bin2[rows], self.count[rows])


def read_bins(bins: Any) -> Bins:
    """Check a table of bins and take its arrays.

    Raises
    ------
    InputError
        If it is no table with chrom, start, end, or the bins of a chromosome do not stand together.
    """
    if not isinstance(bins, pd.DataFrame) or not {"chrom", "start", "end"} <= set(bins.columns):
        raise InputError("contacts: attrs['bins'] is missing, want a table with chrom, start, end (one row per bin)")
    code, names = pd.factorize(bins["chrom"])
    edges = np.append(np.searchsorted(code, np.arange(len(names))), len(code))
    if (np.diff(code) < 0).any():
        raise InputError("contacts: attrs['bins']: the bins of a chromosome do not stand together")
    return Bins(tuple(map(str, names)), edges, code.astype(np.int32), bins["start"].to_numpy(np.int64))


def read_pixels(contacts: pd.DataFrame) -> Pixels:
    """Check contacts and take their arrays.

    Raises
    ------
    InputError
        If a column or the bins are missing, a bin id is no id of the bins or below the diagonal, a count is negative
        or not finite, or a pair of bins occurs twice.
    """
    missing = [name for name in COLUMNS if name not in contacts.columns]
    if missing:
        raise InputError(f"contacts: column {missing[0]!r} is missing; want {', '.join(COLUMNS)}")
    bins = read_bins(contacts.attrs.get("bins"))
    bin1, bin2 = (_ids(contacts[name].to_numpy(), name, bins.n) for name in COLUMNS[:2])
    count = contacts["count"].to_numpy()
    if not np.issubdtype(count.dtype, np.number) or not np.isfinite(count).all() or (count < 0).any():
        raise InputError("contacts: column 'count' has values that are not finite numbers from 0")
    if (bin1 > bin2).any():
        raise InputError("contacts: some bin1_id is above its bin2_id, want the upper triangle (bin1_id <= bin2_id)")
    _check_unique(bin1, bin2, bins.n)
    return Pixels(bins, bin1, bin2, count)


def _ids(values: NDArray[Any], name: str, n_bins: int) -> Ids:
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"contacts: column {name!r} is {values.dtype}, want whole numbers")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < n_bins:
        raise InputError(f"contacts: {name} runs from {values.min()} to {values.max()}, but there are {n_bins} bins")
    return values.astype(np.int32, copy=False)


def _check_unique(bin1: Ids, bin2: Ids, n_bins: int) -> None:
    key = bin1.astype(np.int64) * n_bins + bin2
    if (key[1:] > key[:-1]).all():
        return
    key.sort()
    again = np.flatnonzero(key[1:] == key[:-1])
    if again.size:
        pair = divmod(int(key[again[0]]), n_bins)
        raise InputError(f"contacts: the bins {pair[0]}, {pair[1]} occur more than once, want one row per pair of bins")


def read_weights(weights: ArrayLike | None, n_bins: int) -> Floats:
    """Check weights of bins; ones for None.

    Raises
    ------
    InputError
        If their number is not that of the bins, one is negative, zero or infinite, or all are NaN.
    """
    if weights is None:
        return np.ones(n_bins)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n_bins,):
        raise InputError(f"weights: shape {values.shape}, want ({n_bins},), one per bin")
    if np.isinf(values).any() or (values <= 0).any():
        raise InputError("weights: some are infinite, zero or negative, want positive numbers, NaN for a bin left out")
    if n_bins and np.isnan(values).all():
        raise InputError("weights: all are NaN, so every bin is left out")
    return values


def as_matrix(contacts: pd.DataFrame) -> sparse.csr_array:
    """The symmetric matrix of contacts.

    Parameters
    ----------
    contacts : DataFrame
        bin1_id, bin2_id, count (upper triangle), the bins as ``attrs["bins"]``.

    Returns
    -------
    csr_array, float64, shape (bins, bins)
        Both triangles; a contact of a bin with itself stands once on the diagonal.

    Raises
    ------
    InputError
        If the contacts are malformed.
    """
    pixels = read_pixels(contacts)
    value = pixels.count.astype(np.float64)
    value[pixels.bin1 == pixels.bin2] /= 2  # the diagonal comes from both halves
    n = pixels.bins.n
    upper = sparse.csr_array(sparse.coo_array((value, (pixels.bin1, pixels.bin2)), shape=(n, n)))
    return sparse.csr_array(upper + upper.T.tocsr())
