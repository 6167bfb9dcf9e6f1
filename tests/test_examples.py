"""The examples do what they show."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_login_node__from_files_to_enhancer_pairs_and_again(simulated, tmp_path):
    command = [sys.executable, str(EXAMPLES / "login_node.py"), str(simulated["multiome"])]
    command += ["--cells", str(simulated["cells"]), "--gtf", str(simulated["gtf"]), "--profile", "local"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert first.returncode == 0, first.stderr
    results = tmp_path / "results"
    links, table = (pd.read_parquet(results / f"{name}.parquet") for name in ("links", "epistasis"))
    last = first.stdout.splitlines()[-1]
    assert last == f"{(links['fdr'] < 0.1).sum()} links of {len(links)}, {len(table)} enhancer pairs: results"
    made = (results / "links.parquet").stat().st_mtime_ns
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert again.stdout.splitlines()[-1] == last
    assert (results / "links.parquet").stat().st_mtime_ns == made


@pytest.mark.filterwarnings("default")  # what the notebook machinery does with its event loop is its own affair
def test_notebook__gives_the_numbers_that_it_shows(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from execute_notebook import NOTEBOOK, execute

    kept = nbformat.read(NOTEBOOK, as_version=4)
    fresh = execute(copy.deepcopy(kept))
    numbers = [output["data"]["text/plain"] for output in results(kept) if output["data"]["text/plain"].startswith("{")]
    assert len(numbers) == 3
    assert numbers == [out["data"]["text/plain"] for out in results(fresh) if out["data"]["text/plain"].startswith("{")]
    kinds = {kind for output in results(kept) for kind in output["data"]}
    assert {"image/png", "text/html"} < kinds
    assert "Scheduler" in str(results(kept))  # Dask's own widget


def results(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", []) if out["output_type"] == "execute_result"]
