"""``enhancer-dask``: one thin command per stage. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enhancer_dask._version import __version__
from enhancer_dask.errors import EnhancerDaskError, InputError

if TYPE_CHECKING:
    from distributed import Client

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Enhancer-gene links from single-cell multiome data, computed chunk by chunk with Dask.",
)  # fmt: skip

Profile = Annotated[str, typer.Option(help="Profile of cluster.yaml: where the chunks run.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="File of profiles [default: ./cluster.yaml if there]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result made with other parameters.")]
Tsv = Annotated[bool, typer.Option("--tsv", help="Write the table also as .tsv.gz.")]
ShowProgress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bar on standard error.")]


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _warn(message: str) -> None:
    _say(f"warning: {message}")


def _result(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values))


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


def _cluster(profile: str, config: Path | None) -> Callable[[], AbstractContextManager[Client]]:
    """Check the profile now, start it when there is work."""
    from enhancer_dask.clusters import cluster, read_profile

    read_profile(profile, config)
    return lambda: cluster(profile, config=config)


@app.command()
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
        _warn(warning)
    _result({"store": str(out), **{f"n_{dim}s": size for dim, size in store.sizes.items()}, **report})


@app.command()
def candidates(
    store: Annotated[Path, typer.Argument(help="Multiome store (.zarr).")],
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
    _result(
        {
            "pairs": str(out),
            "n_pairs": len(pairs),
            "n_genes": pairs["gene"].nunique(),
            "n_peaks": pairs["peak"].nunique(),
        }
    )


@app.command()
def scent(
    store: Annotated[Path, typer.Argument(help="Multiome store (.zarr).")],
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
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Poisson links between genes and peaks with bootstrap p-values. Running it again finishes what is missing."""
    if every == bool(celltype):
        raise InputError("name cell types with --celltype, or give --all (one of the two)")
    client = _cluster(profile, cluster)
    from enhancer_dask.io.tables import write_tsv
    from enhancer_dask.links.scent import scent as run_scent
    from enhancer_dask.links.scent import summary
    from enhancer_dask.stats.bootstrap import up_to

    links = run_scent(
        store, pairs, celltype=celltype or None, covariates=covariates, offset=offset,
        regression=regression, p=p, engine=engine,  # type: ignore[arg-type]  # checked inside
        seed=seed, binarise=binarise, min_fraction=min_fraction, ladder=up_to(max_resamples), certify=certify,
        certify_below=certify_below, out=out, client=client, chunk_pairs=chunk_pairs, progress=progress,
        overwrite=overwrite, warn=_warn,
    )  # fmt: skip
    if tsv:
        write_tsv(links, out.with_suffix(".tsv.gz"))
    _result({"links": str(out), **summary(links)})


@app.command()
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
    store: Annotated[Path | None, typer.Option(help="Multiome store (.zarr) to count the pairs' cells in.")] = None,
    celltype: Annotated[
        list[str] | None,
        typer.Option(help="Cell type to count in; may be repeated [default: those of the links, or all]."),
    ] = None,
    min_double: Annotated[
        int, typer.Option(min=0, help="Keep pairs with at least so many cells in which both are open (GLiMMIRS: 10).")
    ] = 0,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Pair the significant peaks of each gene, and count the cells in which none, one or both are open."""
    if store is None and (celltype or min_double):
        raise InputError("cells are counted in a store: give --store with --celltype and --min-double")
    client = _cluster(profile, cluster)
    from enhancer_dask.interactions.census import census
    from enhancer_dask.interactions.pairs import pair_up, significant_links, write_enhancer_pairs
    from enhancer_dask.io.tables import write_tsv

    found = significant_links(links, None if every else fdr, by=by)
    table = pair_up(found)
    if not len(table):
        _warn(f"{links}: no gene has two {'' if every else 'significant '}links")
    twice = table.loc[table["enhancer_1"] == table["enhancer_2"], "gene"]
    if len(twice):
        _warn(f"{links}: {len(twice)} links are there twice and pair with themselves (first: of {twice.iloc[0]})")
    settings: dict[str, Any] = {"fdr": None} if every else {"fdr": fdr, "by": by}
    if store is None:
        write_enhancer_pairs(table, out, settings=settings, overwrite=overwrite)
    else:
        table = census(
            store, table, celltype or None, min_double=min_double, settings=settings, out=out, client=client,
            progress=progress, overwrite=overwrite, warn=_warn,
        )  # fmt: skip
    if tsv:
        write_tsv(table, out.with_suffix(".tsv.gz"))
    _result({"pairs": str(out), "n_pairs": len(table), "n_genes": table["gene"].nunique(), "n_links": len(found)})


@app.command()
def epistasis(
    store: Annotated[Path, typer.Argument(help="Multiome store (.zarr).")],
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
    tsv: Tsv = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Do two enhancers of a gene add up, multiply or interact? Running it again finishes what is missing."""
    if every == bool(celltype):
        raise InputError("name cell types with --celltype, or give --all (one of the two)")
    client = _cluster(profile, cluster)
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
        chunk_pairs=chunk_pairs, progress=progress, overwrite=overwrite, warn=_warn,
    )  # fmt: skip
    if tsv:
        write_tsv(LAYOUTS[layout](table), out.with_suffix(".tsv.gz"))
    _result({"epistasis": str(out), **summary(table)})


@app.command()
def figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures, PNG and SVG.")],
    links: Annotated[Path | None, typer.Option(help="Table of links, ours or SCENT's.")] = None,
    epistasis: Annotated[Path | None, typer.Option(help="Table of enhancer pairs, ours or as published.")] = None,
    store: Annotated[Path | None, typer.Option(help="Multiome store: draws the cells of a pair.")] = None,
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
    _result({"figures": [str(file) for file in files]})


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="What goes in and with which settings.")],
    profile: Profile = "local",
    cluster: ClusterFile = None,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Ingest, candidates, SCENT, enhancer pairs, epistasis, figures; what is there and valid is skipped."""
    client = _cluster(profile, cluster)
    from enhancer_dask.config import load_config
    from enhancer_dask.pipeline import run as run_pipeline

    _result(run_pipeline(load_config(config), client=client, progress=progress, overwrite=overwrite, say=_say).asdict())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for input and results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    progress: ShowProgress = True,
) -> None:
    """Simulate a multiome with known links, run everything, compare with the truth."""
    client = _cluster(profile, cluster)
    from rich.console import Console
    from rich.table import Table

    from enhancer_dask.demo import demo as run_demo

    result, comparison = run_demo(out, client=client, seed=seed, progress=progress, say=_say)
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
        _say(f"error: {err}")
        sys.exit(err.exit_code)
    except _Interrupted:
        _say("interrupted; what is finished is kept, the same command again does the rest")
        sys.exit(130)
    except OSError as err:
        _say(f"error: {err.filename or 'system'}: {err.strerror or err}")
        sys.exit(1)
