"""Options that several commands share, and what commands say."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from distributed import Client

Profile = Annotated[str, typer.Option(help="Profile of cluster.yaml: where the chunks run.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="File of profiles [default: ./cluster.yaml if there]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result made with other parameters.")]
Tsv = Annotated[bool, typer.Option("--tsv", help="Write the table also as .tsv.gz.")]
ShowProgress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bar on standard error.")]


def say(message: str) -> None:
    """One line for people."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """A warning for people."""
    say(f"warning: {message}")


def print_result(values: dict[str, Any]) -> None:
    """The result, for programs."""
    typer.echo(json.dumps(values))


def cluster_source(profile: str, config: Path | None) -> Callable[[], AbstractContextManager[Client]]:
    """Check the profile now, start it when there is work."""
    from enhancer_dask.clusters import cluster, read_profile

    read_profile(profile, config)
    return lambda: cluster(profile, config=config)
