"""Stores behind URLs, on a local object store: what a worker reads is what a folder holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from enhancer_dask import candidates, epistasis, ingest, scent
from enhancer_dask.config import load_config
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.interactions.cells import cells_of_pair
from enhancer_dask.interactions.census import census
from enhancer_dask.report.gallery import draw_all
from enhancer_dask.stats.bootstrap import up_to
from enhancer_dask.stores import MultiomeStore, located, open_store

SETTINGS = {"seed": 5, "ladder": up_to(100), "min_fraction": 0.02, "progress": False}


@pytest.fixture(scope="session")
def cloud():
    """S3 as moto has it, and the environment that finds it; the oldest dependencies come without the extra."""
    pytest.importorskip("s3fs", reason="the extra 'cloud' is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        yield fsspec.filesystem("s3")
    server.stop()


@pytest.fixture(scope="session")
def remote(cloud, store):
    """The simulated store in a bucket."""
    cloud.mkdir("data")
    cloud.put(str(store), "data/multiome.zarr", recursive=True)
    return "s3://data/multiome.zarr"


@pytest.fixture
def memory(store):
    """The simulated store in this process's memory."""
    files = fsspec.filesystem("memory")
    files.put(str(store), "/multiome.zarr", recursive=True)
    yield "memory://multiome.zarr"
    files.rm("/multiome.zarr", recursive=True)


@pytest.fixture(scope="session")
def processes(cloud):
    """Worker processes inherit the environment of the process that starts them, so they are started after it is set."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def enhancer_pairs_file(store, pairs, tmp_path_factory):
    table = pd.read_parquet(pairs)
    gene = table["gene"].value_counts().index[0]
    peaks = table.loc[table["gene"] == gene, "peak"].to_numpy()[:4]
    rows = [(gene, one, two) for i, one in enumerate(peaks) for two in peaks[i + 1 :]]
    return pd.DataFrame(rows, columns=["gene", "enhancer_1", "enhancer_2"])


def test_located__keeps_urls_and_makes_paths_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("s3://bucket/a.zarr") == "s3://bucket/a.zarr"
    assert located(tmp_path.as_uri() + "/a.zarr") == located("a.zarr") == located(Path("a.zarr")) == tmp_path / "a.zarr"


def test_open_store__reads_an_object_store(remote, store):
    there, here = open_store(remote), open_store(store)
    np.testing.assert_array_equal(there["rna"].values, here["rna"].values)
    assert there["gene"].values.tolist() == here["gene"].values.tolist()
    assert MultiomeStore(remote).fingerprint == MultiomeStore(store).fingerprint


def test_stages__are_the_same_from_an_object_store_in_worker_processes(
    remote, store, pairs, enhancer_pairs_file, processes, tmp_path
):
    there = candidates(remote, tmp_path / "pairs.parquet")
    pd.testing.assert_frame_equal(there, pd.read_parquet(pairs), check_exact=True)
    for stage, table, settings in (
        (scent, there, {**SETTINGS, "certify": 2}),
        (census, enhancer_pairs_file, {"progress": False}),
        (epistasis, enhancer_pairs_file, {"progress": False, "ladder": up_to(100)}),
    ):
        found, wanted = (stage(where, table, client=processes, chunk_pairs=7, **settings) for where in (remote, store))
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)


def test_scent__reads_the_memory_of_its_own_process(memory, store, pairs):
    found, wanted = (scent(where, pairs, **SETTINGS) for where in (memory, store))
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


def test_figures__take_a_url(memory, store, enhancer_pairs_file, tmp_path):
    pair = tuple(enhancer_pairs_file.iloc[0])
    assert draw_all(tmp_path, store=memory, pair=pair, celltype="A")
    pd.testing.assert_frame_equal(*(cells_of_pair(where, *pair, "A") for where in (memory, store)))


def test_open_store__reads_a_web_server(store):
    pytest.importorskip("aiohttp", reason="the extra 'cloud' is not installed")
    handler = partial(_Silent, directory=str(store.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{store.name}"
        found = MultiomeStore(url).counts("rna", [0, 3], "B")
        server.shutdown()
    np.testing.assert_array_equal(found, MultiomeStore(store).counts("rna", [0, 3], "B"))


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_counts__damage_names_the_url(cloud, store):
    cloud.put(str(store), "data/damaged.zarr", recursive=True)
    chunk = "data/damaged.zarr/atac/c/0/0"
    content = bytearray(cloud.cat(chunk))
    content[len(content) // 2] ^= 0x10
    cloud.pipe(chunk, bytes(content))
    with pytest.raises(StoreError, match="^s3://data/damaged.zarr: a chunk of 'atac' is damaged .*checksum"):
        MultiomeStore("s3://data/damaged.zarr").counts("atac", [0, 1], "A")
    cloud.rm(chunk)
    with pytest.raises(StoreError, match="^s3://data/damaged.zarr: a chunk of 'atac' is damaged or missing: peak"):
        MultiomeStore("s3://data/damaged.zarr").counts("atac", [0, 1], "A")


def test_scent__notices_that_the_store_behind_a_url_was_replaced(memory, simulated, pairs, tmp_path):
    out = tmp_path / "links.parquet"
    scent(memory, pairs, out=out, **SETTINGS)
    ingest(simulated["multiome"], tmp_path / "other.zarr", gtf=simulated["gtf"])
    files = fsspec.filesystem("memory")
    files.rm("/multiome.zarr", recursive=True)
    files.put(str(tmp_path / "other.zarr"), "/multiome.zarr", recursive=True)
    with pytest.raises(Exception, match="links.parquet: .*store"):
        scent(memory, pairs, out=out, **SETTINGS)


def test_open_store__says_what_is_missing_behind_a_url(cloud, monkeypatch):
    for url in ("s3://data/nothing.zarr", "s3://no-such-bucket/multiome.zarr", "memory://nothing.zarr"):
        with pytest.raises(StoreError, match=f"^{url}: no such store$"):
            open_store(url)
    with pytest.raises(StoreError, match="^nfs4://x/y: .*nfs4"):
        open_store("nfs4://x/y")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached .*AWS_ENDPOINT_URL"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "no right to read it .*Credentials.*AWS_ACCESS_KEY_ID",
        ),
    ],
    ids=["endpoint", "credentials"],
)
def test_open_store__says_what_to_set_in_one_line(remote, environment, wanted):
    """In a process of its own, since file systems and their clients are kept."""
    done = _open_in_another_process(remote, environment)
    assert done.stdout.startswith(f"{remote}: "), done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert re.search(wanted, done.stdout), done.stdout


def test_open_store__says_what_to_install():
    done = _open_in_another_process("s3://a/b.zarr", {}, "import sys; sys.modules['s3fs'] = None")
    assert "s3://a/b.zarr: Install s3fs" in done.stdout, done.stderr
    assert "pip install 'enhancer-dask[cloud]'" in done.stdout


def _open_in_another_process(url, environment, before="pass"):
    code = f"""{before}
from enhancer_dask.errors import StoreError
from enhancer_dask.stores import open_store
try:
    open_store({url!r})
except StoreError as err:
    print(err)"""
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def test_urls__are_not_written_to(simulated, store, pairs, tmp_path):
    with pytest.raises(InputError, match="^s3://data/new.zarr: a store is written to a folder, want a path"):
        ingest(simulated["multiome"], "s3://data/new.zarr")
    with pytest.raises(InputError, match="^s3://data/links.parquet: tables are written to a file system, want a path"):
        scent(store, pairs, out="s3://data/links.parquet")
    with pytest.raises(InputError, match="^s3:/data/links.parquet: tables are written"):  # as a command line gives it
        scent(store, pairs, out=Path("s3://data/links.parquet"))
    with pytest.raises(InputError, match="^s3://data/figures: figures are written to a file system"):
        draw_all("s3://data/figures", links=pairs)
    (tmp_path / "run.yaml").write_text("out: s3://data/results\ningest: {inputs: a.h5}\n")
    with pytest.raises(InputError, match="run.yaml: key 'out': results are written to a file system"):
        load_config(tmp_path / "run.yaml")
