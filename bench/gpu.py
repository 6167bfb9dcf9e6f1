"""Moments and saddlepoint on torch tensors against the compiled engines on one core, on the same data.

    python bench/gpu.py [--quick] [--device cuda|cpu] [--memory GIB] [--cells N] [--genes N] [--peaks N] [--resamples N]

Simulated genes with every peak each, two covariates, counts around one a cell, peaks open in a tenth of the cells. Wall
times after a warm-up with the same shapes, medians over repeats in turns; they hold all of a call, data in and numbers
out. Both begin with the same fits on the CPU, which are left out of the saddlepoint's time; what a batch settles once
(``prepare_s``) is left out of the refits'. The compiled engine's refits run on a part of the tests (``--cpu-tests``).

``max_abs_dbeta`` is the largest difference of a coefficient over the tests that both refitted, ``max_log_ratio`` that
of log p over all pairs with a p in both. Without a GPU ``--device cuda`` ends with a word on it and exit code 3;
``--device cpu`` runs the same code on torch's CPU kernels, one thread, which says nothing on a GPU's speed.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy and torch

import numpy as np

from enhancer_dask.stats.exact import Batch, make_batch
from enhancer_dask.stats.moments import moments_engine
from enhancer_dask.stats.pairfits import fit_pairs
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.saddlepoint import saddle_pairs
from enhancer_dask.stats.tensors import find_device, import_torch
from enhancer_dask.stats.torch_moments import moments_engine_torch
from enhancer_dask.stats.torch_saddle import saddle_pairs_torch

NO_GPU = 3


def simulate(n_cells: int, n_genes: int, n_peaks: int, seed: int) -> tuple[Any, ...]:
    """rna, atac, gene, peak, nuisance: every gene with every peak; each gene depends on one of them."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n_cells, 2))
    atac = (rng.random((n_peaks, n_cells)) < 0.1).astype(np.uint8)
    rate, effect = rng.uniform(-1, 1, n_genes), rng.normal(0.2, 0.3, n_genes)
    slope = np.column_stack([rng.uniform(0.2, 0.5, n_genes), rng.normal(0, 0.1, n_genes)])
    eta = rate[:, None] + slope @ covariates.T + effect[:, None] * atac[np.arange(n_genes) % n_peaks]
    gene, peak = np.repeat(np.arange(n_genes), n_peaks), np.tile(np.arange(n_peaks), n_genes)
    return rng.poisson(np.exp(eta)).astype(np.uint16), atac, gene, peak, make_nuisance(covariates)


def in_turns(calls: list[Callable[[], Any]], repeats: int) -> tuple[list[float], list[Any]]:
    """Median wall seconds of each call, after a warm-up, and what the warm-up returned."""
    results = [call() for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds], results


def bench_moments(batch: Batch, args: argparse.Namespace) -> dict[str, Any]:
    resamples = resample_counts(batch.shape[2], 0, args.resamples, seed=args.seed, celltype="x", rung=0)
    every, some = np.arange(len(batch.gene)), np.arange(min(len(batch.gene), args.cpu_tests))
    began = time.perf_counter()
    ours = moments_engine_torch(batch, device=args.device, memory=args.memory)
    prepare_s = time.perf_counter() - began
    theirs = moments_engine(batch)
    (seconds, cpu_seconds), (found, wanted) = in_turns(
        [lambda: ours(resamples, every), lambda: theirs(resamples, some)], args.repeats
    )
    both = np.isfinite(wanted[0])
    off = np.abs(found[0][some][both] - wanted[0][both])
    rate, cpu_rate = (len(tests) * args.resamples / s for tests, s in ((every, seconds), (some, cpu_seconds)))
    return {
        "prepare_s": prepare_s, "refits": len(every) * args.resamples, "exact_refits": int(found[1].sum()),
        "refits_per_s": rate, "cpu_refits_per_s": cpu_rate, "refits_ratio": rate / cpu_rate,
        "max_abs_dbeta": float(off.max()),
    }  # fmt: skip


def bench_saddle(data: tuple[Any, ...], fits: Any, args: argparse.Namespace) -> dict[str, Any]:
    options = {"device": args.device, "memory": args.memory}
    (seconds, cpu_seconds), (ours, theirs) = in_turns(
        [lambda: saddle_pairs_torch(*data, fits, **options), lambda: saddle_pairs(*data, fits)], args.repeats
    )
    both = np.isfinite(ours.p) & np.isfinite(theirs.p)
    scale = 1e3 / len(fits.beta)
    return {
        "saddle_ms_per_pair": scale * seconds, "cpu_saddle_ms_per_pair": scale * cpu_seconds,
        "saddle_ratio": cpu_seconds / seconds, "max_log_ratio": float(np.abs(np.log(ours.p / theirs.p))[both].max()),
        "trust_differs": int((ours.trust != theirs.trust).sum()),
    }  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    torch = import_torch()
    torch.set_num_threads(1)
    data = simulate(args.cells, args.genes, args.peaks, args.seed)
    fits = fit_pairs(*data)
    if not np.isfinite(fits.coefficients).all():
        raise SystemExit("some pairs have no fit; take more cells")
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu, one thread"
    result = {
        "bench": "gpu", "quick": args.quick, "device": name, "torch": torch.__version__, "cells": args.cells,
        "pairs": len(fits.beta), "resamples": args.resamples, "memory_gib": args.memory / 2**30, "seed": args.seed,
    }  # fmt: skip
    result |= bench_moments(make_batch(*data, fits.coefficients), args)
    return result | bench_saddle(data, fits, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="a torch device (default cuda)")
    parser.add_argument("--quick", action="store_true", help="few pairs and resamples")
    parser.add_argument("--memory", type=float, default=1.0, metavar="GIB", help="of a block (default 1)")
    parser.add_argument("--cells", type=int, default=2_597)
    parser.add_argument("--genes", type=int, help="default 100; quick 3")
    parser.add_argument("--peaks", type=int, help="default 30; quick 4")
    parser.add_argument("--resamples", type=int, help="default 2,500; quick 256")
    parser.add_argument("--cpu-tests", type=int, default=60, help="tests that the compiled engine refits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.genes = args.genes or (3 if args.quick else 100)
    args.peaks = args.peaks or (4 if args.quick else 30)
    args.resamples = args.resamples or (256 if args.quick else 2_500)
    args.memory = int(args.memory * 2**30)
    try:
        find_device(args.device)
    except (ImportError, ValueError) as err:
        print(f"nothing was measured: {err}", file=sys.stderr)
        raise SystemExit(NO_GPU) from err
    print(json.dumps(run(args)), flush=True)


if __name__ == "__main__":
    main()
