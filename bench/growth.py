"""How the time of both p-values grows with cells, pairs and covariates, and what that means for an atlas.

    python bench/growth.py [--repeats N]

One core, one cell type, simulated pairs (counts negative binomial, theta 2, 0.3 a cell on average; peaks open in 12% of
the cells; standard normal covariates): 2,500 cells, 1,000 pairs of 40 genes and 2 covariates, varied one at a time.
``saddle_s`` is the fit and p_saddle, ``ladder_s`` the ladder to 2,500 resamples, minimum over the repeats; ``slope`` is
the exponent of growth between the two largest sizes. ``atlas`` extrapolates to 30 cell types of 33,333 cells each, a
million cells, with 244,727 pairs in each type, on 1 core: linear in pairs, with the measured exponent in cells. The
last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy

import numpy as np

from enhancer_dask.links.pair_tests import Options, scent_block
from enhancer_dask.stats.bootstrap import up_to

BASE = {"cells": 2_500, "pairs": 1_000, "covariates": 2}
SIZES = {
    "cells": (625, 1_250, 2_500, 5_000, 10_000),
    "pairs": (250, 500, 1_000, 2_000, 4_000),
    "covariates": (0, 1, 2, 3, 4),
}
PEAKS_PER_GENE = 25
ATLAS_TYPES, ATLAS_CELLS, ATLAS_PAIRS = 30, 1_000_000, 244_727


def seconds(cells: int, pairs: int, covariates: int, repeats: int) -> dict[str, float]:
    """Time of both p-values at one size."""
    rng = np.random.default_rng(0)
    n_genes = pairs // PEAKS_PER_GENE
    z = rng.normal(size=(cells, covariates))
    rate = 0.3 * np.exp(0.3 * z[:, :1].sum(axis=1))
    rna = rng.poisson(rate * rng.gamma(2.0, 0.5, (n_genes, cells))).astype(np.uint16)
    atac = (rng.random((pairs, cells)) < 0.12).astype(np.uint8)
    gene, peak = np.repeat(np.arange(n_genes), PEAKS_PER_GENE), np.arange(pairs)
    found = {"saddle": np.inf, "ladder": np.inf}
    for _ in range(repeats):
        for p in ("saddle", "ladder"):
            options = Options(p=p, ladder=up_to(2_500))
            begin = time.perf_counter()
            scent_block(rna, atac, gene, peak, z, celltype="x", options=options)
            found[p] = min(found[p], time.perf_counter() - begin)
    return {f"{p}_s": round(value, 3) for p, value in found.items()}


def slope(table: dict[int, dict[str, float]], key: str) -> float:
    """Exponent of growth between the two largest sizes."""
    (a, small), (b, large) = list(table.items())[-2:]
    return round(float(np.log(large[key] / small[key]) / np.log(b / a)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    repeats = parser.parse_args().repeats
    for covariates in SIZES["covariates"]:  # compile
        seconds(625, 50, covariates, 1)
    out: dict[str, Any] = {"bench": "growth"}
    for name, sizes in SIZES.items():
        table = {size: seconds(**{**BASE, name: size}, repeats=repeats) for size in sizes}
        out[name] = table
        if name != "covariates":
            out[name] |= {"slope": {key: slope(table, key) for key in ("saddle_s", "ladder_s")}}
    per_type = ATLAS_CELLS / ATLAS_TYPES
    largest = SIZES["cells"][-1]
    out["atlas"] = {
        key: round(
            out["cells"][largest][key]
            * (per_type / largest) ** max(1.0, out["cells"]["slope"][key])
            * (ATLAS_PAIRS / BASE["pairs"])
            * ATLAS_TYPES
            / 3600,
            1,
        )
        for key in ("saddle_s", "ladder_s")
    }
    out["atlas"] = {
        "cells": ATLAS_CELLS,
        "types": ATLAS_TYPES,
        "pairs_per_type": ATLAS_PAIRS,
        "core_hours": out["atlas"],
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
