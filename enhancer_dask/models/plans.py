"""What a training would do, looked at before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from enhancer_dask.errors import InputError
from enhancer_dask.models.crossing import Split, choose_split
from enhancer_dask.models.data import fine_tracks
from enhancer_dask.models.graph_data import GraphSet
from enhancer_dask.models.options import TrainingOptions, training_options
from enhancer_dask.models.quiet import alone
from enhancer_dask.models.registry import Expression, ModelSpec, build, spec
from enhancer_dask.models.runs import with_base
from enhancer_dask.models.task import GraphSets
from enhancer_dask.models.unseen import check_base
from enhancer_dask.shard_store import ShardStore

try:
    from torch.nn.parameter import UninitializedParameter
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training of which all but the model has been checked."""

    store: ShardStore
    model: str
    options: Mapping[str, Any]
    """Of the model's class, with what the shards tell."""
    hyper: TrainingOptions
    split: Split

    def build(self) -> Expression:
        """The model with random weights of torch's current seed.

        Raises
        ------
        InputError
            If it has no such option, an option makes no sense, or its base has seen what shall judge it.
        """
        for name, parameter in inspect.signature(spec(self.model).load()).parameters.items():
            value = self.options.get(name, 0)
            if parameter.annotation in (int, "int") and not isinstance(value, int):  # layers say so late, or never
                raise InputError(f"model {self.model!r}: option {name!r} is {value!r}, want a whole number")
        built = build(self.model, **self.options)
        if any(isinstance(p, UninitializedParameter) for p in built.parameters()):  # PyG takes 0 for "not known yet"
            raise InputError(f"model {self.model!r}: an option leaves a layer without a size: {self.listed}")
        check_base(self.store, self.options, self.split)
        return built

    def check(self) -> None:
        """Refuse what can be seen to fail; the caller's random numbers stay as they are.

        Raises
        ------
        InputError
        """
        with alone(self.hyper.seed):
            self.build()

    def sets(self) -> GraphSets:
        """The graphs. They are not read yet."""
        return GraphSets(
            *(GraphSet(self.store, one, in_memory=self.hyper.in_memory) for one in asdict(self.split).values())
        )

    @property
    def listed(self) -> str:
        """The options, for messages."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items()) or "none given"


def planned(
    store: ShardStore,
    model: str,
    *,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **split: Any,
) -> TrainingPlan:
    """Look at all that a training is asked to do; parameters as those of :func:`.train`.

    Raises
    ------
    InputError
        If a name, option or condition is wrong, or a chromosome is in two of the sets.
    StoreError
        If there are no shards.
    """
    known = spec(model)
    check_target(store, known)
    hyper = training_options(known.training, training or {})
    chosen = with_base(
        {**inferred_options(known, store), **chosen_columns(known, store, options or {})}, split.get("fold")
    )
    if chosen.get("edge_weight") == "none":  # as it is typed, also in a grid
        chosen["edge_weight"] = None
    return TrainingPlan(store, model, chosen, hyper, choose_split(store, **split))


def check_target(store: ShardStore, known: ModelSpec) -> None:
    """Refuse graphs without the target that a model learns, unless it is judged by something else."""
    nodes = store.variables["nodes"]
    if "y" not in nodes and not hasattr(known.load(), "validation_loss"):
        raise InputError(f"{store.path}: the graphs have no target 'y'; variables are: {', '.join(nodes) or 'none'}")


def chosen_columns(known: ModelSpec, store: ShardStore, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, with names in ``columns`` as numbers of columns of ``x``, and as many ``in_channels``.

    A number that is not a name is taken as one, counted from 0.

    Raises
    ------
    InputError
        If the model does not read ``x``, or there is no such column; lists those that are.
    """
    asked = options.get("columns")
    if asked is None:
        return dict(options)
    if "columns" not in known.known_options():
        raise InputError(
            f"model {known.name!r} has no columns of x to choose from; its options: {', '.join(known.known_options())}"
        )
    names, width = [str(name) for name in store.params.get("x") or ()], _width(store) or 0
    wanted = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, Sequence) else [asked]
    found = []
    for one in (str(one).strip() for one in wanted):
        if one not in names and not (one.isdigit() and int(one) < width):
            there = ", ".join(names) or f"{width} columns without names, counted from 0"
            raise InputError(f"{store.path}: x has no column {one!r}; it has {there}")
        found.append(names.index(one) if one in names else int(one))
    return {"in_channels": len(found), **options, "columns": found}


def _width(store: ShardStore) -> int | None:
    """Columns of ``x``; None if there is no ``x``."""
    x = store.variables["nodes"].get("x")
    return None if x is None else int(x["shape"][0])


def inferred_options(known: ModelSpec, store: ShardStore) -> dict[str, Any]:
    """Options of a model that the shards tell, of those that its class has and its name does not fix.

    ``in_channels``: columns of ``x``; ``tracks``: names of the variables in finer bins.
    """
    found: dict[str, Any] = {}
    if (width := _width(store)) is not None:
        found["in_channels"] = width
    if fine := fine_tracks(store):
        found["tracks"] = fine
    wanted = known.known_options()
    return {name: value for name, value in found.items() if name in wanted and name not in known.options}
