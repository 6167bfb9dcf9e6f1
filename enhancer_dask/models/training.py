"""Train a model on graph shards: the one entry for Python, the command line and tasks of a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enhancer_dask.errors import EnhancerDaskError, InputError, StoreError, first_line
from enhancer_dask.io.files import remove_at_once
from enhancer_dask.models.graph_data import GraphSet
from enhancer_dask.models.judging import error_totals, hardly_varies, loss_totals, mean_errors
from enhancer_dask.models.losses import mean_loss
from enhancer_dask.models.options import TrainingOptions as TrainingOptions
from enhancer_dask.models.plans import TrainingPlan, planned
from enhancer_dask.models.progress import History, shown
from enhancer_dask.models.quiet import alone, is_first_process, quiet, threads
from enhancer_dask.models.registry import Expression, n_parameters
from enhancer_dask.models.runs import BEST, LAST, METRICS, RESULT, Run, claim, describe, write_json, write_weights
from enhancer_dask.models.task import DivergedError as DivergedError
from enhancer_dask.models.task import GraphSets, TrainingTask, steps_at_once
from enhancer_dask.shard_store import ShardStore

try:
    import lightning as L
    import torch
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

Note = Callable[[str], None]
HARDLY = (
    "the predictions hardly vary over the test graphs: standard deviation {}, of the target {}; try another loss, "
    "fewer columns of x, or more epochs"
)


def train(
    shards: str | Path,
    model: str,
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    fold: int | None = None,
    genome: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    note: Note | None = None,
) -> Run:
    """Train a model on graph shards, or go on with a training that was interrupted.

    Parameters
    ----------
    shards : path
        Folder of :func:`enhancer_dask.graph_shards` or of a simulator.
    model : str
        A name of :mod:`enhancer_dask.models.registry`.
    out : path
        Folder of the run.
    options : mapping, optional
        Of the model's class; what the shards tell (``in_channels``, ``tracks``) need not be given.
    training : mapping, optional
        Fields of :class:`TrainingOptions` that shall differ from those the model is known with.
    train, validation, test : str, optional
        Conditions over the columns of the index, as pandas has them, for instance ``"chrom not in ['chr1', 'chr2']"``;
        by default the values of the column ``split``.
    fold : int, optional
        Run of the chromosome cross-validation instead: see :func:`.fold_of`.
    genome : {"human", "mouse"}, optional
        Whose chromosomes a fold means; by default told from their names.
    overwrite : bool
        Replace a run with other parameters.
    progress : bool
        Show a bar on standard error if it is a terminal.
    note : function of a text, optional
        Is told how many parameters and graphs there are, before the training, and after it if the predictions hardly
        vary, as those of a model that has learnt nothing.

    Returns
    -------
    Run
        Its ``result`` has ``best_epoch``, ``epochs``, ``val_loss``, ``train_s`` (seconds of training, over all calls),
        ``test_mse``, ``test_variance`` (of the target: what a constant could reach), ``test_prediction_variance``,
        ``roi_mse`` and ``roi_window_mse`` (near genes, see :func:`.mean_errors`; null where genes are not known, as all
        that hang on the target where a test target is NaN), ``n_parameters``.
        ``run.model()`` is the model with its best weights.

    Raises
    ------
    InputError
        If a name, option or condition is wrong, a chromosome is in two of the sets, or of this run and its base, or
        the loss is never finite.
    ResumeError
        If ``out`` holds a run with other parameters; names the first.
    StoreError
        If the shards are damaged, or the checkpoint to go on from is.

    Notes
    -----
    The weights are those of the epoch with the least validation loss. A run that is killed goes on from its last
    checkpoint, at most half a minute and one round (``check_every`` epochs) back, and ends with the same bits on the
    CPU. They depend on the seed, and on ``num_workers`` only where graphs are streamed, since each worker shuffles
    its own; a training leaves torch's random numbers as they were.

    Examples
    --------
    >>> run = train("chromosomes", "gcn", "runs/gcn", training={"epochs": 50})  # doctest: +SKIP
    >>> run.result["test_mse"]  # doctest: +SKIP
    0.17
    """
    plan = planned(
        ShardStore(Path(shards)), model, options=options, training=training, train=train, validation=validation,
        test=test, fold=fold, genome=genome,
    )  # fmt: skip
    hyper = plan.hyper
    with alone(hyper.seed), threads(hyper.threads):
        built = plan.build()
        description = describe(
            plan.store, model=model, options=plan.options, training=hyper.model_dump(), splits=asdict(plan.split),
            parameters=n_parameters(built),
        )  # fmt: skip
        run = claim(Path(out).absolute(), description, overwrite=overwrite)
        if run.is_finished:
            _tell(run, note)
            return run
        sets = plan.sets()
        if note is not None and is_first_process():
            sizes = ", ".join(f"{len(one):,} {_graphs(one)} for {name}" for name, one in sets.by_name.items())
            note(f"{model}: {run.description['parameters']:,} parameters; {sizes}")
        with _usable(run, plan):
            if built.closed_form:
                _fit_at_once(built, hyper, sets, run)
            else:
                _fit_in_steps(built, hyper, sets, run, model, progress)
    _tell(run, note)
    return run


def _tell(run: Run, note: Note | None) -> None:
    if note is None or not is_first_process() or not hardly_varies(run.result):
        return
    sizes = (f"{run.result[name] ** 0.5:.3g}" for name in ("test_prediction_variance", "test_variance"))
    note(HARDLY.format(*sizes))


def _graphs(graphs: GraphSet) -> str:
    return "graph" if len(graphs) == 1 else "graphs"


@contextmanager
def _usable(run: Run, plan: TrainingPlan) -> Iterator[None]:
    """What a model cannot learn from is an error of the user's, and leaves no folder behind."""
    try:
        try:
            yield
        except torch.OutOfMemoryError as err:
            what = "memory is too small; want a smaller batch_size or model"
            raise InputError(f"{run.path}: {what} ({first_line(err)})") from err
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as err:  # whatever torch makes of it
            if isinstance(err, EnhancerDaskError):
                raise
            raise InputError(
                f"{plan.store.path}: model {plan.model!r} cannot be trained on these graphs ({first_line(err)}); its "
                f"options: {plan.listed}"
            ) from err
    except InputError:
        if is_first_process() and not (run.path / LAST).exists():  # nothing that another call could go on from
            remove_at_once(run.path)
        raise


def _fit_at_once(model: Expression, hyper: TrainingOptions, sets: GraphSets, run: Run) -> None:
    """A model with a closed form: one pass over the graphs."""
    begin = time.perf_counter()
    try:
        model.fit(sets.train.batches(hyper.batch_size, shuffle=False))  # type: ignore[attr-defined, operator]
    except InputError as err:
        raise InputError(sets.train.not_finite() or str(err)) from err
    seconds = time.perf_counter() - begin
    loss, least = mean_loss(hyper.loss, delta=hyper.delta), hyper.batch_size
    losses = {}
    for name, graphs in (("train", sets.train), ("val", sets.validation)):
        *total, n = loss_totals(model, graphs.batches(graphs.large_batch(least), shuffle=False), loss).tolist()
        if not n:
            raise InputError(graphs.nothing_counts())
        losses[name] = total[int(model.chosen)] / n
        if not math.isfinite(losses[name]):
            why = graphs.not_finite() or f"the loss of model {run.description['model']!r} is not finite"
            raise InputError(f"{run.path}: no weights are usable; {why}")
    history = History(epoch=1, step=1, seconds=seconds)
    history.note([losses["val"]], losses["train"], 0.0, None)
    write_weights(run.path / BEST, model.state_dict(), 1)
    write_weights(run.path / LAST, model.state_dict(), 1)
    history.write(run.path / METRICS)
    totals = error_totals(model, sets.test.batches(sets.test.large_batch(least), shuffle=False))
    _conclude(run, history, mean_errors(totals))


def _fit_in_steps(
    model: Expression, hyper: TrainingOptions, sets: GraphSets, run: Run, name: str, progress: bool
) -> None:
    """Lightning's loop, from the last checkpoint if there is one."""
    with shown(name, hyper.epochs, progress) as say, quiet():
        task = TrainingTask(model, hyper, sets, run.path, say=say)
        if (run.path / LAST).exists():
            task.resume(_read(run.path / LAST))
        else:
            task.calibrate()
        trainer = _trainer(hyper, task.n_rounds, run.path)
        if task.n_rounds:
            trainer.fit(task)
        else:  # ended, but killed before the result was written: judged here as there
            task.take_best()
            device, context = trainer.strategy.root_device, trainer.precision_plugin.val_step_context
            batches = sets.test.batches(sets.test.large_batch(hyper.batch_size), shuffle=False)
            task.errors = error_totals(model.to(device), batches, device=device, context=context)
    if trainer.is_global_zero and task.errors is not None:
        _conclude(run, task.history, mean_errors(task.errors))


def _conclude(run: Run, history: History, errors: Mapping[str, float | None]) -> None:
    """The last file: with it the run is finished. An error of test graphs with NaN is not known."""
    result = {
        "best_epoch": history.best_epoch,
        "epochs": history.epoch,
        "val_loss": history.best_loss,
        **{name: one if one is not None and math.isfinite(one) else None for name, one in errors.items()},
        "train_s": round(history.seconds, 3),
        "n_parameters": run.description["parameters"],
    }
    write_json(run.path / RESULT, result)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as err:  # torch raises whatever a damaged file makes it raise
        raise StoreError(f"{file}: damaged ({first_line(err)}); delete it to begin anew") from err


def _trainer(hyper: TrainingOptions, n_rounds: int, out: Path) -> Any:
    try:
        trainer = L.Trainer(
            accelerator=hyper.accelerator, devices=hyper.devices, strategy=hyper.strategy, precision=hyper.precision,
            max_epochs=n_rounds, default_root_dir=out,
            gradient_clip_val=None if steps_at_once(hyper) else hyper.gradient_clip,
            plugins=[LightningEnvironment()],  # also inside a job of SLURM: its processes are started here
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
        )  # fmt: skip
    except (MisconfigurationException, ValueError, RuntimeError) as err:
        where = f"accelerator {hyper.accelerator}, devices {hyper.devices}, precision {hyper.precision}"
        raise InputError(f"training: {where}: {' '.join(str(err).split())}") from err
    if hyper.precision == "16-mixed" and trainer.precision != "16-mixed":  # Lightning takes bf16 where there is no fp16
        raise InputError("training: precision is '16-mixed', which the CPU does not have; want 'bf16-mixed' or '32'")
    return trainer
