"""dask-jobqueue, without the handler of Ctrl-C that its import installs.

That one ends the process without an error, wherever it is, and cannot even be installed from a thread.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _no_new_handlers() -> Iterator[None]:
    install = signal.signal
    signal.signal = lambda *_: None
    try:
        yield
    finally:
        signal.signal = install


with _no_new_handlers():
    from dask_jobqueue.slurm import SLURMCluster as SLURMCluster
    from dask_jobqueue.slurm import SLURMJob as SLURMJob
