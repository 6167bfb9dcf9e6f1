"""Enhancer pairs as rows of the store, by cell type: looked up, cut into chunks, read, and their tables finished."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError
from enhancer_dask.io.files import remove_leftovers
from enhancer_dask.io.tables import check_enhancer_pairs, check_params, read_enhancer_pairs, read_meta
from enhancer_dask.stores import MultiomeStore

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairRows:
    """Enhancer pairs of one cell type as rows of the store."""

    celltype: str
    gene: Ints
    first: Ints
    second: Ints

    def some(self, part: slice | Ints) -> PairRows:
        """Some of the pairs."""
        return PairRows(self.celltype, self.gene[part], self.first[part], self.second[part])

    def along_genome(self) -> Ints:
        """Order in which pairs of a gene, and genes that share peaks and chunks of the store, are neighbours."""
        return np.lexsort((self.second, self.first, self.gene))


def pair_rows(store: MultiomeStore, pairs: pd.DataFrame, celltype: str | Sequence[str] | None) -> list[PairRows]:
    """Look enhancer pairs up in the store, for each cell type asked for.

    With a column celltype a pair counts for its own cell type only.

    Raises
    ------
    InputError
        If a gene, peak or cell type is not in the store, or no pair is of a type asked for.
    """
    types = store.chosen_types(celltype)
    gene = store.rows_of("gene", pairs["gene"])
    first, second = store.rows_of("peak", pairs["enhancer_1"]), store.rows_of("peak", pairs["enhancer_2"])
    if "celltype" not in pairs.columns:
        return [PairRows(name, gene, first, second) for name in types]
    store.chosen_types(pairs["celltype"].unique().tolist())
    own = pairs["celltype"].to_numpy()
    of_types = {name: np.flatnonzero(own == name) for name in types}
    if not any(map(len, of_types.values())):
        raise InputError(f"pairs: none is of cell type {', '.join(types)}; types found: {', '.join(np.unique(own))}")
    return [PairRows(name, gene[at], first[at], second[at]) for name, at in of_types.items() if len(at)]


def distinct_pairs(pairs: str | Path | pd.DataFrame, warn: Callable[[str], None] | None) -> pd.DataFrame:
    """Enhancer pairs of a table or file, each once; says how many were there again.

    Raises
    ------
    InputError
        See :func:`~enhancer_dask.io.tables.check_enhancer_pairs`.
    """
    table = read_enhancer_pairs(pairs) if isinstance(pairs, str | Path) else check_enhancer_pairs(pairs, "pairs")
    distinct = table.drop_duplicates(ignore_index=True)
    if len(distinct) < len(table):
        (warn or warnings.warn)(f"pairs: {len(table) - len(distinct)} duplicate rows count once")
    return distinct


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of the genes and peaks of some pairs in the cells of their type, and which rows each pair is."""

    rna: NDArray[np.integer]
    """Shape (G, n)."""
    atac: NDArray[np.integer]
    """Shape (P, n)."""
    gene: Ints
    """Row of ``rna`` of each pair, shape (L,)."""
    first: Ints
    """Row of ``atac`` of the first enhancer, shape (L,)."""
    second: Ints
    """Row of ``atac`` of the second enhancer, shape (L,)."""


def counts_of(store: MultiomeStore, rows: PairRows) -> Counts:
    """Read each gene and peak of the pairs once."""
    genes, gene = np.unique(rows.gene, return_inverse=True)
    peaks, place = np.unique(np.concatenate([rows.first, rows.second]), return_inverse=True)
    first, second = np.split(place, 2)
    rna, atac = store.counts("rna", genes, rows.celltype), store.counts("atac", peaks, rows.celltype)
    return Counts(rna, atac, gene, first, second)


def cut(of_types: Sequence[PairRows], size: int) -> list[tuple[int, slice]]:
    """Chunks of up to ``size`` neighbouring pairs of one cell type: place of the type, and which of its pairs."""
    return [(t, slice(at, at + size)) for t, rows in enumerate(of_types) for at in range(0, len(rows.gene), size)]


def digest(of_types: Sequence[PairRows]) -> str:
    """Short hash of the pairs and their order."""
    hashed = hashlib.blake2b(digest_size=16)
    for rows in of_types:
        hashed.update(rows.celltype.encode() + np.stack([rows.gene, rows.first, rows.second]).tobytes())
    return hashed.hexdigest()


def finish(
    work: chunks.Work,
    out: Path,
    merge: Callable[[], None],
    *,
    client: ClientSource | None,
    progress: bool,
    overwrite: bool,
) -> pd.DataFrame:
    """Compute what is missing of a table, merge, and return it; one that is finished is returned at once.

    Raises
    ------
    ResumeError
        If the table or its parts were made with other parameters and ``overwrite`` is not set.
    """
    if overwrite:
        chunks.discard(work, out)
    if out.exists():
        check_params(out, read_meta(out).get("params", {}), dict(work.params))
        return pd.read_parquet(out)
    remove_leftovers(out)
    with client_or_threads(client) as running:
        chunks.run(work, running, progress=progress)
    merge()
    return pd.read_parquet(out)
