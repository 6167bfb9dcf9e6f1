from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, default_client
from distributed.comm import CommClosedError
from distributed.deploy.cluster import Cluster

from enhancer_dask.clusters import client_or_threads, cluster, kept_open, read_profile
from enhancer_dask.clusters.capacity import chunk_bytes, chunk_seconds, tell_demand, trouble
from enhancer_dask.clusters.check import _problems, check
from enhancer_dask.clusters.nodes import gpus, versions
from enhancer_dask.errors import ClusterError, InputError


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local:\n  n_worker: 2\n", "profile 'local': key 'n_worker': unknown key .found 2"),
        (
            "local:\n  threads_per_worker: none\n",
            "profile 'local': key 'threads_per_worker': input should be a valid int",
        ),
        ("other:\n  n_workers: 2\n", "no profile 'local'; profiles are: other"),
        ("- 1\n", "no profile 'local'"),
        ("a: [\n", "not readable as YAML"),
        ("local:\n  kind: pbs\n", "profile 'local': .*'pbs'"),
        (
            "local:\n  n_workers: 0\n",
            "profile 'local': key 'n_workers': input should be greater than or equal to 1 .found 0",
        ),
    ],
)
def test_read_profile__names_what_is_wrong(config, text, message):
    with pytest.raises(InputError, match=f"cluster.yaml: {message}"):
        read_profile("local", config(text))


def test_read_profile__without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_profile().n_workers is None
    (tmp_path / "cluster.yaml").write_text("other:\n  n_workers: 2\n")
    assert read_profile().n_workers is None
    (tmp_path / "cluster.yaml").unlink()
    with pytest.raises(InputError, match="cluster.yaml: no such file; it should hold the profile 'slurm'"):
        read_profile("slurm")


def test_read_profile__the_file_we_ship():
    profile = read_profile("local", Path(__file__).parents[1] / "cluster.yaml")
    assert profile.threads_per_worker == 1
    assert profile.blas_threads == 1


def test_cluster__starts_the_workers_of_the_profile_with_one_thread_each(config):
    with cluster("local", config=config("local:\n  n_workers: 2\n  memory_limit: 1GiB\n")) as client:
        assert list(client.nthreads().values()) == [1, 1]
        threads = client.run(lambda: [os.environ[v] for v in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")])
        assert set(map(tuple, threads.values())) == {("1", "1")}
        limits = [w["memory_limit"] for w in client.scheduler_info()["workers"].values()]
        assert limits == [2**30, 2**30]


def _logged_by_a_worker():
    """What reaches the log of a worker when a heartbeat, and when something else, meets a scheduler that is gone."""
    logger, seen = logging.getLogger("distributed.worker"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.funcName)

    def fail():
        try:
            raise CommClosedError("the scheduler is gone")
        except OSError:
            logger.exception("lost")

    def heartbeat():
        try:
            raise CommClosedError("the scheduler is gone")
        except OSError:
            logger.exception("lost")

    logger.addHandler(handler)
    try:
        heartbeat()
        fail()
    finally:
        logger.removeHandler(handler)
    return seen


def test_cluster__a_heartbeat_that_meets_the_closing_scheduler_is_no_news(config):
    with cluster("local", config=config("local:\n  n_workers: 1\n  memory_limit: 1GiB\n")) as client:
        assert list(client.run(_logged_by_a_worker).values()) == [["fail"]]


@pytest.mark.parametrize("own_threads", [False, True])
def test_cluster__a_connection_that_ends_while_it_closes_is_no_news(config, monkeypatch, own_threads):
    logger, close, told = logging.getLogger("distributed"), Cluster._close, []
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)

    async def close_and_tell(cluster):  # the last that Dask does to close it
        told.append(logger.isEnabledFor(logging.INFO))
        logging.getLogger("distributed.batched").info("comm closed", exc_info=CommClosedError("gone"))
        await close(cluster)

    monkeypatch.setattr(Cluster, "_close", close_and_tell)
    logger.addHandler(handler)
    try:
        local = config("local:\n  n_workers: 1\n  memory_limit: 1GiB\n")
        with client_or_threads(None) if own_threads else cluster("local", config=local):
            pass
        logger.info("afterwards all is as it was")
    finally:
        logger.removeHandler(handler)
    assert told == [True]
    assert shown.getvalue() == "afterwards all is as it was\n"


def test_cluster__connects_to_a_running_scheduler(config):
    with (
        LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as running,
        cluster("there", config=config(f"there:\n  scheduler: {running.scheduler_address}\n")) as client,
    ):
        assert client.submit(sum, [1, 2]).result() == 3


def test_client_or_threads__takes_what_there_is():
    with client_or_threads(None) as own:
        assert own.submit(os.getpid).result() == os.getpid()
    with LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as running, Client(running) as own:
        with client_or_threads(None) as current:
            assert current is own
        with client_or_threads(own) as given:
            assert given is own
        with client_or_threads(lambda: Client(running)) as opened:
            assert opened is not own


def test_kept_open__opens_once_for_all_stages_and_only_if_there_is_work():
    opened = []

    @contextmanager
    def source():
        with LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as running, Client(running) as client:
            opened.append(client)
            yield client

    with kept_open(source):
        pass
    assert opened == []
    with kept_open(source) as kept:
        with client_or_threads(kept) as first:
            assert first.submit(sum, [1, 2]).result() == 3
        with client_or_threads(kept) as second:
            assert second.submit(sum, [1, 2]).result() == 3
    assert opened == [first] == [second]
    assert first.status == "closed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local:\n  memory_limit: lots\n", "profile 'local': key 'memory_limit': want a size like 4GB"),
        ("local:\n  n_workers: 1\n  dashboard_address: xyz\n", "profile 'local': the workers cannot be started"),
        ("local:\n  scheduler: foo\n", "profile 'local': no scheduler answers at foo"),
    ],
)
def test_cluster__that_cannot_start_is_named(config, text, message):
    with pytest.raises(InputError, match=message), cluster("local", config=config(text)):
        raise AssertionError("not reached")
    with pytest.raises(ValueError, match="No clients found"):  # nothing broken is left for others to find
        default_client()


def test_cluster__of_this_machine_follows_the_chunks_that_are_left(config):
    path = config("local:\n  memory_limit: 1GiB\n")
    with cluster("local", adapt=(0, 2), config=path) as client:
        assert client.nthreads() == {}
        tell_demand(client, 5)
        client.wait_for_workers(2, timeout=60)
        assert 0 < chunk_bytes(client) < 2**30
        assert chunk_seconds(client) is None
        assert trouble(client) is None
        client.cluster.scale(1)  # ends adapt
        deadline = time.monotonic() + 30
        while len(client.nthreads()) != 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(client.nthreads()) == 1
        assert client.submit(sum, [1, 2]).result() == 3


def test_cluster__cannot_adapt_what_others_started(config):
    path = config("there:\n  scheduler: tcp://127.0.0.1:1\n")
    with (
        pytest.raises(InputError, match="profile 'there': adapt wants jobs or workers of ours"),
        cluster("there", adapt=(0, 1), config=path),
    ):
        raise AssertionError("not reached")


def test_cluster__where_there_is_no_slurm(config, tmp_path, monkeypatch):
    path = config(f"slurm:\n  kind: slurm\n  memory: 1GB\n  interface: lo\n  log_directory: {tmp_path / 'logs'}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ClusterError, match="profile 'slurm': SLURM refuses the jobs: sbatch: cannot be started here"),
        cluster("slurm", config=path),
    ):
        raise AssertionError("not reached")


def test_check__of_this_machine(config, tmp_path):
    said = []
    found = check("local", config("local:\n  memory_limit: 1GiB\n"), say=said.append)
    assert found["versions"] == versions()
    assert found["memory_limit"] == 2**30
    assert found["sees_driver_folder"]
    assert "memory: 1.00 GiB of the worker" in "\n".join(said)


def test_problems__are_named_together():
    found = {
        "versions": versions() | {"numpy": "1.0"},
        "scratch": {"folder": "/scratch", "free": 0, "error": "no space"},
        "gpus": [],
        "memory_limit": 2**28,
        "chunk_bytes": 0,
    }
    problems = _problems(found, wants_gpus=True)
    assert [problem.split()[0] for problem in problems] == ["numpy", "a", "nothing", "it"]
    assert len(_problems(found | {"chunk_bytes": None}, wants_gpus=False)) == 2


def test_gpus__are_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == ["NVIDIA H200, 143771 MiB"]


def test_clusters__leave_ctrl_c_alone_and_can_be_imported_from_a_thread():
    code = (
        "import signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background may come with none
        "thread = threading.Thread(target=lambda: print(__import__('enhancer_dask.clusters').__name__))\n"
        "thread.start(); thread.join()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "enhancer_dask\n"), done.stderr
