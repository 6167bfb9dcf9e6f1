from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

import enhancer_dask as ed
from enhancer_dask.demo import compare, write_demo
from enhancer_dask.errors import InputError, ResumeError


def write_run(folder, simulated, *, epistasis=None, **scent):
    config = {
        "out": "results",
        "ingest": {
            "inputs": str(simulated["multiome"]),
            "cells": str(simulated["cells"]),
            "gtf": str(simulated["gtf"]),
        },
        "scent": {"celltypes": ["A"], "max_resamples": 2500, **scent},
        "epistasis": epistasis,
        "figures": epistasis is not None,
        "tsv": True,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_run__does_all_stages_and_skips_what_is_valid(simulated, tmp_path):
    said = []
    path = write_run(tmp_path, simulated, epistasis={"expected": 5})
    result = ed.run(path, progress=False, say=said.append)
    stages = [line.split(":")[0] for line in said]
    assert stages == ["ingest", "candidates", "scent", "pairs", "epistasis", "figures"]
    links = pd.read_parquet(result.links)
    assert result.n_tested == (links["status"] == "tested").sum()
    assert result.n_pairs == len(links)
    assert result.n_links == (links["fdr"] < 0.1).sum() > 0
    table = pd.read_parquet(result.epistasis)
    pairs = ed.enhancer_pairs(links)
    pd.testing.assert_frame_equal(table[pairs.columns], pairs)
    assert result.n_enhancer_pairs == len(pairs) > 0
    assert sum(result.verdicts.values()) == (table["verdict"] != "").sum()
    assert table["mean_11"].notna().any()
    names = {file.split("/")[-1] for file in result.figures}
    assert {"qq_A.png", "qq_A.svg", "volcano_A.png", "volcano_interaction_A.svg", "sum_box_A.png"} < names
    assert (tmp_path / "results" / "epistasis.tsv.gz").exists()
    again = pd.read_csv(tmp_path / "results" / "links.tsv.gz", sep="\t")
    np.testing.assert_allclose(again["boot_basic_p"], links["boot_basic_p"])
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*.parquet")}

    def no_cluster():
        raise AssertionError("nothing is left to compute")

    assert ed.run(path, client=no_cluster, progress=False, say=said.append) == result
    assert {p: p.stat().st_mtime_ns for p in times} == times
    (tmp_path / "results" / "links.parquet").unlink()
    pd.testing.assert_frame_equal(pd.read_parquet(ed.run(path, progress=False).links), links, check_exact=True)


def test_run__says_when_there_are_no_enhancer_pairs(simulated, tmp_path):
    path, said = write_run(tmp_path, simulated, epistasis={}, max_resamples=100, p="ladder"), []
    path.write_text(path.read_text() + "enhancer_pairs: {fdr: 1.0e-9}\n")
    result = ed.run(path, progress=False, say=said.append)
    assert any("no gene has two links at FDR < 1e-09" in line for line in said)
    assert (result.epistasis, result.n_enhancer_pairs, result.verdicts) == (None, 0, {})
    assert {file.split("/")[-1] for file in result.figures} == {"qq_A.png", "qq_A.svg"}


def test_run__chooses_pairs_by_their_doubly_open_cells(simulated, tmp_path):
    path = write_run(tmp_path, simulated, epistasis={"p": "saddle", "coding": "legacy"}, max_resamples=100)
    whole = ed.run(path, progress=False)
    some = write_run(tmp_path, simulated, epistasis={"p": "saddle", "coding": "legacy"}, max_resamples=100)
    n = int(pd.read_parquet(whole.epistasis)["n_11"].median())
    some.write_text(some.read_text() + f"enhancer_pairs: {{min_double: {n}}}\n")
    table = pd.read_parquet(ed.run(some, progress=False, overwrite=True).epistasis)
    assert 0 < len(table) < whole.n_enhancer_pairs
    assert (table["n_11"] >= n).all()


def test_run__refuses_changed_settings(simulated, tmp_path):
    ed.run(write_run(tmp_path, simulated, max_resamples=100), progress=False)
    path = write_run(tmp_path, simulated, max_resamples=100, seed=4)
    with pytest.raises(
        ResumeError, match=r"links.parquet: exists and was made with other parameters: 'seed' is 0 there"
    ):
        ed.run(path, progress=False)
    assert ed.run(path, progress=False, overwrite=True).n_tested > 0


def test_run__pairs_of_the_user(simulated, tmp_path, pairs):
    some = pd.read_parquet(pairs).iloc[:7]
    some.to_csv(tmp_path / "mine.csv", index=False)
    path = write_run(tmp_path, simulated, max_resamples=100)
    path.write_text(path.read_text() + "pairs: mine.csv\n")
    result = ed.run(path, progress=False)
    assert result.n_pairs == 7
    assert not (tmp_path / "results" / "pairs.parquet").exists()


def test_compare__counts_what_was_found():
    links = pd.DataFrame({"celltype": "A", "gene": list("ggggh"), "peak": list("abcde")})
    links["status"] = ["tested", "tested", "tested", "tested", "peak below 5%"]
    links["fdr"] = [0.01, 0.05, 0.09, 0.5, np.nan]
    truth = pd.DataFrame({"celltype": "A", "gene": list("gggh"), "peak": list("abde"), "beta": 1.0})
    row = compare(links, truth).iloc[0]
    assert (row["n_candidates"], row["n_tested"], row["n_true"], row["n_found"], row["n_correct"]) == (5, 4, 3, 3, 2)
    assert row["precision"] == pytest.approx(2 / 3)
    assert row["recall"] == pytest.approx(2 / 3)


def test_demo__finds_the_links_it_made(tmp_path):
    config = write_demo(tmp_path, seed=1)
    text = config.read_text()
    with pytest.raises(InputError, match="run.yaml: is of another run; choose another folder for the demo"):
        write_demo(tmp_path, seed=2)
    config.write_text(text.replace("scent:\n", "scent:\n  max_resamples: 2500\n"))  # the full ladder is `make demo`
    links = pd.read_parquet(ed.run(config, progress=False).links)
    table = compare(links, pd.read_csv(tmp_path / "input" / "truth.tsv", sep="\t"))
    assert (table["precision"] > 0.6).all()
    assert (table["recall"] > 0.6).all()
