"""The table of cells: barcode, cell type and covariates, aligned to a multiome source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io.multiome import MultiomeSource
from enhancer_dask.io.tables import read_table

# names of the formula language and of SCENT's vignette -> names in the store
STORE_NAMES = {"nUMI": "n_umi", "percent.mito": "percent_mito", "nATAC": "n_atac"}


def read_cells(path: str | Path) -> pd.DataFrame:
    """Cell table with a column ``barcode`` and a column ``celltype``, indexed by barcode."""
    table = read_table(path, required=("barcode", "celltype"), text=("barcode", "celltype"))
    if table["barcode"].isna().any():
        raise InputError(f"{path}: column 'barcode' is empty in {table['barcode'].isna().sum()} rows")
    return table.set_index("barcode")


def align_cells(source: MultiomeSource, table: pd.DataFrame | None, label: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cells to ingest with their columns, sorted by cell type and barcode.

    Parameters
    ----------
    source : MultiomeSource
    table : DataFrame indexed by barcode, or None
        If given, exactly its cells are kept and its columns win over those of the source.
    label : str
        Name of the table, for messages.

    Returns
    -------
    cells : DataFrame
        Indexed by barcode; celltype first. Without any cell type known, all cells are of type ``all``.
    report : dict with n_cells, n_dropped (cells of the matrix that are not ingested) and warnings

    Raises
    ------
    InputError
        On duplicate barcodes, barcodes that the matrix lacks, empty cell types.
    """
    for modality, barcodes in source.barcodes.items():
        _refuse_duplicates(pd.Index(barcodes), f"{source.label}: {modality}")
    in_both = pd.Index(source.barcodes["rna"]).intersection(pd.Index(source.barcodes["atac"]))
    if in_both.empty:
        raise InputError(
            f"{source.label}: no barcode is in both modalities (first: {source.barcodes['rna'][0]!r} in rna, "
            f"{source.barcodes['atac'][0]!r} in atac)"
        )
    if table is not None and table.empty:
        raise InputError(f"{label}: the table has no cells")
    warnings = []
    if table is None:
        cells = source.obs.reindex(in_both)
    else:
        _refuse_duplicates(table.index, label)
        unknown = table.index.difference(in_both, sort=False)
        if len(unknown):
            raise InputError(
                f"{label}: {len(unknown)} of {len(table)} barcodes are not in {source.label} "
                f"(first: {unknown[0]!r}; the matrix has barcodes like {in_both[0]!r})"
            )
        extra = source.obs.reindex(table.index)
        cells = pd.concat([table, extra[extra.columns.difference(table.columns)]], axis=1)
    if "celltype" not in cells:
        warnings.append("no cell types given (--cells with a column 'celltype'): all cells are of the type 'all'")
        cells["celltype"] = "all"
    celltype = cells["celltype"].astype(object)
    empty = celltype.isna() | (celltype.astype(str).str.strip() == "")
    if empty.any():
        raise InputError(
            f"{label}: column 'celltype' is empty for {empty.sum()} cells (first: {cells.index[empty][0]!r}); "
            "name a type for them or leave them out"
        )
    cells["celltype"] = celltype.astype(str)
    cells.index = cells.index.astype(str)
    twice = [f"{new!r} and {old!r}" for new, old in STORE_NAMES.items() if {new, old} <= set(cells.columns)]
    if twice:
        raise InputError(f"{label}: columns {twice[0]} mean the same; keep one of them")
    cells = cells.rename_axis("barcode").rename(columns=STORE_NAMES)
    cells = cells.reset_index().sort_values(["celltype", "barcode"], kind="stable").set_index("barcode")
    cells = cells[["celltype", *(c for c in cells.columns if c != "celltype")]]
    n_dropped = len(set(source.barcodes["rna"]) | set(source.barcodes["atac"])) - len(cells)
    return cells, {"n_cells": len(cells), "n_dropped": n_dropped, "warnings": warnings}


def _refuse_duplicates(barcodes: pd.Index, label: str) -> None:
    twice = barcodes[barcodes.duplicated()]
    if len(twice):
        raise InputError(
            f"{label}: {len(twice)} duplicate barcodes (first: {twice[0]!r}); "
            "several samples need names: ingest s1=FILE1 s2=FILE2"
        )


def complete_covariates(
    cells: pd.DataFrame, n_umi: np.ndarray, n_mito: np.ndarray, n_atac: np.ndarray, *, has_mito_genes: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Fill in nUMI, percent.mito and nATAC where the table has none; percentages become fractions.

    Parameters
    ----------
    cells : DataFrame
    n_umi, n_mito, n_atac : int64 arrays, shape (cells,)
        Counts of all genes, of the mitochondrial genes and of all peaks, in the order of ``cells``.
    has_mito_genes : bool

    Returns
    -------
    cells, warnings
    """
    cells, warnings = cells.copy(), []
    if "n_umi" not in cells:
        cells["n_umi"] = n_umi
    if "percent_mito" not in cells:
        with np.errstate(invalid="ignore"):
            cells["percent_mito"] = np.where(n_umi > 0, n_mito / np.maximum(n_umi, 1), 0.0)
        if not has_mito_genes:
            warnings.append("no gene is named MT-*: percent.mito is 0 in every cell")
    if "n_atac" not in cells:
        cells["n_atac"] = n_atac
    for name in STORE_NAMES.values():
        if not pd.api.types.is_numeric_dtype(cells[name]):
            formula = {v: k for k, v in STORE_NAMES.items()}[name]
            bad = cells[name][pd.to_numeric(cells[name], errors="coerce").isna()]
            raise InputError(
                f"cell table: column {formula!r} is not a number (first: {bad.iloc[0]!r} in {bad.index[0]!r})"
            )
    if cells["percent_mito"].max() > 1:
        cells["percent_mito"] = cells["percent_mito"] / 100.0
        warnings.append("percent.mito goes beyond 1, so it was taken as a percentage and stored as a fraction")
    return cells, warnings
