"""Predictions of a trained model along the graphs of shards: a table with one row per node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError, first_line
from enhancer_dask.io.files import check_free, is_url
from enhancer_dask.io.tables import write_parquet, write_tsv
from enhancer_dask.models.data import fine_tracks, shard_loader
from enhancer_dask.models.metrics import GENE_MASKS
from enhancer_dask.models.runs import Run
from enhancer_dask.shard_store import ShardStore

try:
    import torch
    from torch import nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

TABLE, TSV = "predictions.parquet", ".tsv.gz"
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
Array = NDArray[Any]


def predict(
    run: str | Path,
    shards: str | Path,
    out: str | Path | None = None,
    *,
    where: str | None = None,
    split: str | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    accelerator: str = "auto",
    tsv: bool = False,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Predict the expression of every node with the best weights of a training.

    Parameters
    ----------
    run : path
        Folder of a training.
    shards : path
        Folder of graph shards with the features that the model was trained on.
    out : path, optional
        Where to write the table: a name that ends in ``.parquet``, or of a folder, in which it is called
        ``predictions.parquet``.
    where, split, num_workers
        See :func:`enhancer_dask.models.data.shard_loader`.
    batch_size : int
        Graphs predicted together.
    accelerator : str
        ``auto`` (a GPU if there is one), ``cpu``, ``gpu``, ``cuda`` or ``mps``.
    tsv : bool
        Write the table also as ``.tsv.gz``.
    overwrite : bool
        Replace ``out``.

    Returns
    -------
    DataFrame
        One row per node, graphs in the order of the index: graph, node (position in the graph), of shards that know
        them chrom, start, end (bp) and bin, of graphs of genes gene, then y (NaN without target), prediction (float32),
        loss_mask (all true where the shards have none), is_gene, n_contacts (edges that enter the node from others) and
        track_<name> for each column of ``x`` and each finer track (its mean over the bin).

    Raises
    ------
    InputError
        If the shards have other features than the model was trained on, or nothing is chosen.
    StoreError
        If the run or the shards are damaged.

    Notes
    -----
    Graphs are read, predicted and let go batch by batch; in memory is what the table holds.

    Examples
    --------
    >>> predict("run", "shards", split="test", accelerator="cpu").columns[:2]  # doctest: +SKIP
    Index(['graph', 'node'], dtype='object')
    """
    table_file = None if out is None else output_file(out, tsv=tsv, overwrite=overwrite)
    found, store = Run(Path(run)), ShardStore(Path(shards))
    device = _device(accelerator)
    check_features(found, store)
    model = found.model().to(device)
    layout = NodeLayout.of(store)
    loader = shard_loader(
        shards, batch_size=batch_size, num_workers=num_workers, split=split, where=where, shuffle=False, rank=0,
        world_size=1,
    )  # fmt: skip
    parts: list[dict[str, Array]] = []
    with torch.inference_mode():
        for batch in loader:
            prediction = _forward(model, batch.to(device), found, store)
            parts.append(layout.rows(batch.to("cpu"), prediction.float().cpu().numpy()))
    table = in_order(pd.DataFrame({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}), store)
    if table_file is not None:
        params = {"stage": "predict", "model": found.description["model"], "split": split, "where": where}
        write_parquet(table, table_file, meta={"params": params})
        if tsv:
            write_tsv(table, table_file.with_suffix(TSV))
    return table


def output_file(out: str | Path, *, tsv: bool = False, overwrite: bool) -> Path:
    """File of the table for what a user gave as its name.

    Raises
    ------
    InputError
        If it, or with ``tsv`` the text beside it, is there and not to be overwritten, or it is a URL.
    """
    if is_url(out):
        raise InputError(f"{out}: written to a file system, want a path; copy the finished table there")
    path = Path(out).absolute()
    if path.suffix != ".parquet":
        check_free(path, TABLE, overwrite=overwrite)
        return path / TABLE
    if path.is_dir():
        raise InputError(f"{path}: is a folder, want the name of a file")
    for file in (path, path.with_suffix(TSV))[: 1 + tsv]:
        if file.exists() and not overwrite:
            raise InputError(f"{file}: exists; choose another name or overwrite it")
    return path


def check_features(run: Run, store: ShardStore) -> None:
    """Refuse shards whose features are not those that a model was trained on.

    Raises
    ------
    InputError
        Naming the columns of ``x`` of both.
    """
    if "x" not in store.variables["nodes"]:
        raise InputError(f"{store.path}: its nodes have no variable 'x'; want features as in the training")
    trained, here = run.description.get("x"), store.params.get("x")
    if trained is not None and here is not None and trained != here:
        raise InputError(
            f"{store.path}: x has the columns {', '.join(map(str, here)) or 'none'}; {run.path} was trained on "
            f"{', '.join(map(str, trained)) or 'none'}"
        )
    options, shape = run.description.get("options", {}), store.variables["nodes"]["x"]["shape"]
    width = len(trained) if trained else None if options.get("columns") else options.get("in_channels")
    if width is not None and shape != [width]:
        found = shape[0] if shape else 1
        raise InputError(f"{store.path}: x has {found} columns; {run.path} was trained on {width}")


def _device(accelerator: str) -> torch.device:
    if accelerator not in ACCELERATORS:
        raise InputError(f"accelerator is {accelerator!r}, want one of {', '.join(ACCELERATORS)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    for name in names:
        if there[name]:
            return torch.device(name)
    raise InputError(f"accelerator is {accelerator!r}, but there is none on this machine")


def _forward(model: nn.Module, batch: Data, run: Run, store: ShardStore) -> torch.Tensor:
    """Prediction of a batch, shape (N,); what a model cannot read is named."""
    name = run.description["model"]
    try:
        prediction = model(batch)
    except (RuntimeError, KeyError, AttributeError, IndexError, ValueError) as err:  # whatever features make it raise
        raise InputError(
            f"{store.path}: model {name!r} of {run.path} cannot read graph {batch.name[0]!r} ({first_line(err)})"
        ) from err
    if tuple(prediction.shape) != (batch.num_nodes,):
        raise InputError(
            f"{run.path}: model {name!r} predicts the shape {tuple(prediction.shape)}, want ({batch.num_nodes},)"
        )
    return prediction


# -- rows of the table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeLayout:
    """What the nodes of a folder of shards are, and how they become rows."""

    features: Sequence[str]
    """Columns of ``x``."""
    fine: Sequence[str]
    """Variables with several values per bin."""
    spans: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    """Chromosome, start and end (bp) of each graph; empty if the nodes are not bins that follow each other."""
    resolution: int = 0
    """Size of the bins, bp."""
    genes: Sequence[str] = ()
    """Names of the genes where nodes are genes."""

    @classmethod
    def of(cls, store: ShardStore) -> NodeLayout:
        """The layout of a folder of shards."""
        params, nodes = store.params, store.variables["nodes"]
        width = int(np.prod(nodes["x"]["shape"], dtype=int)) if "x" in nodes else 0
        names = params.get("x") or []
        features = [str(n) for n in names] if len(names) == width else [str(i) for i in range(width)]
        genes = [str(g) for g in params.get("genes", [])] if "gene" in nodes else []
        return cls(features, fine_tracks(store), graph_spans(store), int(params.get("resolution", 0)), genes)

    def rows(self, batch: Data, prediction: Array) -> dict[str, Array]:
        """Columns of the table for the nodes of a batch."""
        sizes = batch.ptr.diff().numpy()
        n, starts = int(sizes.sum()), batch.ptr[:-1].numpy()
        names = np.array(batch.name, dtype=object)
        node = np.arange(n) - np.repeat(starts, sizes)
        found: dict[str, Array] = {"graph": np.repeat(names, sizes), "node": node.astype(np.int32)}
        found |= self._places(batch, names, sizes, node)
        found["y"] = _target(batch, n)
        found["prediction"] = prediction.astype(np.float32)
        found["loss_mask"] = _mask(batch, ("loss_mask",), n, otherwise=True)
        found["is_gene"] = _mask(batch, GENE_MASKS, n, otherwise=bool(self.genes))
        source, target = batch.edge_index.numpy()
        found["n_contacts"] = np.bincount(target[source != target], minlength=n).astype(np.int32)
        x = batch.x.reshape(n, -1).numpy()
        found |= {f"track_{name}": x[:, i] for i, name in enumerate(self.features)}
        return found | {f"track_{name}": batch[name].mean(dim=1).numpy() for name in self.fine}

    def _places(self, batch: Data, names: Array, sizes: Array, node: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        if self.spans:
            chrom, start, end = (np.array(part) for part in zip(*(self.spans[name] for name in names), strict=True))
            begin = np.repeat(start, sizes) + node * self.resolution
            found["chrom"] = np.repeat(chrom.astype(object), sizes)
            found |= {"start": begin, "end": np.minimum(begin + self.resolution, np.repeat(end, sizes))}
        if "bin" in batch:
            found["bin"] = batch.bin.numpy()
        if self.genes:
            found["gene"] = np.array(self.genes, dtype=object)[batch.gene.numpy()]
        return found


def graph_spans(store: ShardStore) -> dict[str, tuple[str, int, int]]:
    """Chromosome, start and end of each graph whose nodes are all the bins in between; empty if that is not so."""
    index, resolution = store.index, int(store.params.get("resolution", 0))
    if not {"chrom", "start", "end"} <= set(index) or resolution < 1 or store.params.get("nodes", "bins") != "bins":
        return {}
    if not (-(-(index["end"] - index["start"]) // resolution) == index["n_nodes"]).all():
        return {}
    rows = index[["name", "chrom", "start", "end"]].itertuples(index=False)
    return {str(name): (str(chrom), int(start), int(end)) for name, chrom, start, end in rows}


def chromosome_lengths(store: ShardStore) -> dict[str, int]:
    """The furthest that graphs reach on each chromosome, bp; empty if the shards know no positions."""
    lengths: dict[str, int] = {}
    for chrom, _, end in graph_spans(store).values():
        lengths[chrom] = max(end, lengths.get(chrom, 0))
    return lengths


def _target(batch: Data, n: int) -> Array:
    y = batch.get("y")
    if y is None:
        return np.full(n, np.nan, dtype=np.float32)
    if y.numel() != n:
        raise InputError(f"graph {batch.name[0]!r}: y has {y.shape[-1]} columns, want one target per node")
    return y.reshape(n).numpy().astype(np.float32)


def _mask(batch: Data, names: Sequence[str], n: int, *, otherwise: bool) -> Array:
    for name in names:
        if name in batch:
            return batch[name].numpy().astype(bool)
    return np.full(n, otherwise)


def in_order(table: pd.DataFrame, store: ShardStore) -> pd.DataFrame:
    """Rows by graph, in the order of the index, then by node: loader workers take turns."""
    place = pd.Series(np.arange(len(store.index)), index=store.index["name"])
    order = np.lexsort((table["node"].to_numpy(), table["graph"].map(place).to_numpy()))
    return table.iloc[order].reset_index(drop=True)
