"""Trainings on SLURM: as one job that a user submits, and as tasks of many jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from user import COMMAND
from waiting import wait_until

from enhancer_dask.simulate.chromosomes import preset_design, simulate_chromosomes

pytest.importorskip("torch_geometric")


@pytest.fixture
def folder(tmp_path, profiles):
    """A folder with small shards and a cluster.yaml."""
    design = preset_design("enhancers", bins=200, genes=8)
    simulate_chromosomes(tmp_path / "shards", design, n_train=4, n_validation=2, n_test=2)
    return tmp_path


def do(folder, *arguments):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = ("train", "shards", "--model", "two-way-windows", "--epochs", "40", "--out", "run")


def test_train__its_job_script_trains_on_a_node(folder, slurm):
    (folder / "job.sh").write_text(do(folder, *TRAIN, "--profile", "slurm", "--script"))
    assert not (folder / "run").exists()
    job = subprocess.run(["sbatch", "--parsable", "job.sh"], cwd=folder, capture_output=True, text=True, check=True)
    wait_until((folder / "run" / "result.json").exists, 240, "the end of the training")
    slurm.wait_for_jobs(0)
    found = json.loads((folder / "run" / "result.json").read_text())
    assert found["epochs"] == 40
    assert found["test_mse"] > 0
    assert list(folder.glob(f"*-{job.stdout.strip()}.log"))
    assert json.loads(do(folder, *TRAIN))["test_mse"] == found["test_mse"]  # finished: nothing is trained here


def test_train__several_seeds_are_tasks_of_jobs(folder, profile, slurm):
    profile(jobs=1)
    arguments = ("train", "shards", "--model", "ridge", "--seeds", "2", "--out", "runs")
    do(folder, *arguments, "--profile", "slurm", "--no-progress")
    table = pd.read_parquet(folder / "runs" / "table.parquet")
    assert table["run"].tolist() == ["seed-0", "seed-1"]
    first, second = table["test_mse"]
    assert first == second  # a closed form does not depend on the seed
    slurm.wait_for_jobs(0)
