"""Preloaded by the workers of the fault tests: SCENT's chunks wait, take longer or raise, as files in a folder say.

``hold``: chunks wait as long as the file is there, so that a fault hits a run at work, however fast the machine is.
``slow``: seconds that every chunk takes longer. ``poison``: the chunk with this cell type, gene and peak raises.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

VARIABLE = "CHUNK_FAULTS"


def dask_setup(worker):
    """Called by Dask in each new worker; tasks are looked up by name, so they find the changed one."""
    from enhancer_dask.links import work

    folder, compute = Path(os.environ[VARIABLE]), work.scent_chunk

    def scent_chunk(block):
        time.sleep(float(read(folder / "slow") or 0))
        while (folder / "hold").exists():
            time.sleep(0.05)
        if pairs_of(block) & {tuple(json.loads(read(folder / "poison") or "[]"))}:
            raise RuntimeError("this chunk is poisoned")
        return compute(block)

    work.scent_chunk = scent_chunk


def pairs_of(block):
    return {(block.celltype, int(gene), int(peak)) for gene, peak in zip(block.gene, block.peak, strict=True)}


def read(path):
    return path.read_text() if path.exists() else ""
