"""From links to enhancer pairs, their interactions, and figures of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


def pairs(
    links: Annotated[Path, typer.Argument(help="Table of links: gene, peak and a p-value (csv, tsv, parquet).")],
    out: Annotated[Path, typer.Option(help="Table of enhancer pairs to write (.parquet).")],
    fdr: Annotated[float, typer.Option(help="Pair the links whose adjusted p-value is below.")] = 0.1,
    by: Annotated[
        str, typer.Option(help="Column of p-values; auto: p_saddle if it has values, else boot_basic_p.")
    ] = "auto",
    every: Annotated[
        bool, typer.Option("--all", help="Pair all links of a gene, for instance candidates, whatever their p-value.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="Multiome store (.zarr) to count the pairs' cells in.")] = None,
    celltype: Annotated[
        list[str] | None,
        typer.Option(help="Cell type to count in; may be repeated [default: those of the links, or all]."),
    ] = None,
    min_double: Annotated[
        int, typer.Option(min=0, help="Keep pairs with at least so many cells in which both are open (GLiMMIRS: 10).")
    ] = 0,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Pair the significant peaks of each gene, and count the cells in which none, one or both are open."""
    if store is None and (celltype or min_double):
        raise InputError("cells are counted in a store: give --store with --celltype and --min-double")
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.interactions.census import census
    from enhancer_dask.interactions.pairs import pair_up, significant_links, write_enhancer_pairs
    from enhancer_dask.io.tables import write_tsv

    found = significant_links(links, None if every else fdr, by=by)
    table = pair_up(found)
    if not len(table):
        warn(f"{links}: no gene has two {'' if every else 'significant '}links")
    twice = table.loc[table["enhancer_1"] == table["enhancer_2"], "gene"]
    if len(twice):
        warn(f"{links}: {len(twice)} links are there twice and pair with themselves (first: of {twice.iloc[0]})")
    settings: dict[str, Any] = {"fdr": None} if every else {"fdr": fdr, "by": by}
    if store is None:
        write_enhancer_pairs(table, out, settings=settings, overwrite=overwrite)
    else:
        table = census(
            store, table, celltype or None, min_double=min_double, settings=settings, out=out, client=client,
            progress=progress, overwrite=overwrite, warn=warn,
        )  # fmt: skip
    if tsv:
        write_tsv(table, out.with_suffix(".tsv.gz"))
    print_result({"pairs": str(out), "n_pairs": len(table), "n_genes": table["gene"].nunique(), "n_links": len(found)})


def epistasis(
    store: Store,
    pairs: Annotated[Path, typer.Option(help="Table with columns gene, enhancer_1, enhancer_2 [, celltype].")],
    out: Annotated[Path, typer.Option(help="Table of contrasts and interactions to write (.parquet).")],
    celltype: Annotated[list[str] | None, typer.Option(help="Cell type; may be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All cell types (that the pairs name).")] = False,
    coding: Annotated[
        str, typer.Option(help="Predictor of 11 against 00: fixed (0/1), or legacy (0/2, as published).")
    ] = "fixed",
    covariates: Annotated[
        str, typer.Option(help="Comma-separated terms: columns of the cells, log(column), ...")
    ] = "percent.mito",
    offset: Annotated[str, typer.Option(help="Term with coefficient 1; empty for none.")] = "log(nUMI)",
    regression: Annotated[str, typer.Option(help="poisson, or negbin (theta by maximum likelihood).")] = "poisson",
    p: Annotated[str, typer.Option("--p", help="p-values: saddle (no resampling), ladder, or both.")] = "both",
    engine: Annotated[
        str, typer.Option(help="Refit engine of the ladder: moments, or exact (the reference).")
    ] = "moments",
    ladder: Annotated[
        str, typer.Option(help="published (100, then 5,000 if p < 0.1) or scent (100 to 50,000).")
    ] = "published",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same table.")] = 0,
    margin: Annotated[
        float, typer.Option(help="Fold change within which a departure counts as none in the verdict.")
    ] = 1.25,
    level: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    expected: Annotated[
        int, typer.Option(min=0, help="Resamples for the expected counts by state (GLiMMIRS: 100); 0: none.")
    ] = 0,
    chunk_pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs per chunk [default: chosen from the data].")
    ] = None,
    layout: Annotated[str, typer.Option(help="Columns of the .tsv.gz: ours, published or glimmirs.")] = "ours",
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Do two enhancers of a gene add up, multiply or interact? Running it again finishes what is missing."""
    if every == bool(celltype):
        raise InputError("name cell types with --celltype, or give --all (one of the two)")
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.interactions.contrasts import LADDERS
    from enhancer_dask.interactions.epistasis import epistasis as run_epistasis
    from enhancer_dask.interactions.epistasis import summary
    from enhancer_dask.interactions.layouts import LAYOUTS
    from enhancer_dask.io.tables import write_tsv

    for name, value, known in (("ladder", ladder, LADDERS), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; choose from {', '.join(known)}")
    if layout != "ours" and not tsv:
        raise InputError(f"layout {layout!r} is one of the .tsv.gz: give --tsv, too")
    if layout != "ours" and (every or len(celltype or []) > 1):
        raise InputError(f"layout {layout!r} has no column for cell types: give one --celltype")
    table = run_epistasis(
        store, pairs, celltype or None, covariates=covariates, offset=offset or None,
        coding=coding, regression=regression, p=p, engine=engine,  # type: ignore[arg-type]  # checked inside
        seed=seed, ladder=LADDERS[ladder], margin=margin, level=level, expected=expected, out=out, client=client,
        chunk_pairs=chunk_pairs, progress=progress, overwrite=overwrite, warn=warn,
    )  # fmt: skip
    if tsv:
        write_tsv(LAYOUTS[layout](table), out.with_suffix(".tsv.gz"))
    print_result({"epistasis": str(out), **summary(table)})


def figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures, PNG and SVG.")],
    links: Annotated[Path | None, typer.Option(help="Table of links, ours or SCENT's.")] = None,
    epistasis: Annotated[Path | None, typer.Option(help="Table of enhancer pairs, ours or as published.")] = None,
    store: Annotated[str | None, typer.Option(help="Multiome store: draws the cells of a pair.")] = None,
    celltype: Annotated[str | None, typer.Option(help="Only this cell type.")] = None,
    pair: Annotated[
        str | None, typer.Option(metavar="GENE,E1,E2", help="Pair whose cells are drawn [default: least p of I].")
    ] = None,
    coding: Annotated[
        str | None, typer.Option(help="Coding the epistasis table was made with [default: as the table tells].")
    ] = None,
) -> None:
    """Draw what the given tables allow, per cell type."""
    from enhancer_dask.report.gallery import draw_all, parse_pair

    files = draw_all(
        out, links=links, epistasis=epistasis, store=store, pair=None if pair is None else parse_pair(pair),
        celltype=celltype, table_coding=coding,  # type: ignore[arg-type]  # checked inside
    )  # fmt: skip
    print_result({"figures": [str(file) for file in files]})
