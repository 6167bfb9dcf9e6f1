"""From Hi-C files to a contact store."""

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
    warn,
)


def contacts(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help=".pairs(.gz), .cool, .mcool, .scool or .hic; bulk files are added up."),
    ],
    out: Annotated[Path, typer.Option(help="Contact store to write (.zarr).")],
    resolution: Annotated[list[int], typer.Option(help="Size of the bins, bp; may be repeated.")],
    chromsizes: Annotated[
        Path | None,
        typer.Option(help="Table of chromosomes and sizes without header [default: those of the first input]."),
    ] = None,
    chromosomes: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    cells: Annotated[
        Path | None, typer.Option(help="Table of cells to keep: cell, barcode or file, and anything known of them.")
    ] = None,
    single_cell: Annotated[bool, typer.Option("--single-cell", help="Each input is one cell.")] = False,
    zero_based: Annotated[bool, typer.Option("--zero-based", help="Positions in pairs count from 0, not 1.")] = False,
    assembly: Annotated[str, typer.Option(help="Name of the genome assembly, kept with the store.")] = "",
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Write Hi-C contacts to a chunked Zarr store. Running it again finishes what is missing."""
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.io.contact_ingest import ingest_contacts

    store = ingest_contacts(
        list(inputs), out, resolution=list(resolution), chromsizes=chromsizes, cells=cells, single_cell=single_cell,
        chromosomes=names_in(chromosomes), one_based=not zero_based,
        assembly=assembly, client=client, progress=progress, overwrite=overwrite,
    )  # fmt: skip
    report = store.report
    for warning in report.pop("warnings"):
        warn(warning)
    known = {"resolutions": store.resolutions, "n_chromosomes": len(store.chroms), "n_cells": len(store.cells)}
    vectors = {str(r): sorted(store.vectors(r)) for r in store.resolutions}
    print_result({"store": str(out), **known, **report, "vectors": vectors})
