"""How a model is trained: checked numbers, the same for Python, command line and the presets of the models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enhancer_dask.clusters import first_error
from enhancer_dask.errors import InputError


class TrainingOptions(BaseModel):
    """Hyper-parameters of a training. An epoch is one pass over the graphs to train on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["mse", "poisson", "huber"] = Field("mse", description="what is minimised")
    delta: float = Field(1.0, gt=0, description="error from which the Huber loss is linear")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, as Adam adds it to the gradient")
    batch_size: int = Field(1, ge=1, description="graphs of a step, per process")
    epochs: int = Field(200, ge=1, description="passes at most")
    patience: int | None = Field(None, ge=1, description="epochs without a better validation before it stops")
    check_every: int = Field(1, ge=1, description="epochs from one validation to the next")
    seed: int = Field(0, ge=0, lt=2**63, description="of the first weights, the order of graphs, and dropout")
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    precision: Literal["32", "16-mixed", "bf16-mixed"] = Field("32", description="numbers of the arithmetic")
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="where it runs")
    devices: int | Literal["auto"] = Field(1, description="processes, one per GPU or on the CPU")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = Field(
        "auto", description="how devices work together, as Lightning names it"
    )
    threads: int | None = Field(None, ge=1, description="of the CPU; by default as torch has them")
    num_workers: int = Field(0, ge=0, description="processes that read graphs, if they are streamed")
    in_memory: bool | None = Field(None, description="keep all graphs in memory; by default below 1 GB")

    @property
    def fused(self) -> bool:
        """Whether an optimiser may do its step in one: not where Lightning must see the gradients before it.

        It must to take the scale of 16 bits from them, and with mixed precision to clip them.
        """
        return self.precision == "32" or (self.precision == "bf16-mixed" and self.gradient_clip is None)


def training_options(*layers: Mapping[str, Any]) -> TrainingOptions:
    """Options from several mappings, for instance the preset of a model and what a user asks for; later ones win.

    Raises
    ------
    InputError
        Naming the first option that is unknown or has an impossible value.

    Examples
    --------
    >>> training_options({"lr": 2e-4, "epochs": 100}, {"epochs": 5}).epochs
    5
    """
    given = {name: value for layer in layers for name, value in layer.items()}
    try:
        options = TrainingOptions(**given)
    except ValidationError as err:
        raise InputError(f"training: {first_error(err)}") from err
    if isinstance(options.devices, int) and options.devices < 1:
        raise InputError(f"training: key 'devices': want at least 1 (found {options.devices})")
    return options


def value_of(text: str) -> Any:
    """A value as it is typed: JSON, else YAML, else the text itself.

    Examples
    --------
    >>> [value_of(text) for text in ("16", "1e-4", "true", "null", "[1, 2]", "relu")]
    [16, 0.0001, True, None, [1, 2], 'relu']
    """
    for read in (json.loads, yaml.safe_load):
        try:
            return read(text)
        except (ValueError, yaml.YAMLError):
            continue
    return text


def key_and_value(text: str, option: str) -> tuple[str, str]:
    """``KEY=VALUE`` in two.

    Raises
    ------
    InputError
        If there is no key or no value; names the option of the command line.
    """
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise InputError(f"{option} is {text!r}; want KEY=VALUE, for instance width=32")
    return key.strip().replace("-", "_"), value.strip()
