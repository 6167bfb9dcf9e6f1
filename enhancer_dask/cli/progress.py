"""How far a run is, told from its files; and its failed chunks once more."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enhancer_dask.cli.options import ClusterFile, print_result, say
from enhancer_dask.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from enhancer_dask.status import StageStatus

UNFINISHED = ("computed", "stopped", "failed", "crashed")
SHOWN = 3  # failed chunks of a stage; the JSON has all

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run.yaml, its folder, a folder of results, one result, or its parts.")
]


def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON list of stages.")] = False,
) -> None:
    """How far a run is: stages, chunks, speed, estimated end, errors. Reads files only."""
    from enhancer_dask.status import run_status

    stages = run_status(run)
    if as_json:
        print_result([asdict(stage) for stage in stages])
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.print(_table(stages))
    for stage in stages:
        for line in _notes(stage, str(run)):
            console.print(f"{stage.stage}: {line}", soft_wrap=True)


def _table(stages: Sequence[StageStatus]) -> Table:
    from rich import box
    from rich.table import Table

    from enhancer_dask.chunks.pace import in_words

    shown = Table("stage", "state", box=box.SIMPLE_HEAD)
    for name in ("done", "refits/s", "elapsed", "left", "time"):
        shown.add_column(name, justify="right")
    for stage in stages:
        rate = "" if stage.refits_per_second is None else f"{stage.refits_per_second:,.0f}"
        spans = ("" if span is None else in_words(span) for span in (stage.seconds, stage.seconds_left))
        shown.add_row(stage.stage, stage.state, _done(stage), rate, *spans, _time(stage))
    return shown


def _done(stage: StageStatus) -> str:
    if stage.n_chunks is not None:
        return f"{stage.n_done:,} of {stage.n_chunks:,}"
    return "" if stage.n_rows is None else f"{stage.n_rows:,} rows"


def _time(stage: StageStatus) -> str:
    """When it was finished, will be, or was last heard of."""
    if stage.time is None:
        return ""
    when = datetime.fromtimestamp(stage.time)
    if stage.seconds_left is not None:
        when += timedelta(seconds=stage.seconds_left)
    word = "" if stage.state == "finished" else "end " if stage.seconds_left is not None else "last "
    today = when.date() == datetime.now().date()
    return f"{word}{when:%H:%M}" if today else f"{word}{when:%d %b %H:%M}"


def _notes(stage: StageStatus, run: str) -> Iterator[str]:
    """What does not fit into the table."""
    if stage.state == "running":
        yield (
            f"{stage.n_running} chunks in flight, {stage.n_workers} workers, {stage.n_threads} threads; "
            f"driver: {_driver(stage)}"
        )
    if stage.message and not stage.failed:  # else it repeats the first of those
        yield stage.message.removeprefix(f"{stage.stage}: ")
    for index in sorted(stage.failed)[:SHOWN]:
        failure = stage.failed[index]
        times = "once" if failure.attempts == 1 else f"{failure.attempts} times"
        yield f"chunk {index} failed, tried {times}: {failure.error}"
    if len(stage.failed) > SHOWN:
        yield f"{len(stage.failed) - SHOWN:,} more chunks failed; --json lists all"
    told = {f"chunk {index}: {failure.error}" for index, failure in stage.failed.items()}
    yield from (f"earlier error: {error}" for error in stage.errors[-SHOWN:] if error not in told)
    if stage.command and stage.state in UNFINISHED:
        again = ["retry", run] if stage.failed else stage.command
        yield f"goes on with: enhancer-dask {shlex.join(again)}" + ("" if stage.failed else f" (in {stage.folder})")


def retry(
    run: Run,
    profile: Annotated[str | None, typer.Option(help="Another profile of cluster.yaml than before.")] = None,
    cluster: ClusterFile = None,
) -> None:
    """Compute failed chunks again, and nothing else, by the command that computed them first."""
    from enhancer_dask import chunks
    from enhancer_dask.cli import app

    commands = _commands_of_failures(run)
    if not commands:
        say(f"{run}: no chunk has failed")
    for command, folder in commands:
        changes = [f"--profile={profile}"] * (profile is not None)
        changes += [] if cluster is None else [f"--cluster={cluster.absolute()}"]
        sys.argv[1:] = [*command, *changes]  # from here on as if it had been typed
        os.chdir(folder)
        with chunks.only_failed():
            app(standalone_mode=False)


def _commands_of_failures(run: Path) -> list[tuple[list[str], str]]:
    """Commands that left failed chunks, each once, with their folders."""
    from enhancer_dask.status import run_status

    failed = [stage for stage in run_status(run) if stage.failed]
    for stage in failed:
        if stage.state == "running":
            raise InputError(f"{stage.path}: {_driver(stage)} is still at it; try again when it has ended")
        if not stage.command:
            raise InputError(
                f"{stage.path}: started from Python; call the same function again, it computes what is missing"
            )
    for stage in failed:
        names = [str(index) for index in sorted(stage.failed)]
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        say(f"{stage.stage}: again chunk {', '.join(names[:SHOWN])}{more} of {stage.n_chunks:,}")
    commands = [(stage.command, stage.folder) for stage in failed]
    return [given for place, given in enumerate(commands) if given not in commands[:place]]


def _driver(stage: StageStatus) -> str:
    return f"process {stage.pid} on {stage.host}"
