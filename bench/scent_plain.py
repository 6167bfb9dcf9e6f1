"""Refits per second on one core: our exact engine against R's glm inside boot::boot, as SCENT calls it.

    python bench/scent_plain.py [--quick] [--shared DIR]

Both refit ``exprs ~ atac + log(nUMI) + percent.mito`` (Poisson) on bootstrap resamples of the same real cells, in
turns, so that drift of the machine cancels; rates are medians over repeats, per CPU second, after a warm-up on both
sides. Compilation is reported apart (``first_call_s``); every other choice favours R:

* our time is user and system time and holds everything from counts to coefficients: the fit of the original sample,
  which is not counted as a refit, and the drawing, which in the pipeline serves all pairs of a chunk at once;
* R's time is user time; the fit of the original sample counts as a refit; its statistic returns the coefficient
  alone (SCENT's returns the variance too) and its data frame has no columns but the four of the model.

The last line printed is one JSON object. ``first_call_s`` is wall time: our first call compiles, or loads what an
earlier process has compiled. ``max_abs_dbeta`` compares the fits of the original sample; above 1e-6 the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # for R too; before numpy

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import EnhancerDaskError
from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.covariates import read_covariates
from enhancer_dask.stats import bootstrap, resampling
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stores import MultiomeStore

CELLTYPE = "CD14+ Monocytes"
PAIRS = (  # strong, moderate, no effect (z = 7.1, 4.0, 0.7)
    ("HLA-DQB1", "chr6-32637000-32637500"),
    ("HLA-DQB1", "chr6-32589500-32590000"),
    ("ZEB2", "chr2-144661000-144661500"),
)
# R stops when the deviance moves by less than 1e-8 of itself; the oracle's default and tight fits differ by 2e-8
BETA_TOLERANCE = 1e-6

R_SCRIPT = Path(__file__).with_suffix(".R")
R_VERSIONS = 'cat(as.character(getRversion()), as.character(packageVersion("boot")))'


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    pairs: int
    repeats: int
    resamples: int
    """Ours, per pair and repeat."""
    r_resamples: int
    """R's, per pair and repeat."""


FULL = Size(pairs=3, repeats=5, resamples=10_000, r_resamples=600)
QUICK = Size(pairs=1, repeats=2, resamples=2_000, r_resamples=60)


@dataclass(frozen=True, slots=True)
class Pair:
    """Data of one gene and one tile."""

    gene: str
    peak: str
    counts: NDArray[np.integer]
    is_open: NDArray[np.uint8]
    covariates: NDArray[np.float64]
    """log(nUMI) and percent.mito, shape (cells, 2)."""
    csv: Path
    """The same for R."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Refits of one pair by one side in one repeat."""

    beta: float
    """Coefficient of the tile on the original sample."""
    refits: int
    seconds: float
    """CPU seconds."""
    boot_sd: float
    """Standard deviation of the resampled coefficients."""


def fail(message: str) -> NoReturn:
    sys.exit(f"{Path(__file__).name}: {message}")


# -- data --------------------------------------------------------------------------------------------------


def read_pairs(shared: Path, n_pairs: int, scratch: Path) -> list[Pair]:
    """Read the first pairs of ``PAIRS`` by way of a store and write each for R."""
    ingest(shared / "data" / "pbmc_multiome_tiles.h5mu", scratch / "pbmc.zarr")
    store = MultiomeStore(scratch / "pbmc.zarr")
    covariates = read_covariates(store, CELLTYPE, "log(nUMI),percent.mito").values
    return [read_pair(store, *PAIRS[i], covariates, scratch / f"pair-{i}.csv") for i in range(n_pairs)]


def read_pair(store: MultiomeStore, gene: str, peak: str, covariates: NDArray[np.float64], csv: Path) -> Pair:
    rows = {dim: np.flatnonzero(store.column(dim) == name) for dim, name in (("gene", gene), ("peak", peak))}
    counts = store.counts("rna", rows["gene"], CELLTYPE)[0]
    is_open = (store.counts("atac", rows["peak"], CELLTYPE)[0] > 0).astype(np.uint8)
    cells = store.cells_of(CELLTYPE)
    n_umi, percent_mito = (store.column(f"cell_{name}")[cells] for name in ("n_umi", "percent_mito"))
    frame = {"exprs": counts, "atac": is_open, "nUMI": n_umi, "percent.mito": percent_mito}
    pd.DataFrame(frame).to_csv(csv, index=False)
    return Pair(gene, peak, counts, is_open, covariates, csv)


# -- the two sides -----------------------------------------------------------------------------------------


def refit_ours(pair: Pair, n_resamples: int, seed: int) -> Timing:
    """Draw and refit in blocks of the size that the ladder takes."""
    n = len(pair.counts)
    block = bootstrap.BLOCK_DRAWS // n
    boot = np.empty(n_resamples)
    began = time.process_time()
    fit, refitter = bootstrap.fit_and_prepare(pair.counts, pair.is_open, make_nuisance(pair.covariates))
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        draws = resampling.resample_counts(n, start, stop, seed=seed, celltype=CELLTYPE, rung=0)
        boot[start:stop] = refitter(draws)[:, 0]
    seconds = time.process_time() - began
    return Timing(float(fit.coefficients[-1]), n_resamples, seconds, float(boot.std(ddof=1)))


def refit_r(pair: Pair, n_resamples: int, seed: int) -> Timing:
    return Timing(**json.loads(run_r(str(R_SCRIPT), str(pair.csv), str(n_resamples), str(seed))))


def run_r(*args: str) -> str:
    """Standard output of Rscript; ends the benchmark with R's first complaint if R fails."""
    done = subprocess.run(["Rscript", *args], capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode != 0:
        fail(f"Rscript failed: {' '.join(done.stderr.split('Execution halted')[0].split()) or 'no message'}")
    return done.stdout


def r_versions() -> dict[str, str]:
    if shutil.which("Rscript") is None:
        fail("Rscript is not on the PATH; install R and its package boot")
    return dict(zip(("r", "boot"), run_r("-e", R_VERSIONS).split(), strict=True))


def warm_up(pair: Pair) -> float:
    """Wall seconds of our first call; a second one, of full blocks, leaves memory and caches as they will be."""
    began = time.perf_counter()
    refit_ours(pair, 2, seed=0)
    seconds = time.perf_counter() - began
    refit_ours(pair, 2_000, seed=0)
    return seconds


# -- the measurement ---------------------------------------------------------------------------------------


def measure(pairs: list[Pair], size: Size) -> tuple[list[list[Timing]], list[list[Timing]]]:
    """Timings [repeat][pair] of ours and of R, pair by pair in turns; who goes first changes every time."""
    ours: list[list[Timing]] = [[] for _ in range(size.repeats)]
    theirs: list[list[Timing]] = [[] for _ in range(size.repeats)]
    sides = [(theirs, refit_r, size.r_resamples), (ours, refit_ours, size.resamples)]
    for repeat in range(size.repeats):
        for pair in pairs:
            for timings, refit, n_resamples in sides:
                timings[repeat].append(refit(pair, n_resamples, seed=repeat + 1))
            sides.reverse()
        print(f"repeat {repeat + 1} of {size.repeats} done", file=sys.stderr)
    return ours, theirs


def rates(timings: list[list[Timing]]) -> list[float]:
    """Refits per CPU second of each repeat, all pairs together."""
    return [sum(t.refits for t in row) / sum(t.seconds for t in row) for row in timings]


def summarise(pairs: list[Pair], ours: list[list[Timing]], theirs: list[list[Timing]]) -> dict[str, Any]:
    our_rates, r_rates = rates(ours), rates(theirs)
    ratios = [a / b for a, b in zip(our_rates, r_rates, strict=True)]
    table = [summarise_pair(pair, [row[i] for row in ours], [row[i] for row in theirs]) for i, pair in enumerate(pairs)]
    return {
        "refits_per_s": round(statistics.median(our_rates), 1),
        "r_refits_per_s": round(statistics.median(r_rates), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "max_abs_dbeta": max(abs(row["beta"] - row["r_beta"]) for row in table),
        "per_pair": table,
    }


def summarise_pair(pair: Pair, ours: list[Timing], theirs: list[Timing]) -> dict[str, Any]:
    return {
        "gene": pair.gene,
        "peak": pair.peak,
        "beta": ours[0].beta,
        "r_beta": theirs[0].beta,
        "boot_sd": statistics.median(t.boot_sd for t in ours),
        "r_boot_sd": statistics.median(t.boot_sd for t in theirs),
        "refits_per_s": round(statistics.median(rates([[t] for t in ours])), 1),
        "r_refits_per_s": round(statistics.median(rates([[t] for t in theirs])), 1),
    }


def run(shared: Path, quick: bool) -> dict[str, Any]:
    size = QUICK if quick else FULL
    versions = {"numba": numba.__version__, "numpy": np.__version__} | r_versions()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = read_pairs(shared, size.pairs, Path(scratch))
        first_call_s = warm_up(pairs[0])
        ours, theirs = measure(pairs, size)
    result = {
        "bench": "scent_plain",
        "cells": len(pairs[0].counts),
        "coefficients": 2 + pairs[0].covariates.shape[1],
        "pairs": size.pairs,
        "repeats": size.repeats,
        "resamples": size.resamples,
        "r_resamples": size.r_resamples,
        "quick": quick,
    }
    return result | summarise(pairs, ours, theirs) | {"first_call_s": round(first_call_s, 3), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument(
        "--shared", type=Path, default=beside, metavar="DIR", help="folder with data/ (default: beside)"
    )
    parser.add_argument("--quick", action="store_true", help="one pair and fewer refits, within 15 seconds")
    args = parser.parse_args()
    try:
        result = run(args.shared, args.quick)
    except EnhancerDaskError as err:
        fail(str(err))
    print(json.dumps(result), flush=True)
    if not result["max_abs_dbeta"] < BETA_TOLERANCE:
        fail(f"coefficients differ from R's by {result['max_abs_dbeta']:.1e}, want below {BETA_TOLERANCE}")


if __name__ == "__main__":
    main()
