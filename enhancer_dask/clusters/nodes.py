"""What a process has: package versions. Runs on workers and on the driver."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from enhancer_dask._version import __version__

# those that numbers, files and the conversation of driver and workers depend on
PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "pandas", "pyarrow", "zarr", "dask", "distributed")


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
