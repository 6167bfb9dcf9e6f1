"""Is a cluster fit for work?"""

from __future__ import annotations

from typing import Annotated

import typer

from enhancer_dask.cli.options import ClusterFile, print_result, say

app = typer.Typer(no_args_is_help=True, help="Look at the cluster of a profile.")


@app.callback()
def _clusters() -> None:
    pass


@app.command()
def check(
    profile: Annotated[str, typer.Option(help="Profile of cluster.yaml.")] = "local",
    cluster: ClusterFile = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a worker.")] = 600.0,
) -> None:
    """Start one worker, by a probe job on SLURM; say what it has and whether it fits this machine; end it."""
    from enhancer_dask.clusters.check import check as check_cluster

    print_result(check_cluster(profile, cluster, say=say, timeout=timeout))
