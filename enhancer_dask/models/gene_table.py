"""Predictions gene by gene, in the columns of GraphReg's table. Neither torch nor a model is needed.

References
----------
Karbalayghareh et al. (2022), Chromatin interaction-aware gene regulatory modeling with graph attention networks. Genome
Research 32, 930-944; the table is that of its repository's ``Epi-GraphReg_test_multiple_runs.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.annotation import read_gtf
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.io.tables import read_table
from enhancer_dask.models.metrics import model_columns, poisson_nll

COORDINATES = ("gene", "chrom", "start", "end")
PLACES = ("chrom", "start", "end")


def read_starts(path: str | Path) -> pd.DataFrame:
    """Transcription start sites of a GTF or a table of genes.

    Parameters
    ----------
    path : path
        A GTF (``.gtf``, ``.gtf.gz``): one site per gene. Or a table with the columns gene, chrom, start, end (bp,
        0-based, half-open) and perhaps strand; a gene may have several rows, one per site.

    Returns
    -------
    DataFrame
        gene, chrom, tss (bp): the first base, on the minus strand the last.

    Raises
    ------
    InputError
        If the file is not readable or a position is missing.
    """
    if Path(path).name.endswith((".gtf", ".gtf.gz")):
        table = read_gtf(path).drop(columns="id").rename(columns={"name": "gene"})
    else:
        table = read_table(path, required=COORDINATES, text=("gene", "chrom", "strand"))
    for column in ("start", "end"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        if numbers.isna().any():
            row = table.loc[numbers.isna().to_numpy().argmax()]
            raise InputError(
                f"{path}: column {column!r} of gene {row['gene']!r} is {str(row[column])!r}, want a position in bp"
            )
        table[column] = numbers
    minus = (table["strand"] == "-").to_numpy() if "strand" in table else np.zeros(len(table), dtype=bool)
    tss = np.where(minus, table["end"] - 1, table["start"]).astype(np.int64)
    return pd.DataFrame({"gene": table["gene"].astype(str), "chrom": table["chrom"].astype(str), "tss": tss})


def mark_genes(predictions: pd.DataFrame, starts: pd.DataFrame, label: str = "genes") -> pd.DataFrame:
    """The same predictions, ``is_gene`` being the bins in which a gene of an annotation starts.

    Raises
    ------
    InputError
        If the predictions have no positions, or no gene starts in a bin that counts.
    """
    first, last, _ = starts_in_bins(predictions, starts, label)
    return predictions.assign(is_gene=first < last)


def starts_in_bins(
    predictions: pd.DataFrame, starts: pd.DataFrame, label: str = "genes"
) -> tuple[NDArray[np.int64], NDArray[np.int64], pd.DataFrame]:
    """Which start sites lie in each bin.

    Returns
    -------
    first, last : int arrays, shape (N,)
        Sites of bin i are rows ``first[i]:last[i]`` of the sorted sites.
    starts : DataFrame
        Sorted by chromosome and position, those of other chromosomes left out.

    Raises
    ------
    InputError
        See :func:`mark_genes`.
    """
    missing = [name for name in PLACES if name not in predictions]
    if missing:
        raise InputError(f"{label}: the bins have no {missing[0]!r}, so genes cannot be placed on them")
    chroms = [str(name) for name in predictions["chrom"].unique()]
    names = ChromosomeNames(dict.fromkeys(chroms, 0), label)
    code = starts["chrom"].map({name: names.code(name) for name in starts["chrom"].unique()}).to_numpy(np.int64)
    starts = starts.assign(code=code)[code >= 0].sort_values(["code", "tss", "gene"], kind="stable", ignore_index=True)
    if starts.empty:
        raise InputError(f"{label}: no gene is on a chromosome of the predictions ({', '.join(chroms[:5])} ...)")
    stride = int(max(starts["tss"].max(), predictions["end"].max())) + 1
    keys = starts["code"].to_numpy(np.int64) * stride + starts["tss"].to_numpy(np.int64)
    of_bin = predictions["chrom"].map({name: i for i, name in enumerate(chroms)}).to_numpy(np.int64) * stride
    first, last = (np.searchsorted(keys, of_bin + predictions[c].to_numpy(np.int64)) for c in ("start", "end"))
    if not ((first < last) & predictions["loss_mask"].to_numpy(bool)).any():
        raise InputError(f"{label}: no gene starts in a bin that counts; another assembly, or other chromosomes?")
    return first, last, starts


def gene_table(
    predictions: pd.DataFrame, labels: Sequence[str] | None = None, *, starts: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per bin in which genes start.

    Parameters
    ----------
    predictions : DataFrame
        Of one model or several, as :func:`enhancer_dask.models.predictions.predict` makes it.
    labels : sequence of str, optional
        Models, see :func:`enhancer_dask.models.metrics.model_columns`; the first is the one compared with the others.
    starts : DataFrame, optional
        Start sites, see :func:`read_starts`. Without them genes are the nodes with ``is_gene``.

    Returns
    -------
    DataFrame
        ``chr``; ``genes``, the names of the genes that start in the bin, in the order of their positions, joined by
        ``+``; ``n_tss``, their start sites; ``tss``, the first of them (bp); ``tss_distance_from_center``, of the first
        from the middle of the bin (bp); ``n_contact``, edges into the bin; ``average_<track>``; ``true_cage``, the
        target of the bin; for each model ``pred_cage_<model>`` and ``nll_<model>``, the Poisson negative
        log-likelihood; of two models ``delta_nll``, that of the second less that of the first, above 0 where the first
        is better; of more ``delta_nll_<model>`` for each but the first. Models are written with ``_`` for what is no
        letter or digit. Rows are in the order of the predictions; bins outside the loss mask are left out.

        As in the published table several genes of one bin share a row, since their expression is predicted as one
        sum; a gene with start sites in two bins is in two rows.

        Without ``starts``: nodes that are genes have their own names; others are called ``<graph>:<node>``, and where
        bins have positions n_tss, tss and the distance are missing, where they have none (simulated chromosomes)
        ``chr`` is the graph, tss the node, n_tss 1 and the distance 0.

    Raises
    ------
    InputError
        If two models are written alike, or as :func:`mark_genes` does.
    """
    models = model_columns(predictions, labels)
    written = {label: re.sub(r"\W", "_", label) for label in models}
    if len(set(written.values())) < len(written):
        raise InputError(f"models {', '.join(models)}: two have the same name in a table; choose others")
    if starts is None:
        rows = predictions[predictions["is_gene"].to_numpy(bool) & predictions["loss_mask"].to_numpy(bool)]
        table = _of_nodes(rows)
    else:
        first, last, starts = starts_in_bins(predictions, starts)
        here = np.flatnonzero((first < last) & predictions["loss_mask"].to_numpy(bool))
        rows = predictions.iloc[here]
        table = _of_starts(rows, first[here], last[here], starts)
    table["n_contact"] = rows["n_contacts"].to_numpy()
    for column in rows.columns[rows.columns.str.startswith("track_")]:
        table[f"average_{column.removeprefix('track_')}"] = rows[column].to_numpy()
    y = rows["y"].to_numpy(np.float64)
    table["true_cage"] = y
    for label, column in models.items():
        table[f"pred_cage_{written[label]}"] = rows[column].to_numpy(np.float64)
    nll = {label: poisson_nll(y, rows[column].to_numpy(np.float64)) for label, column in models.items()}
    for label, values in nll.items():
        table[f"nll_{written[label]}"] = values
    one, *others = nll
    for other in others:
        table["delta_nll" if len(others) == 1 else f"delta_nll_{written[other]}"] = nll[other] - nll[one]
    return table


def _of_nodes(rows: pd.DataFrame) -> pd.DataFrame:
    """Names and places of genes that are marked in the shards."""
    placed, named = "chrom" in rows, "gene" in rows
    nodes = [f"{graph}:{node}" for graph, node in zip(rows["graph"], rows["node"], strict=True)]
    n, unknown = len(rows), pd.array([pd.NA] * len(rows), dtype="Int64")
    tss = pd.array(rows["node"].to_numpy(np.int64), dtype="Int64")
    return pd.DataFrame(
        {
            "chr": rows["chrom" if placed else "graph"].to_numpy(),
            "genes": rows["gene"].to_numpy() if named else np.array(nodes, dtype=object),
            "n_tss": unknown if placed else pd.array([1] * n, dtype="Int64"),
            "tss": unknown if placed or named else tss,
            "tss_distance_from_center": unknown if placed or named else pd.array([0] * n, dtype="Int64"),
        }
    )


def _of_starts(
    rows: pd.DataFrame, first: NDArray[np.int64], last: NDArray[np.int64], starts: pd.DataFrame
) -> pd.DataFrame:
    """Names and places of genes of an annotation; sites ``first[i]:last[i]`` lie in row i."""
    names, tss = starts["gene"].to_numpy(), starts["tss"].to_numpy(np.int64)
    joined = ["+".join(dict.fromkeys(names[a:b])) for a, b in zip(first, last, strict=True)]
    start, end = rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64)
    size = int((end - start).max())  # the last bin of a chromosome may be shorter; its middle is not
    return pd.DataFrame(
        {
            "chr": rows["chrom"].to_numpy(),
            "genes": np.array(joined, dtype=object),
            "n_tss": pd.array(last - first, dtype="Int64"),
            "tss": pd.array(tss[first], dtype="Int64"),
            "tss_distance_from_center": pd.array(np.abs(tss[first] - start - size // 2), dtype="Int64"),
        }
    )
