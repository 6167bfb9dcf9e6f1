"""46,166 enhancer pairs, as many as GLiMMIRS tested, in 2,597 cells: p_saddle alone, and with the bootstrap ladder.

    python bench/epistasis.py [--quick] [--pairs N] [--skip-ladder] [--shared DIR] [--keep DIR]

Counts and open peaks are those of ``genome_scale.py``: the published cell type, simulated with its geometry, effect
sizes and precision. Enhancer pairs are the 2,863 published ones and, drawn at random, others among all pairs of
candidate peaks of a gene with 10 doubly open cells or more. GLiMMIRS took pairs within 1 Mb of a gene's midpoint with
10 doubly perturbed cells or more; here a candidate lies within 500 kb of the gene body.

All four tests of a pair (10, 01, 11, interaction), percent.mito and offset log(nUMI). On a LocalCluster with 2 workers
of 1 thread, kernels compiled before (``compile_s``, once for an installation):

* ``saddle_wall_s``: ``p="saddle"``; ``not_trusted``: tests whose saddlepoint is not to be trusted;
* ``wall_s``: ``p="both"`` with the ladder of the published analysis, 100 resamples, then 5,000 if p < 0.1; ``refits``
  over all tests, ``exact`` those over the cells, ``climbed``: the share of each test's pairs that went on to 5,000;
* ``r_ladder_s_per_pair``: seconds that R's glm takes for the ladder of one pair, from a few hundred resamples of each
  model on one pair of the run, weighted by ``climbed``; ``ratio`` is that over our core seconds per pair, drawing,
  reading, saddlepoints and all else inside. ``r_max_abs_dbeta`` compares the coefficients of that pair.

Goals: ``saddle_wall_s`` < 60, ``wall_s`` < 300. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import monocytes  # beside this file, as the next; both come before numpy
from published import CELLTYPE, peak_rss, simulate, warm_up

# isort: split
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from mudata import MuData
from numpy.typing import NDArray

import enhancer_dask as ed
from enhancer_dask.interactions.contrasts import PUBLISHED_LADDER
from enhancer_dask.io.ingest import ingest
from enhancer_dask.stats.states import TESTS
from enhancer_dask.stores import MultiomeStore

N_PAIRS = 46_166
FEWEST_DOUBLY_OPEN = 10
PAIR = ["gene", "enhancer_1", "enhancer_2"]
R_SCRIPT = Path(__file__).with_suffix(".R")


# -- data --------------------------------------------------------------------------------------------------


def possible_pairs(opened: Any, rows: NDArray[np.int64], gene: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of candidate peaks of each gene that are open together in enough cells: gene, peak, peak; (L, 3).

    ``opened`` is peaks x cells, sparse; candidate i joins peak ``rows[i]`` to ``gene[i]``, ascending.
    """
    found = []
    for start, stop in zip(*(np.searchsorted(gene, np.unique(gene), side) for side in ("left", "right")), strict=True):
        peaks = rows[start:stop]
        together = (opened[peaks] @ opened[peaks].T).toarray()
        first, second = np.nonzero(np.triu(together, 1) >= FEWEST_DOUBLY_OPEN)
        found.append(np.stack([np.full(len(first), gene[start]), peaks[first], peaks[second]], axis=1))
    return np.concatenate(found)


def draw_pairs(data: MuData, candidates: pd.DataFrame, shared: Path, rng: np.random.Generator) -> pd.DataFrame:
    """The published enhancer pairs, then others at random; in random order."""
    genes, peaks = data["rna"].var_names, data["atac"].var_names
    opened = data["atac"].X.T.tocsr().astype(np.int32)
    rows = np.stack([genes.get_indexer(candidates["gene"]), peaks.get_indexer(candidates["peak"])])
    gene, row = rows[:, np.lexsort(rows[::-1])]
    possible = possible_pairs(opened, row, gene)
    published = pd.read_csv(shared / "published" / "nyu_cd14_mono" / "epistasis_results.csv.gz")[PAIR]
    known = np.stack([genes.get_indexer(published["gene"]), *(peaks.get_indexer(published[e]) for e in PAIR[1:])], 1)
    known[:, 1:].sort(axis=1)
    taken = set(map(tuple, known))
    fresh = (row for row in rng.permutation(len(possible)) if tuple(possible[row]) not in taken)
    chosen = np.concatenate([known, possible[[next(fresh) for _ in range(N_PAIRS - len(known))]]])
    chosen = chosen[rng.permutation(N_PAIRS)]
    print(f"{len(possible)} pairs of candidates, {len(known)} published", file=sys.stderr)
    return pd.DataFrame(
        {"gene": genes[chosen[:, 0]], **{e: peaks[chosen[:, k]] for k, e in ((1, PAIR[1]), (2, PAIR[2]))}}
    )


def prepare(folder: Path, shared: Path) -> tuple[Path, pd.DataFrame]:
    """Store and enhancer pairs in ``folder``, made if they are not there."""
    store, table = folder / "multiome.zarr", folder / "enhancer_pairs.parquet"
    if not table.exists():
        data, candidates, _ = simulate(shared, np.random.default_rng(0))
        ingest(data, store, overwrite=True)
        draw_pairs(data, candidates, shared, np.random.default_rng(1)).to_parquet(table)
    return store, pd.read_parquet(table)


# -- R -----------------------------------------------------------------------------------------------------


def r_ladder(store: Path, result: pd.DataFrame, climbed: dict[str, float], n: int, scratch: Path) -> dict[str, float]:
    """Seconds of R for the ladder of one pair; the pair has the median number of doubly open cells."""
    pair = result.sort_values("n_11").iloc[len(result) // 2]
    data = MultiomeStore(store)
    where = {kind: pd.Index(data.column(kind)) for kind in ("gene", "peak")}
    cells = pd.DataFrame({"exprs": data.counts("rna", [where["gene"].get_loc(pair["gene"])], CELLTYPE)[0]})
    for enhancer in PAIR[1:]:
        cells[enhancer] = (data.counts("atac", [where["peak"].get_loc(pair[enhancer])], CELLTYPE)[0] > 0).astype(int)
    here = data.cells_of(CELLTYPE)
    cells = cells.assign(
        **{"nUMI": data.column("cell_n_umi")[here], "percent.mito": data.column("cell_percent_mito")[here]}
    )
    cells.to_csv(scratch / "pair.csv", index=False)
    done = json.loads(monocytes.run_r(str(R_SCRIPT), str(scratch / "pair.csv"), str(n), "1"))
    refits = [PUBLISHED_LADDER[0].n_resamples + climbed[test] * PUBLISHED_LADDER[1].n_resamples for test in TESTS]
    return {
        "r_s_per_refit": [round(s, 5) for s in done["seconds"]],
        "r_ladder_s_per_pair": round(float(np.dot(done["seconds"], refits)), 2),
        "r_max_abs_dbeta": float(np.abs(pair[[f"beta_{test}" for test in TESTS]].astype(float) - done["beta"]).max()),
    }


# -- runs --------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    store, pairs = prepare(folder, args.shared)
    pairs = pairs.iloc[: args.pairs]
    out: dict[str, Any] = {"bench": "epistasis", "pairs": len(pairs), "quick": args.quick}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        call = partial(ed.epistasis, store, celltype=CELLTYPE, progress=False)
        out["compile_s"] = round(warm_up(client, partial(call, pairs.iloc[:40], p="both")), 1)
        begin = time.perf_counter()
        result = call(pairs, p="saddle", client=client)
        out["saddle_wall_s"] = round(time.perf_counter() - begin, 1)
        out["cells"] = int(result[["n_00", "n_10", "n_01", "n_11"]].iloc[0].sum())
        for key, column, value in (("tested", "status", "tested"), ("not_trusted", "saddle_status", "trusted")):
            same = [int((result[f"{column}_{test}"] == value).sum()) for test in TESTS]
            out[key] = dict(zip(TESTS, same, strict=True))
        out["not_trusted"] = {test: out["tested"][test] - out["not_trusted"][test] for test in TESTS}
        if not args.skip_ladder:
            begin = time.perf_counter()
            result = call(pairs, p="both", client=client)
            out["wall_s"] = round(time.perf_counter() - begin, 1)
            out["refits"], out["exact"] = (
                int(sum(result[f"{name}_{test}"].sum() for test in TESTS)) for name in ("n_refits", "n_exact")
            )
            out["refits_per_s"] = round(out["refits"] / out["wall_s"])
            out["climbed"] = {
                test: round(float((result[f"n_resamples_{test}"] > PUBLISHED_LADDER[0].n_resamples).mean()), 4)
                for test in TESTS
            }
        out["driver_rss_gib"], out["worker_rss_gib"] = (round(value, 2) for value in peak_rss(client))
    if not args.skip_ladder and shutil.which("Rscript"):
        out |= r_ladder(store, result, out["climbed"], 20 if args.quick else 200, folder)
        out["ratio"] = round(out["r_ladder_s_per_pair"] * len(pairs) / (2 * out["wall_s"]))
    return out


def main() -> None:
    parser = monocytes.parser_of(__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, help=f"only so many of them (default {N_PAIRS:,}; quick 1,000)")
    parser.add_argument("--skip-ladder", action="store_true", help="p_saddle alone")
    parser.add_argument("--keep", type=Path, help="folder that keeps store and pairs, for the next time")
    args = parser.parse_args()
    args.pairs = args.pairs or (1_000 if args.quick else N_PAIRS)
    with tempfile.TemporaryDirectory(prefix="epistasis-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(args, folder)), flush=True)


if __name__ == "__main__":
    main()
