"""A published cell type at its full size: every candidate pair, p_saddle alone and the full ladder, on two workers.

    python bench/genome_scale.py [--pairs N] [--skip-ladder] [--shared DIR]

Geometry, effect sizes and precision are those of ``published/nyu_cd14_mono`` (244,727 candidates, 8,767 genes, 33,887
peaks, 2,597 cells): counts are negative binomial (theta = 2) around rates whose size, and peaks open with chances
which, reproduce the published standard errors; a pair's true effect is its published beta, shrunk to zero where the
published p-value says it is noise. ``p_mix`` puts the shares of p-values below 0.1, 0.05, 0.01 and 0.001 beside the
published ones: they decide how far up the ladder a pair climbs. Depth and percent.mito are those of real monocytes.

Wall times hold reading, computing, writing, merging and FDR, on a LocalCluster with 2 workers of 1 thread. Kernels are
compiled before (``compile_s``, once for an installation). ``shares`` says where the CPU time of (b) goes, from timing
the pieces of one chunk in this process. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy, for workers too

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

from enhancer_dask.io.ingest import ingest
from enhancer_dask.links import pair_tests, work
from enhancer_dask.links.pair_tests import Options
from enhancer_dask.links.scent import scent
from enhancer_dask.links.work import make_request
from enhancer_dask.stats import moments, products
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.pairfits import fit_pairs
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stores import MultiomeStore

Floats = NDArray[np.float64]

CELLTYPE = "CD14+ Monocytes"
THETA = 2.0
LEVELS = (0.1, 0.05, 0.01, 0.001)
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


def warm_up(client: Client, store: Path, pairs: pd.DataFrame) -> float:
    """Compile, or load what an earlier process compiled, in both workers."""

    def compile_all(path: str, few: pd.DataFrame) -> None:
        from enhancer_dask.links.scent import scent as local

        local(path, few, progress=False)

    begin = time.perf_counter()
    for worker in client.scheduler_info()["workers"]:  # one after the other: the second finds the cache
        client.submit(compile_all, str(store), pairs, workers=[worker], pure=False).result()
    return time.perf_counter() - begin


def peak_rss(client: Client) -> tuple[float, float]:
    """Largest memory of the driver (with the scheduler) and of a worker so far, GiB."""

    def here() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB

    return here(), max(client.run(here).values())


def mix(p: pd.Series) -> list[float]:
    """Shares of p-values below each level."""
    return [round(float((p < level).mean()), 4) for level in LEVELS]


def shares(store: Path, pairs: pd.DataFrame, n_pairs: int = 4_096) -> dict[str, float]:
    """Where the time of the ladder goes: the stages of one chunk, timed in this process.

    ``product`` is the share of the tile kernel that a stand-in without Newton takes: the products over the open cells
    of the chunk's tested pairs, called one by one on one tile.
    """
    data, seconds = MultiomeStore(store), dict.fromkeys(("reading", "drawing", "refits", "writing"), 0.0)

    def timed(name: str, module: Any, function: str) -> None:
        original = getattr(module, function)

        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = original(*args, **kwargs)
            seconds[name] += time.perf_counter() - begin
            return result

        setattr(module, function, call)

    request = make_request(
        data, pairs, [CELLTYPE], covariates=("log(nUMI)", "percent.mito"), offset=None, options=Options(p="ladder")
    )
    block = work.Block.of(request, CELLTYPE, slice(0, n_pairs))
    work.scent_chunk(work.Block.of(request, CELLTYPE, slice(0, 20)))  # compiled by now
    timed("reading", work, "_load")
    timed("drawing", pair_tests, "resample_counts")
    timed("drawing", moments, "fill_tile")
    timed("refits", moments, "_refit_tile")
    begin = time.perf_counter()
    table = work.scent_chunk(block)
    total = time.perf_counter() - begin
    begin = time.perf_counter()
    table.to_parquet(store.parent / "shares.parquet")
    seconds["writing"] = time.perf_counter() - begin
    total += seconds["writing"]
    part = products_alone(data, request, n_pairs)
    seconds["product"] = seconds["refits"] * part
    seconds["newton"] = seconds.pop("refits") - seconds["product"]
    seconds["other"] = total - sum(seconds.values())
    return {name: round(value / total, 3) for name, value in seconds.items()}


def products_alone(data: MultiomeStore, request: work.Request, n_pairs: int) -> float:
    """Share of the products over open cells in the time of the tile kernel."""
    loaded = work._load(data, work.Block.of(request, CELLTYPE, slice(0, n_pairs)))
    nuisance = make_nuisance(loaded.covariates)
    counts, peaks = loaded.rna.astype(float), (loaded.atac > 0).astype(np.uint8)
    fits = fit_pairs(counts, peaks, loaded.gene, loaded.peak, nuisance)
    rows = np.flatnonzero(np.isfinite(fits.coefficients).all(axis=1))
    batch = make_batch(counts, peaks, loaded.gene[rows], loaded.peak[rows], nuisance, fits.coefficients[rows])
    draws = resample_counts(counts.shape[1], 0, products.LANES, seed=0, celltype="x", rung=0)
    refitter, which = moments.moments_engine(batch), np.arange(len(rows))
    refitter(draws, which)
    begin = time.perf_counter()
    refitter(draws, which)
    whole = time.perf_counter() - begin
    plan, n = moments.prepare(batch), counts.shape[1]
    terms, tile = plan.monomials, np.empty((n, products.LANES), dtype=np.float32)
    products.fill_tile(draws, 0, tile)
    scratch, features = np.empty((96, n + 4)), np.zeros((96, n + 4), dtype=np.float32)
    out, groups = np.empty((96, products.LANES)), plan.groups
    begin = time.perf_counter()
    for test in which[plan.degree >= 0]:
        first = groups.first[groups.of_test[test]]
        cells = groups.cells[groups.bounds[first + 1] : groups.bounds[first + 2]]
        n_terms = terms.n_terms[plan.degree[test]]
        mean = plan.centres.mean[batch.gene[test]]
        products.features_of(mean, plan.z, cells, n_terms, terms.parent, terms.axis, scratch, features)
        products.product(features, n_terms + 1, cells, tile.reshape(-1), out)
    return (time.perf_counter() - begin) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="only so many pairs, of whole genes")
    parser.add_argument("--skip-ladder", action="store_true")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--keep", type=Path, help="folder that keeps store and tables")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genome-scale-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        store, pairs_file = folder / "multiome.zarr", folder / "pairs.parquet"
        published = pd.read_parquet(args.shared / "published" / "nyu_cd14_mono" / "scent_results.parquet")
        if not store.exists():
            data, pairs, _ = simulate(args.shared, np.random.default_rng(0))
            ingest(data, store)
            pairs.to_parquet(pairs_file)
            del data
        pairs = pd.read_parquet(pairs_file)
        if args.pairs:
            sizes_so_far = pairs.groupby("gene", sort=False).size().cumsum()
            pairs = pairs[pairs["gene"].isin(sizes_so_far.index[: np.searchsorted(sizes_so_far, args.pairs) + 1])]
        out: dict[str, Any] = {"bench": "genome_scale", "pairs": len(pairs), "cells": 2597}
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            out["compile_s"] = round(warm_up(client, store, pairs.iloc[:40]), 1)
            begin = time.perf_counter()
            links = scent(store, pairs, p="saddle", client=client, progress=False)
            out["saddle_wall_s"] = round(time.perf_counter() - begin, 1)
            out["tested"] = int((links["status"] == "tested").sum())
            out["untrusted"] = int((~links["saddle_status"].isin(["trusted", ""])).sum())
            out["p_mix"] = {"ours": mix(links["p_saddle"].dropna()), "published": mix(published["boot_basic_p"])}
            if not args.skip_ladder:
                begin = time.perf_counter()
                links = scent(store, pairs, p="ladder", client=client, progress=False)
                out["wall_s"] = round(time.perf_counter() - begin, 1)
                out["refits"], out["exact"] = int(links["n_refits"].sum()), int(links["n_exact"].sum())
                out["refits_per_s"] = round(out["refits"] / out["wall_s"])
            out["driver_rss_gib"], out["worker_rss_gib"] = (round(value, 2) for value in peak_rss(client))
        if not args.skip_ladder:
            out["shares"] = shares(store, pairs)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
