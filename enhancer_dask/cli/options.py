"""Options that several commands share, and what commands say."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enhancer_dask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

Profile = Annotated[str, typer.Option(help="Profile of cluster.yaml: where the chunks run.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="File of profiles [default: ./cluster.yaml if there]")
]
Adapt = Annotated[
    str | None,
    typer.Option(
        metavar="MIN:MAX",
        help="Grow and shrink with the work: jobs on SLURM, workers locally [default: as the profile].",
    ),
]
Store = Annotated[str, typer.Argument(help="Multiome store (.zarr), a path or a URL.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result made with other parameters.")]
Tsv = Annotated[bool, typer.Option("--tsv", help="Write the table also as .tsv.gz.")]
ShowProgress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bar on standard error.")]


def say(message: str) -> None:
    """One line for people."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """A warning for people."""
    say(f"warning: {message}")


def print_result(values: Any) -> None:
    """The result, for programs."""
    typer.echo(json.dumps(values))


def names_in(text: str | None) -> list[str] | None:
    """Names between commas; None for None.

    Examples
    --------
    >>> names_in("chr2, chr11,")
    ['chr2', 'chr11']
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def adapt_range(text: str | None) -> tuple[int, int] | None:
    """``MIN:MAX`` as two numbers.

    Examples
    --------
    >>> adapt_range("0:50")
    (0, 50)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    least, most = map(int, found.groups()) if found else (0, 0)
    if not max(1, least) <= most:
        raise InputError(f"--adapt is {text!r}; want MIN:MAX, for instance 0:50")
    return least, most


def cluster_source(
    profile: str, config: Path | None, adapt: str | None
) -> Callable[[], AbstractContextManager[Client]]:
    """Check the profile now, start it when there is work. The work's journal gets the command as it was typed."""
    from enhancer_dask.chunks import recorded
    from enhancer_dask.clusters import cluster, read_profile

    between = adapt_range(adapt)
    read_profile(profile, config)

    @contextmanager
    def start() -> Iterator[Client]:
        with recorded(sys.argv[1:], os.getcwd()), cluster(profile, adapt=between, config=config, say=say) as client:
            yield client

    return start
