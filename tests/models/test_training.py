"""Training: it finds the known solution, goes on bit for bit, and never mixes what must be apart."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.clusters.batch import batch_script
from enhancer_dask.clusters.profiles import SlurmProfile
from enhancer_dask.errors import InputError, ResumeError, StoreError
from enhancer_dask.shard_store import Graph, ShardStore, finish_shards, sorted_edges, write_shard
from enhancer_dask.simulate.chromosomes import ChromosomeDesign, simulate_chromosomes

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

from torch_geometric.data import Batch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models  # noqa: E402

from enhancer_dask.models import losses, task  # noqa: E402
from enhancer_dask.models.crossing import choose_split, fold_of  # noqa: E402
from enhancer_dask.models.data import ShardDataset, to_data  # noqa: E402
from enhancer_dask.models.graph_data import GraphSet, join  # noqa: E402
from enhancer_dask.models.judging import gene_regions  # noqa: E402
from enhancer_dask.models.options import training_options  # noqa: E402
from enhancer_dask.models.runs import Run, load_model  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402

tiny_models.register()
HUMAN = [f"chr{n}" for n in [*range(1, 23), "X", "Y", "M"]]
MOUSE = [f"chr{n}" for n in [*range(1, 20), "X", "Y"]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "shards"
    design = ChromosomeDesign(bins=100, genes=3, enhancers=3)
    simulate_chromosomes(out, design, n_train=7, n_validation=3, n_test=3, seed=1)
    return out


@pytest.fixture(scope="module")
def by_chromosome(tmp_path_factory):
    """A graph for each of 23 chromosomes, in shards of four; with a mask of bins that count."""
    out = tmp_path_factory.mktemp("training") / "chromosomes"
    out.mkdir()
    rng, graphs = np.random.default_rng(0), []
    for chrom in HUMAN[:23]:
        n = int(rng.integers(5, 9))
        source, target, edges = sorted_edges(np.arange(n - 1), np.arange(1, n), {"oe": rng.random(n - 1)})
        x = rng.random((n, 2)).astype(np.float32)
        nodes = {"x": x, "y": x.sum(1), "loss_mask": np.arange(n) > 0}
        graphs.append(Graph(f"{chrom}:0", n, source, target, nodes, edges, labels={"chrom": chrom}))
    rows = [write_shard(out / f"shard-{i:08d}.zarr", graphs[i : i + 4]) for i in range(0, len(graphs), 4)]
    finish_shards(out, pd.concat(rows, ignore_index=True), {})
    return out


def weights(run):
    return run.model().state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def values_of(shards, split):
    """x and y of all bins of a split."""
    store = ShardStore(shards)
    graphs = [g for g in store.graphs() if g.labels["split"] == split]
    return np.concatenate([g.nodes["x"] for g in graphs])[:, 0], np.concatenate([g.nodes["y"] for g in graphs])


# -- what it finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [100, 3])
def test_train__a_line_ends_at_least_squares(shards, tmp_path, batch_size):
    # least squares of x on y; with batches of 3 Adam keeps moving about it
    run = train(
        shards, "linear", tmp_path / "run", training={"epochs": 200, "lr": 0.03, "batch_size": batch_size,
                                                      "check_every": 10}, progress=False,
    )  # fmt: skip
    x, y = values_of(shards, "train")
    slope, shift = np.polyfit(x, y, 1)
    last = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    tolerance = 1e-3 if batch_size == 100 else 0.15
    np.testing.assert_allclose([float(last["model.slope"]), float(last["model.shift"])], [slope, shift], atol=tolerance)
    best = weights(run)
    for split, key in (("validation", "val_loss"), ("test", "test_mse")):
        x, y = values_of(shards, split)
        error = np.mean((float(best["slope"]) * x + float(best["shift"]) - y) ** 2)
        assert run.result[key] == pytest.approx(error, rel=1e-5)  # float32
    assert run.result["val_loss"] == pytest.approx(run.metrics["val_loss"].min(), rel=1e-14)  # pandas reads so
    assert run.result["n_parameters"] == 2
    assert run.metrics["epoch"].tolist() == list(range(10, 201, 10))


def test_train__gene_regions_are_five_bins_around(shards, tmp_path):
    run = train(shards, "linear", tmp_path / "run", progress=False)
    model, total, n = run.model(), 0.0, 0
    for graph in ShardStore(shards).graphs():
        if graph.labels["split"] == "test":
            near = np.zeros(graph.n_nodes, dtype=bool)
            for gene in np.flatnonzero(graph.nodes["is_gene"]):
                near[max(0, gene - 5) : gene + 6] = True
            error = (model(to_data(graph)).detach().numpy() - graph.nodes["y"]) ** 2
            total, n = total + error[near].sum(), n + near.sum()
    assert run.result["roi_window_mse"] == pytest.approx(total / n, rel=1e-5)


def test_gene_regions__end_with_their_graph():
    ptr, genes = torch.tensor([0, 3, 6]), torch.tensor([False, False, True, False, False, False])
    batch = Batch(is_gene=genes, ptr=ptr, batch=torch.tensor([0, 0, 0, 1, 1, 1]))
    assert gene_regions(batch, (-1, 1)).tolist() == [False, True, True, False, False, False]


def test_train__early_stopping(shards, tmp_path):
    # at the solution from the start: whatever follows is no better for long
    x, y = values_of(shards, "train")
    run = train(
        shards, "linear", tmp_path / "run", options={"start": float(np.polyfit(x, y, 1)[0])},
        training={"epochs": 500, "lr": 0.5, "batch_size": 2, "patience": 6, "check_every": 3}, progress=False,
    )  # fmt: skip
    assert run.result["epochs"] < 500
    assert run.result["epochs"] - run.result["best_epoch"] == 6
    assert run.metrics["epoch"].iloc[-1] == run.result["epochs"]


def test_train__replicas_are_as_if_trained_alone(shards, tmp_path):
    hyper = {"epochs": 30, "lr": 0.02, "batch_size": 4}
    both = train(shards, "linear", tmp_path / "both", options={"replicas": 3}, training=hyper, progress=False)
    torch.manual_seed(0)
    starts = torch.randn(3, 1)[:, 0].tolist()
    alone = [
        train(shards, "linear", tmp_path / f"{i}", options={"start": start}, training=hyper, progress=False)
        for i, start in enumerate(starts)
    ]
    best = int(np.argmin([run.result["val_loss"] for run in alone]))
    found, want = weights(both), weights(alone[best])
    assert int(found["chosen"]) == best
    np.testing.assert_allclose(found["slope"][best], want["slope"][0], rtol=1e-5)
    assert both.result["val_loss"] == pytest.approx(alone[best].result["val_loss"], rel=1e-5)
    assert both.result["n_parameters"] == 2


def test_train__hooks_of_a_model(shards, tmp_path):
    run = train(
        shards, "scheduled", tmp_path / "run", options={"start": 0.5},
        training={"epochs": 3, "lr": 0.01, "batch_size": 100}, progress=False,
    )  # fmt: skip
    x, y = values_of(shards, "train")
    slope, shift = 0.5, 0.0
    for epoch in range(3):  # its loss is that of the epoch times its number, its rate falls to 0
        rate, error = 0.01 * (1 - epoch / 3) * (epoch + 1), slope * x + shift - y
        slope, shift = slope - rate * 2 * np.mean(error * x), shift - rate * 2 * np.mean(error)
    last = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    np.testing.assert_allclose([float(last["model.slope"]), float(last["model.shift"])], [slope, shift], rtol=1e-5)


def test_train__closed_form(shards, tmp_path):
    run = train(shards, "mean-of-y", tmp_path / "run", progress=False)
    mean = values_of(shards, "train")[1].mean()
    assert float(load_model(run.path).mean) == pytest.approx(mean, rel=1e-5)
    assert run.result["test_mse"] == pytest.approx(np.mean((values_of(shards, "test")[1] - mean) ** 2), rel=1e-5)
    assert (run.result["best_epoch"], run.result["epochs"], len(run.metrics)) == (1, 1, 1)


def test_train__bins_out_of_the_mask_do_not_count(by_chromosome, tmp_path):
    run = train(by_chromosome, "linear", tmp_path / "run", fold=1, training={"epochs": 1}, progress=False)
    assert run.description["options"] == {"in_channels": 2}
    model, errors = run.model(), []
    for graph in ShardStore(by_chromosome).graphs():
        if graph.labels["chrom"] in ("chr2", "chr12"):
            errors.append((model(to_data(graph)).detach().numpy() - graph.nodes["y"])[1:] ** 2)
    assert run.result["test_mse"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    assert run.result["roi_mse"] is None


def test_train__a_loss_that_is_never_finite(shards, tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match="run: the loss is not finite after epoch 1, no weights are usable"):
            train(shards, "exploding", tmp_path / "run", progress=False)


def odd_shards(path, **nodes):
    """Three graphs of two bins, a split each, some variables of their nodes replaced."""
    path.mkdir()
    none = np.zeros(0, np.int32)
    known = {"x": np.ones((2, 1), np.float32), "y": np.ones(2, np.float32), **nodes}
    splits = ("train", "validation", "test")
    graphs = [Graph(name, 2, none, none, known, labels={"split": name}) for name in splits]
    finish_shards(path, write_shard(path / "shard-00000000.zarr", graphs), {})
    return path


def test_train__names_what_is_not_finite(tmp_path):
    shards = odd_shards(tmp_path / "shards", y=np.array([1, np.nan], np.float32))
    with pytest.raises(InputError, match="no weights are usable; .* graph 'train' has NaN or infinity in 'y'"):
        train(shards, "linear", tmp_path / "steps", progress=False)
    for model in ("ridge", "nnls"):
        with pytest.raises(InputError, match="graph 'train' has NaN or infinity in 'y'"):
            train(shards, model, tmp_path / model, progress=False)
        assert not (tmp_path / model).exists()


@pytest.mark.parametrize(
    ("model", "more", "nodes", "message"),
    [
        ("linear", {"options": {"in_channels": 3}}, {}, "model 'linear' cannot be trained on these graphs .RuntimeErr"),
        ("two-way-windows", {"options": {"in_channels": 3}}, {}, "x is wanted with 3 columns"),
        ("ridge", {"options": {"in_channels": 3}}, {}, "x is wanted with 3 columns"),
        (
            "linear",
            {},
            {"loss_mask": np.zeros(2, bool)},
            "loss_mask leaves out all bins of the graphs with .split == 'validation'",
        ),
        ("gcn", {"options": {"edge_weight": "oe"}}, {}, "edge_weight is 'oe', but the edges have no weights"),
    ],
)
def test_train__what_it_cannot_learn_from_leaves_no_folder(tmp_path, model, more, nodes, message):
    shards = odd_shards(tmp_path / "shards", **nodes)
    with pytest.raises(InputError, match=message):
        train(shards, model, tmp_path / "run", progress=False, **more)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["shards"]


def test_train__leaves_the_random_numbers_of_others(shards, tmp_path):
    torch.manual_seed(3)
    want = torch.randn(2)
    torch.manual_seed(3)
    train(shards, "linear", tmp_path / "run", training={"epochs": 1}, progress=False)
    assert torch.equal(torch.randn(2), want)


# -- going on ------------------------------------------------------------------------------------------------------

NOISY = {"epochs": 9, "batch_size": 3, "check_every": 2, "lr": 0.02}


class Killed(BaseException):
    pass


def interrupted(monkeypatch, at, shards, out, **more):
    """A training that ends in the middle of epoch ``at``."""
    step = task.TrainingTask._step_loss

    def last_step(self, batch, epoch):
        if epoch == at and self._n % 3 == 1:
            raise Killed
        return step(self, batch, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(task, "SAVE_EVERY_S", 0.0)
        patch.setattr(task.TrainingTask, "_step_loss", last_step)
        with pytest.raises(Killed):
            train(shards, out=out, progress=False, **more)


@pytest.mark.parametrize("model", ["linear", "scheduled"])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_train__goes_on_bit_for_bit(monkeypatch, shards, tmp_path, model, at):
    ask = {"model": model, "options": {"dropout": 0.3}, "training": NOISY}
    whole = train(shards, out=tmp_path / "whole", progress=False, **ask)
    interrupted(monkeypatch, at, shards, tmp_path / "run", **ask)
    with pytest.raises(StoreError, match="the training has not ended"):
        _ = Run(tmp_path / "run").result
    run = train(shards, out=tmp_path / "run", progress=False, **ask)
    assert_same(weights(run), weights(whole))
    pd.testing.assert_frame_equal(run.metrics, whole.metrics, check_exact=True)
    ends = [torch.load(r.path / "checkpoints" / "last.ckpt", weights_only=True) for r in (run, whole)]
    assert_same(ends[0]["state_dict"], ends[1]["state_dict"])


def test_train__killed_between_training_and_result(shards, tmp_path):
    run = train(shards, "linear", tmp_path / "run", progress=False)
    before = {name: value for name, value in run.result.items() if name != "train_s"}
    (run.path / "result.json").unlink()
    again = train(shards, "linear", tmp_path / "run", progress=False)
    found = {name: value for name, value in again.result.items() if name != "train_s"}
    assert found == pytest.approx(before, rel=1e-12)


def test_train__finished_is_returned_at_once(shards, tmp_path):
    first = train(shards, "linear", tmp_path / "run", progress=False)
    stamp = (first.path / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    train(shards, "linear", tmp_path / "run", progress=False)
    assert (first.path / "checkpoints" / "best.ckpt").stat().st_mtime_ns == stamp


def test_train__other_parameters_are_refused(shards, tmp_path):
    out = tmp_path / "run"
    train(shards, "linear", out, progress=False)
    for ask, word in (
        ({"model": "linear", "training": {"lr": 0.5}}, "'training.lr' is 0.001 there, 0.5 asked for"),
        ({"model": "linear", "options": {"dropout": 0.5}}, "'options.dropout' is None there, 0.5 asked for"),
        ({"model": "linear", "test": "split == 'test' and number > 0"}, "'splits.test' is"),
        ({"model": "mean-of-y"}, "'model' is 'linear' there, 'mean-of-y' asked for"),
    ):
        with pytest.raises(ResumeError, match=word):
            train(shards, out=out, progress=False, **ask)
    run = train(shards, "linear", out, training={"epochs": 1}, overwrite=True, progress=False)
    assert run.result["epochs"] == 1


def test_train__a_folder_of_something_else_stays(shards, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="it is not overwritten"):
        train(shards, "linear", tmp_path, overwrite=True, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_train__a_run_that_never_saved_is_replaced(monkeypatch, shards, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(task.TrainingTask, "_step_loss", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(shards, "linear", tmp_path / "run", progress=False)
    run = train(shards, "linear", tmp_path / "run", training={"lr": 0.5, "epochs": 1}, progress=False)
    assert run.description["training"]["lr"] == 0.5


def test_train__a_damaged_checkpoint(monkeypatch, shards, tmp_path):
    interrupted(monkeypatch, 5, shards, tmp_path / "run", model="linear", training=NOISY)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="last.ckpt: damaged"):
        train(shards, "linear", tmp_path / "run", training=NOISY, progress=False)


# -- the order of graphs -------------------------------------------------------------------------------------------


def test_train__does_not_depend_on_where_the_graphs_are(by_chromosome, tmp_path):
    runs = [
        train(
            by_chromosome, "linear", tmp_path / f"{in_memory}", fold=2, options={"dropout": 0.2},
            training={"in_memory": in_memory, "epochs": 2, "batch_size": 2}, progress=False,
        )
        for in_memory in (True, False)
    ]  # fmt: skip
    assert_same(weights(runs[0]), weights(runs[1]))


def test_train__lightning_takes_the_same_steps(shards, tmp_path):
    # one process under ddp leaves every step to Lightning; here they are taken at once
    ask = {"options": {"dropout": 0.3}, "training": {**NOISY, "accelerator": "cpu", "gradient_clip": 0.5}}
    plain = train(shards, "linear", tmp_path / "plain", progress=False, **ask)
    ask["training"]["strategy"] = "ddp"
    lightning = train(shards, "linear", tmp_path / "ddp", progress=False, **ask)
    np.testing.assert_allclose(weights(lightning)["slope"], weights(plain)["slope"], rtol=1e-5)
    np.testing.assert_allclose(lightning.metrics["train_loss"], plain.metrics["train_loss"], rtol=1e-5)


@pytest.mark.parametrize("world_size", [1, 3])
def test_batches__in_memory_are_those_of_the_stream(by_chromosome, world_size):
    for rank in range(world_size):
        ask = {"rank": rank, "world_size": world_size, "seed": 5}
        stream = ShardDataset(by_chromosome, even=True, buffer=64, **ask)
        kept = GraphSet(ShardStore(by_chromosome), "n_nodes > 0", in_memory=True).batches(4, shuffle=True, **ask)
        for epoch in range(2):
            stream.set_epoch(epoch)
            kept.set_epoch(epoch)
            found = [name for batch in kept for name in batch.name]
            assert found == [data.name for data in stream]
            assert len(kept) == -(-len(found) // 4)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches__one_of_all_graphs_is_in_the_order_of_the_index(by_chromosome, in_memory):
    # in another order sums are rounded otherwise
    graphs = GraphSet(ShardStore(by_chromosome), "n_nodes > 0", in_memory=in_memory)
    for epoch in range(2):
        batches = graphs.batches(64, shuffle=True, seed=5)
        batches.set_epoch(epoch)
        assert [batch.name for batch in batches] == [graphs.index["name"].tolist()]


def test_join__is_what_pyg_makes(by_chromosome):
    graphs = [to_data(graph) for graph in ShardStore(by_chromosome).graphs()][:5]
    found, want = join(graphs), Batch.from_data_list(graphs)
    assert set(found.keys()) == set(want.keys())
    for name in want.keys():  # noqa: SIM118
        if isinstance(want[name], torch.Tensor):
            assert torch.equal(found[name], want[name]), name
            assert found[name].dtype == want[name].dtype, name
        else:
            assert found[name] == want[name], name
    assert (found.num_graphs, found.num_nodes) == (want.num_graphs, want.num_nodes)


# -- losses --------------------------------------------------------------------------------------------------------


def test_losses__equal_their_formulas():
    rng = np.random.default_rng(2)
    mu, y, mask = rng.random((2, 9)) * 4, rng.poisson(2.0, 9).astype(float), rng.random(9) < 0.6
    e = np.abs(mu - y)
    log_factorial = np.array([np.log(np.arange(1, int(v) + 1)).sum() for v in y])
    want = {
        "mse": e**2,
        "poisson": mu - y * np.log(mu) + log_factorial,
        "huber": np.where(e <= 0.7, e**2 / 2, 0.7 * (e - 0.35)),
    }
    for name, values in want.items():
        found = losses.mean_loss(name, delta=0.7)(*map(torch.tensor, (mu, y, mask)))
        np.testing.assert_allclose(found.numpy(), values[:, mask].mean(1), rtol=1e-12)
    empty = losses.mean_loss("mse")(torch.ones(1, 2), torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    assert empty.tolist() == [0.0]
    assert torch.isfinite(losses.poisson(torch.zeros(1), torch.ones(1))).all()


@pytest.mark.parametrize("name", ["mse", "poisson", "huber"])
def test_losses__a_masked_target_that_is_not_known_leaves_the_gradient(name):
    gradients = []
    for y in ([1.0, 0.5, 3.0], [1.0, float("nan"), 3.0]):
        prediction = torch.tensor([[2.0, 2.0, 2.0]], requires_grad=True)
        losses.mean_loss(name)(prediction, torch.tensor(y), torch.tensor([True, False, True])).sum().backward()
        gradients.append(prediction.grad.tolist())
    assert gradients[0] == gradients[1]
    assert gradients[0][0][1] == 0


# -- who may see what ----------------------------------------------------------------------------------------------


def test_fold_of__the_rule_of_graphreg():
    for i in range(1, 11):
        fold = fold_of(i, HUMAN)
        assert fold.validation == (f"chr{i}", f"chr{i + 10}")
        assert fold.test == (f"chr{i + 1}", f"chr{i + 11}")
        assert sorted([*fold.train, *fold.validation, *fold.test]) == sorted(HUMAN[:22])
    wrapped = {8: ("8", "18", "9", "19"), 9: ("9", "19", "1", "10"), 10: ("1", "10", "2", "11")}
    for i, numbers in wrapped.items():
        fold = fold_of(i, MOUSE, "mouse")
        assert [*fold.validation, *fold.test] == [f"chr{n}" for n in numbers]
        assert len(fold.train) == 15
    with pytest.raises(InputError, match="fold is 11, want 1 to 10"):
        fold_of(11, HUMAN)
    with pytest.raises(InputError, match="fold 5 has no chromosome for validation: want one of 5, 15, found chr1"):
        fold_of(5, ["chr1", "chrX"])


def test_fold_of__counts_chromosomes_only():
    others = ["scaffold_12", "chrUn_7", "chr4_random", "chr01_alt"]
    assert fold_of(2, [*HUMAN, *others]) == fold_of(2, HUMAN)
    assert fold_of(2, [*HUMAN, "chr3"]) == fold_of(2, HUMAN)
    for both in (["hg38_chr1", "mm10_chr1"], ["1", "chr1"]):
        with pytest.raises(InputError, match=f"chromosomes '{both[0]}' and '{both[1]}' have one number"):
            fold_of(2, [*HUMAN[1:], *both])


def test_choose_split__no_chromosome_is_in_two_sets(by_chromosome, shards, tmp_path):
    store = ShardStore(by_chromosome)
    ask = {"train": "chrom in ['chr1', 'chr3']", "validation": "chrom == 'chr2'", "test": "chrom in ['chr3', 'chr4']"}
    with pytest.raises(InputError, match="chromosome 'chr3' is in both train and test"):
        choose_split(store, **ask)
    with pytest.raises(InputError, match="chromosome 'chr2' is in both validation and test"):
        train(by_chromosome, "linear", tmp_path / "run", **{**ask, "test": "chrom in ['chr2', 'chr4']"})
    with pytest.raises(InputError, match="graph 'train-000000' is in both train and validation"):
        choose_split(ShardStore(shards), validation="number == 0 and split != 'test'")
    with pytest.raises(InputError, match="no column 'split' and there is no condition for 'test'; give a fold"):
        choose_split(store, train="chrom == 'chr1'", validation="chrom == 'chr2'")
    with pytest.raises(InputError, match="give a fold or the condition 'train', not both"):
        choose_split(store, fold=1, **ask)
    with pytest.raises(InputError, match="no graph satisfies"):
        choose_split(store, **{**ask, "test": "chrom == 'chr99'"})
    with pytest.raises(InputError, match="is no condition on its index"):
        choose_split(store, **{**ask, "test": "colour == 1"})
    for no_condition in ("chrom", "n_nodes + 1", "True"):  # pandas would take the second for row numbers
        with pytest.raises(InputError, match="is no condition on its index .it is not true or false in each row"):
            choose_split(store, **{**ask, "test": no_condition})
    assert not (tmp_path / "run").exists()


def test_training_options__names_what_is_wrong():
    with pytest.raises(InputError, match="training: key 'rate': unknown key"):
        training_options({"rate": 1})
    with pytest.raises(InputError, match="training: key 'loss'"):
        training_options({"loss": "mae"})
    with pytest.raises(InputError, match="want at least 1"):
        training_options({"devices": 0})


# -- the command line ----------------------------------------------------------------------------------------------

PROCESS = """
import sys
sys.path.insert(0, {tests!r})
import tiny_models
tiny_models.register()
from enhancer_dask.cli import main
main()
"""


def command(tmp_path, *words, ok=True):
    """The command in a process of its own that knows the models of the tests."""
    script = tmp_path / "command.py"
    script.write_text(PROCESS.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=environment,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_command__two_processes_share_the_graphs(shards, tmp_path):
    words = ("train", shards, "--model", "linear", "--batch-size", 2, "--epochs", 4, "--check-every", 2, "--seed", 1)
    two = ("--accelerator", "cpu", "--devices", 2, "--strategy", "ddp")
    done = command(tmp_path, *words, *two, "--out", "two")
    assert len(done.stdout.splitlines()) == 1  # one of them speaks
    result = json.loads(done.stdout)
    metrics = pd.read_csv(tmp_path / "two" / "metrics.csv")
    # 7 graphs: 3 for each, in 2 batches; a step is one of both
    assert metrics["step"].tolist() == [4, 8]
    assert done.stderr.splitlines() == [
        "linear: 2 parameters; 7 graphs for training, 3 graphs for validation, 3 graphs for test"
    ]
    best = load_model(tmp_path / "two")
    for split, key in (("validation", "val_loss"), ("test", "test_mse")):  # every graph counts once, whoever read it
        x, y = values_of(shards, split)
        error = np.mean((best.slope.item() * x + best.shift.item() - y) ** 2)
        assert result[key] == pytest.approx(error, rel=1e-5)


def test_command__errors_are_one_line(shards, tmp_path):
    from typer.testing import CliRunner

    from enhancer_dask.cli import app

    def error(*words):
        found = CliRunner().invoke(app, ["train", str(shards), "--out", str(tmp_path / "run"), *words]).exception
        return f"{type(found).__name__}: {found}"

    assert error("--model", "perceptron").startswith("InputError: model is 'perceptron', want one of")
    assert "no option 'width', it has in_channels, replicas, dropout, start" in error(
        "--model", "linear", "--width", "3"
    )
    assert "--option is 'width'; want KEY=VALUE" in error("--model", "linear", "--option", "width")
    assert "training: key 'epochs'" in error("--model", "linear", "--epochs", "0")
    assert "--fold is 'x'; want 1 to 10, or all" in error("--model", "linear", "--fold", "x")
    assert "has no column 'chrom', which a fold wants" in error("--model", "linear", "--fold", "3")
    assert "--script wants one of kind slurm" in error("--model", "linear", "--script", "--profile", "local")
    assert "training: accelerator gpu, devices 1" in error("--model", "linear", "--accelerator", "gpu") or (
        torch.cuda.is_available()
    )


def test_batch_script__is_the_job_of_a_profile():
    profile = SlurmProfile(
        memory="32GB", partition="gpu", account="lab", cores=8, gpus=2, walltime="04:00:00", constraint="a100",
        directives=["--qos=long"], prologue=["module load cuda"], python="/env/bin/python",
    )  # fmt: skip
    text = batch_script(profile, ["train", "my shards", "--model", "gcn", "--out", "run"], processes=2)
    lines = text.splitlines()
    assert lines[:16] == [
        "#!/bin/bash",
        "#SBATCH --job-name=enhancer-dask",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=30517M",
        "#SBATCH --time=04:00:00",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --constraint=a100",
        "#SBATCH --output=enhancer-dask-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --qos=long",
    ]
    assert "export OMP_NUM_THREADS=4" in lines
    assert lines.index("module load cuda") < lines.index(
        "/env/bin/python -m enhancer_dask.cli train 'my shards' --model gcn --out run &"
    )
    short = batch_script(SlurmProfile(memory="1GB", walltime="3"), ["train"])
    assert "--signal=B:USR1@60" in short
    assert "--gres" not in short


@pytest.mark.parametrize(("takes", "code", "says"), [(0.1, 0, ""), (30, 143, "queued again")])
def test_batch_script__queues_itself_again_when_the_time_is_up(tmp_path, takes, code, says):
    # a stand-in for the command, and for scontrol
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho scontrol $*\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "python").write_text(f"#!/bin/bash\necho begun\nexec sleep {takes}\n")
    (tmp_path / "python").chmod(0o755)
    profile = SlurmProfile(memory="1GB", walltime="10", python=str(tmp_path / "python"))
    (tmp_path / "job.sh").write_text(batch_script(profile, ["train"]))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "begun\n"
    if takes > 1:
        job.send_signal(signal.SIGUSR1)
    out = job.communicate(timeout=30)[0]
    assert job.returncode == code
    assert says in out
    assert ("scontrol requeue 7" in out) == bool(says)
