"""Candidate gene-peak pairs by distance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io.export import write_bed
from enhancer_dask.io.tables import check_params, output_table, read_meta, write_parquet
from enhancer_dask.stores import MultiomeStore, located

Anchor = Literal["overlap", "centre", "tss"]
LARGEST_WINDOW = 1_000_000_000  # beyond any chromosome
_BED = ["chrom", "start", "end", "name"]


def candidate_pairs(
    genes: pd.DataFrame, peaks: pd.DataFrame, window: int = 500_000, *, anchor: Anchor = "overlap"
) -> pd.DataFrame:
    """Pair each gene with the peaks in a window around it.

    Parameters
    ----------
    genes, peaks : DataFrames with chrom, start, end, name
        0-based, half-open, bp. ``anchor="tss"`` also wants the genes' strand.
    window : int
        Extension on both sides, bp.
    anchor : {"overlap", "centre", "tss"}
        ``overlap``: the peak overlaps the gene body extended by the window, by at least 1 bp (``bedtools window``
        [1]_, as in SCENT [2]_). ``centre``: the centre of the peak does. ``tss``: the peak overlaps the
        transcription start site extended by the window.

    Returns
    -------
    DataFrame
        Columns gene, peak (names), in the order of ``genes``, then ``peaks``. A name that occurs twice among the
        genes gives its pairs twice.

    Raises
    ------
    InputError
        If a column is missing, the window is negative, or genes and peaks share no chromosome.

    References
    ----------
    .. [1] Quinlan and Hall (2010), Bioinformatics 26, 841-842.
    .. [2] Sakaue et al. (2024), Nature Genetics 56, 615-626.

    Examples
    --------
    >>> genes = pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [200], "name": ["A"]})
    >>> peaks = pd.DataFrame({"chrom": "chr1", "start": [80, 209, 210], "end": [95, 215, 220], "name": list("pqr")})
    >>> candidate_pairs(genes, peaks, window=10)
      gene peak
    0    A    p
    1    A    q
    """
    if not 0 <= window <= LARGEST_WINDOW:
        raise InputError(f"window is {window} bp; want 0 to {LARGEST_WINDOW}")
    if anchor not in get_args(Anchor):
        raise InputError(f"anchor is {anchor!r}; want one of {', '.join(get_args(Anchor))}")
    for label, table in (("genes", genes), ("peaks", peaks)):
        missing = [c for c in _BED + ["strand"] * (anchor == "tss" and label == "genes") if c not in table]
        if missing:
            raise InputError(
                f"{label}: column {missing[0]!r} is missing; columns found: {', '.join(map(str, table.columns))}"
            )
    if len(genes) and len(peaks) and not set(genes["chrom"]) & set(peaks["chrom"]):
        raise InputError(
            f"genes and peaks share no chromosome: genes have {genes['chrom'].iloc[0]!r}, "
            f"peaks {peaks['chrom'].iloc[0]!r}"
        )
    import bioframe  # slow to import (it brings matplotlib), and no worker needs it

    near = bioframe.overlap(
        _extended(genes, window, anchor),
        _anchored(peaks, anchor),
        how="inner",
        return_index=True,
        return_input=False,
    )
    order = near.sort_values(["index", "index_"])
    gene, peak = order["index"].to_numpy(dtype=np.int64), order["index_"].to_numpy(dtype=np.int64)
    return pd.DataFrame({"gene": genes["name"].to_numpy()[gene], "peak": peaks["name"].to_numpy()[peak]})


def _extended(genes: pd.DataFrame, window: int, anchor: Anchor) -> pd.DataFrame:
    table = genes[_BED[:3]].astype({"chrom": str, "start": np.int64, "end": np.int64}).reset_index(drop=True)
    if anchor == "tss":
        table["start"] = tss(genes)
        table["end"] = table["start"] + 1
    table["start"] = np.maximum(table["start"] - window, 0)
    table["end"] += window
    return table


def _anchored(peaks: pd.DataFrame, anchor: Anchor) -> pd.DataFrame:
    table = peaks[_BED[:3]].astype({"chrom": str, "start": np.int64, "end": np.int64}).reset_index(drop=True)
    if anchor == "centre":
        table["start"] = (table["start"] + table["end"]) // 2
        table["end"] = table["start"] + 1
    return table


def tss(genes: pd.DataFrame) -> np.ndarray:
    """Transcription start site, 0-based: start on +, end - 1 on -, the middle where the strand is unknown."""
    start, end = genes["start"].to_numpy(dtype=np.int64), genes["end"].to_numpy(dtype=np.int64)
    strand = genes["strand"].to_numpy()
    return np.select([strand == "+", strand == "-"], [start, end - 1], (start + end) // 2)


def signed_distance(genes: pd.DataFrame, peaks: pd.DataFrame) -> np.ndarray:
    """Distance in bp from each gene's TSS to the centre of the peak in the same row, float64.

    Positive downstream along the gene's strand, negative upstream; NaN if the gene has no coordinates or lies on
    another chromosome.
    """
    centre = (peaks["start"].to_numpy(dtype=np.int64) + peaks["end"].to_numpy(dtype=np.int64)) // 2
    sign = np.where(genes["strand"].to_numpy() == "-", -1, 1)
    distance = (sign * (centre - tss(genes))).astype(np.float64)
    same = (genes["chrom"].to_numpy() == peaks["chrom"].to_numpy()) & (genes["chrom"].to_numpy() != "")
    return np.where(same, distance, np.nan)


def frequent(store: MultiomeStore, kind: str, min_fraction: float) -> pd.DataFrame:
    """Genes or peaks non-zero in at least ``min_fraction`` of all cells, with their position ``row`` in the store."""
    table = store.features(kind)
    n_cells = int(store.column("celltype_n_cells").sum())
    table["fraction"] = store.column(f"{kind}_n_nonzero").sum(axis=1) / n_cells
    table["row"] = np.arange(len(table))
    return table[(table["fraction"] >= min_fraction) & (table["chrom"] != "")]


def candidates(
    store: str | Path,
    out: str | Path,
    *,
    window: int = 500_000,
    anchor: Anchor = "overlap",
    min_fraction: float = 0.05,
    genes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Candidate pairs of a store, written as a table with BED files of its genes and peaks.

    Parameters
    ----------
    store : path or URL
        Multiome store.
    out : path
        Parquet table with columns gene, peak, distance_bp; beside it ``.genes.bed`` and ``.peaks.bed``.
    window, anchor
        See :func:`candidate_pairs`.
    min_fraction : float
        Genes and peaks must be non-zero in at least this share of all cells.
    genes : sequence of names, optional
        Only these genes.
    overwrite : bool
        Replace a table made with other parameters.

    Returns
    -------
    DataFrame
        Columns gene, peak, distance_bp (from the TSS, positive downstream).

    Raises
    ------
    InputError
        If no gene has coordinates, a gene is unknown, or no gene or peak is frequent enough.
    ResumeError
        If ``out`` was made with other parameters and ``overwrite`` is not set.
    """
    data, out = MultiomeStore(located(store)), output_table(out)
    beds = {kind: out.with_name(f"{out.stem}.{kind}s.bed") for kind in ("gene", "peak")}
    params = {"stage": "candidates", "store": data.fingerprint, "window": window, "anchor": anchor}
    params |= {"min_fraction": min_fraction, "genes": None if genes is None else sorted(genes)}
    if out.exists() and not overwrite:
        check_params(out, read_meta(out).get("params", {}), params)
        if all(bed.exists() for bed in beds.values()):
            return pd.read_parquet(out)
    if not 0 <= min_fraction <= 1:
        raise InputError(f"min_fraction is {min_fraction}; want a share from 0 to 1")
    gene_table, peak_table = frequent(data, "gene", min_fraction), frequent(data, "peak", min_fraction)
    if (data.column("gene_chrom") == "").all():
        raise InputError(f"{store}: no gene has coordinates; ingest again with --gtf")
    if genes is not None:
        unknown = sorted(set(genes) - set(data.column("gene")))
        if unknown:
            raise InputError(f"{store}: gene {unknown[0]!r} is not in the store ({len(unknown)} unknown in all)")
        gene_table = gene_table[gene_table["name"].isin(genes)]
    for label, table in (("gene", gene_table), ("peak", peak_table)):
        if table.empty:
            raise InputError(
                f"{store}: no {label} with coordinates is non-zero in {min_fraction:.3g} of the cells or more"
            )
    pairs = candidate_pairs(gene_table, peak_table, window, anchor=anchor)
    pairs["distance_bp"] = signed_distance(
        gene_table.set_index("name").loc[pairs["gene"]], peak_table.set_index("name").loc[pairs["peak"]]
    )
    write_bed(gene_table, beds["gene"])
    write_bed(peak_table, beds["peak"])
    write_parquet(pairs, out, meta={"params": params})
    return pairs
