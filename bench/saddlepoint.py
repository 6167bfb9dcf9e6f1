"""The saddlepoint p-value on real cells: time a pair, and agreement with resampling and with R's cost.

    python bench/saddlepoint.py [--quick] [--shared DIR] [--engine NAME] [--resamples N] [--tilted N]

All pairs of CD14+ monocytes that pass SCENT's 5% rule (110; ``oracles/poisson_glm``), covariates log(nUMI) and
percent.mito. One core. In one run:

* ``ms_per_pair``: CPU time of ``saddle_pairs``, ``fit_ms_per_pair`` that of the full-sample fits before it; medians
  over repeats, compilation apart;
* ``log_ratio_q95``, ``log_ratio_max``: |log(p_saddle / p)| against N plain resamples, refitted by the engine, of the
  pairs with at least 200 resamples on the rarer side; ``z_sd`` is the spread of the differences in units of their
  Monte-Carlo error, 1 if that is all there is;
* ``tilted_log_ratio_q95``, ``tilted_log_ratio_max``, ``tilted_z_sd``: the same against tilted resampling, all pairs;
* ``r_ladder_s_per_pair``: seconds a refit of R's glm in boot::boot (``scent_plain.R``), times the 78,100 refits of
  SCENT's full ladder; ``speedup`` is that over fit and saddlepoint together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import scent_plain  # beside this file; keeps BLAS to one thread, so it comes before numpy

# isort: split
import numpy as np
import pandas as pd

from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.covariates import read_covariates
from enhancer_dask.stats import bootstrap
from enhancer_dask.stats.pairfits import fit_pairs
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.saddlepoint import TRUSTED, saddle_pairs
from enhancer_dask.stats.tilted import tilted
from enhancer_dask.stores import MultiomeStore

CELLTYPE = scent_plain.CELLTYPE
FULL_LADDER = sum(rung.n_resamples for rung in bootstrap.SCENT_LADDER)
FEWEST_BEYOND = 200


def read(shared: Path, scratch: Path) -> tuple[Any, ...]:
    """rna, atac (0/1), gene, peak, covariates of the tested pairs, by gene."""
    table = pd.read_csv(shared / "oracles" / "poisson_glm.csv.gz")
    table = table[table["celltype"] == CELLTYPE].sort_values(["gene", "peak"])
    store_path = scratch / "pbmc.zarr"
    ingest(shared / "data" / "pbmc_multiome_tiles.h5mu", store_path)
    store = MultiomeStore(store_path)
    (genes, gene), (peaks, peak) = (np.unique(table[dim], return_inverse=True) for dim in ("gene", "peak"))
    rows = [pd.Index(store.column(dim)).get_indexer(names) for dim, names in (("gene", genes), ("peak", peaks))]
    rna = np.vstack([store.counts("rna", rows[0][i : i + 1], CELLTYPE) for i in range(len(genes))])
    atac = np.vstack([store.counts("atac", rows[1][i : i + 1], CELLTYPE) for i in range(len(peaks))])
    covariates = read_covariates(store, CELLTYPE, "log(nUMI),percent.mito").values
    return rna, (atac > 0).astype(np.uint8), gene, peak, covariates


def timings(data: tuple[Any, ...], repeats: int, copies: int) -> tuple[float, float]:
    """Milliseconds a pair of fits and of saddlepoints; the pairs are repeated as in a chunk of a run."""
    rna, atac, gene, peak, nuisance = data
    many = rna, atac, np.repeat(gene, copies), np.repeat(peak, copies), nuisance
    fit_s, saddle_s = [], []
    for _ in range(repeats):
        began = time.process_time()
        fits = fit_pairs(*many)
        fit_s.append(time.process_time() - began)
        began = time.process_time()
        saddle_pairs(*many, fits)
        saddle_s.append(time.process_time() - began)
    scale = 1e3 / (copies * len(gene))
    return scale * statistics.median(fit_s), scale * statistics.median(saddle_s)


def resampled(data: tuple[Any, ...], covariates: Any, beta: Any, engine: str, n_resamples: int) -> Any:
    """Resamples beyond twice the fit, per pair; all pairs share the resamples."""
    rna, atac, gene, peak, _ = data
    n, beyond = rna.shape[1], np.zeros(len(gene), dtype=np.int64)
    block = bootstrap.BLOCK_DRAWS // n
    for start in range(0, n_resamples, block):
        drawn = resample_counts(n, start, min(start + block, n_resamples), seed=1, celltype=CELLTYPE, rung=0)
        for i in range(len(gene)):
            boot = bootstrap.refit(rna[gene[i]], atac[peak[i]][:, None], covariates, drawn, engine=engine)[:, 0]
            beyond[i] += np.count_nonzero(2.0 * beta[i] - boot <= 0.0)
        print(f"{min(start + block, n_resamples)} of {n_resamples} resamples", file=sys.stderr)
    return beyond


def spread(ours: Any, theirs: Any, se: Any, prefix: str = "") -> dict[str, float]:
    log_ratio = np.abs(np.log(ours / theirs))
    return {
        f"{prefix}log_ratio_median": float(np.median(log_ratio)),
        f"{prefix}log_ratio_q95": float(np.quantile(log_ratio, 0.95)),
        f"{prefix}log_ratio_max": float(log_ratio.max()),
        f"{prefix}z_sd": float(np.sqrt(np.mean(((ours - theirs) / se) ** 2))),
    }


def r_seconds_per_refit(data: tuple[Any, ...], shared: Path, scratch: Path, n_refits: int, repeats: int) -> float:
    pairs = scent_plain.read_pairs(shared, 1, scratch)
    runs = [scent_plain.refit_r(pairs[0], n_refits, seed) for seed in range(1, repeats + 1)]
    return statistics.median(run.seconds / run.refits for run in runs)


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    *arrays, covariates = read(args.shared, scratch / "ours")
    data = (*arrays, make_nuisance(covariates))
    gene, peak = data[2], data[3]
    if args.quick:
        gene, peak = gene[::12], peak[::12]
        data = (data[0], data[1], gene, peak, data[4])
    fits = fit_pairs(*data)
    table = saddle_pairs(*data, fits)
    fit_ms, saddle_ms = timings(data, 3 if args.quick else 9, 20)
    result = {
        "bench": "saddlepoint", "cells": data[0].shape[1], "pairs": len(gene), "quick": args.quick,
        "ms_per_pair": saddle_ms, "fit_ms_per_pair": fit_ms, "trusted": int((table.trust == TRUSTED).sum()),
    }  # fmt: skip
    n = args.resamples
    beyond = resampled(data, covariates, fits.beta, args.engine, n)
    rarer = np.minimum(beyond, n - beyond)
    seen = rarer >= FEWEST_BEYOND
    p = 2.0 * rarer / n
    result |= {"engine": args.engine, "resamples": n, "compared": int(seen.sum())}
    result |= spread(table.p[seen], p[seen], np.sqrt(p * (2.0 - p) / n)[seen])
    runs = [
        tilted(data[0][g], data[1][q][:, None], data[4], n_resamples=args.tilted, name=(CELLTYPE, str(g), str(q)))
        for g, q in zip(gene, peak, strict=True)
    ]
    p_tilted, se_tilted = np.array(runs).T
    result |= {"tilted": args.tilted, "p_min": float(table.p.min())} | spread(table.p, p_tilted, se_tilted, "tilted_")
    per_refit = r_seconds_per_refit(data, args.shared, scratch / "r", 60 if args.quick else 600, 2 if args.quick else 3)
    result["r_ladder_s_per_pair"] = per_refit * FULL_LADDER
    result["speedup"] = result["r_ladder_s_per_pair"] / ((fit_ms + saddle_ms) / 1e3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=beside, metavar="DIR", help="folder with data/ and oracles/")
    parser.add_argument("--quick", action="store_true", help="ten pairs and few resamples")
    parser.add_argument("--engine", default="exact", choices=sorted(bootstrap.ENGINES))
    parser.add_argument("--resamples", type=int, help="plain ones a pair (default 1,000,000; quick 10,000)")
    parser.add_argument("--tilted", type=int, help="tilted ones a pair (default 5,000; quick 1,000)")
    args = parser.parse_args()
    args.resamples = args.resamples or (10_000 if args.quick else 1_000_000)
    args.tilted = args.tilted or (1_000 if args.quick else 5_000)
    scent_plain.r_versions()  # ends here if there is no R
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "ours").mkdir()
        (Path(scratch) / "r").mkdir()
        print(json.dumps(run(args, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
