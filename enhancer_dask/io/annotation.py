"""Gene coordinates from a GENCODE- or Ensembl-style GTF."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError

_GTF_COLUMNS = {0: "chrom", 2: "feature", 3: "start", 4: "end", 6: "strand", 8: "attributes"}
_LINES = 200_000  # read at a time: a human GTF of 3.4 million lines never stands in memory whole


def read_gtf(path: str | Path) -> pd.DataFrame:
    """Genes of a GTF (plain or .gz).

    Returns
    -------
    DataFrame
        id, name, chrom, start (0-based), end, strand; in file order. A file without lines of the feature
        ``gene`` gives each gene the span of all its lines.

    Raises
    ------
    InputError
        If the file is missing, is no GTF or has no gene_id.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    genes, other = [], []
    try:
        for lines in pd.read_csv(
            path,
            sep="\t",
            comment="#",
            header=None,
            usecols=list(_GTF_COLUMNS),
            dtype={0: str, 2: str, 3: np.int64, 4: np.int64, 6: str, 8: str},
            quoting=3,
            chunksize=_LINES,
        ):
            lines = lines.rename(columns=_GTF_COLUMNS)
            is_gene = lines["feature"] == "gene"
            genes.append(_named(lines[is_gene]))
            if not any(map(len, genes)):
                other.append(_span(_named(lines)))
    except (ValueError, OSError, EOFError, gzip.BadGzipFile) as err:
        raise InputError(f"{path}: not readable as GTF ({str(err).splitlines()[0]})") from err
    table = pd.concat(genes) if any(map(len, genes)) else _span(pd.concat(other))
    table = table[table["id"].notna()].reset_index(drop=True)
    if table.empty:
        raise InputError(f"{path}: no line has a gene_id; want a GTF as from GENCODE or Ensembl")
    return table


def _named(lines: pd.DataFrame) -> pd.DataFrame:
    table = lines[["chrom", "start", "end", "strand"]].copy()
    table["start"] = table["start"] - 1  # GTF counts from 1
    table["id"] = lines["attributes"].str.extract(r'gene_id "([^"]+)"', expand=False)
    name = lines["attributes"].str.extract(r'gene_name "([^"]+)"', expand=False)
    table["name"] = name.where(name.notna(), table["id"])
    return table[["id", "name", "chrom", "start", "end", "strand"]]


def _span(table: pd.DataFrame) -> pd.DataFrame:
    grouped = table.groupby(["id", "chrom", "strand"], sort=False, dropna=True)
    return grouped.agg(name=("name", "first"), start=("start", "min"), end=("end", "max")).reset_index()[
        ["id", "name", "chrom", "start", "end", "strand"]
    ]


def annotate_genes(genes: pd.DataFrame, gtf: pd.DataFrame, label: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Give genes the coordinates of a GTF: by gene_id (version ignored), else by name.

    Genes that the GTF lacks keep what they had. Where a name has several entries the first is taken.

    Parameters
    ----------
    genes, gtf : DataFrames with id, name, chrom, start, end, strand
    label : str
        Name of the GTF, for messages.

    Returns
    -------
    genes : DataFrame
    report : dict with n_by_id, n_by_name, n_unmatched

    Raises
    ------
    InputError
        If no gene matches.
    """
    by_id = gtf.assign(key=gtf["id"].str.replace(r"\.\d+", "", regex=True)).drop_duplicates("key").set_index("key")
    by_name = gtf.drop_duplicates("name").set_index("name")
    bare = genes["id"].str.replace(r"\.\d+$", "", regex=True)
    has_id = bare.isin(by_id.index).to_numpy()
    has_name = genes["name"].isin(by_name.index).to_numpy() & ~has_id
    if not (has_id | has_name).any():
        raise InputError(
            f"{label}: none of the {len(genes)} genes is in this GTF (first gene: {genes['name'].iloc[0]!r}, "
            f"{genes['id'].iloc[0]!r}; first in the GTF: {gtf['name'].iloc[0]!r}, {gtf['id'].iloc[0]!r})"
        )
    out = genes.copy()
    for column in ("chrom", "start", "end", "strand"):
        values = out[column].to_numpy(copy=True)
        values[has_id] = by_id[column].reindex(bare[has_id]).to_numpy()
        values[has_name] = by_name[column].reindex(genes["name"][has_name]).to_numpy()
        out[column] = values
    report = {"n_by_id": int(has_id.sum()), "n_by_name": int(has_name.sum())}
    return out, report | {"n_unmatched": int((~has_id & ~has_name).sum())}


def match_chromosome_style(genes: pd.DataFrame, peaks: pd.DataFrame) -> pd.DataFrame:
    """Write the genes' chromosomes as the peaks do (``chr1`` or ``1``) if they share none as they stand."""
    ours, theirs = set(genes["chrom"]) - {""}, set(peaks["chrom"]) - {""}
    if not ours or not theirs or ours & theirs:
        return genes
    bare = genes["chrom"].str.removeprefix("chr")
    if set("chr" + bare) & theirs:
        return genes.assign(chrom=np.where(genes["chrom"] == "", "", "chr" + bare))
    if set(bare) & theirs:
        return genes.assign(chrom=bare)
    return genes
