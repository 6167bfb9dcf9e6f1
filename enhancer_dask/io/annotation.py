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
    backward = table["end"] < table["start"]
    if backward.any():
        gene = table[backward].iloc[0]
        raise InputError(f"{path}: gene {gene['id']!r} ends at {gene['end']}, before its start {gene['start'] + 1}")
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
    """Give genes the coordinates of a GTF: by gene_id, else by gene_id without version, else by name.

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
    key, source = _match_keys(genes, gtf)
    has_id, has_name = source == "id", source == "name"
    if not (has_id | has_name).any():
        raise InputError(
            f"{label}: none of the {len(genes)} genes is in this GTF (first gene: {genes['name'].iloc[0]!r}, "
            f"{genes['id'].iloc[0]!r}; first in the GTF: {gtf['name'].iloc[0]!r}, {gtf['id'].iloc[0]!r})"
        )
    out, found = genes.copy(), key >= 0
    for column in ("chrom", "start", "end", "strand"):
        values = out[column].to_numpy(copy=True)
        values[found] = gtf[column].to_numpy()[key[found]]
        out[column] = values
    report = {"n_by_id": int(has_id.sum()), "n_by_name": int(has_name.sum())}
    return out, report | {"n_unmatched": int((~has_id & ~has_name).sum())}


def _match_keys(genes: pd.DataFrame, gtf: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Row of the GTF for each gene (-1: none) and what it was found by: the id, the id without version, the name."""
    row, source = np.full(len(genes), -1), np.full(len(genes), "none", dtype=object)
    for label, ours, theirs in (
        ("id", genes["id"], gtf["id"]),
        ("id", _bare(genes["id"]), _bare(gtf["id"])),
        ("name", genes["name"], gtf["name"]),
    ):
        # an id that is only unique with what looks like its version must not be cut
        usable = ~theirs.duplicated(keep=False if label == "id" else "first")
        rows = np.flatnonzero(usable)
        found = pd.Index(theirs.to_numpy()[rows]).get_indexer(pd.Index(ours))
        new = (row < 0) & (found >= 0)
        row[new], source[new] = rows[found[new]], label
    return row, source


def _bare(ids: pd.Series) -> pd.Series:
    return ids.str.replace(r"\.\d+", "", regex=True)


def match_chromosome_style(chroms: pd.Series, peak_chroms: set[str]) -> pd.Series:
    """Write each chromosome as the peaks do (``chr1`` or ``1``, ``chrM`` or ``MT``) where they lack it as it stands."""
    names = {}
    for chrom in set(chroms):
        bare = chrom.removeprefix("chr")
        others = [f"chr{bare}", bare, *({"M": ["MT"], "MT": ["chrM"]}.get(bare, []))]
        names[chrom] = next((name for name in [chrom, *others] if name in peak_chroms), chrom) if chrom else chrom
    return chroms.map(names)
