"""The driver itself inside a job: examples/run.sbatch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from waiting import wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "run.sbatch"
SCENT = {"engine": "exact", "max_resamples": 500, "chunk_pairs": 5, "seed": 1}


@pytest.fixture
def folder(user):
    """A folder with the workload's files as a run.yaml, and ``enhancer-dask`` on the path."""
    inputs = user.workload.store.parent
    run = {
        "out": "results",
        "ingest": {
            "inputs": str(inputs / "multiome.h5"),
            "cells": str(inputs / "cells.tsv"),
            "gtf": str(inputs / "genes.gtf.gz"),
        },
        "scent": SCENT,
        "epistasis": None,
        "figures": False,
    }
    (user.folder / "run.yaml").write_text(yaml.safe_dump(run))
    return user.folder


def submit(user, slurm, *options):
    small = ["--cpus-per-task=2", "--mem=2G", *options]
    done = subprocess.run(
        ["sbatch", "--parsable", *small, str(EXAMPLE), "run.yaml"], cwd=user.folder, env=user.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    job = done.stdout.strip()
    return job, lambda: (user.folder / f"enhancer-dask-{job}.log").read_text()


def state_of(slurm, job):
    text = slurm.run("scontrol", "show", "job", job)
    return {key: value for key, _, value in (word.partition("=") for word in text.split())}


def check_links(user):
    links = pd.read_parquet(user.folder / "results" / "links.parquet")
    pd.testing.assert_frame_equal(links, pd.read_parquet(user.workload.reference), check_exact=True)


def test_run_sbatch__queues_itself_again_before_the_wall_time(user, folder, slurm):
    user.fault("hold")
    job, log = submit(user, slurm, "--time=1", "--signal=B:USR1@20")
    wait_until(lambda: state_of(slurm, job)["Restarts"] == "1", 240, "the job in the queue again")
    assert "what is finished is kept" in log()
    assert f"job {job} is queued again" in log()
    user.mend("hold")
    # by itself it begins after two minutes, and may need several more of one minute
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+3", "TimeLimit=10")
    wait_until(lambda: state_of(slurm, job)["JobState"] == "COMPLETED", 300, "the end of the run")
    assert '"n_tested"' in log()
    check_links(user)


def test_run_sbatch__on_two_nodes(user, folder, slurm):
    job, log = submit(user, slurm, "--nodes=2")
    wait_until(lambda: state_of(slurm, job)["JobState"] in ("COMPLETED", "FAILED"), 300, "the end of the run")
    assert state_of(slurm, job)["JobState"] == "COMPLETED", log()
    wait_until(lambda: not slurm.pids_of(job), 60, "the end of its scheduler and workers")
    check_links(user)


def test_run_sbatch__cancelled_is_not_queued_again(user, folder, slurm):
    user.fault("hold")
    job, _ = submit(user, slurm)
    wait_until(lambda: (user.folder / "results" / "links.parquet.parts").exists(), 120, "parts")
    slurm.run("scancel", job)
    wait_until(lambda: state_of(slurm, job)["JobState"] == "CANCELLED", 90, "the end of the job")
    slurm.wait_for_jobs(0, timeout=15)
    assert state_of(slurm, job)["Restarts"] == "0"
