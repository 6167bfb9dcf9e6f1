"""The worker process of a job: it leaves before its wall time, and not in the middle of a chunk."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from dask.utils import parse_timedelta
from distributed import Status, Worker

JOB_START = "ENHANCER_DASK_JOB_START"
"""Environment variable: when the job began, seconds since 1970."""
MARGIN = "ENHANCER_DASK_MARGIN"
"""Environment variable: seconds from the lifetime of a worker to the wall time."""
LEAVING_S = 5.0  # a worker needs them to say goodbye


class JobWorker(Worker):
    """Dask's worker, but for its end: it takes no new chunk, finishes what runs, and only then leaves.

    Dask itself gives up what runs when the lifetime is reached. A worker that its nanny starts again lives no longer
    than its job.
    """

    def __init__(self, *args: Any, lifetime: str | None = None, **kwargs: Any) -> None:
        if lifetime is not None:
            age = time.time() - float(os.environ.get(JOB_START, time.time()))
            lifetime = f"{max(1.0, parse_timedelta(lifetime) - age)} s"
        super().__init__(*args, lifetime=lifetime, **kwargs)

    async def close_gracefully(self, restart: bool | None = None, reason: str = "worker-close-gracefully") -> None:
        """Leave when the chunks that run are finished, at the latest at the end of the margin.

        A chunk that runs even then would be begun, and given up, by one job after the other for ever. The scheduler
        hears that it killed its worker, so that it is cut or, in the end, fails.
        """
        if self.status in (Status.closing, Status.closing_gracefully, Status.closed):
            await self.finished()
            return
        deadline = time.monotonic() + max(0.0, float(os.environ.get(MARGIN, "0")) - LEAVING_S)
        self.status = Status.closing_gracefully  # the scheduler sends nothing more, and nothing new begins
        while self.state.executing_count and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        if not self.state.executing_count:  # else the chunk is too long for a job, and must count as killed
            # others take over results that nobody fetched yet; what waits here goes back to the scheduler
            await self.scheduler.retire_workers(workers=[self.address], close_workers=False, remove=True)
            # where no other worker is there to take them, Dask would count what waits here as killed
            await self.scheduler.unregister(
                address=self.address, expected=True, close=False, stimulus_id=f"leaving-{time.time()}"
            )
        await self.close(nanny=not (self.lifetime_restart if restart is None else restart), reason=reason)
