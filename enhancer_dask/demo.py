"""The demo: simulate a multiome with known links, run everything, compare with the truth."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from enhancer_dask.clusters import ClientSource
from enhancer_dask.config import load_config
from enhancer_dask.errors import InputError
from enhancer_dask.pipeline import PipelineResult, Say, run
from enhancer_dask.simulate.multiome import simulate_multiome, write_simulation

CELLTYPES = ["CD14 Mono", "CD4 T"]
# SCENT's two and ATAC depth: peaks that share nothing but the cell's depth with a true enhancer pass for links
# without it (precision 0.76 instead of 0.94 on these data)
COVARIATES = ["log(nUMI)", "percent.mito", "log(nATAC)"]


def write_demo(folder: Path, *, seed: int = 0) -> Path:
    """Write the demo's input and its run.yaml; returns the path of the latter.

    Raises
    ------
    InputError
        If the folder holds another run.yaml, so that nobody's results lose their input.
    """
    config = {
        "out": "results",
        "ingest": {"inputs": ["input/multiome.h5"], "cells": "input/cells.tsv", "gtf": "input/genes.gtf.gz"},
        "scent": {"celltypes": CELLTYPES, "covariates": COVARIATES, "seed": seed},
        "epistasis": {"covariates": ["percent.mito", "log(nATAC)"], "expected": 100, "seed": seed},
        "tsv": True,
    }
    file = folder / "run.yaml"
    text = f"# Written by `enhancer-dask demo --seed {seed}`; run it again with `enhancer-dask run run.yaml`.\n"
    text += yaml.safe_dump(config, sort_keys=False)
    if file.exists() and file.read_text() != text:
        raise InputError(f"{file}: is of another run; choose another folder for the demo, or remove it")
    write_simulation(simulate_multiome(seed=seed), folder / "input")
    file.write_text(text)
    return file


def compare(links: pd.DataFrame, truth: pd.DataFrame, *, fdr: float = 0.1) -> pd.DataFrame:
    """Precision and recall of the links at an FDR threshold, per cell type.

    Parameters
    ----------
    links : DataFrame
        As returned by :func:`enhancer_dask.scent`.
    truth : DataFrame
        celltype, gene, peak of the true links.

    Returns
    -------
    DataFrame
        celltype, n_candidates, n_tested, n_true (true links among the tested), n_found, n_correct, precision,
        recall (of the true links among the tested).
    """
    true = links.merge(truth[["celltype", "gene", "peak"]], how="left", indicator=True)["_merge"].to_numpy() == "both"
    found = (links["fdr"] < fdr).to_numpy()
    tested = (links["status"] == "tested").to_numpy()
    rows = pd.DataFrame(
        {
            "celltype": links["celltype"],
            "n_candidates": 1,
            "n_tested": tested,
            "n_true": true & tested,
            "n_found": found,
            "n_correct": true & found,
        }
    )
    table = rows.groupby("celltype", sort=False).sum().reset_index()
    table["precision"] = table["n_correct"] / table["n_found"]
    table["recall"] = table["n_correct"] / table["n_true"]
    return table


def demo(
    folder: Path, *, client: ClientSource | None, seed: int = 0, progress: bool = True, say: Say
) -> tuple[PipelineResult, pd.DataFrame]:
    """Simulate, run, compare; returns the run's result and the comparison table."""
    say(f"simulate: {folder / 'input'}")
    config = load_config(write_demo(folder, seed=seed))
    result = run(config, client=client, progress=progress, say=say)
    truth = pd.read_csv(folder / "input" / "truth.tsv", sep="\t")
    return result, compare(pd.read_parquet(result.links), truth)
