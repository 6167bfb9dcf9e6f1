"""One file of contacts, or some cells of it, as a part of a contact store in the making."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def contacts_part(part: PartOfStore) -> pd.DataFrame:
    """Read one file, on a worker.

    Returns
    -------
    DataFrame
        Columns resolution, key (number of the cell in this part x chromosomes + first chromosome), bin1, bin2, count,
        report; sorted by the first four. The first row has only a report, as JSON.
    """
    report = _Report([part.file_cell])
    tables = list(_pairs(part, report) if part.kind == "pairs" else _matrices(part, report))
    rows = pd.concat([_part_rows(part, r, table) for r, table in tables], ignore_index=True)
    runs = rows.groupby(["resolution", "key"], sort=True).size()
    said = {
        "cells": report.cells,
        "n_contacts": report.n_contacts if part.counted else 0,
        "n_flipped": report.n_flipped if part.counted else 0,
        "dropped": dict(report.dropped) if part.counted else {},
        "largest": _largest(rows, len(part.sizes), len(report.cells)),
        "fractions": rows["count"].dtype.kind == "f",
        "runs": [[int(r), int(key), int(n)] for (r, key), n in runs.items()],
    }
    first: dict[str, Any] = {"resolution": [REPORT], "key": [0], "bin1": [0], "bin2": [0], "count": [0]}
    head = pd.DataFrame(first).astype(rows.dtypes.to_dict())
    whole = pd.concat([head, rows], ignore_index=True)
    whole["report"] = np.array([json.dumps(said), *[None] * len(rows)], dtype=object)
    return whole


def _largest(rows: pd.DataFrame, n_chroms: int, n_cells: int) -> list[float]:
    """Largest count of each cell."""
    by_cell = rows["count"].groupby(rows["key"].to_numpy() // n_chroms).max()
    return [float(value) for value in by_cell.reindex(range(n_cells), fill_value=0)]


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
            tables.append(table.assign(cell=number))
        yield r, pd.concat(tables, ignore_index=True)


def _part_rows(part: PartOfStore, resolution: int, table: pd.DataFrame) -> pd.DataFrame:
    code = chromosome_codes(make_bins(part.sizes, resolution))
    key = table["cell"].to_numpy(dtype=np.int64) * len(part.sizes) + code[table["bin1_id"].to_numpy()]
    bin1, bin2 = (table[name].to_numpy().astype(np.int32) for name in ("bin1_id", "bin2_id"))
    columns = {"key": key, "bin1": bin1, "bin2": bin2, "count": table["count"].to_numpy()}
    return pd.DataFrame({"resolution": np.full(len(table), resolution, dtype=np.int64), **columns})
