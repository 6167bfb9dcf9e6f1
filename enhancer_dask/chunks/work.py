"""Run numbered chunks of work as Dask tasks, each leaving one part file; stop and go on at any time.

A chunk's task is a plain function that returns a table. The part is written under a temporary name and renamed,
so a part that exists is whole. The manifest beside the parts says with which parameters they are made. The driver
holds a window of chunks in flight and one byte per chunk, however many chunks there are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client, as_completed
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from enhancer_dask._version import __version__
from enhancer_dask.errors import ChunkError, EnhancerDaskError, ResumeError, StoreError
from enhancer_dask.io.files import remove_at_once, staged
from enhancer_dask.io.tables import check_params, read_meta, with_meta, write_parquet

MANIFEST = "manifest.json"
DISK_ERRORS = 20  # in a row, after which nothing will succeed
ROW_GROUP = 100_000  # rows of a row group of the merged table
CHUNKS_AHEAD = 2  # chunks in flight per thread, so that no worker waits for the driver


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What one call of :func:`run` did."""

    n_chunks: int
    """Chunks of the whole work."""
    n_found: int
    """Chunks whose parts were there already."""
    n_computed: int
    """Chunks computed now."""
    seconds: float
    """Wall time of this call."""


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work cut into numbered chunks."""

    stage: str
    """Name, shown with the progress bar."""
    task: Callable[..., pd.DataFrame]
    """Computes one chunk from its arguments; importable by the workers."""
    arguments: Callable[[int], tuple[Any, ...]]
    """Arguments of chunk ``i``: indices and names, nothing large."""
    n_chunks: int
    """Chunks are numbered 0 to ``n_chunks - 1``; their tables follow each other in that order."""
    params: Mapping[str, Any]
    """Everything the result depends on, as JSON values."""
    layout: Mapping[str, Any]
    """How the work is cut; changes no result, yet parts of different cuts cannot be mixed."""
    folder: Path
    """Where manifest and parts are."""
    split: Callable[[tuple[Any, ...], int], list[tuple[Any, ...]]] | None = None
    """Cuts the arguments of a chunk into at most so many pieces whose tables, one after the other, are the chunk's.

    A pure function: the same pieces for the same number. None if a chunk cannot be cut."""
    nbytes: Callable[[tuple[Any, ...]], int] | None = None
    """Memory that the task takes with these arguments at its peak, bytes, beyond what the process takes anyway."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Content of the manifest."""
        # a JSON round trip makes it comparable with what is read back
        text = json.dumps({**self.params, **self.layout, "n_chunks": self.n_chunks, "software": __version__})
        return dict(json.loads(text))

    @property
    def signature(self) -> str:
        """Short hash of the manifest; every part carries it."""
        return hashlib.blake2b(json.dumps(self.manifest, sort_keys=True).encode(), digest_size=8).hexdigest()

    def part(self, index: int) -> Path:
        """File of one chunk."""
        return self.folder / f"part-{index:08d}.parquet"


def _execute(
    work_task: Callable[..., pd.DataFrame], part: Path, meta: dict[str, Any], args: tuple[Any, ...]
) -> Exception | None:
    """One chunk on a worker: compute, write the part. What a user can mend is returned, a defect is raised."""
    try:
        write_parquet(work_task(*args), part, meta=meta)
    except (EnhancerDaskError, OSError) as err:
        return err
    return None


def run(
    work: Work, client: Client, *, retries: int = 2, window: int | None = None, progress: bool = True
) -> RunSummary:
    """Compute the chunks whose parts are missing.

    Parameters
    ----------
    work : Work
    client : distributed.Client
        Any cluster; it may grow and shrink meanwhile.
    retries : int
        Times a chunk that raises is tried again.
    window : int, optional
        Chunks in flight at most; by default twice the threads of the cluster, followed as it changes.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    RunSummary

    Raises
    ------
    ResumeError
        If the folder holds parts made with other parameters; names the first that differs.
    ChunkError
        If chunks still fail after their retries. All others are finished by then, unless so many failed in a row on
        reading or writing (a full disk, a lost mount) that the run was stopped.
    KeyboardInterrupt
        Passed on after the chunks in flight were cancelled; finished parts stay.
    """
    begin, signature = time.monotonic(), work.signature
    _claim(work)
    missing = np.fromiter((not _is_done(work.part(i), signature) for i in range(work.n_chunks)), bool, work.n_chunks)
    pending = (int(i) for i in np.flatnonzero(missing))
    n_found, n_missing = work.n_chunks - int(missing.sum()), int(missing.sum())
    failures = _Failures(work, retries)
    flying: dict[Any, int] = {}

    def submit(index: int) -> Any:
        key = f"{work.stage}-{signature}-{index}-{time.monotonic_ns()}"
        arguments = (work.task, work.part(index), {"signature": signature}, work.arguments(index))
        future = client.submit(_execute, *arguments, key=key, pure=False)
        flying[future] = index
        return future

    def submit_next() -> list[Any]:
        room = (window or max(4, CHUNKS_AHEAD * sum(client.nthreads().values()))) - len(flying)
        return [submit(index) for index in islice(pending, max(0, room))]

    with _progress_bar(progress) as bar:
        shown = bar.add_task(work.stage, total=work.n_chunks, completed=n_found)
        queue = as_completed(submit_next(), loop=client.loop)
        try:
            for future in queue:
                index, error = flying.pop(future), _error(future)
                del future  # the driver keeps nothing of a finished chunk
                if error is not None and failures.try_again(index, error):
                    queue.add(submit(index))
                    continue
                if error is None:
                    failures.forget(index)
                    bar.advance(shown)
                queue.update(submit_next())
        except BaseException:
            client.cancel(list(flying), force=True)
            raise
    failures.report()
    return RunSummary(work.n_chunks, n_found, n_missing, time.monotonic() - begin)


class _Failures:
    """What went wrong with which chunk, and what follows from it."""

    def __init__(self, work: Work, retries: int) -> None:
        self.work, self.retries = work, retries
        self.errors: dict[int, list[BaseException]] = {}
        self.n_disk_errors = 0  # in a row

    def try_again(self, index: int, error: BaseException) -> bool:
        """Note an error. Errors of input stay what they are; anything else may pass, unless it strikes everywhere."""
        self.errors.setdefault(index, []).append(error)
        self.n_disk_errors += isinstance(error, OSError)
        if self.n_disk_errors >= DISK_ERRORS:
            raise ChunkError(
                f"{self.work.stage}: stopped after {self.n_disk_errors} errors in a row; what is finished is kept. "
                f"Last: chunk {index}: {error}"
            ) from error
        return len(self.errors[index]) <= self.retries and not isinstance(error, EnhancerDaskError)

    def forget(self, index: int) -> None:
        """The chunk succeeded."""
        self.errors.pop(index, None)
        self.n_disk_errors = 0

    def report(self) -> None:
        """Raise if a chunk failed for good."""
        if not self.errors:
            return
        others = ", the others are finished and kept"
        if len(self.errors) == self.work.n_chunks:
            remove_at_once(self.work.folder)
            others = ""
        index = min(self.errors)
        error = self.errors[index][-1]
        raise ChunkError(
            f"{self.work.stage}: {len(self.errors)} of {self.work.n_chunks} chunks failed{others}. "
            f"First: chunk {index}: {error if isinstance(error, EnhancerDaskError) else repr(error)}"
        ) from error


def _error(future: Any) -> BaseException | None:
    if future.status == "cancelled":
        return RuntimeError("cancelled")
    error = future.exception() or future.result()
    return error if error is None or isinstance(error, BaseException) else RuntimeError(str(error))


def _is_done(part: Path, signature: str) -> bool:
    """Whether the part is there, readable and made with these parameters."""
    try:
        return bool(read_meta(part).get("signature") == signature)
    except StoreError:
        return False


def _claim(work: Work) -> None:
    """Make the folder and its manifest, or check that the manifest there is ours."""
    path = work.folder / MANIFEST
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as err:
            raise StoreError(f"{path}: damaged, not a manifest ({err})") from err
        check_params(work.folder, there, work.manifest)
        return
    with staged(path) as file:
        file.write_text(json.dumps(work.manifest, indent=1))


def _progress_bar(show: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not show)


def tables(work: Work, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The parts in order, one at a time.

    Raises
    ------
    StoreError
        If a part is missing, damaged or made with other parameters.
    """
    signature = work.signature
    for index in range(work.n_chunks):
        part = work.part(index)
        if not part.exists():
            raise StoreError(f"{part}: this part is missing; run the same command again")
        if read_meta(part).get("signature") != signature:
            raise StoreError(f"{part}: made with other parameters than {MANIFEST} says; run the same command again")
        try:
            yield pq.read_table(part, columns=columns)
        except (OSError, pa.ArrowException) as err:
            raise StoreError(f"{part}: damaged ({str(err).splitlines()[0]}); run the same command again") from err


def merge(
    work: Work,
    out: Path,
    finish: Callable[[pa.Table, int], pa.Table],
    *,
    params: Mapping[str, Any] | None = None,
    order: NDArray[np.int64] | None = None,
) -> None:
    """Join all parts into one table and remove them; ``finish`` sees some rows at a time and the first one's number.

    The table carries ``params``, by default those of the work. With ``order``, row i of the table is row ``order[i]``
    of the parts, and ``finish`` sees them all at once.
    """
    groups = _grouped(tables(work)) if order is None else iter([pa.concat_tables(tables(work))])
    row, writer = 0, None
    with staged(out) as file:
        try:
            for group in groups:
                done = finish(group, row) if order is None else finish(group, row).take(order)
                done = with_meta(done, {"params": dict(params or work.params)})
                if writer is None:
                    writer = pq.ParquetWriter(file, done.schema, compression="zstd")
                writer.write_table(done, row_group_size=ROW_GROUP)
                row += len(group)
        finally:
            if writer is not None:
                writer.close()
    remove_at_once(work.folder)


def _grouped(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables, so that the merged file has row groups of a useful size."""
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def discard(work: Work, out: Path, params: Mapping[str, Any] | None = None) -> None:
    """Delete a result and parts that are damaged or made with other parameters; finished work of this run stays."""
    try:
        if out.exists():
            check_params(out, read_meta(out).get("params", {}), dict(params or work.params))
    except (ResumeError, StoreError):
        out.unlink()
    discard_parts(work)


def discard_parts(work: Work) -> None:
    """Delete parts that are damaged or made with other parameters."""
    try:
        if work.folder.exists():
            _claim(work)
    except (ResumeError, StoreError):
        remove_at_once(work.folder)
