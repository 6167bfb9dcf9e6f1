"""The folder of one training: what was trained on what, its weights, and how it went."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.models.registry import Expression, build
from enhancer_dask.stores import check_schema

try:
    import torch
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

SCHEMA = "enhancer-dask training run"
SCHEMA_VERSION = 1
DESCRIPTION, RESULT, METRICS = "run.json", "result.json", "metrics.csv"
BEST, LAST = Path("checkpoints") / "best.ckpt", Path("checkpoints") / "last.ckpt"
PREFIX = "model."  # of the weights of the model among those of the Lightning module


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
        try:
            description = dict(json.loads(file.read_text()))
        except (ValueError, OSError) as err:
            raise StoreError(f"{file}: damaged ({str(err).splitlines()[0]})") from err
        check_schema(description, file, SCHEMA, SCHEMA_VERSION, "train again")
        return description

    @cached_property
    def result(self) -> dict[str, Any]:
        """Content of ``result.json``: there once the training has ended."""
        file = Path(self.path) / RESULT
        if not file.exists():
            raise StoreError(f"{self.path}: the training has not ended ({RESULT} is missing); run it again to go on")
        return dict(json.loads(file.read_text()))

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
            raise StoreError(f"{file}: not the weights of this model ({str(err).splitlines()[0]})") from err
        return model.eval()


def load_model(run: str | Path) -> Expression:
    """The model of a run folder with its best weights, in evaluation mode."""
    return Run(Path(run)).model()
