"""From trained models to predictions, and from predictions to figures of merit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enhancer_dask.cli.options import Tsv, print_result
from enhancer_dask.errors import InputError

Shards = Annotated[Path, typer.Argument(help="Folder of graph shards.")]
Split = Annotated[str | None, typer.Option(help="Only graphs with this split, for instance test [default: all].")]
Where = Annotated[
    str | None, typer.Option(help="Only graphs for which this holds of the index, for instance \"chrom == 'chr2'\".")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Graphs predicted together.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read; 0: this one.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, gpu, cuda or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a training.")],
    shards: Shards,
    out: Annotated[Path, typer.Option(help="Table (.parquet), or folder for predictions.parquet.")],
    split: Split = None,
    where: Where = None,
    bigwig: Annotated[
        Path | None, typer.Option(help="Write the prediction as a bigWig, and the target beside it as .target.bw.")
    ] = None,
    zarr: Annotated[
        Path | None, typer.Option(help="Write prediction and target as a Zarr store; also without positions.")
    ] = None,
    chromsizes: Annotated[
        Path | None,
        typer.Option(help="Chromosome sizes of the tracks [default: as far as the graphs reach]."),
    ] = None,
    batch_size: BatchSize = 1,
    workers: Workers = 0,
    accelerator: Accelerator = "auto",
    tsv: Tsv = False,
    overwrite: Overwrite = False,
) -> None:
    """Expression of every node by a trained model: a table, and tracks along the chromosomes."""
    from enhancer_dask.models.prediction_tracks import plan_tracks, write_prediction_tracks
    from enhancer_dask.models.predictions import predict

    plan = plan_tracks(shards, bigwig=bigwig, zarr=zarr, chromsizes=chromsizes, overwrite=overwrite)
    table = predict(
        run, shards, out, where=where, split=split, batch_size=batch_size, num_workers=workers,
        accelerator=accelerator, tsv=tsv, overwrite=overwrite,
    )  # fmt: skip
    print_result(
        {
            "predictions": str(out),
            "n_graphs": int(table["graph"].nunique()),
            "n_nodes": len(table),
            **write_prediction_tracks(plan, table),
        }
    )


def evaluate(
    shards: Shards,
    run: Annotated[
        list[str],
        typer.Option(metavar="NAME=RUN", help="Folder of a training, or a table of predictions; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    split: Split = None,
    where: Where = None,
    genes: Annotated[
        Path | None, typer.Option(help="GTF or table of genes [default: the nodes that the shards mark].")
    ] = None,
    sigma: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="Standard deviation of the Gaussian likelihood [default: the best one]."
        ),
    ] = None,
    expressed: Annotated[float, typer.Option(help="Least target of an expressed gene.")] = 5.0,
    allow_train: Annotated[
        bool, typer.Option("--allow-train", help="Do not mind graphs that a model has seen in training.")
    ] = False,
    batch_size: BatchSize = 1,
    workers: Workers = 0,
    accelerator: Accelerator = "auto",
    tsv: Tsv = False,
    overwrite: Overwrite = False,
) -> None:
    """Judge models on graphs that they have not seen: metrics, a table of genes, paired tests."""
    from enhancer_dask.models.evaluation import evaluate

    found = evaluate(
        shards, {name: Path(path) for name, path in _named(run, "--run").items()}, out, split=split, where=where,
        genes=genes, sigma=_numbers(sigma), expressed=expressed, allow_train=allow_train, batch_size=batch_size,
        num_workers=workers, accelerator=accelerator, tsv=tsv, overwrite=overwrite,
    )  # fmt: skip
    print_result({"evaluation": str(out), **found.summary()})


def _named(texts: list[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` of an option that may be repeated."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"{option} is {text!r}; want NAME=VALUE")
        if name in found:
            raise InputError(f"{option}: {name!r} is there twice")
        found[name] = value
    return found


def _numbers(texts: list[str] | None) -> dict[str, float] | None:
    if not texts:
        return None
    try:
        return {name: float(value) for name, value in _named(texts, "--sigma").items()}
    except ValueError as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f"--sigma: {err}; want NAME=NUMBER") from err
