"""How runs grow: efficiency of more workers on SCENT, and what a chunk costs scheduler and driver.

* ``efficiency``: workers -> seconds of one worker over workers times seconds of so many, for the same simulated
  multiome, p-values with the ladder; compiled before. ``seconds`` beside it.
* ``overhead_ms_per_chunk``: chunks -> wall time of a run of chunks that compute nothing, per chunk, on two workers;
  each writes its part as always. ``driver_cpu_ms_per_chunk`` is the processor time of the process that holds driver and
  scheduler, which bounds the chunks per second however many workers there are; ``write_ms`` one part written alone.
* ``resume_ms_per_chunk``: the same run again, all parts there.
* ``driver_rss_gib``: chunks -> largest memory of driver and scheduler so far, in this order: flat if it does not grow.

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from published import peak_rss, warm_up  # beside this file; comes before numpy

# isort: split
import pandas as pd
from distributed import Client, LocalCluster

import enhancer_dask as ed
from enhancer_dask import chunks
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import write_parquet
from enhancer_dask.links.candidates import candidates
from enhancer_dask.simulate.multiome import simulate_multiome, write_simulation
from enhancer_dask.stats.bootstrap import up_to


def start(n_workers: int) -> LocalCluster:
    return LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0")


def prepare(folder: Path, n_genes: int) -> tuple[Path, pd.DataFrame]:
    """Store and candidate pairs of a simulation."""
    simulation = simulate_multiome(n_cells={"A": 2_000}, n_genes=n_genes, links_per_gene=2.0, seed=1)
    files = write_simulation(simulation, folder / "simulated")
    store = folder / "multiome.zarr"
    ingest(files["multiome"], store, cells=files["cells"], gtf=files["gtf"])
    return store, candidates(store, folder / "pairs.parquet")


def efficiency(folder: Path, n_genes: int, repeats: int) -> dict[str, Any]:
    store, pairs = prepare(folder, n_genes)

    def call(client: Client | None = None, n: int | None = None) -> None:
        ed.scent(store, pairs[:n], p="both", ladder=up_to(2_500), chunk_pairs=32, client=client, progress=False)

    counts = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    seconds = dict.fromkeys(counts, float("inf"))
    for _ in range(repeats):  # in turn, since the machine is shared; the fastest of each counts
        for n in counts:
            with start(n) as cluster, Client(cluster) as client:
                warm_up(client, lambda: call(n=40))
                begin = time.perf_counter()
                call(client)
                seconds[n] = min(seconds[n], time.perf_counter() - begin)
    return {
        "pairs": len(pairs),
        "seconds": {n: round(s, 1) for n, s in seconds.items()},
        "efficiency": {n: round(seconds[1] / (n * s), 3) for n, s in seconds.items()},
    }


def overhead(folder: Path, sizes: list[int]) -> dict[str, Any]:
    keys = (
        "overhead_ms_per_chunk", "driver_cpu_ms_per_chunk", "resume_ms_per_chunk", "driver_rss_gib",
    )  # fmt: skip
    out: dict[str, Any] = {key: {} for key in keys} | {"write_ms": round(write_ms(folder), 2)}
    with start(2) as cluster, Client(cluster) as client:
        for n in sizes:
            work = chunks.Work("noop", pd.DataFrame, lambda i: ({"chunk": [i]},), n, {}, {}, folder / f"{n}")
            begin, cpu = time.perf_counter(), time.process_time()
            chunks.run(work, client, progress=False)
            spent = [time.perf_counter() - begin, time.process_time() - cpu]
            begin = time.perf_counter()
            assert chunks.run(work, client, progress=False).n_found == n
            per_chunk = [round(1e3 * s / n, 2) for s in (*spent, time.perf_counter() - begin)]
            for key, value in zip(keys, [*per_chunk, round(peak_rss(client)[0], 3)], strict=True):
                out[key][n] = value
    return out


def write_ms(folder: Path, n: int = 200) -> float:
    table = pd.DataFrame({"chunk": [0]})
    begin = time.perf_counter()
    for _ in range(n):
        write_parquet(table, folder / "part.parquet", meta={"signature": "0"}, make_parent=False)
    return 1e3 * (time.perf_counter() - begin) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few genes, 500 and 2,000 chunks")
    parser.add_argument("--chunks", type=int, nargs="+", help="numbers of chunks (default 10,000 and 100,000)")
    parser.add_argument("--repeats", type=int, default=2, help="of the runs whose efficiency is measured (quick 1)")
    args = parser.parse_args()
    sizes = args.chunks or ([500, 2_000] if args.quick else [10_000, 100_000])
    with tempfile.TemporaryDirectory(prefix="scaling-") as scratch:
        out = {"bench": "scaling", "quick": args.quick, "cores": os.cpu_count()}
        out |= efficiency(Path(scratch), 10 if args.quick else 60, 1 if args.quick else args.repeats)
        out |= overhead(Path(scratch), sizes)
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
