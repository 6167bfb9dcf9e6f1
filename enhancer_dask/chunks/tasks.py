"""One piece of a chunk on a worker: compute, write its part, say how it went."""

from __future__ import annotations

import errno
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from distributed import get_worker

from enhancer_dask.chunks.failures import Unwritable, unwritable
from enhancer_dask.chunks.parts import MANIFEST
from enhancer_dask.clusters.nodes import differences, versions
from enhancer_dask.errors import ClusterError, EnhancerDaskError
from enhancer_dask.io.tables import write_parquet

LATE_FOLDER_S = 5.0  # a network file system may show a worker the new folder a little later
# what no other attempt and no other chunk can overcome
HOPELESS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOENT, errno.ENOTCONN, errno.EACCES,
    errno.EPERM,
}  # fmt: skip
logger = logging.getLogger("distributed.worker")  # with its own messages, in the log of the job


@dataclass(frozen=True, slots=True)
class Job:
    """What all pieces of a run share."""

    task: Callable[..., pd.DataFrame]
    signature: str
    versions: Mapping[str, str]
    """Of the driver."""


class Outcome(NamedTuple):
    """What the driver hears of a piece."""

    seconds: float
    n_refits: int
    """Sum of the table's columns ``n_refits*``."""
    worker: str
    """Address."""
    error: Exception | None = None
    disk: bool = False
    """Whether reading or writing is behind the error."""


def execute(job: Job, part: Path, args: tuple[Any, ...]) -> Outcome:
    """Compute one piece and write it. Errors are returned, so that the driver learns of the worker and the time."""
    begin = time.perf_counter()
    worker = get_worker().address
    try:
        other = differences(job.versions, versions())
        if other:
            raise ClusterError(f"worker {worker}: {'; '.join(other)}; give both the same environment")
        table = job.task(*args)
        _write(table, part, job.signature)
    except Exception as err:
        if not isinstance(err, EnhancerDaskError | OSError):
            logger.warning("%s failed", part.name, exc_info=True)
        return Outcome(time.perf_counter() - begin, 0, worker, _portable(err), _is_of_disk(err))
    return Outcome(time.perf_counter() - begin, _refits(table), worker)


def _write(table: pd.DataFrame, part: Path, signature: str) -> None:
    """Write the part, but never make its folder: where a mount is lost, the disk below it would be filled."""
    deadline = time.monotonic() + LATE_FOLDER_S
    while not (part.parent / MANIFEST).exists():
        if time.monotonic() > deadline:
            raise Unwritable(
                f"{part.parent}: the folder of parts or its {MANIFEST} is gone, or not seen by this worker; mount or "
                "restore it and run the same command again"
            )
        time.sleep(0.2)
    try:
        write_parquet(table, part, meta={"signature": signature}, make_parent=False)
    except OSError as err:
        if err.errno in HOPELESS:
            raise unwritable(err) from err
        raise


def _refits(table: pd.DataFrame) -> int:
    return int(sum(table[name].sum() for name in table.columns if str(name).startswith("n_refits")))


def _is_of_disk(err: BaseException) -> bool:
    return isinstance(err, OSError) or isinstance(err.__cause__, OSError)


def _portable(err: Exception) -> Exception:
    """The error, or one that says the same if it does not survive the way to the driver."""
    try:
        pickle.loads(pickle.dumps(err))
    except Exception:
        return RuntimeError(repr(err))
    return err
