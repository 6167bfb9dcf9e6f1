"""Significant contacts: is the FDR what it says, are loops found, how long does a chromosome at 5 kb take?

    python bench/significance.py [--quick] [--seeds N]

Simulated chromosomes of 500 bins with 400 planted loops of fold 4 (dispersion 0.02), by depth, ``contacts_per_pair``:

* ``fdr_10``, ``fdr_5``: share of false finds among the contacts with an FDR of at most 0.1 and 0.05, pooled over seeds;
  ``power_10``: share of the loops found at 0.1; each for mid-p values and, ``plain_...``, for plain upper tails;
* ``null_001``: without loops, the share of p-values below 0.001, over 0.001 (randomised over ties: 1 if uniform).

One chromosome of 50,000 bins of 5 kb, contacts up to 2 Mb, 10 million expected: ``chr1_5kb_s`` seconds of the test,
``chr1_5kb_pairs`` pairs with contacts among ``chr1_5kb_tested``, ``s_per_million_pairs``; ``peak_rss_gib``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.graphs.significance import n_significant, significant_contacts, upper_tail
from enhancer_dask.simulate.loops import simulate_loops

LOOPS = {"n_loops": 400, "fold": 4.0, "dispersion": 0.02}


def calibration(n_contacts: float, n_seeds: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for prefix, mid_p in (("", True), ("plain_", False)):
        found, false = np.zeros(2), np.zeros(2)
        for seed in range(n_seeds):
            contacts, loops = simulate_loops(n_contacts=n_contacts, seed=seed, **LOOPS)
            table = significant_contacts(contacts, mid_p=mid_p)
            pairs, planted = (pd.MultiIndex.from_frame(t[["bin1_id", "bin2_id"]]) for t in (table, loops))
            sure = np.array([table["fdr"] <= q for q in (0.1, 0.05)])
            found += sure.sum(axis=1)
            false += (sure & ~pairs.isin(planted)).sum(axis=1)
        out |= {f"{prefix}fdr_10": false[0] / found[0], f"{prefix}fdr_5": false[1] / found[1]}
        out[f"{prefix}power_10"] = (found - false)[0] / (n_seeds * LOOPS["n_loops"])
        out["contacts_per_pair"] = table["count"].sum() / table.attrs["n_tested"]["chr1"]
    return out


def null_share(n_seeds: int, level: float = 0.001) -> float:
    below = tested = 0
    for seed in range(n_seeds):
        contacts, _ = simulate_loops(n_loops=0, seed=seed)
        table = significant_contacts(contacts, mid_p=False)
        theta = 1.0 / table.attrs["dispersion"]["chr1"]
        above = upper_tail(table["count"].to_numpy() + 1.0, table["expected"].to_numpy(), theta)
        u = above + (table["p"] - above) * np.random.default_rng(seed).random(len(table))
        below += int((u < level).sum())
        tested += table.attrs["n_tested"]["chr1"]
    return below / tested / level


def large(n_bins: int) -> dict[str, Any]:
    contacts, _ = simulate_loops(
        n_bins=n_bins, bin_size=5_000, n_contacts=200.0 * n_bins, n_loops=n_bins // 10, fold=10.0, max_separation=400
    )
    began = time.perf_counter()
    table = significant_contacts(contacts)
    seconds = time.perf_counter() - began
    return {
        "chr1_5kb_s": seconds,
        "chr1_5kb_pairs": len(table),
        "chr1_5kb_tested": table.attrs["n_tested"]["chr1"],
        "chr1_5kb_significant": n_significant(table)[0.1],
        "s_per_million_pairs": seconds / len(table) * 1e6,
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, 5,000 bins")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    seeds = 2 if args.quick else args.seeds
    depths = [calibration(n, seeds) for n in (8e6, 2e6, 4e5)]
    report = {"bench": "significance", "seeds": seeds, "null_001": null_share(seeds), "depths": depths}
    print(json.dumps(report | large(5_000 if args.quick else 50_000)))


if __name__ == "__main__":
    main()
