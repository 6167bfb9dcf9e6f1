"""Many trainings as Dask tasks: each in its own run folder, and a table of how they went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError
from enhancer_dask.io.files import remove_at_once, staged
from enhancer_dask.io.tables import check_params, read_meta, read_table, write_parquet
from enhancer_dask.models.crossing import N_FOLDS
from enhancer_dask.models.options import training_options
from enhancer_dask.models.plans import TrainingPlan, planned
from enhancer_dask.models.runs import Run, shards_hash, with_base
from enhancer_dask.models.training import DivergedError, train
from enhancer_dask.shard_store import ShardStore

TABLE = "table.parquet"
RESULTS = (
    "parameters", "val_loss", "test_mse", "test_variance", "test_prediction_variance", "roi_mse", "roi_window_mse",
    "best_epoch", "epochs", "train_s",
)  # fmt: skip
NAMES = {"epochs": "epochs_done"}  # in the table: ``epochs`` may be searched, and is not what was done


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of many."""

    name: str
    """Of its folder."""
    labels: Mapping[str, Any]
    """Its first columns in the table."""
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    """``train``, ``validation``, ``test``, ``fold``, ``genome`` of :func:`.train`."""


def trials_of(
    *,
    folds: bool = False,
    seeds: int = 1,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
) -> list[Trial]:
    """The ten runs of a cross-validation, or one with the conditions of ``split``, each with several seeds.

    Seeds count from that of ``training``.

    Examples
    --------
    >>> [trial.name for trial in trials_of(folds=True, seeds=2)][:3]
    ['fold-01-seed-0', 'fold-01-seed-1', 'fold-02-seed-0']
    """
    if seeds < 1:
        raise InputError(f"seeds is {seeds}, want at least 1")
    first = training_options(training or {}).seed
    found = []
    for fold in range(1, N_FOLDS + 1) if folds else [0]:
        for seed in range(first, first + seeds):
            of_fold = {"fold": fold} if fold else {}
            names = [f"fold-{fold:02d}"] * bool(fold) + [f"seed-{seed}"] * (not fold or seeds > 1)
            labels, where = {**of_fold, "seed": seed}, {**(split or {}), **of_fold}
            found.append(Trial("-".join(names), labels, options or {}, {**(training or {}), "seed": seed}, where))
    return found


def run_trials(
    shards: str | Path,
    model: str,
    out: str | Path,
    trials: Sequence[Trial],
    params: Mapping[str, Any],
    *,
    stage: str = "train",
    by_loss: bool = False,
    client: ClientSource | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Train all of them; those that are finished are not trained again.

    Parameters
    ----------
    shards, model
        See :func:`.train`.
    out : path
        Gets a folder per trial, ``table.parquet`` and ``table.csv``.
    trials : sequence of Trial
    params : mapping
        What makes the trials, as JSON values.
    stage : str
        Shown with the progress.
    by_loss : bool
        Sort the table by ``val_loss``, trainings that diverged last; else as the trials are.
    client : distributed.Client or function, optional
        Where they run; by default one after the other in this process.
    progress : bool
    overwrite : bool
        Replace runs and a table that were made with other parameters.

    Returns
    -------
    DataFrame
        One row per trial: its labels, ``parameters``, ``val_loss``, ``test_mse``, ``test_variance``,
        ``test_prediction_variance``, ``roi_mse``, ``roi_window_mse``, ``best_epoch``, ``epochs_done``, ``train_s``,
        ``run``. NaN where a training diverged.

    Raises
    ------
    InputError
        If an option is wrong, or a trial wants several processes: a task has one.
    ResumeError
        If ``out`` holds trials with other parameters; names the first.
    ChunkError
        If some trainings failed; the others are kept.
    """
    store, out = ShardStore(Path(shards).absolute()), Path(out).absolute()  # workers may have another folder
    trials = [replace(trial, options=with_base(trial.options, trial.split.get("fold"))) for trial in trials]
    for trial in trials:
        check_trial(store, model, trial)
    asked = json.loads(json.dumps({"stage": stage, "model": model, "shards": shards_hash(store), **params}))
    work = chunks.Work(
        stage, train_chunk,
        lambda i: (store.path, model, out, trials[i], overwrite),
        len(trials), asked, {}, out.with_name(f"{out.name}.parts"),
        nbytes=lambda arguments: 3 * _planned(store, model, arguments[3]).sets().kept_bytes,
    )  # fmt: skip
    table = out / TABLE
    if overwrite:
        chunks.discard(work, table)
    if table.exists():
        check_params(out, read_meta(table).get("params", {}), asked)
        return read_table(table)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, want the name of a folder")
    if (out / "run.json").exists():
        raise InputError(f"{out}: is the folder of one training; choose another for many")
    with client_or_threads(client) as running:
        chunks.run(work, running, progress=progress)
    rows = pd.concat([part.to_pandas() for part in chunks.tables(work)], ignore_index=True)
    if by_loss:
        rows = rows.sort_values("val_loss", kind="stable", ignore_index=True)
    rows = _of_one_kind(rows)
    with staged(out / "table.csv") as file:
        rows.to_csv(file, index=False)
    write_parquet(rows, table, meta={"params": asked})
    remove_at_once(work.folder)
    return rows


def check_trial(store: ShardStore, model: str, trial: Trial) -> None:
    """Refuse what can be seen to fail before any training.

    Raises
    ------
    InputError
    """
    plan = _planned(store, model, trial)
    for name, want in (("devices", 1), ("num_workers", 0)):
        if getattr(plan.hyper, name) != want:
            raise InputError(f"training: key {name!r}: want {want} where trainings are tasks of a cluster")
    plan.check()


def _planned(store: ShardStore, model: str, trial: Trial) -> TrainingPlan:
    return planned(store, model, options=trial.options, training=trial.training, **trial.split)


def train_chunk(shards: Path, model: str, out: Path, trial: Trial, overwrite: bool) -> pd.DataFrame:
    """One training; a row of the table."""
    try:
        run = train(
            shards, model, out / trial.name, options=trial.options, training=trial.training, overwrite=overwrite,
            progress=False, **trial.split,
        )  # fmt: skip
        found = {**run.result, "parameters": run.description["parameters"]}
    except DivergedError:
        found = {"parameters": Run(out / trial.name).description["parameters"]}
    numbers = {NAMES.get(n, n): float("nan") if found.get(n) is None else found[n] for n in RESULTS}
    labels = {n: json.dumps(v) if isinstance(v, list | dict) else v for n, v in trial.labels.items()}
    return pd.DataFrame([{**labels, **numbers, "run": trial.name}])


def _of_one_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold numbers in some rows and texts in others as texts, so that Parquet takes them."""
    out = rows.copy()
    for name in out.columns:
        if out[name].dtype == object and len({type(value) for value in out[name] if value is not None}) > 1:
            out[name] = out[name].map(lambda value: None if value is None else str(value))
    return out
