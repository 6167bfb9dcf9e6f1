"""Write a file or folder whole or not at all: a reader sees the old one, the new one, or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from enhancer_dask.errors import InputError


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``final``; on success it is synced and renamed, on failure removed.

    Works for files and for folders. An existing file is replaced at once; an existing folder is moved aside
    first and then deleted.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    final = Path(final)
    work = final.with_name(f".{final.name}.{uuid4().hex[:12]}")
    _make_parent(final)
    try:
        yield work
        _sync(work)
        if final.is_dir():
            old = final.with_name(f".{final.name}.old-{uuid4().hex[:12]}")
            final.rename(old)
            work.rename(final)
            shutil.rmtree(old)
        else:
            os.replace(work, final)
    except BaseException:
        _remove(work)
        raise


def _make_parent(final: Path) -> None:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        probe = final.parent / f".probe-{uuid4().hex[:12]}"
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise InputError(f"{final.parent}: cannot write to this folder ({err.strerror})") from err


def _sync(path: Path) -> None:
    """Flush to disk, so that a rename never precedes the data it names."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
