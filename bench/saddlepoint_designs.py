"""Where the saddlepoint p-value may be trusted: simulated designs against resampling.

    python bench/saddlepoint_designs.py [--designs N] [--seed S] [--resamples R] [--tilted R]

Draws designs at random: 100 to 20,000 cells, 10 to 10,000 counts, peaks open in 2-40% of the cells, effects from none
to e^1.5, none to three covariates, some log-normal or a rare dummy, over-dispersed counts. For each it prints one JSON
line with the p-value and trust code of ``saddle_pairs``, the p-value from tilted resampling and, where that is above
1e-3, from plain resampling, with their standard errors. The last line sums up by trust code how far the logarithms
differ, as median, 95% and maximum: ``error`` is the difference less three standard errors, 0 where it is within them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np

from enhancer_dask.stats import bootstrap, poisson
from enhancer_dask.stats.distribution import NoSaddleError
from enhancer_dask.stats.exact import make_batch
from enhancer_dask.stats.moments import moments_engine
from enhancer_dask.stats.pairfits import PairFits, fit_pairs
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.saddlepoint import saddle_pairs
from enhancer_dask.stats.tilted import tilted

CELLS = (100, 200, 300, 500, 1_000, 2_600, 5_000, 20_000)
COUNTS = (10, 30, 100, 300, 1_000, 3_000, 10_000)


def simulate(rng: np.random.Generator) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Counts, open cells, covariates and a description."""
    n = int(rng.choice(CELLS, p=np.array([1, 1, 1, 1, 1, 0.5, 0.2, 0.1]) / 5.8))
    n_counts, share = int(rng.choice(COUNTS)), float(rng.choice([0.02, 0.05, 0.1, 0.2, 0.4]))
    effect = float(rng.choice([0.0, 0.2, 0.5, 1.0, 1.5]) * rng.choice([-1, 1]))
    kind = str(rng.choice(["none", "normal", "normal", "skewed", "dummy"]))
    spread = float(rng.choice([0.0, 0.5, 1.0]))
    z = rng.normal(size=(n, 0 if kind == "none" else int(rng.integers(1, 4))))
    if kind == "skewed":
        z = np.exp(0.7 * z)
    if kind == "dummy":
        z[:, 0] = rng.random(n) < 0.1
    is_open = (rng.random(n) < share).astype(np.uint8)
    rate = np.exp(effect * is_open + 0.4 * z.sum(axis=1) / np.sqrt(max(1, z.shape[1])) + spread * rng.normal(size=n))
    counts = rng.poisson(n_counts * rate / rate.sum())
    about = {"n": n, "counts": int(counts.sum()), "open": int(is_open.sum()), "effect": effect, "covariates": kind}
    return counts, is_open, z, about | {"n_covariates": z.shape[1], "spread": spread}


def plain_p(data: Any, fits: PairFits, n_resamples: int, seed: int) -> tuple[float, float]:
    """p-value and standard error by plain resampling with exact refits."""
    refitter = moments_engine(make_batch(*data, fits.coefficients))
    only, beta = np.array([0]), fits.beta[0]
    n, beyond, estimable = data[0].shape[1], 0, 0
    block = max(1, bootstrap.BLOCK_DRAWS // n)
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        drawn = resample_counts(n, start, stop, seed=seed, celltype="design", rung=0)
        boot = refitter(drawn, only)[0][0, :, 0]
        beyond += int(np.count_nonzero(2.0 * beta - boot <= 0.0))
        estimable += int(np.count_nonzero(~np.isnan(boot)))
    p = bootstrap.basic_p(beyond, estimable)
    return p, float(np.sqrt(p * (2.0 - p) / estimable))


def one(seed: int, n_resamples: int, n_tilted: int) -> dict[str, Any] | None:
    rng = np.random.default_rng(seed)
    counts, is_open, z, about = simulate(rng)
    nuisance = poisson.make_nuisance(z)
    data = counts[None], is_open[None], np.array([0]), np.array([0]), nuisance
    fits = fit_pairs(*data)
    table = saddle_pairs(*data, fits)
    if fits.status[0] != poisson.CONVERGED:
        return None
    row = {"design": seed} | about | {"beta": fits.beta[0], "trust": int(table.trust[0]), "p_saddle": table.p[0]}
    row |= {"n_informative": int(table.n_informative[0]), "n_effective": table.n_effective[0]}
    try:
        budget = max(2_000, int(n_tilted * min(1.0, 1_000 / len(counts))))
        row["p_tilted"], row["se_tilted"] = tilted(
            counts, is_open[:, None], nuisance, n_resamples=budget, seed=seed, name=("design",)
        )
    except NoSaddleError:
        row["p_tilted"] = row["se_tilted"] = np.nan
    if n_resamples and not (row["p_tilted"] < 1e-3):
        budget = max(10_000, int(n_resamples * min(1.0, 300 / len(counts))))
        row["p_plain"], row["se_plain"] = plain_p(data, fits, budget, seed)
    return row


def log_error(row: dict[str, Any], of: str) -> tuple[float, float]:
    """|log(p_saddle / p)| and what of it three standard errors do not explain."""
    p, se = row.get(f"p_{of}", np.nan), row.get(f"se_{of}", np.nan)
    raw = abs(np.log(row["p_saddle"] / p)) if p > 0 else np.nan
    return float(raw), float(max(0.0, raw - 3.0 * se / p)) if p > 0 else np.nan


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"bench": "saddlepoint_designs", "designs": len(rows)}
    for trust in sorted({row["trust"] for row in rows}):
        chosen = [row for row in rows if row["trust"] == trust]
        entry: dict[str, Any] = {"designs": len(chosen)}
        for of in ("tilted", "plain"):
            raw, beyond = np.array([log_error(row, of) for row in chosen]).T
            if np.isfinite(raw).any():
                entry[f"log_ratio_{of}"] = [round(float(q), 4) for q in np.nanquantile(raw, [0.5, 0.95, 1.0])]
                entry[f"error_{of}"] = [round(float(q), 4) for q in np.nanquantile(beyond, [0.5, 0.95, 1.0])]
        out[f"trust_{trust}"] = entry
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first design")
    parser.add_argument("--resamples", type=int, default=100_000, help="plain ones, fewer above 300 cells; 0: none")
    parser.add_argument("--tilted", type=int, default=20_000, help="tilted ones, fewer above 1,000 cells")
    args = parser.parse_args()
    began, rows = time.process_time(), []
    for seed in range(args.seed, args.seed + args.designs):
        row = one(seed, args.resamples, args.tilted)
        if row is not None:
            rows.append(row)
            print(json.dumps({k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()}), flush=True)
    print(json.dumps(summarise(rows) | {"seconds": round(time.process_time() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
