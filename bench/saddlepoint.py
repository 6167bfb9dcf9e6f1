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
* ``r_ladder_s_per_pair``: seconds a refit of R's glm in boot::boot (``bootstrap_vs_r.R``), times the 78,100 refits of
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

import monocytes  # beside this file; keeps BLAS to one thread, so it comes before numpy

# isort: split
import numpy as np

from enhancer_dask.stats import bootstrap
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.pairfits import PairFits, fit_pairs
from enhancer_dask.stats.products import LANES
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.saddlepoint import TRUSTED, saddle_pairs
from enhancer_dask.stats.tilted import tilted

CELLTYPE = monocytes.CELLTYPE
FULL_LADDER = sum(rung.n_resamples for rung in bootstrap.SCENT_LADDER)
FEWEST_BEYOND = 200


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


def resampled(cells: monocytes.Monocytes, rows: Any, fits: PairFits, engine: str, n_resamples: int) -> tuple[Any, int]:
    """Resamples beyond twice the fit, per pair, and refits over all cells; all pairs share the resamples."""
    n, which, beyond, n_exact = cells.rna.shape[1], np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64), 0
    gene, peak = cells.gene[rows], cells.peak[rows]
    batch = make_batch(cells.rna, cells.atac, gene, peak, cells.nuisance, fits.coefficients)
    refitter = bootstrap.ENGINES[engine](batch)
    block = bootstrap.BLOCK_DRAWS // n // LANES * LANES
    for start in range(0, n_resamples, block):
        drawn = resample_counts(n, start, min(start + block, n_resamples), seed=1, celltype=CELLTYPE, rung=0)
        coefficients, exact = refitter(drawn, which)
        beyond += np.count_nonzero(2.0 * fits.beta[:, None] - coefficients[:, :, 0] <= 0.0, axis=1)
        n_exact += int(exact.sum())
        if start // block % 100 == 0:
            print(f"{start} of {n_resamples} resamples", file=sys.stderr)
    return beyond, n_exact


def spread(ours: Any, theirs: Any, se: Any, prefix: str = "") -> dict[str, float]:
    log_ratio = np.abs(np.log(ours / theirs))
    return {
        f"{prefix}log_ratio_median": float(np.median(log_ratio)),
        f"{prefix}log_ratio_q95": float(np.quantile(log_ratio, 0.95)),
        f"{prefix}log_ratio_max": float(log_ratio.max()),
        f"{prefix}z_sd": float(np.sqrt(np.mean(((ours - theirs) / se) ** 2))),
    }


def r_seconds_per_refit(cells: monocytes.Monocytes, scratch: Path, n_refits: int, repeats: int) -> float:
    csv = monocytes.write_for_r(cells, cells.names.index(monocytes.PAIRS_FOR_R[0]), scratch / "pair.csv")
    runs = [monocytes.refit_r(csv, n_refits, seed) for seed in range(1, repeats + 1)]
    return statistics.median(run.seconds / run.refits for run in runs)


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    cells = monocytes.read_monocytes(args.shared)
    rows = np.arange(0, len(cells.gene), 12 if args.quick else 1)
    gene, peak = cells.gene[rows], cells.peak[rows]
    data = (cells.rna, cells.atac, gene, peak, cells.nuisance)
    fits = fit_pairs(*data)
    table = saddle_pairs(*data, fits)
    fit_ms, saddle_ms = timings(data, 3 if args.quick else 9, 20)
    result = {
        "bench": "saddlepoint", "cells": data[0].shape[1], "pairs": len(gene), "quick": args.quick,
        "ms_per_pair": saddle_ms, "fit_ms_per_pair": fit_ms, "trusted": int((table.trust == TRUSTED).sum()),
    }  # fmt: skip
    n = args.resamples
    began = time.process_time()
    beyond, n_exact = resampled(cells, rows, fits, args.engine, n)
    refits_per_s = len(rows) * n / (time.process_time() - began)
    rarer = np.minimum(beyond, n - beyond)
    seen = rarer >= FEWEST_BEYOND
    p = 2.0 * rarer / n
    result |= {"engine": args.engine, "resamples": n, "compared": int(seen.sum())}
    result |= {"refits_per_s": round(refits_per_s), "exact": n_exact}
    result |= spread(table.p[seen], p[seen], np.sqrt(p * (2.0 - p) / n)[seen])
    runs = [
        tilted(data[0][g], data[1][q][:, None], data[4], n_resamples=args.tilted, name=(CELLTYPE, str(g), str(q)))
        for g, q in zip(gene, peak, strict=True)
    ]
    p_tilted, se_tilted = np.array(runs).T
    result |= {"tilted": args.tilted, "p_min": float(table.p.min())} | spread(table.p, p_tilted, se_tilted, "tilted_")
    per_refit = r_seconds_per_refit(cells, scratch, 60 if args.quick else 600, 2 if args.quick else 3)
    result["r_ladder_s_per_pair"] = per_refit * FULL_LADDER
    result["speedup"] = result["r_ladder_s_per_pair"] / ((fit_ms + saddle_ms) / 1e3)
    return result


def main() -> None:
    parser = monocytes.parser_of(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="moments", choices=sorted(bootstrap.ENGINES))
    parser.add_argument("--resamples", type=int, help="plain ones a pair (default 1,000,000; quick 10,000)")
    parser.add_argument("--tilted", type=int, help="tilted ones a pair (default 5,000; quick 1,000)")
    args = parser.parse_args()
    args.resamples = args.resamples or (10_000 if args.quick else 1_000_000)
    args.tilted = args.tilted or (1_000 if args.quick else 5_000)
    monocytes.r_versions()  # ends here if there is no R
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(run(args, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
