"""Enhancer pairs as rows of the store, by cell type, and how they are cut into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
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


def cut(of_types: Sequence[PairRows], size: int) -> list[tuple[int, slice]]:
    """Chunks of up to ``size`` neighbouring pairs of one cell type: place of the type, and which of its pairs."""
    return [(t, slice(at, at + size)) for t, rows in enumerate(of_types) for at in range(0, len(rows.gene), size)]


def digest(of_types: Sequence[PairRows]) -> str:
    """Short hash of the pairs and their order."""
    hashed = hashlib.blake2b(digest_size=16)
    for rows in of_types:
        hashed.update(rows.celltype.encode() + np.stack([rows.gene, rows.first, rows.second]).tobytes())
    return hashed.hexdigest()
