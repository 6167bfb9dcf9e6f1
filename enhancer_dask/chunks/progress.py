"""How far a run is, on standard error: a bar on a terminal and in a notebook, else now and then a line for the log."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from enhancer_dask.chunks.journal import Journal
from enhancer_dask.chunks.pace import in_words

LINE_EVERY_S = 60.0
DRAW_EVERY_S = 1.0  # in a notebook


class Shown(Protocol):
    """Something that shows a journal."""

    def __call__(self, journal: Journal) -> None:
        """Show it, if it is time to."""


@contextmanager
def shown(stage: str, show: bool) -> Iterator[Shown]:
    """What shows the progress here."""
    console = Console(stderr=True)
    if not show:
        yield lambda journal: None
    elif console.is_jupyter:
        yield _Drawn(stage)
    elif console.is_terminal:
        bar = _bar(console)
        with bar:
            yield _Bar(stage, bar)
    else:
        yield _Lines()


class _Bar:
    """A bar, drawn by rich itself."""

    def __init__(self, stage: str, bar: Progress) -> None:
        self.bar, self.shown = bar, bar.add_task(stage, total=None, note="")

    def __call__(self, journal: Journal) -> None:
        note = ", ".join(filter(None, [_left(journal), journal.message]))
        self.bar.update(self.shown, completed=journal.n_done, total=journal.n_chunks, note=note)


class _Drawn(_Bar):
    """The same as HTML: rich's own way of drawing in notebooks needs ipywidgets and leaves nothing in a saved one."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage, _bar(None))
        display: Any = importlib.import_module("IPython.display")  # is there, since this is a notebook
        self.handle = display.display(self.bar, display_id=True)
        self.next = 0.0

    def __call__(self, journal: Journal) -> None:
        super().__call__(journal)
        if time.monotonic() >= self.next or journal.state != "running":
            self.handle.update(self.bar)
            self.next = time.monotonic() + DRAW_EVERY_S


@dataclass
class _Lines:
    """``scent: 120 of 300 chunks, 6 workers, 12,000 refits/s, about 4 min left``; at once if it has to wait.

    With hundreds of jobs the numbers in the reason change all the time, so only its words count.
    """

    said: set[str] = field(default_factory=set)
    next: float = field(default_factory=lambda: time.monotonic() + LINE_EVERY_S)

    def __call__(self, journal: Journal) -> None:
        words = re.sub(r"\d+ jobs?", "", journal.message)
        waits = journal.state == "running" and words not in ("", *self.said)
        if waits or time.monotonic() >= self.next:
            print(line(journal), file=sys.stderr, flush=True)
            self.said.add(words)
            self.next = time.monotonic() + LINE_EVERY_S


def line(journal: Journal) -> str:
    """One line about a run.

    Examples
    --------
    >>> line(Journal("scent", 300, n_done=120, refits_per_second=4500.0, seconds_left=240.0, n_workers=6))
    'scent: 120 of 300 chunks, 6 workers, 4,500 refits/s, about 4 min left'
    """
    words = [f"{journal.stage}: {journal.n_done:,} of {journal.n_chunks:,} chunks"]
    words.append("1 worker" if journal.n_workers == 1 else f"{journal.n_workers:,} workers")
    if journal.refits_per_second is not None:
        words.append(f"{journal.refits_per_second:,.0f} refits/s")
    return ", ".join(filter(None, [*words, _left(journal), journal.message]))


def _left(journal: Journal) -> str:
    """Empty as long as nobody knows."""
    return "" if not journal.seconds_left else f"about {in_words(journal.seconds_left)} left"


def _bar(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
