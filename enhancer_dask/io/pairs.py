"""Contacts of a .pairs file, counted by pair of bins; read in blocks, so memory is that of the pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.io.pair_columns import PairColumns, bad_line, damaged, find_columns, open_text
from enhancer_dask.io.pixels import PixelSum

BLOCK_BYTES = 16 << 20
Ints = NDArray[np.int64]


@dataclass
class Binned:
    """What a file of contacts held."""

    sums: dict[int, PixelSum]
    """Pixels by resolution."""
    cells: dict[str, int] = field(default_factory=dict)
    """Number of each barcode; empty if there was no barcode column or nobody asked for it."""
    n_contacts: int = 0
    """Contacts read, dropped ones among them."""
    n_flipped: int = 0
    """Contacts whose later position stood first; they are put right."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Contacts left out, by the contig that is not among the chromosomes."""


@dataclass(frozen=True)
class _Block:
    """Some lines of the file."""

    line: int
    """Number of the first, from 1."""
    chrom: tuple[Ints, Ints]
    """Codes of the names as they stand in the file."""
    pos: tuple[Ints, Ints]
    barcode: Ints | None


def bin_pairs(
    path: Path,
    sizes: Mapping[str, int],
    resolutions: Sequence[int],
    *,
    one_based: bool = True,
    cell: str | None = None,
    by_cell: bool = False,
) -> Binned:
    """Count the contacts of a file by pair of bins.

    Parameters
    ----------
    path : path
    sizes : mapping
        Length in bp of each chromosome; contacts on other contigs are dropped and counted.
    resolutions : sequence of int
        Bin sizes, bp; the file is read once for all.
    one_based : bool
        The first base of a chromosome is 1 (as 4DN says): bin ``(pos - 1) // resolution``; else 0.
    cell : str, optional
        Only contacts of this barcode.
    by_cell : bool
        Count by barcode; needs a column of barcodes.

    Returns
    -------
    Binned

    Raises
    ------
    InputError
        If a line is no contact, a position lies outside its chromosome, lines are not sorted although the header says
        so, or the barcode does not occur.
    """
    columns = find_columns(path)
    if (cell is not None or by_cell) and columns.barcode is None:
        raise InputError(f"{path}: no column of barcodes, so no cell can be chosen")
    names, reader = ChromosomeNames(sizes, str(path)), _Reader(path, columns, cell is not None or by_cell)
    length = np.array(list(sizes.values()), dtype=np.int64)
    first_bin = {r: np.concatenate([[0], np.cumsum(-(-length // r))]).astype(np.int64) for r in resolutions}
    found = Binned({r: PixelSum(int(first_bin[r][-1])) for r in resolutions})
    order = _Order(path) if columns.is_sorted else None
    for block in reader.blocks():
        if order is not None:
            order.check(block, reader.chroms)
        code = np.array([names.code(name) for name in reader.chroms] or [-1], dtype=np.int64)
        chrom1, chrom2 = code[block.chrom[0]], code[block.chrom[1]]
        kept = (chrom1 >= 0) & (chrom2 >= 0)
        found.n_contacts += len(kept)
        _count_dropped(found.dropped, block, code, reader.chroms, ~kept)
        if cell is not None and block.barcode is not None:
            kept &= block.barcode == reader.barcodes.get(cell, -1)
        pos1, pos2 = (pos - one_based for pos in block.pos)
        for chrom, pos in ((chrom1, pos1), (chrom2, pos2)):
            outside = kept & ((pos < 0) | (pos >= length[chrom]))
            if outside.any():
                _raise_outside(path, block.line, sizes, chrom, pos, outside, one_based)
        chrom1, chrom2, pos1, pos2 = (values[kept] for values in (chrom1, chrom2, pos1, pos2))
        found.n_flipped += int(((chrom1 > chrom2) | ((chrom1 == chrom2) & (pos1 > pos2))).sum())
        of_cell = block.barcode[kept] if by_cell and block.barcode is not None else None
        for r, total in found.sums.items():
            start = first_bin[r]
            total.add(start[chrom1] + pos1 // r, start[chrom2] + pos2 // r, cell=of_cell)
    if cell is not None and cell not in reader.barcodes:
        known = ", ".join(list(reader.barcodes)[:3])
        raise InputError(f"{path}: no contact has the barcode {cell!r}; first barcodes: {known}")
    found.cells = reader.barcodes if by_cell else {}
    return found


class _Reader:
    """Blocks of lines, with names of chromosomes and barcodes as numbers in the order of their first occurrence."""

    def __init__(self, path: Path, columns: PairColumns, barcodes: bool) -> None:
        self.path, self.columns = path, columns
        self.chroms: dict[str, int] = {}
        self.barcodes: dict[str, int] = {}
        self.barcode = columns.barcode if barcodes else None

    def blocks(self) -> Iterator[_Block]:
        at, line = self.columns, self.columns.n_skipped + 1
        try:
            with self._open() as table:
                for batch in table:
                    chrom1, chrom2 = (self._numbers(batch, i, self.chroms) for i in (at.chrom1, at.chrom2))
                    pos1, pos2 = (batch.column(f"c{i}").to_numpy(zero_copy_only=False) for i in (at.pos1, at.pos2))
                    barcode = None if self.barcode is None else self._numbers(batch, self.barcode, self.barcodes)
                    yield _Block(line, (chrom1, chrom2), (pos1, pos2), barcode)
                    line += len(chrom1)
        except pa.ArrowInvalid as err:
            raise self._explained(err) from err
        except (OSError, EOFError) as err:
            raise damaged(self.path, err) from err

    def _open(self) -> Any:
        at = self.columns
        text = pa.dictionary(pa.int32(), pa.string())
        types: dict[int, Any] = {at.chrom1: text, at.pos1: pa.int64(), at.chrom2: text, at.pos2: pa.int64()}
        if self.barcode is not None:
            types[self.barcode] = text
        with open(self.path, "rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
        file = pa.OSFile(str(self.path))
        return pyarrow.csv.open_csv(
            pa.CompressedInputStream(file, "gzip") if packed else file,
            pyarrow.csv.ReadOptions(
                skip_rows=at.n_skipped, block_size=BLOCK_BYTES, column_names=[f"c{i}" for i in range(at.n_columns)]
            ),
            pyarrow.csv.ParseOptions(delimiter=at.delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                include_columns=[f"c{i}" for i in types],
                column_types={f"c{i}": kind for i, kind in types.items()},
                null_values=[],
            ),
        )

    @staticmethod
    def _numbers(batch: Any, column: int, known: dict[str, int]) -> Ints:
        values = batch.column(f"c{column}")
        names = values.dictionary.to_pylist()
        numbers = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
        return numbers[values.indices.to_numpy(zero_copy_only=False)] if names else np.zeros(0, dtype=np.int64)

    def _explained(self, err: Exception) -> InputError:
        at = self.columns
        with open_text(self.path) as text:
            for number, line in enumerate(text, 1):
                fields = line.rstrip("\r\n").split(at.delimiter)
                if number <= at.n_skipped or not line.strip():
                    continue
                if len(fields) != at.n_columns or not (fields[at.pos1].isdigit() and fields[at.pos2].isdigit()):
                    return bad_line(self.path, number, " ".join(fields), at.n_columns, at.pos1, at.pos2)
        return InputError(f"{self.path}: not readable as contacts ({str(err).splitlines()[0]})")


class _Order:
    """Whether lines are sorted as the header says: each pair of chromosomes once, ``pos1`` ascending in it.

    Tools differ in how they order chromosomes and lines of one ``pos1``, so neither is looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: set[tuple[int, int]] = set()
        self.last: tuple[int, int] | None = None
        self.last_pos = 0

    def check(self, block: _Block, chroms: Mapping[str, int]) -> None:
        (chrom1, chrom2), pos = block.chrom, block.pos[0]
        if not len(pos):
            return
        new = np.append(True, (np.diff(chrom1) != 0) | (np.diff(chrom2) != 0))
        starts = np.flatnonzero(new)
        for at in starts:
            pair = int(chrom1[at]), int(chrom2[at])
            if pair != self.last and pair in self.seen:
                names = list(chroms)
                self._refuse(block.line + int(at), f"{names[pair[0]]}, {names[pair[1]]} again")
            new[at] = pair != self.last
            self.seen.add(pair)
            self.last = pair
        back = np.flatnonzero((np.diff(pos, prepend=self.last_pos) < 0) & ~new)
        if len(back):
            before = np.append(self.last_pos, pos)
            self._refuse(block.line + int(back[0]), f"position {pos[back[0]]} after {before[back[0]]}")
        self.last_pos = int(pos[-1])

    def _refuse(self, line: int, why: str) -> None:
        raise InputError(f"{self.path}: line {line}: unsorted pairs ({why}), but the header says they are sorted")


def _count_dropped(dropped: Counter[str], block: _Block, code: Ints, chroms: Mapping[str, int], lost: Any) -> None:
    if lost.any():
        first, second = block.chrom[0][lost], block.chrom[1][lost]
        unknown = np.where(code[first] < 0, first, second)
        names = list(chroms)
        for number, n in zip(*np.unique(unknown, return_counts=True), strict=True):
            dropped[names[number]] += int(n)


def _raise_outside(
    path: Path, line: int, sizes: Mapping[str, int], chrom: Ints, pos: Ints, outside: Any, one_based: bool
) -> None:
    at = int(np.flatnonzero(outside)[0])
    name = list(sizes)[int(chrom[at])]
    found = int(pos[at]) + one_based
    why = "positions count from 1; or are they 0-based?" if found < 1 else "mixed assemblies?"
    raise InputError(
        f"{path}: line {line + at}: position {found} lies outside chromosome {name!r} of {sizes[name]} bp ({why})"
    )
