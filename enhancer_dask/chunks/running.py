"""The run loop: chunks go to the workers, a window of them at a time; what comes back is noted."""

from __future__ import annotations

import os
import platform
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, Future, KilledWorker

from enhancer_dask.chunks import context
from enhancer_dask.chunks.failures import Failures, unwritable
from enhancer_dask.chunks.journal import Journal, read_journal, write_journal
from enhancer_dask.chunks.pace import Pace
from enhancer_dask.chunks.parts import Found, Pieces, claim, find, wait_for_late
from enhancer_dask.chunks.pieces import AFTER_KILL, Args, Cutter
from enhancer_dask.chunks.progress import Shown, shown
from enhancer_dask.chunks.tasks import Job, Outcome, execute
from enhancer_dask.chunks.work import RunSummary, Work
from enhancer_dask.clusters import capacity
from enhancer_dask.clusters.nodes import versions
from enhancer_dask.errors import ChunkError, ClusterError, StoreError

WAKE_S = 1.0  # the longest time that new workers wait for chunks
JOURNAL_EVERY_S = 2.0
TROUBLE_EVERY_S = 3.0
# pieces in flight per thread: two, so that no worker waits for the driver; more of short ones
FEWEST_AHEAD, MOST_AHEAD, AHEAD_S = 2, 16, 0.5
BATCHES = 4  # a window is filled in; a message to the scheduler costs as much as many chunks in it


class _Piece(NamedTuple):
    chunk: int
    number: int
    """From 1."""
    of: int


@dataclass(slots=True)
class _Open:
    """A chunk that is begun and not finished."""

    of: int
    left: set[int]
    """Pieces not back yet."""


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
        Times a chunk that raises is tried again. One that kills its workers is tried again in smaller pieces.
    window : int, optional
        Pieces in flight at most; by default twice the threads of the cluster or more, followed as it changes.
    progress : bool
        Show the progress on standard error or in the notebook.

    Returns
    -------
    RunSummary

    Raises
    ------
    ResumeError
        If the folder holds parts made with other parameters; names the first that differs.
    InputError
        If a chunk does not fit into the memory of a worker.
    ChunkError
        If chunks still fail after their retries. All others are finished by then, unless the disk is full or gone,
        or so many failed in a row on reading that the run was stopped.
    ClusterError
        If no worker will come, workers have other package versions, or the scheduler is gone.
    KeyboardInterrupt
        Passed on after the chunks in flight were cancelled; finished parts stay.
    """
    try:
        claim(work)
        found = find(work)
    except OSError as err:
        raise unwritable(err) from err
    return _Run(work, client, found, retries, window).go(progress)


class _Run:
    """State of one call of :func:`run`: a few bytes per chunk, and what is in flight."""

    def __init__(self, work: Work, client: Client, found: Found, retries: int, window: int | None) -> None:
        self.work, self.client, self.given_window = work, client, window
        self.begin = time.monotonic()
        self.job = Job(work.task, work.signature, versions())
        self.n_pieces, self.partial = found.n_pieces, found.partial
        before = _journal_of(work)
        chosen = self.n_pieces == 0
        self.n_others = 0
        if context.wants_only_failed() and before is not None:
            chosen &= np.isin(np.arange(work.n_chunks), list(before.failed))
            self.n_others = int((self.n_pieces == 0).sum() - chosen.sum())
        self.todo = np.flatnonzero(chosen)
        self.n_begun = 0
        self.cutter, self.failures = Cutter(work, client), Failures(work.stage, work.n_chunks, retries)
        self.open: dict[int, _Open] = {}
        self.queue: deque[tuple[_Piece, Args]] = deque()
        self.suspects: deque[tuple[_Piece, Args]] = deque()
        self.flying: dict[str, tuple[Future[Outcome], _Piece]] = {}
        self.back: SimpleQueue[tuple[str, Outcome | BaseException]] = SimpleQueue()
        self.numbers, self.seconds = count(), deque([1.0], maxlen=100)
        self.pace, self.n_back = Pace(), 0
        self.next_wake = self.next_journal = self.next_trouble = 0.0
        n_found = int((self.n_pieces > 0).sum())
        command, folder = context.command()
        self.journal = Journal(
            work.stage, work.n_chunks, n_found, n_found, started=time.time(), host=platform.node(), pid=os.getpid(),
            command=command, folder=folder,
            failed={} if before is None else {i: f for i, f in before.failed.items() if self.n_pieces[i] == 0},
        )  # fmt: skip

    def go(self, progress: bool) -> RunSummary:
        """Compute; however it ends, the journal says so."""
        with shown(self.work.stage, progress) as show:
            try:
                self._loop(show)
                self.failures.report()
                wait_for_late(self.work, self.n_pieces)
                if self.n_others:
                    raise ChunkError(
                        f"{self.work.stage}: {self.n_others} of {self.work.n_chunks} chunks have not been computed "
                        "yet: run the command again"
                    )
            except BaseException as err:
                self._end("failed" if self.failures.failed else "stopped", str(err) or type(err).__name__, show)
                raise
            self._end("finished", "", show)
        n_computed = self.journal.n_done - self.journal.n_found
        return RunSummary(self.work.n_chunks, self.journal.n_found, n_computed, time.monotonic() - self.begin)

    def _loop(self, show: Shown) -> None:
        self.cutter.check(self.todo)
        while True:
            self._wake(show)
            self._submit()
            if not self.flying:
                return
            for key, result in self._results():
                self._settle(key, result)

    def _results(self) -> Iterator[tuple[str, Outcome | BaseException]]:
        """What came back; waits a little for the first."""
        with suppress(Empty):
            yield self.back.get(timeout=WAKE_S)
            while True:
                yield self.back.get_nowait()

    # -- out ---------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Fill the window, with one message to the scheduler."""
        window = self.window
        room = window - len(self.flying)
        batch = list(islice(self._ordinary(), room)) if room >= max(1, window // BATCHES) else []
        if not batch:  # one per worker, when little else runs: what kills a worker takes what waits there with it
            room = max(1, self.journal.n_workers) - len(self.flying)
            batch = list(islice(self._wanted(self.suspects), max(0, room)))
        if not batch:
            return
        # one prefix for all, so that the scheduler itself hands out what workers have no thread for yet
        keys = [f"{self.work.stage}-{self.job.signature}-{time.monotonic_ns()}-{next(self.numbers)}" for _ in batch]
        parts = [self.work.part(*piece) for piece, _ in batch]
        try:
            futures = self.client.map(
                execute, [self.job] * len(batch), parts, [args for _, args in batch], key=keys, pure=False
            )
        except Exception:
            self._check_scheduler()
            raise
        loop: Any = self.client.loop
        for key, future, (piece, _) in zip(keys, futures, batch, strict=True):
            self.flying[key] = future, piece
            loop.add_callback(self._bring, key, future)

    def _ordinary(self) -> Iterator[tuple[_Piece, Args]]:
        """Pieces of chunks that are begun, then those of the next."""
        while True:
            yield from self._wanted(self.queue)
            if self.n_begun == len(self.todo):
                return
            index = int(self.todo[self.n_begun])
            self.n_begun += 1
            there = self.partial.pop(index, {})
            self.queue.extend(self._begin(index, self.cutter.cut(index, there), there))

    def _wanted(self, queue: deque[tuple[_Piece, Args]]) -> Iterator[tuple[_Piece, Args]]:
        while queue:
            piece, args = queue.popleft()
            if self._is_wanted(piece):
                yield piece, args

    def _begin(self, index: int, cut: list[Args], there: Pieces) -> list[tuple[_Piece, Args]]:
        """Open a chunk that is cut like this; returns the pieces that are not there yet."""
        left = set(range(1, len(cut) + 1)) - there.get(len(cut), set())
        self.open[index] = _Open(len(cut), left)
        return [(_Piece(index, number, len(cut)), cut[number - 1]) for number in sorted(left)]

    def _is_wanted(self, piece: _Piece) -> bool:
        """Whether the chunk has not been given up, nor cut in another way since."""
        now = self.open.get(piece.chunk)
        return now is not None and now.of == piece.of

    async def _bring(self, key: str, future: Future[Outcome]) -> None:
        result: Outcome | BaseException
        try:
            result = await future
        except (Exception, CancelledError) as err:
            result = err
        self.back.put((key, result))

    # -- back --------------------------------------------------------------------------------------------------

    def _settle(self, key: str, result: Outcome | BaseException) -> None:
        flown = self.flying.pop(key, None)
        if flown is None or not self._is_wanted(flown[1]):
            return
        piece = flown[1]
        if isinstance(result, CancelledError):
            self._check_scheduler(getattr(result, "reason", None))
            result = RuntimeError("cancelled")
        if isinstance(result, BaseException):
            result = Outcome(0.0, 0, "", result if isinstance(result, Exception) else RuntimeError(repr(result)))
        if result.error is None:
            self._done(piece, result)
        elif self.failures.try_again(piece.chunk, result.error, worker=result.worker, disk=result.disk):
            self._again(piece, smaller=isinstance(result.error, KilledWorker | MemoryError))
        else:
            del self.open[piece.chunk]
            self.journal.failed[piece.chunk] = self.failures.failed[piece.chunk]

    def _done(self, piece: _Piece, outcome: Outcome) -> None:
        self.cutter.learn(outcome.seconds, piece.of)
        self.seconds.append(outcome.seconds)
        self.n_back += 1
        self.journal.n_refits += outcome.n_refits
        left = self.open[piece.chunk].left
        left.discard(piece.number)
        self.failures.succeeded(piece.chunk, whole=not left)
        if not left:
            del self.open[piece.chunk]
            self.n_pieces[piece.chunk] = piece.of
            self.journal.n_done += 1
            self.journal.failed.pop(piece.chunk, None)

    def _again(self, piece: _Piece, *, smaller: bool) -> None:
        """Try a piece again; one that killed its worker later, and in smaller pieces if it can be cut."""
        if not smaller:
            self.queue.append((piece, self._args(piece)))
            return
        cut = self.cutter.cut(piece.chunk, at_least=AFTER_KILL * piece.of)
        if len(cut) > piece.of:
            self.suspects.extend(self._begin(piece.chunk, cut, {}))
        else:
            self.suspects.append((piece, self._args(piece)))

    def _args(self, piece: _Piece) -> Args:
        return self.work.pieces(piece.chunk, piece.of)[piece.number - 1]

    @property
    def _n_left(self) -> int:
        return len(self.flying) + len(self.queue) + len(self.suspects) + len(self.todo) - self.n_begun

    # -- meanwhile ---------------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Pieces in flight at most."""
        ahead = AHEAD_S * len(self.seconds) / max(sum(self.seconds), 1e-9)
        return self.given_window or max(4, int(np.clip(ahead, FEWEST_AHEAD, MOST_AHEAD)) * self.journal.n_threads)

    def _wake(self, show: Shown) -> None:
        """Look at the cluster and tell how far the run is, each no more often than it helps."""
        now = time.monotonic()
        if now >= self.next_wake:
            self._check_scheduler()
            try:
                threads = self.client.nthreads()
            except OSError as err:
                raise self._gone() from err
            self.journal.n_workers, self.journal.n_threads = len(threads), sum(threads.values())
            self.cutter.look()
            self._note_pace(now)
            capacity.tell_demand(self.client, self._n_left)
            self.next_wake = now + WAKE_S
        if now >= self.next_trouble:
            self.journal.message = capacity.trouble(self.client) or ""
            self.next_trouble = now + TROUBLE_EVERY_S
        if now >= self.next_journal:
            self._write_journal()
            self.next_journal = now + JOURNAL_EVERY_S
        show(self.journal)

    def _note_pace(self, now: float) -> None:
        journal = self.journal
        begun = sum(1 - len(chunk.left) / chunk.of for chunk in self.open.values())
        self.pace.note(now, journal.n_done + begun, self.n_back, journal.n_refits, journal.n_threads)
        journal.refits_per_second = self.pace.refits_per_second
        n_left = len(self.todo) - (journal.n_done - journal.n_found) - len(self.failures.failed)
        journal.seconds_left = self.pace.seconds_left(n_left - begun)

    def _check_scheduler(self, reason: str | None = None) -> None:
        if self.client.status != "running" or reason == "scheduler-connection-lost":
            raise self._gone()

    def _gone(self) -> ClusterError:
        scheduler: Any = self.client.scheduler
        return ClusterError(
            f"{self.work.stage}: the scheduler at {scheduler.address} is gone; what is finished is kept, the same "
            "command goes on"
        )

    def _write_journal(self) -> None:
        self.journal.n_running, self.journal.errors = len(self.open), self.failures.last
        self.journal.updated = time.time()
        with suppress(OSError):  # the parts are the truth; a full disk stops the run where they are written
            write_journal(self.work.folder, self.journal)

    def _end(self, state: Any, message: str, show: Shown) -> None:
        """Leave nothing in flight, and tell how it ended."""
        if self.flying and self.client.status == "running":
            with suppress(OSError):  # a scheduler that goes right now is no news
                self.client.cancel([future for future, _ in self.flying.values()], force=True)
        self.flying.clear()
        self.open.clear()
        capacity.tell_demand(self.client, None)
        self.journal.state, self.journal.message, self.journal.seconds_left = state, message, None
        self._write_journal()
        show(self.journal)


def _journal_of(work: Work) -> Journal | None:
    try:
        return read_journal(work.folder)
    except StoreError:  # it only tells about the parts
        return None
