from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster

from enhancer_dask import chunks
from enhancer_dask.chunks import parts, pieces, running
from enhancer_dask.errors import ChunkError, InputError

ROWS = 8  # of a chunk


def rows(start, stop, *_):
    return pd.DataFrame({"row": np.arange(start, stop), "square": np.arange(start, stop) ** 2})


def slow_rows(start, stop, seconds):
    time.sleep(seconds * (stop - start))
    return rows(start, stop)


def rows_unless_many(start, stop, most):
    """Kill the worker if there are more rows than fit."""
    if start < ROWS and stop - start > most:
        os.kill(os.getpid(), 9)
    return rows(start, stop)


def halves(args, n):
    """Consecutive rows in up to ``n`` pieces."""
    start, stop, *rest = args
    bounds = np.linspace(start, stop, min(n, stop - start) + 1).astype(int).tolist()
    return [(a, b, *rest) for a, b in pairwise(bounds)]


def make(folder, n=5, task=rows, *rest, nbytes=None, split=halves):
    def arguments(i):
        return (i * ROWS, (i + 1) * ROWS, *rest)

    return chunks.Work("test", task, arguments, n, {"seed": 0}, {"size": 1}, folder / "parts", split, nbytes)


def nbytes(args):
    return 1_000 * (args[1] - args[0])


@pytest.fixture
def limits(client, monkeypatch):
    """Pretend that the cluster has a wall time and little memory."""

    def set_limits(**values):
        for name, value in values.items():
            monkeypatch.setattr(client.cluster, name, value, raising=False)

    set_limits(chunk_seconds=None, chunk_bytes=None)
    return set_limits


def check(work):
    table = pa.concat_tables(chunks.tables(work))
    assert table["row"].to_pylist() == list(range(work.n_chunks * ROWS))


def names(work):
    return sorted(path.name for path in work.folder.glob("part-*"))


def test_run__cuts_chunks_until_their_pieces_fit_the_memory(client, tmp_path, limits):
    limits(chunk_bytes=2_500)
    work = make(tmp_path, nbytes=nbytes)
    summary = chunks.run(work, client, progress=False)
    assert (summary.n_computed, summary.n_found) == (5, 0)
    assert len(names(work)) == 5 * 4
    assert work.part(3, 4, 4).exists()
    check(work)
    assert chunks.run(work, client, progress=False).n_found == 5


def test_run__refuses_a_chunk_that_fits_no_worker_before_anything_runs(client, tmp_path, limits):
    limits(chunk_bytes=900)
    work = make(tmp_path, nbytes=nbytes)
    with pytest.raises(InputError, match=r"test: chunk 0 needs 0.98 kiB even in its smallest pieces, .* 900 B for it"):
        chunks.run(work, client, progress=False)
    assert not names(work)
    with pytest.raises(InputError, match=r"chunk 0 needs 7.81 kiB"):
        chunks.run(make(tmp_path, nbytes=nbytes, split=None), client, progress=False)


def test_run__measures_pieces_before_it_dares_whole_chunks(client, tmp_path, limits):
    limits(chunk_seconds=60.0)
    work = make(tmp_path, 40)
    chunks.run(work, client, progress=False)
    assert work.part(0, 1, ROWS).exists()  # a pilot, in as many pieces as it has rows
    assert work.part(39).exists()
    check(work)


def test_run__keeps_chunks_below_the_time_limit(client, tmp_path, limits):
    limits(chunk_seconds=0.25)
    work = make(tmp_path, 10, slow_rows, 0.05)  # 0.4 s a chunk
    chunks.run(work, client, progress=False)
    assert not work.part(9).exists()
    assert len(list(work.folder.glob("part-00000009.*"))) >= 2
    check(work)


def test_cutter__corrects_itself_both_ways(client, tmp_path, limits):
    limits(chunk_seconds=10.0)
    cutter = pieces.Cutter(make(tmp_path), client)
    assert len(cutter.cut(0)) == ROWS  # the pilot
    cutter.learn(4.0, 8)
    assert len(cutter.cut(0)) == 4
    for _ in range(pieces.N_RECENT):
        cutter.learn(2.0, 4)
    assert len(cutter.cut(0)) == 1
    cutter.learn(25.0, 1)
    assert len(cutter.cut(0)) == 3


def test_run__goes_on_with_the_pieces_that_are_there(client, tmp_path, limits):
    limits(chunk_bytes=2_500)
    work = make(tmp_path, nbytes=nbytes)
    chunks.run(work, client, progress=False)
    limits(chunk_bytes=None)
    for index, number in ((1, 2), (3, 1), (3, 2), (3, 3), (3, 4)):
        work.part(index, number, 4).unlink()
    kept = {name: (work.folder / name).stat().st_mtime_ns for name in names(work)}
    summary = chunks.run(work, client, progress=False)
    assert (summary.n_found, summary.n_computed) == (3, 2)
    assert set(names(work)) - set(kept) == {"part-00000001.2-of-4.parquet", "part-00000003.parquet"}
    assert {name: (work.folder / name).stat().st_mtime_ns for name in kept} == kept
    check(work)
    limits(chunk_bytes=1_500)  # what is there is too large now
    work.part(1, 2, 4).unlink()
    chunks.run(work, client, progress=False)
    assert work.part(1, 8, 8).exists()
    check(work)


def test_run__damaged_piece_is_computed_again(client, tmp_path, limits):
    limits(chunk_bytes=2_500)
    work = make(tmp_path, nbytes=nbytes)
    chunks.run(work, client, progress=False)
    work.part(2, 3, 4).write_bytes(b"PAR1")
    assert chunks.run(work, client, progress=False).n_computed == 1
    check(work)


def test_run__damaged_part_gives_way_to_the_pieces_of_its_chunk(client, tmp_path, limits):
    work = make(tmp_path, nbytes=nbytes)
    chunks.run(work, client, progress=False)
    work.part(2).write_bytes(work.part(2).read_bytes()[:50])
    limits(chunk_bytes=2_500)
    assert chunks.run(work, client, progress=False).n_computed == 1
    assert work.part(2, 4, 4).exists()
    check(work)


def test_tables__a_part_damaged_inside_is_named_once_and_computed_again(client, tmp_path):
    work = make(tmp_path)
    chunks.run(work, client, progress=False)
    content = bytearray(work.part(2).read_bytes())
    content[4:60] = bytes(56)
    work.part(2).write_bytes(content)
    with pytest.raises(Exception, match="part-00000002.parquet: damaged"):
        list(chunks.tables(work))
    assert chunks.run(work, client, progress=False).n_computed == 1
    check(work)


@pytest.fixture
def own():
    """A cluster whose workers may die often."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        cluster.scheduler.allowed_failures = 0
        with Client(cluster, set_as_default=False) as client:
            yield client


def test_run__a_chunk_that_kills_workers_is_tried_in_smaller_pieces(own, tmp_path):
    work = make(tmp_path, 6, rows_unless_many, 2)
    chunks.run(work, own, progress=False)
    assert work.part(0, 4, 4).exists()
    assert chunks.run(work, own, progress=False).n_found == 6
    check(work)


def test_run__a_chunk_that_always_kills_workers_is_named_and_the_others_finish(own, tmp_path):
    work = make(tmp_path, 6, rows_unless_many, 0)
    with pytest.raises(ChunkError, match=r"1 of 6 chunks failed.*chunk 0: killed its worker 3 times \(out of memory"):
        chunks.run(work, own, progress=False)
    assert (parts.find(work).n_pieces > 0).tolist() == [False, *[True] * 5]  # whole, or in pieces if they were near it


def test_run__new_workers_get_chunks_in_mid_run_and_lost_ones_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "WAKE_S", 0.2)
    work = make(tmp_path, 24, slow_rows, 0.1)  # 0.8 s a chunk
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        done = threading.Thread(target=chunks.run, args=(work, client), kwargs={"progress": False})
        done.start()
        while not names(work):
            time.sleep(0.05)
        cluster.scale(3)
        deadline = time.monotonic() + 60
        while (busy := sum(map(bool, client.processing().values()))) < 3:
            assert time.monotonic() < deadline, busy
            assert done.is_alive()
            time.sleep(0.05)
        cluster.scale(1)
        done.join(120)
        assert not done.is_alive()
    check(work)
