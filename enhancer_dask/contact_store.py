"""The contact store: open, validate, read blocks. The schema is documented in stores/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.pixels import PixelSum, pixel_table, widest
from enhancer_dask.stores import check_schema

SCHEMA = "enhancer-dask contacts"
SCHEMA_VERSION = 1
PIXELS_PER_CHUNK = 262_144  # a cell or a block of chromosomes is read without much beside it
PIXELS_AT_A_TIME = 4_000_000  # when cells are added up
Span = tuple[int, int]


def is_contact_store(path: Path) -> bool:
    """Whether a folder is a contact store, of any version."""
    try:
        return bool(zarr.open_group(str(path), mode="r").attrs.get("schema") == SCHEMA)
    except Exception:  # zarr raises whatever the files make it raise
        return False


@dataclass(frozen=True)
class ContactStore:
    """Read-only access to a contact store from inside a task.

    Layout. Root: ``chrom_name``, ``chrom_length`` (chrom) and, for single cells, ``cell`` and ``cell_<column>`` (cell).
    One group per resolution, named by its bin size in bp: ``bin_chrom`` (position in ``chrom_name``), ``bin_start``,
    ``bin_end`` (bin); ``bin1``, ``bin2`` (int32, bin1 <= bin2), ``count`` (pixel), sorted by cell, then block of
    chromosomes, then bin1, bin2; ``block_chrom1``, ``block_chrom2`` (block; those that occur, sorted); ``offset``
    (int64, cell x (block + 1); one row if bulk): pixels of cell c in block b are ``offset[c, b]:offset[c, b + 1]``;
    ``vector_<name>`` (float64, bin): **multiplicative** weights that the file carried, NaN where a bin is left out.
    """

    path: Path

    @cached_property
    def group(self) -> zarr.Group:
        """The open Zarr group."""
        if not Path(self.path).exists():
            raise StoreError(f"{self.path}: no such store")
        try:
            group = zarr.open_group(str(self.path), mode="r")
        except Exception as err:
            raise StoreError(f"{self.path}: not a Zarr store ({type(err).__name__})") from err
        check_schema(group.attrs, self.path, SCHEMA, SCHEMA_VERSION, "read the contacts again")
        return group

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the store."""
        return str(self.group.attrs["fingerprint"])

    @property
    def assembly(self) -> str:
        """For instance ``hg38``; empty if not known."""
        return str(self.group.attrs.get("assembly", ""))

    @property
    def report(self) -> dict[str, Any]:
        """What was read, flipped, dropped and assumed when the store was made from files; empty if it was not."""
        found: Any = self.group.attrs.get("report", {})
        return dict(found)

    @cached_property
    def resolutions(self) -> list[int]:
        """Bin sizes in bp, ascending."""
        return sorted(int(name) for name in self.group.group_keys())

    @cached_property
    def chroms(self) -> list[str]:
        """Chromosomes in the order of the bins."""
        return [str(name) for name in self._array("chrom_name")]

    @cached_property
    def cells(self) -> list[str]:
        """Names of the cells; empty for bulk contacts."""
        return [str(name) for name in self._array("cell")] if "cell" in self.group else []

    def bins(self, resolution: int) -> pd.DataFrame:
        """Columns chrom, start, end (bp, 0-based, half-open), one row per bin; the row is the bin id."""
        names = np.asarray(self.chroms, dtype=object)
        code, start, end = (self._array(f"{self.check(resolution)}/bin_{n}") for n in ("chrom", "start", "end"))
        return pd.DataFrame({"chrom": names[code], "start": start, "end": end})

    def check(self, resolution: int) -> int:
        """The resolution, if the store has it.

        Raises
        ------
        InputError
            If not; names those that are there.
        """
        if resolution not in self.resolutions:
            known = ", ".join(map(str, self.resolutions))
            raise InputError(f"{self.path}: no contacts at {resolution} bp; resolutions are: {known}")
        return resolution

    def contacts(
        self, resolution: int, chromosomes: Sequence[str] | None = None, *, inter: bool = True, cell: str | None = None
    ) -> pd.DataFrame:
        """Contacts within and, with ``inter``, between some chromosomes.

        Parameters
        ----------
        resolution : int
            Size of the bins, bp.
        chromosomes : sequence of str, optional
            All if not given.
        inter : bool
            Also contacts between two of the chromosomes.
        cell : str, optional
            One cell of a store of single cells; if not given, the sum over all cells.

        Returns
        -------
        DataFrame
            bin1_id, bin2_id (genome-wide, upper triangle), count, sorted by block and bins (the sum over cells: by
            bins); ``attrs["bins"]`` has :meth:`bins`. The same form as :func:`enhancer_dask.read_contacts` gives.

        Raises
        ------
        InputError
            If a chromosome, the cell or the resolution is not in the store.
        StoreError
            If a chunk is damaged.
        """
        bins = self.bins(resolution)
        blocks = self._blocks(resolution, chromosomes, inter)
        offset = self._array(f"{resolution}/offset")
        if cell is None and len(offset) > 1:
            total = PixelSum(len(bins))
            for some in _cut([span for row in offset for span in _spans_of(row, blocks)]):
                table = self._pixels(resolution, some, bins)
                total.add(*(table[name].to_numpy() for name in table))
            found = total.table()
        else:
            found = self._pixels(resolution, _spans_of(offset[self._cell(cell)], blocks), bins)
        found.attrs["bins"] = bins
        return found

    def n_pixels(
        self, resolution: int, chromosomes: Sequence[str] | None = None, *, inter: bool = True
    ) -> NDArray[np.int64]:
        """How many pixels :meth:`contacts` gives, shape (cells,); (1,) if bulk."""
        blocks = self._blocks(resolution, chromosomes, inter)
        sizes = np.diff(self._array(f"{resolution}/offset"), axis=1)
        return np.asarray(sizes[:, blocks].sum(axis=1), dtype=np.int64)

    def vectors(self, resolution: int) -> dict[str, NDArray[np.float64]]:
        """Multiplicative weights that the file carried, by name (``ICE``, ``KR``, ``VC`` ...), shape (bins,)."""
        group: Any = self.group[str(self.check(resolution))]
        names = sorted(name for name in group.array_keys() if name.startswith("vector_"))
        return {name.removeprefix("vector_"): self._array(f"{resolution}/{name}") for name in names}

    def cell_column(self, name: str) -> NDArray[Any]:
        """What the cell table said about each cell, shape (cells,); text as object array."""
        values = self._array(f"cell_{name}")
        return values if values.dtype.kind in "biuf" else values.astype(object)

    @property
    def cell_columns(self) -> list[str]:
        """Names of the columns known per cell, without ``cell_``."""
        return sorted(name.removeprefix("cell_") for name in self.group.array_keys() if name.startswith("cell_"))

    def _cell(self, cell: str | None) -> int:
        if cell is None:
            return 0
        if cell not in self.cells:
            known = f"first cells: {', '.join(self.cells[:3])}" if self.cells else "it holds bulk contacts"
            raise InputError(f"{self.path}: no cell is named {cell!r}; {known}")
        return self.cells.index(cell)

    def _blocks(self, resolution: int, chromosomes: Sequence[str] | None, inter: bool) -> NDArray[np.int64]:
        """Positions of the blocks asked for."""
        unknown = [name for name in chromosomes or [] if name not in self.chroms]
        if unknown:
            raise InputError(f"{self.path}: no chromosome {unknown[0]!r}; it has {', '.join(self.chroms)}")
        self.check(resolution)
        first, second = (self._array(f"{resolution}/block_chrom{i}") for i in (1, 2))
        kept = np.ones(len(first), dtype=bool) if inter else first == second
        if chromosomes is not None:
            codes = [self.chroms.index(name) for name in chromosomes]
            kept &= np.isin(first, codes) & np.isin(second, codes)
        return np.flatnonzero(kept)

    def _pixels(self, resolution: int, spans: Sequence[Span], bins: pd.DataFrame) -> pd.DataFrame:
        """Pixels of some ranges, checked."""
        columns = {name: self._spans(f"{resolution}/{name}", spans) for name in ("bin1", "bin2", "count")}
        table = pixel_table(columns["bin1"], columns["bin2"], widest(columns["count"]))
        bin1, bin2 = table["bin1_id"].to_numpy(), table["bin2_id"].to_numpy()
        bad = (bin1 < 0) | (bin2 < bin1) | (bin2 >= len(bins)) | (table["count"].to_numpy() == 0)
        if bad.any():
            raise StoreError(f"{self.path}: a chunk of pixels at {resolution} bp is missing or damaged")
        return table

    def _spans(self, name: str, spans: Sequence[Span]) -> NDArray[Any]:
        array: Any = self.group[name]
        if any(not 0 <= start <= stop <= array.shape[0] for start, stop in spans):
            raise StoreError(f"{self.path}: 'offset' points outside {name!r}: missing or damaged")
        try:
            parts = [np.asarray(array[start:stop]) for start, stop in spans if stop > start]
        except Exception as err:
            raise StoreError(f"{self.path}: {name!r} is missing or damaged ({type(err).__name__})") from err
        return np.concatenate([np.zeros(0, dtype=array.dtype), *parts])

    @cached_property
    def _known(self) -> dict[str, NDArray[Any]]:
        return {}

    def _array(self, name: str) -> NDArray[Any]:
        """An array other than the pixels, whole. Kept after the first reading."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> NDArray[Any]:
        group = self.group
        try:
            array: Any = group[name]
            if array.nchunks_initialized != array.nchunks:  # zarr reads the fill value where a chunk is missing
                raise FileNotFoundError
            return np.asarray(array[...])
        except Exception as err:
            raise StoreError(f"{self.path}: {name!r} is missing or damaged ({type(err).__name__})") from err


def _spans_of(offset: NDArray[np.int64], blocks: NDArray[np.int64]) -> list[Span]:
    """Ranges of pixels of one cell in some blocks; neighbouring blocks are one range."""
    runs = np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1) if len(blocks) else []
    return [(int(offset[run[0]]), int(offset[run[-1] + 1])) for run in runs]


def _cut(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Ranges joined where they touch, up to ``PIXELS_AT_A_TIME`` pixels at a time."""
    held: list[Span] = []
    n = 0
    for start, stop in spans:
        while start < stop:
            part = min(stop, start + PIXELS_AT_A_TIME - n)
            if held and held[-1][1] == start:
                held[-1] = (held[-1][0], part)
            else:
                held.append((start, part))
            n, start = n + part - start, part
            if n == PIXELS_AT_A_TIME:
                yield held
                held, n = [], 0
    if held:
        yield held
