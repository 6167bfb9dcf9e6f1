"""What went wrong with which chunk, and what follows from it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from distributed import KilledWorker

from enhancer_dask.chunks.journal import Failure
from enhancer_dask.errors import ChunkError, ClusterError, EnhancerDaskError

DISK_ERRORS = 20  # in a row, after which nothing will succeed
ROUNDS_OF_KILLS = 3  # times the scheduler may give a chunk up because workers died with it
N_LAST = 10  # errors that the journal shows


class Unwritable(ChunkError):
    """The disk of the parts is full, read-only or gone: no chunk will succeed, what is finished is kept."""


def unwritable(err: OSError) -> Unwritable:
    """What to do about it, in words."""
    why = os.strerror(err.errno) if err.errno else str(err)
    return Unwritable(
        f"{err.filename}: cannot be written ({why}); free space or mount it and run the same command again, what is "
        "finished is kept"
    )


@dataclass(slots=True)
class _Attempts:
    errors: int = 0
    kills: int = 0
    """Rounds, each of several workers."""
    deaths: int = 0
    """Workers that died with it."""


class Failures:
    """Errors of the chunks of a run."""

    def __init__(self, stage: str, n_chunks: int, retries: int) -> None:
        self.stage, self.n_chunks, self.retries = stage, n_chunks, retries
        self.failed: dict[int, Failure] = {}
        """Chunks that failed for good in this run."""
        self.last: list[str] = []
        self._attempts: dict[int, _Attempts] = {}
        self._n_disk = 0  # in a row
        self._first: BaseException | None = None

    def try_again(self, index: int, error: BaseException, *, worker: str = "", disk: bool = False) -> bool:
        """Note an error. Errors of input stay what they are; anything else may pass.

        Raises
        ------
        EnhancerDaskError
            If it strikes everywhere: the disk of the parts, package versions, errors of reading in a row.
        """
        if isinstance(error, Unwritable | ClusterError):
            raise error
        so_far = self._attempts.setdefault(index, _Attempts())
        if isinstance(error, KilledWorker):
            so_far.kills += 1
            so_far.deaths += error.allowed_failures + 1
            worker = error.last_worker.address
            words = f"killed its worker {so_far.deaths} times (out of memory, or longer than the wall time?)"
            more = so_far.kills < ROUNDS_OF_KILLS
        else:
            so_far.errors += 1
            words = str(error) if isinstance(error, EnhancerDaskError) else repr(error)
            more = so_far.errors <= self.retries and not isinstance(error, EnhancerDaskError)
        self.last = [*self.last[1 - N_LAST :], f"chunk {index}: {words}"]
        self._n_disk += disk
        if self._n_disk >= DISK_ERRORS:
            raise ChunkError(
                f"{self.stage}: stopped after {self._n_disk} errors in a row; what is finished is kept. "
                f"Last: chunk {index}: {error}"
            ) from error
        if not more:
            if not self.failed or index < min(self.failed):
                self._first = error
            self.failed[index] = Failure(words, so_far.errors + so_far.deaths, worker, time.time())
            del self._attempts[index]
        return more

    def succeeded(self, index: int, *, whole: bool) -> None:
        """A piece of the chunk is done, or all of it."""
        self._n_disk = 0
        if whole:
            self._attempts.pop(index, None)

    def report(self) -> None:
        """Raise if a chunk failed for good."""
        if not self.failed:
            return
        index = min(self.failed)
        others = "" if len(self.failed) == self.n_chunks else ", the others are finished and kept"
        raise ChunkError(
            f"{self.stage}: {len(self.failed)} of {self.n_chunks} chunks failed{others}. "
            f"First: chunk {index}: {self.failed[index].error}"
        ) from self._first
