"""The cells behind one enhancer pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.stats.states import STATES
from enhancer_dask.stores import MultiomeStore, located


def cells_of_pair(
    store: str | Path | MultiomeStore, gene: str, enhancer_1: str, enhancer_2: str, celltype: str
) -> pd.DataFrame:
    """State and count of each cell of a type for one enhancer pair.

    Parameters
    ----------
    store : path, URL or MultiomeStore
    gene, enhancer_1, enhancer_2, celltype : str
        Names in the store; an enhancer is a peak.

    Returns
    -------
    DataFrame
        cell (barcode), state (00, 10, 01 or 11: first digit the first enhancer, 1 if open), count of the gene, n_umi of
        the cell; in store order.

    Raises
    ------
    InputError
        If a name is not in the store.
    StoreError
        If the store is missing or damaged.
    """
    data = store if isinstance(store, MultiomeStore) else MultiomeStore(located(store))
    cells = data.cells_of(celltype)
    count = data.counts("rna", [_row(data, "gene", gene)], celltype)[0]
    open_1, open_2 = (data.counts("atac", [_row(data, "peak", e)], celltype)[0] > 0 for e in (enhancer_1, enhancer_2))
    state = np.array(STATES, dtype=object)[open_1 + 2 * open_2.astype(np.int64)]
    columns = {"cell": data.column("cell")[cells], "state": state, "count": count}
    return pd.DataFrame(columns | {"n_umi": data.column("cell_n_umi")[cells]})


def _row(store: MultiomeStore, kind: str, name: str) -> int:
    found = np.flatnonzero(store.column(kind) == name)
    if not len(found):
        raise InputError(f"{store.path}: {kind} {name!r} is not in the store")
    return int(found[0])
