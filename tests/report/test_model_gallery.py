"""Files of figures of models, from tables and from the command line."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import CNN, stems
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.report.figures import contact_arcs, gene_locus, new_axes, new_figure, tracks
from enhancer_dask.report.model_gallery import draw_models
from enhancer_dask.report.save import save
from enhancer_dask.simulate.chromosomes import preset_design


def test_draw_models__draws_what_the_tables_allow(
    predictions, edges, metrics, table, gates, attributions, gene, tmp_path
):
    table.to_csv(tmp_path / "table.csv", index=False)
    drawn = draw_models(
        tmp_path / "out", predictions=predictions, edges=edges, curves={"cnn": metrics}, table=tmp_path / "table.csv",
        gates={"two-way": gates}, attributions=attributions, layers={"cnn": CNN}, floor=0.03,
    )  # fmt: skip
    highest = predictions[predictions["graph"].eq("test-000000") & predictions["node"].isin(edges["target"])]
    best = int(highest[highest["is_gene"]].nlargest(1, "y")["node"].iloc[0])
    assert stems(drawn) == [
        "architecture_cnn", f"attribution_test-000000_{gene}", f"gates_two-way_test-000000_{best}", "models_roi_mse",
        "models_test_mse", "scatter", "tracks_test-000000", "training_curves",
    ]  # fmt: skip
    text = " ".join(re.findall(r">([^<>]+)</text>", (tmp_path / "out" / "models_test_mse.svg").read_text()))
    assert "two-way (2,017)" in text


def test_draw_models__one_graph_one_gene_and_logarithms_for_long_tails(predictions, gates, tmp_path):
    predictions = predictions.drop(columns="prediction_cnn")
    predictions.loc[0, "y"] = 1_000.0
    gene = int(gates.loc[gates["graph"] == "test-000001", "target"].iloc[-1])
    drawn = draw_models(tmp_path, predictions=predictions, gates=gates, graph="test-000001", gene=gene)
    assert stems(drawn) == [f"gates_test-000001_{gene}", "scatter", "scatter_log2", "tracks_test-000001"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to draw; give predictions, training curves, layers or a table of models"),
        ({"edges": True}, "are drawn along a locus; give predictions, too"),
        ({"predictions": True, "graph": "x"}, "no row is of graph 'x'"),
        ({"predictions": True, "gates": True, "gene": 0}, "gates: node 0 has no values; nodes that have: "),
        (
            {"predictions": True, "attributions": pd.DataFrame({"gene": ["A"], "node": [1], "shap": [0.5]})},
            "column 'gene' holds no numbers",
        ),
    ],
)
def test_draw_models__says_what_is_missing_and_writes_nothing(predictions, edges, gates, given, message, tmp_path):
    tables = {"predictions": predictions, "edges": edges, "gates": gates}
    with pytest.raises(InputError, match=re.escape(message)):
        draw_models(tmp_path / "out", **{name: tables[name] if v is True else v for name, v in given.items()})
    assert not (tmp_path / "out").exists()


def test_save__figures_of_models_are_the_same_bytes(predictions, edges, gates, gene, bins, many, tmp_path):
    predictions, gates = (
        predictions.drop(columns=["prediction_cnn", "track_accessibility"]),
        gates[gates["target"] == gene],
    )

    def drawn(folder):
        figures = {
            "tracks": tracks(predictions, new_figure()),
            "arcs": contact_arcs(bins, many, new_axes(), strongest=1_001).figure,
            "gene": gene_locus(predictions, new_figure(), gene=gene, gates=gates),
        }
        return [file for name, figure in figures.items() for file in save(figure, tmp_path / folder / name)]

    first, second = drawn("a"), drawn("b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert "data:image/png" in (tmp_path / "a" / "arcs.svg").read_text()
    assert "data:image/png" not in (tmp_path / "a" / "tracks.svg").read_text()


def test_new_figure__places_are_rounded_and_stay_in_the_layout():
    figure = new_figure()
    axes = figure.subplots(2, 1)
    for k in range(2):
        axes[0].set_ylabel("\n" * k + "label")
        figure.draw_without_rendering()
        places = np.array([ax.get_position(original=True).bounds for ax in axes])
        np.testing.assert_array_equal(places, np.round(places, 6))
        assert all(ax.get_in_layout() for ax in axes)
        assert places[0, 0] > 0.1 * (k + 1)  # room was made for the longer label


def test_command__draws_the_bars_of_a_table_alone(table, tmp_path):
    table.drop(columns="roi_mse").to_csv(tmp_path / "table.csv", index=False)
    done = CliRunner().invoke(
        app, ["model-figures", "--table", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    names = sorted(file.split("/")[-1] for file in json.loads(done.stdout)["figures"])
    assert names == ["models_test_mse.png", "models_test_mse.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to draw; give folders of trainings, or --table"),
        (["--table", "t.csv", "--gene", "3"], "need graphs: give --shards"),
        (["--table", "t.csv", "--shards", "s"], "give folders of trainings"),
        (["--table", "t.csv"], "t.csv: no such file"),
    ],
)
def test_command__says_what_is_missing(arguments, message, tmp_path):
    done = CliRunner().invoke(app, ["model-figures", *arguments, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_command__draws_what_trained_models_predict(metrics, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    pytest.importorskip("enhancer_dask.models.predictions")
    from enhancer_dask.models.registry import Expression
    from enhancer_dask.models.runs import SCHEMA, SCHEMA_VERSION, Run
    from enhancer_dask.simulate.chromosomes import simulate_chromosomes

    class Gated(Expression):
        def __init__(self):
            super().__init__()
            self.read_out = torch.nn.Linear(1, 1)

        def forward(self, batch):
            return self.read_out(batch.x)[:, 0]

        def edge_gates(self, batch):
            return batch.edge_attr[:, :1]

    simulate_chromosomes(tmp_path / "shards", preset_design("silencers", bins=300), n_train=1, n_validation=1, n_test=2)
    monkeypatch.setattr(Run, "model", lambda run: Gated().eval())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        told = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "model": "gated", "options": {}}
        (tmp_path / name / "run.json").write_text(json.dumps({**told, "training": {"loss": "mse"}}))
        metrics.to_csv(tmp_path / name / "metrics.csv", index=False)
    runs, out = [str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out")
    done = CliRunner().invoke(app, ["model-figures", *runs, "--shards", str(tmp_path / "shards"), "--out", out])
    assert done.exit_code == 0, done.exception
    names = {file.split("/")[-1] for file in json.loads(done.stdout)["figures"] if file.endswith(".svg")}
    assert {"scatter.svg", "tracks_test-000000.svg", "training_curves.svg", "architecture_one.svg"} <= names
    assert sum(name.startswith(("gates_one_test-000000_", "gates_two_test-000000_")) for name in names) == 2
    text = (tmp_path / "out" / "tracks_test-000000.svg").read_text()
    assert ">enhancers</text>" in text
    assert "irreducible error" in (tmp_path / "out" / "training_curves.svg").read_text()
    assert "Linear" in (tmp_path / "out" / "architecture_one.svg").read_text()


def test_layers_of__each_layer_once_in_the_order_of_the_computation():
    torch = pytest.importorskip("torch")
    from enhancer_dask.cli.model_figures import layers_of

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Linear(4, 1), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
            self.dropout, self.scale = torch.nn.Dropout(), torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.last(self.dropout(self.first(self.first(x)))) * self.scale.sum()

    assert layers_of(Model(), torch.zeros(5, 4)) == [
        ("Linear", (5, 4), 20), ("ReLU", (5, 4), 0), ("Linear", (5, 1), 5), ("Model", (5, 1), 3),
    ]  # fmt: skip


def test_of_models__a_graph_without_edges_has_no_gates():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    from enhancer_dask.cli.model_figures import _of_models
    from enhancer_dask.models.registry import build, n_parameters
    from enhancer_dask.shard_store import Graph

    none = np.zeros(0, np.int32)
    graph = Graph("g", 5, none, none, {"x": np.ones((5, 1), np.float32)})
    model = build("two-way-windows").eval()
    found = _of_models({"ours": SimpleNamespace(model=lambda: model)}, graph)
    assert found["gates"] is None
    layers = found["layers"]["ours"]
    assert [shape for _, shape, _ in layers] == [(5, 11), (0,), (0,), (0,), (5,)]
    assert sum(size for _, _, size in layers) == n_parameters(model)
    assert sum(p.numel() for p in model.parameters()) == model.replicas * n_parameters(model)
    assert torch.is_grad_enabled()


def test_command__draws_training_curves_of_runs_alone(metrics, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    from enhancer_dask.models.runs import SCHEMA, SCHEMA_VERSION

    told = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "model": "gated", "options": {}}
    (tmp_path / "run.json").write_text(json.dumps(told))
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    done = CliRunner().invoke(app, ["model-figures", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.exception
    assert stems(list((tmp_path / "out").iterdir())) == ["training_curves"]
