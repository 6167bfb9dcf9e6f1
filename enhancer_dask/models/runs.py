"""The folder of one training: what was trained on what, its weights, and how it went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask._version import __version__
from enhancer_dask.errors import InputError, ResumeError, StoreError, first_line
from enhancer_dask.io.files import check_free, remove_at_once, staged
from enhancer_dask.io.tables import check_params, read_table
from enhancer_dask.models.registry import Expression, build
from enhancer_dask.shard_store import DESCRIPTION as SHARDS
from enhancer_dask.shard_store import INDEX, ShardStore
from enhancer_dask.stores import check_schema

try:
    import torch
    from torch import Tensor
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

SCHEMA = "enhancer-dask training run"
SCHEMA_VERSION = 2
DESCRIPTION, RESULT, METRICS, TENSORBOARD = "run.json", "result.json", "metrics.csv", "tensorboard"
BEST, LAST = Path("checkpoints") / "best.ckpt", Path("checkpoints") / "last.ckpt"
PREFIX = "model."  # of the weights of the model among those of the Lightning module
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """Read-only access to the folder of a training."""

    path: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        """Content of ``run.json``, checked."""
        file = Path(self.path) / DESCRIPTION
        if not file.exists():
            raise StoreError(f"{self.path}: no training run here ({DESCRIPTION} is missing)")
        description = _read_json(file)
        check_schema(description, file, SCHEMA, SCHEMA_VERSION, "train again")
        return description

    @cached_property
    def result(self) -> dict[str, Any]:
        """Content of ``result.json``: there once the training has ended."""
        file = Path(self.path) / RESULT
        if not file.exists():
            raise StoreError(f"{self.path}: the training has not ended ({RESULT} is missing); run it again to go on")
        return _read_json(file)

    @property
    def is_finished(self) -> bool:
        """Whether the training has ended."""
        return (Path(self.path) / RESULT).exists()

    @property
    def metrics(self) -> pd.DataFrame:
        """The course of the training, one row per validation: epoch, step, train_loss, val_loss, lr."""
        return read_table(Path(self.path) / METRICS, required=("epoch", "val_loss"))

    def model(self, checkpoint: Path = BEST) -> Expression:
        """The model with its best weights, in evaluation mode on the CPU.

        Raises
        ------
        StoreError
            If the weights are missing or not of this model.
        """
        file = Path(self.path) / checkpoint
        if not file.exists():
            raise StoreError(f"{file}: no weights there yet; run the training again to go on")
        model = build(self.description["model"], **self.description["options"])
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            model.load_state_dict({n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)})
        except Exception as err:  # torch raises whatever a damaged file makes it raise
            raise StoreError(f"{file}: not the weights of this model ({first_line(err)})") from err
        return model.eval()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError, OSError) as err:
        raise StoreError(f"{file}: damaged ({first_line(err)})") from err


def load_model(run: str | Path) -> Expression:
    """The model of a run folder with its best weights, in evaluation mode."""
    return Run(Path(run)).model()


def describe(
    store: ShardStore, *, model: str, options: Mapping[str, Any], training: Mapping[str, Any],
    splits: Mapping[str, str], parameters: int,
) -> dict[str, Any]:  # fmt: skip
    """Content of ``run.json``: everything that the weights depend on, as JSON values.

    The shards are known by their content: ``shards`` is where they were, ``shards_hash`` what they are.
    """
    description = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "software": __version__,
        "model": model,
        "options": {**options, "base": lineage(options["base"])} if options.get("base") else dict(options),
        "training": dict(training),
        "shards": str(store.path),
        "x": store.params.get("x"),
        "shards_hash": shards_hash(store),
        "splits": dict(splits),
        "parameters": parameters,
    }
    try:
        return dict(json.loads(json.dumps(description)))
    except TypeError as err:
        raise InputError(f"model {model!r}: an option cannot be written down ({err})") from err


def lineage(base: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What a run that another model stands on says of itself, wherever it is: the other's weights hold its own.

    Parameters
    ----------
    base : path or mapping
        Its folder, or what this function has returned.
    """
    said = base if isinstance(base, Mapping) else Run(Path(base)).description
    return {name: said[name] for name in ("model", "options", "training", "splits", "shards_hash") if name in said}


def with_base(options: Mapping[str, Any], fold: int | None) -> dict[str, Any]:
    """Options of a model with the absolute folder of its base: that of the fold where ``base`` is a folder of folds."""
    base = options.get("base")
    if base is None or isinstance(base, Mapping):
        return dict(options)
    folder = Path(str(base)).absolute()
    of_fold = folder / f"fold-{fold or 0:02d}"
    return {**options, "base": str(of_fold if of_fold.is_dir() else folder)}


def shards_hash(store: ShardStore) -> str:
    """By which the content of shards is known again, wherever they are: a hash of their description and index."""
    content = b"".join((Path(store.path) / name).read_bytes() for name in (SHARDS, INDEX))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def claim(out: Path, description: Mapping[str, Any], *, overwrite: bool = False) -> Run:
    """The folder of a training: a new one, or the one there if it was begun with the same parameters.

    Parameters
    ----------
    out : path
    description : mapping
        Of :func:`describe`.
    overwrite : bool
        Replace a training with other parameters; never a folder that holds something else.

    Raises
    ------
    ResumeError
        If a training there has other parameters; names the first.
    InputError, StoreError
        If the folder holds something else, also a ``run.json`` that is not one of ours.
    """
    run = Run(Path(out))
    file = run.path / DESCRIPTION
    if file.exists():
        there = run.description  # of ours, or an error: what others call run.json is not ours to delete
        try:
            check_params(run.path, _compared(there), _compared(description))
        except ResumeError:
            if not overwrite and (run.is_finished or (run.path / LAST).exists()):  # else there is nothing to lose
                raise
            remove_at_once(run.path)
        else:
            return run
    elif run.path.exists() and (run.path.is_file() or any(run.path.iterdir())):
        check_free(run.path, DESCRIPTION, overwrite=overwrite)
    write_json(file, description)
    return Run(run.path)


def _compared(description: Mapping[str, Any]) -> dict[str, Any]:
    """What two trainings must have in common, with one key for each option."""
    flat: dict[str, Any] = {}
    for key, value in description.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": one for name, one in value.items()}
        elif key not in ("software", "shards", "schema", "schema_version"):
            flat[key] = value
    return {"model": flat.pop("model", None), **flat}


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a small file whole or not at all."""
    with staged(file) as work:
        work.write_text(json.dumps(values, indent=1) + "\n")


def prefixed(weights: Weights) -> Weights:
    """Weights of a model under the names that they have in the Lightning module around it."""
    return {PREFIX + name: value for name, value in weights.items()}


def write_weights(file: Path, weights: Weights, epoch: int) -> None:
    """A checkpoint with the weights of a model."""
    write_checkpoint(file, {"state_dict": prefixed(weights), "epoch": epoch})


def write_checkpoint(file: Path, state: Mapping[str, Any]) -> None:
    """A checkpoint of tensors, numbers and texts only, whole or not at all."""
    with staged(file) as work:
        torch.save(dict(state), work)
