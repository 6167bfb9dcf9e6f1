from __future__ import annotations

import pytest

from enhancer_dask.config import load_config
from enhancer_dask.errors import InputError

GOOD = "out: results\ningest:\n  inputs: data.h5\n"


def write(folder, text):
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_load_config__paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", GOOD + "  gtf: ../g.gtf\n  cells: /abs/cells.csv\n")
    monkeypatch.chdir(tmp_path)
    config = load_config("sub/run.yaml")
    assert config == load_config(path)
    folder = tmp_path / "sub"
    assert config.ingest.inputs == (str(folder / "data.h5"),)
    assert config.ingest.gtf == folder / "../g.gtf"
    assert str(config.ingest.cells) == "/abs/cells.csv"
    assert config.out == folder / "results"
    assert config.scent.covariates == ("log(nUMI)", "percent.mito")


def test_load_config__samples_keep_their_names(tmp_path):
    config = load_config(write(tmp_path, "out: r\ningest:\n  inputs: [a=x.h5, b=y/z.h5]\n"))
    assert config.ingest.inputs == (f"a={tmp_path / 'x.h5'}", f"b={tmp_path / 'y/z.h5'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "scant: {}\n", "key 'scant': unknown key"),
        (GOOD + "scent:\n  sead: 1\n", "key 'scent.sead': unknown key"),
        (GOOD + "scent:\n  seed: -1\n", "key 'scent.seed': input should be greater than or equal to 0 .found -1"),
        (GOOD + "candidates:\n  anchor: middle\n", "key 'candidates.anchor'"),
        ("out: r\n", "key 'ingest' is missing"),
        ("out: r\ningest:\n  inputs: []\n", "key 'ingest.inputs'"),
        ("just text", "key 'top level'"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_load_config__names_file_and_key(tmp_path, text, message):
    with pytest.raises(InputError, match=f"run.yaml: {message}"):
        load_config(write(tmp_path, text))


def test_load_config__missing_file(tmp_path):
    with pytest.raises(InputError, match="nope.yaml: no such file"):
        load_config(tmp_path / "nope.yaml")
