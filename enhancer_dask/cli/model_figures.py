"""Figures of trained models: what they predict, how they were trained, what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enhancer_dask.cli.options import print_result
from enhancer_dask.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from enhancer_dask.models.runs import Run
    from enhancer_dask.report.architecture import Layer
    from enhancer_dask.shard_store import Graph, ShardStore

NO_LAYERS = ("Dropout", "Identity")  # do nothing to a prediction
SITES = ("is_enhancer", "is_silencer")  # known of simulated chromosomes; predictions do not carry them


def model_figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures, PNG and SVG.")],
    run: Annotated[list[Path] | None, typer.Argument(help="Folders of trainings.")] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Graph shards to predict; without them only training curves are drawn.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only graphs with this split [default: test, where there is one].")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only graphs for which this holds, for instance \"chrom == 'chr1'\".")
    ] = None,
    graph: Annotated[str | None, typer.Option(help="Graph to draw along [default: the first].")] = None,
    gene: Annotated[
        int | None, typer.Option(metavar="NODE", help="Gene whose links are drawn [default: the highest target].")
    ] = None,
    attributions: Annotated[Path | None, typer.Option(help="contributions.parquet of enhancer-dask attribute.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="table.csv of enhancer-dask reproduce bell: bars of models.")
    ] = None,
) -> None:
    """Draw what trained models predict and look at, their training, and the bars of a table of models."""
    if not run and table is None:
        raise InputError("nothing to draw; give folders of trainings, or --table")
    if shards is None and (graph, gene, split, where, attributions) != (None,) * 5:
        raise InputError("--graph, --gene, --split, --where and --attributions need graphs: give --shards")
    if shards is not None and not run:
        raise InputError("--shards are predicted by models: give folders of trainings")
    from enhancer_dask.report.model_gallery import draw_models

    tables = _of_runs(run, shards, graph, split, where) if run else {}
    files = draw_models(out, table=table, attributions=attributions, gene=gene, **tables)
    print_result({"figures": [str(file) for file in files]})


def labels(runs: Sequence[Path]) -> list[str]:
    """Names of trainings: of their folders, with those above where two are the same.

    Examples
    --------
    >>> labels([Path("a/cnn"), Path("a/gat")]), labels([Path("a/cnn"), Path("b/cnn")])
    (['cnn', 'gat'], ['a/cnn', 'b/cnn'])
    """
    paths = [run.absolute() for run in runs]
    deepest = max(len(path.parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{runs[0]}: one training is given twice")


def _of_runs(
    paths: Sequence[Path], shards: Path | None, graph: str | None, split: str | None, where: str | None
) -> dict[str, Any]:
    """Tables of :func:`enhancer_dask.report.model_gallery.draw_models` by name."""
    from enhancer_dask.io.tables import read_table
    from enhancer_dask.models.runs import METRICS, Run
    from enhancer_dask.shard_store import ShardStore

    runs = dict(zip(labels(paths), map(Run, paths), strict=True))
    for found in runs.values():
        _ = found.description
    curves = {name: read_table(Path(found.path) / METRICS) for name, found in runs.items()}
    if shards is None:
        return {"curves": curves}
    store = ShardStore(shards)
    if split is None and "split" in store.index and (store.index["split"] == "test").any():
        split = "test"
    predictions = _predictions(runs, shards, split, where)
    chosen = _graph(store, predictions, graph)
    return {
        "curves": curves,
        "predictions": _with_sites(predictions, chosen),
        "edges": _edges(chosen),
        "graph": chosen.name,
        "floor": _floor(runs, chosen),
        **_of_models(runs, chosen),
    }


def _predictions(runs: dict[str, Run], shards: Path, split: str | None, where: str | None) -> pd.DataFrame:
    from enhancer_dask.models.evaluation import joined
    from enhancer_dask.models.predictions import predict

    return joined({name: predict(run.path, shards, split=split, where=where) for name, run in runs.items()})


def _graph(store: ShardStore, predictions: pd.DataFrame, name: str | None) -> Graph:
    """The graph asked for, by default the first that was predicted."""
    name = str(predictions["graph"].iloc[0]) if name is None else name
    rows = store.index[store.index["name"] == name]
    if rows.empty or not (predictions["graph"] == name).any():
        raise InputError(f"{store.path}: no graph {name!r} among those that are predicted, see --split and --where")
    return store.read_shard(str(rows["shard"].iloc[0]))[int(rows["graph"].iloc[0])]


def _with_sites(predictions: pd.DataFrame, graph: Graph) -> pd.DataFrame:
    """Known enhancers and silencers of the graph to draw, as columns."""
    import numpy as np

    mine = (predictions["graph"] == graph.name).to_numpy()
    for name in SITES:
        if name in graph.nodes:
            known = np.zeros(len(predictions), np.bool_)
            known[mine] = np.asarray(graph.nodes[name], np.bool_)[predictions.loc[mine, "node"]]
            predictions = predictions.assign(**{name: known})
    return predictions


def _edges(graph: Graph) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"graph": graph.name, "source": graph.source, "target": graph.target, **graph.edges})


def _floor(runs: dict[str, Run], graph: Graph) -> float | None:
    """Irreducible error of a simulated chromosome, if all losses are squared errors."""
    from enhancer_dask.simulate.chromosomes import irreducible_error

    losses = {run.description.get("training", {}).get("loss") for run in runs.values()}
    return irreducible_error(graph) if "y_noiseless" in graph.nodes and losses == {"mse"} else None


def _of_models(runs: dict[str, Run], graph: Graph) -> dict[str, Any]:
    """Gates along a graph and layers, by label; of models that have them."""
    import pandas as pd
    import torch

    from enhancer_dask.models.data import to_data

    gates, layers, batch = {}, {}, to_data(graph)
    with torch.inference_mode():
        for name, run in runs.items():
            model = run.model()
            layers[name] = model.parts(batch) or layers_of(model, batch)
            values = model.edge_gates(batch)
            if values is not None and len(values):  # none of a graph without edges
                columns = values.numpy(force=True).T
                heads = dict(zip(gate_names(len(columns), model.gate_layers), columns, strict=True))
                gates[name] = pd.DataFrame(
                    {"graph": graph.name, "source": graph.source, "target": graph.target, **heads}
                )
    return {"gates": gates or None, "layers": {name: found for name, found in layers.items() if found}}


def gate_names(n: int, layers: int) -> list[str]:
    """Columns of the gates of a model, layer by layer and head by head.

    Examples
    --------
    >>> gate_names(1, 1), gate_names(2, 1), gate_names(3, 3)[-1], gate_names(4, 2)[-1]
    (['gate'], ['gate_1', 'gate_2'], 'gate_layer 3', 'gate_layer 2, head 2')
    """
    heads = n // layers
    if layers == 1:
        return ["gate"] if heads == 1 else [f"gate_{head + 1}" for head in range(heads)]
    of_layer = [f"gate_layer {layer + 1}" for layer in range(layers)]
    return [name + (f", head {head + 1}" if heads > 1 else "") for name in of_layer for head in range(heads)]


def layers_of(model: Any, batch: Any) -> list[Layer]:
    """Layers of a model in the order in which a batch passes them: name, output shape, parameters.

    A layer is a module without modules inside, or one with weights of its own, then with all that is inside. One that
    serves again stands where it serves first; weights of the model itself, outside of layers, stand at the end. Of
    replicas that are trained side by side one is counted.
    """
    found: list[Layer] = []
    counted: set[int] = set()
    seen: set[int] = set()
    replicas = int(getattr(model, "replicas", 1))

    def n_new(module: Any) -> int:
        new: dict[int, int] = {
            id(p): p.numel() for p in module.parameters() if p.requires_grad and id(p) not in counted
        }
        counted.update(new)
        return sum(new.values()) // replicas

    def note(module: Any, _: Any, output: Any) -> None:
        if id(module) in seen:  # sequence is read piece by piece
            return
        seen.add(id(module))
        first = output[0] if isinstance(output, tuple) else output  # what comes beside it, for instance gates
        found.append((_named(module), tuple(getattr(first, "shape", ())), n_new(module)))

    handles = [module.register_forward_hook(note) for module in _layers_in(model)]
    try:
        output = model(batch)
    finally:
        for handle in handles:
            handle.remove()
    rest = n_new(model)
    return [*found, (type(model).__name__, tuple(output.shape), rest)] if rest else found


def _layers_in(module: Any) -> list[Any]:
    found = []
    for child in module.children():
        if type(child).__name__ in NO_LAYERS:
            continue
        whole = not list(child.children()) or any(True for _ in child.parameters(recurse=False))
        found += [child] if whole else _layers_in(child)
    return found


def _named(module: Any) -> str:
    """Class of a layer, with its kernel where it has one: ``Conv1d k3``."""
    kernel = getattr(module, "kernel_size", None)
    size = kernel[0] if isinstance(kernel, tuple) and kernel else kernel
    return type(module).__name__ + (f" k{size}" if isinstance(size, int) else "")
