"""What the files of one contact store hold, and whether they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io import coolers, hic_files
from enhancer_dask.io.chromosomes import (
    ChromosomeNames,
    Sizes,
    assembly_prefix,
    check_same_assembly,
    read_chromsizes,
)
from enhancer_dask.io.contacts import Kind, kind_of
from enhancer_dask.io.coolers import plain_cell
from enhancer_dask.io.pair_columns import find_columns
from enhancer_dask.io.tables import read_table


@dataclass(frozen=True)
class ContactSource:
    """One input file, looked at but not read."""

    path: Path
    kind: Kind
    sizes: dict[str, int]
    """Chromosome lengths, bp; empty if the file does not say."""
    resolutions: list[int] = field(default_factory=list)
    """Of matrices, bp."""
    cells: list[str] = field(default_factory=list)
    """Of a ``.scool``."""
    barcoded: bool = False
    """Pairs with a column of barcodes."""
    prefix: str = ""
    """Assembly that the names of chromosomes carry."""

    def of_cells(self) -> bool:
        """Whether the file itself tells cells apart."""
        return bool(self.cells) or self.barcoded


def look_at(path: str | Path) -> ContactSource:
    """Look at the header of a file.

    Raises
    ------
    InputError
        If it is missing, damaged or of another kind.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    kind = kind_of(path)
    if kind == "pairs":
        columns = find_columns(path)
        barcoded = columns.barcode is not None
        return ContactSource(path, kind, columns.sizes, barcoded=barcoded, prefix=assembly_prefix(columns.example))
    if kind == "hic":
        sizes, resolutions, cells = hic_files.hic_sizes(path), hic_files.hic_resolutions(path), []
    else:
        sizes, resolutions = coolers.cooler_sizes(path), coolers.cooler_resolutions(path)
        cells = coolers.cooler_cells(path)
    return ContactSource(path, kind, sizes, resolutions, cells, prefix=assembly_prefix(next(iter(sizes), "")))


def native_resolution(source: ContactSource, resolution: int) -> int:
    """Resolution to read a matrix at for the one wanted: the same, or a finer one of a ``.cool`` or ``.scool``.

    Resolutions of a ``.hic`` or ``.mcool`` are taken as they are: those of real files are not exact sums of each other.

    Raises
    ------
    InputError
        If the file has neither.
    """
    single = source.kind == "cool" and len(source.resolutions) == 1
    if single and resolution % source.resolutions[0] == 0:
        return source.resolutions[0]
    coolers.check_resolution(source.path, resolution, source.resolutions)
    return resolution


def common_sizes(
    sources: Sequence[ContactSource],
    chromsizes: Sizes | None,
    chromosomes: Sequence[str] | None,
    assembly: str,
) -> dict[str, int]:
    """Chromosomes of the store: those given, else those of the first file that has them; perhaps only some.

    Raises
    ------
    InputError
        If no file says, files are of several assemblies, or a chromosome asked for is unknown.
    """
    label, sizes = "chromsizes", {} if chromsizes is None else read_chromsizes(chromsizes)
    if not sizes:
        first = next((source for source in sources if source.sizes), None)
        if first is None:
            raise InputError(f"{sources[0].path}: has no header with chromosome sizes; give chromsizes")
        label, sizes = str(first.path), first.sizes
    sizes = _chosen(sizes, chromosomes, label)
    prefixes = {assembly: "assembly"} if assembly else {}
    for source in sources:
        check_same_assembly(sizes, source.sizes, label, str(source.path))
        if source.prefix:
            prefixes.setdefault(source.prefix, str(source.path))
    if len(prefixes) > 1:
        (one, first_label), (other, other_label) = list(prefixes.items())[:2]
        raise InputError(f"{other_label}: chromosomes are of {other}, {first_label} is {one}: mixed assemblies")
    return sizes


def _chosen(sizes: Mapping[str, int], chromosomes: Sequence[str] | None, label: str) -> dict[str, int]:
    if chromosomes is None:
        return dict(sizes)
    names = ChromosomeNames(sizes, "chromosomes")
    chosen = {names.code(name) for name in chromosomes}
    unknown = [name for name in chromosomes if names.code(name) < 0]
    if unknown or not chosen:
        raise InputError(f"{label}: no chromosome {(unknown or [''])[0]!r}; it has {', '.join(sizes)}")
    return {name: size for code, (name, size) in enumerate(sizes.items()) if code in chosen}


def read_contact_cells(cells: str | Path | pd.DataFrame) -> pd.DataFrame:
    """A table of cells: index the names (column cell or barcode, else those of the files), column file if it is there.

    Raises
    ------
    InputError
        If no column names the cells, or a cell is there twice.
    """
    label = "cells" if isinstance(cells, pd.DataFrame) else str(cells)
    text = ("cell", "barcode", "file")
    table = cells.copy() if isinstance(cells, pd.DataFrame) else read_table(cells, text=text)
    named = next((name for name in text if name in table.columns), None)
    if named is None:
        raise InputError(
            f"{label}: no column cell, barcode or file; columns found: {', '.join(map(str, table.columns))}"
        )
    names = table[named].astype(str).map(file_stem if named == "file" else plain_cell)
    twice = names[names.duplicated()]
    if len(twice):
        raise InputError(f"{label}: cell {twice.iloc[0]!r} is there twice")
    kept = table.drop(columns=[named] if named != "file" else [])
    return kept.set_index(pd.Index(names.to_numpy(dtype=object)))


def file_stem(name: str | Path) -> str:
    """A file's name without folder and endings.

    Examples
    --------
    >>> file_stem("a/A1_A11.pairs.gz")
    'A1_A11'
    """
    stem = Path(name).name
    for ending in (".gz", ".txt", ".pairs", ".cool", ".mcool", ".hic"):
        stem = stem.removesuffix(ending)
    return stem


def names_of_files(sources: Sequence[ContactSource], table: pd.DataFrame | None) -> dict[Path, str]:
    """Cell that each file is, where every file is one: named by the table's column file, else by the file.

    Raises
    ------
    InputError
        If a file is not in the table, or two files have one name.
    """
    listed: Mapping[str, str] = {}
    if table is not None and "file" in table.columns:
        listed = {Path(str(file)).name: str(name) for name, file in table["file"].items()}
    names: dict[Path, str] = {}
    for source in sources:
        if listed and source.path.name not in listed:
            raise InputError(f"{source.path}: not in column 'file' of the table of cells")
        names[source.path] = listed.get(source.path.name, file_stem(source.path))
    path_of = {name: path for path, name in names.items()}
    for path, name in names.items():
        if path_of[name] != path:
            raise InputError(f"{path}: is cell {name!r}, and so is {path_of[name]}")
    return names
