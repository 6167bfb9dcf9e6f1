"""Tables in and out: csv, tsv (also .gz) and Parquet, chosen by the file's ending."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from enhancer_dask.errors import InputError, ResumeError, StoreError
from enhancer_dask.io.files import is_url, staged

META_KEY = b"enhancer_dask"
ENHANCER_PAIR = ("gene", "enhancer_1", "enhancer_2")


def read_table(path: str | Path, *, required: tuple[str, ...] = (), text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a csv, tsv (optionally .gz) or Parquet table.

    Parameters
    ----------
    path : path
    required : column names that must be there
    text : columns kept as text even if they look like numbers (barcodes, names)

    Raises
    ------
    InputError
        If the file is missing, of another kind, unreadable or lacks a required column.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    ending = "".join(s for s in path.suffixes[-2:] if s in {".csv", ".tsv", ".txt", ".gz", ".parquet"})
    types = dict.fromkeys(text, str)
    try:
        if ending == ".parquet":
            table = pd.read_parquet(path)
            table = table.reset_index() if table.index.name in required else table
        elif ending.removesuffix(".gz") == ".csv":
            table = pd.read_csv(path, dtype=types)
        elif ending.removesuffix(".gz") in {".tsv", ".txt"}:
            table = pd.read_csv(path, sep="\t", dtype=types)
        else:
            raise InputError(f"{path}: unknown kind of table; want .csv, .tsv, .csv.gz, .tsv.gz or .parquet")
    except (ValueError, OSError, EOFError, pa.ArrowException) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f"{path}: not readable as a table ({str(err).splitlines()[0]})") from err
    missing = [name for name in required if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        raise InputError(f"{path}: column {missing[0]!r} is missing; columns found: {found}")
    for name in text:
        if name in table.columns:
            table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def write_parquet(
    table: pd.DataFrame, path: str | Path, *, meta: Mapping[str, Any] | None = None, make_parent: bool = True
) -> None:
    """Write a Parquet table (zstd) at once or not at all; ``meta`` goes into the file's schema."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    with staged(Path(path), make_parent=make_parent) as work:
        pq.write_table(with_meta(arrow, meta or {}), work, compression="zstd")


def write_tsv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a .tsv.gz, the same bytes for the same table."""
    with staged(Path(path)) as work:
        table.to_csv(work, sep="\t", index=False, compression={"method": "gzip", "mtime": 0})


def with_meta(arrow: pa.Table, meta: Mapping[str, Any]) -> pa.Table:
    """Attach our metadata to an Arrow table."""
    text = json.dumps(meta, sort_keys=True).encode()
    return arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), META_KEY: text})


def read_meta(path: str | Path) -> dict[str, Any]:
    """Metadata that :func:`write_parquet` left in a table; empty if the table is not ours.

    Raises
    ------
    StoreError
        If the file is not Parquet, for instance truncated.
    """
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as err:
        raise StoreError(f"{path}: damaged, not a Parquet table ({str(err).splitlines()[0]})") from err
    return dict(json.loads((schema.metadata or {}).get(META_KEY, b"{}")))


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Gene-peak pairs: a table with columns ``gene`` and ``peak``."""
    table = read_table(path, required=("gene", "peak"), text=("gene", "peak"))
    return check_pairs(table, str(path))


def check_pairs(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """The columns ``gene`` and ``peak`` of a pairs table, checked for empty names."""
    return check_names(table, label, ("gene", "peak"))


def read_enhancer_pairs(path: str | Path) -> pd.DataFrame:
    """Enhancer pairs: a table with columns ``gene``, ``enhancer_1``, ``enhancer_2`` and perhaps ``celltype``.

    Raises
    ------
    InputError
        See :func:`read_table` and :func:`check_enhancer_pairs`.
    """
    table = read_table(path, required=ENHANCER_PAIR, text=(*ENHANCER_PAIR, "celltype"))
    return check_enhancer_pairs(table, str(path))


def check_enhancer_pairs(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """The columns that name enhancer pairs, ``celltype`` first if it is there, checked for empty names.

    A pair of a peak with itself passes, as in the published table: it has no cells in state 10 or 01.

    Raises
    ------
    InputError
        If a column is missing, a name is empty, or the table is.
    """
    return check_names(table, label, ("celltype", *ENHANCER_PAIR) if "celltype" in table.columns else ENHANCER_PAIR)


def check_names(table: pd.DataFrame, label: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Columns of names as text, with rows numbered from 0."""
    for name in columns:
        if name not in table.columns:
            raise InputError(
                f"{label}: column {name!r} is missing; columns found: {', '.join(map(str, table.columns)) or 'none'}"
            )
        empty = table[name].isna() | (table[name].astype(str) == "")
        if empty.any():
            row = int(empty.to_numpy().argmax()) + 1
            raise InputError(f"{label}: column {name!r} is empty in {empty.sum()} rows (first: row {row})")
    if table.empty:
        raise InputError(f"{label}: the table is empty")
    return table[list(columns)].astype(str).reset_index(drop=True)


def output_table(path: str | Path) -> Path:
    """Where a Parquet table is to be written, as an absolute path.

    Raises
    ------
    InputError
        If the name does not end in .parquet, is that of a folder or a URL.
    """
    if is_url(path):
        raise InputError(f"{path}: tables are written to a file system, want a path; copy the finished table there")
    path = Path(path).absolute()
    if path.suffix != ".parquet":
        raise InputError(f"{path}: want a name that ends in .parquet (there is --tsv for .tsv.gz)")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, want the name of a file")
    return path


def check_params(out: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to take over or to mix with a result that was made with other parameters.

    Raises
    ------
    ResumeError
        Naming the first parameter that differs, with both values.
    """
    for key, value in asked.items():
        if there.get(key) != value:
            raise ResumeError(
                f"{out}: exists and was made with other parameters: {key!r} is {there.get(key)!r} there, "
                f"{value!r} asked for; choose another name or overwrite it"
            )
