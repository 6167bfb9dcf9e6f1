"""Models side by side on graphs that they have not seen: metrics, genes, paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io.files import check_free, staged
from enhancer_dask.io.tables import read_table, write_parquet, write_tsv
from enhancer_dask.models.data import ShardDataset
from enhancer_dask.models.gene_table import gene_table, mark_genes, read_starts
from enhancer_dask.models.metrics import CONTACTS, EXPRESSED, counted_bins, metrics_table, wilcoxon_table
from enhancer_dask.models.predictions import predict
from enhancer_dask.models.runs import Run
from enhancer_dask.models.unseen import seen_of
from enhancer_dask.shard_store import ShardStore

METRICS, GENES, WILCOXON, PREDICTIONS = "metrics.csv", "genes.parquet", "wilcoxon.csv", "predictions.parquet"
NEEDED = ("graph", "node", "y", "prediction", "loss_mask", "is_gene", "n_contacts")
KEYS = ["graph", "node"]


@dataclass(frozen=True)
class Evaluation:
    """What was found; the same tables stand in the folder."""

    predictions: pd.DataFrame
    """One row per node, ``prediction_<label>`` of each model."""
    metrics: pd.DataFrame
    genes: pd.DataFrame
    wilcoxon: pd.DataFrame
    labels: tuple[str, ...] = field(default=())

    def summary(self) -> dict[str, Any]:
        """A few numbers, as JSON values; what is not defined is None."""
        found = self.metrics.set_index(["model", "group", "metric"])["value"]
        shown = {"bins": ("mse", "roi_masked_mse", "roi_window_mse"), "genes": ("poisson_nll", "pearson_log2")}
        metrics = {
            label: {
                metric if group == "bins" else f"{group}_{metric}": _json(found[label, group, metric])
                for group, names in shown.items() for metric in names
            }
            for label in self.labels
        }  # fmt: skip
        tests = self.wilcoxon[self.wilcoxon["group"] == "genes"]
        return {
            "n_graphs": int(self.predictions["graph"].nunique()),
            "n_bins": int(counted_bins(self.predictions).sum()),
            "n_genes": len(self.genes),
            "metrics": metrics,
            "wilcoxon": [
                {"model": model, "against": against, "p": _json(p)}
                for model, against, p in tests[["model", "against", "p"]].itertuples(index=False)
            ],
        }


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def evaluate(
    shards: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path | None = None,
    *,
    split: str | None = None,
    where: str | None = None,
    genes: str | Path | None = None,
    sigma: Mapping[str, float] | None = None,
    expressed: float = EXPRESSED,
    contacts: tuple[int, ...] = CONTACTS,
    allow_train: bool = False,
    batch_size: int = 1,
    num_workers: int = 0,
    accelerator: str = "auto",
    tsv: bool = False,
    overwrite: bool = False,
) -> Evaluation:
    """Judge models on the same graphs.

    Parameters
    ----------
    shards : path
        Folder of graph shards.
    models : mapping
        Folder of a training, or a table of :func:`enhancer_dask.models.predictions.predict`, by the name that the model
        has in the tables.
    out : path, optional
        Folder to write: ``metrics.csv``, ``genes.parquet``, ``wilcoxon.csv``, ``predictions.parquet``.
    split, where
        Graphs to judge by, see :func:`enhancer_dask.models.data.shard_loader`.
    genes : path, optional
        GTF or table of genes, see :func:`enhancer_dask.models.gene_table.read_starts`; otherwise genes are the nodes
        that the shards mark.
    sigma, expressed, contacts
        See :func:`enhancer_dask.models.metrics.metrics_table`.
    allow_train : bool
        Do not mind graphs that a model was trained on or chosen by.
    batch_size, num_workers, accelerator
        See :func:`enhancer_dask.models.predictions.predict`.
    tsv : bool
        Write the table of genes also as ``.tsv.gz``.
    overwrite : bool
        Replace ``out``.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a model has seen graphs or chromosomes of those to judge by, there is no target, tables are of other graphs,
        or genes cannot be placed.
    StoreError
        If a run or the shards are damaged.
    """
    if not models:
        raise InputError("no model to evaluate; give at least one NAME=RUN")
    for label in sigma or ():
        if label not in models:
            raise InputError(f"sigma is given for {label!r}, which is none of the models {', '.join(models)}")
    if out is not None:
        check_free(Path(out), METRICS, overwrite=overwrite)
    starts = None if genes is None else read_starts(genes)
    index = ShardDataset(shards, split=split, where=where, shuffle=False, rank=0, world_size=1).index
    runs = {label: Run(Path(path)) for label, path in models.items() if Path(path).suffix != ".parquet"}
    if not allow_train:
        for label, run in runs.items():
            seen = seen_of(run.description, index, ShardStore(Path(shards)))
            if seen:
                raise InputError(
                    f"model {label!r} ({run.path}) saw {seen}; choose others with split or where, or allow it"
                )
    tables = {
        label: predict(
            path, shards, split=split, where=where, batch_size=batch_size, num_workers=num_workers,
            accelerator=accelerator,
        ) if label in runs else read_predictions(path, index)
        for label, path in models.items()
    }  # fmt: skip
    predictions = joined(tables)
    if not counted_bins(predictions).any():
        raise InputError(f"{shards}: no bin that counts has a target (y), so no model can be judged by them")
    if starts is not None:
        predictions = mark_genes(predictions, starts, str(genes))
    labels = tuple(models)
    found = Evaluation(
        predictions,
        metrics_table(predictions, labels, sigma=sigma, expressed=expressed, contacts=contacts),
        gene_table(predictions, labels, starts=starts),
        wilcoxon_table(predictions, labels, expressed=expressed, contacts=contacts),
        labels,
    )
    if out is not None:
        _write(found, Path(out).absolute(), tsv=tsv)
    return found


def _write(found: Evaluation, out: Path, *, tsv: bool) -> None:
    with staged(out) as work:
        work.mkdir()
        found.metrics.to_csv(work / METRICS, index=False)
        found.wilcoxon.to_csv(work / WILCOXON, index=False)
        write_parquet(found.genes, work / GENES)
        write_parquet(found.predictions, work / PREDICTIONS)
        if tsv:
            write_tsv(found.genes, work / GENES.replace(".parquet", ".tsv.gz"))


def read_predictions(path: str | Path, index: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the graphs of an index from a table.

    Raises
    ------
    InputError
        If a column or a graph is missing.
    """
    table = read_table(path, required=NEEDED)
    table = table[table["graph"].isin(set(index["name"]))].reset_index(drop=True)
    rows = table["graph"].value_counts()
    for name, n_nodes in zip(index["name"], index["n_nodes"], strict=True):
        if rows.get(name, 0) != n_nodes:
            raise InputError(f"{path}: has {rows.get(name, 0)} rows of graph {name!r}, want its {n_nodes} nodes")
    return table


def joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Predictions of several models side by side.

    Parameters
    ----------
    tables : mapping
        Table of each model, of the same nodes.

    Returns
    -------
    DataFrame
        The columns of the first, ``prediction`` being ``prediction_<label>`` of each model.

    Raises
    ------
    InputError
        If nodes, targets or masks differ.
    """
    (first, base), *others = tables.items()
    base = base.rename(columns={"prediction": f"prediction_{first}"})
    keys = pd.MultiIndex.from_frame(base[KEYS])
    for label, table in others:
        same = table.set_index(KEYS)
        if len(same) != len(base) or not same.index.sort_values().equals(keys.sort_values()):
            raise InputError(f"predictions of {label!r} are of other nodes than those of {first!r}")
        same = same.loc[keys]
        for column in ("y", "loss_mask"):
            one, other = base[column].to_numpy(np.float64), same[column].to_numpy(np.float64)
            if not np.array_equal(one, other, equal_nan=True):
                raise InputError(f"predictions of {label!r} have another {column!r} than those of {first!r}")
        base[f"prediction_{label}"] = same["prediction"].to_numpy()
    return base
