"""SLURM's commands: submit, ask, cancel. A command that fails says why in one line."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)
TIMEOUT_S = 60.0
# states in which a job has, or will have, processes
ALIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"),
        *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
    }
)
# what the controller says when it is away or busy; limits of submitted jobs end as jobs end
PASSING = re.compile(
    r"contact slurm controller|socket timed out|temporarily|connection refused|communication|timed out|try again"
    r"|submit ?limit|zero bytes|backup controller",
    re.IGNORECASE,
)


class CommandError(Exception):
    """A command of SLURM failed; the message is its own last word."""

    @property
    def passes(self) -> bool:
        """Whether the same command may succeed later."""
        return PASSING.search(str(self)) is not None


class JobState(NamedTuple):
    """What squeue says of a job."""

    state: str
    reason: str


GONE = JobState("GONE", "")


async def call(*command: str) -> str:
    """Output of a command, run in a session of its own: a Ctrl-C in the terminal does not reach it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as err:
        raise CommandError(f"{command[0]}: cannot be started here ({err.strerror})") from err
    try:
        out, complaint = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError as err:
        process.kill()
        raise CommandError(f"{command[0]}: timed out after {TIMEOUT_S:.0f} s") from err
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise CommandError("; ".join(line.replace("error: ", "") for line in lines[-2:]))
    return out.decode(errors="replace")


async def ask() -> dict[str, JobState]:
    """State of each job of this user that is waiting, running or ended a short time ago, by id."""
    out = await call("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%A|%T|%r")
    found = [line.split("|", 2) for line in out.splitlines() if line.count("|") >= 2]
    return {job.strip(): JobState(state.strip(), reason.strip("() ")) for job, state, reason in found}


async def cancel(jobs: Sequence[str], *, tries: int = 3) -> None:
    """Cancel jobs; those that ended already do not matter."""
    for attempt in range(tries if jobs else 0):
        try:
            await call("scancel", *jobs)
            return
        except CommandError as err:
            if not err.passes:
                return
            if attempt + 1 == tries:
                logger.warning("jobs %s could not be cancelled (%s)", ", ".join(jobs), err)
            await asyncio.sleep(1)


def last_words(log: Path, n_lines: int = 3) -> str:
    """The end of a log in one line."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "nothing"
    return " | ".join(lines[-n_lines:])[-400:] or "nothing"
