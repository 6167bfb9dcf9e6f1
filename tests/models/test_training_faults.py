"""What goes wrong in a training: it is said in words, no folder of others is touched, and no result is made up."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.shard_store import Graph, ShardStore, finish_shards, sorted_edges, write_shard

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models  # noqa: E402

from enhancer_dask.models import progress  # noqa: E402
from enhancer_dask.models.judging import error_totals, loss_totals, mean_errors  # noqa: E402
from enhancer_dask.models.losses import mean_loss  # noqa: E402
from enhancer_dask.models.registry import Expression  # noqa: E402
from enhancer_dask.models.runs import Run  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402

tiny_models.register()
SPLITS = ("train", "validation", "test")
CPU = {"epochs": 2, "accelerator": "cpu"}


def write_shards(path, nan=None):
    """A graph of 30 bins for each split; ``nan``: the split of which a target is not known."""
    rng, graphs = np.random.default_rng(0), []
    for split in SPLITS:
        source, target, _ = sorted_edges(np.arange(29), np.arange(1, 30), {})
        x = rng.random((30, 1)).astype(np.float32)
        nodes = {"x": x, "y": 2 * x[:, 0]}
        if split == nan:
            nodes["y"][3] = np.nan
        graphs.append(Graph(split, 30, source, target, nodes, labels={"split": split}))
    path.mkdir()
    finish_shards(path, write_shard(path / "shard-00000000.zarr", graphs), {})
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("faults") / "shards")


def trained(shards, out, model="linear", training=None, **more):
    return train(shards, model, out, training={**CPU, **(training or {})}, progress=False, **more)


# -- folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ['{"id": 7}', "[7]", "7", ""])
def test_train__a_run_json_of_others_stays(shards, tmp_path, content, overwrite):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"run\.json"):
        trained(shards, tmp_path, overwrite=overwrite)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"run.json": content, "precious.txt": "mine"}


def test_train__a_run_with_keys_of_the_past_is_the_same(shards, tmp_path):
    run = trained(shards, tmp_path / "run")
    old = json.loads((run.path / "run.json").read_text())
    old["training"]["optimiser"] = "adam"
    (run.path / "run.json").write_text(json.dumps(old))
    assert trained(shards, tmp_path / "run").result == run.result


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_run__a_damaged_result_is_named(shards, tmp_path, content):
    run = trained(shards, tmp_path / "run")
    (run.path / "result.json").write_text(content)
    with pytest.raises(StoreError, match=r"result\.json: damaged"):
        _ = Run(run.path).result


def test_run__empty_weights_are_named(shards, tmp_path):
    run = trained(shards, tmp_path / "run")
    for name in ("best", "last"):
        (run.path / "checkpoints" / f"{name}.ckpt").write_bytes(b"")
    with pytest.raises(StoreError, match=r"best\.ckpt: not the weights of this model \(EOFError"):
        run.model()
    (run.path / "result.json").unlink()
    with pytest.raises(StoreError, match=r"last\.ckpt: damaged \(EOFError"):
        trained(shards, tmp_path / "run")


def test_train__in_the_current_folder(monkeypatch, shards, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert trained(shards, ".").result["epochs"] == 2
    trained(shards, ".", overwrite=True, training={"epochs": 1})
    assert Run(tmp_path / "here").result["epochs"] == 1


# -- numbers that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ridge", "linear"])
def test_train__an_unknown_target_to_choose_by_is_named(tmp_path, model):
    shards = write_shards(tmp_path / "shards", nan="validation")
    with pytest.raises(InputError, match="graph 'validation' has NaN or infinity in 'y'"):
        trained(shards, tmp_path / "run", model)


@pytest.mark.parametrize("model", ["ridge", "linear"])
def test_train__an_unknown_target_to_judge_by_is_null(tmp_path, model):
    shards = write_shards(tmp_path / "shards", nan="test")
    run = trained(shards, tmp_path / "run", model)
    text = (run.path / "result.json").read_text()
    assert run.result["test_mse"] is None
    assert "NaN" not in text
    assert "Infinity" not in text


def test_summary__best_loss_of_trainings_that_diverged(tmp_path):
    import pandas as pd

    from enhancer_dask.cli.training import _summary

    table = pd.DataFrame(
        {"val_loss": [np.nan, np.nan], "test_mse": np.nan, "roi_mse": [1.0, 2.0], "run": ["a", "b"]}
    )  # fmt: skip
    found = _summary(tmp_path, table)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["best_val_loss"], found["test_mse"], found["roi_mse"]) == (None, None, 1.5)
    found = _summary(tmp_path, table.assign(val_loss=[np.nan, 0.5]))
    assert (found["best_run"], found["best_val_loss"]) == (str(tmp_path / "b"), 0.5)


class OnMps:
    """A loss on a device that has no float64."""

    def reshape(self, *_):
        return self

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return torch.tensor([3.0])


class JudgedOtherwise(Expression):
    """Judged by something else than its expression."""

    def predictions(self, batch):
        return batch.x.T

    def validation_loss(self, batch, loss):
        return OnMps()


def test_losses__become_float64_on_the_cpu_and_errors_are_those_of_expression(shards):
    from enhancer_dask.models.data import to_data

    graphs = [to_data(graph) for graph in ShardStore(shards).graphs()]
    assert loss_totals(JudgedOtherwise(), graphs, mean_loss("mse")).tolist() == [270.0, 90.0]
    assert set(mean_errors(error_totals(JudgedOtherwise(), graphs)).values()) == {None}


# -- mixed precision -----------------------------------------------------------------------------------------------

BF16 = {"precision": "bf16-mixed", "accelerator": "cpu"}


def test_train__killed_before_its_result_is_judged_in_its_precision(shards, tmp_path):
    run = trained(shards, tmp_path / "run", training=BF16)
    before = run.result
    exact = trained(shards, tmp_path / "exact").result["test_mse"]
    assert before["test_mse"] != pytest.approx(exact, rel=1e-9)  # else this shows nothing
    (run.path / "result.json").unlink()
    assert trained(shards, tmp_path / "run", training=BF16).result == before


@pytest.mark.parametrize("model", ["linear", "two-way-windows"])
def test_train__clips_in_mixed_precision(shards, tmp_path, model):
    run = trained(shards, tmp_path / "run", model, training={**BF16, "gradient_clip": 1.0})
    assert np.isfinite(run.result["val_loss"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a GPU here")
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_train__the_cpu_has_no_16_bit_floats(shards, tmp_path, accelerator):
    with pytest.raises(InputError, match="precision is '16-mixed', which the CPU does not have; want 'bf16-mixed'"):
        trained(shards, tmp_path / "run", training={"precision": "16-mixed", "accelerator": accelerator})
    assert not (tmp_path / "run").exists()


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"training": {"seed": 99999999999999999999}}, "training: key 'seed'"),
        ({"training": {"strategy": "bogus"}}, "training: key 'strategy'.*'bogus'"),
        ({"model": "two-way-windows", "options": {"rounds": 1.5}}, "option 'rounds' is 1.5, want a whole number"),
        ({"model": "two-way-windows", "options": {"kept": 1.5}}, "option 'kept' is 1.5, want a whole number"),
        ({"model": "two-way-windows", "options": {"reach": "a"}}, "option 'reach' is 'a', want a whole number"),
        ({"options": {"dropout": 0.5, "start": "a"}}, "start='a'"),
    ],
)
def test_train__names_the_option(shards, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        trained(shards, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_train__what_an_option_breaks_later_is_listed(monkeypatch, shards, tmp_path):
    monkeypatch.setattr(tiny_models.Linear, "predictions", lambda self, batch: range(self.replicas * 1.5))
    with pytest.raises(InputError, match="cannot be trained on these graphs .TypeError.*; its options: .*replicas=2"):
        trained(shards, tmp_path / "run", options={"replicas": 2})


def test_train__no_edge_weight_has_a_name(shards, tmp_path):
    run = trained(shards, tmp_path / "run", "ridge", options={"edge_weight": "none"})
    assert run.description["options"]["edge_weight"] is None


# -- the bar -------------------------------------------------------------------------------------------------------


def test_shown__the_bar_ends_where_the_training_did(monkeypatch):
    class Terminal(progress.Console):
        is_terminal = True

    seen = []
    monkeypatch.setattr(progress, "Console", Terminal)
    update = progress.Progress.update
    monkeypatch.setattr(
        progress.Progress,
        "update",
        lambda self, task, **more: seen.append(more["completed"]) or update(self, task, **more),
    )
    with progress.shown("linear", 10, True) as say:
        for epoch in range(7):  # stopped early
            say(epoch, "")
    assert seen[-1] == 7
