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
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from published import CELLTYPE, peak_rss, simulate, warm_up  # beside this file; comes before numpy

# isort: split
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster

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

LEVELS = (0.1, 0.05, 0.01, 0.001)


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
            out["compile_s"] = round(warm_up(client, partial(scent, store, pairs.iloc[:40], progress=False)), 1)
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
