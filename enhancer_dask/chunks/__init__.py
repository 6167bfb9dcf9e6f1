"""Run numbered chunks of work as Dask tasks, each leaving one part file; stop and go on at any time.

A chunk's task is a plain function that returns a table. The part is written under a temporary name and renamed,
so a part that exists is whole. The manifest beside the parts says with which parameters they are made. The driver
holds a window of chunks in flight and one byte per chunk, however many chunks there are.
"""

from enhancer_dask.chunks.work import MANIFEST as MANIFEST
from enhancer_dask.chunks.work import RunSummary as RunSummary
from enhancer_dask.chunks.work import Work as Work
from enhancer_dask.chunks.work import discard as discard
from enhancer_dask.chunks.work import discard_parts as discard_parts
from enhancer_dask.chunks.work import merge as merge
from enhancer_dask.chunks.work import run as run
from enhancer_dask.chunks.work import tables as tables
