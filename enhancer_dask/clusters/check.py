"""Try a profile with one worker: what it gets, and whether it is like the driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from dask.utils import format_bytes
from distributed import Client

from enhancer_dask.clusters import nodes
from enhancer_dask.clusters.capacity import chunk_bytes, trouble
from enhancer_dask.clusters.profiles import LocalProfile, SlurmProfile, read_profile
from enhancer_dask.clusters.slurm import job_script
from enhancer_dask.clusters.start import open_profile
from enhancer_dask.errors import ClusterError

POLL_S = 0.2


def check(
    profile: str, config: str | Path | None = None, *, say: Callable[[str], None], timeout: float = 600
) -> dict[str, Any]:
    """Start one worker of a profile, tell what it has, and end it.

    Parameters
    ----------
    profile, config
        See :func:`enhancer_dask.clusters.cluster`.
    say : function of a text
        Is told the job script, why the job waits, and what the worker has.
    timeout : float
        Seconds to wait for the worker.

    Returns
    -------
    dict
        What :func:`enhancer_dask.clusters.nodes.report` found on the worker, and its ``address``, ``memory_limit``
        and ``nthreads``.

    Raises
    ------
    InputError
        If the profile is not as it should be.
    ClusterError
        If no worker comes, or it has other versions than the driver, no scratch, or no GPU where the profile wants one.
    """
    settings = read_profile(profile, config)
    if isinstance(settings, SlurmProfile):
        settings = settings.model_copy(update={"jobs": 1, "adapt": None})
        say(job_script(settings))
    elif isinstance(settings, LocalProfile):
        settings = settings.model_copy(update={"n_workers": 1})
    with open_profile(profile, settings, say=say) as client:
        address, worker = _first_worker(client, profile, say, timeout)
        found = {"address": address, **{key: worker[key] for key in ("memory_limit", "nthreads")}}
        found |= _ask(client, address, worker["local_directory"])
        found["chunk_bytes"] = chunk_bytes(client)
    for line in _words(found):
        say(line)
    wants_gpus = isinstance(settings, SlurmProfile) and settings.gpus > 0
    if problems := _problems(found, wants_gpus=wants_gpus):
        raise ClusterError(f"profile {profile!r}: {'; '.join(problems)}")
    return found


def _first_worker(
    client: Client, profile: str, say: Callable[[str], None], timeout: float
) -> tuple[str, dict[str, Any]]:
    """Address and description of the first worker that comes."""
    deadline, said = time.monotonic() + timeout, None
    while not (workers := client.scheduler_info()["workers"]):
        why = trouble(client)
        if time.monotonic() > deadline:
            raise ClusterError(f"profile {profile!r}: no worker within {timeout:g} s ({why or 'nothing is known'})")
        if why is not None and why != said:
            say(f"waiting: {why}")
            said = why
        time.sleep(POLL_S)
    address, worker = next(iter(workers.items()))
    return address, dict(worker)


def _ask(client: Client, address: str, local_directory: str) -> dict[str, Any]:
    """The report of a worker. The current folder is where results usually go, so the worker should see a file there."""
    try:
        with NamedTemporaryFile(dir=Path.cwd(), prefix=".enhancer-dask-check-") as file:
            found = client.run(nodes.report, local_directory, file.name, workers=[address])
    except (AttributeError, ImportError) as err:
        raise ClusterError(f"worker {address}: its enhancer-dask is another one than the driver's ({err})") from err
    return dict(found[address])


def _words(found: dict[str, Any]) -> list[str]:
    """What was found, for people."""
    job_cores = "" if found["job_cores"] is None else f", {found['job_cores']} of the job"
    limits = {"of the job": found["job_memory"], "of the node": found["node_memory"]}
    memory = "".join(f", {format_bytes(n)} {what}" for what, n in limits.items() if n)
    scratch = found["scratch"]
    folder = (
        "is seen by the worker"
        if found["sees_driver_folder"]
        else ("is NOT seen by the worker: stores and results must be where both see them")
    )
    return [
        f"worker {found['address']} on {found['host']}",
        f"cores: {found['cores']}{job_cores}, {found['nthreads']} chunks at a time",
        f"memory: {format_bytes(found['memory_limit'])} of the worker{memory}",
        f"threads: {', '.join(f'{name}={value}' for name, value in found['threads'].items())}",
        f"GPU: {'; '.join(found['gpus']) or 'none'}",
        f"scratch: {scratch['folder']}, {scratch['error'] or format_bytes(scratch['free']) + ' free'}",
        f"current folder: {folder}",
        f"versions: {', '.join(f'{name} {value}' for name, value in found['versions'].items())}",
    ]


def _problems(found: dict[str, Any], *, wants_gpus: bool) -> list[str]:
    problems = nodes.differences(nodes.versions(), found["versions"])
    if found["scratch"]["error"]:
        problems.append(f"nothing can be written to scratch: {found['scratch']['error']}")
    if wants_gpus and not found["gpus"]:
        problems.append("it wants GPUs, and nvidia-smi finds none on the worker")
    return problems
