"""From files to links."""

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
    Store,
    Tsv,
    cluster_source,
    print_result,
    warn,
)
from enhancer_dask.errors import InputError


def ingest(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="10x multiome .h5 or .h5mu; name=path for samples.")
    ],
    out: Annotated[Path, typer.Option(help="Store to write (.zarr).")],
    cells: Annotated[
        Path | None, typer.Option(help="Table with columns barcode, celltype, nUMI, percent.mito, ...")
    ] = None,
    gtf: Annotated[Path | None, typer.Option(help="Gene coordinates, plain or .gz.")] = None,
    assembly: Annotated[str, typer.Option(help="Name of the genome assembly, kept with the store.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Write a multiome experiment to a chunked Zarr store."""
    from enhancer_dask.io.ingest import ingest as run_ingest

    store = run_ingest(list(inputs), out, cells=cells, gtf=gtf, assembly=assembly, overwrite=overwrite)
    report = dict(store.attrs["report"])
    for warning in report.pop("warnings"):
        warn(warning)
    print_result({"store": str(out), **{f"n_{dim}s": size for dim, size in store.sizes.items()}, **report})


def candidates(
    store: Store,
    out: Annotated[Path, typer.Option(help="Table of pairs to write (.parquet); BED files go beside it.")],
    window: Annotated[int, typer.Option(help="Extension of the gene body on each side, bp.")] = 500_000,
    anchor: Annotated[
        str, typer.Option(help="overlap (any overlap with the extended gene body), centre (of the peak) or tss.")
    ] = "overlap",
    min_fraction: Annotated[
        float, typer.Option(help="Least share of all cells in which gene and peak are non-zero.")
    ] = 0.05,
    gene: Annotated[list[str] | None, typer.Option(help="Only this gene; may be repeated.")] = None,
    tsv: Tsv = False,
    overwrite: Overwrite = False,
) -> None:
    """Pair genes with the peaks near them."""
    from enhancer_dask.io.tables import write_tsv
    from enhancer_dask.links.candidates import candidates as run_candidates

    pairs = run_candidates(
        store, out, window=window, anchor=anchor, min_fraction=min_fraction, genes=gene, overwrite=overwrite  # type: ignore[arg-type]  # checked inside
    )  # fmt: skip
    if tsv:
        write_tsv(pairs, out.with_suffix(".tsv.gz"))
    print_result(
        {
            "pairs": str(out),
            "n_pairs": len(pairs),
            "n_genes": pairs["gene"].nunique(),
            "n_peaks": pairs["peak"].nunique(),
        }
    )


def scent(
    store: Store,
    pairs: Annotated[Path, typer.Option(help="Table with columns gene, peak (csv, tsv, parquet).")],
    out: Annotated[Path, typer.Option(help="Table of links to write (.parquet).")],
    celltype: Annotated[list[str] | None, typer.Option(help="Cell type; may be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All cell types.")] = False,
    covariates: Annotated[
        str, typer.Option(help="Comma-separated terms: columns of the cells, log(column), ...")
    ] = "log(nUMI),percent.mito",
    offset: Annotated[str | None, typer.Option(help="Term with coefficient 1, for instance log(nUMI).")] = None,
    regression: Annotated[str, typer.Option(help="poisson, or negbin (theta by maximum likelihood).")] = "poisson",
    p: Annotated[
        str, typer.Option("--p", help="p-values: saddle (no resampling), ladder (SCENT's), or both.")
    ] = "both",
    engine: Annotated[
        str, typer.Option(help="Refit engine of the ladder: moments, moments-cuda (GPU) or exact (the reference).")
    ] = "moments",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same table.")] = 0,
    binarise: Annotated[
        bool, typer.Option("--binarise/--no-binarise", help="Open or closed, or the peak's count.")
    ] = True,
    min_fraction: Annotated[
        float, typer.Option(help="Share of the type's cells that gene and peak must exceed.")
    ] = 0.05,
    max_resamples: Annotated[
        int, typer.Option(min=100, help="Leave out the rungs of the ladder beyond this.")
    ] = 50_000,
    certify: Annotated[
        int, typer.Option(min=0, help="Check p_saddle of the N smallest and N random pairs by importance resampling.")
    ] = 0,
    certify_below: Annotated[float, typer.Option(min=0, help="Check every p_saddle below this.")] = 0.0,
    chunk_pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs per chunk, about [default: chosen from the data].")
    ] = None,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Poisson links between genes and peaks with bootstrap p-values. Running it again finishes what is missing."""
    if every == bool(celltype):
        raise InputError("name cell types with --celltype, or give --all (one of the two)")
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.io.tables import write_tsv
    from enhancer_dask.links.scent import scent as run_scent
    from enhancer_dask.links.scent import summary
    from enhancer_dask.stats.bootstrap import up_to

    links = run_scent(
        store, pairs, celltype=celltype or None, covariates=covariates, offset=offset,
        regression=regression, p=p, engine=engine,  # type: ignore[arg-type]  # checked inside
        seed=seed, binarise=binarise, min_fraction=min_fraction, ladder=up_to(max_resamples), certify=certify,
        certify_below=certify_below, out=out, client=client, chunk_pairs=chunk_pairs, progress=progress,
        overwrite=overwrite, warn=warn,
    )  # fmt: skip
    if tsv:
        write_tsv(links, out.with_suffix(".tsv.gz"))
    print_result({"links": str(out), **summary(links)})
