"""Published tables once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enhancer_dask.cli.options import (
    Adapt,
    ClusterFile,
    Overwrite,
    Profile,
    ShowProgress,
    cluster_source,
    names_in,
    print_result,
    say,
)

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True, help="Published tables of graph models, regenerated beside the published numbers."
)


@app.callback()
def _main() -> None:
    pass


@app.command()
def bell(
    out: Annotated[Path, typer.Option(help="Folder for table.csv, summary.csv, figures, data and runs.")],
    seeds: Annotated[int, typer.Option(min=1, help="Data sets of each kind.")] = 3,
    seed_offset: Annotated[int, typer.Option(min=0, help="Number of the first seed.")] = 0,
    test_chromosomes: Annotated[
        int, typer.Option(min=1, help="Per data set; the published five swing too much to judge by.")
    ] = 5,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Models [default: all of the report, and ours].")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most, for every model [default: as published].")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better validation before a training stops.")
    ] = 200,
    pool: Annotated[int, typer.Option(min=0, help="Train two-way-windows on so many simulated chromosomes, too.")] = 0,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Every model on synthetic chromosomes with enhancers, and with silencers too: Bell's two tables."""
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.reproduction import CAVEAT, reproduce_bell

    made = reproduce_bell(
        out, seeds=seeds, seed_offset=seed_offset, test_chromosomes=test_chromosomes, models=names_in(models),
        epochs=epochs, patience=patience, pool=pool, client=client, progress=progress, overwrite=overwrite,
    )  # fmt: skip
    _show(made.summary)
    say(CAVEAT)
    print_result({"out": str(out), "files": [str(file) for file in made.files], "rows": len(made.table)})


def _show(summary: pd.DataFrame) -> None:
    """The summary on standard error, in the 80 columns that a file or an old terminal has."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for label in ("data set", "model"):
        shown.add_column(label, no_wrap=True)
    for label in ("weights", "MSE", "publ.", "floor", "ROI MSE", "publ.", "train s"):
        shown.add_column(label, no_wrap=True, justify="right")
    for row in summary.itertuples():
        numbers = (row.test_mse, row.published_mse, row.floor_mse, row.roi_mse, row.published_roi_mse)
        shown.add_row(
            row.dataset, row.model, f"{row.parameters:,}", *("" if n != n else f"{n:.3f}" for n in numbers),
            f"{row.train_s:.1f}",
        )  # fmt: skip
    Console(stderr=True).print(shown)
