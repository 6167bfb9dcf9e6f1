"""A profile and a command -> the script of a job that runs the command and goes on after its wall time."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dask.utils import parse_bytes

from enhancer_dask.clusters.nodes import THREAD_VARIABLES
from enhancer_dask.clusters.profiles import SlurmProfile

NOTICE_S = 120  # from the signal to the wall time
PATIENCE_S = 60  # a command that has not ended so long after the signal is killed

BODY = """\
driver=
time_is_up=
# USR1, not TERM: scancel sends TERM, and what is cancelled must not be queued again
trap 'time_is_up=yes; : ${{driver:=$!}}; kill -TERM $driver
    (sleep {patience}; kill -KILL $driver) >/dev/null 2>&1 &' USR1
# A shell answers a signal only when the command in its foreground has ended, so the command runs in the background.
{command} &
: ${{driver:=$!}} # unless the signal was faster
wait $driver
code=$?
if [ -n "$time_is_up" ]; then
    wait $driver # the signal has ended the first wait
    code=$?
fi
if [ -n "$time_is_up" ] && [ $code -ne 0 ]; then
    echo "the time is up: job $SLURM_JOB_ID is queued again and goes on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def batch_script(profile: SlurmProfile, command: Sequence[str], *, name: str | None = None, processes: int = 1) -> str:
    """Text for ``sbatch``: one job on one node with the resources of a profile.

    Parameters
    ----------
    profile : SlurmProfile
    command : sequence of str
        Arguments of ``enhancer-dask``; paths relative to the folder in which ``sbatch`` is called.
    name : str, optional
        Of the job and its log; by default that of the profile.
    processes : int
        Of the command; they share the cores.

    Returns
    -------
    str
        Before the wall time the command is stopped and the job queued again, so the command must be one that goes on
        where it stopped. The log is written where ``sbatch`` is called.
    """
    name = name or profile.job_name
    margin = round(profile.margin_s) if profile.lifetime_margin is not None else NOTICE_S
    if profile.walltime_s is not None:
        margin = min(margin, profile.walltime_s // 3)
    asked = {
        "job-name": name,
        "partition": profile.partition,
        "account": profile.account,
        "nodes": 1,
        "ntasks-per-node": 1,
        "cpus-per-task": profile.cores,
        "mem": f"{parse_bytes(profile.memory) // 2**20}M",
        "time": profile.walltime,
        "gres": f"gpu:{profile.gpus}" if profile.gpus else None,
        "constraint": profile.constraint,
        "output": f"{name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{margin}",
    }
    lines = [f"--{key}={value}" for key, value in asked.items() if value is not None]
    threads = max(1, profile.cores // processes)
    typed = shlex.join([profile.python, "-m", "enhancer_dask.cli", *command])
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in [*lines, "--requeue", *profile.directives]),
            "",
            *(f"export {variable}={threads}" for variable in THREAD_VARIABLES),
            *profile.prologue,
            BODY.format(command=typed, patience=min(PATIENCE_S, max(1, margin // 2))),
        ]
    )
