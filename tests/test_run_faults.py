"""What goes wrong around a run: disks, versions, the scheduler, the driver; and what its journal says."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from enhancer_dask import chunks
from enhancer_dask.chunks import parts, progress, running
from enhancer_dask.chunks.journal import JOURNAL, Journal, read_journal
from enhancer_dask.clusters import cluster, nodes
from enhancer_dask.errors import ChunkError, ClusterError, StoreError


def square(index):
    return pd.DataFrame({"index": [index], "square": [index**2], "n_refits_a": [2], "n_refits_b": [1]})


def fail_if(index, mark):
    """Raise for chunks 2 and 5 as long as the mark is there."""
    if index in (2, 5) and os.path.exists(mark):
        raise ValueError(f"number {index} is bad")
    return square(index)


def slow_square(index, seconds):
    time.sleep(seconds)
    return square(index)


def large(index):
    return pd.DataFrame({"noise": np.random.default_rng(index).random(60_000)})


def lose_folder(index, folder):
    """Chunk 3 takes the folder of parts away before it writes, as a lost mount does."""
    if index == 3 and os.path.exists(folder):
        os.rename(folder, f"{folder}.unmounted")
    return square(index)


def make(folder, n=8, task=square, *rest):
    return chunks.Work("test", task, lambda i: (i, *rest), n, {"seed": 0}, {"size": 1}, folder / "parts")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        why = f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_run__full_disk_stops_it_at_once_and_it_goes_on_after(client, small_disk):
    work = make(small_disk, 20, large)
    with pytest.raises(ChunkError, match=rf"{work.folder}/part-\d+.parquet: cannot be written \(No space left on dev"):
        chunks.run(work, client, progress=False)
    finished = len(list(work.folder.glob("part-*")))
    assert 1 <= finished < 8
    deadline = time.monotonic() + 20  # chunks in flight clean up too
    while leftovers := [p for p in work.folder.iterdir() if p.name.startswith(".part")]:
        assert time.monotonic() < deadline, leftovers
        time.sleep(0.1)
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    summary = chunks.run(work, client, progress=False)
    assert summary.n_found >= finished
    assert len(list(chunks.tables(work))) == 20


def test_merge__full_disk_keeps_the_parts(client, small_disk, tmp_path):
    work = make(tmp_path, 8, large)
    chunks.run(work, client, progress=False)
    with pytest.raises(ChunkError, match=rf"{small_disk}/out.parquet: cannot be written \(No space left on device\)"):
        chunks.merge(work, small_disk / "out.parquet", lambda table, row: table)
    assert not list(small_disk.iterdir())
    assert len(list(chunks.tables(work))) == 8


def test_run__folder_that_is_gone_is_not_made_anew(client, tmp_path):
    work = make(tmp_path, 12, lose_folder, str(tmp_path / "parts"))
    with pytest.raises(ChunkError, match=rf"{work.folder}.*(is gone|No such file)"):
        chunks.run(work, client, progress=False)
    time.sleep(0.5)
    assert not work.folder.exists()


def test_run__read_only_disk_is_named(client, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(running, "claim", refuse)
    with pytest.raises(ChunkError, match=rf"{tmp_path}: cannot be written \(Read-only file system\)"):
        chunks.run(make(tmp_path), client, progress=False)


def test_run__waits_for_parts_that_are_seen_late(client, tmp_path, monkeypatch):
    work, aside = make(tmp_path), tmp_path / "aside"
    chunks.run(work, client, progress=False)
    n_pieces = parts.find(work).n_pieces
    work.part(3).rename(aside)
    threading.Timer(1.5, lambda: aside.rename(work.part(3))).start()
    parts.wait_for_late(work, n_pieces)
    assert work.part(3).exists()
    work.part(3).unlink()
    monkeypatch.setattr(parts, "LATE_S", 0.0)
    with pytest.raises(StoreError, match=r"part-00000003.parquet: a worker wrote this part, but it is not seen here"):
        parts.wait_for_late(work, n_pieces)


def test_run__other_versions_on_the_worker_stop_it(client, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "versions", lambda: {**nodes.versions(), "numpy": "1.0"})
    work = make(tmp_path)
    with pytest.raises(ClusterError, match=r"worker tcp://.*: numpy is [\d.]+ on the worker and 1.0 on the driver; "):
        chunks.run(work, client, progress=False)
    assert not list(work.folder.glob("part-*"))


def test_run__scheduler_that_is_gone_is_said(tmp_path, monkeypatch):
    work = make(tmp_path, 200, slow_square, 0.1)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    paths = [str(Path(__file__).parent), *sys.path]  # where the tasks are
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    scheduler = subprocess.Popen([*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    worker, shown = None, io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger("distributed.client").addHandler(handler)
    try:
        with Client(scheduler_file=str(file), timeout=60, set_as_default=False) as first:
            address = first.scheduler.address
        (tmp_path / "cluster.yaml").write_text(f"there:\n  kind: scheduler\n  scheduler: {address}\n")
        with cluster("there", config=tmp_path / "cluster.yaml") as client:
            worker = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"],
                stderr=subprocess.DEVNULL,
            )

            def kill():
                while len(list(work.folder.glob("part-*"))) < 3:
                    time.sleep(0.05)
                scheduler.kill()

            threading.Thread(target=kill, daemon=True).start()
            with pytest.raises(ClusterError, match=r"the scheduler at tcp://\S+ is gone; what is finished is kept"):
                chunks.run(work, client, progress=False)
    finally:
        logging.getLogger("distributed.client").removeHandler(handler)
        for process in filter(None, (scheduler, worker)):
            process.kill()
            process.wait()
    assert read_journal(work.folder).state == "stopped"
    assert shown.getvalue() == ""


# -- journal -----------------------------------------------------------------------------------------------


def test_run__journal_names_failed_chunks_and_counts_refits(client, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    work = make(tmp_path, 8, fail_if, str(mark))
    with (
        chunks.recorded(["scent", "good.zarr"], "/somewhere"),
        pytest.raises(ChunkError, match=r"2 of 8 chunks failed.*First: chunk 2: ValueError\('number 2 is bad'\)"),
    ):
        chunks.run(work, client, retries=1, progress=False)
    journal = read_journal(work.folder)
    assert (journal.state, journal.n_done, journal.n_running, journal.n_refits) == ("failed", 6, 0, 18)
    assert (journal.command, journal.folder, journal.pid) == (["scent", "good.zarr"], "/somewhere", os.getpid())
    assert journal.n_workers == 2
    assert sorted(journal.failed) == [2, 5]
    assert journal.failed[5].error == "ValueError('number 5 is bad')"
    assert journal.failed[5].attempts == 2
    assert journal.failed[5].worker in client.nthreads()
    assert len(journal.errors) == 4

    work.part(0).unlink()
    mark.unlink()
    with (
        chunks.only_failed(),
        pytest.raises(ChunkError, match="1 of 8 chunks have not been computed yet: run the command again"),
    ):
        chunks.run(work, client, progress=False)
    assert not work.part(0).exists()
    assert not read_journal(work.folder).failed
    chunks.run(work, client, progress=False)
    journal = read_journal(work.folder)
    assert (journal.state, journal.n_found, journal.n_done, journal.command) == ("finished", 7, 8, [])


def test_only_failed__work_that_never_began_is_computed(client, tmp_path):
    with chunks.only_failed():
        assert chunks.run(make(tmp_path), client, progress=False).n_computed == 8


def test_run__when_all_chunks_failed_other_parameters_may_follow(client, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    work = chunks.Work("test", fail_if, lambda i: (2, str(mark)), 3, {"seed": 0}, {}, tmp_path / "parts")
    with pytest.raises(ChunkError, match=r"3 of 3 chunks failed\. First: chunk 0"):
        chunks.run(work, client, retries=0, progress=False)
    assert sorted(read_journal(work.folder).failed) == [0, 1, 2]
    assert chunks.run(make(tmp_path, 2), client, progress=False).n_computed == 2


def test_run__journal_after_a_driver_that_was_killed(tmp_path, monkeypatch):
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_run_faults import chunks, make, slow_square, Client, LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=':0')\n"
        "    chunks.run(make(Path(sys.argv[1]), 400, slow_square, 0.1), Client(cluster), progress=False)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    work = make(tmp_path, 400, slow_square, 0.1)
    deadline = time.monotonic() + 60
    while not work.folder.exists() or (journal := read_journal(work.folder)) is None or journal.n_done < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    journal = read_journal(work.folder)
    assert (journal.state, journal.pid, journal.n_chunks) == ("running", driver.pid, 400)
    assert 3 <= journal.n_done <= len(list(work.folder.glob("part-*"))) < 400


# -- progress ----------------------------------------------------------------------------------------------


def test_run__trouble_is_shown_and_no_worker_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(running, "TROUBLE_EVERY_S", 0.1)
    work = make(tmp_path)
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.trouble = lambda: None if client.nthreads() else "3 jobs pending: Resources"
        seen = []

        def look():
            while (journal := read_journal(work.folder)) is None or not journal.message:
                time.sleep(0.05)
            seen.append(journal.message)
            cluster.scale(1)

        work.folder.mkdir()
        threading.Thread(target=look, daemon=True).start()
        assert chunks.run(work, client).n_computed == 8
    assert seen == ["3 jobs pending: Resources"]
    lines = capsys.readouterr().err.splitlines()
    assert "test: 0 of 8 chunks, 0 workers, 3 jobs pending: Resources" in lines
    assert re.fullmatch(r"test: 8 of 8 chunks, 1 worker(, [\d,]+ refits/s)?", lines[-1])


def test_run__trouble_that_is_fatal_stops_it(client, tmp_path, monkeypatch):
    def trouble():
        raise ClusterError("job 7 ended before its worker connected")

    monkeypatch.setattr(client.cluster, "trouble", trouble, raising=False)
    monkeypatch.setattr(client.cluster, "demand", 1, raising=False)
    work = make(tmp_path)
    with pytest.raises(ClusterError, match="job 7 ended"):
        chunks.run(work, client, progress=False)
    journal = read_journal(work.folder)
    assert (journal.state, journal.message) == ("stopped", "job 7 ended before its worker connected")
    assert client.cluster.demand is None


def test_read_journal__damaged_file_is_named_and_a_run_does_not_mind(client, tmp_path):
    work = make(tmp_path)
    chunks.run(work, client, progress=False)
    (work.folder / JOURNAL).write_text('{"stage":')
    with pytest.raises(StoreError, match=r"progress.json: damaged"):
        read_journal(work.folder)
    assert chunks.run(work, client, progress=False).n_found == 8
    assert isinstance(read_journal(work.folder), Journal)


def test_lines__tell_at_once_what_a_run_waits_for(capsys):
    with progress.shown("scent", show=True) as show:
        for message in ("", "3 jobs pending: Resources", "2 jobs pending: Resources", "3 jobs starting", ""):
            show(Journal("scent", 300, message=message))
        show(Journal("scent", 300, message="1 job pending: Resources"))  # known already: with the line of each minute
    assert capsys.readouterr().err.splitlines() == [
        "scent: 0 of 300 chunks, 0 workers, 3 jobs pending: Resources",
        "scent: 0 of 300 chunks, 0 workers, 3 jobs starting",
    ]
