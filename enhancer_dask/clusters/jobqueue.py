"""What is used of dask-jobqueue, imported without its side effect: it makes Ctrl-C end the process without a word.

``dask_jobqueue.runner`` sets a handler of SIGINT when it is imported, which fails in a thread and elsewhere replaces
that of the command line or the notebook.
"""

import signal

_set_handler = signal.signal
signal.signal = lambda *_: None
try:
    from dask_jobqueue.slurm import SLURMCluster as SLURMCluster
    from dask_jobqueue.slurm import SLURMJob as SLURMJob
finally:
    signal.signal = _set_handler
