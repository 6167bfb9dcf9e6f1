"""Named profiles of cluster.yaml -> a Dask client. Today: this machine, or a scheduler that runs already."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import dask
import yaml
from distributed import Client, LocalCluster, WorkerPlugin, default_client
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from enhancer_dask.errors import InputError

CONFIG_NAME = "cluster.yaml"
# one thread in every library unless told otherwise: Dask workers are the parallelism
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class LocalProfile(BaseModel):
    """Workers as processes on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["local"] = "local"
    n_workers: int | None = Field(None, ge=1, description="worker processes; auto: one per core")
    threads_per_worker: int = Field(1, ge=1, description="chunks that one worker computes at a time")
    blas_threads: int = Field(1, ge=1, description="threads of BLAS and Numba inside a chunk")
    memory_limit: str = Field("auto", description="per worker, for instance 4GB; auto: an equal share")
    dashboard_address: str = Field(":0", description="for instance :8787; by default any free port")

    @field_validator("n_workers", mode="before")
    @classmethod
    def _auto_is_none(cls, value: object) -> object:
        return None if value == "auto" else value


class SchedulerProfile(BaseModel):
    """A Dask scheduler that is already running."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["scheduler"] = "scheduler"
    scheduler: str = Field(description="its address, for instance tcp://node:8786")


Profile = Annotated[LocalProfile | SchedulerProfile, Field(discriminator="kind")]
_PROFILE: TypeAdapter[LocalProfile | SchedulerProfile] = TypeAdapter(Profile)


def read_profile(name: str = "local", config: str | Path | None = None) -> LocalProfile | SchedulerProfile:
    """One profile of a cluster.yaml.

    Parameters
    ----------
    name : str
        Key in the file.
    config : path, optional
        By default ``cluster.yaml`` of the current folder, and without one the built-in profile ``local``.

    Raises
    ------
    InputError
        If the file or profile is missing, a key is unknown or a value is bad; names file, profile and key.
    """
    path = Path(CONFIG_NAME) if config is None else Path(config)
    if not path.exists():
        if config is None and name == "local":
            return LocalProfile()
        raise InputError(f"{path}: no such file; it should hold the profile {name!r}")
    try:
        profiles = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: not readable as YAML ({str(err).splitlines()[0]})") from err
    if not isinstance(profiles, dict) or name not in profiles:
        known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else "none"
        raise InputError(f"{path}: no profile {name!r}; profiles are: {known}")
    values = profiles[name] or {}
    if isinstance(values, dict) and "kind" not in values:
        values = {"kind": "scheduler" if "scheduler" in values else "local", **values}
    try:
        return _PROFILE.validate_python(values)
    except ValidationError as err:
        raise InputError(f"{path}: profile {name!r}: {first_error(err, skip=1)}") from err


def first_error(err: ValidationError, *, skip: int = 0) -> str:
    """First problem pydantic found, in one line: key, what is wrong, what was given."""
    problem = err.errors()[0]
    key = ".".join(str(part) for part in problem["loc"][skip:]) or "top level"
    return f"key {key!r}: {problem['msg'].lower()} (found {problem['input']!r})"


class _BehavedWorker(WorkerPlugin):
    """Ctrl-C reaches every process of a terminal: the driver alone answers it, and cancelled chunks are no news."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)


@contextmanager
def cluster(
    profile: str = "local",
    adapt: tuple[int, int] | None = None,
    config: str | Path | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Iterator[Client]:
    """Start what a profile describes and yield a client; everything is shut down at the end.

    Parameters
    ----------
    profile, config
        See :func:`read_profile`.
    adapt : pair of int, optional
        Least and largest number of workers; they come and go with the work.
    say : function of str, optional
        Receives the address of the dashboard.

    Examples
    --------
    In a notebook::

        with ed.cluster("local") as client:
            links = ed.scent("pbmc.zarr", pairs, celltype="CD14 Mono", client=client)
    """
    settings = read_profile(profile, config)
    if isinstance(settings, SchedulerProfile):
        before = _current_client()
        try:
            client = Client(settings.scheduler, timeout="30s")
        except (OSError, ValueError) as err:
            broken = _current_client()  # older versions leave it as the one that everything uses from now on
            if broken is not None and broken is not before:
                broken.close()
            raise InputError(f"profile {profile!r}: no scheduler answers at {settings.scheduler} ({err})") from err
        with client:
            yield client
        return
    environment = dict.fromkeys(THREAD_VARIABLES, str(settings.blas_threads))
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        try:
            local = LocalCluster(
                n_workers=settings.n_workers,
                threads_per_worker=settings.threads_per_worker,
                memory_limit=settings.memory_limit,
                dashboard_address=settings.dashboard_address,
                processes=True,
                silence_logs=logging.ERROR,
            )
        except (ValueError, RuntimeError, OSError) as err:  # a bad memory limit or address
            raise InputError(
                f"profile {profile!r}: the workers cannot be started ({str(err).splitlines()[0]})"
            ) from err
    with local, Client(local) as client:
        client.register_plugin(_BehavedWorker())
        if adapt is not None:
            local.adapt(minimum=adapt[0], maximum=adapt[1])
        if say is not None:
            say(f"dashboard: {local.dashboard_link}")
        yield client


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
        with LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as local, Client(local) as own:
            yield own


def _current_client() -> Client | None:
    try:
        current: Client = default_client()
    except ValueError:
        return None
    return current
