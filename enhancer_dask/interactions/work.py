"""The chunks of an epistasis run: cut, computed, joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from enhancer_dask import chunks
from enhancer_dask.interactions.contrasts import Options, epistasis_block
from enhancer_dask.interactions.memory import epistasis_bytes
from enhancer_dask.interactions.rows import PairRows, counts_of, cut, digest
from enhancer_dask.links.covariates import read_covariates, read_offset
from enhancer_dask.links.memory import cells_of
from enhancer_dask.links.work import consecutive
from enhancer_dask.stats.states import TESTS
from enhancer_dask.stores import Location, MultiomeStore, opened

Floats = NDArray[np.float64]

ADJUSTED = {"fdr_saddle": "p_saddle", "fdr": "boot_p"}


@dataclass(frozen=True, slots=True)
class Request:
    """Enhancer pairs to test in some cell types."""

    store: Location
    """See :func:`~enhancer_dask.stores.located`."""
    fingerprint: str
    """Of the store."""
    of_types: tuple[PairRows, ...]
    """Pairs of each cell type, in the order of the result."""
    covariates: tuple[str, ...]
    """Terms."""
    names: tuple[str, ...]
    """Of the covariates' columns in any of the types; a type may lack some."""
    offset: str | None
    """Term."""
    options: Options
    """Everything else about the tests."""

    @property
    def params(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        params: dict[str, Any] = {
            "stage": "epistasis",
            "store": self.fingerprint,
            "pairs": digest(self.of_types),
            "celltypes": [rows.celltype for rows in self.of_types],
            "covariates": list(self.covariates),
            "offset": self.offset,
        }
        params |= asdict(self.options)
        params["ladder"] = [list(rung) for rung in self.options.ladder]
        return params


@dataclass(frozen=True, slots=True)
class Block:
    """Some pairs in one cell type: what a task gets."""

    store: Location
    fingerprint: str
    rows: PairRows
    covariates: tuple[str, ...]
    names: tuple[str, ...]
    offset: str | None
    options: Options


def epistasis_chunk(block: Block) -> pd.DataFrame:
    """One chunk on a worker: rows of the store in, table out."""
    store, rows = opened(block.store, block.fingerprint), block.rows
    data = counts_of(store, rows)
    covariates = read_covariates(store, rows.celltype, block.covariates)
    table = epistasis_block(
        data.rna, data.atac, data.gene, data.first, data.second, covariates.values, covariates.names,
        celltype=rows.celltype, options=block.options,
        offset=None if block.offset is None else read_offset(store, rows.celltype, block.offset),
    )  # fmt: skip
    return _labelled(table, store, rows, block.names, block.options.coding)


def _labelled(
    table: pd.DataFrame, store: MultiomeStore, rows: PairRows, names: tuple[str, ...], coding: str
) -> pd.DataFrame:
    """Put names in front, a barcode for the cell, and columns of covariates that other cell types have."""
    cells = store.column("cell")[store.cells_of(rows.celltype)]
    table["cook_cell"] = np.where(table["cook_cell"] >= 0, cells[table["cook_cell"]], "")
    for column in (f"{kind}{name}" for name in names for kind in ("joint_", "se_joint_")):
        if column not in table:
            table[column] = np.nan
    order = [column for name in names for column in (f"joint_{name}", f"se_joint_{name}")]
    others = [column for column in table.columns if column not in order]
    at = others.index("se_joint_intercept") + 1
    labels = pd.DataFrame(
        {
            "celltype": rows.celltype,
            "gene": store.column("gene")[rows.gene],
            "enhancer_1": store.column("peak")[rows.first],
            "enhancer_2": store.column("peak")[rows.second],
            "coding": coding,
        }
    )
    return pd.concat([labels, table[[*others[:at], *order, *others[at:]]]], axis=1)


def plan(request: Request, folder: Path, chunk_pairs: int) -> chunks.Work:
    """Cut the pairs into chunks: cell type after cell type, along the genome whatever the order given."""
    pieces = cut(request.of_types, chunk_pairs)
    order = [rows.along_genome() for rows in request.of_types]

    def arguments(index: int) -> tuple[Block]:
        t, part = pieces[index]
        rows = request.of_types[t].some(order[t][part])
        return (
            Block(
                request.store, request.fingerprint, rows, request.covariates, request.names, request.offset,
                request.options,
            ),
        )  # fmt: skip

    def split(args: tuple[Any, ...], n_pieces: int) -> list[tuple[Any, ...]]:
        (block,) = args
        parts = consecutive(len(block.rows.gene), n_pieces)
        return [(replace(block, rows=block.rows.some(part)),) for part in parts]

    def nbytes(args: tuple[Any, ...]) -> int:
        (block,) = args
        cells = cells_of(block.store, block.fingerprint, block.rows.celltype, block.covariates)
        return epistasis_bytes(block.rows, cells, block.options)

    return chunks.Work(
        "epistasis", epistasis_chunk, arguments, len(pieces), request.params, {"chunk_pairs": chunk_pairs}, folder,
        split, nbytes,
    )  # fmt: skip


def write_result(request: Request, work: chunks.Work, out: Path) -> None:
    """Join the parts in the order given and add adjusted p-values."""
    more = dict(_adjusted(work))
    if request.options.p == "saddle":  # the ladder's p-values of the doubtful tests alone are no family
        more = {name: np.full(len(values), np.nan) if "saddle" not in name else values for name, values in more.items()}

    def finish(table: pa.Table, row: int) -> pa.Table:
        for name, values in reversed(more.items()):
            after = table.column_names.index(f"boot_p_{name.rsplit('_', 1)[1]}") + 1
            table = table.add_column(after, name, pa.array(values[row : row + len(table)]))
        return table

    starts = np.cumsum([0, *(len(rows.gene) for rows in request.of_types)])
    along = [start + rows.along_genome() for start, rows in zip(starts, request.of_types, strict=False)]
    chunks.merge(work, out, finish, order=np.argsort(np.concatenate(along)))


def _adjusted(work: chunks.Work) -> Iterator[tuple[str, Floats]]:
    """Adjusted p-values of all rows in order, within cell types and within their genes."""
    wanted = [f"{source}_{test}" for test in TESTS for source in ADJUSTED.values()]
    parts = [part.to_pandas() for part in chunks.tables(work, ["celltype", "gene", *wanted])]
    table = pd.concat(parts, ignore_index=True)
    types, genes = (table.groupby(keys, sort=False).ngroup() for keys in (["celltype"], ["celltype", "gene"]))
    for test in TESTS:
        for name, source in ADJUSTED.items():
            for kind, group in ((name, types), (f"{name}_gene", genes)):
                yield f"{kind}_{test}", adjusted_within(table[f"{source}_{test}"], group)


def adjusted_within(p: pd.Series, group: pd.Series) -> Floats:
    """Benjamini-Hochberg adjusted p-values within each of many small groups, to the last bit those of scipy.

    One call of scipy a gene would take longer than the tests. NaN stays NaN and does not count as a test.

    Examples
    --------
    >>> adjusted_within(pd.Series([0.01, 0.5, np.nan, 0.04]), pd.Series([0, 1, 0, 0]))
    array([0.02, 0.5 ,  nan, 0.04])
    """
    rows = pd.DataFrame({"p": p, "group": group}).dropna().sort_values("p", kind="stable")
    of_group = rows.groupby("group", sort=False)["p"]
    rows["p"] *= of_group.transform("size") / (of_group.cumcount() + 1)
    smallest = rows[::-1].groupby("group", sort=False)["p"].cummin()
    out: Floats = smallest.clip(upper=1.0).reindex(p.index).to_numpy()
    return out
