"""How fast a run is and how long the rest will take, told only when it means something."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

WINDOW_S = 600.0  # what happened before says little: workers come and go


class _Mark(NamedTuple):
    time: float
    done: float
    n_back: int
    n_refits: int


class Pace:
    """Speed of the last minutes, from the first result on: waiting for jobs and compiling say nothing of the rest."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque()
        self._now = _Mark(0.0, 0.0, 0, 0)
        self._known = False

    def note(self, time: float, done: float, n_back: int, n_refits: int, n_threads: int) -> None:
        """How far it is: chunks done (a fraction where some pieces are), results that came back, refits, threads.

        As many results as threads have to follow the first: those of the first round come almost at once.
        """
        self._now = now = _Mark(time, done, n_back, n_refits)
        if n_back and (not self._marks or n_back > self._marks[-1].n_back):
            self._marks.append(now)
        enough, marks = max(2, n_threads), self._marks
        while len(marks) > 1 and time - marks[1].time > WINDOW_S and n_back - marks[1].n_back > enough:
            marks.popleft()
        self._known = bool(marks) and n_back - marks[0].n_back >= enough and time > marks[0].time

    def seconds_left(self, n_left: float) -> float | None:
        """Time that so many chunks take; None as long as nobody knows."""
        done = self._now.done - self._marks[0].done if self._known else 0.0
        return n_left * (self._now.time - self._marks[0].time) / done if done > 0 else None

    @property
    def refits_per_second(self) -> float | None:
        """None as long as nobody knows, or where nothing is refitted."""
        refits = self._now.n_refits - self._marks[0].n_refits if self._known else 0
        return refits / (self._now.time - self._marks[0].time) if refits else None


def in_words(seconds: float) -> str:
    """A duration, short.

    Examples
    --------
    >>> in_words(42.4), in_words(200), in_words(3 * 3600 + 125), in_words(200_000)
    ('42 s', '3 min', '3 h 02 min', '2 d 07 h')
    """
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"
