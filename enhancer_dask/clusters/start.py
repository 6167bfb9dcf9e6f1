"""A profile of cluster.yaml -> a Dask client, and everything cleaned up afterwards."""

from __future__ import annotations

import logging
import signal
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin, default_client
from distributed.utils import silence_logging_cmgr

from enhancer_dask.clusters.adaptive import ElasticCluster
from enhancer_dask.clusters.nodes import THREAD_VARIABLES
from enhancer_dask.clusters.profiles import LocalProfile, SchedulerProfile, SlurmProfile, read_profile
from enhancer_dask.clusters.slurm import SlurmCluster
from enhancer_dask.errors import InputError

CLOSING_S = 60.0  # after which closing is given up; the interpreter's end tries once more
Say = Callable[[str], None]


class _BehavedWorker(WorkerPlugin):
    """Ctrl-C reaches every process of a terminal: the driver alone answers it, and cancelled chunks are no news."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
        logging.getLogger("distributed.worker").addFilter(_is_no_missed_heartbeat)


def _is_no_missed_heartbeat(record: logging.LogRecord) -> bool:
    """A heartbeat may meet the scheduler just as it closes; one that is lost for good ends the worker with a word."""
    return not (record.funcName == "heartbeat" and record.exc_info and isinstance(record.exc_info[1], OSError))


def _is_no_ended_attempt(record: logging.LogRecord) -> bool:
    """A client that is closed when its scheduler is gone was just trying to reach it again."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


class _LocalCluster(ElasticCluster, LocalCluster):
    """Workers on this machine."""


@contextmanager
def cluster(
    profile: str = "local",
    adapt: tuple[int, int] | None = None,
    config: str | Path | None = None,
    *,
    say: Say | None = None,
) -> Iterator[Client]:
    """Start what a profile describes and yield a client; everything is shut down at the end, jobs are cancelled.

    Parameters
    ----------
    profile : str
        Key in the file.
    adapt : (int, int), optional
        Fewest and most jobs (of SLURM) or workers (of this machine), as there is work; by default what the profile
        says. ``client.cluster.scale(...)`` and ``client.cluster.adapt(...)`` change it at any time.
    config : path, optional
        By default ``cluster.yaml`` of the current folder; a profile ``local`` need not be there.
    say : function of a text, optional
        Is told the address of the dashboard.

    Raises
    ------
    InputError
        If the profile is not as it should be; see :func:`read_profile`.
    ClusterError
        If SLURM refuses the jobs.

    Examples
    --------
    In a notebook::

        with ed.cluster("slurm", adapt=(0, 50)) as client:
            links = ed.scent("pbmc.zarr", pairs, celltype="CD14 Mono", client=client)
    """
    settings = read_profile(profile, config)
    with open_profile(profile, settings, adapt, say=say) as client:
        yield client


@contextmanager
def open_profile(
    name: str,
    settings: LocalProfile | SlurmProfile | SchedulerProfile,
    adapt: tuple[int, int] | None = None,
    *,
    say: Say | None = None,
) -> Iterator[Client]:
    """The same for a profile that is read already."""
    if isinstance(settings, SchedulerProfile):
        if adapt is not None:
            raise InputError(f"profile {name!r}: adapt wants jobs or workers of ours, found a scheduler address")
        with _quiet(), _connect(name, settings) as client:
            yield client
        return
    with _quiet(), _running(name, settings, adapt) as running:
        if say is not None and running.dashboard_link:
            say(f"dashboard: {running.dashboard_link}")
        client = Client(running)
        try:
            client.register_plugin(_BehavedWorker())
            yield client
        finally:
            with _undisturbed():
                client.close(timeout=CLOSING_S)


def _quiet(level: int = logging.ERROR) -> AbstractContextManager[None]:
    """Less important messages of Dask are not shown.

    Its clusters see to that, too, but only until they are almost closed: a connection that ends just then would be
    told with a traceback.
    """
    return silence_logging_cmgr(level)


@contextmanager
def _running(
    name: str, settings: LocalProfile | SlurmProfile, adapt: tuple[int, int] | None
) -> Iterator[ElasticCluster]:
    running: ElasticCluster = (
        _start_local(name, settings, adapt)
        if isinstance(settings, LocalProfile)
        else _start_slurm(name, settings, adapt)
    )
    try:
        yield running
    finally:
        with _undisturbed():
            running.close(timeout=CLOSING_S)


def _start_local(name: str, settings: LocalProfile, adapt: tuple[int, int] | None) -> _LocalCluster:
    environment = dict.fromkeys(THREAD_VARIABLES, str(settings.blas_threads))
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        try:
            local = _LocalCluster(
                n_workers=settings.n_workers if adapt is None else adapt[0],
                threads_per_worker=settings.threads_per_worker,
                memory_limit=settings.memory_limit,
                dashboard_address=settings.dashboard_address,
                processes=True,
                silence_logs=logging.ERROR,
            )
        except (ValueError, RuntimeError, OSError) as err:  # a bad address
            raise InputError(f"profile {name!r}: the workers cannot be started ({str(err).splitlines()[0]})") from err
    local.threads_per_worker = settings.threads_per_worker
    if adapt is not None:
        local.adapt(minimum=adapt[0], maximum=adapt[1])
    return local


def _start_slurm(name: str, settings: SlurmProfile, adapt: tuple[int, int] | None) -> SlurmCluster:
    adapt = adapt or settings.adapt
    try:
        running = SlurmCluster(name, settings)
    except (ValueError, RuntimeError, OSError) as err:  # a bad interface or address
        raise InputError(f"profile {name!r}: the scheduler cannot be started ({str(err).splitlines()[0]})") from err
    try:
        if adapt is None:
            running.scale(jobs=settings.jobs)
        else:
            running.resize(jobs=adapt[0])
            running.adapt(minimum_jobs=adapt[0], maximum_jobs=adapt[1])
        running.sync(running.submitted)
        running.trouble()  # raises if SLURM refused
    except BaseException:
        with _undisturbed():
            running.close(timeout=CLOSING_S)
        raise
    return running


@contextmanager
def _connect(name: str, settings: SchedulerProfile) -> Iterator[Client]:
    before, logger = _current_client(), logging.getLogger("distributed.client")
    try:
        client = Client(settings.scheduler, timeout="30s")
    except (OSError, ValueError) as err:
        broken = _current_client()  # older versions leave it as the one that everything uses from now on
        if broken is not None and broken is not before:
            broken.close()
        raise InputError(f"profile {name!r}: no scheduler answers at {settings.scheduler} ({err})") from err
    logger.addFilter(_is_no_ended_attempt)
    try:
        with client:
            yield client
    finally:
        logger.removeFilter(_is_no_ended_attempt)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or the terminal that closes, does not end the clean-up, which would leave jobs behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in stopping}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


ClientSource = Client | Callable[[], AbstractContextManager[Client]]


@contextmanager
def client_or_threads(client: ClientSource | None) -> Iterator[Client]:
    """The given client, the one that a given function opens (only now, when there is work), else
    the current one, else threads of this process (the compiled fits free the GIL).

    Threads need no ``if __name__ == "__main__"`` in the user's script and start at once.
    """
    if isinstance(client, Client):
        yield client
    elif client is not None:
        with client() as opened:
            yield opened
    elif (current := _current_client()) is not None:
        yield current
    else:
        with (
            _quiet(logging.WARNING),
            LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as local,
            Client(local) as own,
        ):
            yield own


@contextmanager
def kept_open(client: ClientSource | None) -> Iterator[ClientSource | None]:
    """The same for several stages: what a function opens for the first that has work stays open for the others."""
    if client is None or isinstance(client, Client):
        yield client
        return
    with ExitStack() as stack:
        open_once = cache(lambda: stack.enter_context(client()))
        yield lambda: nullcontext(open_once())


def _current_client() -> Client | None:
    try:
        current: Client = default_client()
    except ValueError:
        return None
    return current
