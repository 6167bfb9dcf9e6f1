"""``enhancer-dask``: one thin command per stage. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from enhancer_dask._version import __version__
from enhancer_dask.cli import links, pairs, runs
from enhancer_dask.cli.options import say
from enhancer_dask.errors import EnhancerDaskError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Enhancer-gene links from single-cell multiome data, computed chunk by chunk with Dask.",
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# in the order of the help
for _command in (links.ingest, links.candidates, links.scent, pairs.pairs, pairs.epistasis, pairs.figures,
                 runs.run, runs.demo):  # fmt: skip
    app.command()(_command)


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM, under a name that no library catches on the way out."""


def _interrupt(*_: object) -> None:
    raise _Interrupted


def main() -> None:
    """Entry point: errors of ours become one line and an exit code, an interruption a friendly word."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except EnhancerDaskError as err:
        say(f"error: {err}")
        sys.exit(err.exit_code)
    except _Interrupted:
        say("interrupted; what is finished is kept, the same command again does the rest")
        sys.exit(130)
    except OSError as err:
        say(f"error: {err.filename or 'system'}: {err.strerror or err}")
        sys.exit(1)
