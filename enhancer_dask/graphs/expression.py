"""Expression of genes per cell, from a table or a multiome store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.tables import read_table
from enhancer_dask.stores import Location, MultiomeStore, is_store

GENES_AT_ONCE = 1024
Expression = Mapping[str, NDArray[np.float32]]


def expressed_genes(source: Location, cells: Sequence[str]) -> list[str]:
    """Genes of a source, in order, after a look at its cells.

    Parameters
    ----------
    source : path or URL
        A multiome store, or a table with a column ``cell`` and one numeric column per gene; of a Parquet file a task
        reads its own cells only.
    cells : sequence of str
        Cells that must be there.

    Raises
    ------
    InputError
        If a cell is missing or there twice, or a column of the table is not of numbers.
    """
    if is_multiome(source):
        store = MultiomeStore(source)
        there, genes = pd.Series(store.column("cell")), [str(name) for name in store.column("gene")]
    else:
        there, genes = _look(Path(source))
    missing = sorted(set(cells) - set(there))
    if missing:
        raise InputError(f"{source}: has no cell {missing[0]!r} ({len(missing)} of {len(cells)} cells are missing)")
    twice = there[there.duplicated() & there.isin(cells)]
    if len(twice):
        raise InputError(f"{source}: cell {twice.iloc[0]!r} is there twice")
    return genes


def cell_expression(source: Location, cells: Sequence[str]) -> Expression:
    """All genes of a source in some of its cells, by cell, each of shape (genes,).

    Raises
    ------
    InputError
        If a value of these cells is missing.
    """
    return _of_store(MultiomeStore(source), cells) if is_multiome(source) else _of_table(Path(source), cells)


def is_multiome(source: Location) -> bool:
    """Whether this is a multiome store and no table."""
    return isinstance(source, str) or is_store(source)


def _look(path: Path) -> tuple[pd.Series, list[str]]:
    """Cells and genes of a table."""
    if path.suffix == ".parquet" and path.is_file():
        schema = pq.read_schema(path)
        if "cell" not in schema.names:
            raise InputError(f"{path}: column 'cell' is missing; columns found: {', '.join(schema.names[:5])} ...")
        table = schema.empty_table().to_pandas()
        there = pd.Series(pq.read_table(path, columns=["cell"])["cell"].to_pylist()).astype(str)
    else:
        table = read_table(path, required=("cell",), text=("cell",))
        there = table["cell"]
    genes = [str(name) for name in table.columns if name != "cell"]
    for name in genes:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path}: column {name!r} is not of numbers; want a column 'cell' and one per gene")
    return there, genes


def _of_table(path: Path, cells: Sequence[str]) -> Expression:
    if path.suffix == ".parquet":
        whole = ds.dataset(path)
        mine = ds.field("cell").cast(pa.string()).isin(list(cells))
        table = whole.to_table(columns=whole.schema.names, filter=mine).replace_schema_metadata().to_pandas()
    else:
        table = read_table(path, text=("cell",))
    table = table.set_index(table["cell"].astype(str)).drop(columns="cell").loc[list(cells)]
    values = table.to_numpy(np.float32)
    missing = np.argwhere(~np.isfinite(values))
    if len(missing):
        row, column = missing[0]
        raise InputError(f"{path}: column {table.columns[column]!r} of cell {table.index[row]!r} is not finite")
    return dict(zip(cells, values, strict=True))


def _of_store(store: MultiomeStore, cells: Sequence[str]) -> Expression:
    names = store.column("cell")
    wanted = pd.Index(cells)
    values = np.zeros((len(cells), len(store.column("gene"))), dtype=np.float32)
    for celltype in store.celltypes:
        row = wanted.get_indexer(pd.Index(names[store.cells_of(celltype)]))
        if (row < 0).all():
            continue
        for start in range(0, values.shape[1], GENES_AT_ONCE):
            genes = np.arange(start, min(start + GENES_AT_ONCE, values.shape[1]))
            values[row[row >= 0, None], genes] = store.counts("rna", genes, celltype)[:, row >= 0].T
    return dict(zip(cells, values, strict=True))
