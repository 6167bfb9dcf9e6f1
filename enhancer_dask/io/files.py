"""Write a file or folder whole or not at all: a reader sees the old one, the new one, or none."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from enhancer_dask.errors import InputError


def is_url(text: str | Path) -> bool:
    """Whether this is a URL, for instance ``s3://bucket/key``, and no path."""
    return "://" in str(text)


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
    if not final.name:
        raise InputError(f"{final}: not the name of a file or folder to write")
    work = _beside(final)
    made = _make_parent(final)
    try:
        yield work
        _sync(work)
        if work.is_dir() and final.exists():
            old = _beside(final)
            final.rename(old)
            work.rename(final)
            _remove(old)
        else:
            os.replace(work, final)
    except BaseException as err:
        _remove(work)
        for folder in made:
            with suppress(OSError):  # somebody else may use it by now
                folder.rmdir()
        if isinstance(err, IsADirectoryError):
            raise InputError(f"{final}: is a folder, want the name of a file") from err
        raise


def _beside(final: Path) -> Path:
    return final.with_name(f".{final.name}.{uuid4().hex[:12]}")


def make_beside(final: Path) -> Path:
    """A new folder for intermediate files, on the file system of ``final``."""
    _make_parent(final)
    folder = _beside(final)
    folder.mkdir()
    return folder


def remove_leftovers(final: Path) -> None:
    """Delete what writers of ``final`` left beside it when they were killed; nobody else may be writing it now."""
    for path in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 12}"):
        _remove(path)


def remove_at_once(folder: Path) -> None:
    """Delete a folder so that it is there whole or not at all, even if the deletion is interrupted."""
    if folder.exists():
        aside = _beside(folder)
        folder.rename(aside)
        _remove(aside)


def _make_parent(final: Path) -> list[Path]:
    """Make the folder of ``final``; returns the folders that were not there before, innermost first."""
    missing = [folder for folder in final.parents if not folder.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        probe = final.parent / f".probe-{uuid4().hex[:12]}"
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise InputError(f"{final.parent}: cannot write to this folder ({err.strerror})") from err
    return missing


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
