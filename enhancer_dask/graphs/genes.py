"""Genes on bins: expression as a target, bulk or per cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.annotation import read_gtf
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.io.tables import read_table

COORDINATES = ("gene", "chrom", "start", "end", "strand")


@dataclass(frozen=True)
class Genes:
    """Genes with the bins of their transcription start sites, and what is known of each."""

    names: tuple[str, ...]
    bin: NDArray[np.int64]
    """Shape (genes,): bin id of the transcription start site."""
    columns: tuple[str, ...]
    """Of ``values``."""
    values: NDArray[np.float64]
    """Shape (genes, columns)."""


def read_genes(path: Path, bins: pd.DataFrame) -> Genes:
    """Genes of a table or a GTF.

    Parameters
    ----------
    path : path
        A table with the columns gene, chrom, start, end (bp, 0-based, half-open) and perhaps strand; its other numeric
        columns are values. Or a GTF (``.gtf``, ``.gtf.gz``), which has none.
    bins : DataFrame
        Columns chrom, start, end; the row is the bin id.

    Returns
    -------
    Genes
        Those on chromosomes of the bins. The start site is the first base, of genes on the minus strand the last.

    Raises
    ------
    InputError
        If no gene is on the chromosomes, one lies beyond the end of its chromosome, or a value is not finite.
    """
    table = _read(path)
    starts, stops = _spans(bins)
    names = ChromosomeNames(dict.fromkeys(starts, 0), str(path))
    code = np.array([names.code(str(chrom)) for chrom in table["chrom"]])
    table, code = table[code >= 0].reset_index(drop=True), code[code >= 0]
    if table.empty:
        raise InputError(f"{path}: no gene is on a chromosome of the contacts ({', '.join(list(starts)[:5])} ...)")
    minus = (table["strand"] == "-").to_numpy() if "strand" in table else np.zeros(len(table), dtype=bool)
    tss = np.where(minus, table["end"] - 1, table["start"]).astype(np.int64)
    columns = [c for c in table.columns if c not in COORDINATES and pd.api.types.is_numeric_dtype(table[c])]
    values = table[columns].to_numpy(np.float64)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(f"{path}: values of gene {table['gene'][bad.argmax()]!r} are not finite")
    ends = bins["end"].to_numpy(np.int64)[np.array(list(stops.values())) - 1]
    beyond = (tss < 0) | (tss >= ends[code])
    if beyond.any():
        row = int(beyond.argmax())
        raise InputError(
            f"{path}: gene {table['gene'][row]!r} starts at {tss[row]}, beyond the end of {table['chrom'][row]!r} "
            f"({ends[code[row]]} bp): mixed assemblies"
        )
    first = np.array(list(starts.values()))[code]
    size = (bins["end"] - bins["start"]).to_numpy(np.int64).max()
    return Genes(tuple(table["gene"].astype(str)), first + tss // size, tuple(map(str, columns)), values)


def _read(path: Path) -> pd.DataFrame:
    if Path(path).name.endswith((".gtf", ".gtf.gz")):
        return read_gtf(path).rename(columns={"name": "gene"}).drop(columns="id")
    return read_table(path, required=COORDINATES[:4], text=("gene", "chrom", "strand"))


def _spans(bins: pd.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """First bin of each chromosome, and the one after its last."""
    rows = pd.Series(np.arange(len(bins))).groupby(bins["chrom"].to_numpy(), sort=False)
    return dict(rows.min()), dict(rows.max() + 1)


def gene_nodes(genes: Genes, first: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values of genes on the bins ``first:stop``.

    Returns
    -------
    values : float32 array, shape (stop - first, columns)
        Summed over the genes that start in a bin, 0 where there is none.
    mask : bool array, shape (stop - first,)
        Whether a gene starts there.
    """
    here = (genes.bin >= first) & (genes.bin < stop)
    place = genes.bin[here] - first
    values = np.zeros((stop - first, len(genes.columns)))
    np.add.at(values, place, genes.values[here])
    mask = np.zeros(stop - first, dtype=bool)
    mask[place] = True
    return values.astype(np.float32), mask


def expressed_genes(path: Path, cells: Sequence[str]) -> list[str]:
    """Genes of a table of cells, after a look at its cells.

    Parameters
    ----------
    path : path
        A table with a column ``cell`` and one numeric column per gene; of a Parquet file a task reads only its cells.
    cells : sequence of str
        Cells that must be there.

    Raises
    ------
    InputError
        If a cell is missing or there twice, or a column is no numbers.
    """
    if Path(path).suffix == ".parquet":
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
    missing = sorted(set(cells) - set(there))
    if missing:
        raise InputError(f"{path}: has no cell {missing[0]!r} ({len(missing)} of {len(cells)} cells are missing)")
    twice = there[there.duplicated() & there.isin(cells)]
    if len(twice):
        raise InputError(f"{path}: cell {twice.iloc[0]!r} is there twice")
    return genes


def cell_expression(path: Path, cells: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
    """Expression of all genes in some cells, by cell, each of shape (genes,)."""
    if Path(path).suffix == ".parquet":
        table = pd.read_parquet(path, filters=[("cell", "in", list(cells))])
    else:
        table = read_table(path, text=("cell",))
    table = table.set_index(table["cell"].astype(str)).drop(columns="cell")
    values = table.loc[list(cells)].to_numpy(np.float32)
    return dict(zip(cells, values, strict=True))
