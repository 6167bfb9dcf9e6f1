"""Run numbered chunks of work as Dask tasks, each leaving one part file; stop and go on at any time.

A chunk's task is a plain function that returns a table. The part is written under a temporary name and renamed,
so a part that exists is whole. A chunk that would take too long or too much memory is computed in pieces, a part
each. The manifest beside the parts says with which parameters they are made, the journal how far the run is. The
driver holds a window of pieces in flight and a few bytes per chunk, however many chunks there are.
"""

from enhancer_dask.chunks.context import only_failed as only_failed
from enhancer_dask.chunks.context import recorded as recorded
from enhancer_dask.chunks.merging import discard as discard
from enhancer_dask.chunks.merging import discard_parts as discard_parts
from enhancer_dask.chunks.merging import merge as merge
from enhancer_dask.chunks.merging import tables as tables
from enhancer_dask.chunks.parts import MANIFEST as MANIFEST
from enhancer_dask.chunks.running import run as run
from enhancer_dask.chunks.work import RunSummary as RunSummary
from enhancer_dask.chunks.work import Work as Work
