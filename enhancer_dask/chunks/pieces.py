"""Into how many pieces a chunk is cut, so that none takes too long or more memory than a worker has."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from dask.utils import format_bytes
from distributed import Client

from enhancer_dask.chunks.parts import Pieces
from enhancer_dask.chunks.work import Work
from enhancer_dask.clusters import capacity
from enhancer_dask.errors import InputError

PILOT_PIECES = 16  # of the first chunks, as long as nobody knows how long a chunk takes
N_RECENT = 16  # pieces that the expected time is taken from
N_CHECKED = 256  # chunks whose memory is checked before the first is computed
AFTER_KILL = 4  # times as many pieces as those that killed a worker

Args = tuple[Any, ...]


class Cutter:
    """Cuts the chunks of a run; learns from the pieces that are finished."""

    def __init__(self, work: Work, client: Client) -> None:
        self.work, self.client = work, client
        self._recent: deque[float] = deque(maxlen=N_RECENT)
        self.look()

    def look(self) -> None:
        """Ask the cluster for its limits; they may change as workers come and go."""
        self.seconds, self.nbytes = capacity.chunk_seconds(self.client), capacity.chunk_bytes(self.client)

    def learn(self, seconds: float, n_pieces: int) -> None:
        """Note the time of one piece of a chunk that was cut into so many."""
        self._recent.append(seconds * n_pieces)

    def check(self, indices: Iterable[int]) -> None:
        """Refuse chunks that fit no worker before the first is computed; of many chunks only some are looked at.

        Raises
        ------
        InputError
            See :meth:`cut`.
        """
        if self.work.nbytes is None or self.nbytes is None:
            return
        every = np.fromiter(indices, dtype=np.int64)
        for index in every[np.unique(np.linspace(0, len(every) - 1, N_CHECKED).astype(np.int64))] if len(every) else ():
            self._for_memory(int(index))

    def cut(self, index: int, there: Pieces | None = None, *, at_least: int = 1) -> list[Args]:
        """Arguments of the pieces of a chunk, as many as those that are ``there`` if they are small enough.

        Raises
        ------
        InputError
            If not even the smallest pieces fit into the memory of a worker.
        """
        needed = max(at_least, self._for_memory(index), self._for_time())
        begun = {n: len(numbers) / n for n, numbers in (there or {}).items() if n >= needed}
        if begun:
            return self.work.pieces(index, max(begun, key=begun.__getitem__))
        if self.work.split is not None and self.seconds is not None and not self._recent:
            needed = max(needed, PILOT_PIECES)
        return self.work.pieces(index, needed)

    def _for_time(self) -> int:
        if self.seconds is None or not self._recent:
            return 1
        return math.ceil(max(self._recent) / self.seconds)  # times of small pieces are high, never low: all pay set-up

    def _for_memory(self, index: int) -> int:
        nbytes, limit = self.work.nbytes, self.nbytes
        if nbytes is None or limit is None:
            return 1
        n = 1
        while True:
            pieces = self.work.pieces(index, n)
            needed = max(map(nbytes, pieces))
            if needed <= limit:
                return len(pieces)
            if len(pieces) < n or self.work.split is None:
                raise InputError(
                    f"{self.work.stage}: chunk {index} needs {format_bytes(needed)} even in its smallest pieces, a "
                    f"worker has {format_bytes(limit)} for it; give workers more memory or fewer threads each, or "
                    "make chunks smaller"
                )
            n *= 2
