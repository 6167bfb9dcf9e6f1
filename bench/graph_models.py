"""Graph models: error and seconds to train, growth of time and memory, and streaming against memory.

    python bench/graph_models.py [--seeds N] [--seed-offset N] [--pool N] [--pool-seeds N] [--quick]
    python bench/graph_models.py --scaling
    python bench/graph_models.py --streaming

The first form trains ``two-way-windows`` and ``ridge`` on the two data sets of Bell's report as ``enhancer-dask
reproduce bell`` does: 20 chromosomes to train on, the weights chosen by 5, judged by ``--test-chromosomes``; set1 is
with enhancers, set2 with silencers too, the pool the same model on many simulated chromosomes. Means over data seeds.
``..._train_s`` is wall time on one thread, ``..._cpu_s`` CPU time of the whole call, which also reads and judges.

``--scaling``: an epoch (forward, backward, Adam) over one graph whose contacts have a distance decay of d^-1, each case
in a process of its own after a tiny one. Bins of ``graphreg-epi`` are those of 100 bp: 60,000 are a window of 6 Mb.
Peak is VmHWM less what the process held before. Slopes are those of log against log between the two largest cases and
over all of them; a constant part (of bins, where edges grow) makes a slope smaller.

``--streaming``: epochs over windows of 6 Mb in memory, and streamed from shards with no and one reading process. The
three take turns step by step, waiting for a batch included; ``..._ratio`` is all that time against memory,
``..._step_cpu_ratio`` that of the median step, without the filling of the buffer at the begin of an epoch.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy

import numpy as np
import pandas as pd
import psutil
import torch

from enhancer_dask.models.data import to_data
from enhancer_dask.models.graph_data import Batches, GraphSet
from enhancer_dask.models.losses import mean_loss
from enhancer_dask.models.registry import build, n_parameters, spec
from enhancer_dask.reproduction import POOL, reproduce_chunk, train_one, write_chromosomes
from enhancer_dask.shard_store import Graph, ShardStore, finish_shards, sorted_edges, write_shard

SETS = {"set1": "enhancers", "set2": "silencers"}
FINE = 50  # bins of 100 bp in one of 5 kb
TRACKS = ("dnase", "h3k27ac", "h3k4me3")
BINS = (1_000, 5_000, 20_000, 60_000)
EDGES = (5, 20, 80, 160)  # per bin
# of the edges' growth, in the model's bins
AT_BINS = {"epi-graphreg": 5_000, "two-way-windows": 5_000, "graphreg-epi": 60_000}
WINDOW = 1_200  # bins of 5 kb in 6 Mb
PER_SHARD = 4
# graphreg-epi of half the width, which a core trains in half a second a window
HALF = {"tracks": TRACKS, "width": 64, "head_width": 16}


def accuracy(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Errors and times, means over the data seeds."""
    settings = {"epochs": args.epochs, "patience": None}
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    _warm_up(folder / "warm")
    for seed in range(args.seed_offset, args.seed_offset + args.seeds):
        for label, dataset in SETS.items():
            write_chromosomes(folder / "data", {(dataset, seed)}, args.test_chromosomes)
            number = label[-1]
            row, cpu = _trained(folder, dataset, seed, "two-way-windows", settings)
            ridge, _ = _trained(folder, dataset, seed, "ridge", settings)
            for name, value in ((f"{label}_mse", row["test_mse"]), (f"{label}_train_s", row["train_s"]),
                                (f"{label}_cpu_s", cpu), (f"floor{number}", row["floor_mse"]),
                                (f"ridge{number}", ridge["test_mse"])):  # fmt: skip
                add(name, value)
            print(f"seed {seed}, {dataset}: {row['test_mse']:.4f} (floor {row['floor_mse']:.4f}, ridge "
                  f"{ridge['test_mse']:.4f}) in {row['train_s']:.1f} s, CPU {cpu:.1f} s", flush=True)  # fmt: skip
    for seed in range(args.seed_offset, args.seed_offset + (args.pool_seeds if args.pool else 0)):
        begin = time.perf_counter()
        write_chromosomes(folder / "data", {("silencers", seed)}, args.test_chromosomes, args.pool)
        add("pool_simulate_s", time.perf_counter() - begin)
        row, cpu = _trained(folder, "silencers", seed, POOL, settings)
        for name, value in (("mse", row["test_mse"]), ("train_s", row["train_s"]), ("cpu_s", cpu)):
            add(f"set2_pool_{name}", value)
        print(f"seed {seed}, silencers, {args.pool:,} chromosomes: {row['test_mse']:.4f} in {row['train_s']:.1f} s, "
              f"CPU {cpu:.1f} s", flush=True)  # fmt: skip
    out = {name: round(statistics.fmean(values), 2 if name.endswith("_s") else 5) for name, values in found.items()}
    spread = {f"{name}_each": [round(v, 4) for v in found[name]] for name in found if name.endswith("_mse")}
    return {"seeds": args.seeds, "pool": args.pool, **out, **spread}


def _warm_up(folder: Path) -> None:
    """What torch and Lightning do once only."""
    write_chromosomes(folder / "data", {("silencers", 0)}, 1)
    for name in ("ridge", "two-way-windows"):
        train_one(folder, "silencers", 0, name, {"epochs": 2, "patience": None})


def _trained(folder: Path, dataset: str, seed: int, name: str, settings: dict[str, Any]) -> tuple[Any, float]:
    """Row of the table of ``reproduce bell``, and CPU seconds of the training."""
    begin = time.process_time()
    train_one(folder, dataset, seed, name, settings)
    cpu = time.process_time() - begin
    return reproduce_chunk(folder, dataset, seed, name, settings).iloc[0], cpu


def window(name: str, bins: int, per_bin: int, rng: np.random.Generator, *, fine: bool) -> Graph:
    """A graph as of real contacts: ``per_bin`` edges a bin in both directions, in distances with density 1 / d."""
    first = rng.integers(0, bins, int(0.8 * bins * per_bin))
    second = first + np.exp(rng.uniform(0, np.log(bins), len(first))).astype(np.int64)
    key = np.unique((first * bins + second)[second < bins])
    key = rng.permutation(key)[: bins * per_bin // 2]
    first, second = key // bins, key % bins
    both = np.concatenate([first, second]), np.concatenate([second, first])
    oe = rng.lognormal(0.5, 0.5, len(key)).astype(np.float32)
    source, target, edges = sorted_edges(*both, {"oe": np.tile(oe, 2)})
    nodes: dict[str, Any] = {"y": rng.poisson(2.0, bins).astype(np.float32)}
    if fine:
        nodes |= {track: rng.gamma(0.5, 1.0, (bins, FINE)).astype(np.float32) for track in TRACKS}
    else:
        nodes["x"] = rng.gamma(0.5, 1.0, (bins, 1)).astype(np.float32)
    return Graph(name, bins, source, target, nodes, edges, labels={"split": "train"})


class Steps:
    """Trains a model batch by batch as the training does, without what is around it."""

    def __init__(self, name: str, **options: Any) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = build(name, **options).train()
        self.loss = mean_loss(spec(name).training["loss"], delta=0.3)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)

    def epoch(self, batches: Any) -> None:
        """One pass."""
        for batch in batches:
            self.adam.zero_grad()
            self.loss(self.model.predictions(batch), batch.y, None).sum().backward()
            self.adam.step()


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak memory of an epoch of one case, in this process."""
    name, fine = case["model"], case["model"] == "graphreg-epi"
    steps, rng = Steps(name, **({"tracks": TRACKS} if fine else {})), np.random.default_rng(0)
    bins = case["bins"] // FINE if fine else case["bins"]
    steps.epoch([to_data(window("tiny", 100, 4, rng, fine=fine))])
    batches = [to_data(window("large", bins, case["per_bin"], rng, fine=fine))]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, walls, cpus = _memory("VmRSS"), [], []
    deadline = time.perf_counter() + case["repeat_s"]  # short epochs are repeated
    while len(walls) < 2 or (time.perf_counter() < deadline and len(walls) < 20):
        wall, cpu = time.perf_counter(), time.process_time()
        steps.epoch(batches)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = (_memory("VmHWM") - before) / 1e6
    return {"edges": batches[0].num_edges, "s": min(walls), "cpu_s": min(cpus), "mb": peak}


def _memory(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def scaling(quick: bool) -> dict[str, Any]:
    """Growth with bins and with edges, model by model."""
    out: dict[str, Any] = {}
    for name in ("two-way-windows",) if quick else tuple(AT_BINS):
        done: dict[tuple[int, int], dict[str, float]] = {}
        for_bins = [(bins, 20) for bins in (BINS[:2] if quick else BINS)]
        for_edges = [(5_000 if quick else AT_BINS[name], n) for n in (EDGES[:2] if quick else EDGES)]
        for bins, per_bin in dict.fromkeys(for_bins + for_edges):
            case = {"model": name, "bins": bins, "per_bin": per_bin, "repeat_s": 0.5 if quick else 6.0}
            command = [sys.executable, __file__, "--case", json.dumps(case)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = done[bins, per_bin] = json.loads(ended.stdout.splitlines()[-1])
            print(f"{name}, {bins:,} bins, {found['edges']:,} edges: {found['s']:.3f} s an epoch (CPU "
                  f"{found['cpu_s']:.3f}), {found['mb']:.0f} MB", flush=True)  # fmt: skip
        out[name] = {
            "bins": _growth([bins for bins, _ in for_bins], [done[case] for case in for_bins]),
            "edges": _growth([done[case]["edges"] for case in for_edges], [done[case] for case in for_edges]),
        }
    return {"scaling": out}


def _growth(sizes: list[float], found: list[dict[str, float]]) -> dict[str, Any]:
    out: dict[str, Any] = {"sizes": sizes}
    for key, digits in (("s", 4), ("cpu_s", 4), ("mb", 1)):
        values = [one[key] for one in found]
        logs = np.log(sizes), np.log(np.maximum(values, 1e-9))
        out |= {
            key: [round(value, digits) for value in values],
            f"slope_{key}": round(float(np.polyfit(*logs, 1)[0]), 2),
            f"slope_{key}_last": round(float(np.diff(logs[1])[-1] / np.diff(logs[0])[-1]), 2),
        }
    return out


def streaming(folder: Path, n_windows: int, bins: int, per_bin: int, repeats: int) -> dict[str, Any]:
    """Epochs over the same windows from memory and from shards."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    graphs = [window(f"window-{i}", bins, per_bin, rng, fine=True) for i in range(n_windows)]
    starts = range(0, n_windows, PER_SHARD)
    rows = [write_shard(folder / f"shard-{i:08d}.zarr", graphs[i : i + PER_SHARD]) for i in starts]
    finish_shards(folder, pd.concat(rows, ignore_index=True), {})
    mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / n_windows / 1e6
    n_edges = len(graphs[0].source)
    del graphs
    store, steps = ShardStore(folder), Steps("graphreg-epi", **HALF)
    ways: dict[str, Batches] = {}
    for name, in_memory, n_workers in (("memory", True, 0), ("stream_0", False, 0), ("stream_1", False, 1)):
        whole = GraphSet(store, "split == 'train'", in_memory=in_memory)
        ways[name] = whole.batches(1, shuffle=True, num_workers=n_workers)
    begin = time.perf_counter()
    next(iter(ways["stream_1"]))  # its process imports torch
    start_s = time.perf_counter() - begin
    begin, cpu = time.perf_counter(), time.process_time()
    n_read = sum(1 for _ in ways["stream_0"])
    read_s, read_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    spent = {name: np.zeros((repeats, n_windows, 2)) for name in ways}
    reader_cpu_s = -_cpu_of_readers()
    for epoch in range(repeats):
        for batches in ways.values():
            batches.set_epoch(epoch)
        running = {name: iter(batches) for name, batches in ways.items()}
        for i in range(n_windows):
            for name in np.roll(list(ways), i):  # in turn, so that what else the machine does is the same for all
                begin, cpu = time.perf_counter(), time.process_time()
                steps.epoch([next(running[name])])
                spent[name][epoch, i] = time.perf_counter() - begin, time.process_time() - cpu
        for left in running.values():
            next(left, None)
        found = ", ".join(
            f"{name} {s:.2f} (CPU {cpu:.2f})" for name, one in spent.items() for s, cpu in [one[epoch].sum(0)]
        )
        print(f"epoch {epoch}, s: {found}", flush=True)
    reader_cpu_s += _cpu_of_readers()
    out: dict[str, Any] = {
        "windows": n_windows, "bins": bins, "edges": n_edges, "parameters": n_parameters(steps.model),
        "mb_per_window": round(mb, 2), "read_ms": round(read_s / n_read * 1e3, 1),
        "read_cpu_ms": round(read_cpu_s / n_read * 1e3, 1), "stream_1_start_s": round(start_s, 1),
        "stream_1_reader_cpu_s": round(reader_cpu_s / repeats, 2),
    }  # fmt: skip
    memory = spent["memory"].sum((0, 1))
    for name, one in spent.items():
        wall, cpu = one.sum((0, 1))
        out |= {f"{name}_s": round(wall / repeats, 2), f"{name}_cpu_s": round(cpu / repeats, 2)}
        if name != "memory":
            out |= {f"{name}_ratio": round(wall / memory[0], 3), f"{name}_cpu_ratio": round(cpu / memory[1], 3)}
            steps_alone = np.median(one[..., 1]) / np.median(spent["memory"][..., 1])
            out[f"{name}_step_cpu_ratio"] = round(float(steps_alone), 3)
    return {"streaming": out}


def _cpu_of_readers() -> float:
    """CPU seconds of the processes that read for this one."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all parts in a short form that says nothing on errors")
    parser.add_argument("--seeds", type=int, default=5, help="data sets of each kind")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first seed")
    parser.add_argument("--test-chromosomes", type=int, default=200)
    parser.add_argument("--pool", type=int, default=5_000, help="simulated chromosomes to train on, 0: none")
    parser.add_argument("--pool-seeds", type=int, default=2, help="pools")
    parser.add_argument("--epochs", type=int, help="at most, instead of the preset's")
    parser.add_argument("--scaling", action="store_true", help="growth with bins and edges instead")
    parser.add_argument("--streaming", action="store_true", help="streamed against in memory instead")
    parser.add_argument("--case", metavar="JSON", help="measure one case of the growth in this process")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(json.loads(args.case))))
        return
    if args.quick:
        args.seeds = args.pool_seeds = 1
        args.test_chromosomes, args.pool, args.epochs = 10, 40, 20
    chosen = args.scaling or args.streaming
    out: dict[str, Any] = {"bench": "graph_models", "quick": args.quick}
    with tempfile.TemporaryDirectory() as name:
        if not chosen or args.quick:
            out |= accuracy(args, Path(name) / "accuracy")
        if args.scaling or args.quick:
            out |= scaling(args.quick)
        if args.streaming or args.quick:
            size = (6, 300, 40, 1) if args.quick else (32, WINDOW, 108, 2)
            out |= streaming(Path(name) / "windows", *size)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
