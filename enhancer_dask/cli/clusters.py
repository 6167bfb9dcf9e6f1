"""Is a cluster fit for work?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

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
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a worker.")] = 300.0,
) -> None:
    """Start one worker, by a probe job on SLURM; say what it has and whether it fits this machine; end it."""
    from enhancer_dask.clusters.check import check as check_cluster

    found = check_cluster(profile, cluster, say=say, timeout=timeout)
    lines = list(_lines(found))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        say(f"{name:{width}}  {value}")
    print_result(found)


def _lines(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values, those of a mapping within one below it."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{above}{name} ")
        else:
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
