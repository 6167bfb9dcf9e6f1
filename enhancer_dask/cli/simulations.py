"""Data with a known truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from enhancer_dask.cli.options import names_in, print_result
from enhancer_dask.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Write graph shards of simulated data with a known truth.")
Out = Annotated[Path, typer.Option(help="Folder of graph shards to write.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.command()
def chromosomes(
    out: Out,
    preset: Annotated[
        str, typer.Option(help="enhancers (20, 3 per gene), or silencers (10 and 10, 3 and 2 per gene).")
    ] = "enhancers",
    bins: Annotated[int | None, typer.Option(help="Bins per chromosome [default: 1000].")] = None,
    genes: Annotated[int | None, typer.Option(help="Genes per chromosome [default: one per 50 bins].")] = None,
    enhancers: Annotated[
        int | None, typer.Option(help="Enhancers per chromosome [default: as the preset, in proportion to the bins].")
    ] = None,
    silencers: Annotated[
        int | None, typer.Option(help="Silencers per chromosome [default: as the preset, in proportion to the bins].")
    ] = None,
    enhancers_per_gene: Annotated[
        int | None, typer.Option(help="Enhancers of each gene [default: as the preset].")
    ] = None,
    silencers_per_gene: Annotated[
        int | None, typer.Option(help="Silencers of each gene [default: as the preset].")
    ] = None,
    margin: Annotated[int | None, typer.Option(help="Bins without sites at both ends [default: 5].")] = None,
    site_width: Annotated[int | None, typer.Option(help="Bins around a site that are open [default: 5].")] = None,
    window: Annotated[
        int | None, typer.Option(help="A site acts from and on bins up to this far away [default: 5].")
    ] = None,
    accessibility_noise: Annotated[
        float | None, typer.Option(help="Largest noise on accessibility [default: 0.5].")
    ] = None,
    expression_noise: Annotated[
        float | None, typer.Option(help="Largest noise on expression, as a share of its maximum [default: 0.15].")
    ] = None,
    noisy_share: Annotated[float | None, typer.Option(help="Share of bins with noise [default: 0.1].")] = None,
    decoys_per_gene: Annotated[
        int | None, typer.Option(help="Edges to each gene from open bins that do not regulate it [default: 0].")
    ] = None,
    n_train: Annotated[int, typer.Option(help="Chromosomes to train on.")] = 20,
    n_validation: Annotated[int, typer.Option(help="Chromosomes to choose a model by.")] = 5,
    n_test: Annotated[int, typer.Option(help="Chromosomes to judge it by.")] = 5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Synthetic chromosomes: accessibility, expression, and edges from enhancers and silencers to genes."""
    from enhancer_dask.simulate.chromosomes import preset_design, simulate_chromosomes

    given = _given(
        bins=bins,
        genes=genes,
        enhancers=enhancers,
        silencers=silencers,
        enhancers_per_gene=enhancers_per_gene,
        silencers_per_gene=silencers_per_gene,
        margin=margin,
        site_width=site_width,
        window=window,
        accessibility_noise=accessibility_noise,
        expression_noise=expression_noise,
        noisy_share=noisy_share,
        decoys_per_gene=decoys_per_gene,
    )
    with _options_named():
        store = simulate_chromosomes(
            out, preset_design(preset, **given), n_train=n_train, n_validation=n_validation, n_test=n_test, seed=seed,
            overwrite=overwrite,
        )  # fmt: skip
    print_result(_summary(store))


@app.command()
def cells(
    out: Out,
    raw: Annotated[
        Path | None, typer.Option(help="Folder for the same cells as .scool and tables, input of contacts and graphs.")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="Comma-separated names [default: E7.0 to E11.5, seven].")] = None,
    chromosomes: Annotated[int | None, typer.Option(help="Chromosomes [default: 3].")] = None,
    bins: Annotated[int | None, typer.Option(help="Bins per chromosome [default: 60].")] = None,
    bin_size: Annotated[int | None, typer.Option(help="bp of a bin [default: 1000000].")] = None,
    genes: Annotated[int | None, typer.Option(help="Genes [default: 24].")] = None,
    driven_share: Annotated[float | None, typer.Option(help="Share of genes with drivers [default: 0.5].")] = None,
    drivers_per_gene: Annotated[int | None, typer.Option(help="Driver bins of each driven gene [default: 2].")] = None,
    contacts: Annotated[float | None, typer.Option(help="Contacts of a cell, median [default: 20000].")] = None,
    rna_depth: Annotated[float | None, typer.Option(help="Mean count of a gene, median [default: 20].")] = None,
    depth_sd: Annotated[float | None, typer.Option(help="Spread of the log depth of cells [default: 0.3].")] = None,
    loop_fold: Annotated[
        float | None, typer.Option(help="Surplus of contacts in a loop of full strength, as a multiple [default: 10].")
    ] = None,
    effect: Annotated[
        float | None, typer.Option(help="Log fold change of expression by a loop of full strength [default: 1.5].")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Spread of a loop's strength among cells, as a share of its mean [default: 0.4]."),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Chance that a gene's counts are lost in a cell [default: 0.01].")
    ] = None,
    trans_share: Annotated[
        float | None, typer.Option(help="Share of contacts between chromosomes [default: 0.2].")
    ] = None,
    n_train: Annotated[int, typer.Option(help="Cells to train on.")] = 210,
    n_validation: Annotated[int, typer.Option(help="Cells to choose a model by.")] = 35,
    n_test: Annotated[int, typer.Option(help="Cells to judge it by.")] = 35,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Single cells of several stages: contacts, and expression that known contacts drive."""
    from enhancer_dask.simulate.cell_contacts import CellDesign
    from enhancer_dask.simulate.cell_shards import simulate_cells

    given = _given(
        chromosomes=chromosomes,
        bins=bins,
        bin_size=bin_size,
        genes=genes,
        driven_share=driven_share,
        drivers_per_gene=drivers_per_gene,
        contacts=contacts,
        rna_depth=rna_depth,
        depth_sd=depth_sd,
        loop_fold=loop_fold,
        effect=effect,
        noise=noise,
        dropout=dropout,
        trans_share=trans_share,
    )
    if stages is not None:
        given["stages"] = tuple(names_in(stages) or ())
    with _options_named():
        store = simulate_cells(
            out, CellDesign(**given), n_train=n_train, n_validation=n_validation, n_test=n_test, seed=seed, raw=raw,
            overwrite=overwrite,
        )  # fmt: skip
    print_result(_summary(store))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _options_named() -> Iterator[None]:
    """An error that begins with the name of an argument names the option instead."""
    try:
        yield
    except InputError as err:
        name, _, rest = str(err).partition(" ")
        if not name.replace("_", "").isalpha():
            raise
        raise InputError(f"--{name.replace('_', '-')} {rest}") from err


def _summary(store: Any) -> dict[str, Any]:
    index = store.index
    return {
        "shards": str(store.path),
        "n_shards": len(store.shards),
        "n_graphs": len(index),
        **{f"n_{split}": int((index["split"] == split).sum()) for split in ("train", "validation", "test")},
        "n_nodes": int(index["n_nodes"].sum()),
        "n_edges": int(index["n_edges"].sum()),
    }
