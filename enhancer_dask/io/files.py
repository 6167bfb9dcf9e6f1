"""Write a file or folder whole or not at all: a reader sees the old one, the new one, or none."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from enhancer_dask.errors import InputError

URL_AS_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/")


def is_url(text: str | Path) -> bool:
    """Whether this is a URL, for instance ``s3://bucket/key``, and no path; also one that a Path lost a slash of.

    Examples
    --------
    >>> [is_url(text) for text in ("s3://bucket/key", Path("s3://bucket/key"), "a/b", Path("/data/a:/b"))]
    [True, True, False, False]
    """
    return "://" in str(text) or (isinstance(text, Path) and URL_AS_PATH.match(str(text)) is not None)


def describe_file(path: Path) -> dict[str, Any]:
    """Name, size and hash of a file, by which it is known again.

    Raises
    ------
    InputError
        If it is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "blake2b").hexdigest()[:32]
    return {"name": path.name, "bytes": path.stat().st_size, "blake2b": digest}


def check_free(folder: Path, mark: str, *, overwrite: bool) -> None:
    """Refuse the name of a folder to write that is taken, unless it is to be overwritten and holds the file ``mark``.

    Raises
    ------
    InputError
        If it is taken, or a URL.
    """
    if is_url(folder):
        raise InputError(f"{folder}: written to a file system, want a path; copy the finished folder there")
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(f"{folder}: exists; choose another name or overwrite it")
    if not (folder / mark).exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and has no {mark}, so it is not overwritten; choose another name")


@contextmanager
def staged(final: Path, *, make_parent: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``final``; on success it is synced and renamed, on failure removed.

    Works for files and for folders. An existing file is replaced at once; an existing folder is moved aside
    first and then deleted. Without ``make_parent`` the folder must be there: one that is gone was perhaps a mount.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    OSError
        If writing fails later, for instance on a full disk; always with the name of ``final``.
    """
    final = Path(final)
    if not final.name:
        raise InputError(f"{final}: not the name of a file or folder to write")
    work = _beside(final)
    made = _make_parent(final) if make_parent else []
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
        _sync_names(final.parent)
    except BaseException as err:
        _remove(work)
        for folder in made:
            with suppress(OSError):  # somebody else may use it by now
                folder.rmdir()
        if isinstance(err, IsADirectoryError):
            raise InputError(f"{final}: is a folder, want the name of a file") from err
        if isinstance(err, OSError) and (err.filename is None or str(err.filename).startswith(str(work))):
            raise _named(err, final) from err
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


def _sync_names(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system knows how to."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _named(err: OSError, path: Path) -> OSError:
    """The same error about a file that the user knows."""
    if err.errno is None:
        return OSError(errno.EIO, str(err), str(path))
    return OSError(err.errno, os.strerror(err.errno), str(path))


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
