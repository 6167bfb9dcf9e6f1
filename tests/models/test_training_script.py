"""Job scripts for trainings: the command as it was typed, the GPUs of its job, and nothing that would fail there."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.simulate.chromosomes import ChromosomeDesign, simulate_chromosomes

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")
pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models

tiny_models.register()
PROFILES = "".join(
    f"{name}: {{kind: slurm, memory: 8GB, gpus: {gpus}, cores: 8, python: python}}\n"
    for name, gpus in (("none", 0), ("one", 1), ("four", 4))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    (folder / "cluster.yaml").write_text(PROFILES)
    design = ChromosomeDesign(bins=60, genes=2, enhancers=3)
    simulate_chromosomes(folder / "shards", design, n_train=2, n_validation=1, n_test=1)
    return folder


@pytest.fixture
def script(monkeypatch, folder):
    """``train SHARDS --model linear --out run --script`` with more words; gives the script."""
    monkeypatch.chdir(folder)

    def call(*words, shards="shards", model="linear"):
        typed = ["train", shards, "--model", model, "--out", "run", "--script", *words]
        monkeypatch.setattr(sys, "argv", ["enhancer-dask", *typed])
        return CliRunner().invoke(app, typed, catch_exceptions=False).stdout

    return call


def command_of(text):
    """What the job runs, and the threads of each of its processes."""
    (line,) = (line for line in text.splitlines() if line.startswith("python -m enhancer_dask.cli "))
    (threads,) = (line for line in text.splitlines() if line.startswith("export OMP_NUM_THREADS="))
    return line.removeprefix("python -m enhancer_dask.cli train shards --model linear --out run").strip(" &"), int(
        threads.rpartition("=")[2]
    )


@pytest.mark.parametrize(
    ("words", "profile", "want", "threads"),
    [
        ("--epochs 3", "one", "--epochs 3 --accelerator gpu", 8),
        ("", "none", "", 8),
        ("", "four", "--accelerator gpu --devices 4 --strategy ddp", 2),
        # trainings that are tasks have a process each
        ("--seeds 3", "four", "--seeds 3 --accelerator gpu", 8),
        # what is typed stands
        ("--strategy auto", "four", "--strategy auto --accelerator gpu --devices 4", 2),
        ("--accelerator gpu", "four", "--accelerator gpu", 8),
        ("--devices auto", "four", "--devices auto", 2),
        ("--devices=2", "four", "--devices=2", 4),
        ("--accelerator cpu --devices 8", "four", "--accelerator cpu --devices 8", 1),
        ("--accelerator cpu --devices auto", "four", "--accelerator cpu --devices auto", 8),
    ],
)
def test_script__is_the_command_with_the_gpus_of_its_job(script, words, profile, want, threads):
    text = script(*words.split(), "--profile", profile)
    assert command_of(text) == (want, threads)
    assert f"--gres=gpu:{profile}".replace("four", "4").replace("one", "1") in text or profile == "none"


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        ("--devices 5", {}, "--devices is 5, but a job of profile 'four' has 4"),
        ("", {"model": "gnc"}, "model is 'gnc', want one of"),
        ("--epochs 0", {}, "training: key 'epochs'"),
        ("--option width=3", {}, "model 'linear': no option 'width'"),
        ("--fold 3", {}, "the index has no column 'chrom', which a fold wants"),
        ("--seeds 2 --devices 2", {}, "key 'devices': want 1 where trainings are tasks"),
        ("", {"shards": "nowhere"}, "no graph shards here"),
    ],
)
def test_script__refuses_what_the_job_would_refuse(script, words, more, message):
    with pytest.raises((InputError, StoreError), match=message):
        script(*words.split(), "--profile", "four", **more)
