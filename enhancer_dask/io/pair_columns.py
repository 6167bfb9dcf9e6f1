"""The beginning of a .pairs file: what its header says, and in which columns the contacts stand."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from enhancer_dask.errors import InputError

LOOKED_AT = 100  # lines that the columns of a file without header are found from
STRANDS = {"+", "-", ".", "0", "16", "1", "-1"}
BARCODE = ("barcode", "cell", "cell_id", "cell_barcode", "CB", "bc")


@dataclass(frozen=True)
class PairColumns:
    """Layout of a .pairs file."""

    n_skipped: int
    """Lines before the first contact."""
    n_columns: int
    delimiter: str
    chrom1: int
    pos1: int
    chrom2: int
    pos2: int
    barcode: int | None = None
    """Column of the cell's barcode, if there is one."""
    is_sorted: bool = False
    """The header says that lines are sorted by both chromosomes, then positions."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Chromosome sizes of the header; empty if it has none."""
    example: str = ""
    """Chromosome of the first line."""


def open_text(path: Path) -> IO[str]:
    """A text file, plain or gzip, by its first bytes."""
    with open(path, "rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return cast("IO[str]", gzip.open(path, "rt", errors="replace") if packed else open(path, errors="replace"))


def find_columns(path: Path) -> PairColumns:
    """Read the header and the first lines.

    Known are the 4DN form [1]_ with its ``#columns:`` line, the 9-column form of HiRES (a 4DN header, phases instead of
    pair types), and without header 4 columns (chrom1 pos1 chrom2 pos2), 5 (the same and a barcode), 6 (chrom1 pos1
    strand1 chrom2 pos2 strand2) and 7 or more (readID chrom1 pos1 chrom2 pos2 strand1 strand2 ...).

    Raises
    ------
    InputError
        If the file is empty, damaged, or the columns cannot be told; shows the line.

    References
    ----------
    .. [1] 4DN consortium, pairs format specification, github.com/4dn-dcic/pairix
    """
    header: list[str] = []
    lines: list[str] = []
    try:
        with open_text(path) as text:
            for line in text:
                if line.startswith("#") and not lines:
                    header.append(line.rstrip("\n"))
                elif line.strip():
                    lines.append(line.rstrip("\r\n"))
                if len(lines) > LOOKED_AT:
                    break
    except (OSError, EOFError) as err:
        raise damaged(path, err) from err
    sizes, names, is_sorted = _header(path, header)
    if not lines and names is None:
        raise InputError(f"{path}: no contacts there")
    delimiter = "\t" if not lines or "\t" in lines[0] else " "
    rows = [line.split(delimiter) for line in lines]
    n_skipped = len(header)
    if names is None and "pos1" in rows[0]:
        names, rows, n_skipped = rows[0], rows[1:], n_skipped + 1
    width = len(rows[0]) if rows else len(names or ())
    at = _named(path, names) if names is not None else _guessed(path, rows, n_skipped)
    _check_rows(path, rows, width, at, n_skipped)
    example = rows[0][at[0]] if rows else ""
    return PairColumns(n_skipped, width, delimiter, *at, is_sorted=is_sorted, sizes=sizes, example=example)


def damaged(path: Path, err: Exception) -> InputError:
    """A compressed file that cannot be unpacked, or one that cannot be read."""
    return InputError(f"{path}: cannot be read, truncated or damaged ({str(err).splitlines()[0]})")


def _header(path: Path, header: list[str]) -> tuple[dict[str, int], list[str] | None, bool]:
    sizes: dict[str, int] = {}
    names, is_sorted = None, False
    for number, line in enumerate(header, 1):
        key, _, value = line.partition(":")
        fields = value.split()
        if key in ("#chromsize", "#chromosome"):
            if len(fields) != 2 or not fields[1].isdigit():
                raise InputError(f"{path}: line {number} is not a chromosome and its size: {line[:60]!r}")
            sizes[fields[0]] = int(fields[1])
        elif key == "#columns":
            names = fields
        elif key == "#sorted":
            is_sorted = value.strip() == "chr1-chr2-pos1-pos2"
    return sizes, names, is_sorted


def _named(path: Path, names: list[str]) -> tuple[int, int, int, int, int | None]:
    found = []
    for wanted in (("chrom1", "chr1"), ("pos1",), ("chrom2", "chr2"), ("pos2",)):
        at = next((names.index(name) for name in wanted if name in names), None)
        if at is None:
            raise InputError(f"{path}: column {wanted[0]!r} is missing; columns found: {', '.join(names)}")
        found.append(at)
    barcode = next((names.index(name) for name in BARCODE if name in names), None)
    return found[0], found[1], found[2], found[3], barcode


def _guessed(path: Path, rows: list[list[str]], n_skipped: int) -> tuple[int, int, int, int, int | None]:
    first = rows[0]
    width = len(first)
    layouts: list[tuple[int, int, int, int, int | None]] = []
    if width in (4, 5):
        layouts.append((0, 1, 2, 3, 4 if width == 5 else None))
    if width >= 6 and {first[2], first[5]} <= STRANDS:
        layouts.append((0, 1, 3, 4, None))
    if width >= 7:
        layouts.append((1, 2, 3, 4, None))
    for layout in layouts:
        if first[layout[1]].isdigit() and first[layout[3]].isdigit():
            return layout
    raise InputError(
        f"{path}: line {n_skipped + 1}: no two chromosomes and positions found in {' '.join(first)[:80]!r}; want a "
        "'#columns:' line, or columns chrom1 pos1 chrom2 pos2 [barcode], chrom1 pos1 strand1 chrom2 pos2 strand2, or "
        "readID chrom1 pos1 chrom2 pos2 strand1 strand2 ..."
    )


def _check_rows(
    path: Path, rows: list[list[str]], width: int, at: tuple[int, int, int, int, int | None], n_skipped: int
) -> None:
    for number, row in enumerate(rows, n_skipped + 1):
        if len(row) != width or not (row[at[1]].isdigit() and row[at[3]].isdigit()):
            raise bad_line(path, number, " ".join(row), width, at[1], at[3])


def bad_line(path: Path, number: int, line: str, width: int, pos1: int, pos2: int) -> InputError:
    """A line that is no contact."""
    return InputError(
        f"{path}: line {number} is no contact: {line[:80]!r}; want {width} columns, with positions in columns "
        f"{pos1 + 1} and {pos2 + 1}"
    )
