"""The driver is stopped, killed or hung up on; workers that do not fit it; work that fails; a queue that is full."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from waiting import wait_until

import enhancer_dask

SOME = 30  # parts after which a fault strikes


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_driver__leaves_no_job(user, slurm, kind, code):
    driver = user.start()
    driver.wait_for_parts(SOME)
    os.killpg(driver.process.pid, kind)  # Ctrl-C reaches the whole group
    assert driver.finish(40) == code, driver.log.read_text()
    assert "what is finished is kept" in driver.log.read_text()
    assert "Traceback" not in driver.log.read_text()
    slurm.wait_for_jobs(0, timeout=15)
    found = driver.parts()
    assert len(found) >= SOME
    assert not (user.folder / "links.parquet").exists()


def test_killed_driver__jobs_end_and_the_same_command_goes_on(user, slurm):
    first = user.start()
    first.wait_for_parts(SOME)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    found = {path: path.stat().st_mtime_ns for path in (user.folder / "links.parquet.parts").glob("part-*")}
    slurm.wait_for_jobs(0)  # nobody cancels them: their workers miss the scheduler
    assert "crashed" in user.do("status", "links.parquet")
    user.fault("hold")
    second = user.start()
    second.wait_for(lambda: len(slurm.jobs("R")) == 3, "three jobs")
    assert {path: path.stat().st_mtime_ns for path in found} == found  # nothing is computed again
    user.mend("hold")
    user.check_result(second)


def test_lost_terminal__under_nohup_the_run_goes_on(user, slurm):
    pid_file, log = user.folder / "pid", user.folder / "nohup.log"
    command = " ".join(f"'{word}'" for word in user.scent)
    shell, terminal = pty.fork()
    if shell == 0:
        os.chdir(user.folder)
        line = f"nohup {command} >{log} 2>&1 </dev/null & echo $! >{pid_file}; wait"
        os.execve("/bin/bash", ["bash", "-c", line], user.environment)
    parts = user.folder / "links.parquet.parts"
    wait_until(lambda: len(list(parts.glob("part-*"))) >= SOME, 120, "parts")
    os.close(terminal)  # the kernel hangs up on everyone who is at this terminal
    os.waitpid(shell, 0)
    pid = int(pid_file.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 240, "the end of the run")
    assert '"n_pairs"' in log.read_text()
    user.check_table()
    slurm.wait_for_jobs(0, timeout=15)


def test_full_partition__is_waited_for_in_words(user, slurm):
    user.profile(partition="small")
    other = slurm.run(
        "sbatch", "--parsable", "--partition=small", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"
    )
    slurm.wait_for_jobs(1, "R")
    driver = user.start()
    driver.wait_for(lambda: len(slurm.jobs("PD")) == 3, "three pending jobs")
    driver.wait_for_text("3 jobs pending: ")
    driver.wait_for(lambda: "pending" in user.do("status", "links.parquet"), "status to tell")
    slurm.run("scancel", other.strip())
    user.check_result(driver)


def test_other_version_on_the_worker__is_refused(user, slurm):
    """By the check and by the run, in words, and no job is left."""
    package = Path(enhancer_dask.__file__).parent
    shutil.copytree(package, user.folder / "old" / "enhancer_dask", ignore=shutil.ignore_patterns("__pycache__"))
    (user.folder / "old" / "enhancer_dask" / "_version.py").write_text('__version__ = "0.0.9"\n')
    user.profile(jobs=1, prologue=[f"export PYTHONPATH={user.folder / 'old'}"])
    words = f"enhancer-dask is 0.0.9 on the worker and {enhancer_dask.__version__} on the driver"
    assert words in user.do("cluster", "check", "--profile", "slurm", ok=False)
    slurm.wait_for_jobs(0, timeout=15)
    driver = user.start()
    assert driver.finish() == 6, driver.log.read_text()
    assert words in driver.log.read_text()
    assert "Traceback" not in driver.log.read_text()
    slurm.wait_for_jobs(0, timeout=15)


def test_check__reports_the_worker(user, slurm):
    said = user.do("cluster", "check", "--profile", "slurm")
    assert "#SBATCH -p debug" in said
    report = json.loads(said.splitlines()[-1])
    assert report
    slurm.wait_for_jobs(0, timeout=15)


@pytest.fixture
def small_disk(user):
    """A folder on a file system that has room for some of the parts."""
    folder = user.folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk__stops_the_run_with_the_path_and_more_room_lets_it_finish(user, slurm, small_disk):
    shutil.copy(user.folder / "cluster.yaml", small_disk)
    driver = user.start(folder=small_disk)
    assert driver.finish() not in (0, 130, 143), driver.log.read_text()
    said = driver.log.read_text()
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "No space left" in error
    assert str(small_disk / "links.parquet.parts") in error
    assert "Traceback" not in said
    slurm.wait_for_jobs(0, timeout=15)
    assert driver.parts()
    for name in driver.parts():
        pq.read_table(small_disk / "links.parquet.parts" / name)  # what has its name is whole
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    user.check_result(user.start(folder=small_disk))


def test_poisoned_chunk__is_named_the_others_finish_and_retry_completes(user, slurm):
    user.fault("poison", json.dumps(user.tested_pair()))
    driver = user.start()
    assert driver.finish() == 5, driver.log.read_text()
    said = driver.log.read_text()
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "1 of " in error
    assert "this chunk is poisoned" in error
    slurm.wait_for_jobs(0, timeout=15)
    found = driver.parts()
    status = user.do("status", "links.parquet")
    assert "poisoned" in status
    user.do("retry", "links.parquet", "--profile", "slurm", ok=False)  # still poisoned
    assert driver.parts() >= found
    user.mend("poison")
    user.do("retry", "links.parquet", "--profile", "slurm")
    user.check_table()
