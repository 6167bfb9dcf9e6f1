"""Simulated single cells with contacts and expression, in which the contacts that drive each gene are known.

The experiment is like HiRES: embryo cells of several stages, as many contacts per 1-Mb bin as there, counts of RNA of
the same cell. Contacts fall with distance and follow compartments of the stage. A driven gene has loops to a few driver
bins; a loop's strength in a cell varies around that of the stage, multiplies the contacts between the two bins, and
raises the gene's expression. The other genes depend on nothing but the cell's RNA depth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph, sorted_edges

STAGES = ("E7.0", "E7.5", "E8.0", "E8.75", "E9.5", "E10.5", "E11.5")
SPLITS = ("train", "validation", "test")
NEAREST, FARTHEST = 3, 15  # bins between a gene and its drivers
COMPARTMENT_BLOCK = 6  # bins, about
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDesign:
    """The numbers behind an experiment."""

    stages: tuple[str, ...] = STAGES
    chromosomes: int = 3
    bins: int = 60
    """Bins of each chromosome."""
    bin_size: int = 1_000_000
    genes: int = 24
    driven_share: float = 0.5
    """Share of genes that have drivers."""
    drivers_per_gene: int = 2
    contacts: float = 20_000.0
    """Median number of contacts of a cell, of bins with themselves included."""
    rna_depth: float = 20.0
    """Median of the mean count of a gene in a cell of ordinary depth."""
    depth_sd: float = 0.3
    """Standard deviation of the log depth of cells, RNA and contacts apart."""
    loop_fold: float = 10.0
    """Contacts of a loop of strength 1, over those without it, less 1."""
    effect: float = 1.5
    """Log fold change of expression by a loop of strength 1."""
    noise: float = 0.4
    """Coefficient of variation of a loop's strength among the cells of a stage."""
    dropout: float = 0.01
    """Chance that a gene's counts are lost in a cell."""
    trans_share: float = 0.2
    """Share of contacts that are between chromosomes."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "stages":
                continue
            least = 1 if field.type == "int" and field.name != "genes" else 0
            if not least <= value < np.inf:
                raise InputError(f"{field.name} is {value}, want at least {least}")
            if field.name in ("driven_share", "dropout", "trans_share") and value > 1:
                raise InputError(f"{field.name} is {value}, want at most 1")
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise InputError(f"stages are {', '.join(self.stages) or 'none'}; want one or more, each once")
        if self.genes > self.chromosomes * self.bins:
            raise InputError(f"genes is {self.genes}, want at most {self.chromosomes * self.bins}, one per bin")
        room = min(FARTHEST, (self.bins - 1) // 2) - NEAREST + 1
        if self.genes and self.drivers_per_gene > max(room, 0):
            raise InputError(
                f"drivers_per_gene is {self.drivers_per_gene}, want at most {max(room, 0)} in {self.bins} bins"
            )


@dataclass(frozen=True, slots=True)
class SimulatedCell:
    """One cell."""

    name: str
    stage: str
    split: str
    contacts: pd.DataFrame
    """bin1_id, bin2_id, count of the pairs of bins with contacts, bins with themselves included, sorted."""
    expression: NDArray[np.int64]
    """Counts, shape (genes,)."""
    expected: Floats
    """Their means, given the cell's loops and RNA depth, dropout left out; shape (genes,)."""


class CellExperiment:
    """Genome, drivers and stages of an experiment, of which cells are drawn one by one.

    Attributes
    ----------
    bins : DataFrame
        chrom, start, end; the row is the bin id.
    genes : DataFrame
        gene, chrom, start, end, bin, driven, base (mean count without loops at ordinary depth).
    drivers : DataFrame
        One row per driver and stage: gene, chrom, gene_bin, driver_bin, effect (log fold change of a loop of strength
        1), stage, strength (mean over cells).
    """

    def __init__(self, design: CellDesign, seed: int = 0) -> None:
        self.design, self.seed = design, seed
        rng = np.random.default_rng([seed, 0])
        self.bins = _bins(design)
        self.genes = _genes(rng, design, self.bins)
        drivers = _drivers(rng, design, self.genes)
        self._pairs = np.triu_indices(len(self.bins))
        self._rates = _stage_rates(rng, design, self.bins, self._pairs)
        self._gene = (
            drivers["gene"].map(dict(zip(self.genes["gene"], self.genes.index, strict=True))).to_numpy(np.int64)
        )
        self._effect = drivers["effect"].to_numpy()
        self._strength = _courses(rng, len(design.stages), len(drivers))
        ends = np.sort(drivers[["gene_bin", "driver_bin"]].to_numpy(), axis=1)
        n = len(self.bins)
        self._loop = ends[:, 0] * n - ends[:, 0] * (ends[:, 0] - 1) // 2 + ends[:, 1] - ends[:, 0]
        stages = [drivers.assign(stage=s, strength=self._strength[i]) for i, s in enumerate(design.stages)]
        self.drivers = pd.concat(stages, ignore_index=True)

    def cell(self, split: str, number: int) -> SimulatedCell:
        """A cell, the same whichever others are drawn; stages take turns."""
        design = self.design
        rng = np.random.default_rng([self.seed, 1, SPLITS.index(split), number])
        stage = number % len(design.stages)
        mean = self._strength[stage]
        shape = 1.0 / max(design.noise, 1e-6) ** 2
        strength = mean * rng.gamma(shape, 1.0 / shape, mean.size)
        depth, rna_depth = np.exp(rng.normal(0.0, design.depth_sd, 2))
        rate = self._rates[stage].copy()
        np.multiply.at(rate, self._loop, 1.0 + design.loop_fold * strength)
        count = rng.poisson(rate * (design.contacts * depth / rate.sum()))
        log_fold = np.bincount(self._gene, self._effect * strength, len(self.genes))
        expected = rna_depth * self.genes["base"].to_numpy() * np.exp(log_fold)
        kept = rng.random(len(self.genes)) >= design.dropout
        some = np.flatnonzero(count)
        contacts = pd.DataFrame(
            {"bin1_id": self._pairs[0][some], "bin2_id": self._pairs[1][some], "count": count[some]}
        )
        name = f"{split}-{number:06d}"
        return SimulatedCell(name, design.stages[stage], split, contacts, rng.poisson(expected) * kept, expected)

    def graph(self, cell: SimulatedCell) -> Graph:
        """A cell as a graph.

        Returns
        -------
        Graph
            Nodes are bins: ``x`` degree (bins, 1), ``bin``. Edges are contacts in both directions, none of a bin
            with itself, with ``count``. Values: ``expression`` and ``expected_expression`` (genes,). Labels: cell,
            stage, split.
        """
        apart = cell.contacts[cell.contacts["bin1_id"] < cell.contacts["bin2_id"]]
        one, two = apart["bin1_id"].to_numpy(), apart["bin2_id"].to_numpy()
        count = np.tile(apart["count"].to_numpy(np.float32), 2)
        source, target, edges = sorted_edges(np.concatenate([one, two]), np.concatenate([two, one]), {"count": count})
        n = len(self.bins)
        degree = np.bincount(target, minlength=n).astype(np.float32)
        return Graph(
            cell.name, n, source, target,
            nodes={"x": degree[:, None], "bin": np.arange(n, dtype=np.int32)},
            edges=edges,
            values={"expression": cell.expression.astype(np.float32),
                    "expected_expression": cell.expected.astype(np.float32)},
            labels={"cell": cell.name, "stage": cell.stage, "split": cell.split},
        )  # fmt: skip


def _bins(design: CellDesign) -> pd.DataFrame:
    start = np.tile(np.arange(design.bins, dtype=np.int64) * design.bin_size, design.chromosomes)
    chrom = np.repeat([f"chr{i + 1}" for i in range(design.chromosomes)], design.bins)
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + design.bin_size})


def _genes(rng: np.random.Generator, design: CellDesign, bins: pd.DataFrame) -> pd.DataFrame:
    where = np.sort(rng.choice(len(bins), design.genes, replace=False))
    start = bins["start"].to_numpy()[where] + rng.integers(0, max(1, design.bin_size // 2), design.genes)
    driven = np.zeros(design.genes, dtype=bool)
    driven[rng.choice(design.genes, round(design.driven_share * design.genes), replace=False)] = True
    return pd.DataFrame(
        {
            "gene": [f"GENE{i + 1}" for i in range(design.genes)],
            "chrom": bins["chrom"].to_numpy()[where],
            "start": start,
            "end": start + max(1, design.bin_size // 100),
            "bin": where,
            "driven": driven,
            "base": design.rna_depth * np.exp(rng.normal(0.0, 0.5, design.genes)),
        }
    )


def _drivers(rng: np.random.Generator, design: CellDesign, genes: pd.DataFrame) -> pd.DataFrame:
    """Distinct bins of the gene's chromosome for each driven gene."""
    rows: list[tuple[str, str, int, int, float]] = []
    for gene in genes[genes["driven"]].itertuples():
        here = np.arange(design.bins) + gene.bin // design.bins * design.bins
        away = np.abs(here - gene.bin)
        drawn = rng.choice(here[(away >= NEAREST) & (away <= FARTHEST)], design.drivers_per_gene, replace=False)
        rows.extend((gene.gene, gene.chrom, gene.bin, int(b), design.effect) for b in np.sort(drawn))
    table = pd.DataFrame(rows, columns=["gene", "chrom", "gene_bin", "driver_bin", "effect"])
    return table.astype({"gene_bin": np.int64, "driver_bin": np.int64, "effect": np.float64})  # none may be driven


def _courses(rng: np.random.Generator, n_stages: int, n_loops: int) -> Floats:
    """Strength of each loop over the stages: a bump anywhere in time, so that loops rise, fall or pass; 0 to 1."""
    time = np.linspace(0.0, 1.0, n_stages)[:, None]
    peak, width = rng.uniform(-0.2, 1.2, n_loops), rng.uniform(0.2, 0.5, n_loops)
    return np.asarray(np.exp(-0.5 * ((time - peak) / width) ** 2))


def _stage_rates(
    rng: np.random.Generator, design: CellDesign, bins: pd.DataFrame, pairs: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> list[Floats]:
    """Contact rate of every pair of bins at each stage, without loops; shape (pairs,)."""
    one, two = pairs
    chrom = bins["chrom"].to_numpy()
    cis = chrom[one] == chrom[two]
    decay = np.where(cis, 1.0 / (two - one + 1.0), 0.0)
    if not cis.all():
        decay[~cis] = decay.sum() * design.trans_share / max(1.0 - design.trans_share, 1e-9) / (~cis).sum()
    blocks = np.arange(len(bins)) // COMPARTMENT_BLOCK
    sign = rng.choice([-1.0, 1.0], blocks[-1] + 1)
    rates = []
    for _ in design.stages:
        compartment = sign[blocks]
        rates.append(decay * np.exp(0.3 * compartment[one] * compartment[two]))
        sign = np.where(rng.random(sign.size) < 0.1, -sign, sign)  # some blocks change sides on the way
    return rates
