"""The check of a profile on a real SLURM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import enhancer_dask
from enhancer_dask.clusters.check import check
from enhancer_dask.clusters.nodes import versions
from enhancer_dask.errors import ClusterError


@pytest.fixture(autouse=True)
def nothing_left(slurm):
    yield
    slurm.wait_for_jobs(0)


def test_check__says_what_a_worker_has(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    found = check("slurm", profile(), say=said.append)
    text = "\n".join(said)
    assert "#SBATCH -p debug" in text
    assert "--lifetime 525s" in text
    assert found["versions"] == versions()
    assert found["job_cores"] == 1
    assert found["nthreads"] == 1
    assert found["job_memory"] == 10**9 // 2**20 * 2**20
    assert found["sees_driver_folder"]
    assert found["scratch"]["folder"].startswith(str(tmp_path / "scratch"))
    assert found["scratch"]["free"] > 0
    assert "current folder: is seen by the worker" in said


def test_check__refuses_an_older_package(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # python -m looks for packages in the current folder first
    there = tmp_path / "old"
    shutil.copytree(Path(enhancer_dask.__file__).parent, there / "enhancer_dask", ignore=lambda *_: ["__pycache__"])
    (there / "enhancer_dask" / "_version.py").write_text('__version__ = "0.0.1"\n')
    config = profile(prologue=[f"export PYTHONPATH={there}"])
    message = f"profile 'slurm': enhancer-dask is 0.0.1 on the worker and {enhancer_dask.__version__} on the driver"
    with pytest.raises(ClusterError, match=message):
        check("slurm", config, say=lambda _: None)


def test_check__a_resource_that_slurm_does_not_have_is_named(profile):
    with pytest.raises(ClusterError, match=r"profile 'slurm': SLURM refuses the jobs: .*[Ii]nvalid generic resource"):
        check("slurm", profile(gpus=1), say=lambda _: None)


def test_check__shows_the_log_of_the_probe_at_once(profile):
    message = r"profile 'slurm': 1 job ended before a worker came. The last, job \d+ .*/no/python: No such"
    with pytest.raises(ClusterError, match=message):
        check("slurm", profile(python="/no/python"), say=lambda _: None, timeout=120)


def test_check__refuses_workers_that_have_no_memory_for_a_chunk(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match=r"a worker has 3\d\d.* MiB, less than it takes without any chunk"):
        check("slurm", profile(memory="500MB"), say=lambda _: None)


def test_check__tells_why_it_waits(slurm, profile):
    said = []
    slurm.run("scontrol", "update", "PartitionName=small", "State=DOWN")
    try:
        with pytest.raises(ClusterError, match=r"no worker within 8 s .1 job pending: PartitionDown."):
            check("slurm", profile(partition="small"), say=said.append, timeout=8)
    finally:
        slurm.run("scontrol", "update", "PartitionName=small", "State=UP")
    assert "waiting: 1 job pending: PartitionDown" in said
