"""What is to be computed: numbered chunks, their task, and where their parts go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask._version import __version__


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

    def part(self, index: int, piece: int = 1, n_pieces: int = 1) -> Path:
        """File of one chunk, or of one of its pieces (counted from 1)."""
        cut = "" if n_pieces == 1 else f".{piece}-of-{n_pieces}"
        return self.folder / f"part-{index:08d}{cut}.parquet"

    def pieces(self, index: int, n_pieces: int) -> list[tuple[Any, ...]]:
        """Arguments of the pieces of a chunk: so many, or fewer if it has no more to cut."""
        whole = self.arguments(index)
        if self.split is None or n_pieces == 1:
            return [whole]
        cut = self.split(whole, n_pieces)
        while len(cut) != n_pieces:  # parts are named by the number that gives the same pieces again
            n_pieces = len(cut)
            cut = self.split(whole, n_pieces)
        return cut
