"""Parts -> one contact store, some cells or chromosomes at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from enhancer_dask.io.contact_parts import REPORT
from enhancer_dask.io.contact_writer import COUNT_DTYPES
from enhancer_dask.io.pixels import PixelSum

MERGED_ROWS = 20_000_000  # of the parts in memory at a time, more only if one chromosome of a cell has more


@dataclass(frozen=True)
class Parts:
    """The finished parts and what they say of themselves."""

    paths: Sequence[Path]
    reports: Sequence[Mapping[str, Any]]
    n_chroms: int

    def cells(self) -> list[str]:
        """All cells, in the order of their first occurrence."""
        return list(dict.fromkeys(cell for report in self.reports for cell in report["cells"]))

    def dtype(self) -> np.dtype[Any]:
        """Of the counts: float64 if any has fractions, else the smallest integer that surely holds the sums."""
        if any(report["fractions"] for report in self.reports):
            return COUNT_DTYPES[2]
        sums: Counter[str] = Counter()
        for report in self.reports:
            for cell, largest in zip(report["cells"], report["largest"], strict=True):
                sums[cell] += largest
        return COUNT_DTYPES[0 if max(sums.values(), default=0) <= np.iinfo(np.int32).max else 1]

    def summary(self) -> dict[str, Any]:
        """Contacts read, flipped and dropped by contig, of all parts."""
        dropped: Counter[str] = Counter()
        for report in self.reports:
            dropped.update(report["dropped"])
        n_contacts, n_flipped = (sum(report[name] for report in self.reports) for name in ("n_contacts", "n_flipped"))
        return {
            "n_contacts": n_contacts,
            "n_flipped": n_flipped,
            "n_dropped": sum(dropped.values()),
            "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        }

    def pixels(self, resolution: int, n_bins: int, cells: Mapping[str, int]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Contacts summed over the parts: cell after cell, whole first chromosomes at a time.

        Parameters
        ----------
        resolution : int
        n_bins : int
        cells : mapping
            Number of each cell that is wanted.
        """
        runs = self._runs(resolution, cells)
        for _, group in runs.groupby("group", sort=True):
            table = self._summed(resolution, n_bins, group)
            cells_here = group["cell"].unique()
            of_cells = [(cells_here[0], table)] if len(cells_here) == 1 else table.groupby("cell", sort=True)
            for cell, own in of_cells:
                yield int(cell), own

    def _summed(self, resolution: int, n_bins: int, group: pd.DataFrame) -> pd.DataFrame:
        """Columns cell, bin1_id, bin2_id, count of some runs; rows of a part follow each other as in the part."""
        if len(group["part"].unique()) == 1 and not group.duplicated(["cell", "chrom"]).any():
            found = self._read(int(group["part"].iloc[0]), resolution, group)  # nothing to add up
            return pd.DataFrame(found, copy=False).rename(columns={"bin1": "bin1_id", "bin2": "bin2_id"})
        total = PixelSum(n_bins)
        for part, rows in group.groupby("part", sort=True):
            found = self._read(int(part), resolution, rows)
            total.add(found["bin1"], found["bin2"], found["count"], cell=found["cell"])
        return total.by_cell()

    def _runs(self, resolution: int, cells: Mapping[str, int]) -> pd.DataFrame:
        """Runs of rows of the parts with the cell and the chromosome they are of, and the group they are read in."""
        rows = [
            (part, key, cells.get(report["cells"][key // self.n_chroms], -1), key % self.n_chroms, n)
            for part, report in enumerate(self.reports)
            for r, key, n in report["runs"]
            if r == resolution
        ]
        runs = pd.DataFrame(rows, columns=["part", "key", "cell", "chrom", "n"])
        runs = runs[runs["cell"] >= 0].sort_values(["cell", "chrom", "part"], ignore_index=True)
        in_whole = runs.groupby(["cell", "chrom"])["n"].transform("sum")
        is_first = ~runs.duplicated(["cell", "chrom"])
        before = (in_whole * is_first).cumsum() - in_whole
        return runs.assign(group=before // MERGED_ROWS)

    def _read(self, part: int, resolution: int, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        low, high = int(rows["key"].min()), int(rows["key"].max())
        filters = [("resolution", "==", resolution), ("key", ">=", low), ("key", "<=", high)]
        table = pq.read_table(self.paths[part], columns=["key", "bin1", "bin2", "count"], filters=filters)
        key = table["key"].to_numpy()
        cell_of = np.full(high - low + 1, -1, dtype=np.int32)
        cell_of[rows["key"].to_numpy() - low] = rows["cell"].to_numpy()
        cell = cell_of[key - low]
        wanted: Any = slice(None) if (cell >= 0).all() else cell >= 0
        return {"cell": cell[wanted]} | {name: table[name].to_numpy()[wanted] for name in ("bin1", "bin2", "count")}


def open_parts(paths: Sequence[Path], n_chroms: int) -> Parts:
    """Read the reports of finished parts."""
    filters = [("resolution", "==", REPORT)]
    said = [pq.read_table(path, columns=["report"], filters=filters)["report"][0].as_py() for path in paths]
    return Parts(paths, [json.loads(text) for text in said], n_chroms)
