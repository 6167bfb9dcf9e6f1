"""``enhancer-dask status`` and ``retry``, of runs that go on, crashed, failed or ended."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from pathlib import Path

import pandas as pd
import pytest
import zarr
from commands import cli, result, spoil_chunk, start, wait_for_parts

from enhancer_dask.chunks import MANIFEST
from enhancer_dask.chunks.journal import Failure, Journal, write_journal
from enhancer_dask.cli.progress import retry
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.tables import write_parquet
from enhancer_dask.links.scent import scent
from enhancer_dask.simulate.chromosomes import preset_design, simulate_chromosomes
from enhancer_dask.status import n_parts, run_status

MANY = ["scent", "good.zarr", "--pairs", "pairs.parquet", "--out", "links.parquet", "--all"]
MANY += ["--p", "saddle", "--chunk-pairs", "2"]


def status(folder, run):
    """The last stage, told to programs."""
    *_, stage = result(cli("status", run, "--json", cwd=folder))
    return stage


@pytest.mark.usefixtures("one_worker")
def test_status_and_retry__of_a_run_that_is_killed_and_fails(workplace, store, pairs):
    process = start(MANY, workplace)
    wait_for_parts(workplace, 2, process)
    running = status(workplace, "links.parquet")
    assert process.poll() is None
    assert (running["state"], running["command"], running["pid"]) == ("running", MANY, process.pid)
    assert 0 < running["n_done"] < running["n_chunks"]
    process.kill()
    process.communicate()

    folder = workplace / "links.parquet.parts"
    crashed = status(workplace, ".")
    there = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert (crashed["state"], crashed["n_done"]) == ("crashed", len(there))
    assert crashed["message"] == f"process {process.pid} on {platform.node()} is gone"

    damaged = workplace / "good.zarr" / "rna" / "c" / "0" / "0"
    whole = damaged.read_bytes()
    spoil_chunk(workplace)
    cli(*MANY, cwd=workplace, ok=False)
    failed = status(workplace, folder)
    assert (failed["state"], failed["n_done"]) == ("failed", len(there))
    assert len(failed["failed"]) == failed["n_chunks"] - len(there)
    assert "a chunk of 'rna' is damaged" in next(iter(failed["failed"].values()))["error"]
    told = cli("status", ".", cwd=workplace).stdout
    assert re.search(rf"scent +failed +{len(there)} of {failed['n_chunks']}", told)
    assert f"scent: {len(failed['failed']) - 3} more chunks failed; --json lists all" in told
    assert "scent: goes on with: enhancer-dask retry ." in told

    damaged.write_bytes(whole)
    missing = next(iter(there))
    missing.unlink()
    done = cli("retry", workplace, ok=False)  # from another folder than the command
    assert done.returncode == 5
    assert re.search(r"scent: again chunk \d+, .* and \d+ more of", done.stderr)
    assert "1 of 194 chunks have not been computed" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in there if path != missing} == {
        path: when for path, when in there.items() if path != missing
    }
    assert "no chunk has failed" in cli("retry", ".", cwd=workplace).stderr
    cli(*MANY, cwd=workplace)
    links = pd.read_parquet(workplace / "links.parquet")
    pd.testing.assert_frame_equal(links, scent(store, pairs, p="saddle", progress=False), check_exact=True)
    finished = status(workplace, "links.parquet")
    assert (finished["state"], finished["n_rows"]) == ("finished", len(links))


@pytest.fixture
def parts(tmp_path):
    """Parts of two of five chunks, and a function that writes their journal."""
    folder = tmp_path / "results" / "links.parquet.parts"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"stage": "scent", "n_chunks": 5}))
    for name in ("part-00000000.parquet", "part-00000003.1-of-2.parquet", "part-00000003.2-of-2.parquet"):
        (folder / name).touch()

    def journal(**values):
        now = time.time()
        here = {"host": platform.node(), "pid": os.getpid(), "started": now - 60, "updated": now}
        write_journal(folder, Journal("scent", 5, **{"n_done": 2, **here, **values}))
        return folder

    return journal


def test_n_parts__counts_whole_chunks_and_those_in_all_their_pieces(parts):
    folder = parts()
    for name in ("part-00000001.1-of-2.parquet", "part-00000001.2-of-4.parquet", ".part-00000002.parquet.0123456789ab"):
        (folder / name).touch()
    assert n_parts(folder) == 2


def test_run_status__tells_the_speed_and_the_estimated_end(parts):
    pace = {"refits_per_second": 100.0, "seconds_left": 180.0}
    [stage] = run_status(parts(n_found=1, n_running=1, n_workers=3, n_threads=3, **pace))
    assert (stage.state, stage.n_done, stage.n_running, stage.n_workers) == ("running", 2, 1, 3)
    assert stage.refits_per_second == pytest.approx(100)
    assert stage.seconds_left == pytest.approx(180)


@pytest.mark.parametrize(
    ("values", "state", "message"),
    [
        ({"message": "3 jobs pending: Resources"}, "running", "3 jobs pending: Resources"),
        ({"host": "elsewhere", "pid": 7}, "running", ""),
        ({"host": "elsewhere", "pid": 7, "updated": time.time() - 200}, "crashed", "nothing heard from process 7 on"),
        ({"state": "stopped", "message": "disk full", "host": "elsewhere", "updated": 0}, "stopped", "disk full"),
        ({"state": "finished"}, "computed", ""),
    ],
)
def test_run_status__says_what_became_of_the_driver(parts, values, state, message):
    [stage] = run_status(parts(**values).with_suffix(""))  # by the name of the table
    assert stage.state == state
    assert message in stage.message


def test_run_status__without_or_with_a_damaged_journal(parts):
    folder = parts()
    (folder / "progress.json").write_text("{")
    with pytest.raises(StoreError, match="damaged, not a journal"):
        run_status(folder)
    (folder / "progress.json").unlink()
    assert (run_status(folder)[0].state, run_status(folder)[0].n_done) == ("unknown", 2)


def test_run_status__lists_the_stages_of_a_run_to_come(parts):
    folder = parts().parent
    config = folder.parent / "run.yaml"
    config.write_text("out: results\ningest: {inputs: a.h5}\nscent: {certify: 10}\n")
    write_parquet(pd.DataFrame({"gene": ["g"]}), folder / "pairs.parquet", meta={"params": {"stage": "candidates"}})
    (folder / ".multiome.zarr.0123456789ab").mkdir()
    want = {"ingest": "unknown", "candidates": "finished", "scent": "running", "certify": "waiting", "pairs": "waiting"}
    want |= {"epistasis": "waiting", "figures": "waiting"}
    for run in (config, config.parent):
        assert {stage.stage: stage.state for stage in run_status(run)} == want
    assert [stage.stage for stage in run_status(folder)] == ["candidates", "scent"]
    empty = pd.DataFrame({"gene": []})
    write_parquet(empty, folder / "enhancer_pairs.parquet", meta={"params": {"stage": "pairs"}})
    assert run_status(config)[-2].message == "there are no enhancer pairs"


def test_run_status__of_contacts_and_graphs_whole_and_in_parts(tmp_path):
    schemas = {"multiome": "multiome", "contacts": "contacts", "other": "something else"}
    for name, schema in schemas.items():
        zarr.create_group(tmp_path / f"{name}.zarr", attributes={"schema": f"enhancer-dask {schema}"})
    simulate_chromosomes(tmp_path / "shards", preset_design("enhancers", bins=200), n_train=1, n_validation=0, n_test=0)
    for name, stage in {"more.zarr": "contacts", "windows.balance": "balance", "windows": "graphs"}.items():
        (tmp_path / f"{name}.parts").mkdir()
        (tmp_path / f"{name}.parts" / MANIFEST).write_text(json.dumps({"stage": stage, "n_chunks": 5}))
    found = {(status.stage, Path(status.path).name, status.state) for status in run_status(tmp_path)}
    assert found == {
        ("ingest", "multiome.zarr", "finished"), ("contacts", "contacts.zarr", "finished"),
        ("graphs", "shards", "finished"), ("contacts", "more.zarr.parts", "unknown"),
        ("balance", "windows.balance.parts", "unknown"), ("graphs", "windows.parts", "unknown"),
    }  # fmt: skip
    for name, stages in {"contacts.zarr": ["contacts"], "more.zarr": ["contacts"], "shards": ["graphs"],
                         "multiome.zarr": ["ingest"], "windows": ["balance", "graphs"]}.items():  # fmt: skip
        assert [status.stage for status in run_status(tmp_path / name)] == stages


def test_status__fits_into_80_columns(parts):
    folder = parts(
        n_found=1,
        refits_per_second=7_123_456.0,
        seconds_left=1e6,
        n_workers=300,
        n_threads=300,
        started=time.time() - 300_000,
    ).parent
    told = cli("status", folder).stdout
    assert "2 of 5" in told
    assert all(len(line) <= 80 for line in told.splitlines() if not line.startswith("scent: "))


@pytest.mark.parametrize("name", ["nothing", "empty", "other.parquet"])
def test_status__of_no_run_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"gene": ["g"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=f"{name}: .*want a run.yaml, a folder of results, a result"):
        run_status(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"command": []}, "links.parquet.parts: started from Python; call the same function again"),
        ({"state": "running"}, "is still at it; try again when it has ended"),
    ],
)
def test_retry__says_why_it_cannot(parts, values, message):
    failed = {4: Failure("StoreError('damaged')", 3)}
    folder = parts(**{"failed": failed, "state": "failed", "command": ["scent"], "folder": "/", **values})
    with pytest.raises(InputError, match=message):
        retry(folder)
