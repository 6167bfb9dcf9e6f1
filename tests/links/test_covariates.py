from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.covariates import parse_terms, read_covariates, read_offset
from enhancer_dask.stores import MultiomeStore


@pytest.fixture(scope="module")
def odd_store(simulated, simulation, tmp_path_factory):
    """A store whose cells have columns of every kind."""
    out = tmp_path_factory.mktemp("odd") / "odd.zarr"
    cells = simulation.cells.copy()
    rng = np.random.default_rng(0)
    cells["age"] = rng.normal(50, 5, len(cells))
    cells["holes"] = cells["age"].where(rng.random(len(cells)) < 0.9)
    cells["zero"] = rng.integers(0, 2, len(cells))
    cells["unnamed"] = cells["donor"].where(rng.random(len(cells)) < 0.9)
    cells["one"] = "same"
    cells["smoker"] = rng.random(len(cells)) < 0.5
    ingest(simulated["multiome"], out, cells=cells)
    return MultiomeStore(out), cells.sort_values(["celltype", "barcode"]).set_index("barcode")


def test_read_covariates__values_follow_the_cells(odd_store):
    store, cells = odd_store
    mine = cells[cells["celltype"] == "B"]
    read = read_covariates(store, "B", "log(nUMI), age,donor, smoker")
    others = sorted(set(mine["donor"]) - {mine["donor"].value_counts().idxmax()})  # the most frequent has no dummy
    assert read.names[:-1] == ("log(nUMI)", "age", f"donor={others[0]}", f"donor={others[1]}")
    np.testing.assert_array_equal(read.values[:, 1], mine["age"])
    np.testing.assert_array_equal(read.values[:, 2], mine["donor"] == others[0])
    np.testing.assert_array_equal(read.values[:, 4], mine["smoker"] == (read.names[-1] == "smoker=True"))
    np.testing.assert_array_equal(read.values[:, 0], read_offset(store, "B", "log(nUMI)"))


def test_read_covariates__constant_terms_are_left_out_and_named(odd_store):
    read = read_covariates(odd_store[0], "A", ["one", "age"])
    assert read.constant == ("one",)
    assert read.names == ("age",)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("weight", "covariate 'weight' is not a column of the cells; columns are: .*percent.mito"),
        ("exp(age)", "transform 'exp' is unknown; choose from log, log2"),
        ("log(donor)", r"covariate 'log\(donor\)': the column holds text \(first: 'donor"),
        ("holes", "covariate 'holes' is not a finite number in .* cells of type 'A' \\(first: '.*-1'\\)"),
        ("log(zero)", r"covariate 'log\(zero\)' is not a finite number in"),
        ("unnamed", "covariate 'unnamed' is empty in .* cells of type 'A'"),
    ],
)
def test_read_covariates__names_what_is_wrong(odd_store, term, message):
    with pytest.raises(InputError, match=message):
        read_covariates(odd_store[0], "A", [term])


def test_read_covariates__unknown_celltype(odd_store):
    with pytest.raises(InputError, match="no cell is of type 'C'; types are: A, B"):
        read_covariates(odd_store[0], "C", ["age"])


def test_parse_terms__accepts_text_and_lists():
    assert parse_terms("log(nUMI),,percent.mito") == parse_terms(["log(nUMI)", " percent.mito"])
    assert parse_terms("") == []
    assert pd.Series(parse_terms("log1p(n_atac)")[0]).tolist() == ["log1p(n_atac)", "log1p", "n_atac"]
