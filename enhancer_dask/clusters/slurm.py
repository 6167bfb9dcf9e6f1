"""Workers as jobs of SLURM: dask-jobqueue's cluster, and a keeper that replaces the jobs that end.

By itself dask-jobqueue submits a job once: what ends by its wall time or a fault is not replaced, and a job that ends
before its worker connects counts as running for ever.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dask.utils import parse_bytes, parse_timedelta
from distributed import Status
from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import ProcessInterface
from tornado.ioloop import PeriodicCallback

from enhancer_dask.clusters import queue
from enhancer_dask.clusters.adaptive import ElasticCluster
from enhancer_dask.clusters.jobqueue import SLURMCluster, SLURMJob
from enhancer_dask.clusters.nodes import THREAD_VARIABLES
from enhancer_dask.clusters.profiles import SlurmProfile
from enhancer_dask.clusters.worker import JOB_START, MARGIN, JobWorker
from enhancer_dask.errors import ClusterError

NANNY_BYTES = 128 * 2**20  # of a job, for the process that watches over its workers
LONGEST_PAUSE_S = 60.0  # before a job that failed is replaced
LANES = 8  # commands at a time: hundreds of jobs come and go at once, and the controller serves all users


class Gate:
    """Lets a few jobs at a time speak to SLURM, and none be submitted any more once it is closed."""

    def __init__(self) -> None:
        self.lanes = asyncio.Semaphore(LANES)
        self.closed = False


class SlurmJob(SLURMJob):
    """One job. One that SLURM refuses is no error here: the keeper tries again or gives up."""

    # sites print news before it
    job_id_regexp = r"batch job (?P<job_id>\d+)"
    refusal: queue.CommandError | None = None
    """Why sbatch failed."""
    connected = False
    """A worker of it has come."""
    over = False
    """It ended, and was not replaced yet."""
    status_in_queue = queue.JobState("", "")

    def __init__(self, *args: Any, gate: Gate | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = gate or Gate()

    @property
    def log(self) -> Path:
        """What the job printed as error."""
        return Path(self.log_directory) / f"{self.job_name}-{self.job_id}.err"

    async def start(self) -> None:
        """Submit it."""
        async with self.gate.lanes:
            if not self.gate.closed:
                try:
                    await self._submit()
                except queue.CommandError as err:
                    self.refusal = err
        await ProcessInterface.start(self)

    async def _submit(self) -> None:
        with self.job_file() as script:
            answer = await queue.call(self.submit_command, script)
        try:
            self.job_id = self._job_id_from_submit_output(answer)
        except ValueError as err:
            raise queue.CommandError(f"{self.submit_command} names no job, but says {answer.strip()!r}") from err

    async def close(self) -> None:
        """Cancel it."""
        if self.job_id and not self.over:
            async with self.gate.lanes:
                await queue.cancel([self.job_id])
        self.job_id = None
        await ProcessInterface.close(self)


class SlurmCluster(ElasticCluster, SLURMCluster):  # type: ignore[misc]
    """Jobs of a profile.

    Parameters
    ----------
    name : str
        Of the profile, for messages.
    profile : SlurmProfile
    """

    job_cls = SlurmJob
    interval = 5.0
    """Seconds between two looks at the queue."""

    def __init__(self, name: str, profile: SlurmProfile) -> None:
        self.profile = profile
        self.idle_timeout = float(parse_timedelta(profile.idle_timeout))
        self.chunk_seconds = None if profile.walltime_s is None else profile.walltime_s / 10
        self.group_size = profile.n_processes
        self.threads_per_worker = profile.threads_per_worker
        self.expected_limit = _workers_memory(profile) // profile.n_processes
        self._defect: str | None = None  # why no worker will come
        self._n_failed = 0  # jobs that ended without a worker, in a row
        self._n_pauses = 0  # in a row
        self._awaited: set[str] = set()  # jobs that were starting when the first of these failed
        self._not_before = 0.0  # when jobs may be replaced
        self._keeping = asyncio.Lock()
        self._gate = Gate()
        super().__init__(name=name, gate=self._gate, **job_options(profile))

    async def _start(self) -> None:
        self.periodic_callbacks["keeper"] = PeriodicCallback(self._keep, self.interval * 1000)
        await super()._start()

    def new_worker_spec(self) -> dict[str, Any]:
        """A job with a name that none had before: the scheduler may still know the workers of that one."""
        self._i += 1
        return {f"{self._name}-{self._i}": self.new_spec}

    def scale(self, *args: Any, **kwargs: Any) -> Any:
        """Have so many workers (``n``) or ``jobs`` from now on; ends ``adapt``, tries again what was given up."""
        self._defect = None
        self._forgive()
        return super().scale(*args, **kwargs)

    def resize(self, *args: Any, **kwargs: Any) -> Any:
        """Have so many workers for now, unless none will come."""
        return None if self._defect else super().resize(*args, **kwargs)

    def trouble(self) -> str | None:
        """Why workers are missing; None if none is.

        Raises
        ------
        ClusterError
            If no worker will come.
        """
        if self._defect:
            raise ClusterError(self._defect)
        jobs, loads = list(self.workers.values()), self.loads()
        awaited = [job for job in jobs if not (job.over or job.refusal) and loads.get(job.name) is None]
        pending = Counter(job.status_in_queue.reason for job in awaited if job.status_in_queue.state == "PENDING")
        found = [
            f"{_jobs(n)} pending" + ("" if reason in ("", "None") else f": {reason}")  # None: not looked at yet
            for reason, n in pending.most_common()
        ]
        if n_starting := len(awaited) - sum(pending.values()):
            found.append(f"{_jobs(n_starting)} starting")
        if refused := [job.refusal for job in jobs if job.refusal]:
            found.append(f"{_jobs(len(refused))} refused, will be tried again: {refused[-1]}")
        elif n_over := sum(job.over for job in jobs):
            found.append(f"{_jobs(n_over)} ended, to be replaced")
        return "; ".join(found) or None

    async def submitted(self) -> None:
        """Wait until SLURM has all jobs, or has refused them."""
        # a Ctrl-C cancels what is awaited: jobs on their way would be forgotten, and closing would fail
        await asyncio.shield(self._submitted())

    async def _submitted(self) -> None:
        await self._correct_state()
        await self._keep()

    async def _keep(self) -> None:
        """Look at the queue, and replace the jobs that ended."""
        async with self._keeping:
            jobs = dict(self.workers)  # as they were before the question: a job submitted later is not in the answer
            if not jobs:
                return
            try:
                states = await queue.ask()
            except queue.CommandError:  # the controller is away; what we knew stands
                jobs, states = {key: job for key, job in jobs.items() if job.refusal}, {}
            self._look(jobs, states)
            over = [key for key, job in jobs.items() if job.over]
            if over and self.status == Status.running and time.monotonic() >= self._not_before:
                await self._replace(over)

    def _look(self, jobs: dict[str, SlurmJob], states: dict[str, queue.JobState]) -> None:
        there = {str(ws.name) for ws in self.scheduler.workers.values()}
        failed = []
        for key, job in ((key, job) for key, job in jobs.items() if not job.over):
            job.status_in_queue = states.get(str(job.job_id), queue.GONE)
            if not there.isdisjoint(self.names(key)):
                if not job.connected:
                    self._forgive()
                job.connected = True
            elif job.status_in_queue.state not in queue.ALIVE:
                job.over = True
                if not job.connected:
                    failed.append(job)
        if failed:
            self._n_failed += sum(job.refusal is None for job in failed)
            # a bad node ends job after job before the good ones have started their workers
            starting = {key for key, job in jobs.items() if job.status_in_queue.state in ("CONFIGURING", "RUNNING")}
            self._awaited = starting if self._n_pauses == 0 else self._awaited & starting
            self._give_up_or_wait(failed[-1], hopeful=bool(there or self._awaited))

    def _forgive(self) -> None:
        self._n_failed, self._n_pauses, self._not_before = 0, 0, 0.0

    def _give_up_or_wait(self, job: SlurmJob, *, hopeful: bool) -> None:
        self._n_pauses += 1
        pause = min(LONGEST_PAUSE_S, self.interval * 2 ** min(self._n_pauses, 10))
        self._not_before = max(self._not_before, time.monotonic() + pause)
        if hopeful or (job.refusal and job.refusal.passes):
            return
        where = f"profile {self._name!r}"
        if job.refusal:
            self._defect = f"{where}: SLURM refuses the jobs: {job.refusal}"
        elif self._n_failed >= self.profile.max_failed_jobs:
            self._defect = (
                f"{where}: {_jobs(self._n_failed)}{' in a row' * (self._n_failed > 1)} ended before a worker came. "
                f"The last, job {job.job_id} "
                f"({job.status_in_queue.state.lower()}), says in {job.log}: {queue.last_words(job.log)}"
            )

    async def _replace(self, over: list[str]) -> None:
        for key in over:
            if (job := self.workers.pop(key, None)) is not None:
                await job.close()
            if self.worker_spec.pop(key, None) is not None and not self._defect:
                self.worker_spec.update(self.new_worker_spec())
        await self._correct_state()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Dask closes the job of a worker that is away for a while; here the keeper knows better
        Cluster._update_worker_status(self, op, msg)

    async def _close(self) -> None:
        if self.status in (Status.running, Status.failed):
            self._gate.closed = True
            self.periodic_callbacks["keeper"].stop()
            async with self._keeping, self._lock:  # submissions under way end first
                jobs = [job for job in self.workers.values() if job.job_id and not job.over]
                self.worker_spec.clear()
                await queue.cancel([job.job_id for job in jobs])
                for job in jobs:
                    job.job_id = None
        await super()._close()


def job_script(profile: SlurmProfile) -> str:
    """What would be submitted, but for the address of the driver and the name of the worker."""
    options = job_options(profile)
    del options["scheduler_options"]  # of the driver
    return str(SlurmJob("tcp://<driver>", "<worker>", **options).job_script()).strip()


def job_options(profile: SlurmProfile) -> dict[str, Any]:
    """Arguments of dask-jobqueue's cluster."""
    extra = ["--worker-class", f"{JobWorker.__module__}.{JobWorker.__qualname__}", "--no-dashboard"]
    prologue = [f"export {variable}={_threads(profile)}" for variable in THREAD_VARIABLES]
    if profile.walltime_s is not None:
        # not all at once, and yet long enough to be worth the start
        stagger = min(profile.margin_s / 4, (profile.walltime_s - profile.margin_s) / 8)
        lifetime = profile.walltime_s - profile.margin_s - stagger
        extra += ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]
        prologue += [f"export {JOB_START}=$(date +%s)", f"export {MARGIN}={profile.margin_s:.0f}"]
    return {
        "queue": profile.partition,
        "account": profile.account,
        "cores": profile.n_processes * profile.threads_per_worker,
        "job_cpu": profile.cores,
        "processes": profile.n_processes,
        "memory": f"{_workers_memory(profile)}B",
        "job_mem": f"{parse_bytes(profile.memory) // 2**20}M",
        "walltime": profile.walltime,
        "interface": profile.interface,
        "job_extra_directives": _directives(profile),
        "job_script_prologue": [*prologue, *profile.prologue],
        "python": shlex.quote(profile.python),
        "local_directory": f'"{profile.local_directory}"',
        "log_directory": str(profile.log_directory.absolute()),
        "job_name": profile.job_name,
        "death_timeout": f"{parse_timedelta(profile.death_timeout):g}",
        "worker_extra_args": extra,
        "scheduler_options": {"port": profile.scheduler_port, "dashboard_address": profile.dashboard_address},
    }


def _directives(profile: SlurmProfile) -> list[str]:
    ours = ["--no-requeue"]  # the keeper submits a new one, whose workers have new names
    if profile.gpus:
        ours.append(f"--gres=gpu:{profile.gpus}")
    if profile.constraint:
        ours.append(f"--constraint={profile.constraint}")
    return [*ours, *profile.directives]


def _threads(profile: SlurmProfile) -> int:
    """Threads of BLAS, Numba and torch, so that all processes together use the cores of the job."""
    return max(1, profile.cores // (profile.n_processes * profile.threads_per_worker))


def _workers_memory(profile: SlurmProfile) -> int:
    """Memory of a job for its worker processes, bytes."""
    return max(parse_bytes(profile.memory) - NANNY_BYTES, parse_bytes(profile.memory) // 2)


def _jobs(n: int) -> str:
    return f"{n} job" if n == 1 else f"{n} jobs"
