"""All models by name: the class, the options of the published form, and how it was trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from enhancer_dask.errors import InputError

try:
    import torch
    from torch import Tensor, nn
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


class Expression(nn.Module):
    """A model of expression along chromosomes: graphs of bins in, one number per bin out.

    What a model may have beyond ``forward``; the defaults hold for most of them.
    """

    closed_form = False
    """Learns by :meth:`fit` in one pass, without gradients."""
    gate_layers = 1
    """Layers of which :meth:`edge_gates` tells, one after the other."""
    in_channels = 1
    """Columns of ``x`` that it reads, F."""
    columns: tuple[int, ...] | None = None
    """Their numbers; None: all."""
    chosen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, float32, shape (N,), on the scale of ``batch.y``."""
        return self.predictions(batch)[self.chosen]

    def predictions(self, batch: Data) -> Tensor:
        """Of each of R replicas that are trained side by side, shape (R, N); ``chosen`` is the best of them."""
        return self(batch)[None]

    def calibrate(self, batches: Iterable[Data]) -> None:
        """Look at the graphs to train on, before the first step."""

    def choose(self, losses: Tensor) -> None:
        """Choose among the replicas by their validation losses, shape (R,)."""
        self.chosen.fill_(int(losses.nan_to_num(nan=torch.inf).argmin()))

    def edge_gates(self, batch: Data) -> Tensor | None:
        """Weight that the model gives to each edge, shape (E, gate_layers * heads); None if it gives none."""
        return None

    def parts(self, batch: Data) -> list[tuple[str, tuple[int, ...], int]] | None:
        """Steps of the computation to draw: name, output shape, parameters; None if they are its modules."""
        return None

    def signal(self, batch: Data) -> Tensor:
        """What it reads of ``x``, shape (N, F).

        Raises
        ------
        InputError
            If ``x`` has other columns.
        """
        x = batch.get("x")
        found = "none" if x is None else f"shape {tuple(x.shape)}"
        if self.columns is None:
            if x is None or x.ndim != 2 or x.shape[1] != self.in_channels:
                raise InputError(f"x is wanted with {self.in_channels} columns (in_channels), found {found}")
            return x
        if x is None or x.ndim != 2 or x.shape[1] <= max(self.columns):
            raise InputError(f"x is wanted with the columns {list(self.columns)}, counted from 0, found {found}")
        return x[:, list(self.columns)]

    def inputs(self, batch: Data) -> dict[str, Tensor]:
        """The inputs that a gradient may be taken of, by their names in the batch."""
        return {"x": batch.x}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a name stands for."""

    name: str
    where: str
    """``module:class`` below ``enhancer_dask.models``."""
    summary: str
    """One line: what it does, and whose it is."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that make the class this model."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Published hyper-parameters, or ours: see :class:`enhancer_dask.models.training.TrainingOptions`."""

    def load(self) -> type[Expression]:
        """The class."""
        module, _, name = self.where.partition(":")
        return getattr(import_module(f"enhancer_dask.models.{module}"), name)

    def known_options(self) -> dict[str, Any]:
        """All options with their defaults; ``inspect.Parameter.empty`` where one must be given."""
        parameters = inspect.signature(self.load()).parameters
        return {name: self.options.get(name, parameter.default) for name, parameter in parameters.items()}


SPECS: dict[str, ModelSpec] = {}


def register(*specs: ModelSpec) -> None:
    """Add models; a name that is taken is refused."""
    for spec in specs:
        if spec.name in SPECS:
            raise ValueError(f"model {spec.name!r} is there twice")
        SPECS[spec.name] = spec


def spec(name: str) -> ModelSpec:
    """What a name stands for.

    Raises
    ------
    InputError
        If there is no such model; lists those that are.
    """
    if name not in SPECS:
        raise InputError(f"model is {name!r}, want one of {', '.join(SPECS)}")
    return SPECS[name]


def build(name: str, **options: Any) -> Expression:
    """A new model with random weights (of torch's current seed).

    Parameters
    ----------
    name : str
        One of ``SPECS``.
    options
        Of its class, for instance ``in_channels``, ``width``, ``depth``, ``heads``, ``dropout``, ``norm``.

    Raises
    ------
    InputError
        If the name or an option is unknown, or a value makes no sense.

    Examples
    --------
    >>> n_parameters(build("epi-graphreg", width=32)) < 100_000  # doctest: +SKIP
    True
    """
    found = spec(name)
    known = found.known_options()
    for option in options:
        if option not in known:
            raise InputError(f"model {name!r}: no option {option!r}, it has {', '.join(known)}")
    try:
        return found.load()(**{**found.options, **options})
    except (TypeError, ValueError, RuntimeError) as err:
        if isinstance(err, InputError):
            raise InputError(f"model {name!r}: {err}") from err
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise InputError(f"model {name!r} cannot be built with {given or 'its defaults'}: {err}") from err


def columns_of(columns: Sequence[int] | None, in_channels: int) -> tuple[int, ...] | None:
    """The option ``columns`` of a model, checked.

    Raises
    ------
    InputError
        If they are not ``in_channels`` different whole numbers of at least 0.
    """
    if columns is None:
        return None
    found = tuple(columns)
    numbers = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in found)
    if not numbers or not len({*found}) == len(found) == in_channels:
        raise InputError(f"columns is {columns!r}, want {in_channels} (in_channels) different numbers of columns of x")
    return found


def n_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model; those of one replica where it holds several."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total // int(getattr(model, "replicas", 1))


BELL = {"loss": "mse", "lr": 1e-3, "batch_size": 1, "epochs": 1000, "threads": 1}
# Of GraphReg. Its Adam also divides the step by 1 + 1e-6 times the number of windows so far (``decay`` of Keras; no
# decay of weights), which is left out here: 1% after 10,000 windows. Its counter of epochs without improvement starts
# at 1 and ends at 5: the fourth one ends the training.
GRAPHREG = {"loss": "poisson", "lr": 2e-4, "batch_size": 1, "epochs": 200, "patience": 4}
SEQUENCE = {**GRAPHREG, "epochs": 100}
# all chromosomes are one batch, so an epoch is one step
TWO_WAY = {
    "loss": "huber", "delta": 0.3, "lr": 2e-2, "weight_decay": 0.1, "batch_size": 64, "epochs": 600, "check_every": 150,
    "threads": 1,
}  # fmt: skip
BELLS = "epigenome:EpiGraphReg"
NARROW = {"width": 60}  # two kernels a layer want it to stay below 100,000 parameters

register(
    ModelSpec("epi-cnn", "epigenome:EpiCnn", "convolutions along bins, no contacts (Bell)", training=BELL),
    ModelSpec("epi-graphreg", BELLS, "convolutions, and attention over contacts (Bell)", training=BELL),
    *(
        ModelSpec(name, BELLS, f"Epi-GraphReg's trunk with {what}", {"graph": name, "output": "softplus", **size}, BELL)
        for name, size, what in (
            ("gcn", {}, "graph convolutions"),
            ("gat", {}, "softmax attention (GAT)"),
            ("gatv2", NARROW, "softmax attention (GATv2)"),
            ("mean", NARROW, "the mean over contacts"),
            ("sum", NARROW, "the sum over contacts"),
        )
    ),
    ModelSpec(
        "graphreg-epi-cnn", "fine_epigenome:FineEpigenome", "tracks at 100 bp, dilated convolutions (GraphReg)",
        {"head": "dilated"}, {**GRAPHREG, "epochs": 100},
    ),
    ModelSpec(
        "graphreg-epi", "fine_epigenome:FineEpigenome", "tracks at 100 bp, attention over contacts (GraphReg)",
        training=GRAPHREG,
    ),
    ModelSpec("seq-tracks", "sequence:SequenceTracks", "tracks at 100 bp from sequence (GraphReg)", training=SEQUENCE),
    ModelSpec(
        "seq-cnn", "sequence_expression:SequenceExpression", "sequence, dilated convolutions (GraphReg)",
        {"head": "dilated"}, SEQUENCE,
    ),
    ModelSpec(
        "seq-graphreg", "sequence_expression:SequenceExpression", "sequence, attention over contacts (GraphReg)",
        training=SEQUENCE,
    ),
    ModelSpec("ridge", "baselines:LinkedWindows", "ridge regression on own and linked windows by offset"),
    ModelSpec(
        "nnls", "baselines:LinkedWindows", "the same without negative weights", {"positive": True, "alpha": 0.0},
    ),
    ModelSpec(
        "two-way-windows", "two_way_windows:TwoWayWindows",
        "windows over contacts, gated by messages between regulators and genes (ours)", training=TWO_WAY,
    ),
)  # fmt: skip
