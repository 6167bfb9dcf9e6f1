"""Which figures are drawn from which tables, and under which names."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.interactions.cells import cells_of_pair
from enhancer_dask.report.gallery import draw_all, parse_pair, unique_names
from enhancer_dask.stats.states import TESTS
from enhancer_dask.stores import MultiomeStore

OF_A_TYPE = ["sum_against_both", "sum_box", "volcano"]


@pytest.fixture
def links():
    p = np.linspace(0.001, 1, 40)
    return pd.DataFrame({"celltype": ["A", "B"] * 20, "gene": "g", "peak": "p", "p": p, "boot_basic_p": p})


@pytest.fixture
def epistasis(store):
    """Pairs of the store's first gene and peaks in both cell types, with made-up estimates."""
    data, rng = MultiomeStore(store), np.random.default_rng(0)
    peaks = data.column("peak")[:13]
    table = pd.DataFrame({"celltype": ["A"] * 12 + ["B"] * 12, "gene": data.column("gene")[0]})
    table["enhancer_1"], table["enhancer_2"] = [*peaks[:12]] * 2, [*peaks[1:13]] * 2
    for test in TESTS:
        table[f"beta_{test}"], table[f"p_saddle_{test}"] = rng.normal(size=24), rng.uniform(0.1, 1, 24)
        table[f"saddle_status_{test}"] = "trusted"
    return table.assign(low_interaction=-1.0, high_interaction=1.0, verdict="undecided")


def stems(files):
    """Names without ending, each with both endings."""
    found = {file.name for file in files}
    assert all(file.is_file() and file.stat().st_size > 1_000 for file in files)
    names = sorted(name.removesuffix(".png") for name in found if name.endswith(".png"))
    assert {f"{name}.svg" for name in names} == {name for name in found if name.endswith(".svg")}
    return names


def svg_text(folder, pattern):
    (file,) = folder.glob(f"{pattern}.svg")
    return " ".join(re.findall(r">([^<>]+)</text>", file.read_text()))


def test_unique_names__are_safe_and_differ():
    names = unique_names(["qq_../x", "qq_", "QQ", "volcano_T cell α", "a/b", "a b"])
    assert names == ["qq_.._x", "qq", "QQ_2", "volcano_T_cell", "a_b", "a_b_2"]


def test_parse_pair__wants_three_names():
    assert parse_pair("HLA-DQB1, chr1-1-2,chr1-5-9") == ("HLA-DQB1", "chr1-1-2", "chr1-5-9")
    for text in ("a,b", "a,b,", "a,b,c,d", ""):
        with pytest.raises(InputError, match="want GENE,ENHANCER_1,ENHANCER_2"):
            parse_pair(text)


def test_draw_all__each_cell_type_gets_what_the_tables_allow(links, epistasis, tmp_path):
    kinds = [*OF_A_TYPE, "volcano_interaction", "verdicts", "qq"]
    drawn = draw_all(tmp_path, links=links, epistasis=epistasis)
    assert stems(drawn) == sorted(f"{kind}_{celltype}" for kind in kinds for celltype in "AB")
    assert "20 links" in svg_text(tmp_path, "qq_A")
    assert "of 12 pairs" in svg_text(tmp_path, "volcano_interaction_B")


def test_draw_all__one_cell_type(links, epistasis, tmp_path):
    drawn = draw_all(tmp_path, links=links, epistasis=epistasis, celltype="B")
    assert {name[-2:] for name in stems(drawn)} == {"_B"}
    with pytest.raises(InputError, match="links: no row is of cell type 'T'; types are: A, B"):
        draw_all(tmp_path / "no", links=links, celltype="T")
    assert not (tmp_path / "no").exists()


def test_draw_all__empty_tables_give_figures_that_say_so(links, epistasis, tmp_path):
    drawn = draw_all(tmp_path, links=links.head(0), epistasis=epistasis.head(0), celltype="A")
    assert len(stems(drawn)) == 6
    for kind in ("qq", "volcano", "sum_against_both", "sum_box", "volcano_interaction", "verdicts"):
        assert re.search(r"\(0 (pairs|links)\)", svg_text(tmp_path, f"{kind}_A"))


def test_draw_all__cell_types_may_be_numbers_or_categories(links, tmp_path):
    links["celltype"] = links["celltype"].map({"A": 1, "B": 2})
    assert stems(draw_all(tmp_path, links=links)) == ["qq_1", "qq_2"]
    assert "20 links" in svg_text(tmp_path, "qq_2")
    categories = links.assign(celltype=links["celltype"].astype("category"))
    assert stems(draw_all(tmp_path, links=categories, celltype="2")) == ["qq_2"]


def test_draw_all__leaves_out_what_the_table_has_no_columns_for(epistasis, tmp_path):
    fewer = epistasis.drop(columns=[c for c in epistasis if c.endswith("_interaction")] + ["verdict", "celltype"])
    assert stems(draw_all(tmp_path, epistasis=fewer)) == OF_A_TYPE


def test_draw_all__draws_the_published_tables(shared, tmp_path):
    folder = shared / "published" / "nyu_cd14_mono"
    links, epistasis = folder / "scent_results.parquet", folder / "epistasis_results.csv.gz"
    drawn = draw_all(tmp_path, links=links, epistasis=epistasis, celltype="Mono")
    assert stems(drawn) == sorted(f"{kind}_Mono" for kind in ["qq", *OF_A_TYPE])
    text = svg_text(tmp_path, "sum_against_both_*")
    assert "(73.8%)" in text
    assert "(46.0%)" in text
    assert max(file.stat().st_size for file in drawn) < 300_000


def test_draw_all__takes_the_coding_from_the_file(epistasis, tmp_path):
    epistasis.assign(coding="legacy").to_csv(tmp_path / "t.tsv.gz", sep="\t", index=False)
    draw_all(tmp_path / "told", epistasis=tmp_path / "t.tsv.gz", celltype="A")
    draw_all(tmp_path / "asked", epistasis=tmp_path / "t.tsv.gz", celltype="A", table_coding="fixed")
    mine = epistasis[epistasis["celltype"] == "A"]
    for folder, factor in (("told", 2.0), ("asked", 1.0)):
        above = (factor * mine["beta_11"] > mine["beta_10"] + mine["beta_01"]).sum()
        assert f"({1 - above / 12:.1%}), {above} above" in svg_text(tmp_path / folder, "sum_against_both_A")


def test_draw_all__chooses_the_least_trusted_p_of_each_type(epistasis, store, tmp_path):
    epistasis.loc[3, ["p_saddle_interaction", "saddle_status_interaction"]] = [0.001, "concentrated"]
    epistasis.loc[5, "p_saddle_interaction"] = 0.01
    epistasis.loc[12:, "saddle_status_interaction"] = "concentrated"
    drawn = draw_all(tmp_path, epistasis=epistasis, store=store)
    best = epistasis.loc[5]
    (name,) = (name for name in stems(drawn) if name.startswith("expression"))
    assert [name] == unique_names([f"expression_A_{best['gene']}_{best['enhancer_1']}_{best['enhancer_2']}"])
    text = svg_text(tmp_path, "expression*")
    assert f"interaction I = {best['beta_interaction']:+.3f} (-1.000 to +1.000), p = 0.01".replace("-", "−") in text
    n = cells_of_pair(store, best["gene"], best["enhancer_1"], best["enhancer_2"], "A")["state"].value_counts()
    for state in ("00", "10", "01", "11"):
        assert f"n = {n.get(state, 0)}" in text


def test_draw_all__draws_the_pair_asked_for(epistasis, store, tmp_path):
    pair = tuple(epistasis.loc[2, ["gene", "enhancer_1", "enhancer_2"]])
    from_table = draw_all(tmp_path / "t", epistasis=epistasis, store=store, pair=pair)
    names = unique_names([f"expression_{t}_{'_'.join(pair)}" for t in "AB"])
    assert [name for name in stems(from_table) if "expression" in name] == names
    assert stems(draw_all(tmp_path / "s", store=store, pair=pair, celltype="B")) == names[1:]


def test_draw_all__says_what_is_missing(epistasis, store, tmp_path):
    pair, out = ("g", "a", "b"), tmp_path / "out"
    for given, message in (
        ({}, "nothing to draw"),
        ({"store": store}, "which cells to draw"),
        ({"pair": pair}, "pair g,a,b: its cells are in a store"),
        ({"store": store, "pair": pair}, "which cell type. types are: A, B"),
        ({"store": store, "pair": pair, "epistasis": epistasis}, "pair g,a,b is not in the epistasis table"),
        ({"epistasis": epistasis.drop(columns="beta_01")}, "epistasis: column 'beta_01' is missing"),
        ({"epistasis": epistasis, "table_coding": "half"}, "coding 'half' is unknown"),
        ({"store": store, "epistasis": epistasis.drop(columns="gene")}, "column 'gene' is missing"),
    ):
        with pytest.raises(InputError, match=message):
            draw_all(out, **given)
    assert not out.exists()


def test_cli_figures__prints_the_files_written(epistasis, store, tmp_path):
    epistasis.to_csv(tmp_path / "t.tsv.gz", sep="\t", index=False)
    pair = tuple(epistasis.loc[2, ["gene", "enhancer_1", "enhancer_2"]])
    asked = ["--epistasis", tmp_path / "t.tsv.gz", "--store", store, "--pair", ",".join(pair), "--celltype", "A"]
    command = ["figures", *map(str, asked), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    written = json.loads(done.stdout)["figures"]
    assert sorted(written) == sorted(map(str, (tmp_path / "out").iterdir()))
    assert len([file for file in written if "expression_A" in file]) == 2
