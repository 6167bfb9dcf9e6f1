"""Clusters that grow and shrink with the work, and say what they have."""

from __future__ import annotations

import math
import time
from typing import Any

from dask.utils import parse_bytes
from distributed import Adaptive, Status
from distributed.deploy.spec import SpecCluster

# what a worker process holds after it imported the stages and computed a chunk of each
WORKER_BYTES = 400 * 2**20
PAUSE = 0.8  # of its memory limit: above it a worker of Dask begins nothing new


class JobAdaptive(Adaptive):
    """As many workers as there are chunks; idle ones are kept for a while, busy ones are never closed.

    Dask's own looks at the tasks that the scheduler holds. Here they are a small window of the chunks to come, so the
    driver tells how many there are (``demand``); and between two stages there are none, so that all workers would go.
    """

    cluster: ElasticCluster

    def __init__(self, cluster: ElasticCluster, *, idle_timeout: float | None = None, **kwargs: Any) -> None:
        self.idle_timeout = cluster.idle_timeout if idle_timeout is None else idle_timeout
        self._busy: dict[Any, float] = {}  # when each group was last at work
        super().__init__(cluster, **kwargs)

    async def target(self) -> int:
        """Workers wanted."""
        if self.cluster.demand is None:
            return int(await super().target())
        return math.ceil(self.cluster.demand / self.cluster.threads_per_worker)

    async def recommendations(self, target: int) -> dict[str, Any]:
        """What to do, counted in groups: the workers of a job come and go together."""
        keys, wanted = list(self.cluster.worker_spec), math.ceil(target / self.cluster.group_size)
        idle = self._idle(keys)
        if wanted > len(keys):
            return {"status": "up", "n": wanted * self.cluster.group_size}
        spare = idle[: len(keys) - wanted]
        return {"status": "down", "workers": spare} if spare else {"status": "same"}

    def _idle(self, keys: list[Any]) -> list[Any]:
        """Groups that can go, those that have not come yet before all others."""
        now, loads = time.monotonic(), self.cluster.loads()
        self._busy = {key: now if loads[key] else self._busy.get(key, now) for key in keys}
        awaited = [key for key in keys if loads[key] is None]
        idle = [key for key in keys if loads[key] == 0 and now - self._busy[key] >= self.idle_timeout]
        return awaited + sorted(idle, key=self._busy.__getitem__)

    async def scale_up(self, n: int) -> None:  # type: ignore[override]
        """Ask for so many workers."""
        self.cluster.resize(n)

    async def scale_down(self, workers: list[Any]) -> None:  # type: ignore[override]
        """Close groups."""
        for key in workers:
            self.cluster.worker_spec.pop(key, None)
        await self.cluster._correct_state()


class ElasticCluster(SpecCluster):
    """What :mod:`enhancer_dask.clusters.capacity` asks a cluster of ours, and what adapts it."""

    scheduler: Any
    demand: int | None = None
    """Chunks still to be computed, as far as the driver tells."""
    idle_timeout: float = 300.0
    """Seconds for which ``adapt`` keeps workers that have nothing to do."""
    chunk_seconds: float | None = None
    """Longest time that a chunk should take."""
    group_size: int = 1
    """Workers that come and go together."""
    threads_per_worker: int = 1
    """Chunks that a worker computes at a time."""
    expected_limit: int | None = None
    """Memory limit of the workers to come, bytes."""

    @property
    def chunk_bytes(self) -> int | None:
        """Memory that a chunk may take beyond what a worker takes anyway; None if workers have no limit."""
        there = [(w["memory_limit"], w["nthreads"]) for w in list(self.scheduler_info["workers"].values())]
        if not there and self.expected_limit is not None:
            there = [(self.expected_limit, self.threads_per_worker)]
        shares = [max(0, int(PAUSE * limit) - WORKER_BYTES) // threads for limit, threads in there if limit]
        return min(shares, default=None)

    def trouble(self) -> str | None:
        """Why workers are missing; None if none is."""
        return None

    def names(self, key: Any) -> list[str]:
        """Names of the workers of a group."""
        suffixes = self.new_spec.get("group", [""])
        return [f"{key}{suffix}" for suffix in suffixes]

    def loads(self) -> dict[Any, int | None]:
        """Tasks of each group; None where no worker has come yet."""
        # copied as a plain dict, at once: workers come and go meanwhile in another thread
        workers = [] if self.scheduler is None else list(dict.values(self.scheduler.workers))
        there = {str(ws.name): len(ws.processing) for ws in workers}
        found = {key: [there[name] for name in self.names(key) if name in there] for key in list(self.worker_spec)}
        return {key: sum(tasks) if tasks else None for key, tasks in found.items()}

    def adapt(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """Follow the work; see :class:`JobAdaptive`."""
        kwargs.setdefault("Adaptive", JobAdaptive)
        return super().adapt(**kwargs)

    def scale(self, *args: Any, **kwargs: Any) -> Any:
        """Have so many workers from now on; ends ``adapt``."""
        adaptive: Any = self._adaptive
        if adaptive is not None:
            adaptive.stop()
        return self.resize(*args, **kwargs)

    def resize(self, n: int | None = None, jobs: int = 0, memory: str | None = None, cores: int | None = None) -> Any:
        """Have so many workers for now; the least busy go first."""
        n = max(n or 0, jobs * self.group_size)
        if cores is not None:
            n = max(n, math.ceil(cores / self.threads_per_worker))
        if memory is not None:
            n = max(n, math.ceil(parse_bytes(memory) / (self.expected_limit or 1)))
        groups = math.ceil(n / self.group_size)
        loads = {key: -1 if load is None else load for key, load in self.loads().items()}
        for key in sorted(loads, key=loads.__getitem__)[: max(0, len(loads) - groups)]:
            self.worker_spec.pop(key, None)
        return super().scale(groups * self.group_size)

    async def _correct_state_internal(self) -> None:
        # Dask names them by keys where addresses are wanted, so that their tasks would count as killed
        leaving = [name for key in set(self.workers).difference(self.worker_spec) for name in self.names(key)]
        if leaving and self.status == Status.running:
            await self.scheduler.retire_workers(names=leaving, remove=True, close_workers=False)
        await super()._correct_state_internal()
