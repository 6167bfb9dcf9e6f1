"""What a process has: package versions, cores, memory, GPUs, scratch. Runs on workers and on the driver."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from enhancer_dask._version import __version__

# those that numbers, files and the conversation of driver and workers depend on
PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "pandas", "pyarrow", "zarr", "dask", "distributed")
# of the libraries that compute
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
    "ZARR_THREADING__MAX_WORKERS",  # that decode chunks of a store
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python, enhancer-dask and what it computes with; ``none`` for what is not installed."""
    found = {"python": platform.python_version(), "enhancer-dask": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def differences(driver: Mapping[str, str], worker: Mapping[str, str]) -> list[str]:
    """What differs, in words.

    Examples
    --------
    >>> differences({"numpy": "2.4.6", "numba": "0.68.1"}, {"numpy": "2.1.3", "numba": "0.68.1"})
    ['numpy is 2.1.3 on the worker and 2.4.6 on the driver']
    """
    return [
        f"{name} is {worker.get(name, 'none')} on the worker and {wanted} on the driver"
        for name, wanted in driver.items()
        if worker.get(name, "none") != wanted
    ]


def report(local_directory: str, shared: str) -> dict[str, Any]:
    """What this process can use, as JSON values.

    Parameters
    ----------
    local_directory : str
        Scratch of the worker.
    shared : str
        A file that the driver wrote.
    """
    return {
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "job_cores": int(os.environ.get("SLURM_CPUS_ON_NODE", "0")) or None,
        "job_memory": int(os.environ.get("SLURM_MEM_PER_NODE", "0")) * 2**20 or None,
        "node_memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus(),
        "scratch": scratch(local_directory),
        "threads": {name: os.environ.get(name, "not set") for name in THREAD_VARIABLES},
        "versions": versions(),
        "sees_driver_folder": Path(shared).exists(),
    }


def gpus() -> list[str]:
    """Name and memory of each GPU that this process may use."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in out.splitlines() if line.strip()]


def scratch(folder: str) -> dict[str, Any]:
    """A folder, its free bytes, and why nothing can be written there (empty if it can)."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
        return {"folder": folder, "free": shutil.disk_usage(folder).free, "error": ""}
    except OSError as err:
        return {"folder": folder, "free": 0, "error": str(err)}
