"""How tests start the commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from enhancer_dask.cli import main; main()"]


def cli(*args, cwd=None, ok=True):
    done = subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert (done.returncode == 0) == ok, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def result(done):
    return json.loads(done.stdout.splitlines()[-1])


def spoil_chunk(folder):
    chunk = folder / "good.zarr" / "rna" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-7])


def start(args, folder):
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_parts(folder: Path, n: int, process) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = len(list((folder / "links.parquet.parts").glob("part-*")))
        if found >= n:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {n} parts: {process.communicate()}")


SLOW = "scent good.zarr --pairs pairs.parquet --out links.parquet --all --seed 3 --chunk-pairs 2 --max-resamples 2500".split()
