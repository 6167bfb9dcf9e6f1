"""From contacts to graph shards."""

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
    warn,
)


def graphs(
    store: Annotated[Path, typer.Argument(help="Contact store.")],
    out: Annotated[Path, typer.Option(help="Folder of graph shards to write.")],
    resolution: Annotated[int | None, typer.Option(help="Size of the bins, bp [default: the only one there].")] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Contacts that are edges: conditions on count, balanced, oe, fdr, distance (bp) and top, joined by "
            "'and' [default: oe>1, of single cells count>0]."
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            help="ice, kr, vc, vc_sqrt, none, or file:NAME for a vector of the contact file [default: ice, of single cells none]."
        ),
    ] = None,
    min_distance: Annotated[int, typer.Option(min=0, help="Least distance of an edge, in bins.")] = 1,
    chromosomes: Annotated[str | None, typer.Option(metavar="A,B,C", help="Chromosomes [default: all].")] = None,
    inter: Annotated[
        bool, typer.Option("--inter", help="Also contacts between the chromosomes: one graph of them all.")
    ] = False,
    nodes: Annotated[
        str,
        typer.Option(
            help="bins, or genes (of --genes or --expression), linked where the bins are in which they start."
        ),
    ] = "bins",
    edge_weight: Annotated[
        list[str] | None,
        typer.Option(
            help="Weight kept with the edges: binary, count, log_count, oe, balanced, minus_log10_fdr; may be repeated [default: log_count and oe, of single cells log_count]."
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Cut chromosomes into windows of so many bp (Epi-GraphReg: 6000000).")
    ] = None,
    step: Annotated[int | None, typer.Option(help="A window every so many bp (Epi-GraphReg: 2000000).")] = None,
    only_with_genes: Annotated[
        bool, typer.Option("--only-with-genes", help="Leave out windows in whose middle no gene starts.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=BIGWIG[,mean|sum|max][,log2][,100bp]",
            help="Feature from a bigWig, per bin or in smaller bins; may be repeated.",
        ),
    ] = None,
    fasta: Annotated[Path | None, typer.Option(help="Reference sequence of the bins, as codes.")] = None,
    multiome: Annotated[str | None, typer.Option(help="Multiome store: accessibility of the bins.")] = None,
    celltype: Annotated[str | None, typer.Option(help="Cell type of the multiome store.")] = None,
    cage: Annotated[Path | None, typer.Option(help="bigWig whose sums are the target.")] = None,
    genes: Annotated[Path | None, typer.Option(help="Table or GTF of genes: marks the bins where they start.")] = None,
    expression: Annotated[
        str | None,
        typer.Option(
            help="Target: table of genes with chrom, start, end and values; of single cells a table with a column cell and one per gene, or a multiome store."
        ),
    ] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard, at most.")] = 32,
    profile: Profile = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Graphs of contacts with features and targets of their nodes, as shards for training. Running it again finishes what is missing."""
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.graphs.build import graph_shards, summary

    shards = graph_shards(
        store, out, resolution=resolution, rule=rule, balance=balance, min_distance=min_distance,
        chromosomes=None if chromosomes is None else chromosomes.split(","), inter=inter, nodes=nodes,
        edge_weights=edge_weight or None, window=window, step=step, only_with_genes=only_with_genes,
        tracks=track or (), fasta=fasta, multiome=multiome, celltype=celltype, cage=cage,
        genes=genes, expression=expression, shard_mb=shard_mb, client=client, progress=progress,
        overwrite=overwrite, warn=warn,
    )  # fmt: skip
    print_result({"graphs": str(out), **summary(shards)})
