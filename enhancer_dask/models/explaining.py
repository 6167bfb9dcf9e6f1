"""Scores of a trained model as files: the command ``attribute``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.files import check_free, staged
from enhancer_dask.io.tables import read_table, write_parquet
from enhancer_dask.models.attribution import GRADIENT_METHODS
from enhancer_dask.models.candidate_pairs import check_elements
from enhancer_dask.models.enhancer_scores import judge
from enhancer_dask.models.predictions import check_features
from enhancer_dask.models.runs import Run, load_model
from enhancer_dask.models.scoring import OnContributions, ScoreOptions, score_columns, score_shards
from enhancer_dask.shard_store import Graph, ShardStore

SCORES, AUPRC, CONTRIBUTIONS = "scores.parquet", "auprc.csv", "contributions.parquet"


def read_candidates(text: str) -> str | int | pd.DataFrame:
    """``edges``, a number of bins, or the table in a file.

    Raises
    ------
    InputError
        If it is neither.
    """
    if text == "edges":
        return text
    if text.isdigit():
        return int(text)
    return check_elements(read_table(text, text=("graph", "chrom", "gene")), text)


def explain(
    run: str | Path,
    shards: str | Path,
    out: str | Path,
    options: ScoreOptions | None = None,
    *,
    genes: Sequence[str] | None = None,
    split: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    min_elements: int = 1,
    contributions: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the scores of a trained model: ``enhancer-dask attribute``.

    Parameters
    ----------
    run : path
        Folder of a training.
    shards, options, genes, split, where, limit
        See :func:`enhancer_dask.models.scoring.score_shards`.
    out : path
        Folder, there when all is done: ``scores.parquet`` of :func:`enhancer_dask.models.scoring.score_shards`; where
        the truth is known ``auprc.csv`` of :func:`enhancer_dask.models.enhancer_scores.judge`; with ``contributions``
        also ``contributions.parquet``: graph, gene, node, and a column per gradient method.
    min_elements : int
        Of :func:`enhancer_dask.models.enhancer_scores.judge`.
    overwrite : bool
        Replace ``out``; never a folder that holds something else.

    Returns
    -------
    dict
        What was written, and the AUPRC of each method.

    Raises
    ------
    InputError
        If contributions are wanted of methods that have none: deletion and abc; or the shards have other features than
        those that the model was trained on.
    """
    options, out = options or ScoreOptions(), Path(out)
    if contributions and not set(options.methods) & set(GRADIENT_METHODS):
        raise InputError(
            f"contributions of bins are wanted, but methods are {', '.join(options.methods)}; want one of "
            f"{', '.join(GRADIENT_METHODS)} among them"
        )
    check_free(out, SCORES, overwrite=overwrite)
    model = load_model(run)
    if "in_channels" in Run(Path(run)).description["options"]:  # it reads x
        check_features(Run(Path(run)), ShardStore(Path(shards)))
    meta = {"run": str(run), "shards": str(shards), "methods": list(options.methods)}
    with staged(out) as work:
        work.mkdir()
        with _Contributions(work / CONTRIBUTIONS if contributions else None) as keep:
            table = score_shards(
                model, shards, options=options, genes=genes, split=split, where=where, limit=limit,
                on_contributions=keep,
            )  # fmt: skip
        write_parquet(table, work / SCORES, meta=meta, make_parent=False)
        found = {"out": str(out), "genes": int(table.groupby(["graph", "gene"]).ngroups), "pairs": len(table)}
        if "is_linked" not in table:
            return found
        verdict = judge(table, score_columns(options.methods), min_elements=min_elements)
        verdict.to_csv(work / AUPRC, index=False)
    of_methods = {
        method: None if np.isnan(value) else round(float(value), 4)
        for method, value in zip(options.methods, verdict["auprc"], strict=True)
    }
    return {**found, "linked": int(table["is_linked"].sum()), "auprc": of_methods}


class _Contributions:
    """Writes the contributions of all bins, graph by graph: one column per gradient method."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._writer: pq.ParquetWriter | None = None
        self._graph: Graph | None = None
        self._columns: dict[str, Any] = {}

    def __enter__(self) -> OnContributions | None:
        return None if self.path is None else self._add

    def _add(self, graph: Graph, genes: NDArray[np.int64], method: str, contributions: NDArray[np.float32]) -> None:
        if self._graph is not graph:
            self._flush()
            self._graph = graph
            self._columns = {
                "graph": pa.array([graph.name] * contributions.size).dictionary_encode(),
                "gene": np.repeat(genes, graph.n_nodes),
                "node": np.tile(np.arange(graph.n_nodes), len(genes)),
            }
        self._columns[score_columns([method])[0]] = contributions.ravel()

    def _flush(self) -> None:
        if not self._columns or self.path is None:
            return
        table = pa.table(self._columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()
