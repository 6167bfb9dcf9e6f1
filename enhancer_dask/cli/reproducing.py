"""Published tables once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    from rich.console import Console
    from rich.table import Table

    from enhancer_dask.reproduction import CAVEAT, reproduce_bell

    made = reproduce_bell(
        out, seeds=seeds, seed_offset=seed_offset, test_chromosomes=test_chromosomes, models=names_in(models),
        epochs=epochs, patience=patience, pool=pool, client=client, progress=progress, overwrite=overwrite,
    )  # fmt: skip
    shown = Table(
        "data set", "model", "parameters", "test MSE", "floor", "published", "ROI MSE", "published ", "train s"
    )
    for row in made.summary.itertuples():
        numbers = (row.test_mse, row.floor_mse, row.published_mse, row.roi_mse, row.published_roi_mse)
        shown.add_row(
            row.dataset, row.model, f"{row.parameters:,}", *("" if n != n else f"{n:.3f}" for n in numbers),
            f"{row.train_s:.1f}",
        )  # fmt: skip
    Console(stderr=True).print(shown)
    say(CAVEAT)
    print_result({"out": str(out), "files": [str(file) for file in made.files], "rows": len(made.table)})
