"""Cells of each enhancer pair by state, in all and without a count of the gene."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource
from enhancer_dask.errors import InputError
from enhancer_dask.interactions.memory import census_bytes
from enhancer_dask.interactions.rows import PairRows, counts_of, cut, digest, distinct_pairs, finish, pair_rows
from enhancer_dask.io.tables import (
    ENHANCER_PAIR,
    output_table,
)
from enhancer_dask.links.memory import cells_of
from enhancer_dask.links.work import consecutive
from enhancer_dask.stats.states import STATES
from enhancer_dask.stores import Location, MultiomeStore, located, opened

Ints = NDArray[np.int64]

LEAST_CHUNK, LARGEST_CHUNK = 4_096, 32_768  # pairs; their numbers travel with the task
CHUNKS_WANTED = 24


def census_block(
    rna: NDArray[np.integer],
    atac: NDArray[np.integer],
    gene: NDArray[np.integer],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
) -> pd.DataFrame:
    """Count the cells of enhancer pairs by state.

    Parameters
    ----------
    rna : integer array, shape (G, n)
        Counts of the genes.
    atac : integer array, shape (P, n)
        Counts of the peaks; open is above zero.
    gene, first, second : integer arrays, shape (L,)
        Pair ``i`` is row ``gene[i]`` of ``rna`` and rows ``first[i]`` and ``second[i]`` of ``atac``.

    Returns
    -------
    DataFrame
        One row per pair: cells n_00, n_10, n_01, n_11 (first digit the first enhancer, 1 if open); those without a
        count of the gene, zero_00 ... zero_11; their share zero_share_00 ... zero_share_11, NaN where a state has no
        cells.

    Notes
    -----
    One product of 0/1 matrices per gene counts the doubly open cells of all its pairs.
    """
    cells, silent = np.zeros((len(gene), 4), dtype=np.int64), np.zeros((len(gene), 4), dtype=np.int64)
    order = np.argsort(gene, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(gene[order])) + 1):
        (left, i), (right, j) = (np.unique(peak[rows], return_inverse=True) for peak in (first, second))
        x, y = ((atac[peaks] > 0).astype(np.float32) for peaks in (left, right))  # sums are exact up to 2^24 cells
        without = (rna[gene[rows[:1]]] == 0).all(axis=0)
        cells[rows] = _by_state(x, y, i, j)
        silent[rows] = _by_state(x[:, without], y[:, without], i, j)
    share = np.divide(silent, cells, out=np.full(cells.shape, np.nan), where=cells > 0)
    return pd.DataFrame(
        {
            f"{name}_{state}": values[:, s]
            for name, values in (("n", cells), ("zero", silent), ("zero_share", share))
            for s, state in enumerate(STATES)
        }
    )


def _by_state(x: NDArray[np.float32], y: NDArray[np.float32], i: Ints, j: Ints) -> Ints:
    """Cells in the four states of pairs of a row of ``x`` and a row of ``y``, shape (L, 4)."""
    first, second, both = x.sum(axis=1)[i], y.sum(axis=1)[j], (x @ y.T)[i, j]
    states = np.stack([x.shape[1] - first - second + both, first - both, second - both, both], axis=1)
    return states.astype(np.int64)


def census(
    store: str | Path,
    pairs: str | Path | pd.DataFrame,
    celltype: str | Sequence[str] | None = None,
    *,
    min_double: int = 0,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    client: ClientSource | None = None,
    chunk_pairs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    warn: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Count the cells of enhancer pairs by state, and choose pairs by the number of doubly open cells.

    Parameters
    ----------
    store : path or URL
        Multiome store.
    pairs : path or DataFrame
        Columns gene, enhancer_1, enhancer_2; with a column celltype, each pair is counted in its own cell type only.
        Exact duplicates count once, with a warning.
    celltype : str or sequence of str, optional
        All cell types if not given.
    min_double : int
        Keep pairs with at least so many cells in which both enhancers are open (GLiMMIRS [1]_: 10).
    settings : mapping, optional
        How the pairs were chosen, kept with the table, so that one of others is refused by the key that differs.
    out : path, optional
        Parquet table to write; its parts lie in ``<out>.parts`` meanwhile, and the same call after an interruption
        goes on where it stopped. Without it the work is done in Dask's ``temporary-directory``.
    client, chunk_pairs, progress, overwrite, warn
        As in :func:`enhancer_dask.scent`.

    Returns
    -------
    DataFrame
        Columns celltype, gene, enhancer_1, enhancer_2 and those of :func:`census_block`, by cell type, in the order
        given. Empty if no pair has ``min_double`` cells.

    Raises
    ------
    InputError
        On unknown names or cell types, or if no pair is of the cell types asked for.
    StoreError, ResumeError, ChunkError
        See :mod:`enhancer_dask.errors`.

    References
    ----------
    .. [1] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
       multiplicatively. Cell Genomics 4, 100672.
    """
    if out is None:
        with tempfile.TemporaryDirectory(
            prefix="enhancer-dask-", dir=dask.config.get("temporary-directory", None)
        ) as scratch:
            return census(
                store, pairs, celltype, min_double=min_double, settings=settings, out=Path(scratch) / "census.parquet",
                client=client, chunk_pairs=chunk_pairs, progress=progress, warn=warn,
            )  # fmt: skip
    data, out = MultiomeStore(located(store)), output_table(out)
    if min_double < 0:
        raise InputError(f"min_double is {min_double}; want 0 or more")
    if chunk_pairs is not None and chunk_pairs < 1:
        raise InputError(f"chunk_pairs is {chunk_pairs}; want 1 or more")
    rows = pair_rows(data, distinct_pairs(pairs, warn), celltype)
    work = plan(data, rows, min_double, dict(settings or {}), out.with_name(f"{out.name}.parts"), chunk_pairs)
    merge = partial(chunks.merge, work, out, lambda part, _: _named(part, data))
    return finish(work, out, merge, client=client, progress=progress, overwrite=overwrite)


def plan(
    store: MultiomeStore,
    of_types: Sequence[PairRows],
    min_double: int,
    settings: dict[str, Any],
    folder: Path,
    chunk_pairs: int | None,
) -> chunks.Work:
    """Cut the pairs into chunks: cell type after cell type, in the order given."""
    n_pairs = sum(len(rows.gene) for rows in of_types)
    size = chunk_pairs or min(LARGEST_CHUNK, max(LEAST_CHUNK, n_pairs // CHUNKS_WANTED))
    pieces = cut(of_types, size)
    params: dict[str, Any] = {
        "stage": "pairs",
        **settings,
        "min_double": min_double,
        "store": store.fingerprint,
        "pairs": digest(of_types),
        "celltypes": [rows.celltype for rows in of_types],
    }

    def arguments(index: int) -> tuple[Any, ...]:
        t, part = pieces[index]
        return store.path, store.fingerprint, of_types[t].some(part), min_double

    def split(args: tuple[Any, ...], n_pieces: int) -> list[tuple[Any, ...]]:
        path, fingerprint, rows, least = args
        return [(path, fingerprint, rows.some(part), least) for part in consecutive(len(rows.gene), n_pieces)]

    def nbytes(args: tuple[Any, ...]) -> int:
        path, fingerprint, rows, _ = args
        return census_bytes(rows, cells_of(path, fingerprint, rows.celltype))

    return chunks.Work(
        "census", census_chunk, arguments, len(pieces), params, {"chunk_pairs": size}, folder, split, nbytes
    )


def census_chunk(path: Location, fingerprint: str, rows: PairRows, min_double: int) -> pd.DataFrame:
    """One chunk on a worker. Names are rows of the store, so that a chunk without pairs has the same types."""
    store = opened(path, fingerprint)
    data = counts_of(store, rows)
    table = census_block(data.rna, data.atac, data.gene, data.first, data.second)
    table.insert(0, "celltype", store.celltypes.index(rows.celltype))
    for column, values in zip(ENHANCER_PAIR, (rows.gene, rows.first, rows.second), strict=True):
        table.insert(table.columns.get_loc("n_00"), column, values)
    return table[table["n_11"] >= min_double]


def _named(part: pa.Table, store: MultiomeStore) -> pa.Table:
    """Names instead of rows of the store."""
    for place, (column, kind) in enumerate(
        zip(("celltype", *ENHANCER_PAIR), ("celltype", "gene", "peak", "peak"), strict=True)
    ):
        names = store.column(kind)[part[column].to_numpy()]
        part = part.set_column(place, column, pa.array(names, type=pa.string()))
    return part
