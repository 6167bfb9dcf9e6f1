"""Genes on bins: where they start, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.bins import bin_spans
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


def read_genes(path: Path, bins: pd.DataFrame, *, values: bool = True) -> Genes:
    """Genes of a table or a GTF.

    Parameters
    ----------
    path : path
        A table with the columns gene, chrom, start, end (bp, 0-based, half-open) and perhaps strand; its other numeric
        columns are values. Or a GTF (``.gtf``, ``.gtf.gz``), which has none.
    bins : DataFrame
        Columns chrom, start, end; the row is the bin id.
    values : bool
        Whether the other columns matter.

    Returns
    -------
    Genes
        Those on chromosomes of the bins. The start site is the first base, of genes on the minus strand the last.

    Raises
    ------
    InputError
        If no gene is on the chromosomes, one lies beyond the end of its chromosome, or a position or value is missing.
    """
    table = _read(path)
    spans = bin_spans(bins)
    names = ChromosomeNames(dict.fromkeys(spans, 0), str(path))
    code = np.array([names.code(str(chrom)) for chrom in table["chrom"]])
    table, code = table[code >= 0].reset_index(drop=True), code[code >= 0]
    if table.empty:
        raise InputError(f"{path}: no gene is on a chromosome of the contacts ({', '.join(list(spans)[:5])} ...)")
    for column in ("start", "end"):
        _check_positions(path, table, column)
    minus = (table["strand"] == "-").to_numpy() if "strand" in table else np.zeros(len(table), dtype=bool)
    tss = np.where(minus, table["end"] - 1, table["start"]).astype(np.int64)
    columns = [c for c in table.columns if c not in COORDINATES and pd.api.types.is_numeric_dtype(table[c])]
    columns = columns if values else []
    known = table[columns].to_numpy(np.float64)
    bad = ~np.isfinite(known).all(axis=1)
    if bad.any():
        raise InputError(f"{path}: values of gene {table['gene'][bad.argmax()]!r} are not finite")
    first, stop = np.array(list(spans.values())).T
    ends = bins["end"].to_numpy(np.int64)[stop - 1]
    beyond = (tss < 0) | (tss >= ends[code])
    if beyond.any():
        row = int(beyond.argmax())
        raise InputError(
            f"{path}: gene {table['gene'][row]!r} starts at {tss[row]}, beyond the end of {table['chrom'][row]!r} "
            f"({ends[code[row]]} bp): mixed assemblies"
        )
    size = (bins["end"] - bins["start"]).to_numpy(np.int64).max()
    return Genes(tuple(table["gene"].astype(str)), first[code] + tss // size, tuple(map(str, columns)), known)


def _check_positions(path: Path, table: pd.DataFrame, column: str) -> None:
    bad = ~np.isfinite(pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64))
    if bad.any():
        gene, value = table.loc[bad.argmax(), ["gene", column]]
        raise InputError(f"{path}: column {column!r} of gene {gene!r} is {str(value)!r}, want a position in bp")
    table[column] = pd.to_numeric(table[column])


def _read(path: Path) -> pd.DataFrame:
    if Path(path).name.endswith((".gtf", ".gtf.gz")):
        return read_gtf(path).rename(columns={"name": "gene"}).drop(columns="id")
    return read_table(path, required=COORDINATES[:4], text=("gene", "chrom", "strand"))


def gene_nodes(genes: Genes, n_bins: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values of genes on all bins.

    Returns
    -------
    values : float32 array, shape (bins, columns)
        Summed over the genes that start in a bin, 0 where there is none.
    mask : bool array, shape (bins,)
        Whether a gene starts there.
    """
    values, mask = np.zeros((n_bins, len(genes.columns))), np.zeros(n_bins, dtype=bool)
    np.add.at(values, genes.bin, genes.values)
    mask[genes.bin] = True
    return values.astype(np.float32), mask
