"""Contacts -> graph shards -> training batches: rates, and the peak memory of a chromosome at 5 kb.

    python bench/graph_shards.py [--quick] [--contacts N] [--bins N]

Contacts of one simulated chromosome (distance decay d^-1, log-normal coverage, a tenth anywhere) are written as 4DN
.pairs.gz and as .cool; the programs that a user would call, ``enhancer-dask contacts`` and ``enhancer-dask graphs``,
run on them as processes of their own. Rates count input contacts over the wall time of both programs, start of Python
and of the workers in it. Baseline of the pairs: ``cooler cload pairs`` on the same file. ``peak_rss_gib`` is the
largest sum of the proportional set sizes of a program, its scheduler and its workers, looked at ten times a second.
``dense_gib`` is what one dense adjacency of float32 would take. The loader is compared with PyG's DataLoader on the
same graphs in a list. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy

import cooler
import numpy as np
import pandas as pd
import psutil
from torch_geometric.loader import DataLoader

from enhancer_dask.models.data import shard_loader, to_data
from enhancer_dask.shard_store import ShardStore

BIN = 5_000  # bp
LOOK_EVERY_S = 0.1


def simulate(n_bins: int, n_contacts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions (bp, 1-based) of the two ends, the smaller first, sorted."""
    rng = np.random.default_rng(seed)
    coverage = rng.lognormal(0, 0.4, n_bins)
    first = rng.choice(n_bins, n_contacts, p=coverage / coverage.sum())
    distance = np.exp(rng.uniform(0, np.log(n_bins), n_contacts)).astype(np.int64)  # density 1/d
    anywhere = rng.random(n_contacts) < 0.1
    distance[anywhere] = rng.integers(1, n_bins, anywhere.sum())
    second = np.where(first + distance < n_bins, first + distance, np.abs(first - distance)) % n_bins
    ends = np.sort(np.stack([first, second]) * BIN + rng.integers(1, BIN + 1, (2, n_contacts)), axis=0)
    order = np.lexsort((ends[1], ends[0]))
    return ends[0, order], ends[1, order]


def write_pairs(path: Path, one: np.ndarray, two: np.ndarray, length: int) -> None:
    """A 4DN file; gzip -1, as fast as its reader deserves."""
    table = pd.DataFrame({"id": ".", "c1": "chr1", "p1": one, "c2": "chr1", "p2": two, "s1": "+", "s2": "-"})
    with gzip.open(path, "wt", compresslevel=1) as out:
        out.write("## pairs format v1.0\n#sorted: chr1-chr2-pos1-pos2\n#shape: upper triangle\n")
        out.write(f"#chromsize: chr1 {length}\n#columns: readID chr1 pos1 chr2 pos2 strand1 strand2\n")
        table.to_csv(out, sep="\t", header=False, index=False)


def write_cool(path: Path, one: np.ndarray, two: np.ndarray, n_bins: int) -> int:
    """The same contacts, binned here; returns the number of pixels."""
    key, count = np.unique((one - 1) // BIN * n_bins + (two - 1) // BIN, return_counts=True)
    start = np.arange(n_bins) * BIN
    bins = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + BIN})
    pixels = pd.DataFrame({"bin1_id": key // n_bins, "bin2_id": key % n_bins, "count": count})
    cooler.create_cooler(str(path), bins, pixels, ordered=True)
    return len(key)


def watched(command: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Run a program; its wall time in s, the peak memory of its tree in GiB, and the JSON that it prints last."""
    begin, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _memory(tree))
        time.sleep(LOOK_EVERY_S)
    seconds = time.perf_counter() - begin
    out = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return seconds, peak / 2**30, json.loads(out.splitlines()[-1]) if out.startswith("{") else {}


def _memory(tree: psutil.Process) -> int:
    total = 0
    for process in [tree, *tree.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # ended meanwhile
            continue
    return total


def to_shards(source: Path, folder: Path, *, window: bool) -> tuple[float, float, Path]:
    """Wall time and peak memory of both programs, and where the shards are."""
    program = [sys.executable, "-m", "enhancer_dask.cli"]
    store, shards = folder / f"{source.name}.zarr", folder / f"{source.name}.shards"
    read = watched([*program, "contacts", str(source), "--resolution", str(BIN), "--out", str(store)])
    cut = ["--window", "6000000", "--step", "2000000"] if window else []
    options = ["--rule", "oe>1", "--balance", "ice", "--min-distance", "1", "--out", str(shards)]
    made = watched([*program, "graphs", str(store), *options, *cut])
    print(f"{source.name}{' in windows' if window else ''}: contacts {read[0]:.1f} s, {read[1]:.2f} GiB; "
          f"graphs {made[0]:.1f} s, {made[1]:.2f} GiB", flush=True)  # fmt: skip
    return read[0] + made[0], max(read[1], made[1]), shards


def loader_rates(shards: Path, repeats: int) -> tuple[float, float]:
    """Graphs per second of the streaming loader and of an in-memory list, batches of 1."""
    in_memory = [to_data(graph) for graph in ShardStore(shards).graphs()]
    rates: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        for loader, found in zip(
            (shard_loader(shards, batch_size=1, shuffle=True, seed=0), DataLoader(in_memory, 1, shuffle=True)),
            rates,
            strict=True,
        ):
            begin, n = time.perf_counter(), 0
            for batch in loader:
                n += batch.num_graphs
            found.append(n / (time.perf_counter() - begin))
    return max(rates[0]), max(rates[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the contacts, a tenth of the bins")
    parser.add_argument("--contacts", type=int, default=10_000_000)
    parser.add_argument("--bins", type=int, default=50_000)
    args = parser.parse_args()
    n_bins, n_contacts = (args.bins // 10, args.contacts // 50) if args.quick else (args.bins, args.contacts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, two = simulate(n_bins, n_contacts)
        pairs, cool = folder / "chr1.pairs.gz", folder / "chr1.cool"
        write_pairs(pairs, one, two, n_bins * BIN)
        n_pixels = write_cool(cool, one, two, n_bins)
        sizes = folder / "chrom.sizes"
        sizes.write_text(f"chr1\t{n_bins * BIN}\n")
        cload = ["-m", "cooler", "cload", "pairs", "-c1", "2", "-p1", "3", "-c2", "4", "-p2", "5", f"{sizes}:{BIN}"]
        baseline_s, baseline_gib, _ = watched([sys.executable, *cload, str(pairs), str(folder / "cload.cool")])
        print(f"cooler cload pairs: {baseline_s:.1f} s, {baseline_gib:.2f} GiB", flush=True)
        pairs_s, pairs_gib, _ = to_shards(pairs, folder, window=False)
        cool_s, cool_gib, whole = to_shards(cool, folder, window=False)
        (folder / "windows").mkdir()
        _, window_gib, windows = to_shards(cool, folder / "windows", window=True)
        streamed, listed = loader_rates(windows, repeats=3)
        n_edges = int(ShardStore(whole).index["n_edges"].sum())
    out = {
        "bench": "graph_shards", "quick": args.quick, "bins": n_bins, "contacts": n_contacts, "pixels": n_pixels,
        "edges": n_edges, "pairs_per_s": round(n_contacts / pairs_s), "cool_contacts_per_s": round(n_contacts / cool_s),
        "cooler_cload_s": round(baseline_s, 1), "chr1_5kb_s": round(cool_s, 1),
        "peak_rss_gib": round(max(pairs_gib, cool_gib, window_gib), 2), "dense_gib": round(n_bins**2 * 4 / 2**30, 1),
        "loader_graphs_per_s": round(streamed, 1), "loader_ratio": round(streamed / listed, 2),
    }  # fmt: skip
    print(json.dumps(out))


if __name__ == "__main__":
    main()
