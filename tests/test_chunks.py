from __future__ import annotations

import json
import os
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enhancer_dask import chunks
from enhancer_dask.errors import ChunkError, ResumeError, StoreError


def square(index):
    return pd.DataFrame({"index": [index], "square": [index**2]})


def fail_on(index, bad):
    if index in bad:
        raise ValueError(f"number {index} is bad")
    return square(index)


def fail_once(index, folder):
    """Raise in the first attempt of each chunk."""
    mark = os.path.join(folder, str(index))
    if not os.path.exists(mark):
        open(mark, "w").close()
        raise OSError("not yet")
    return square(index)


def die_once(index, folder):
    """Kill the worker in the first attempt of chunk 3."""
    mark = os.path.join(folder, "dead")
    if index == 3 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), 9)
    return square(index)


def make(folder, n=10, task=square, arguments=lambda i: (i,), **params):
    return chunks.Work("test", task, arguments, n, {"seed": 0, **params}, {"size": 1}, folder / "parts")


def merged(work, out):
    chunks.merge(work, out, lambda table, row: table.append_column("row", pa.array(range(row, row + len(table)))))
    return pd.read_parquet(out)


def test_run__computes_each_chunk_once_and_merges_in_order(client, tmp_path):
    work = make(tmp_path, 23)
    summary = chunks.run(work, client, progress=False)
    assert (summary.n_chunks, summary.n_found, summary.n_computed) == (23, 0, 23)
    work.part(5).unlink()
    summary = chunks.run(work, client, progress=False)
    assert (summary.n_found, summary.n_computed) == (22, 1)
    table = merged(work, tmp_path / "out.parquet")
    np.testing.assert_array_equal(table["square"], np.arange(23) ** 2)
    np.testing.assert_array_equal(table["row"], np.arange(23))
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def test_run__keeps_a_window_of_chunks_in_flight(client, tmp_path, monkeypatch):
    work, flying, submitted = make(tmp_path, 200), [], []
    submit = client.map

    def counting(execute, jobs, *args, **kwargs):
        # submitted before and now, less those that are finished for certain
        submitted.extend(jobs)
        flying.append(len(submitted) - len(list(work.folder.glob("part-*"))))
        return submit(execute, jobs, *args, **kwargs)

    monkeypatch.setattr(client, "map", counting)
    chunks.run(work, client, window=5, progress=False)
    assert len(submitted) == 200
    assert max(flying) <= 5


def test_run__driver_holds_no_futures_of_finished_chunks(client, tmp_path):
    chunks.run(make(tmp_path, 100), client, progress=False)
    deadline = time.monotonic() + 10
    while client.futures and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not client.futures


def test_run__tries_again(client, tmp_path):
    (tmp_path / "marks").mkdir()
    work = make(tmp_path, 6, fail_once, lambda i: (i, str(tmp_path / "marks")))
    assert chunks.run(work, client, retries=1, progress=False).n_computed == 6


def test_run__survives_a_dying_worker(client, tmp_path):
    work = make(tmp_path, 12, die_once, lambda i: (i, str(tmp_path)))
    chunks.run(work, client, progress=False)
    np.testing.assert_array_equal(merged(work, tmp_path / "out.parquet")["square"], np.arange(12) ** 2)


def test_run__failed_chunks_are_named_and_the_others_finished(client, tmp_path):
    work = make(tmp_path, 10, fail_on, lambda i: (i, (4, 7)))
    with pytest.raises(ChunkError, match=r"2 of 10 chunks failed.*First: chunk 4: ValueError\('number 4 is bad'\)"):
        chunks.run(work, client, retries=0, progress=False)
    assert [i for i in range(10) if not work.part(i).exists()] == [4, 7]
    assert not [p for p in work.folder.iterdir() if p.name.startswith(".")]


def test_run__refuses_parts_of_other_parameters(client, tmp_path):
    chunks.run(make(tmp_path), client, progress=False)
    with pytest.raises(ResumeError, match="'seed' is 0 there, 1 asked for"):
        chunks.run(make(tmp_path, seed=1), client, progress=False)
    with pytest.raises(ResumeError, match="'n_chunks' is 10 there, 11 asked for"):
        chunks.run(make(tmp_path, 11), client, progress=False)


def test_run__damaged_manifest_and_parts_are_named(client, tmp_path):
    work = make(tmp_path)
    chunks.run(work, client, progress=False)
    manifest = json.loads((work.folder / "manifest.json").read_text())
    assert manifest == work.manifest
    other = make(tmp_path / "other", seed=9)
    chunks.run(other, client, progress=False)

    def cut():
        work.part(2).write_bytes(work.part(2).read_bytes()[:50])

    def swap():
        other.part(2).rename(work.part(2))

    for spoil, message in ((cut, "damaged"), (work.part(2).unlink, "this part is missing"), (swap, "made with other")):
        spoil()
        with pytest.raises(StoreError, match=f"part-00000002.parquet: {message}"):
            list(chunks.tables(work))
        assert chunks.run(work, client, progress=False).n_computed == 1  # what is no good is computed again
        assert pa.concat_tables(chunks.tables(work))["index"].to_pylist() == list(range(10))
    (work.folder / "manifest.json").write_text('{"seed":')
    with pytest.raises(StoreError, match="manifest.json: damaged"):
        chunks.run(work, client, progress=False)


def full_disk(index):
    raise OSError(28, "No space left on device", "/scratch/part")


def test_run__stops_when_the_disk_is_full(client, tmp_path, monkeypatch):
    submitted = []
    submit = client.map
    monkeypatch.setattr(client, "map", lambda f, jobs, *a, **k: (submitted.extend(jobs), submit(f, jobs, *a, **k))[1])
    with pytest.raises(
        ChunkError, match="stopped after 20 errors in a row; .* No space left on device: '/scratch/part'"
    ):
        chunks.run(make(tmp_path, 500, full_disk), client, progress=False)
    assert len(submitted) < 100


def test_run__parts_without_a_manifest_are_not_trusted(client, tmp_path):
    work = make(tmp_path)
    chunks.run(work, client, progress=False)
    (work.folder / "manifest.json").unlink()
    other = make(tmp_path, seed=5)
    assert chunks.run(other, client, progress=False).n_computed == 10
    assert len(list(chunks.tables(other))) == 10


def test_merge__joins_small_parts_into_large_row_groups(client, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks.merging, "ROW_GROUP", 8)
    work = make(tmp_path, 21)
    chunks.run(work, client, progress=False)
    table = merged(work, tmp_path / "out.parquet")
    np.testing.assert_array_equal(table["row"], np.arange(21))
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


def test_merge__failure_leaves_the_parts(client, tmp_path):
    work = make(tmp_path)
    chunks.run(work, client, progress=False)

    def fail(table, row):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        chunks.merge(work, tmp_path / "out.parquet", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["parts"]
    assert len(list(work.folder.glob("part-*"))) == 10
