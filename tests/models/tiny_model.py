"""A model of one number, its run folders, and shards with positions, for tests of what stands on trained models."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from enhancer_dask import graph_shards
from enhancer_dask.io.contact_writer import write_contacts
from enhancer_dask.io.pixels import PixelSum, make_bins
from enhancer_dask.models import registry
from enhancer_dask.models.registry import Expression, ModelSpec
from enhancer_dask.models.runs import BEST, SCHEMA, SCHEMA_VERSION

SIZE = 1_000
LENGTHS = {"chr1": 40_500, "chr2": 20_000, "chr10": 8_000}
GENES = """\
gene,chrom,start,end,strand
B,chr1,2100,5000,+
A,chr1,100,2900,-
A,chr1,2950,9000,+
C,chr1,30000,33000,+
D,chr2,7500,9000,+
E,chr2,7999,9000,+
F,chr10,0,1,+
G,chrY,0,1,+
"""


class Scaled(Expression):
    """Expression is the first feature of the bin and of those that point to it, summed, times a factor."""

    def __init__(self, in_channels: int = 1, needs: str = "x") -> None:
        super().__init__()
        self.needs = needs
        self.factor = torch.nn.Parameter(torch.ones(in_channels))

    def forward(self, batch):
        batch[self.needs]
        x = batch.x @ self.factor
        source, target = batch.edge_index
        return x + torch.zeros_like(x).index_add(0, target, x[source])


@dataclass(frozen=True)
class TinySpec(ModelSpec):
    def load(self):
        return Scaled


def register(monkeypatch):
    monkeypatch.setitem(registry.SPECS, "scaled", TinySpec("scaled", "", "for tests"))


def write_run(path, factor, *, x=None, splits=None, needs="x", params=None, **more):
    """A finished training whose factors are known."""
    factor = torch.as_tensor(factor, dtype=torch.float32)
    (path / BEST).parent.mkdir(parents=True)
    state = {"model.factor": factor, "model.chosen": torch.zeros((), dtype=torch.int64)}
    torch.save({"state_dict": state}, path / BEST)
    description = {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "software": "0", "model": "scaled",
        "options": {"in_channels": len(factor), "needs": needs}, "training": {}, "parameters": len(factor),
    }  # fmt: skip
    if x is not None:
        description["x"] = x
    if params is not None:
        description["shards"] = {"params": params}
    if splits is not None:
        description["splits"] = splits
    (path / "run.json").write_text(json.dumps(description | more))
    return path


def expected(graph, factor):
    """What the model predicts, from arrays."""
    x = graph.nodes["x"].astype(np.float64) @ np.asarray(factor, dtype=np.float64)
    adjacency = np.zeros((graph.n_nodes, graph.n_nodes))
    np.add.at(adjacency, (graph.target, graph.source), 1)
    return x + adjacency @ x


def write_bigwig(path, rng):
    import pybigtools

    bins = make_bins(LENGTHS, 100)
    values = rng.integers(0, 9, len(bins)).astype(float)
    records = zip(bins["chrom"], bins["start"].tolist(), bins["end"].tolist(), values.tolist(), strict=True)
    pybigtools.open(str(path), "w").write(LENGTHS, records)
    return pd.Series(values, index=pd.MultiIndex.from_frame(bins[["chrom", "start"]]))


def windowed_shards(folder, **options):
    """Overlapping windows of three chromosomes, with a target, tracks and genes."""
    rng, bins = np.random.default_rng(2), make_bins(LENGTHS, SIZE)
    total, first = PixelSum(len(bins)), rng.integers(0, len(bins), 3_000)
    total.add(first, np.minimum(first + rng.geometric(0.2, len(first)) - 1, len(bins) - 1))
    contacts = total.table()
    contacts.attrs["bins"] = bins
    write_contacts(folder / "c.contacts", contacts)
    cage, track = (write_bigwig(folder / f"{name}.bw", rng) for name in ("cage", "dnase"))
    (folder / "genes.csv").write_text(GENES)
    options = {"window": 9_000, "step": 3_000, "genes": folder / "genes.csv"} | options
    shards = graph_shards(
        folder / "c.contacts", folder / "shards", balance="none", rule="count>1", cage=folder / "cage.bw",
        tracks=[f"dnase={folder / 'dnase.bw'},mean", f"fine={folder / 'dnase.bw'},sum,100bp"], shard_mb=0.02,
        progress=False, **options,
    )  # fmt: skip
    return shards, cage, track
