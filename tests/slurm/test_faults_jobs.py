"""Jobs, workers and nodes are lost while chunks run: the table is that of an undisturbed run, bit by bit."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pandas as pd
import psutil
import pytest
from user import OUT
from waiting import wait_until

import enhancer_dask as ed
from enhancer_dask.stats.bootstrap import up_to

SOME = 30  # parts after which a fault strikes


@pytest.fixture
def holding(user, slurm):
    """The workload on three jobs; SOME chunks are finished, all jobs are at work and stay so until told otherwise."""
    driver = user.start()
    driver.wait_for_parts(SOME)
    driver.wait_for(lambda: len(slurm.jobs("R")) == 3, "three jobs")
    user.fault("hold")
    return driver


def go_on(user, driver):
    user.mend("hold")
    user.check_result(driver)


def workers_of(slurm, job):
    """Processes of a job that compute (the nanny above starts them anew)."""
    found = []
    for pid in slurm.pids_of(job):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            process = psutil.Process(pid)
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_cancelled_job__is_replaced(user, slurm, holding):
    before = slurm.jobs("R")
    slurm.run("scancel", before[0])
    holding.wait_for(lambda: len(set(slurm.jobs("R")) - set(before)) == 1, "a job in its place")
    go_on(user, holding)
    slurm.wait_for_jobs(0, timeout=15)


def test_killed_worker_process__is_started_anew(user, slurm, holding):
    job = slurm.jobs("R")[0]
    (worker,) = workers_of(slurm, job)
    worker.kill()
    holding.wait_for(lambda: set(workers_of(slurm, job)) - {worker}, "another worker in the same job")
    go_on(user, holding)


def test_killed_job_processes__are_replaced(user, slurm, holding):
    before = slurm.jobs("R")
    kill_processes(slurm, before[0])
    holding.wait_for(lambda: len(set(slurm.jobs("R")) - set(before)) == 1, "a job in its place")
    go_on(user, holding)


def kill_processes(slurm, job):
    for pid in slurm.pids_of(job):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_lost_node__is_done_without_and_its_return_disturbs_nothing(user, slurm, holding):
    node_of = {job: slurm.node_of(job) for job in slurm.jobs("R")}
    node = min(node_of.values())
    slurm.kill_node(node)
    for job in node_of:
        if node_of[job] == node:
            kill_processes(slurm, job)
    try:
        slurm.wait_for_nodes("down*", 1)
        holding.wait_for(lambda: n_at_work(slurm, but=node) == 3, "three jobs on two nodes")
    finally:
        slurm.start_node(node)
        slurm.wait_for_nodes("down*", 0)
    go_on(user, holding)


def n_at_work(slurm, *, but):
    nodes = slurm.run("squeue", "--noheader", "--states", "R", "--format", "%N").split()
    return len(nodes) if but not in nodes else 0


def test_walltime__is_reached_several_times_and_nothing_is_lost(user, slurm):
    """Three jobs of a minute for work of about two; the slowest test of this folder, though nearly all sleep."""
    user.profile(walltime="00:01:00")
    user.fault("slow", 0.6)
    driver, seen = user.start(), set()

    def ended():
        seen.update(slurm.jobs("R"))
        return driver.process.poll() is not None

    wait_until(ended, 600, "the end of the run")
    user.check_result(driver)
    assert len(seen) >= 6, seen  # each of the three is replaced


def test_adapt__from_none_to_three_jobs_and_back(user, slurm, monkeypatch):
    user.profile(idle_timeout="3s")
    user.fault("hold")
    for name, value in user.environment.items():
        monkeypatch.setenv(name, value)
    work, out = user.workload, user.folder / OUT
    settings = {"engine": "exact", "ladder": up_to(500), "chunk_pairs": 5, "seed": 1, "progress": False}
    with (
        ed.cluster("slurm", adapt=(0, 3), config=user.folder / "cluster.yaml") as client,
        ThreadPoolExecutor(1) as thread,
    ):
        assert slurm.jobs() == []
        run = thread.submit(ed.scent, work.store, work.pairs, **settings, out=out, client=client)
        slurm.wait_for_jobs(3, "R")
        wait_until(lambda: at_work(client) == 3, 120, "chunks on three workers")
        user.mend("hold")
        table = run.result(240)
        slurm.wait_for_jobs(0)
        few = ed.scent(work.store, work.pairs, celltype="A", p="saddle", client=client, progress=False)  # and up again
    pd.testing.assert_frame_equal(table, pd.read_parquet(work.reference), check_exact=True)
    assert len(few) == (table["celltype"] == "A").sum()
    slurm.wait_for_jobs(0, timeout=15)


def at_work(client):
    return sum(bool(tasks) for tasks in client.processing().values())
