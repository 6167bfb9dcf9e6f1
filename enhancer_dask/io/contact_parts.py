"""One file of contacts, or some cells of it, as a part of a contact store in the making."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from enhancer_dask.io.contacts import Kind, onto, read_matrix
from enhancer_dask.io.coolers import plain_cell
from enhancer_dask.io.pairs import bin_pairs
from enhancer_dask.io.pixels import chromosome_codes, make_bins

REPORT = 0  # "resolution" of the row that holds the report


@dataclass(frozen=True)
class PartOfStore:
    """What one task reads."""

    path: Path
    kind: Kind
    sizes: dict[str, int]
    """Chromosomes of the store, lengths in bp."""
    resolutions: tuple[tuple[int, int], ...]
    """Resolution wanted, and for matrices the one to read it from; bp."""
    one_based: bool
    counted: bool
    """Whether the report counts contacts; only one task does where several read the same ones."""
    cells: tuple[str, ...] = ()
    """Cells of a ``.scool`` to read."""
    file_cell: str = ""
    """Name of the cell that the file is."""
    by_barcode: bool = False
    """Cells are told apart by the column of barcodes."""


@dataclass
class _Report:
    cells: list[str]
    n_contacts: float = 0
    n_flipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    largest: dict[int, float] = field(default_factory=dict)
    """Largest count of each cell, by its number."""
    runs: list[list[int]] = field(default_factory=list)
    """Resolution, key and length of the runs of rows."""


def contacts_part(part: PartOfStore) -> pd.DataFrame:
    """Read one file, on a worker.

    Returns
    -------
    DataFrame
        Columns resolution, key (number of the cell in this part x chromosomes + first chromosome), bin1, bin2, count,
        report; sorted by the first four. The first row has only a report, as JSON.
    """
    report = _Report([part.file_cell])
    tables = _pairs(part, report) if part.kind == "pairs" else _matrices(part, report)
    rows = [_head(), *(_part_rows(part, report, r, table) for r, table in tables)]
    said = {
        "cells": report.cells,
        "n_contacts": report.n_contacts if part.counted else 0,
        "n_flipped": report.n_flipped if part.counted else 0,
        "dropped": dict(report.dropped) if part.counted else {},
        "largest": [report.largest.get(number, 0.0) for number in range(len(report.cells))],
        "fractions": any(table["count"].dtype.kind == "f" for table in rows),
        "runs": report.runs,
    }
    whole = pd.concat(rows, ignore_index=True)
    whole["report"] = np.array([json.dumps(said), *[None] * (len(whole) - 1)], dtype=object)
    return whole


def _head() -> pd.DataFrame:
    """The row of the report."""
    names = ("resolution", "key", "bin1", "bin2", "count")
    return pd.DataFrame({name: np.array([REPORT if name == "resolution" else 0], dtype=np.int32) for name in names})


def _pairs(part: PartOfStore, report: _Report) -> Iterator[tuple[int, pd.DataFrame]]:
    wanted = [r for r, _ in part.resolutions]
    found = bin_pairs(part.path, part.sizes, wanted, one_based=part.one_based, by_cell=part.by_barcode)
    report.n_contacts, report.n_flipped, report.dropped = found.n_contacts, found.n_flipped, found.dropped
    if part.by_barcode:
        report.cells = list(found.cells)
    for r in wanted:
        yield r, found.sums.pop(r).by_cell()


def _matrices(part: PartOfStore, report: _Report) -> Iterator[tuple[int, pd.DataFrame]]:
    names = part.cells or (None,)
    if part.cells:
        report.cells = [plain_cell(name) for name in part.cells]
    for i, (r, native) in enumerate(part.resolutions):
        tables = []
        for number, cell in enumerate(names):
            own = read_matrix(part.path, native, cell)
            table = onto(own, part.sizes, part.path, r)
            if i == 0:
                report.n_contacts += own["count"].sum().item()
                report.dropped.update(table.attrs["dropped"])
            table.attrs = {}
            table["cell"] = number
            tables.append(table)
        yield r, pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def _part_rows(part: PartOfStore, report: _Report, resolution: int, table: pd.DataFrame) -> pd.DataFrame:
    """Contacts as rows of the part, narrow, since there may be many; notes their runs and largest counts."""
    code = chromosome_codes(make_bins(part.sizes, resolution)).astype(np.int32)
    bin1, bin2 = (table[name].to_numpy().astype(np.int32) for name in ("bin1_id", "bin2_id"))
    key = table["cell"].to_numpy().astype(np.int32) * np.int32(len(part.sizes)) + code[bin1]
    count = table["count"].to_numpy()
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    largest = np.maximum.reduceat(count, starts) if len(starts) else count
    for start, stop, most in zip(starts, np.append(starts, len(key))[1:], largest, strict=True):
        report.runs.append([resolution, int(key[start]), int(stop - start)])
        cell = int(key[start]) // len(part.sizes)
        report.largest[cell] = max(report.largest.get(cell, 0.0), float(most))
    if count.dtype.kind != "f" and largest.max(initial=0) <= np.iinfo(np.int32).max:
        count = count.astype(np.int32)
    columns = {"key": key, "bin1": bin1, "bin2": bin2, "count": count}
    return pd.DataFrame({"resolution": np.full(len(key), resolution, dtype=np.int32), **columns})
