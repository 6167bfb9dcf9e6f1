"""Multiome files to a multiome store, in blocks.

The files hold one cell after the other in their own order; the store holds features along the genome and cells
by type. One pass over the file deals each cell to the column of store chunks it belongs to and writes it aside;
a second pass builds one column of chunks at a time. Memory is bounded by the counts of ``CELL_CHUNK`` cells.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from natsort import natsort_keygen
from numpy.typing import NDArray
from scipy import sparse

from enhancer_dask import stores
from enhancer_dask._version import __version__
from enhancer_dask.errors import InputError, ResumeError
from enhancer_dask.io import annotation
from enhancer_dask.io import cells as cell_tables
from enhancer_dask.io.files import describe_file, is_url, make_beside, remove_leftovers, staged
from enhancer_dask.io.multiome import MODALITIES, Block, MultiomeSource, concatenate, open_multiome

if TYPE_CHECKING:
    from mudata import MuData

LARGEST_COUNT = np.iinfo(np.uint32).max
SMALLEST = {"rna": np.uint16, "atac": np.uint8}


def ingest(
    inputs: str | Path | MuData | Sequence[str | Path],
    out: str | Path,
    *,
    cells: str | Path | pd.DataFrame | None = None,
    gtf: str | Path | None = None,
    assembly: str = "",
    overwrite: bool = False,
) -> xr.Dataset:
    """Write a multiome experiment to a chunked Zarr store.

    Parameters
    ----------
    inputs : path, MuData or sequence of paths
        10x multiome .h5 or .h5mu. Several files must have the same features; ``name=path`` puts ``name_`` before
        the barcodes and makes a column ``sample``.
    out : path
        Folder of the store, conventionally ending in .zarr.
    cells : path or DataFrame, optional
        Columns barcode, celltype and any of nUMI, percent.mito, further covariates. Exactly these cells are kept.
    gtf : path, optional
        Gene coordinates (bodies and strands); they win over those in the file, because a 10x file holds the range
        of a gene's transcription start sites, not its body.
    assembly : str
        Name of the genome assembly, kept as an attribute.
    overwrite : bool
        Replace a store made from other input.

    Returns
    -------
    xarray.Dataset
        The opened store. ``attrs["report"]`` says what was matched, dropped and assumed.

    Raises
    ------
    InputError
        On bad input; the message names file and column. Nothing is left behind.
    ResumeError
        If ``out`` exists, was made from other input, and ``overwrite`` is not set.
    """
    if is_url(out):
        raise InputError(f"{out}: a store is written to a folder, want a path; copy the finished store there")
    out = Path(out)
    params = _describe(inputs, cells, gtf, assembly)
    if out.exists() and not overwrite and _already_there(out, params):
        return stores.open_store(out)
    _check_replaceable(out)
    with closing(_open_all(inputs)) as source:
        table = cell_tables.read_cells(cells) if isinstance(cells, str | Path) else _own_index(cells)
        cell_frame, report = cell_tables.align_cells(
            source, table, str(cells) if isinstance(cells, str | Path) else "cells"
        )
        features, gene_report = _place_features(source, gtf)
        attrs = {"schema": stores.SCHEMA, "schema_version": stores.SCHEMA_VERSION, "software": __version__}
        warnings = report["warnings"] + gene_report["warnings"]
        attrs |= {"assembly": assembly, "params": params, "report": report | gene_report | {"warnings": warnings}}
        remove_leftovers(out)
        with staged(out) as work:
            spill = make_beside(out)
            try:
                _write_store(work, source, cell_frame, features, attrs, spill)
            finally:
                shutil.rmtree(spill, ignore_errors=True)
    return stores.open_store(out)


# -- what was asked for ------------------------------------------------------------------------------------


def _describe(inputs: Any, cells: Any, gtf: Any, assembly: str) -> dict[str, Any]:
    """What the store is made from: names, sizes and hashes of the files."""
    files = [inputs] if not isinstance(inputs, list | tuple) else list(inputs)
    return {
        "inputs": [_describe_file(file) for file in files],
        "cells": None if cells is None else _describe_file(cells),
        "gtf": None if gtf is None else _describe_file(gtf),
        "assembly": assembly,
    }


def _describe_file(file: Any) -> dict[str, Any]:
    if not isinstance(file, str | Path):
        return {"name": type(file).__name__, "object": True}
    name, path = _split_sample(file)
    return describe_file(path) | ({"sample": name} if name else {})


def _split_sample(file: str | Path) -> tuple[str | None, Path]:
    name, equals, path = str(file).partition("=")
    if equals and not Path(file).exists():
        return name, Path(path)
    return None, Path(file)


def _already_there(out: Path, params: dict[str, Any]) -> bool:
    """Whether the store at ``out`` was made from the same input; refuses if from another."""
    there = dict(stores.open_store(out).attrs["params"])
    differs = [key for key, value in params.items() if there.get(key) != value]
    in_memory = any(isinstance(v, dict) and v.get("object") for v in [*params["inputs"], params["cells"]])
    if not differs and not in_memory:
        return True
    key = differs[0] if differs else "inputs"
    raise ResumeError(
        f"{out}: exists and was made from other input ({key}: {there.get(key)} there, {params[key]} asked for); "
        "choose another name or overwrite it"
    )


def _check_replaceable(out: Path) -> None:
    """Refuse to replace what is not a store of ours."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not stores.is_store(out):
        raise InputError(f"{out}: exists and is no multiome store, so it is not overwritten; choose another name")


def _open_all(inputs: Any) -> MultiomeSource:
    if not isinstance(inputs, list | tuple):
        inputs = [inputs]
    if not inputs:
        raise InputError("no input file given")
    named = [_split_sample(i) if isinstance(i, str | Path) else (None, i) for i in inputs]
    return concatenate([open_multiome(path) for _, path in named], [name for name, _ in named])


def _own_index(cells: pd.DataFrame | None) -> pd.DataFrame | None:
    if cells is None or "barcode" not in cells:
        return cells
    return cells.set_index("barcode")


# -- where everything goes ---------------------------------------------------------------------------------


def _place_features(source: MultiomeSource, gtf: str | Path | None) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Features in store order with their column in the source, names made unique, genes annotated."""
    genes, peaks = source.features["rna"], source.features["atac"]
    report: dict[str, Any] = {"warnings": []}
    peak_chroms = set(peaks["chrom"])
    if gtf is not None:
        genes, matched = annotation.annotate_genes(genes, annotation.read_gtf(gtf), str(gtf))
        report["gtf"] = matched
    genes = genes.assign(chrom=annotation.match_chromosome_style(genes["chrom"], peak_chroms))
    report["n_genes_without_coordinates"] = int((genes["chrom"] == "").sum())
    off = (genes["chrom"] != "") & ~genes["chrom"].isin(peak_chroms)
    report["n_genes_off_the_peaks_chromosomes"] = int(off.sum())
    if off.sum() > 0.9 * len(genes):
        report["warnings"].append(
            f"{off.sum()} of {len(genes)} genes lie on chromosomes without peaks (first: "
            f"{genes['chrom'][off].iloc[0]!r}; peaks have {peaks['chrom'].iloc[0]!r})"
        )
    twice = peaks["name"][peaks["name"].duplicated()]
    if len(twice):
        raise InputError(f"{source.label}: {len(twice)} duplicate peaks (first: {twice.iloc[0]!r})")
    backward = (genes["chrom"] != "") & (genes["end"] < genes["start"])
    if backward.any():
        raise InputError(f"{source.label}: gene {genes['name'][backward].iloc[0]!r} ends before it starts")
    bad = (peaks["chrom"] == "") | (peaks["end"] <= peaks["start"])
    if bad.any():
        raise InputError(
            f"{source.label}: {bad.sum()} peaks have no interval (first: {peaks['name'][bad].iloc[0]!r}); want names "
            "like chr1:100-200 or columns chrom, start, end"
        )
    unique = _unique_names(genes["name"])
    report["n_gene_names_made_unique"] = int((unique != genes["name"]).sum())
    return {
        "rna": _along_genome(genes.assign(unique=unique)),
        "atac": _along_genome(peaks.assign(unique=peaks["name"])),
    }, report


def _unique_names(names: pd.Series) -> pd.Series:
    """Later occurrences of a name get .1, .2, ... as Seurat's make.unique does; a name already taken is skipped."""
    taken, out = set(names), []
    seen: set[str] = set()
    for name in names:
        new, k = name, 0
        while new in seen or (k and new in taken):
            k += 1
            new = f"{name}.{k}"
        seen.add(new)
        out.append(new)
    return pd.Series(out, index=names.index)


def _along_genome(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by chromosome (natural order; unknown last), start, end, name; ``source`` is the column in the file."""
    key = natsort_keygen()
    chroms = sorted(set(table["chrom"]), key=lambda c: (c == "", key(c)))
    rank = table["chrom"].map({c: i for i, c in enumerate(chroms)})
    table = table.assign(source=np.arange(len(table)), rank=rank)
    return (
        table.sort_values(["rank", "start", "end", "unique"], kind="stable").drop(columns="rank").reset_index(drop=True)
    )


# -- counts ------------------------------------------------------------------------------------------------


def _write_store(
    work: Path,
    source: MultiomeSource,
    cells: pd.DataFrame,
    features: dict[str, pd.DataFrame],
    attrs: dict[str, Any],
    spill: Path,
) -> None:
    types, n_per_type = np.unique(cells["celltype"].to_numpy(dtype=str), return_counts=True)
    type_of_cell = np.repeat(np.arange(len(types)), n_per_type)
    tallies = _deal(source, cells, features, type_of_cell, len(types), spill)
    mito = features["rna"]["name"].str.upper().str.startswith("MT-").to_numpy()
    cells, warnings = cell_tables.complete_covariates(
        cells, tallies["n_umi"], tallies["n_mito"], tallies["n_atac"], has_mito_genes=bool(mito.any())
    )
    attrs["report"]["warnings"] = attrs["report"]["warnings"] + warnings
    labels = _labels(cells, features, types, n_per_type, tallies)
    labels.to_zarr(work, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(str(work), mode="r+")
    digest = hashlib.blake2b(digest_size=16)
    for name, variable in labels.variables.items():
        digest.update(f"{name}{variable.values.tolist()}".encode())
    for modality in MODALITIES:
        _write_counts(group, modality, len(features[modality]), len(cells), tallies, spill, digest)
    group.attrs.update(attrs | {"fingerprint": digest.hexdigest()})
    stores.consolidate(work)


def _deal(
    source: MultiomeSource,
    cells: pd.DataFrame,
    features: dict[str, pd.DataFrame],
    type_of_cell: NDArray[np.int64],
    n_types: int,
    spill: Path,
) -> dict[str, Any]:
    """First pass: write each cell's counts aside under its column of chunks; count what ingest must know."""
    column = {m: cells.index.get_indexer(pd.Index(source.barcodes[m])) for m in MODALITIES}
    row = {}
    for modality, table in features.items():
        row[modality] = np.empty(len(table), dtype=np.int64)
        row[modality][table["source"].to_numpy()] = np.arange(len(table))
    is_mito = np.zeros(len(features["rna"]), dtype=bool)
    is_mito[features["rna"]["source"]] = features["rna"]["name"].str.upper().str.startswith("MT-")
    tallies: dict[str, Any] = {name: np.zeros(len(cells), np.int64) for name in ("n_umi", "n_mito", "n_atac")}
    tallies |= {m: np.zeros((len(features[m]), n_types), np.int32) for m in MODALITIES}
    tallies |= {f"{m}_max": 0 for m in MODALITIES}
    for number, block in enumerate(source.blocks()):
        modality = block.modality
        counts = _checked(block, source)
        kept = column[modality][block.start : block.start + counts.shape[0]]
        counts, kept = counts[kept >= 0], kept[kept >= 0]
        if modality == "rna":
            tallies["n_umi"][kept] = counts.sum(axis=1)
            tallies["n_mito"][kept] = counts[:, is_mito].sum(axis=1)
        else:
            tallies["n_atac"][kept] = counts.sum(axis=1)
        tallies[f"{modality}_max"] = max(tallies[f"{modality}_max"], int(counts.data.max(initial=0)))
        chunk = kept // stores.CELL_CHUNK
        for c in np.unique(chunk):
            entries = counts[chunk == c].tocoo()
            to_row = row[modality][entries.coords[1]].astype(np.int32)
            to_cell = kept[chunk == c][entries.coords[0]].astype(np.int32)
            np.add.at(tallies[modality], (to_row, type_of_cell[to_cell]), 1)
            np.savez(spill / f"{modality}-{c}-{number}.npz", row=to_row, cell=to_cell, value=entries.data)
    return tallies


def _checked(block: Block, source: MultiomeSource) -> sparse.csr_array:
    """The block as uint32; refuses negative, fractional and missing counts, naming a cell and a feature."""
    counts = block.counts
    data = counts.data
    bad = (data < 0) | (data > LARGEST_COUNT)
    if data.dtype.kind == "f":
        bad |= ~np.isfinite(data) | (data != np.floor(data))
    if bad.any():
        k = int(np.argmax(bad))
        cell = int(np.searchsorted(counts.indptr, k, side="right")) - 1
        feature = source.features[block.modality]["name"].iloc[int(counts.indices[k])]
        kind = (
            "missing" if not np.isfinite(data[k])
            else "negative" if data[k] < 0
            else "impossibly large" if data[k] > LARGEST_COUNT
            else "fractional"
        )  # fmt: skip
        raise InputError(
            f"{source.label}: {block.modality} has {kind} counts (first: {data[k]} of {feature!r} in cell "
            f"{source.barcodes[block.modality][block.start + cell]!r}); want raw counts, not normalised values"
        )
    clean = sparse.csr_array((data.astype(np.uint32), counts.indices, counts.indptr), shape=counts.shape)
    clean.sum_duplicates()
    clean.eliminate_zeros()
    return clean


def _write_counts(
    group: zarr.Group, modality: str, n_rows: int, n_cells: int, tallies: dict[str, Any], spill: Path, digest: Any
) -> None:
    """Second pass: one column of chunks after the other."""
    largest = tallies[f"{modality}_max"]
    dtype = np.promote_types(SMALLEST[modality], np.min_scalar_type(largest))
    array = stores.create_counts(group, modality, (n_rows, n_cells), dtype)
    for c in range(-(-n_cells // stores.CELL_CHUNK)):
        first = c * stores.CELL_CHUNK
        width = min(stores.CELL_CHUNK, n_cells - first)
        parts = [np.load(f) for f in sorted(spill.glob(f"{modality}-{c}-*.npz"))]
        rows, cols, values = (
            np.concatenate([p[k] for p in parts] or [np.empty(0, np.int32)]) for k in ("row", "cell", "value")
        )
        matrix = sparse.csr_array((values.astype(dtype), (rows, cols - first)), shape=(n_rows, width))
        for top in range(0, n_rows, stores.FEATURE_CHUNK):
            dense = matrix[top : top + stores.FEATURE_CHUNK].toarray()
            digest.update(dense)
            array[top : top + len(dense), first : first + width] = dense


def _labels(
    cells: pd.DataFrame,
    features: dict[str, pd.DataFrame],
    types: NDArray[np.str_],
    n_per_type: NDArray[np.int64],
    tallies: dict[str, Any],
) -> xr.Dataset:
    """Everything in the store but the counts."""
    variables: dict[str, Any] = {"celltype_n_cells": ("celltype", n_per_type.astype(np.int64))}
    coords = {"celltype": types.astype(object), "cell": cells.index.to_numpy(dtype=object)}
    for modality, dim in stores.FEATURE_DIM.items():
        table = features[modality]
        coords[dim] = table["unique"].to_numpy(dtype=object)
        columns = ("id", "name", "chrom", "start", "end", "strand") if dim == "gene" else ("chrom", "start", "end")
        for name in columns:
            values = table[name].to_numpy()
            variables[f"{dim}_{name}"] = (dim, values.astype(np.int64 if name in ("start", "end") else object))
        variables[f"{dim}_n_nonzero"] = ((dim, "celltype"), tallies[modality])
    for name in cells.columns:
        if "/" in str(name):
            raise InputError(f"cell table: column {name!r} has a '/' in its name, which a Zarr store cannot hold")
        column = cells[name]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        values = (
            column.to_numpy()
            if numeric
            else column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)
        )
        variables[f"cell_{name}"] = ("cell", values)
    return xr.Dataset(variables, coords=coords)
