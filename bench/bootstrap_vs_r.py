"""Refits per second on one core: the engines "moments" and "exact" against R's glm inside boot::boot, as in SCENT.

    python bench/bootstrap_vs_r.py [--quick] [--shared DIR]

All refit ``exprs ~ atac + log(nUMI) + percent.mito`` (Poisson) on bootstrap resamples of the same real cells, in turns,
so that drift of the machine cancels; rates are medians over repeats, per CPU second, after a warm-up.

* ``r_refits_per_s``, ``exact_refits_per_s``: three pairs, one after the other;
* ``moments_refits_per_s``: all 110 tested pairs as one batch, as a run takes them; ``moments_single_refits_per_s``: the
  three pairs one by one, where each pays alone for the drawing, the sums over all cells and the basis of these sums;
  ``basis_s`` and ``drawn_per_s`` say how much that is; ``share_exact``: what the bound did not certify, so that it was
  refitted on the cells;
* ``ratio``: moments (batch) over R, the median of the repeats' ratios; ``ratio_single``, ``ratio_exact`` likewise;
* ``max_abs_dbeta``: largest difference of a coefficient between moments and exact, same resamples, all pairs;
  ``max_abs_dbeta_r``: between our fit of the original sample and R's.

Choices favour R. Our time is user and system time from counts to coefficients: drawing, the fits of the original
sample, which are not counted as refits, and all that an engine prepares. R's time is user time, the fit of the original
sample counts as a refit, and its statistic returns the coefficient alone (SCENT's returns the variance too).

The last line printed is one JSON object. ``first_call_s`` is wall time: the first call compiles, or loads what an
earlier process has compiled. The exit code is 1 if a difference is above 1e-6.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monocytes  # beside this file; keeps BLAS to one thread, so it comes before numpy

# isort: split
import numba
import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import bootstrap, shared_sums
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.pairfits import fit_pairs
from enhancer_dask.stats.products import LANES
from enhancer_dask.stats.resampling import resample_counts

# The engine's own promise; R stops when the deviance moves by less than 1e-8 of itself, which leaves 2e-8.
BETA_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured, per repeat."""

    pairs: int
    """For R, exact, and moments on single pairs."""
    repeats: int
    r: int
    """Resamples a pair, here and below."""
    exact: int
    batch: int
    single: int
    compared: int
    """Resamples of every pair that both engines refit for ``max_abs_dbeta``, once."""


FULL = Size(pairs=3, repeats=5, r=600, exact=10_000, batch=50_000, single=50_000, compared=2_000)
QUICK = Size(pairs=1, repeats=2, r=60, exact=2_000, batch=10_000, single=10_000, compared=100)


def refits(
    cells: monocytes.Monocytes, pairs: NDArray[np.integer], engine: str, n_resamples: int, seed: int
) -> tuple[float, int, NDArray[np.float64]]:
    """CPU seconds of all that it takes, refits over all cells, and the coefficients of the last block."""
    shared_sums._KNOWN.clear()  # once for a cell type and process, but it belongs to the cost
    gene, peak, n = cells.gene[pairs], cells.peak[pairs], cells.rna.shape[1]
    block, which, n_exact = bootstrap.BLOCK_DRAWS // n // LANES * LANES, np.arange(len(pairs)), 0
    began = time.process_time()
    nuisance = cells.nuisance
    fits = fit_pairs(cells.rna, cells.atac, gene, peak, nuisance)
    batch = make_batch(cells.rna, cells.atac, gene, peak, nuisance, fits.coefficients)
    refitter = bootstrap.ENGINES[engine](batch)
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        drawn = resample_counts(n, start, stop, seed=seed, celltype=monocytes.CELLTYPE, rung=0)
        coefficients, exact = refitter(drawn, which)
        n_exact += int(exact.sum())
    return time.process_time() - began, n_exact, coefficients


def largest_difference(cells: monocytes.Monocytes, n_resamples: int) -> float:
    """Between the coefficients of the two engines, over all pairs; they must agree on which have none."""
    every, largest = np.arange(len(cells.gene)), 0.0
    for seed, done in enumerate(range(0, n_resamples, 1_000)):
        n = min(1_000, n_resamples - done)  # less than a block, so that all coefficients come back
        ours, plain = (refits(cells, every, engine, n, 1_000 + seed)[2] for engine in ("moments", "exact"))
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(plain))
        largest = max(largest, float(np.nanmax(np.abs(ours - plain), where=np.isfinite(plain), initial=0.0)))
    return largest


def measure(cells: monocytes.Monocytes, size: Size, scratch: Path) -> dict[str, Any]:
    """Rates of the sides in turns; their order changes every time."""
    pairs = [cells.names.index(name) for name in monocytes.PAIRS_FOR_R[: size.pairs]]
    csv = {pair: monocytes.write_for_r(cells, pair, scratch / f"pair-{pair}.csv") for pair in pairs}
    every, r_betas, n_exact = np.arange(len(cells.gene)), {}, 0

    def r(seed: int) -> float:
        runs = {pair: monocytes.refit_r(csv[pair], size.r, seed) for pair in pairs}
        r_betas.update({pair: run.beta for pair, run in runs.items()})
        return sum(run.refits for run in runs.values()) / sum(run.seconds for run in runs.values())

    def one_by_one(engine: str, n_resamples: int, seed: int) -> float:
        seconds = sum(refits(cells, np.array([pair]), engine, n_resamples, seed)[0] for pair in pairs)
        return len(pairs) * n_resamples / seconds

    def batch(seed: int) -> float:
        nonlocal n_exact
        seconds, exact, _ = refits(cells, every, "moments", size.batch, seed)
        n_exact += exact
        return len(every) * size.batch / seconds

    sides = {
        "r": r, "exact": lambda seed: one_by_one("exact", size.exact, seed), "moments": batch,
        "moments_single": lambda seed: one_by_one("moments", size.single, seed),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(size.repeats):
        for name, side in sides.items() if repeat % 2 else reversed(sides.items()):
            rates[name].append(side(repeat + 1))
        print(f"repeat {repeat + 1} of {size.repeats} done", file=sys.stderr)
    fits = fit_pairs(cells.rna, cells.atac, cells.gene[pairs], cells.peak[pairs], cells.nuisance)
    off = [abs(beta - r_betas[pair]) for pair, beta in zip(pairs, fits.beta, strict=True)]
    return summary(rates) | {
        "share_exact": n_exact / (len(every) * size.batch * size.repeats),
        "max_abs_dbeta_r": float(max(off)),
    }


def overheads(cells: monocytes.Monocytes, n_resamples: int) -> dict[str, float]:
    """What a batch pays once: CPU seconds of the shared basis, and resamples drawn per second."""
    nuisance, n = cells.nuisance, cells.rna.shape[1]
    began = time.process_time()
    shared_sums._make(np.ascontiguousarray(nuisance.z.T), nuisance.offset, LANES)
    basis_s = time.process_time() - began
    began = time.process_time()
    for start in range(0, n_resamples, 1_000):
        resample_counts(n, start, start + 1_000, seed=0, celltype=monocytes.CELLTYPE, rung=0)
    drawn_per_s = n_resamples / (time.process_time() - began)
    return {"basis_s": round(basis_s, 2), "drawn_per_s": round(drawn_per_s)}


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    out: dict[str, Any] = {f"{name}_refits_per_s": round(statistics.median(rates[name]), 1) for name in rates}
    for key, name in (("ratio", "moments"), ("ratio_single", "moments_single"), ("ratio_exact", "exact")):
        ratios = [a / b for a, b in zip(rates[name], rates["r"], strict=True)]
        out[key] = round(statistics.median(ratios), 1)
        out[f"{key}_range"] = [round(min(ratios), 1), round(max(ratios), 1)]
    return out


def warm_up(cells: monocytes.Monocytes) -> float:
    """Wall seconds of the first calls, with one and several tests and tiles, for which kernels are compiled apart."""
    began = time.perf_counter()
    for engine in ("moments", "exact"):
        for pairs in (np.array([0]), np.arange(3)):
            refits(cells, pairs, engine, 2 * LANES, seed=0)
    return time.perf_counter() - began


def main() -> None:
    args = monocytes.parser_of(__doc__.splitlines()[0]).parse_args()
    size = QUICK if args.quick else FULL
    versions = {"numba": numba.__version__, "numpy": np.__version__} | monocytes.r_versions()
    cells = monocytes.read_monocytes(args.shared)
    result = {"bench": "bootstrap_vs_r", "cells": cells.rna.shape[1], "pairs": len(cells.gene), "quick": args.quick}
    result["first_call_s"] = round(warm_up(cells), 1)
    with tempfile.TemporaryDirectory() as scratch:
        result |= measure(cells, size, Path(scratch))
    result |= overheads(cells, 10_000)
    result |= {"max_abs_dbeta": largest_difference(cells, size.compared), "versions": versions}
    print(json.dumps(result), flush=True)
    if not max(result["max_abs_dbeta"], result["max_abs_dbeta_r"]) < BETA_TOLERANCE:
        monocytes.fail(f"coefficients differ by more than {BETA_TOLERANCE}")


if __name__ == "__main__":
    main()
