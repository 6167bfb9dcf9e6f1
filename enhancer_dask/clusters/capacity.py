"""What a running cluster and the chunks tell each other. Clusters that know nothing of it are left alone.

A cluster of ours (``client.cluster``) may have these attributes; any other, or a mere scheduler address, has none:

``chunk_seconds``: float or None, ``chunk_bytes``: int or None, ``trouble()``: str or None, ``demand``: int or None.
"""

from __future__ import annotations

from typing import Any

from distributed import Client


def tell_demand(client: Client, n_chunks: int | None) -> None:
    """Tell an adaptive cluster how many chunks are still to be computed; None when nobody knows any more."""
    running: Any = client.cluster
    if hasattr(running, "demand"):
        running.demand = n_chunks


def chunk_seconds(client: Client) -> float | None:
    """Longest time that a chunk should take: a tenth of the wall time; None where there is none."""
    seconds: float | None = getattr(client.cluster, "chunk_seconds", None)
    return seconds


def chunk_bytes(client: Client) -> int | None:
    """Memory that a chunk may take beyond what a worker process takes anyway; None if nobody knows.

    That of a thread of the smallest worker, or what the profile asks SLURM for while there is none.
    """
    nbytes: int | None = getattr(client.cluster, "chunk_bytes", None)
    return nbytes


def trouble(client: Client) -> str | None:
    """Why workers are missing, in a few words (``3 jobs pending: Resources``); None if none is.

    Raises
    ------
    ClusterError
        If no worker will come: jobs end before they connect, again and again. Names the log of the last.
    """
    ask = getattr(client.cluster, "trouble", None)
    message: str | None = None if ask is None else ask()
    return message
