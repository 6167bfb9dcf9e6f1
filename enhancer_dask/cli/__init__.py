"""``enhancer-dask``: one thin command per stage. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from enhancer_dask._version import __version__
from enhancer_dask.cli import (
    attribution,
    clusters,
    contacts,
    graphs,
    links,
    model_figures,
    pairs,
    predicting,
    progress,
    reproducing,
    runs,
    simulations,
    training,
)
from enhancer_dask.cli.options import say
from enhancer_dask.cli.signals import Interrupted, outlive_readers, raise_on_signals
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
                 contacts.contacts, graphs.graphs, training.train, training.tune, predicting.predict,
                 predicting.evaluate, attribution.attribute, model_figures.model_figures, runs.run, runs.demo,
                 progress.status, progress.retry):  # fmt: skip
    app.command()(_command)
app.add_typer(clusters.app, name="cluster")
app.add_typer(simulations.app, name="simulate")
app.add_typer(reproducing.app, name="reproduce")


def main() -> None:
    """Entry point: errors of ours become one line and an exit code, an interruption a friendly word."""
    outlive_readers()
    raise_on_signals()
    try:
        app()
    except EnhancerDaskError as err:
        say(f"error: {err}")
        sys.exit(err.exit_code)
    except Interrupted as stop:
        say(f"{stop}; what is finished is kept, the same command again does the rest")
        sys.exit(stop.exit_code)
    except OSError as err:
        say(f"error: {err.filename or 'system'}: {err.strerror or err}")
        sys.exit(1)
