"""How far a piece of work is: a small file beside the manifest, for ``enhancer-dask status``, also after a crash.

The parts are the truth; the journal adds what they cannot tell: what runs, what failed and why, how fast it goes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from enhancer_dask.errors import StoreError
from enhancer_dask.io.files import staged

JOURNAL = "progress.json"
State = Literal["running", "stopped", "failed", "finished"]


@dataclass(slots=True)
class Failure:
    """A chunk that failed for good."""

    error: str
    """The last error, one line."""
    attempts: int
    """Times it was tried."""
    worker: str = ""
    """Address of the worker of the last attempt, if known."""
    time: float = 0.0
    """Seconds since 1970."""


@dataclass(slots=True)
class Journal:
    """State of one call of ``chunks.run``, written every few seconds."""

    stage: str
    n_chunks: int
    n_found: int = 0
    """Chunks finished before this call."""
    n_done: int = 0
    """Chunks finished, those found among them."""
    n_running: int = 0
    """Chunks submitted and not back yet."""
    n_refits: int = 0
    """Refits of this call, where the tables count them (columns ``n_refits*``)."""
    refits_per_second: float | None = None
    """Of the last minutes; None as long as that says nothing."""
    seconds_left: float | None = None
    """Estimate from the speed of the last minutes; None as long as nobody knows."""
    state: State = "running"
    """``stopped``: interrupted, or given up (``message`` says why); ``failed``: ended with failed chunks."""
    message: str = ""
    """Why it stopped, or what it waits for (``3 jobs pending: Resources``)."""
    failed: dict[int, Failure] = field(default_factory=dict)
    """Chunks that failed for good."""
    errors: list[str] = field(default_factory=list)
    """The last errors, newest last, also of chunks that succeeded when tried again."""
    n_workers: int = 0
    n_threads: int = 0
    started: float = 0.0
    """Begin of this call, seconds since 1970."""
    updated: float = 0.0
    """When this was written, seconds since 1970."""
    host: str = ""
    pid: int = 0
    """Of the driver."""
    command: list[str] = field(default_factory=list)
    """Arguments of ``enhancer-dask`` that started this; empty if it was started from Python."""
    folder: str = ""
    """Current folder of that command."""


def write_journal(folder: Path, journal: Journal) -> None:
    """Replace the journal of the folder of parts at once."""
    with staged(folder / JOURNAL, make_parent=False) as file:
        file.write_text(json.dumps(asdict(journal), indent=1))


def read_journal(folder: Path) -> Journal | None:
    """The journal of a folder of parts; None if there is none.

    Raises
    ------
    StoreError
        If the file is damaged.
    """
    path = folder / JOURNAL
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        failed = {int(index): Failure(**failure) for index, failure in values.pop("failed").items()}
        return Journal(**values, failed=failed)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise StoreError(f"{path}: damaged, not a journal ({err})") from err
