"""A simulated multiome with known enhancer-gene links.

The geometry follows the published CD14+ monocyte run (about 30 candidate peaks a gene at +-500 kb, 84% of links
positive). Sequencing depth varies log-normally and is correlated between RNA and ATAC; a peak is open in a cell
with a chance that rises with the cell's ATAC depth; counts are negative binomial around a rate proportional to
RNA depth, so zeros are as frequent as in real data.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

WINDOW = 500_000


@dataclass(frozen=True)
class SimulatedMultiome:
    """Counts, features, cells and the truth behind them."""

    rna: NDArray[np.int64]
    """Counts, shape (genes, cells)."""
    atac: NDArray[np.int64]
    """Counts, shape (peaks, cells)."""
    genes: pd.DataFrame
    """id, name, chrom, start (0-based), end, strand."""
    peaks: pd.DataFrame
    """name, chrom, start (0-based), end."""
    cells: pd.DataFrame
    """barcode, celltype, donor."""
    truth: pd.DataFrame
    """celltype, gene, peak, beta (log fold change when the peak is open); one row per true link."""


def simulate_multiome(
    *,
    n_cells: dict[str, int] | None = None,
    n_genes: int = 50,
    n_background_genes: int = 150,
    peak_spacing: int = 35_000,
    gene_spacing: int = 80_000,
    links_per_gene: float = 1.0,
    effect_mean: float = 0.9,
    effect_sd: float = 0.25,
    positive_share: float = 0.84,
    median_umi: float = 4_000.0,
    dispersion: float = 0.2,
    seed: int = 0,
) -> SimulatedMultiome:
    """Simulate cells of a few types with enhancer-gene links.

    Parameters
    ----------
    n_cells : dict, optional
        Cells per cell type; by default 500 monocytes, 400 T cells and 300 B cells.
    n_genes : int
        Genes with peaks around them, on chr1 and chr2.
    n_background_genes : int
        Further genes on chr3, without peaks near, which carry most of the RNA counts.
    peak_spacing, gene_spacing : int
        Mean distance between neighbours, bp.
    links_per_gene : float
        Mean of the Poisson number of true enhancers a gene has.
    effect_mean, effect_sd, positive_share : float
        Size of the log fold changes, and the share of positive ones.
    median_umi : float
        Median RNA depth of a cell.
    dispersion : float
        Negative-binomial variance is mu + dispersion * mu^2.
    seed : int

    Returns
    -------
    SimulatedMultiome
    """
    rng = np.random.default_rng(seed)
    n_cells = n_cells or {"CD14 Mono": 500, "CD4 T": 400, "B": 300}
    genes, peaks = _genome(rng, n_genes, n_background_genes, gene_spacing, peak_spacing)
    types = list(n_cells)
    type_of_cell = np.repeat(np.arange(len(types)), list(n_cells.values()))
    total = len(type_of_cell)

    rna_depth, atac_depth = _depths(rng, total)
    opening = rng.beta(0.9, 3.5, size=len(peaks))[:, None] * np.exp(rng.normal(0, 0.5, size=(len(peaks), len(types))))
    rate = -np.log1p(-np.clip(opening, 0.002, 0.9))[:, type_of_cell] * atac_depth
    atac = rng.poisson(rate)

    truth = _links(
        rng, genes.iloc[:n_genes], peaks, opening, types, links_per_gene, effect_mean, effect_sd, positive_share
    )
    level = np.log(_expression_shares(rng, n_genes, n_background_genes))[:, None] + rng.normal(
        0, 0.4, (len(genes), len(types))
    )
    log_rate = level[:, type_of_cell] + np.log(median_umi * rna_depth)
    position = {"gene": pd.Index(genes["name"]), "peak": pd.Index(peaks["name"])}
    for link in truth.itertuples():
        mine = type_of_cell == types.index(str(link.celltype))
        row = position["gene"].get_loc(link.gene)
        log_rate[row, mine] += link.beta * (atac[position["peak"].get_loc(link.peak), mine] > 0)
    rna = rng.poisson(np.exp(log_rate) * rng.gamma(1 / dispersion, dispersion, size=log_rate.shape))

    barcodes = _barcodes(rng, total)
    cells = pd.DataFrame({"barcode": barcodes, "celltype": np.array(types)[type_of_cell]})
    cells["donor"] = rng.choice(["donor1", "donor2", "donor3"], size=total)
    shuffled = rng.permutation(total)  # files hold cells by barcode, not by type
    cells = cells.iloc[shuffled].reset_index(drop=True)
    return SimulatedMultiome(rna[:, shuffled], atac[:, shuffled], genes, peaks, cells, truth)


def _genome(
    rng: np.random.Generator, n_genes: int, n_background: int, gene_spacing: int, peak_spacing: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    per_chrom = np.array_split(np.arange(n_genes), 2)
    genes, peaks = [], []
    for chrom, members in zip(("chr1", "chr2"), per_chrom, strict=True):
        start = WINDOW + np.cumsum(rng.exponential(gene_spacing, size=len(members))).astype(int)
        length = np.clip(rng.lognormal(9.5, 1.0, size=len(members)), 500, 200_000).astype(int)
        genes.append(pd.DataFrame({"chrom": chrom, "start": start, "end": start + length}))
        span = int((start + length).max()) + WINDOW if len(members) else WINDOW
        where = np.cumsum(1_500 + rng.exponential(peak_spacing - 1_500, size=2 * span // peak_spacing)).astype(int)
        where = where[where < span]
        peaks.append(
            pd.DataFrame({"chrom": chrom, "start": where, "end": where + rng.integers(300, 1_200, len(where))})
        )
    mito = 13
    far = np.arange(n_background - mito) * 20_000 + 10_000
    genes.append(pd.DataFrame({"chrom": "chr3", "start": far, "end": far + 5_000}))
    genes.append(
        pd.DataFrame({"chrom": "chrM", "start": np.arange(mito) * 1_000, "end": np.arange(mito) * 1_000 + 900})
    )
    gene_table = pd.concat(genes, ignore_index=True)
    gene_table["strand"] = rng.choice(["+", "-"], size=len(gene_table))
    names = [f"GENE{i + 1}" for i in range(n_genes)] + [f"BACK{i + 1}" for i in range(n_background - mito)]
    gene_table["name"] = names + [f"MT-G{i + 1}" for i in range(mito)]
    gene_table["id"] = [f"SIMG{i + 1:08d}" for i in range(len(gene_table))]
    peak_table = pd.concat(peaks, ignore_index=True)
    peak_table["name"] = [f"{p.chrom}:{p.start}-{p.end}" for p in peak_table.itertuples()]
    return gene_table[["id", "name", "chrom", "start", "end", "strand"]], peak_table[["name", "chrom", "start", "end"]]


def _depths(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative depth of RNA and ATAC per cell, log-normal with correlation 0.5."""
    shared, rna, atac = rng.normal(size=(3, n))
    return np.exp(0.4 * (shared + rna) / np.sqrt(2)), np.exp(0.5 * (shared + atac) / np.sqrt(2))


def _expression_shares(rng: np.random.Generator, n_genes: int, n_background: int) -> NDArray[np.float64]:
    """Share of a cell's RNA per gene: genes of interest 0.1 to a few counts a cell, the rest in the background."""
    interest = np.clip(rng.lognormal(np.log(2e-4), 0.9, size=n_genes), 4e-5, 3e-3)
    background = rng.lognormal(0, 1.2, size=n_background)
    return np.concatenate([interest, background / background.sum() * (1 - interest.sum())])


def _links(
    rng: np.random.Generator,
    genes: pd.DataFrame,
    peaks: pd.DataFrame,
    opening: NDArray[np.float64],
    types: list[str],
    links_per_gene: float,
    effect_mean: float,
    effect_sd: float,
    positive_share: float,
) -> pd.DataFrame:
    """Choose enhancers near each gene, nearer ones more often; each acts in every type with chance 0.7."""
    rows: list[tuple[str, str, str, float]] = []
    centre = (peaks["start"] + peaks["end"]).to_numpy() // 2
    usable = opening.min(axis=1) > 0.06
    for gene in genes.itertuples():
        site = gene.start if gene.strand == "+" else gene.end
        distance = np.abs(centre - site)
        weight = np.exp(-distance / 100_000) * ((peaks["chrom"] == gene.chrom) & (distance < WINDOW)) * usable
        wanted = min(rng.poisson(links_per_gene), int((weight > 0).sum()))
        if not wanted:
            continue
        for peak in rng.choice(len(peaks), size=wanted, replace=False, p=weight / weight.sum()):
            sign = 1.0 if rng.random() < positive_share else -1.0
            beta = sign * max(0.2, rng.normal(effect_mean, effect_sd))
            acts = rng.random(len(types)) < 0.7
            rows.extend((t, gene.name, peaks["name"].iloc[peak], beta) for t, on in zip(types, acts, strict=True) if on)
    return pd.DataFrame(rows, columns=["celltype", "gene", "peak", "beta"])


def _barcodes(rng: np.random.Generator, n: int) -> list[str]:
    made: dict[str, None] = {}
    while len(made) < n:
        made["".join(rng.choice(list("ACGT"), size=16)) + "-1"] = None
    return list(made)


def write_simulation(sim: SimulatedMultiome, folder: str | Path) -> dict[str, Path]:
    """Write what a user would have: a 10x multiome .h5, a cell table, a GTF; and the truth.

    The gene intervals in the .h5 are those of the TSS, as Cell Ranger ARC writes them; bodies are in the GTF.

    Returns
    -------
    dict
        Paths by the names multiome, cells, gtf, truth.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "multiome": folder / "multiome.h5",
        "cells": folder / "cells.tsv",
        "gtf": folder / "genes.gtf.gz",
        "truth": folder / "truth.tsv",
    }
    write_10x(paths["multiome"], sim)
    sim.cells.to_csv(paths["cells"], sep="\t", index=False)
    sim.truth.to_csv(paths["truth"], sep="\t", index=False)
    with gzip.GzipFile(paths["gtf"], "wb", mtime=0) as file:
        for g in sim.genes.itertuples():
            fields = (g.chrom, "simulated", "gene", g.start + 1, g.end, ".", g.strand, ".")
            line = "\t".join(map(str, fields)) + f'\tgene_id "{g.id}.1"; gene_name "{g.name}";\n'
            file.write(line.encode())
    return paths


def write_10x(path: Path, sim: SimulatedMultiome) -> None:
    """Write counts as Cell Ranger ARC does: one matrix, genes then peaks, cell after cell."""
    counts = sparse.csr_array(np.vstack([sim.rna, sim.atac]).T.astype(np.int32))
    site = np.where(sim.genes["strand"] == "+", sim.genes["start"], sim.genes["end"] - 1)
    features = {
        "id": [*sim.genes["id"], *sim.peaks["name"]],
        "name": [*sim.genes["name"], *sim.peaks["name"]],
        "feature_type": ["Gene Expression"] * len(sim.genes) + ["Peaks"] * len(sim.peaks),
        "genome": ["simulated"] * (len(sim.genes) + len(sim.peaks)),
        "interval": [f"{c}:{s}-{s + 1}" for c, s in zip(sim.genes["chrom"], site, strict=True)] + [*sim.peaks["name"]],
    }
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(sim.cells["barcode"], dtype="S")
        for name in ("data", "indices", "indptr"):
            matrix.create_dataset(name, data=getattr(counts, name), compression="gzip")
        matrix["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        for name, values in features.items():
            matrix[f"features/{name}"] = np.array(values, dtype="S")
