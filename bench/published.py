"""What the benchmarks at full size share: a simulation of the published cell type, and memory of a cluster.

Not a benchmark itself. Import it before numpy: it keeps BLAS to one thread, in workers too.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from distributed import Client
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

Floats = NDArray[np.float64]

CELLTYPE = "CD14+ Monocytes"
THETA = 2.0
GIB = 2**30


def covariates(shared: Path) -> pd.DataFrame:
    """Depth and mitochondrial share of the real monocytes."""
    obs = mudata.read_h5mu(shared / "data" / "pbmc_multiome_tiles.h5mu").obs
    return obs.loc[obs["celltype"] == CELLTYPE, ["nUMI", "percent.mito"]].reset_index(drop=True)


def sizes(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Total count per gene and open share per peak from standard errors: 1 / se^2 is about N f (1 - f)."""
    precision = -2.0 * np.log(table["se"])
    of_peak = pd.Series(0.0, index=table["peak"].unique())
    for _ in range(20):
        of_gene = (precision - table["peak"].map(of_peak)).groupby(table["gene"]).mean()
        of_peak = (precision - table["gene"].map(of_gene)).groupby(table["peak"]).mean()
    shift = np.log(0.0475) - of_peak.quantile(0.01)  # almost all tested peaks are open in more than 5% of cells
    product = np.exp(np.clip(of_peak + shift, np.log(0.0475), np.log(0.24)))
    return np.exp(of_gene - shift), 0.5 - np.sqrt(0.25 - product)


def true_effects(table: pd.DataFrame) -> Floats:
    """Published beta times how much of it is likely to be signal (Stein's rule on the bootstrap's z)."""
    z = -ndtri(table["boot_basic_p"].clip(upper=0.999) / 2.0)
    at_floor = table["boot_basic_p"] <= 0.0008
    z = np.where(at_floor, np.maximum(z, np.abs(table["z"]) / 1.4), z)
    return np.asarray(table["beta"] * np.clip(1.0 - 3.0 / np.maximum(z, 1e-6) ** 2, 0.0, None))


def simulate(shared: Path, rng: np.random.Generator) -> tuple[mudata.MuData, pd.DataFrame, pd.DataFrame]:
    """Multiome, candidate pairs and the published table."""
    folder = shared / "published" / "nyu_cd14_mono"
    pairs, table = (
        pd.read_parquet(folder / "candidate_pairs.parquet"),
        pd.read_parquet(folder / "scent_results.parquet"),
    )
    pairs = pairs[["gene", "peak"]].drop_duplicates(ignore_index=True)
    cells = covariates(shared)
    depth, mito = np.log(cells["nUMI"].to_numpy(float)), cells["percent.mito"].to_numpy(float)
    n = len(cells)
    counts, shares = sizes(table)
    peaks, genes = pd.Index(pairs["peak"].unique()), pd.Index(pairs["gene"].unique())
    chance = shares.reindex(peaks).fillna(0.03).to_numpy()
    opened = rng.random((len(peaks), n), dtype=np.float32) < chance[:, None]
    total = counts.reindex(genes).fillna(80.0).to_numpy()
    effects = table.assign(effect=true_effects(table), row=peaks.get_indexer(table["peak"]))
    effects = dict(iter(effects[effects["effect"] != 0.0].groupby("gene")))
    rna = np.empty((len(genes), n), dtype=np.uint16)
    for g, gene in enumerate(genes):
        eta = rng.normal(0.9, 0.2) * depth + rng.normal(0.0, 2.0) * mito
        if gene in effects:
            eta = eta + effects[gene]["effect"].to_numpy() @ opened[effects[gene]["row"]]
        mean = np.exp(eta - eta.max())
        rna[g] = np.minimum(rng.poisson(mean * (total[g] / mean.sum()) * rng.gamma(THETA, 1 / THETA, n)), 60_000)
    obs = pd.DataFrame({"celltype": CELLTYPE, "nUMI": cells["nUMI"].to_numpy(), "percent.mito": mito})
    obs.index = [f"cell{i}" for i in range(n)]
    where = pd.DataFrame([name.split("-") for name in peaks], columns=["chrom", "start", "end"], index=peaks)
    where = where.astype({"start": int, "end": int})
    where["start"] -= 1
    bodies = pd.read_csv(folder / "gencode_v44_genes.bed.gz", sep="\t", names=["chrom", "start", "end", "name"])
    bodies = bodies.drop_duplicates("name").set_index("name").loc[genes]
    parts = {
        "rna": AnnData(sparse.csr_matrix(rna.T), obs=obs, var=bodies),
        "atac": AnnData(sparse.csr_matrix(opened.T.astype(np.uint8)), obs=obs, var=where),
    }
    data = mudata.MuData(parts)
    data.obs = obs
    return data, pairs, table


def warm_up(client: Client, call: Callable[[], object]) -> float:
    """Compile, or load what an earlier process compiled, in all workers; seconds."""
    begin = time.perf_counter()
    for worker in client.scheduler_info()["workers"]:  # one after the other: the second finds the cache
        client.submit(call, workers=[worker], pure=False).result()
    return time.perf_counter() - begin


def peak_rss(client: Client) -> tuple[float, float]:
    """Largest memory of the driver (with the scheduler) and of a worker so far, GiB."""

    def here() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB

    return here(), max(client.run(here).values())
