"""From a trained model to scores of candidate enhancers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enhancer_dask.cli.options import names_in, print_result


def attribute(
    run: Annotated[Path, typer.Argument(help="Folder of a training.")],
    shards: Annotated[Path, typer.Argument(help="Graph shards.")],
    out: Annotated[Path, typer.Option(help="Folder to write: scores.parquet, auprc.csv, contributions.parquet.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="A,B,C",
            help="gradient-x-input, integrated-gradients, shap, deletion, abc (activity by contact).",
        ),
    ] = "gradient-x-input,integrated-gradients,abc",
    genes: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Genes: GRAPH:NODE, or names where they are known [default: all]."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only graphs of this split.")] = None,
    where: Annotated[str | None, typer.Option(help="Only graphs for which this holds, as \"chrom == 'chr1'\".")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many genes.")] = None,
    candidates: Annotated[
        str,
        typer.Option(
            help="edges (bins in contact with the gene), a number of bins (all so near), or a table of tested elements: gene, chrom, tss, start, end, or graph, gene, candidate; perhaps is_linked and effect."
        ),
    ] = "edges",
    reach: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Bins on both sides of a candidate, the finer ones where the model reads tracks in those; deletion takes the whole bins that they begin [default: 40 finer ones, else 1].",
        ),
    ] = None,
    positive: Annotated[
        bool, typer.Option("--positive", help="Score positive contributions only, as published: no silencers.")
    ] = False,
    baseline: Annotated[str, typer.Option(help="What stands for nothing: zero, or the median of the graph.")] = "zero",
    n_steps: Annotated[int, typer.Option(min=1, help="Points of integrated gradients.")] = 50,
    n_samples: Annotated[int, typer.Option(min=1, help="Samples of shap.")] = 200,
    deletion: Annotated[
        str, typer.Option(help="What deletion takes from a bin: features, edges or both.")
    ] = "features",
    activity: Annotated[
        str | None, typer.Option(metavar="A,B", help="Tracks of the activity of abc [default: all].")
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(
            help="Contact of abc: an edge weight, edge (1 for each), or power-law [default: the best that is there]."
        ),
    ] = None,
    min_elements: Annotated[
        int, typer.Option(min=1, help="Judge by genes with so many candidates (GraphReg: 10).")
    ] = 1,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Write the contributions of all bins, too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples of shap.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Which bins a trained model takes for the enhancers of each gene, and, where the truth is known, how well."""
    from enhancer_dask.models.explaining import explain, read_candidates
    from enhancer_dask.models.scoring import ScoreOptions

    options = ScoreOptions(
        methods=tuple(names_in(method) or ()), candidates=read_candidates(candidates), reach=reach,
        absolute=not positive, baseline=baseline, n_steps=n_steps, n_samples=n_samples, seed=seed, deletion=deletion,
        activity=None if activity is None else tuple(names_in(activity) or ()), contact=contact,
    )  # fmt: skip
    print_result(
        explain(
            run, shards, out, options, genes=names_in(genes), split=split, where=where, limit=limit,
            min_elements=min_elements, contributions=contributions, overwrite=overwrite,
        )
    )  # fmt: skip
