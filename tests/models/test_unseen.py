"""Models that stand on another run: what that one has seen counts as seen, and they need its folder no more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph, finish_shards, write_shard

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

from enhancer_dask.models.evaluation import evaluate  # noqa: E402
from enhancer_dask.models.predictions import predict  # noqa: E402
from enhancer_dask.models.runs import Run, with_base  # noqa: E402
from enhancer_dask.models.training import train  # noqa: E402
from enhancer_dask.models.trials import run_trials, trials_of  # noqa: E402

BASE = {"widths": [4, 4], "pools": [2], "kernel": 3, "dilated": 1, "piece": 2}
HEAD = {"form": "separate", "width": 4, "pools": [2], "heads": 1, "head_width": 2, "hidden": 4, "graph_layers": 1}
ONCE = {"epochs": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A window of each autosome, 4 bins of 4 bp."""
    out = tmp_path_factory.mktemp("bases") / "shards"
    out.mkdir()
    rng, edges, graphs = np.random.default_rng(0), np.arange(3, dtype=np.int32), []
    for number in range(1, 23):
        nodes = {
            "sequence": rng.integers(0, 4, (4, 4)).astype(np.uint8), "y": rng.random(4).astype(np.float32),
            "dnase": rng.random((4, 2)).astype(np.float32), "gene_mask": np.ones(4, bool), "x": np.ones((4, 1), "f4"),
        }  # fmt: skip
        graphs.append(Graph(f"w{number}", 4, edges, edges + 1, nodes, labels={"chrom": f"chr{number}"}))
    finish_shards(out, write_shard(out / "shard-00000000.zarr", graphs), {})
    return out


@pytest.fixture(scope="module")
def bases(shards, tmp_path_factory):
    """First stages of the folds 1 and 3, as ``--fold all`` leaves them."""
    out = tmp_path_factory.mktemp("bases") / "tracks"
    for fold in (1, 3):
        train(shards, "seq-tracks", out / f"fold-{fold:02d}", options=BASE, training=ONCE, fold=fold, progress=False)
    return out


def head(shards, out, base, **keywords):
    options = {**HEAD, "base": str(base)}
    return train(shards, "seq-graphreg", out, options=options, training=ONCE, progress=False, **keywords)


def test_train__refuses_a_base_that_saw_the_chromosomes_of_the_test(shards, bases, tmp_path):
    with pytest.raises(InputError, match=r"fold-01' saw chromosome chr14, chr4 in train, which is in test here"):
        head(shards, tmp_path / "run", bases / "fold-01", fold=3)
    assert not (tmp_path / "run").exists()
    conditions = {"train": "chrom == 'chr6'", "validation": "chrom == 'chr7'", "test": "chrom == 'chr3'"}
    with pytest.raises(InputError, match=r"saw chromosome chr3 in validation, which is in test"):
        head(shards, tmp_path / "run", bases / "fold-03", **conditions)
    with pytest.raises(InputError, match=r"saw chromosome chr7 in train, which is in validation"):
        head(shards, tmp_path / "run", bases / "fold-03", **{**conditions, "test": "chrom == 'chr4'"})
    assert head(shards, tmp_path / "run", bases / "fold-03", fold=3).is_finished


def test_evaluate__a_model_has_seen_what_its_base_saw(shards, bases, tmp_path):
    conditions = {"train": "chrom == 'chr6'", "validation": "chrom == 'chr3'", "test": "chrom == 'chr4'"}
    run = head(shards, tmp_path / "run", bases / "fold-03", **conditions)
    with pytest.raises(InputError, match=r"saw chromosome chr9 in train of its base; choose others"):
        evaluate(shards, {"m": run.path}, where="chrom == 'chr9'", accelerator="cpu")
    # a run of before, which knows the folder only
    description = json.loads((run.path / "run.json").read_text())
    description["options"]["base"] = str(bases / "fold-03")
    (run.path / "run.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"saw chromosome chr9 in train of its base; choose others"):
        evaluate(shards, {"m": run.path}, where="chrom == 'chr9'", accelerator="cpu")
    assert len(evaluate(shards, {"m": run.path}, where="chrom == 'chr14'", accelerator="cpu").predictions)


def test_separate__a_run_is_whole_without_its_base(shards, bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bases, "tracks")
    run = head(shards, "run", "tracks", fold=3)
    want = predict("run", shards, where="chrom == 'chr4'", accelerator="cpu")["prediction"]
    weights = Run(Path("tracks/fold-03")).model().state_dict()
    assert head(shards, "run", tmp_path / "tracks" / "fold-03", fold=3).result == run.result  # the same parameters
    shutil.rmtree("tracks")
    shutil.move("run", tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert predict(tmp_path / "elsewhere", shards, where="chrom == 'chr4'", accelerator="cpu")["prediction"].equals(
        want
    )
    model = Run(tmp_path / "elsewhere").model()
    assert all(torch.equal(model.base.state_dict()[name], value) for name, value in weights.items())
    assert not any(p.requires_grad for p in model.base.parameters())


def test_trials__each_fold_stands_on_its_own_base(shards, bases, tmp_path):
    trials = [
        t
        for t in trials_of(folds=True, options={**HEAD, "base": str(bases)}, training=ONCE)
        if t.split["fold"] in (1, 3)
    ]
    table = run_trials(shards, "seq-graphreg", tmp_path / "cv", trials, {}, progress=False)
    assert table["run"].tolist() == ["fold-01", "fold-03"]
    for fold in table["run"]:
        of_base = Run(bases / fold).description
        assert Run(tmp_path / "cv" / fold).description["options"]["base"]["splits"] == of_base["splits"]
    wrong = [type(t)(t.name, t.labels, {**HEAD, "base": str(bases / "fold-01")}, t.training, t.split) for t in trials]
    with pytest.raises(InputError, match="saw chromosome chr14, chr4 in train"):  # before any training
        run_trials(shards, "seq-graphreg", tmp_path / "wrong", wrong, {}, progress=False)
    assert not (tmp_path / "wrong").exists()


def test_with_base__absolute_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tracks" / "fold-03").mkdir(parents=True)
    assert with_base({"base": "tracks", "width": 4}, 3) == {"base": str(tmp_path / "tracks" / "fold-03"), "width": 4}
    assert with_base({"base": "tracks"}, 4) == {"base": str(tmp_path / "tracks")}
    assert with_base({"base": "tracks"}, None) == {"base": str(tmp_path / "tracks")}
    assert with_base({"width": 4}, 3) == {"width": 4}
