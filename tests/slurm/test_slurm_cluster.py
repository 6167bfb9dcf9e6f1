"""Workers as jobs of a real SLURM: they come, are replaced, follow the work, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import accumulate

import pytest
from distributed import KilledWorker, as_completed, wait

from conftest import wait_until
from enhancer_dask.clusters import cluster
from enhancer_dask.clusters.capacity import chunk_bytes, chunk_seconds, tell_demand, trouble
from enhancer_dask.clusters.slurm import LANES, SlurmCluster
from enhancer_dask.clusters.worker import MARGIN
from enhancer_dask.errors import ClusterError


@pytest.fixture(autouse=True)
def quick_keeper(monkeypatch):
    monkeypatch.setattr(SlurmCluster, "interval", 0.5)


@pytest.fixture(autouse=True)
def nothing_left(slurm):
    """Every test starts without jobs and leaves none."""
    slurm.wait_for_jobs(0)
    yield
    slurm.wait_for_jobs(0)


def job_of(client):
    """Job id of each worker."""
    return set(client.run(lambda: os.environ["SLURM_JOB_ID"]).values())


def test_cluster__three_jobs_that_know_what_they_have(slurm, profile):
    said = []
    with cluster("slurm", config=profile(), say=said.append) as client:
        client.wait_for_workers(3, timeout=120)
        assert len(slurm.jobs("R")) == 3
        assert job_of(client) == set(slurm.jobs("R"))
        assert trouble(client) is None
        assert chunk_seconds(client) == 60
        assert 0 < chunk_bytes(client) < 10**9 - 400 * 2**20
        assert "Dashboard" in client._repr_html_()
    assert said
    assert said[0].startswith("dashboard: http://")


def test_cluster__several_processes_a_job_share_its_cores(slurm, profile):
    with cluster("slurm", config=profile(cores=2, processes=2, memory="2GB", jobs=2)) as client:
        client.wait_for_workers(4, timeout=120)
        assert len(slurm.jobs("R")) == 2
        threads = client.run(lambda: [os.environ[name] for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")])
        assert set(map(tuple, threads.values())) == {("1", "1")}
        lost = sorted(job_of(client))[0]
        slurm.run("scancel", lost)
        wait_until(lambda: len(slurm.jobs("R")) == 2 and lost not in slurm.jobs("R"), 120, "another job")
        client.wait_for_workers(4, timeout=120)
        client.cluster.scale(jobs=1)
        slurm.wait_for_jobs(1)
        wait_until(lambda: len(client.nthreads()) == 2, 90, "two workers of one job")


def test_scancel__is_answered_by_another_job(slurm, profile):
    with cluster("slurm", config=profile(jobs=2)) as client:
        client.wait_for_workers(2, timeout=120)
        before = job_of(client)
        slurm.run("scancel", min(before))
        wait_until(lambda: len(set(slurm.jobs("R")) - before) == 1, 120, "a new job")
        wait_until(lambda: len(client.nthreads()) == 2, 120, "its worker")


@pytest.fixture
def slow():
    """A task of 2 s that tells its job; made here, so that workers get its code and need not import this file."""

    def slow(i):
        time.sleep(2)
        return os.environ["SLURM_JOB_ID"]

    return slow


def test_lifetime__chunks_are_finished_and_jobs_replaced(slurm, profile, slow):
    # half a minute of life: a worker takes some chunks of 2 s, then another job goes on
    with cluster("slurm", config=profile(jobs=2, walltime="00:01:00", lifetime_margin="30 s")) as client:
        started = []
        client.subscribe_topic("all", lambda event: started.append(event[1]))
        done = as_completed([client.submit(slow, i, key=f"slow-{i}", pure=False) for i in range(36)], with_results=True)
        jobs = [job for _, job in done]  # the driver keeps no future of a chunk that is done
        assert len(jobs) == 36
        assert len(set(jobs)) > 2
        gone = [event["expected"] for event in started if event.get("action") == "remove-worker"]
        assert gone
        assert all(gone)  # none went while it computed, as the scheduler sees it


def test_lifetime__a_chunk_that_outlives_its_jobs_is_given_up(profile):
    # ten seconds of life and one more for the chunk in progress: else for ever in one job after the other
    keys = {"walltime": "00:01:00", "lifetime_margin": "50 s", "prologue": [f"export {MARGIN}=6"]}
    with cluster("slurm", config=profile(jobs=1, **keys)) as client:
        client.cluster.scheduler.allowed_failures = 1
        with pytest.raises(KilledWorker):
            client.submit(time.sleep, 300, pure=False).result(timeout=240)


def test_pending__is_said_and_no_error(slurm, profile):
    with cluster("slurm", config=profile(partition="small", jobs=3)) as client:  # one node of two cores
        client.wait_for_workers(2, timeout=120)
        assert wait_until(lambda: (found := trouble(client)) and "Resources" in found and found, 90, "a reason") == (
            "1 job pending: Resources"
        )


def test_broken_python__is_an_error_with_the_log(profile):
    message = r"profile 'slurm': 3 jobs in a row ended before a worker came. The last, job \d+ .*/no/python: No such"
    with (
        cluster("slurm", config=profile(python="/no/python")) as client,
        pytest.raises(ClusterError, match=message),
    ):
        wait_until(lambda: trouble(client) == "never", 120, "an error")


def test_bad_node__is_no_reason_to_give_up_before_the_others_have_started(profile):
    node = "case $SLURMD_NODENAME in n1) exit 1;; *) sleep 6;; esac"
    with cluster("slurm", config=profile(jobs=6, prologue=[node])) as client:
        wait_until(lambda: trouble(client) and len(client.nthreads()) == 4, 120, "workers on the other nodes")


def test_partition_that_does_not_exist__is_an_error(profile):
    with (
        pytest.raises(ClusterError, match="profile 'slurm': SLURM refuses the jobs: .*[Ii]nvalid partition"),
        cluster("slurm", config=profile(partition="nowhere")),
    ):
        raise AssertionError("not reached")


def test_controller_away__is_waited_for(slurm, profile, monkeypatch, tmp_path):
    """The commands fail for a while, as they do when the controller is restarted."""
    away = tmp_path / "bin"
    away.mkdir()
    for name in ("sbatch", "squeue"):
        script = away / name
        script.write_text(
            f'#!/bin/sh\n[ -e {tmp_path}/back ] && exec /usr/bin/{name} "$@"\n'
            "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{away}:{os.environ['PATH']}")
    with cluster("slurm", config=profile(jobs=1)) as client:
        assert "1 job refused, will be tried again: sbatch: Unable to contact slurm controller" in trouble(client)
        (tmp_path / "back").touch()
        client.wait_for_workers(1, timeout=180)


def test_adapt__follows_the_chunks_that_are_left(slurm, profile):
    with cluster("slurm", adapt=(0, 3), config=profile(idle_timeout="1 s")) as client:
        assert slurm.jobs() == []
        tell_demand(client, 100)
        client.wait_for_workers(3, timeout=120)
        tell_demand(client, 0)
        slurm.wait_for_jobs(0)
        tell_demand(client, 1)
        client.wait_for_workers(1, timeout=120)
        tell_demand(client, None)  # a user's own work
        assert client.submit(sum, [1, 2]).result(timeout=240) == 3


def test_adapt__keeps_idle_workers_for_a_while_and_busy_ones(slurm, profile, slow):
    with cluster("slurm", adapt=(0, 2), config=profile(cores=2, processes=2, memory="2GB")) as client:
        tell_demand(client, 4)
        client.wait_for_workers(4, timeout=120)
        tell_demand(client, 0)  # between two stages
        time.sleep(4)
        assert len(client.nthreads()) == 4
        busy = client.submit(slow, 0, pure=False)
        client.cluster.adapt(minimum_jobs=0, maximum_jobs=2, idle_timeout=0.0)
        slurm.wait_for_jobs(1, "R")
        assert busy.result() == slurm.jobs("R")[0]


def test_scale__in_the_middle_of_a_run(slurm, profile, slow):
    with cluster("slurm", config=profile(jobs=1)) as client:
        futures = [client.submit(slow, i, key=f"scale-{i}", pure=False) for i in range(12)]
        client.wait_for_workers(1, timeout=120)
        client.cluster.scale(3)
        client.wait_for_workers(3, timeout=120)
        wait(futures, timeout=120, return_when="FIRST_COMPLETED")
        client.cluster.scale(1)
        wait(futures, timeout=240)
        assert len(set(client.gather(futures))) > 1
        slurm.wait_for_jobs(1)


@pytest.fixture
def slow_sbatch(monkeypatch, tmp_path):
    """Submitting takes half a second, and the site prints news; returns how many commands were at it at a time."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script, log = folder / "sbatch", tmp_path / "submissions"
    script.write_text(
        f'#!/bin/sh\necho + >>{log}; sleep 0.5\necho "12 of 50 nodes are free"\n/usr/bin/sbatch "$@"\necho - >>{log}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    log.touch()
    return lambda: list(accumulate(1 if line == "+" else -1 for line in log.read_text().splitlines()))


def test_scale__submits_a_few_jobs_at_a_time(slurm, profile, slow_sbatch):
    with cluster("slurm", config=profile(jobs=20)):
        assert len(slurm.jobs()) == 20
    assert max(slow_sbatch()) == LANES
    assert slurm.jobs("PD", "R") == []


def test_interrupt__while_jobs_are_submitted_leaves_none_and_submits_no_more(slurm, profile, slow_sbatch):
    def interrupt():
        wait_until(lambda: LANES in slow_sbatch(), 120, "submissions")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), cluster("slurm", config=profile(jobs=200)):
        raise AssertionError("not reached")
    assert len(slow_sbatch()) < 2 * 200
    assert slurm.jobs("PD", "R") == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_cluster__cancels_its_jobs_whatever_happens(slurm, profile, error):
    with pytest.raises(error), cluster("slurm", config=profile(partition="small", jobs=4)):
        assert len(slurm.jobs()) == 4  # two of them wait
        raise error
    assert slurm.jobs("PD", "R") == []


DRIVER = """
import sys, time
from enhancer_dask.clusters import cluster
if __name__ == "__main__":
    with cluster("slurm", config=sys.argv[1]) as client:
        client.wait_for_workers(2, timeout=120)
        print("there", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def driver(profile, tmp_path):
    """A driver in a process of its own, with two workers."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(profile(jobs=2, death_timeout="15 s"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def test_driver_killed__workers_end_by_themselves(slurm, driver):
    driver.kill()
    slurm.wait_for_jobs(0)


def test_ctrl_c_twice__leaves_no_job(slurm, driver):
    driver.send_signal(signal.SIGINT)
    time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    driver.wait(timeout=120)
    assert slurm.jobs("PD", "R") == []
