"""Whole runs."""

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
    print_result,
    say,
)


def run(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="What goes in and with which settings.")],
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Ingest, candidates, SCENT, enhancer pairs, epistasis, figures; what is there and valid is skipped."""
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.config import load_config
    from enhancer_dask.pipeline import run as run_pipeline

    print_result(
        run_pipeline(load_config(config), client=client, progress=progress, overwrite=overwrite, say=say).asdict()
    )


def demo(
    out: Annotated[Path, typer.Option(help="Folder for input and results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    progress: ShowProgress = True,
) -> None:
    """Simulate a multiome with known links, run everything, compare with the truth."""
    client = cluster_source(profile, cluster, adapt)
    from rich.console import Console
    from rich.table import Table

    from enhancer_dask.demo import demo as run_demo

    result, comparison = run_demo(out, client=client, seed=seed, progress=progress, say=say)
    shown = Table(
        "cell type",
        "pairs",
        "tested",
        "true",
        "found",
        "correct",
        "precision",
        "recall",
        title="Links at FDR < 0.1 against the truth",
    )
    for row in comparison.itertuples():
        counts = (row.n_candidates, row.n_tested, row.n_true, row.n_found, row.n_correct)
        shown.add_row(row.celltype, *map(str, counts), f"{row.precision:.2f}", f"{row.recall:.2f}")
    console = Console()
    console.print(shown)
    places = {"links": result.links, "epistasis": result.epistasis, "figures": Path(result.figures[0]).parent}
    for label, path in {**places, "candidates": result.pairs, "store": result.store}.items():
        if path is not None:  # another seed may leave no enhancer pairs
            console.print(f"{label:10} {path}", soft_wrap=True, highlight=False)
    console.print(f"{'truth':10} {out / 'input' / 'truth.tsv'}", soft_wrap=True, highlight=False)
    console.print(f"again:     enhancer-dask run {out / 'run.yaml'}", soft_wrap=True, highlight=False)
