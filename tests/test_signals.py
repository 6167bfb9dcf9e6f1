"""What stops a command and what does not: signals, lost terminals, closed pipes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager

import pandas as pd
import psutil
import pytest
from commands import COMMAND, SLOW, wait_for_parts

from enhancer_dask.status import run_status

QUICK = ["scent", "good.zarr", "--pairs", "pairs.parquet", "--out", "links.parquet", "--all", "--p", "saddle"]


@contextmanager
def on_a_terminal(command, folder):
    """A command on a terminal of its own; yields the process and a function that takes the terminal away."""
    ours, theirs = os.openpty()
    stream = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(["setsid", "--ctty", *command], cwd=folder, **stream)
    os.close(theirs)
    open_ends = [ours]

    def lose():
        os.close(open_ends.pop())

    try:
        yield process, lose
    finally:
        process.kill()
        process.wait()
        for end in open_ends:
            os.close(end)


def test_signals__a_lost_terminal_interrupts_and_leaves_no_worker(workplace):
    with on_a_terminal([*COMMAND, *SLOW, "--no-progress"], workplace) as (process, lose):
        wait_for_parts(workplace, 2, process)
        workers = psutil.Process(process.pid).children(recursive=True)
        lose()
        assert process.wait(60) == 128 + signal.SIGHUP
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    [told] = run_status(workplace / "links.parquet")
    assert (told.state, told.message) == ("stopped", "interrupted (SIGHUP)")
    assert told.n_done >= 2


@pytest.mark.usefixtures("one_worker")
def test_signals__a_run_that_ignores_hangups_outlives_its_terminal(workplace):
    """With nohup it has a log instead (tests/slurm); here the lost terminal is still where its progress is drawn."""
    command = ["sh", "-c", f"trap '' HUP; exec {shlex.join([*COMMAND, *SLOW])}"]
    with on_a_terminal(command, workplace) as (process, lose):
        wait_for_parts(workplace, 2, process)
        lose()
        assert process.wait(240) == 0
    assert len(pd.read_parquet(workplace / "links.parquet")) > 0


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", "</dev/null >/dev/full 2>/dev/full"])
def test_signals__nobody_listens(workplace, redirection):
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join([*COMMAND, *QUICK])} {redirection}"], cwd=workplace, timeout=240
    )
    assert (done.returncode != 0) == (
        "full" in redirection
    )  # a result that cannot be written is an error, a message is not
    assert len(pd.read_parquet(workplace / "links.parquet")) > 0


@pytest.mark.usefixtures("one_worker")
def test_signals__a_closed_pipe_stops_nothing(workplace):
    process = subprocess.Popen([*COMMAND, *QUICK], cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(240) == 0
    assert len(pd.read_parquet(workplace / "links.parquet")) > 0


CLEANING = """
import sys, time
from enhancer_dask.cli.signals import Interrupted, raise_on_signals
raise_on_signals()
try:
    print("working", flush=True)
    time.sleep(100)
except Interrupted as stop:
    try:
        print("cleaning:", stop, flush=True)
        sys.stdin.readline()
        print("clean", flush=True)
    except Interrupted as stop:
        print("gave up:", stop, flush=True)
"""


@pytest.fixture
def cleaning():
    """A process in the middle of its clean-up, after Ctrl-C."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", CLEANING], text=True, **streams)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning: interrupted (SIGINT)\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "cleaning up; once more to give up\n"
    yield process
    process.kill()
    process.communicate()


def test_signals__a_second_one_leaves_the_clean_up_alone(cleaning):
    assert cleaning.communicate("\n", timeout=60)[0] == "clean\n"


def test_signals__a_third_one_gives_up(cleaning):
    cleaning.send_signal(signal.SIGTERM)
    assert cleaning.communicate(timeout=60)[0] == "gave up: interrupted (SIGTERM)\n"
