"""Does the interval of the interaction hold, do its p-values, and what do they find? Simulated pairs, known truth.

    python bench/interaction_study.py [--quick] [--pairs N] [--skip-ladder]

``simulate_enhancer_pairs`` with its defaults, 2,597 cells, one table of 2,000 pairs per truth (multiplicative,
additive, synergistic with I of 0.1, 0.25, 0.5 and 1) and dispersion of the counts (0, which is Poisson, and 0.5).
``ed.epistasis`` with its defaults, so with the published ladder (100, then 5,000 if p < 0.1). ``by_dispersion`` holds

* ``coverage``: share of pairs whose 95% interval of I (low_interaction, high_interaction) holds the true I, per truth,
  over pairs that have one; ``no_interval``: the share of the others; ``coverage_wald``: coverage of beta +- 1.96 se
  from the Fisher information; ``missed``: intervals that lie below and above the truth, multiplicative pairs;
* ``type_1``: share of multiplicative pairs with p < 0.05, for p_saddle (all, and those with the status trusted), the
  test that the interval inverts, boot_p, and Wald's p of I; ``power``: the same of synergistic pairs, per effect size;
* ``departure_coverage``: share of additive pairs whose 95% interval of the departure from additivity holds 0;
* ``verdict``: share of each verdict, per truth.

Pairs whose I was tested (``tested``, per truth): first ``all``, then by doubly open cells, where there are 20 or more.
``se`` is the binomial standard error of a coverage of 95% over ``pairs``. ``goals`` says whether, over the
multiplicative pairs of each dispersion, coverage lies between 0.93 and 0.97, type-I error of p_saddle between 0.04 and
0.06. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import monocytes  # noqa: F401  beside this file; keeps BLAS to one thread, so it comes before numpy

# isort: split
import numpy as np
import pandas as pd

import enhancer_dask as ed
from enhancer_dask.simulate.enhancer_pairs import CELLTYPE, simulate_enhancer_pairs

DISPERSIONS = (0.0, 0.5)
EFFECTS = (0.1, 0.25, 0.5, 1.0)
METHODS = {
    "saddle": "p_saddle_interaction",
    "interval": "p_interval_interaction",
    "ladder": "boot_p_interaction",
    "wald": "p_interaction",
}
BINS = {"n_11 < 10": (0, 10), "10-19": (10, 20), "20-49": (20, 50), "50-99": (50, 100), "n_11 >= 100": (100, 10**9)}
LEVEL = 0.05
Z = 1.959963985
COVERAGE_GOAL, TYPE_1_GOAL = (0.93, 0.97), (0.04, 0.06)


def table_of(truth: str, interaction: float, dispersion: float, args: argparse.Namespace, seed: int) -> pd.DataFrame:
    """Result of ``ed.epistasis`` beside the truth, where I was tested."""
    sim = simulate_enhancer_pairs(
        n_pairs=args.pairs, truth=truth, interaction=interaction, dispersion=dispersion, seed=seed
    )
    result = ed.epistasis(
        sim.to_mudata(), sim.pairs, celltype=CELLTYPE, p="saddle" if args.skip_ladder else "both",
        seed=seed, progress=False,
    )  # fmt: skip
    known = sim.truth[["gene", "enhancer_1", "enhancer_2", "interaction"]].rename(columns={"interaction": "truth"})
    joined = result.merge(known, on=["gene", "enhancer_1", "enhancer_2"], validate="one_to_one")
    return joined[joined["status_interaction"] == "tested"]


def in_bins(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows of all pairs, and by doubly open cells where there are 20 pairs or more."""
    rows = {"all": pd.Series(True, index=table.index)}
    rows |= {name: (table["n_11"] >= low) & (table["n_11"] < high) for name, (low, high) in BINS.items()}
    return {name: here for name, here in rows.items() if here.sum() >= 20}


def share(table: pd.DataFrame, hits: pd.Series) -> dict[str, float]:
    """Share of hits over all pairs, and by doubly open cells."""
    return {name: round(float(hits[here].mean()), 4) for name, here in in_bins(table).items()}


def significant(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Shares of p < 0.05 by method; a p-value that is missing finds nothing."""
    out = {name: share(table, table[column] < LEVEL) for name, column in METHODS.items() if table[column].notna().any()}
    trusted = table[table["saddle_status_interaction"] == "trusted"]
    return out | {"saddle_trusted": share(trusted, trusted[METHODS["saddle"]] < LEVEL)}


def study(dispersion: float, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All tables of one dispersion, each with a seed of its own."""
    designs = {"multiplicative": ("multiplicative", 0.0), "additive": ("additive", 0.0)}
    designs |= {f"synergistic {effect}": ("synergistic", effect) for effect in EFFECTS}
    keys = ("tested", "coverage", "no_interval", "coverage_wald", "type_1", "power", "verdict")
    out: dict[str, Any] = {key: {} for key in keys}
    for k, (name, (truth, interaction)) in enumerate(designs.items()):
        table = table_of(truth, interaction, dispersion, args, seed + k)
        out["tested"][name] = {key: int(here.sum()) for key, here in in_bins(table).items()}
        off = (table["beta_interaction"] - table["truth"]).abs()
        out["coverage_wald"][name] = share(table, off <= Z * table["se_interaction"])
        with_one = table[table["low_interaction"].notna() & table["high_interaction"].notna()]
        out["no_interval"][name] = round(1.0 - len(with_one) / len(table), 4)
        below, above = (with_one[end] - with_one["truth"] for end in ("high_interaction", "low_interaction"))
        out["coverage"][name] = share(with_one, (below >= 0.0) & (above <= 0.0))
        out["verdict"][name] = table["verdict"].value_counts(normalize=True).round(4).to_dict()
        if truth == "multiplicative":
            out["missed"] = {"below": share(with_one, below < 0.0), "above": share(with_one, above > 0.0)}
            out["type_1"] = significant(table)
        elif truth == "synergistic":
            out["power"][name] = significant(table)
        else:
            ends = table[["departure_additive_low", "departure_additive_high"]].dropna()
            holds_0 = (ends.iloc[:, 0] <= 0.0) & (ends.iloc[:, 1] >= 0.0)
            out["departure_coverage"] = share(table.loc[ends.index], holds_0)
        print(f"dispersion {dispersion}, {name}: coverage {out['coverage'][name]['all']}", file=sys.stderr)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short form that shows that it runs")
    parser.add_argument("--pairs", type=int, help="per table (default 2,000; quick 100)")
    parser.add_argument("--skip-ladder", action="store_true", help="no bootstrap p-values")
    parser.add_argument("--seed", type=int, default=1_000)
    args = parser.parse_args()
    args.pairs = args.pairs or (100 if args.quick else 2_000)
    began = time.perf_counter()
    results = {str(d): study(d, args, args.seed + 100 * k) for k, d in enumerate(DISPERSIONS)}
    out: dict[str, Any] = {"bench": "interaction_study", "pairs": args.pairs, "cells": 2597, "quick": args.quick}
    out["se"] = round(float(np.sqrt(0.95 * 0.05 / args.pairs)), 4)
    out["goals"] = {
        "coverage": all(within(r["coverage"]["multiplicative"]["all"], COVERAGE_GOAL) for r in results.values()),
        "type_1": all(within(r["type_1"]["saddle"]["all"], TYPE_1_GOAL) for r in results.values()),
    }
    out |= {"by_dispersion": results, "seconds": round(time.perf_counter() - began)}
    print(json.dumps(out), flush=True)


def within(value: float, goal: tuple[float, float]) -> bool:
    return goal[0] <= value <= goal[1]


if __name__ == "__main__":
    main()
