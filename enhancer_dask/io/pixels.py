"""Pixels: a pair of bins and a count. Summed, sorted, laid out by pairs of chromosomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]
LEAST_PENDING = 2_000_000  # pixels; sorting fewer at a time costs more than the memory is worth


class PixelSum:
    """Sum of counts by pair of bins over any number of blocks; holds the distinct pixels and about as many more.

    Parameters
    ----------
    n_bins : int
        Bins of the genome.
    """

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        self._keys: list[Ints] = []
        self._counts: list[NDArray[Any]] = []
        self._pending, self._distinct = 0, 0

    def add(
        self,
        bin1: NDArray[np.integer],
        bin2: NDArray[np.integer],
        count: NDArray[Any] | None = None,
        cell: NDArray[np.integer] | None = None,
    ) -> None:
        """Add pixels, in any order and on any side of the diagonal; a count of 1 each, of cell 0, if none is given."""
        keys = np.minimum(bin1, bin2).astype(np.int64) * self.n_bins + np.maximum(bin1, bin2)
        if cell is not None:
            keys += cell.astype(np.int64) * self.n_bins**2  # 600,000 bins leave room for 25 million cells
        self._keys.append(keys)
        self._counts.append(np.ones(len(keys), dtype=np.int64) if count is None else widest(count))
        self._pending += len(keys)
        if self._pending > max(LEAST_PENDING, self._distinct):
            self._compress()

    def _compress(self) -> None:
        keys, counts = np.concatenate(self._keys), np.concatenate(self._counts)
        order = np.argsort(keys, kind="stable")  # counts with fractions are summed in the order of the input
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys, self._counts = [keys[first]], [np.add.reduceat(counts, first) if len(first) else counts]
        self._distinct, self._pending = len(first), 0

    def table(self) -> pd.DataFrame:
        """Columns bin1_id, bin2_id (int64, bin1_id <= bin2_id), count; sorted by both bins; no count is zero."""
        return self.by_cell().drop(columns="cell")

    def by_cell(self) -> pd.DataFrame:
        """The same with a column cell in front, by which it is sorted first."""
        if self._keys:
            self._compress()
        keys, counts = (self._keys or [np.zeros(0, np.int64)])[0], (self._counts or [np.zeros(0, np.int64)])[0]
        kept = counts != 0
        cell, pair = np.divmod(keys[kept], max(1, self.n_bins**2))
        bin1, bin2 = np.divmod(pair, max(1, self.n_bins))
        table = pixel_table(bin1, bin2, counts[kept])
        table.insert(0, "cell", cell)
        return table


def widest(count: NDArray[Any]) -> NDArray[Any]:
    """Counts as int64, or float64 if they have fractions."""
    return np.asarray(count).astype(np.float64 if np.asarray(count).dtype.kind == "f" else np.int64)


def ascend(bin1: NDArray[np.integer], bin2: NDArray[np.integer]) -> bool:
    """Whether pixels are sorted by both bins and none is there twice; no large array is made."""
    same = bin1[1:] == bin1[:-1]
    return bool((bin1[1:] >= bin1[:-1]).all() and (bin2[1:] > bin2[:-1])[same].all())


def pixel_table(bin1: NDArray[np.integer], bin2: NDArray[np.integer], count: NDArray[Any]) -> pd.DataFrame:
    """The three columns of contacts."""
    return pd.DataFrame({"bin1_id": bin1.astype(np.int64), "bin2_id": bin2.astype(np.int64), "count": count})


def make_bins(sizes: dict[str, int], resolution: int) -> pd.DataFrame:
    """Bins of one size, chromosome after chromosome; the last of each ends with its chromosome.

    Examples
    --------
    >>> make_bins({"a": 25, "b": 10}, 10)
      chrom  start  end
    0     a      0   10
    1     a     10   20
    2     a     20   25
    3     b      0   10
    """
    starts = {chrom: np.arange(0, size, resolution, dtype=np.int64) for chrom, size in sizes.items()}
    start = np.concatenate([np.zeros(0, dtype=np.int64), *starts.values()])
    length = np.repeat(np.array(list(sizes.values()), dtype=np.int64), [len(s) for s in starts.values()])
    chrom = np.repeat(np.array(list(sizes), dtype=object), [len(s) for s in starts.values()])
    return pd.DataFrame({"chrom": chrom, "start": start, "end": np.minimum(start + resolution, length)})


def chromosome_lengths(bins: pd.DataFrame) -> dict[str, int]:
    """Length of each chromosome, bp, in the order of the bins."""
    ends = bins.groupby("chrom", sort=False, observed=True)["end"].max()
    return {str(chrom): int(end) for chrom, end in ends.items()}


def chromosome_codes(bins: pd.DataFrame) -> Ints:
    """Position of each bin's chromosome in the order of the bins, shape (bins,)."""
    return np.asarray(pd.factorize(bins["chrom"])[0], dtype=np.int64)
