"""The folder of parts: whose it is, and which chunks it holds, whole or in pieces."""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.chunks.journal import JOURNAL
from enhancer_dask.chunks.work import Work
from enhancer_dask.errors import StoreError
from enhancer_dask.io.files import staged
from enhancer_dask.io.tables import check_params

MANIFEST = "manifest.json"
PART = re.compile(r"part-(\d{8})(?:\.(\d+)-of-(\d+))?\.parquet")
READERS = 16  # a network file system answers each slowly, but many at a time
FOOTER_BYTES = 65_536  # the metadata of a part are smaller
LATE_S = 60.0  # network file systems cache names that long
Pieces = Mapping[int, set[int]]


@dataclass(frozen=True, slots=True)
class Found:
    """Which chunks a folder holds."""

    n_pieces: NDArray[np.int32]
    """In how many pieces each chunk is finished, 1 if whole; 0 if it is not finished; shape (n_chunks,)."""
    partial: dict[int, Pieces]
    """Pieces there of chunks that are not finished: number of pieces -> those that are there."""


def claim(work: Work) -> None:
    """Make the folder and its manifest, or check that the manifest there is ours.

    Raises
    ------
    ResumeError
        If the folder holds parts made with other parameters; names the first that differs.
    StoreError
        If the manifest is damaged.
    """
    path = work.folder / MANIFEST
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as err:
            raise StoreError(f"{path}: damaged, not a manifest ({err})") from err
        if there == work.manifest:
            return
        if _listed(work.folder):  # else there is nothing to lose
            check_params(work.folder, there, work.manifest)
        (work.folder / JOURNAL).unlink(missing_ok=True)  # it tells about other chunks
    with staged(path) as file:
        file.write_text(json.dumps(work.manifest, indent=1))


def find(work: Work, *, check: bool = True) -> Found:
    """What the folder holds; with ``check`` parts that are damaged or made with other parameters are deleted."""
    names = _listed(work.folder)
    if check:
        good = partial(_carrying, work.folder, work.signature.encode())
        with ThreadPoolExecutor(READERS) as pool:
            names = [name for some in pool.map(good, (names[i::READERS] for i in range(READERS))) for name in some]
    n_pieces = np.zeros(work.n_chunks, dtype=np.int32)
    in_pieces: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        index, number, of = _parsed(name)
        if of == 1:
            n_pieces[index] = 1
        else:
            in_pieces[index][of].add(number)
    for index, cuts in in_pieces.items():
        whole = [of for of, numbers in cuts.items() if len(numbers) == of]
        if whole and n_pieces[index] == 0:
            n_pieces[index] = min(whole)
    return Found(n_pieces, {index: cuts for index, cuts in in_pieces.items() if n_pieces[index] == 0})


def wait_for_late(work: Work, n_pieces: NDArray[np.int32]) -> None:
    """Wait until parts that workers wrote are seen here too.

    Raises
    ------
    StoreError
        If one is not seen after a minute; names it.
    """
    deadline = time.monotonic() + LATE_S
    while True:
        there = set(_listed(work.folder))
        late = next((name for name in _names(work, n_pieces) if name not in there), None)
        if late is None:
            return
        if time.monotonic() > deadline:
            raise StoreError(
                f"{work.folder / late}: a worker wrote this part, but it is not seen here; do workers and this "
                "process see the same folder? If so, run the same command again"
            )
        time.sleep(1.0)


def _listed(folder: Path) -> list[str]:
    """Names of the parts."""
    try:
        return [name for name in os.listdir(folder) if PART.fullmatch(name)]
    except OSError as err:
        raise StoreError(f"{folder}: cannot be listed ({err.strerror}); run the same command again") from err


def _names(work: Work, n_pieces: NDArray[np.int32]) -> list[str]:
    finished = ((int(index), int(n_pieces[index])) for index in np.flatnonzero(n_pieces))
    return [work.part(index, k + 1, of).name for index, of in finished for k in range(of)]


def _parsed(name: str) -> tuple[int, int, int]:
    found = PART.fullmatch(name)
    assert found is not None
    index, number, of = found.groups(default="1")
    return int(index), int(number), int(of)


def _carrying(folder: Path, signature: bytes, names: list[str]) -> list[str]:
    good = []
    for name in names:
        try:
            carries = _carries(folder / name, signature)
        except OSError:
            continue
        if carries:
            good.append(name)
        else:  # its chunk may be cut in another way now, and then this would stand in the way of the pieces
            (folder / name).unlink(missing_ok=True)
    return good


def _carries(part: Path, signature: bytes) -> bool:
    """Whether a Parquet file is whole and has this signature in its metadata: a tenth of the time of parsing it."""
    with open(part, "rb", buffering=0) as file:
        file.seek(-min(FOOTER_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        tail = file.read()
    return tail.endswith(b"PAR1") and signature in tail
