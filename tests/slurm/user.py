"""Someone who types ``enhancer-dask`` on a login node, and the work that the fault tests give to SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import chunk_faults
import pandas as pd
import yaml
from waiting import wait_until

from enhancer_dask.io.tables import read_meta
from enhancer_dask.stores import MultiomeStore

COMMAND = [sys.executable, "-c", "from enhancer_dask.cli import main; main()"]
OUT = "links.parquet"


@dataclass(frozen=True)
class Workload:
    """A few hundred chunks of SCENT with resampling, and what they give on an undisturbed LocalCluster."""

    store: Path
    pairs: Path
    arguments: tuple[str, ...]
    reference: Path


class Driver:
    """A running command."""

    def __init__(self, process: subprocess.Popen, folder: Path, log: Path) -> None:
        self.process, self.folder, self.log = process, folder, log

    def parts(self) -> set[str]:
        return {path.name for path in (self.folder / f"{OUT}.parts").glob("part-*")}

    def wait_for(self, condition, what: str, timeout: float = 180):
        """Wait for something true while the command runs."""

        def ended_or_true():
            value = condition()
            assert value or self.process.poll() is None, f"ended before {what}: {self.log.read_text()}"
            return value

        try:
            return wait_until(ended_or_true, timeout, what)
        except AssertionError as err:
            raise AssertionError(f"{err}; it says: {self.log.read_text()}") from err

    def wait_for_parts(self, n: int) -> None:
        self.wait_for(lambda: len(self.parts()) >= n, f"{n} parts")

    def wait_for_text(self, text: str, timeout: float = 180) -> None:
        self.wait_for(lambda: text in self.log.read_text(), f"the words {text!r}", timeout)

    def finish(self, timeout: float = 240) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end; it says: {self.log.read_text()}") from None


class User:
    """A folder with a cluster.yaml, commands started in it, and faults of their chunks."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        self.folder, self.workload = folder, workload
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.started: list[Driver] = []
        self.profile()

    def profile(self, **keys: object) -> None:
        """Write cluster.yaml: three jobs of one core, with these keys changed."""
        slurm = {
            "kind": "slurm",
            "partition": "debug",
            "cores": 1,
            "memory": "1GB",
            "walltime": "00:10:00",
            "jobs": 3,
            "interface": "lo",
            "death_timeout": "20s",
            "local_directory": str(self.folder / "scratch"),
            "log_directory": str(self.folder / "logs"),
            "python": sys.executable,
        }
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump({"slurm": slurm | keys}))

    def tested_pair(self) -> tuple[str, int, int]:
        """Cell type, gene and peak (rows of the store) of a pair that only one chunk tests."""
        table, store = pd.read_parquet(self.workload.reference), MultiomeStore(self.workload.store)
        row = table[table["status"] == "tested"].iloc[100]
        gene, peak = (int(store.rows_of(dim, row[[dim]])[0]) for dim in ("gene", "peak"))
        return row["celltype"], gene, peak

    @property
    def environment(self) -> dict[str, str]:
        """Of a command; sbatch passes it on to the jobs."""
        preload = json.dumps([chunk_faults.__file__])
        faults = {chunk_faults.VARIABLE: str(self.faults), "DASK_DISTRIBUTED__WORKER__PRELOAD": preload}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an active environment
        return os.environ | faults | {"PATH": path, "PYTHONUNBUFFERED": "1"}

    @property
    def scent(self) -> list[str]:
        """The command of the workload."""
        work = self.workload
        files = [str(work.store), "--pairs", str(work.pairs), "--out", OUT]
        return [*COMMAND, "scent", *files, *work.arguments, "--profile", "slurm"]

    def start(self, command: list[str] | None = None, *, folder: Path | None = None) -> Driver:
        """Start a command, by default the workload, with a process group of its own and no stdin."""
        folder = folder or self.folder
        log = self.folder / f"command-{len(self.started)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command or self.scent, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip
        self.started.append(Driver(process, folder, log))
        return self.started[-1]

    def do(self, *arguments: str, ok: bool = True) -> str:
        """Run a short command to its end; returns what it prints on both streams."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def fault(self, name: str, value: object = "") -> None:
        """Let chunks ``hold``, be ``slow`` (seconds) or ``poison`` (number of a gene)."""
        (self.faults / name).write_text(str(value))

    def mend(self, name: str) -> None:
        (self.faults / name).unlink()

    def check_result(self, driver: Driver) -> None:
        """The command succeeds and its table is the undisturbed one, bit by bit."""
        assert driver.finish() == 0, driver.log.read_text()
        assert "Traceback" not in (said := driver.log.read_text()), said
        self.check_table(driver.folder)

    def check_table(self, folder: Path | None = None) -> None:
        """The table is the undisturbed one, and no part is left."""
        out, reference = (folder or self.folder) / OUT, self.workload.reference
        pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(reference), check_exact=True)
        assert read_meta(out) == read_meta(reference)
        assert not out.with_name(f"{OUT}.parts").exists()

    def stop(self) -> None:
        """Whatever a failed test left."""
        for driver in self.started:
            with suppress(ProcessLookupError):
                os.killpg(driver.process.pid, 9)
            driver.process.wait()
