"""Train graph models, and search for their hyper-parameters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enhancer_dask.cli.options import (
    Adapt,
    ClusterFile,
    Overwrite,
    ShowProgress,
    cluster_source,
    print_result,
    say,
)
from enhancer_dask.errors import InputError

if TYPE_CHECKING:
    from enhancer_dask.clusters.profiles import SlurmProfile


def _list_models(wanted: bool) -> None:
    if wanted:
        from enhancer_dask.models.registry import SPECS

        for name, spec in SPECS.items():
            typer.echo(f"{name:<20} {spec.summary}")
        raise typer.Exit


Shards = Annotated[Path, typer.Argument(help="Folder of graph shards.")]
Model = Annotated[str, typer.Option(help="Name of the model, see --list-models.")]
ListModels = Annotated[
    bool, typer.Option("--list-models", callback=_list_models, is_eager=True, help="Print the models and end.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the model, JSON or YAML; may be repeated."),
]
Depth = Annotated[int | None, typer.Option(help="Layers [default: as the model].")]
Width = Annotated[int | None, typer.Option(help="Channels [default: as the model].")]
Heads = Annotated[int | None, typer.Option(help="Heads of attention [default: as the model].")]
Dropout = Annotated[float | None, typer.Option(help="Share of dropped channels [default: as the model].")]
Norm = Annotated[str | None, typer.Option(help="Normalisation [default: as the model].")]
EdgeWeight = Annotated[
    str | None, typer.Option(help="Weight of the edges, by its name in the shards; none: binary edges.")
]
Columns = Annotated[
    str | None,
    typer.Option("--x", metavar="A,B", help="Columns of x that the model reads, by their names [default: all]."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the graphs at most [default: as the model].")]
Rate = Annotated[float | None, typer.Option(help="Learning rate [default: as the model].")]
Loss = Annotated[str | None, typer.Option(help="mse, poisson or huber [default: as the model].")]
Delta = Annotated[float | None, typer.Option(help="Error from which huber is linear [default: as the model].")]
BatchSize = Annotated[int | None, typer.Option(help="Graphs of a step, per process [default: as the model].")]
Patience = Annotated[
    int | None, typer.Option(help="Epochs without a better validation before it stops [default: as the model].")
]
CheckEvery = Annotated[int | None, typer.Option(help="Epochs from one validation to the next [default: as the model].")]
WeightDecay = Annotated[float | None, typer.Option(help="L2 penalty [default: as the model].")]
Clip = Annotated[float | None, typer.Option(help="Largest norm of the gradient [default: as the model].")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order and dropout [default: 0].")]
Precision = Annotated[str | None, typer.Option(help="32, 16-mixed or bf16-mixed [default: 32].")]
Accelerator = Annotated[str | None, typer.Option(help="auto, cpu, gpu or mps [default: auto].")]
InMemory = Annotated[
    bool | None, typer.Option("--in-memory/--stream", help="Keep all graphs in memory [default: below 1 GB].")
]
Train = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="Graphs to train on, a condition over the columns of the index.")
]
Validation = Annotated[str | None, typer.Option(metavar="CONDITION", help="Graphs to choose the best epoch by.")]
Test = Annotated[str | None, typer.Option(metavar="CONDITION", help="Graphs to judge by.")]
Genome = Annotated[str | None, typer.Option(help="human or mouse, for --fold [default: by the names].")]
Profile = Annotated[str | None, typer.Option(help="Profile of cluster.yaml: where the trainings run [default: here].")]


def train(
    shards: Shards,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the run, or of several.")],
    option: Options = None,
    depth: Depth = None,
    width: Width = None,
    heads: Heads = None,
    dropout: Dropout = None,
    norm: Norm = None,
    edge_weight: EdgeWeight = None,
    x: Columns = None,
    epochs: Epochs = None,
    lr: Rate = None,
    loss: Loss = None,
    delta: Delta = None,
    batch_size: BatchSize = None,
    patience: Patience = None,
    check_every: CheckEvery = None,
    weight_decay: WeightDecay = None,
    gradient_clip: Clip = None,
    seed: Seed = None,
    precision: Precision = None,
    accelerator: Accelerator = None,
    devices: Annotated[str | None, typer.Option(help="Processes, one per GPU; auto: all GPUs [default: 1].")] = None,
    strategy: Annotated[str | None, typer.Option(help="How they work together, as ddp [default: auto].")] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Processes that read graphs where they are streamed [default: 0].")
    ] = None,
    in_memory: InMemory = None,
    train: Train = None,
    validation: Validation = None,
    test: Test = None,
    fold: Annotated[
        str | None, typer.Option(metavar="K|all", help="Run 1 to 10 of the chromosome cross-validation, or all ten.")
    ] = None,
    genome: Genome = None,
    seeds: Annotated[int, typer.Option(help="Trainings that differ by their seed.")] = 1,
    profile: Profile = None,
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print a job script of SLURM for this training, by --profile, and end.")
    ] = False,
    list_models: ListModels = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on graph shards. Running it again goes on where it was interrupted."""
    whole = _whole(fold)
    options = _options(
        option, depth=depth, width=width, heads=heads, dropout=dropout, norm=norm, edge_weight=edge_weight, columns=x
    )  # fmt: skip
    training = _given(
        epochs=epochs, lr=lr, loss=loss, delta=delta, batch_size=batch_size, patience=patience, check_every=check_every,
        weight_decay=weight_decay, gradient_clip=gradient_clip, seed=seed, precision=precision,
        accelerator=accelerator, devices=_count(devices), strategy=strategy, num_workers=num_workers,
        in_memory=in_memory,
    )  # fmt: skip
    split = _given(train=train, validation=validation, test=test, genome=genome, fold=None if whole else _number(fold))
    many = whole or seeds != 1
    if script:
        name = profile or "slurm-gpu"
        settings = _slurm(name, cluster)
        added = _added(settings, training, many=many)
        _check(shards, model, options, training | added, split, whole=whole, seeds=seeds)
        print(_script(settings, name, training, added), end="")
        return
    client = None if profile is None and not many else cluster_source(profile or "local", cluster, adapt)
    if client is not None:
        from enhancer_dask.models.trials import run_trials, trials_of

        trials = trials_of(folds=whole, seeds=seeds, options=options, training=training, split=split)
        params = {"folds": whole, "seeds": seeds, "options": options, "training": training, "split": split}
        table = run_trials(
            shards, model, out, trials, params, client=client, progress=progress, overwrite=overwrite
        )  # fmt: skip
        print_result(_summary(out, table))
        return
    from enhancer_dask.models.quiet import is_first_process
    from enhancer_dask.models.training import train as fit

    run = fit(
        shards, model, out, options=options, training=training, overwrite=overwrite, progress=progress, note=say, **split
    )  # fmt: skip
    if is_first_process():
        print_result({"run": str(out), **run.result})


def tune(
    shards: Shards,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the table and the runs.")],
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=A,B",
            help="Values of an option; with --random also LOW:HIGH or log:LOW:HIGH; may be repeated.",
        ),
    ],
    random: Annotated[int | None, typer.Option(help="So many random draws [default: all combinations].")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each combination.")] = 1,
    option: Options = None,
    depth: Depth = None,
    width: Width = None,
    heads: Heads = None,
    dropout: Dropout = None,
    norm: Norm = None,
    edge_weight: EdgeWeight = None,
    x: Columns = None,
    epochs: Epochs = None,
    lr: Rate = None,
    loss: Loss = None,
    delta: Delta = None,
    batch_size: BatchSize = None,
    patience: Patience = None,
    check_every: CheckEvery = None,
    weight_decay: WeightDecay = None,
    gradient_clip: Clip = None,
    seed: Seed = None,
    precision: Precision = None,
    accelerator: Accelerator = None,
    in_memory: InMemory = None,
    train: Train = None,
    validation: Validation = None,
    test: Test = None,
    fold: Annotated[int | None, typer.Option(help="Run 1 to 10 of the chromosome cross-validation.")] = None,
    genome: Genome = None,
    profile: Annotated[str, typer.Option(help="Profile of cluster.yaml: where the trainings run.")] = "local",
    cluster: ClusterFile = None,
    adapt: Adapt = None,
    list_models: ListModels = False,
    progress: ShowProgress = True,
    overwrite: Overwrite = False,
) -> None:
    """Train a model with many hyper-parameters and write a table, best validation first. Running it again finishes what is missing."""
    client = cluster_source(profile, cluster, adapt)
    from enhancer_dask.models.tuning import tune as search

    options = _options(
        option, depth=depth, width=width, heads=heads, dropout=dropout, norm=norm, edge_weight=edge_weight, columns=x
    )  # fmt: skip
    training = _given(
        epochs=epochs, lr=lr, loss=loss, delta=delta, batch_size=batch_size, patience=patience, check_every=check_every,
        weight_decay=weight_decay, gradient_clip=gradient_clip, seed=seed, precision=precision,
        accelerator=accelerator, in_memory=in_memory,
    )  # fmt: skip
    split = _given(train=train, validation=validation, test=test, genome=genome, fold=fold)
    table = search(
        shards, model, out, grid, random=random, seeds=seeds, options=options, training=training, split=split,
        client=client, progress=progress, overwrite=overwrite,
    )  # fmt: skip
    print_result(_summary(out, table))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _options(pairs: Sequence[str] | None, **named: Any) -> dict[str, Any]:
    """Options of the model: the named ones, then ``--option``."""
    from enhancer_dask.models.options import key_and_value, value_of

    found = _given(**named)
    for pair in pairs or ():
        key, value = key_and_value(pair, "--option")
        found[key] = value_of(value)
    return found


def _whole(fold: str | None) -> bool:
    return fold == "all"


def _number(fold: str | None) -> int | None:
    if fold is None:
        return None
    if not fold.isdigit():
        raise InputError(f"--fold is {fold!r}; want 1 to 10, or all")
    return int(fold)


def _count(devices: str | None) -> int | str | None:
    if devices is None or devices == "auto":
        return devices
    if not devices.isdigit():
        raise InputError(f"--devices is {devices!r}; want a number, or auto")
    return int(devices)


def _summary(out: Path, table: Any) -> dict[str, Any]:
    """Of many trainings, for programs."""

    def known(value: float) -> float | None:
        return float(value) if isfinite(value) else None

    from enhancer_dask.models.judging import hardly_varies

    constant = [run for run, row in zip(table["run"], table.to_dict("records"), strict=True) if hardly_varies(row)]
    if constant:
        say(
            f"predictions hardly vary over the test graphs in {len(constant)} of {len(table)} runs: {', '.join(constant)}"
        )
    losses = table["val_loss"].fillna(inf)
    return {
        "table": str(out / "table.parquet"),
        "n_runs": len(table),
        "test_mse": known(table["test_mse"].mean()),
        "roi_mse": known(table["roi_mse"].mean()),
        "best_run": str(out / table["run"][losses.idxmin()]),
        "best_val_loss": known(losses.min()),
    }


def _slurm(profile: str, cluster: Path | None) -> SlurmProfile:
    from enhancer_dask.clusters import read_profile
    from enhancer_dask.clusters.profiles import SlurmProfile

    settings = read_profile(profile, cluster)
    if not isinstance(settings, SlurmProfile):
        raise InputError(f"profile {profile!r} is of kind {settings.kind}; --script wants one of kind slurm")
    return settings


def _added(settings: SlurmProfile, training: Mapping[str, Any], *, many: bool) -> dict[str, Any]:
    """What makes a training use the GPUs of its job, unless it says otherwise; each of many has one process."""
    if not settings.gpus or {"accelerator", "devices"} & training.keys():
        return {}
    several = {"devices": settings.gpus, "strategy": "ddp"} if settings.gpus > 1 and not many else {}
    return {name: value for name, value in {"accelerator": "gpu", **several}.items() if name not in training}


def _check(
    shards: Path, model: str, options: dict[str, Any], training: dict[str, Any], split: dict[str, Any], *,
    whole: bool, seeds: int,
) -> None:  # fmt: skip
    """Refuse now what the job would refuse hours later."""
    from enhancer_dask.models.plans import planned
    from enhancer_dask.models.trials import check_trial, trials_of
    from enhancer_dask.shard_store import ShardStore

    store = ShardStore(shards)
    if not whole and seeds == 1:
        planned(store, model, options=options, training=training, **split).check()
        return
    for trial in trials_of(folds=whole, seeds=seeds, options=options, training=training, split=split):
        check_trial(store, model, trial)


def _script(settings: SlurmProfile, profile: str, training: Mapping[str, Any], added: Mapping[str, Any]) -> str:
    """The job script for the command as it was typed, and what is added to it."""
    from enhancer_dask.clusters.batch import batch_script

    command = without_options(sys.argv[1:], flags=("--script",), valued=("--profile", "--cluster", "--adapt"))
    command += [word for name, value in added.items() for word in (f"--{name}", str(value))]
    on_gpus = settings.gpus > 0 and training.get("accelerator") != "cpu"
    processes = {**training, **added}.get("devices", 1)
    if processes == "auto":
        processes = settings.gpus if on_gpus else 1
    if on_gpus and processes > settings.gpus:
        raise InputError(f"--devices is {processes}, but a job of profile {profile!r} has {settings.gpus} (key 'gpus')")
    return batch_script(settings, command, processes=processes)


def without_options(words: Sequence[str], *, flags: Sequence[str] = (), valued: Sequence[str] = ()) -> list[str]:
    """A command line without some options.

    Examples
    --------
    >>> without_options(["train", "--script", "--profile", "gpu", "a", "--adapt=0:2"], flags=["--script"],
    ...                 valued=["--profile", "--adapt"])
    ['train', 'a']
    """
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in valued:
            skip = True
        elif word not in flags and word.split("=")[0] not in valued:
            kept.append(word)
    return kept
