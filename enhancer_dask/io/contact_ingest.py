"""Hi-C files to a contact store: one task per file (or some cells of it), then a merge."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.contact_store import ContactStore, is_contact_store
from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import Sizes
from enhancer_dask.io.contact_merge import Parts, open_parts
from enhancer_dask.io.contact_parts import PartOfStore, contacts_part
from enhancer_dask.io.contact_sources import (
    ContactSource,
    common_sizes,
    look_at,
    names_of_files,
    native_resolution,
    read_contact_cells,
)
from enhancer_dask.io.contact_writer import ContactWriter
from enhancer_dask.io.contacts import bin_size, bins_onto, unusable, vector_table
from enhancer_dask.io.files import describe_file, is_url, remove_at_once, remove_leftovers, staged
from enhancer_dask.io.pixels import make_bins
from enhancer_dask.io.tables import check_params

CELLS_PER_TASK = 50


def ingest_contacts(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    resolution: int | Sequence[int],
    chromsizes: Sizes | None = None,
    cells: str | Path | pd.DataFrame | None = None,
    single_cell: bool = False,
    chromosomes: Sequence[str] | None = None,
    one_based: bool = True,
    assembly: str = "",
    client: ClientSource | None = None,
    chunk_cells: int = CELLS_PER_TASK,
    progress: bool = True,
    overwrite: bool = False,
) -> ContactStore:
    """Write Hi-C contacts to a contact store.

    Parameters
    ----------
    inputs : path or sequence of paths
        ``.pairs``, ``.cool``, ``.mcool``, ``.scool``, ``.hic``; the kind is told by the content. Bulk files are added
        up; of a single one the vectors are kept. A ``.scool`` and pairs with a column of barcodes hold cells; the same
        cell in several files is added up.
    out : path
        Folder of the store.
    resolution : int or sequence of int
        Bin sizes, bp. A ``.cool`` or ``.scool`` with smaller bins is coarsened if they fit into the larger ones; a
        ``.hic`` or ``.mcool`` must have the resolution.
    chromsizes : mapping, Series, DataFrame or path, optional
        Chromosomes and their lengths in bp, in the order of the store; by default those of the first file that has
        them. Contacts on other contigs are dropped and counted.
    cells : path or DataFrame, optional
        Table of the cells to keep, in their order: a column cell or barcode (the names), or file (the name of the
        file that is the cell); other columns are kept as ``cell_<column>``. Without it all cells found.
    single_cell : bool
        Each file is one cell, named by the table, else by the file.
    chromosomes : sequence of str, optional
        Only these; by default all.
    one_based : bool
        Positions in pairs count from 1, else from 0.
    assembly : str
        Name of the genome assembly, kept with the store; files whose chromosomes are named by another are refused.
    client : optional
        As in :func:`enhancer_dask.scent`.
    chunk_cells : int
        Cells of a ``.scool`` that a task reads; changes no result.
    progress : bool
        Show the progress on standard error.
    overwrite : bool
        Replace a store made from other input.

    Returns
    -------
    ContactStore
        Its ``report`` says what was read, flipped, dropped, coarsened.

    Raises
    ------
    InputError
        On bad input; the message names the file. Files of several assemblies are refused.
    ResumeError
        If ``out`` or its parts were made from other input and ``overwrite`` is not set.
    ChunkError, ClusterError
        See :mod:`enhancer_dask.errors`.
    """
    if is_url(out):
        raise InputError(f"{out}: a store is written to a folder, want a path; copy the finished store there")
    out = Path(out).absolute()
    wanted = _resolutions(resolution)
    if chunk_cells < 1:
        raise InputError(f"chunk_cells is {chunk_cells}; want 1 or more")
    sources = [look_at(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not sources:
        raise InputError("no input file given")
    path, n = Counter(source.path for source in sources).most_common(1)[0]
    if n > 1:
        raise InputError(f"{path}: given {n} times, its contacts would count more than once")
    sizes = common_sizes(sources, chromsizes, chromosomes, assembly)
    table = None if cells is None else read_contact_cells(cells)
    parts = _parts(sources, sizes, wanted, table, single_cell, one_based, chunk_cells)
    params = {
        "stage": "contacts",
        "inputs": [describe_file(source.path) for source in sources],
        "resolutions": wanted,
        "chromosomes": _digest(sizes),
        "cells": None if table is None else _digest(table.astype(str).to_dict()),
        "single_cell": single_cell,
        "one_based": one_based,
        "assembly": assembly,
    }
    work = chunks.Work(
        "contacts", contacts_part, lambda i: (parts[i],), len(parts), params, {"chunk_cells": chunk_cells},
        out.with_name(f"{out.name}.parts"),
    )  # fmt: skip
    if _is_there(out, params, overwrite):
        return ContactStore(out)
    if overwrite:
        chunks.discard_parts(work)
    remove_leftovers(out)
    with client_or_threads(client) as running:
        chunks.run(work, running, progress=progress)
    done = open_parts([work.part(i) for i in range(work.n_chunks)], len(sizes))
    report = _report(done, sources, wanted)
    found = _cells_found(done, table, report, parts[0].path) if _is_of_cells(parts[0]) else None
    with staged(out) as folder:
        writer = ContactWriter(folder, sizes, found)
        for r in wanted:
            bins, vectors = make_bins(sizes, r), {}
            if len(sources) == 1 and found is None:
                vectors = _vectors(sources[0], sizes, r, report)
            numbers = _numbers(found)
            report["n_pixels"][str(r)] = writer.add(r, bins, done.pixels(r, len(bins), numbers), vectors, done.dtype())
        writer.finish({"assembly": assembly, "params": params, "report": report})
    remove_at_once(work.folder)
    return ContactStore(out)


def _resolutions(resolution: int | Sequence[int]) -> list[int]:
    wanted = sorted({bin_size(size) for size in np.atleast_1d(resolution).tolist()})
    if not wanted:
        raise InputError("no resolution given; want one or more, in bp")
    return wanted


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _is_there(out: Path, params: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the store is finished; refuses to replace one of other input, and what is no store of ours."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not is_contact_store(out):
        raise InputError(f"{out}: exists and is no contact store, so it is not overwritten; choose another name")
    if overwrite:
        return False
    there: Any = ContactStore(out).group.attrs.get("params", {})
    check_params(out, dict(there), dict(params))
    return True


def _parts(
    sources: Sequence[ContactSource],
    sizes: dict[str, int],
    wanted: Sequence[int],
    table: pd.DataFrame | None,
    single_cell: bool,
    one_based: bool,
    chunk_cells: int,
) -> list[PartOfStore]:
    """What each task reads: a file, one resolution of a matrix, or some cells of a ``.scool``."""
    of_cells = single_cell or table is not None or any(source.of_cells() for source in sources)
    whole = [source for source in sources if not source.cells and (single_cell or not source.barcoded)]
    named = single_cell or (table is not None and "file" in table.columns)
    if of_cells and whole and not named:
        raise InputError(f"{whole[0].path}: does not tell cells apart; if each file is one cell, give --single-cell")
    cell_of = names_of_files(whole, table) if of_cells else {}
    parts = []
    for source in sources:
        native = [(r, r if source.kind == "pairs" else native_resolution(source, r)) for r in wanted]
        cell = cell_of.get(source.path, "")
        if source.kind == "pairs":
            by_barcode = of_cells and not cell
            parts.append(
                PartOfStore(source.path, "pairs", sizes, tuple(native), one_based, True, (), cell, by_barcode)
            )  # fmt: skip
        elif source.cells:
            some = [tuple(source.cells[i : i + chunk_cells]) for i in range(0, len(source.cells), chunk_cells)]
            parts += [PartOfStore(source.path, "cool", sizes, tuple(native), one_based, True, c) for c in some]
        else:
            parts += [
                PartOfStore(source.path, source.kind, sizes, (pair,), one_based, i == 0, (), cell)
                for i, pair in enumerate(native)
            ]
    return parts


def _is_of_cells(part: PartOfStore) -> bool:
    return bool(part.cells or part.file_cell or part.by_barcode)


def _report(done: Parts, sources: Sequence[ContactSource], wanted: Sequence[int]) -> dict[str, Any]:
    summary = done.summary()
    if summary["n_contacts"] and summary["n_contacts"] == summary["n_dropped"]:
        raise InputError(
            f"{sources[0].path}: no contact lies on a chromosome of the store; first contig: "
            f"{next(iter(summary['dropped']))!r}"
        )
    warnings = []
    for source in sources:
        for r in wanted if source.kind == "cool" else ():
            native = native_resolution(source, r)
            if native != r:
                warnings.append(f"{source.path}: bins of {native} bp were joined to {r} bp")
    return summary | {"n_pixels": {}, "warnings": warnings}


def _cells_found(done: Parts, table: pd.DataFrame | None, report: dict[str, Any], path: Path) -> pd.DataFrame:
    """The cells of the store in their order, with what is known of them."""
    found = done.cells()
    if not found:
        raise InputError(f"{path}: no contact has a barcode, so there are no cells")
    if table is None:
        return pd.DataFrame(index=pd.Index(found, dtype=object))
    there = set(found)
    names = [{str(name), str(barcode)} for name, barcode in zip(table.index, _barcodes(table), strict=True)]
    kept = np.array([bool(there & both) for both in names])
    twice = [name for name, n in Counter(name for both in names for name in both & there).items() if n > 1]
    if twice:
        raise InputError(f"cells: {twice[0]!r} is the name or barcode of several cells, want one")
    if not kept.any():
        raise InputError(
            f"cells: none is in the input (first cell {table.index[0]!r}, first of the input {found[0]!r})"
        )
    known = set().union(*names)
    n_others = len(there - known)
    if not kept.all():
        report["warnings"].append(f"cells: {(~kept).sum()} of {len(table)} cells are not in the input")
    if n_others:
        report["warnings"].append(f"{n_others} of {len(found)} cells are not in the table of cells and were left out")
    return table[kept]


def _numbers(cells: pd.DataFrame | None) -> dict[str, int]:
    """Number of each cell, by its name and its barcode."""
    if cells is None:
        return {"": 0}
    numbers = {str(barcode): i for i, barcode in enumerate(_barcodes(cells))}
    return numbers | {str(name): i for i, name in enumerate(cells.index)}


def _barcodes(cells: pd.DataFrame) -> Sequence[str]:
    return list(cells["barcode"] if "barcode" in cells.columns else cells.index)


def _vectors(
    source: ContactSource, sizes: dict[str, int], resolution: int, report: dict[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Weights of the only file, on the bins of the store; useless ones are left out with a warning."""
    if source.kind == "pairs" or native_resolution(source, resolution) != resolution:
        return {}
    table = vector_table(source.path, resolution)
    moved, bins = bins_onto(table[["chrom", "start", "end"]], sizes, source.path, resolution)
    found = {}
    for name in table.columns.drop(["chrom", "start", "end"]):
        values = table[name].to_numpy(dtype=np.float64)
        why = unusable(values)
        if why:
            report["warnings"].append(f"{source.path}: vector {name!r} {why}; it is left out")
            continue
        found[str(name)] = np.full(len(bins), np.nan)
        found[str(name)][moved[moved >= 0]] = values[moved >= 0]
    return found
