"""Many trainings as tasks: every one is what it would be alone, the table says so, and nothing is trained twice."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from enhancer_dask.errors import ChunkError, InputError, ResumeError
from enhancer_dask.shard_store import ShardStore
from enhancer_dask.simulate.chromosomes import ChromosomeDesign, simulate_chromosomes

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models  # noqa: E402

from enhancer_dask.models import graph_data  # noqa: E402
from enhancer_dask.models import trials as many  # noqa: E402
from enhancer_dask.models.runs import Run  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402
from enhancer_dask.models.trials import run_trials, trials_of  # noqa: E402
from enhancer_dask.models.tuning import axis_of, points, tune  # noqa: E402

tiny_models.register()
QUICK = {"epochs": 2, "batch_size": 100, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuning") / "shards"
    simulate_chromosomes(out, ChromosomeDesign(bins=60, genes=2, enhancers=3), n_train=4, n_validation=2, n_test=2)
    return out


@pytest.fixture(scope="module")
def threads():
    """Two workers in this process, which know the models of the tests."""
    with (
        LocalCluster(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_tune__every_row_is_a_training_of_its_own(shards, threads, tmp_path):
    table = tune(
        shards, "linear", tmp_path / "search", ["lr=0.3,0.001", "dropout=0,0.5"], seeds=2, training=QUICK,
        client=threads, progress=False,
    )  # fmt: skip
    assert len(table) == 8
    assert set(zip(table["lr"], table["dropout"], table["seed"], strict=True)) == {
        (lr, dropout, seed) for lr in (0.3, 0.001) for dropout in (0, 0.5) for seed in (0, 1)
    }
    assert table["val_loss"].is_monotonic_increasing
    assert table["parameters"].tolist() == [2] * 8
    for row in table.iloc[[0, 5]].itertuples():
        alone = train(
            shards, "linear", tmp_path / f"alone-{row.Index}", options={"dropout": row.dropout},
            training={**QUICK, "lr": row.lr, "seed": row.seed}, progress=False,
        )  # fmt: skip
        result = Run(tmp_path / "search" / row.run).result
        for name in ("val_loss", "test_mse", "roi_mse", "best_epoch"):
            assert getattr(row, name) == alone.result[name] == result[name]
    read = pd.read_csv(tmp_path / "search" / "table.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(read, table, check_dtype=False, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "search" / "table.parquet"), table)


def test_tune__goes_on_with_what_is_missing(monkeypatch, shards, threads, tmp_path):
    ask = {"grid": ["lr=0.1,0.2,0.3"], "training": QUICK, "client": threads, "progress": False}
    trained, fit = [], many.train

    def counted(shards, model, out, **more):
        trained.append(out.name)
        if out.name == "trial-0002" and trained.count("trial-0002") == 1:
            raise InputError("the disk of this node is full")
        return fit(shards, model, out, **more)

    monkeypatch.setattr(many, "train", counted)
    with pytest.raises(ChunkError, match="tune: 1 of 3 chunks failed, .* First: chunk 1: the disk of this node"):
        tune(shards, "linear", tmp_path / "search", **ask)
    assert sorted(trained) == ["trial-0001", "trial-0002", "trial-0003"]
    with pytest.raises(ResumeError, match=r"'grid' is \['lr=0.1,0.2,0.3'\] there"):
        tune(shards, "linear", tmp_path / "search", **{**ask, "grid": ["lr=0.1,0.2"]})
    first = tune(shards, "linear", tmp_path / "search", **ask)
    assert sorted(trained[3:]) == ["trial-0002"]
    assert not (tmp_path / "search.parts").exists()
    again = tune(shards, "linear", tmp_path / "search", **ask)
    assert len(trained) == 4
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(ResumeError, match="'grid'"):
        tune(shards, "linear", tmp_path / "search", **{**ask, "grid": ["lr=0.1,0.2"]})
    fewer = tune(shards, "linear", tmp_path / "search", **{**ask, "grid": ["lr=0.1,0.4"]}, overwrite=True)
    assert sorted(fewer["lr"]) == [0.1, 0.4]
    assert Run(tmp_path / "search" / "trial-0002").description["training"]["lr"] == 0.4


def test_tune__a_training_that_diverges_is_a_row(shards, threads, tmp_path):
    table = tune(
        shards, "exploding", tmp_path / "search", ["lr=0.1,0.2"], training=QUICK, client=threads, progress=False
    )
    assert table["val_loss"].isna().all()
    assert table["parameters"].tolist() == [2, 2]


def test_tune__a_searched_number_of_epochs_is_not_what_was_done(shards, threads, tmp_path):
    training = {"lr": 1e-9, "patience": 1, "accelerator": "cpu"}
    table = tune(shards, "linear", tmp_path / "search", ["epochs=3,6"], training=training, client=threads,
                 progress=False)  # fmt: skip
    assert set(table["epochs"]) == {3, 6}
    done = {row.run: Run(tmp_path / "search" / row.run).result["epochs"] for row in table.itertuples()}
    assert table["epochs_done"].tolist() == [done[name] for name in table["run"]]


def test_tune__no_edge_weight_has_a_name(shards, threads, tmp_path):
    table = tune(
        shards, "ridge", tmp_path / "search", ["edge_weight=none,sign"], client=threads, progress=False
    )  # fmt: skip
    weights = {row.edge_weight: Run(tmp_path / "search" / row.run).description["options"] for row in table.itertuples()}
    assert {name: options["edge_weight"] for name, options in weights.items()} == {"none": None, "sign": "sign"}


def test_tune__in_the_current_folder(monkeypatch, shards, threads, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    table = tune(shards, "linear", ".", ["lr=0.1,0.2"], training=QUICK, client=threads, progress=False)
    assert {file.name for file in (tmp_path / "here").iterdir()} == {*table["run"], "table.csv", "table.parquet"}


def test_trials__their_parts_do_not_depend_on_the_current_folder(monkeypatch, shards, tmp_path):
    kept = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(many.chunks, "run", lambda work, *_, **__: kept.append(work) or 1 / 0)
    nbytes = int(ShardStore(shards).index["nbytes"].sum())
    # what is kept in memory is asked for, however it was decided
    for in_memory, limit, want in ((None, 10**9, nbytes), (None, 1, 0), (True, 1, nbytes), (False, 10**9, 0)):
        monkeypatch.setattr(graph_data, "IN_MEMORY_BYTES", limit)
        with pytest.raises(ZeroDivisionError):
            run_trials(shards, "linear", "runs", trials_of(training={"in_memory": in_memory}), {}, progress=False)
        assert kept[-1].nbytes(kept[-1].arguments(0)) == 3 * want
    assert kept[-1].folder == tmp_path / "runs.parts"


def test_points__random_draws_are_within_and_repeat():
    axes = dict(map(axis_of, ["lr=log:1e-4:1e-2", "dropout=0.0:0.5", "width=8:16", "norm=none,batch"]))
    drawn = points(axes, 400, seed=3)
    assert drawn[:50] == points(axes, 50, seed=3) != points(axes, 50, seed=4)
    rates = np.log10([point["lr"] for point in drawn])
    assert -4 <= rates.min() <= rates.max() <= -2
    assert abs(np.mean(rates < -3) - 0.5) < 0.1  # uniform in the logarithm: four standard errors
    assert {point["width"] for point in drawn} == set(range(8, 17))
    assert {point["norm"] for point in drawn} == {"none", "batch"}
    assert max(point["dropout"] for point in drawn) <= 0.5


def test_tune__names_what_is_wrong(shards, tmp_path):
    for grid, random, words in (
        (["wdth=1,2"], None, "grid: 'wdth' is no option of model 'linear' or its training"),
        (["lr=1,2", "lr=3"], None, "grid: 'lr' is there twice"),
        (["lr=0.1:0.2"], None, "grid 'lr' is a range; give its values, or a number of random draws"),
        (["lr=log:0:1"], 3, "want NAME=A,B or NAME=LOW:HIGH"),
        (["lr"], None, "want KEY=VALUE"),
        (["lr=1,2"], 0, "random is 0, want at least 1"),
        (["seed=1,2"], None, "'seed' is no option"),
        ([], None, "grid is empty"),
        (["devices=1,2"], None, "key 'devices': want 1 where trainings are tasks of a cluster"),
        (["dropout=0.1,2"], None, "cannot be built with .*dropout=2"),
        (["strategy=bogus"], None, "training: key 'strategy'"),
    ):
        with pytest.raises(InputError, match=words):
            tune(shards, "linear", tmp_path / "search", grid, random=random, progress=False)
    with pytest.raises(InputError, match="training: key 'seed'"):
        tune(shards, "linear", tmp_path / "search", ["lr=1,2"], training={"seed": "a"}, progress=False)
    with pytest.raises(InputError, match="training: key 'seed'"):
        trials_of(training={"seed": "a"})
    with pytest.raises(InputError, match="no column 'chrom', which a fold wants"):
        run_trials(shards, "linear", tmp_path / "search", trials_of(folds=True), {}, progress=False)
    assert not list(tmp_path.iterdir())


def test_trials__ten_folds(shards, threads, tmp_path):
    trials = trials_of(folds=True, seeds=2, split={"genome": "mouse"}, training={"seed": 5})
    assert [trial.name for trial in trials[-2:]] == ["fold-10-seed-5", "fold-10-seed-6"]
    assert [trial.split["fold"] for trial in trials] == [fold for fold in range(1, 11) for _ in range(2)]
    assert [trial.name for trial in trials_of(seeds=2)] == ["seed-0", "seed-1"]
    table = run_trials(
        shards, "mean-of-y", tmp_path / "runs", trials_of(seeds=3), {"seeds": 3}, client=threads, progress=False
    )
    assert table["run"].tolist() == ["seed-0", "seed-1", "seed-2"]
    assert len(set(table["val_loss"])) == 1  # a closed form has no seed
    others = tmp_path / "others"  # in the place of the first they must not be taken for them
    simulate_chromosomes(others, ChromosomeDesign(bins=100, genes=3, enhancers=3), n_train=1, n_validation=1, n_test=1)
    with pytest.raises(ResumeError, match="'shards' is .* there"):
        run_trials(others, "mean-of-y", tmp_path / "runs", trials_of(seeds=3), {"seeds": 3}, progress=False)
    with pytest.raises(InputError, match="is the folder of one training"):
        run_trials(shards, "mean-of-y", tmp_path / "runs" / "seed-0", trials_of(), {}, client=threads, progress=False)
