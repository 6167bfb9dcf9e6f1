"""What a chunk takes at its peak, against the estimate that is checked before a run.

    python bench/chunk_memory.py [--quick]

Each chunk runs in a process of its own after a tiny one of the same kind (imports, compiled kernels), on a simulated
store: genes with 0.5 counts a cell, peaks open in 12% of the cells. Peak is VmHWM from /proc/self/status less what the
process held before. ``ratio_min`` and ``ratio_max`` are of measured / estimated where the estimate is above 200 MB. The
last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy

import numpy as np
import zarr

from enhancer_dask import chunks, stores
from enhancer_dask.interactions import census, contrasts
from enhancer_dask.interactions import work as interactions
from enhancer_dask.interactions.rows import PairRows
from enhancer_dask.links import pair_tests
from enhancer_dask.links import work as links
from enhancer_dask.stats.bootstrap import up_to

LARGE = 200_000_000
TYPES = {"tiny": 500, "small": 2_500, "middle": 10_000, "large": 50_000}
N_GENES, N_PEAKS = 512, 2_048
COVARIATES = ("a", "b", "c")
# stage, cell type, pairs, peaks per gene, covariates, further options
GRID: list[tuple[str, str, int, int, int, dict[str, Any]]] = [
    ("scent", "tiny", 8_192, 16, 2, {}),
    ("scent", "small", 8_192, 16, 2, {}),
    ("scent", "middle", 4_096, 16, 2, {}),
    ("scent", "middle", 4_096, 100, 1, {}),
    ("scent", "middle", 1_024, 4, 3, {}),
    ("scent", "large", 1_024, 16, 2, {}),
    ("scent", "large", 64, 16, 2, {}),
    ("scent", "large", 64, 1, 3, {}),
    ("scent", "large", 1_024, 4, 2, {"p": "saddle"}),
    ("scent", "middle", 64, 16, 1, {"regression": "negbin", "p": "saddle"}),
    ("epistasis", "small", 2_048, 16, 1, {}),
    ("epistasis", "middle", 1_600, 16, 1, {}),
    ("epistasis", "middle", 1_600, 100, 2, {"p": "saddle"}),
    ("epistasis", "large", 320, 16, 1, {}),
    ("epistasis", "large", 320, 4, 2, {"p": "saddle"}),
    ("epistasis", "large", 64, 4, 2, {"expected": 100, "p": "saddle"}),
    ("census", "small", 8_192, 30, 0, {}),
    ("census", "middle", 8_192, 30, 0, {}),
    ("census", "large", 4_096, 100, 0, {}),
    ("census", "large", 4_096, 10, 0, {}),
]
QUICK = [
    case
    for case in GRID
    if case[1:3] in (("middle", 4_096), ("middle", 1_600), ("large", 4_096))
    and case[3] == (10 if case[0] == "census" else 16)
]


def make_store(folder: Path, seed: int = 0) -> Path:
    """A store without coordinates that mean anything, one cell type per size."""
    rng, path = np.random.default_rng(seed), folder / "multiome.zarr"
    sizes = np.array(list(TYPES.values()))
    bounds, n = np.concatenate([[0], np.cumsum(sizes)]), int(sizes.sum())
    group = zarr.open_group(str(path), mode="w")
    for name, kind, rows, dtype in (("rna", "gene", N_GENES, np.uint16), ("atac", "peak", N_PEAKS, np.uint8)):
        array = stores.create_counts(group, name, (rows, n), dtype)
        n_nonzero = np.empty((rows, len(sizes)), dtype=np.int32)
        for at in range(0, rows, stores.FEATURE_CHUNK):
            shape = (min(stores.FEATURE_CHUNK, rows - at), n)
            counts = rng.poisson(0.5, shape) if name == "rna" else rng.random(shape, dtype=np.float32) < 0.12
            array[at : at + shape[0]] = counts.astype(dtype)
            n_nonzero[at : at + shape[0]] = np.add.reduceat(counts > 0, bounds[:-1], axis=1)
        group.create_array(f"{kind}_n_nonzero", data=n_nonzero)
        _labels(group, kind, [f"{kind}{i}" for i in range(rows)])
        for column in ("start", "end"):
            group.create_array(f"{kind}_{column}", data=np.arange(rows))
        _labels(group, f"{kind}_chrom", ["chr1"] * rows)
    _labels(group, "gene_strand", ["+"] * N_GENES)
    _labels(group, "celltype", list(TYPES))
    _labels(group, "cell", [f"c{i}" for i in range(n)])
    group.create_array("celltype_n_cells", data=sizes)
    for name in COVARIATES:
        group.create_array(f"cell_{name}", data=rng.normal(size=n))
    group.attrs.update({"schema": stores.SCHEMA, "schema_version": 1, "fingerprint": "bench"})
    stores.consolidate(path)
    return path


def _labels(group: zarr.Group, name: str, values: list[str]) -> None:
    group.create_array(name, shape=len(values), dtype=str)[:] = np.array(values, dtype=object)


def work_of(
    path: Path, stage: str, celltype: str, n_pairs: int, per_gene: int, n_covariates: int, options: dict[str, Any]
) -> chunks.Work:
    """The stage's work, of one chunk."""
    data, terms = stores.MultiomeStore(path), COVARIATES[:n_covariates]
    pair = np.arange(n_pairs)
    gene, peak = pair // per_gene % N_GENES, pair % N_PEAKS
    if stage == "scent":
        settings = pair_tests.Options(ladder=up_to(100), **options)
        order = np.lexsort((peak, gene))
        request = links.Request(
            path, data.fingerprint, (celltype,), gene[order], peak[order], terms, None, settings
        )  # fmt: skip
        return links.plan(request, Path("none"), n_pairs)
    rows = PairRows(celltype, np.sort(gene), peak, (peak + 1) % N_PEAKS)
    if stage == "census":
        return census.plan(data, [rows], 0, {}, Path("none"), n_pairs)
    state_settings = contrasts.Options(ladder=up_to(100), **options)
    request_of_states = interactions.Request(
        path, data.fingerprint, (rows,), terms, terms, None, state_settings
    )  # fmt: skip
    return interactions.plan(request_of_states, Path("none"), n_pairs)


def memory(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure(path: Path, case: list[Any]) -> dict[str, Any]:
    """Run one case in this process."""
    stage, celltype, n_pairs, per_gene, n_covariates, options = case
    tiny = work_of(path, stage, "tiny", min(16, n_pairs), per_gene, n_covariates, options)
    tiny.task(*tiny.arguments(0))
    work = work_of(path, stage, celltype, n_pairs, per_gene, n_covariates, options)
    args = work.arguments(0)
    assert work.nbytes is not None
    estimate = work.nbytes(args)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = memory("VmRSS")
    work.task(*args)
    return {"estimate": estimate, "measured": memory("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three chunks")
    parser.add_argument("--case", nargs=2, metavar=("STORE", "JSON"), help="measure one chunk in this process")
    parser.add_argument("--stage", help="only this stage")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(Path(args.case[0]), json.loads(args.case[1]))))
        return
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = make_store(Path(folder))
        for case in QUICK if args.quick else [c for c in GRID if args.stage in (None, c[0])]:
            command = [sys.executable, __file__, "--case", str(path), json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            ratio = found["measured"] / found["estimate"]
            print(f"{case}: {found['measured'] / 1e6:.0f} of {found['estimate'] / 1e6:.0f} MB, {ratio:.2f}", flush=True)
            if found["estimate"] > LARGE or ratio > 1.0:
                ratios.setdefault(case[0], []).append(ratio)
    out: dict[str, Any] = {"bench": "chunk_memory", "quick": args.quick}
    for stage, values in ratios.items():
        out[stage] = {"ratio_min": round(min(values), 2), "ratio_max": round(max(values), 2)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
