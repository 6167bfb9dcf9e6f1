"""How far a run is, told from the files it leaves: nothing is contacted, so it works after a crash, too."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from enhancer_dask.chunks import MANIFEST
from enhancer_dask.chunks.journal import Failure, Journal, read_journal
from enhancer_dask.chunks.pace import in_words
from enhancer_dask.config import RunConfig, load_config
from enhancer_dask.contact_store import SCHEMA as CONTACTS
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.tables import read_meta
from enhancer_dask.shard_store import DESCRIPTION
from enhancer_dask.stores import SCHEMA as MULTIOME

SILENCE = 30.0  # seconds without a word of a driver after which it counts as lost
PARTS, CERTIFICATE, BALANCE = ".parts", ".certificate.parts", ".balance.parts"
STAGE_OF_STORE = {MULTIOME: "ingest", CONTACTS: "contacts"}
PART = re.compile(r"part-(\d+)(?:\.(\d+)-of-(\d+))?\.parquet")

State = Literal["waiting", "running", "computed", "stopped", "failed", "crashed", "unknown", "finished"]


@dataclass(slots=True)
class StageStatus:
    """One stage of a run."""

    stage: str
    path: str
    """Store, table, folder of figures or folder of parts."""
    state: State = "waiting"
    """``computed``: all chunks are there and the table is not; ``unknown``: nothing tells whether somebody is at it."""
    n_chunks: int | None = None
    n_done: int | None = None
    n_running: int = 0
    failed: dict[int, Failure] = field(default_factory=dict)
    """Chunks that failed for good."""
    n_rows: int | None = None
    """Rows of a finished table."""
    refits_per_second: float | None = None
    seconds: float | None = None
    """Time since the last start, up to the last news."""
    seconds_left: float | None = None
    """Estimate from the speed of the last minutes."""
    time: float | None = None
    """When the result was finished, or the last news, seconds since 1970."""
    n_workers: int = 0
    n_threads: int = 0
    host: str = ""
    pid: int = 0
    """Of the driver."""
    command: list[str] = field(default_factory=list)
    """Arguments of ``enhancer-dask`` that started it; empty if it was started from Python."""
    folder: str = ""
    """Current folder of that command."""
    message: str = ""
    errors: list[str] = field(default_factory=list)
    """The last errors, newest last."""


def run_status(run: str | Path) -> list[StageStatus]:
    """How far the stages of a run are, in their order.

    Parameters
    ----------
    run : path
        A run.yaml, a folder with one, a folder of results, a table, a store, a folder of graph shards, or one of parts.

    Raises
    ------
    InputError
        If there is no such run, or the run.yaml is not one.
    StoreError
        If a manifest or journal is damaged.
    """
    run = Path(run)
    if (run / MANIFEST).exists():
        return [_of_parts(run)]
    if run.suffix in {".yaml", ".yml"}:
        return _of_config(load_config(run))
    if (run / "run.yaml").exists():
        return _of_config(load_config(run / "run.yaml"))
    found = _of_table(run) if run.suffix == ".parquet" else _of_store(run) or _of_folder(run)
    if not any(status.stage for status in found):
        there = "nothing of a run there" if run.exists() else "no such file or folder"
        raise InputError(f"{run}: {there}; want a run.yaml, a folder of results, a result or a folder of parts")
    return found


def _of_config(config: RunConfig) -> list[StageStatus]:
    """All stages of a pipeline, those to come among them."""
    out = config.out
    found = [_of_file("ingest", out / "multiome.zarr")]
    if config.pairs is None:
        found += _of_table(out / "pairs.parquet", "candidates")
    links = _of_table(out / "links.parquet", "scent")
    found += links
    if (config.scent.certify or config.scent.certify_below) and len(links) == 1 and links[0].state != "finished":
        found.append(StageStatus("certify", str(out / f"links.parquet{CERTIFICATE}")))
    if config.epistasis is not None:
        found += _of_table(out / "enhancer_pairs.parquet", "pairs")
        none_found = found[-1].n_rows == 0
        found += _of_table(out / "epistasis.parquet", "epistasis")
        if none_found and found[-1].state == "waiting":
            found[-1].state, found[-1].message = "finished", "there are no enhancer pairs"
    if config.figures:
        found.append(_of_file("figures", out / "figures"))
    return found


def _of_folder(folder: Path) -> list[StageStatus]:
    """Stores, tables and graph shards of a folder, whole or in parts, oldest first."""
    whole = {path: path for path in folder.glob("[!.]*") if path.suffix == ".parquet" or _stage_of_store(path)}
    parts = {
        path.with_name(path.name.removesuffix(BALANCE).removesuffix(PARTS)): path
        for path in folder.glob(f"[!.]*{PARTS}")
        if not path.name.endswith(CERTIFICATE)
    }
    found = parts | whole
    paths = sorted(found, key=lambda path: (path not in whole, found[path].stat().st_mtime))
    stages = (_of_table(path) if path.suffix == ".parquet" else _of_store(path) for path in paths)
    return [status for of_path in stages for status in of_path if status.stage]


def _of_store(path: Path) -> list[StageStatus]:
    """A store or a folder of graph shards, or what it is made of while it is not there; empty if it is none of ours."""
    if stage := _stage_of_store(path):
        return [_of_file(stage, path)]
    parts = [Path(f"{path}{ending}") for ending in (BALANCE, PARTS)]
    try:
        return [_of_parts(folder) for folder in parts if (folder / MANIFEST).exists()]
    except FileNotFoundError:  # finished this moment
        return _of_store(path)


def _stage_of_store(path: Path) -> str:
    """Stage that makes such a store or folder of graph shards; empty if it is none of ours."""
    if (path / DESCRIPTION).exists():
        return "graphs"
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        return STAGE_OF_STORE.get(attributes["schema"], "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _of_table(table: Path, stage: str = "") -> list[StageStatus]:
    """A table, or what it is made of while it is not there. No stage if it is not ours."""
    if table.exists():
        status = _of_file(stage, table)
        try:
            status.stage = stage or str(read_meta(table).get("params", {}).get("stage", ""))
            status.n_rows = pq.read_metadata(table).num_rows
        except StoreError as err:
            status.stage, status.state, status.message = stage or table.stem, "failed", str(err)
        return [status]
    parts = [table.with_name(f"{table.name}{ending}") for ending in (PARTS, CERTIFICATE)]
    try:
        return [_of_parts(folder) for folder in parts if (folder / MANIFEST).exists()] or [_of_file(stage, table)]
    except FileNotFoundError:  # finished this moment
        return _of_table(table, stage)


def _of_file(stage: str, path: Path) -> StageStatus:
    """A result that is there whole or not at all."""
    status = StageStatus(stage, str(path))
    if path.exists():
        status.state, status.time = "finished", path.stat().st_mtime
    elif any(path.parent.glob(f".{escape(path.name)}.*")):
        status.state, status.message = "unknown", "a temporary copy is there: being written now, or left by a crash"
    return status


def _of_parts(folder: Path) -> StageStatus:
    """Unfinished work: its parts, and what its journal tells."""
    stage, n_chunks = _manifest(folder)
    journal = read_journal(folder)
    status = StageStatus(stage, str(folder), n_chunks=n_chunks, n_done=n_parts(folder), time=folder.stat().st_mtime)
    if journal is None:
        status.state, status.message = "unknown", "no journal tells whether somebody is at it"
        return status
    status.state, status.message = _state(journal)
    status.failed, status.errors = journal.failed, journal.errors
    status.command, status.folder = journal.command, journal.folder
    status.host, status.pid, status.time = journal.host, journal.pid, journal.updated
    status.seconds = journal.updated - journal.started
    status.refits_per_second = journal.refits_per_second
    if status.state == "running":
        status.n_running, status.n_workers, status.n_threads = journal.n_running, journal.n_workers, journal.n_threads
        status.seconds_left = journal.seconds_left
    return status


def _manifest(folder: Path) -> tuple[str, int]:
    """Stage and number of chunks."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text())
        return str(values["stage"]), int(values["n_chunks"])
    except (ValueError, KeyError, TypeError) as err:
        raise StoreError(f"{path}: damaged, not a manifest ({err})") from err


def _state(journal: Journal) -> tuple[State, str]:
    """State and why, where the driver can no longer tell it itself."""
    driver = f"process {journal.pid} on {journal.host}"
    gone = journal.host == platform.node() and not _is_alive(journal.pid)
    if journal.state == "finished":  # yet the parts are still there
        return "computed", "nobody is writing the result" if gone else ""
    if journal.state != "running":
        return journal.state, journal.message
    silence = time.time() - journal.updated
    if gone:
        return "crashed", f"{driver} is gone"
    if silence > SILENCE:
        return "crashed", f"nothing heard from {driver} for {in_words(silence)}"
    return "running", journal.message


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def n_parts(folder: Path) -> int:
    """Chunks whose part is there, whole or in all its pieces."""
    whole: set[int] = set()
    pieces: Counter[tuple[int, int]] = Counter()
    for name in _names(folder):
        if found := PART.fullmatch(name):
            chunk, piece, n_pieces = found.groups()
            if piece is None:
                whole.add(int(chunk))
            else:
                pieces[int(chunk), int(n_pieces)] += 1
    return len(whole | {chunk for (chunk, n_pieces), n_there in pieces.items() if n_there == n_pieces})


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries)
