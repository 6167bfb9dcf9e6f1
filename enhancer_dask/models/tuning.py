"""Search for hyper-parameters: a grid, or random draws, as trainings that a cluster shares."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.clusters import ClientSource
from enhancer_dask.errors import InputError
from enhancer_dask.models.options import TrainingOptions, key_and_value, training_options, value_of
from enhancer_dask.models.registry import spec
from enhancer_dask.models.trials import Trial, run_trials, trials_of


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``."""

    low: float
    high: float
    log: bool
    """Draws are uniform in the logarithm."""
    whole: bool
    """Only whole numbers, both ends included."""

    def draw(self, rng: np.random.Generator) -> float:
        """One of them."""
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        value = float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return round(value) if self.whole else value


Axis = list[Any] | Range


def axis_of(text: str) -> tuple[str, Axis]:
    """``NAME=A,B,C``, ``NAME=LOW:HIGH`` or ``NAME=log:LOW:HIGH``.

    Raises
    ------
    InputError
        If it is none of these.

    Examples
    --------
    >>> axis_of("width=16,32"), axis_of("lr=log:1e-4:1e-2")
    (('width', [16, 32]), ('lr', Range(low=0.0001, high=0.01, log=True, whole=False)))
    """
    name, values = key_and_value(text, "grid")
    if ":" not in values:
        try:
            return name, list(json.loads(f"[{values}]"))
        except ValueError:
            return name, [value_of(one.strip()) for one in values.split(",")]
    log = values.startswith("log:")
    ends = [value_of(end) for end in values.removeprefix("log:").split(":")]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(ends) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1] or (log and numbers[0] <= 0):
        raise InputError(f"grid is {text!r}; want NAME=A,B or NAME=LOW:HIGH or NAME=log:LOW:HIGH with LOW < HIGH")
    low, high = numbers
    return name, Range(low, high, log, whole=isinstance(low, int) and isinstance(high, int))


def points(axes: Mapping[str, Axis], random: int | None, seed: int = 0) -> list[dict[str, Any]]:
    """Every combination of the axes, or ``random`` draws from them.

    A draw depends on the seed and its number only: more of them leave the first as they are.

    Examples
    --------
    >>> points({"width": [16, 32], "lr": [0.1]}, None)
    [{'width': 16, 'lr': 0.1}, {'width': 32, 'lr': 0.1}]
    >>> points({"width": [16, 32]}, 2) == points({"width": [16, 32]}, 3)[:2]
    True
    """
    if random is None:
        lists: list[list[Any]] = []
        for name, axis in axes.items():
            if isinstance(axis, Range):
                raise InputError(f"grid {name!r} is a range; give its values, or a number of random draws")
            lists.append(axis)
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*lists)]
    if random < 1:
        raise InputError(f"random is {random}, want at least 1")
    found = []
    for i in range(random):
        rng = np.random.default_rng([seed, i])
        drawn = {n: a.draw(rng) if isinstance(a, Range) else a[int(rng.integers(len(a)))] for n, a in axes.items()}
        found.append(drawn)
    return found


def tune(
    shards: str | Path,
    model: str,
    out: str | Path,
    grid: Sequence[str],
    *,
    random: int | None = None,
    seeds: int = 1,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    client: ClientSource | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Train a model with many hyper-parameters.

    Parameters
    ----------
    shards, model
        See :func:`.train`.
    out : path
        Gets a folder per training, ``table.parquet`` and ``table.csv``.
    grid : sequence of str
        ``NAME=A,B,C``, and for random draws also ``NAME=LOW:HIGH`` or ``NAME=log:LOW:HIGH``; a name is an option of the
        model or of the training.
    random : int, optional
        So many random draws instead of all combinations; the seed of ``training`` fixes them.
    seeds : int
        Trainings of each.
    options, training, split : mapping, optional
        What all have in common.
    client, progress, overwrite
        See :func:`.run_trials`.

    Returns
    -------
    DataFrame
        One row per training, best validation loss first; see :func:`.run_trials`.

    Raises
    ------
    InputError
        If a name or value makes no sense.
    ResumeError
        If ``out`` holds a search with other parameters; names the first.
    """
    axes = _axes(model, grid)
    first = training_options(training or {}).seed
    trials = []
    for number, point in enumerate(points(axes, random, first), start=1):
        of_training = {name: value for name, value in point.items() if name in TrainingOptions.model_fields}
        of_model = {name: value for name, value in point.items() if name not in of_training}
        both = {**(options or {}), **of_model}, {**(training or {}), **of_training}
        for trial in trials_of(seeds=seeds, split=split, options=both[0], training=both[1]):
            name = f"trial-{number:04d}" + (f"-{trial.name}" if seeds > 1 else "")
            trials.append(Trial(name, {**point, **trial.labels}, trial.options, trial.training, trial.split))
    params = {
        "grid": list(grid), "random": random, "seeds": seeds, "options": dict(options or {}),
        "training": dict(training or {}), "split": dict(split or {}),
    }  # fmt: skip
    return run_trials(
        shards, model, out, trials, params, stage="tune", by_loss=True, client=client, progress=progress,
        overwrite=overwrite,
    )  # fmt: skip


def _axes(model: str, grid: Sequence[str]) -> dict[str, Axis]:
    known = {*spec(model).known_options(), *TrainingOptions.model_fields} - {"seed"}
    axes: dict[str, Axis] = {}
    for text in grid:
        name, axis = axis_of(text)
        if name not in known:
            raise InputError(
                f"grid: {name!r} is no option of model {model!r} or its training: {', '.join(sorted(known))}"
            )
        if name in axes:
            raise InputError(f"grid: {name!r} is there twice")
        axes[name] = axis
    if not axes:
        raise InputError("grid is empty; want NAME=A,B, for instance width=16,32")
    return axes
