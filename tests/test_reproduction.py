"""Bell's tables once more: what they hold is what the weights of the runs give, and a second call changes nothing."""

import json
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from enhancer_dask.cli import main, reproducing
from enhancer_dask.errors import InputError, ResumeError
from enhancer_dask.shard_store import ShardStore

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

from enhancer_dask import reproduction  # noqa: E402
from enhancer_dask.models import training  # noqa: E402
from enhancer_dask.models.data import to_data  # noqa: E402
from enhancer_dask.models.runs import load_model  # noqa: E402
from enhancer_dask.reproduction import DATASETS, POOL, reproduce_bell, training_of  # noqa: E402

MODELS = ("epi-cnn", "two-way-windows", "ridge")
SMALL = ["--epochs", "2", "--seeds", "1", "--test-chromosomes", "2", "--no-progress"]
FIRST = ["dataset", "model", "seed", "parameters", "test_mse", "roi_mse"]
REPORT = {  # test MSE, MSE over regions of interest
    ("enhancers", "epi-cnn"): (1.105, 0.373), ("enhancers", "epi-graphreg"): (0.199, 0.045),
    ("silencers", "epi-cnn"): (0.524, 0.189), ("silencers", "epi-graphreg"): (0.140, 0.062),
}  # fmt: skip


@contextmanager
def in_threads(n_workers=1):
    """Workers as threads of this process, where all is imported already."""
    with (
        LocalCluster(n_workers, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def command_in(folder):
    """``enhancer-dask reproduce bell`` in this process; a call returns its exit code."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(reproducing, "cluster_source", lambda *_: in_threads)

        def call(*words):
            patch.setattr(sys, "argv", ["enhancer-dask", "reproduce", "bell", *words])
            with pytest.MonkeyPatch.context() as streams, pytest.raises(SystemExit) as stop:
                for stream in ("stdout", "stderr"):
                    streams.setattr(sys, stream, getattr(sys, stream))  # the command puts others there
                try:
                    main()
                finally:
                    sys.stdout.flush()
            return stop.value.code or 0

        try:
            yield call
        finally:
            for number, handler in signals.items():
                signal.signal(number, handler)


@pytest.fixture
def bell(tmp_path):
    with command_in(tmp_path) as call:
        yield call


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a small table made by the command."""
    folder = tmp_path_factory.mktemp("reproduction")
    with command_in(folder) as call:
        assert call("--out", "bell", "--models", ",".join(MODELS), "--pool", "20", *SMALL) == 0
    return folder / "bell"


def again(made, call):
    """The same command once more."""
    return call("--out", str(made), "--models", ",".join(MODELS), "--pool", "20", *SMALL)


@pytest.fixture(scope="module")
def table(made):
    return pd.read_csv(made / "table.csv").set_index(["dataset", "model"])


def to_judge_by(made, dataset):
    """Test chromosomes of a data set."""
    return [g for g in ShardStore(made / "data" / f"{dataset}-0").graphs() if g.labels["split"] == "test"]


def trained_at(made):
    return {file: file.stat().st_mtime_ns for file in made.glob("runs/*/checkpoints/best.ckpt")}


def test_table__has_a_row_of_every_model_beside_the_published(made, table):
    columns = pd.read_csv(made / "table.csv").columns
    assert list(columns[:6]) == FIRST
    assert {"floor_mse", "train_s", "published_mse", "published_roi_mse"} <= set(columns)
    assert list(table.index) == [(dataset, model) for dataset in DATASETS for model in (*MODELS, POOL)]
    for where, row in table.iterrows():
        want = REPORT.get(where, (np.nan, np.nan))
        np.testing.assert_array_equal((row["published_mse"], row["published_roi_mse"]), want)
    assert (table[["test_mse", "roi_mse", "floor_mse", "train_s", "parameters"]] > 0).all(axis=None)
    assert (table["epochs"].drop("ridge", level="model") == 2).all()
    assert table["parameters"].max() < 100_000


def test_tables__for_people_have_both_numbers_and_the_caveat(made, table):
    text = (made / "tables.md").read_text()
    assert text.startswith(reproduction.CAVEAT)
    for (dataset, model), (mse, roi) in REPORT.items():
        if (dataset, model) in table.index:
            row = table.loc[(dataset, model)]
            assert f"| {row['test_mse']:.3f} ({mse:.3f}) |" in text
            assert f"| {row['roi_mse']:.3f} ({roi:.3f}) |" in text
    assert text.count("| ridge | 133 |") == 2


def test_published__are_the_numbers_of_the_report():
    assert reproduction.PUBLISHED == REPORT


@pytest.mark.parametrize("model", [*MODELS, POOL])
@pytest.mark.parametrize("dataset", DATASETS)
def test_table__errors_are_those_of_the_weights(made, table, dataset, model):
    network = load_model(made / "runs" / f"{dataset}-0-{model}")
    errors, near = [], []
    for graph in to_judge_by(made, dataset):
        with torch.no_grad():
            errors.append(np.square(network(to_data(graph)).numpy().astype(np.float64) - graph.nodes["y"]))
        mask = np.zeros(graph.n_nodes, dtype=bool)
        for gene in np.flatnonzero(graph.nodes["is_gene"]):
            mask[max(0, gene - 3) : gene + 2] = True
        near.append(mask)
    errors, near = np.concatenate(errors), np.concatenate(near)
    assert len(errors) == 2_000
    assert table.loc[(dataset, model), "test_mse"] == pytest.approx(errors.mean(), rel=1e-4)
    assert table.loc[(dataset, model), "roi_mse"] == pytest.approx((errors * near).mean(), rel=1e-4)


def test_table__floor_is_the_noise(made, table):
    for dataset in DATASETS:
        noise = [g.nodes["y"].astype(float) - g.nodes["y_noiseless"] for g in to_judge_by(made, dataset)]
        assert table.loc[dataset, "floor_mse"].to_numpy() == pytest.approx(np.mean([one.var() for one in noise]))


def test_pool__is_of_other_chromosomes(made):
    pool, few = (ShardStore(made / "data" / f"silencers-0{suffix}") for suffix in ("-pool", ""))
    assert (pool.index["split"] == "train").sum() == 20
    signals = [{g.nodes["x"].tobytes() for g in store.graphs()} for store in (pool, few)]
    assert not signals[0] & signals[1]


def test_command__says_the_caveat_and_shows_whole_names(made, bell, capfd):
    assert again(made, bell) == 0
    out, err = capfd.readouterr()
    assert "ridge regression on linked windows solves the data set 'enhancers'" in err
    shown = [line.split() for line in err.splitlines() if line.startswith(DATASETS)]
    assert [(words[0], words[1]) for words in shown] == [(d, m) for d in DATASETS for m in (*MODELS, POOL)]
    assert "1.105" in shown[0]
    assert "0.524" in shown[4]
    files = json.loads(out)["files"]
    assert [file.rpartition("/")[2] for file in files] == [
        "table.csv", "summary.csv", "tables.md", "models.png", "models.svg",
    ]  # fmt: skip
    assert all((made / file.rpartition("/")[2]).stat().st_size for file in files)


def test_command__a_second_call_trains_nothing(made, bell, monkeypatch):
    before, files = trained_at(made), [made / name for name in ("table.csv", "summary.csv", "models.svg")]
    contents = [file.read_bytes() for file in files]
    monkeypatch.setattr(training, "train", None)
    assert again(made, bell) == 0
    assert trained_at(made) == before
    assert len(before) == 8
    assert [file.read_bytes() for file in files] == contents
    assert not made.with_name("bell.parts").exists()


def test_command__runs_that_are_there_are_not_trained_again(made, bell, table):
    before = trained_at(made)
    (made / "table.parquet").unlink()
    assert again(made, bell) == 0
    assert trained_at(made) == before
    pd.testing.assert_frame_equal(pd.read_csv(made / "table.csv").set_index(["dataset", "model"]), table)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--epochs", "3"], "'epochs' is 2 there, 3 asked for"),
        (["--test-chromosomes", "3"], "'test_chromosomes' is 2 there, 3 asked for"),
        (["--models", "ridge"], "'models' is"),
    ],
)
def test_command__other_parameters_are_refused(made, bell, capfd, words, says):
    assert bell("--out", str(made), "--models", ",".join(MODELS), "--pool", "20", *SMALL, *words) > 0
    err = capfd.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert ShardStore(made / "data" / "enhancers-0").params["n_test"] == 2


def test_reproduce__what_was_begun_is_not_replaced_unless_asked(tmp_path, monkeypatch):
    # stopped before its table was written
    options = {"seeds": 1, "models": ["two-way-windows"], "progress": False}
    with in_threads() as client:
        monkeypatch.setattr(reproduction, "write_parquet", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reproduce_bell(tmp_path / "out", test_chromosomes=1, epochs=1, client=client, **options)
        monkeypatch.undo()
        with pytest.raises(ResumeError, match="'test_chromosomes' is 1 there, 2 asked for"):
            reproduce_bell(tmp_path / "out", test_chromosomes=2, epochs=2, client=client, **options)
        assert ShardStore(tmp_path / "out" / "data" / "enhancers-0").params["n_test"] == 1
        made = reproduce_bell(
            tmp_path / "out", test_chromosomes=2, epochs=2, client=client, overwrite=True, **options
        )  # fmt: skip
    assert made.table["epochs"].tolist() == [2, 2]


def test_write_chromosomes__notices_another_preset(monkeypatch, tmp_path):
    def written():
        reproduction.write_chromosomes(tmp_path, {("silencers", 0)}, 1)
        store = ShardStore(tmp_path / "silencers-0")
        return store.params["expression_noise"], (store.path / "shards.json").stat().st_mtime_ns

    monkeypatch.setattr(reproduction, "N_TRAIN", 1)
    first = written()
    assert written() == first
    design = reproduction.preset_design("silencers", expression_noise=0.25)
    monkeypatch.setattr(reproduction, "preset_design", lambda _: design)
    assert written()[0] == 0.25 != first[0]


def test_reproduce__same_table_on_two_workers(made, table, tmp_path):
    with in_threads(2) as client:
        found = reproduce_bell(
            tmp_path / "out", seeds=1, test_chromosomes=2, epochs=2, models=["ridge", "two-way-windows", "ridge"],
            client=client, progress=False,
        )  # fmt: skip
    have = found.table.set_index(["dataset", "model"])
    assert len(have) == 4  # a model that is named twice is trained once
    pd.testing.assert_frame_equal(have.drop(columns="train_s"), table.loc[have.index].drop(columns="train_s"))


def test_reproduce__seeds_are_other_chromosomes(made, table, tmp_path):
    with in_threads() as client:
        found = reproduce_bell(
            tmp_path / "out", seeds=2, seed_offset=1, test_chromosomes=1, models=["ridge"], client=client,
            progress=False,
        )  # fmt: skip
    assert found.table["seed"].tolist() == [1, 2, 1, 2]
    errors = [*found.table["test_mse"], *table.xs("ridge", level="model")["test_mse"]]
    assert len(set(errors)) == 6
    by_hand = found.table.groupby("dataset")["test_mse"]
    summary = found.summary.set_index("dataset")
    np.testing.assert_allclose(summary["test_mse"], by_hand.mean())
    np.testing.assert_allclose(summary["test_mse_sd"], by_hand.std())
    assert summary["seeds"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "ridge,gnc"], "error: model is 'gnc', want one of epi-cnn, epi-graphreg, "),
        (["--models", "graphreg-epi"], "error: model 'graphreg-epi' reads other features than signal per bin"),
    ],
)
def test_command__a_model_that_cannot_be_is_one_line(bell, capfd, tmp_path, words, says):
    assert bell("--out", "new", *SMALL, *words) > 0
    err = capfd.readouterr().err
    assert err.startswith(says)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_reproduce__numbers_that_make_no_sense(tmp_path):
    for name, value in (("seeds", 0), ("seed_offset", -1), ("test_chromosomes", 0), ("pool", -1), ("epochs", 0)):
        with pytest.raises(InputError, match=f"{name} is {value}, want at least"):
            reproduce_bell(tmp_path / "out", **{name: value})


def test_training_of__epochs_are_a_limit_and_not_a_wish():
    many, few = ({"epochs": n, "patience": 30} for n in (10_000, 2))
    assert [training_of(name, 0, many)["epochs"] for name in ("gcn", "two-way-windows", POOL)] == [1000, 600, 15]
    assert [training_of(name, 0, few)["epochs"] for name in ("gcn", "two-way-windows", POOL)] == [2, 2, 2]
    assert "epochs" not in training_of("ridge", 0, few)
