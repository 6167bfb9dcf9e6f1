from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

import enhancer_dask as ed
from enhancer_dask.errors import InputError, ResumeError
from enhancer_dask.interactions.contrasts import LADDERS, Options, epistasis_block
from enhancer_dask.interactions.epistasis import summary
from enhancer_dask.links.work import benjamini_hochberg
from enhancer_dask.stats import poisson
from enhancer_dask.stats.bootstrap import Rung
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stats.states import TESTS
from enhancer_dask.stores import MultiomeStore

PAIR = ["gene", "enhancer_1", "enhancer_2"]
CONTRASTS = {"10": "10_vs_00", "01": "01_vs_00", "11": "11_vs_00"}
QUICK = (Rung(100, 0.3), Rung(400, 0.0))


@pytest.fixture(scope="module")
def triples(oracle):
    """The 30 triples of the oracles, as a user would give them."""
    table = oracle("epistasis_contrasts").query("contrast == '10_vs_00'")
    return table.rename(columns={"tile1": "enhancer_1", "tile2": "enhancer_2"})[PAIR].reset_index(drop=True)


@pytest.fixture(scope="module")
def some_pairs(store):
    """Pairs of the four most open peaks with five genes, and one pair of peaks that are hardly ever open."""
    data = MultiomeStore(store)
    opened, expressed = (data.column(f"{kind}_n_nonzero").min(axis=1) for kind in ("peak", "gene"))
    peaks = data.column("peak")[np.argsort(-opened, kind="stable")]
    genes = data.column("gene")[np.argsort(-expressed, kind="stable")[:5]]
    rows = [(gene, *two) for gene in genes for two in combinations(peaks[:4], 2)]
    silent = data.column("gene")[np.argsort(expressed, kind="stable")[0]]  # first in the chunk, and not to be tested
    return pd.DataFrame([(silent, *peaks[:2]), *rows, (genes[0], peaks[-1], peaks[-2])], columns=PAIR)


def run(store, pairs, **options):
    return ed.epistasis(store, pairs, progress=False, **{"ladder": QUICK, **options})


@pytest.fixture(scope="module")
def table(store, some_pairs):
    return run(store, some_pairs, expected=20)


@pytest.mark.parametrize("coding", ["fixed", "legacy"])
def test_epistasis__equals_r(tiles, triples, oracle, coding):
    """From the MuData as it is: glm(y ~ x + percent.mito + offset(log(nUMI)), family = poisson) and tile1 * tile2."""
    table = run(tiles, triples, celltype="CD14+ Monocytes", coding=coding, p="saddle", warn=lambda _: None)
    contrasts, joint = oracle("epistasis_contrasts"), oracle("epistasis_interaction").query("family == 'poisson'")
    pd.testing.assert_frame_equal(table[PAIR], triples)
    for test, name in CONTRASTS.items():
        name = f"{name}_coded_0_2" if test == "11" and coding == "legacy" else name
        r = contrasts[contrasts["contrast"] == name]
        np.testing.assert_allclose(table[f"beta_{test}"], r["beta"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(table[f"se_{test}"], r["se"], rtol=1e-5)
        np.testing.assert_allclose(table[f"p_{test}"], r["p"], rtol=1e-4)
        np.testing.assert_allclose(table[f"intercept_{test}"], r["intercept"], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(table[["n_00", "n_10", "n_01", "n_11"]], r[["n00", "n10", "n01", "n11"]])
    terms = {"intercept": "joint_intercept", "tile1": "joint_10", "tile2": "joint_01", "percent.mito": None}
    for term, column in {**terms, "tile1:tile2": "beta_interaction"}.items():
        r, column = joint[joint["term"] == term], column or "joint_percent.mito"
        np.testing.assert_allclose(table[column], r["beta"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(table[f"se_{column.removeprefix('beta_')}"], r["se"], rtol=1e-5)


def test_epistasis__negative_binomial_equals_glm_nb(tiles_store, triples, oracle):
    """MASS::glm.nb(y ~ tile1 * tile2 + percent.mito + offset(log(nUMI))), three triples: the slow option."""
    rows = [0, 11, 25]
    found = run(
        tiles_store, triples.iloc[rows], celltype="CD14+ Monocytes", regression="negbin", p="ladder",
        ladder=(Rung(20, 0.0),),
    )  # fmt: skip
    r = oracle("epistasis_interaction").query("family == 'negbin' and term == 'tile1:tile2'").iloc[rows]
    np.testing.assert_allclose(found["beta_interaction"], r["beta"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["se_interaction"], r["se"], rtol=1e-5)
    np.testing.assert_allclose(found["theta_interaction"], r["theta"], rtol=1e-4)
    assert (found["n_resamples_interaction"] == 20).all()
    plain = run(tiles_store, triples.iloc[rows], celltype="CD14+ Monocytes", p="saddle")
    for name in ("cook_cell", "cook_ratio", "beta_dropped"):  # of the Poisson fit with either
        np.testing.assert_array_equal(found[name], plain[name])
    assert found["boot_p_interaction"].between(0, 1).all()


@pytest.mark.parametrize("chunk_pairs", [1, 7, 1000])
def test_epistasis__does_not_depend_on_chunks(store, some_pairs, table, chunk_pairs):
    again = run(store, some_pairs, expected=20, chunk_pairs=chunk_pairs)
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_epistasis__does_not_depend_on_workers(store, some_pairs, table, client):
    again = run(store, some_pairs, expected=20, chunk_pairs=5, client=client)
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_epistasis__keeps_the_order_and_says_why_not_tested(some_pairs, table):
    n = len(some_pairs)
    assert table["celltype"].tolist() == ["A"] * n + ["B"] * n
    pd.testing.assert_frame_equal(table.loc[n:, PAIR].reset_index(drop=True), some_pairs)
    assert table["n_11"].iloc[n - 1] == 0
    rare = table.iloc[n - 1]
    assert rare["status_interaction"] == "a state without cells"
    assert rare[["beta_11", "boot_p_11", "p_saddle_11", "low_interaction"]].isna().all()
    assert (rare["saddle_status_11"], rare["verdict"], rare["cook_cell"], rare["one_cell"]) == ("", "", "", False)
    tested = table[table["status_interaction"] == "tested"]
    assert len(tested) > 40
    assert tested["p_saddle_interaction"].notna().all()
    assert (tested["low_interaction"] < tested["beta_interaction"]).all()
    assert (tested["beta_interaction"] < tested["high_interaction"]).all()
    inside = (tested["low_interaction"] < 0) & (tested["high_interaction"] > 0)
    np.testing.assert_array_equal(tested["p_interval_interaction"] > 0.05, inside)


def test_epistasis__interaction_is_what_the_states_say(table):
    tested = table[table["status_interaction"] == "tested"]
    difference = tested["joint_11"] - tested["joint_10"] - tested["joint_01"]
    np.testing.assert_allclose(tested["beta_interaction"], difference, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.log(tested["fold_11"]), tested["joint_11"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        np.log(tested["fold_11"] / tested["multiplicative_11"]), tested["beta_interaction"], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(tested["additive_11"], tested["fold_10"] + tested["fold_01"] - 1, rtol=1e-12)


def test_epistasis__adjusts_over_types_and_genes(table):
    for test in TESTS:
        for column, p in ((f"fdr_{test}", f"boot_p_{test}"), (f"fdr_saddle_{test}", f"p_saddle_{test}")):
            for _, rows in table.groupby("celltype"):
                np.testing.assert_array_equal(rows[column], benjamini_hochberg(rows[p].to_numpy()))
            for _, rows in table.groupby(["celltype", "gene"]):
                of_gene = rows[column.replace(f"_{test}", f"_gene_{test}")]
                np.testing.assert_array_equal(of_gene, benjamini_hochberg(rows[p].to_numpy()))


def test_epistasis__swapping_the_enhancers_swaps_the_columns_and_nothing_else(store, some_pairs, table):
    other = some_pairs.rename(columns={"enhancer_1": "enhancer_2", "enhancer_2": "enhancer_1"})[PAIR]
    swapped = run(store, other, expected=20)

    def exchanged(name):
        one, two = ("enhancer_1", "10"), ("enhancer_2", "01")
        for a, b in zip(one, two, strict=True):
            if name == a or name.endswith(f"_{a}"):
                return name[: -len(a)] + b
            if name == b or name.endswith(f"_{b}"):
                return name[: -len(b)] + a
        return name

    back = swapped.rename(columns=exchanged)[table.columns]
    exact = [c for c in table.columns if table[c].dtype == object or table[c].dtype.kind in "biu" or "fdr" in c]
    ladder = [c for c in table.columns if c.startswith(("boot_p", "n_re"))]
    for column in {*exact, *ladder} - {c for c in table.columns if "fdr" in c and "saddle" in c}:
        np.testing.assert_array_equal(back[column], table[column], err_msg=column)
    for column in set(table.columns) - set(exact) - set(ladder):
        # Newton of a fit or saddle ends within 1e-8 of its limit, from wherever it comes
        np.testing.assert_allclose(back[column], table[column], rtol=1e-6, atol=1e-7, err_msg=column)


def test_epistasis__legacy_halves_11_and_nothing_else(store, some_pairs, table):
    legacy = run(store, some_pairs, expected=20, coding="legacy")
    halved = ["beta_11", "se_11", "boot_se_11"]
    np.testing.assert_array_equal(legacy[halved] * 2, table[halved])
    same = table.columns.difference([*halved, "coding"])
    assert (legacy["coding"] == "legacy").all()
    pd.testing.assert_frame_equal(legacy[same], table[same], check_exact=True)


def test_epistasis__as_published_without_saddlepoints(store, some_pairs, table):
    """The published analysis as it was: legacy coding, the ladder alone."""
    found = run(store, some_pairs, coding="legacy", p="ladder")
    assert found.columns.tolist() == [c for c in table.columns if not c.startswith(("mean_", "q05_", "q95_"))]
    np.testing.assert_array_equal(found["beta_11"] * 2, table["beta_11"])
    np.testing.assert_array_equal(found["boot_p_11"], table["boot_p_11"])


@pytest.mark.parametrize("p", ["saddle", "ladder"])
def test_epistasis__one_kind_of_p_values_is_the_same_as_with_both(store, some_pairs, table, p):
    alone = run(store, some_pairs, p=p)
    for test in TESTS:
        if p == "saddle":
            np.testing.assert_array_equal(alone[f"p_saddle_{test}"], table[f"p_saddle_{test}"])
            trusted = alone[f"saddle_status_{test}"] == "trusted"
            assert alone.loc[trusted, f"boot_p_{test}"].isna().all()
            assert (alone.loc[trusted, f"n_refits_{test}"] == 0).all()
            assert alone[f"fdr_{test}"].isna().all()
            doubtful = ~trusted & (alone[f"status_{test}"] == "tested")
            np.testing.assert_array_equal(
                alone.loc[doubtful, f"p_saddle_{test}"], alone.loc[doubtful, f"boot_p_{test}"]
            )
        else:
            np.testing.assert_array_equal(alone[f"boot_p_{test}"], table[f"boot_p_{test}"])
            assert alone[f"p_saddle_{test}"].isna().all()
    assert alone["low_interaction"].notna().any()


def test_epistasis__engines_agree(store, some_pairs, table):
    exact = run(store, some_pairs, engine="exact", celltype="A")
    mine = table[table["celltype"] == "A"]
    for test in TESTS:  # a refit that differs by 1e-7 may fall on the other side once in a while
        np.testing.assert_allclose(exact[f"boot_p_{test}"], mine[f"boot_p_{test}"], rtol=0, atol=0.0051)
        assert (exact[f"n_exact_{test}"] == exact[f"n_refits_{test}"]).all()


def test_epistasis__bootstrap_p_is_that_of_plain_refits(store, some_pairs):
    """Count by hand: 100 resamples of all cells, each contrast refitted on the cells of its two states."""
    data = MultiomeStore(store)
    cells = data.cells_of("A")
    row = some_pairs.iloc[8]
    found = run(store, some_pairs.iloc[[8]], celltype="A", ladder=(Rung(100, 0.0),), seed=5).iloc[0]
    at = {kind: list(data.column(kind)) for kind in ("gene", "peak")}
    y = data.counts("rna", [at["gene"].index(row["gene"])], "A")[0]
    e1, e2 = (data.counts("atac", [at["peak"].index(row[f"enhancer_{i}"])], "A")[0] > 0 for i in (1, 2))
    offset, mito = np.log(data.column("cell_n_umi")[cells]), data.column("cell_percent_mito")[cells][:, None]
    beyond = np.zeros(4)
    for draw in resample_counts(len(y), 0, 100, seed=5, celltype="A", rung=0):
        i = np.repeat(np.arange(len(y)), draw)
        for t, (keep, x) in enumerate(((~e2, e1), (~e1, e2), (e1 == e2, e1), (e1 | True, None))):
            j = i[keep[i]]
            design = np.column_stack([e1, e2, e1 & e2])[j] if x is None else x[j, None]
            beta = poisson.fit_poisson(y[j], design, mito[j], offset=offset[j]).coefficients[-1]
            beyond[t] += 2 * found[f"beta_{TESTS[t]}"] - beta <= 0
    for t, test in enumerate(TESTS):
        k = beyond[t]
        want = 0.02 if k in (0, 100) else 2 * min(k, 100 - k) / 100
        assert found[f"boot_p_{test}"] == pytest.approx(want)


def test_epistasis__expected_counts(table):
    tested = table[table["status_interaction"] == "tested"]
    for state in ("00", "10", "01", "11", "multiplicative", "additive"):
        assert (tested[f"q05_{state}"] <= tested[f"q95_{state}"]).all()
    within = tested["mean_11"].between(tested["q05_11"], tested["q95_11"])
    assert within.mean() > 0.9
    ratio = np.log(tested["mean_11"] / tested["mean_00"]) - tested["joint_11"]
    assert np.median(np.abs(ratio)) < 0.1


def test_epistasis__covariates_of_one_type_are_missing_in_the_other(store, some_pairs):
    """A dummy for each donor of the type: columns are those of all types, in the same place."""
    found = run(store, some_pairs[1:3], p="saddle", covariates="percent.mito,donor", warn=lambda _: None)
    names = [c for c in found.columns if c.startswith("joint_donor")]
    of_type = {t: rows[names].notna().any() for t, rows in found.groupby("celltype")}
    assert names
    assert all(np.isfinite(found.loc[found["celltype"] == t, n]).all() for t in of_type for n in names if of_type[t][n])
    assert found.columns.get_loc(f"se_{names[0]}") == found.columns.get_loc(names[0]) + 1
    assert found[names].notna().any().all()


def test_epistasis__pairs_of_their_own_cell_type(store, some_pairs, table, tmp_path):
    mine = some_pairs.assign(celltype=["A", "B", "B"] * (len(some_pairs) // 3) + ["B"] * (len(some_pairs) % 3))
    mine.to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
    found = run(store, tmp_path / "mine.tsv", out=tmp_path / "table.parquet")
    assert found["celltype"].value_counts().to_dict() == mine["celltype"].value_counts().to_dict()
    both = found.merge(table, on=["celltype", *PAIR], suffixes=("", "_whole"))
    np.testing.assert_array_equal(both["boot_p_11"], both["boot_p_11_whole"])
    only = run(store, tmp_path / "mine.tsv", celltype="A", p="saddle")
    assert (only["celltype"] == "A").all()


def test_epistasis__resumes_and_refuses_other_settings(store, some_pairs, table, tmp_path):
    out = tmp_path / "table.parquet"
    with pytest.warns(UserWarning, match="3 duplicate rows count once"):
        found = run(store, pd.concat([some_pairs, some_pairs[:3]]), out=out, expected=20)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    written = out.stat().st_mtime_ns
    assert run(store, some_pairs, out=out, expected=20).equals(found)
    assert out.stat().st_mtime_ns == written
    with pytest.raises(ResumeError, match="'margin' is 1.25 there, 1.5 asked for"):
        run(store, some_pairs, out=out, expected=20, margin=1.5)
    assert (
        run(store, some_pairs, out=out, expected=20, margin=1.5, overwrite=True)["verdict"]
        .isin(
            [
                "multiplicative-compatible",
                "additive-compatible",
                "undecided",
                "super-multiplicative",
                "sub-multiplicative",
                "",
            ]
        )
        .all()
    )
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coding": "old"}, "coding 'old' is unknown; choose from fixed, legacy"),
        ({"engine": "moments-cuda"}, "engine 'moments-cuda' is unknown; choose from moments, exact"),
        ({"p": "wald"}, "p 'wald' is unknown"),
        ({"regression": "linear"}, "regression 'linear' is unknown; choose from poisson, negbin"),
        ({"margin": 1.0}, "margin is 1.0; want a fold change above 1"),
        ({"level": 95}, "level is 95; want a confidence between 0 and 1"),
        ({"ladder": ()}, "the ladder has no rung"),
        ({"chunk_pairs": 0}, "chunk_pairs is 0"),
        ({"expected": -1}, "expected is -1"),
        ({"celltype": "C"}, "no cell is of type 'C'; types are: A, B"),
        ({"covariates": "age"}, "covariate 'age' is not a column of the cells"),
        ({"offset": "nUMI"}, "offset 'nUMI' reaches .* in 'A'; want a logarithm, such as log"),
        ({"offset": "log(nothing)"}, "covariate 'nothing' is not a column of the cells"),
    ],
)
def test_epistasis__refuses(store, some_pairs, options, message):
    with pytest.raises(InputError, match=message):
        run(store, some_pairs, **options)


def test_epistasis__refuses_unknown_names(store, some_pairs):
    with pytest.raises(InputError, match="peak 'chr9-1-2' is not in"):
        run(store, some_pairs[:1].assign(enhancer_2="chr9-1-2"))
    with pytest.raises(InputError, match="pairs: column 'enhancer_1' is missing; columns found: gene, enhancer_2"):
        run(store, some_pairs.drop(columns="enhancer_1"))


@pytest.mark.parametrize("regression", ["poisson", "negbin"])
def test_epistasis_block__nasty_inputs(regression):
    """A silent gene, one cell with all its counts, a peak with itself, always open, never open; one cell in a state."""
    rng = np.random.default_rng(0)
    n = 60
    rna = rng.poisson(2.0, (3, n))
    rna[1], rna[2] = 0, 0
    rna[2, 5] = 9
    atac = (rng.random((5, n)) < 0.4).astype(int)
    atac[2], atac[3], atac[4] = 1, 0, 0
    atac[4, :3] = 1
    gene, first, second = (x.ravel() for x in np.meshgrid(range(3), range(5), range(5), indexing="ij"))
    options = Options(regression=regression, ladder=(Rung(30, 0.0),), expected=3)
    table = epistasis_block(
        rna, atac, gene, first, second, rng.normal(size=(n, 1)), ("x",), celltype="A", options=options
    )
    assert len(table) == 75
    status = table["status_interaction"]
    assert (status[gene == 1] != "tested").all()
    assert (status[first == second] == "a state without cells").all()
    assert (status[gene == 0] == "tested").any()
    silent = table[gene == 1]
    assert silent[[f"boot_p_{t}" for t in TESTS]].isna().all(axis=None)
    assert (table["verdict"][status != "tested"] == "").all()


def test_epistasis_block__a_batch_without_counts_leaves_with_its_cells():
    """Its dummy is -inf; all other numbers are those of the cells that stay, up to where the covariate is centred."""
    rng = np.random.default_rng(3)
    n = 600
    batch, x, depth = rng.random(n) < 0.2, rng.normal(size=n), rng.normal(size=n) * 0.3
    atac = (rng.random((2, n)) < 0.4).astype(int)
    rna = np.where(batch, 0, rng.poisson(np.exp(depth + 0.4 * atac[0])))[None]
    row = np.zeros(1, dtype=int)
    options = Options(p="saddle", ladder=(Rung(20, 0.0),))
    whole = epistasis_block(
        rna, atac, row, row, row + 1, np.column_stack([x, batch]), ("x", "batch"), celltype="A", offset=depth,
        options=options,
    ).iloc[0]  # fmt: skip
    stay = ~batch
    some = epistasis_block(
        rna[:, stay], atac[:, stay], row, row, row + 1, x[stay, None], ("x",), celltype="A", offset=depth[stay],
        options=options,
    ).iloc[0]  # fmt: skip
    assert whole["joint_batch"] == -np.inf
    assert np.isnan(whole["se_joint_batch"])
    same = [f"{a}{b}" for a in ("beta_", "se_") for b in TESTS] + [f"intercept_{t}" for t in TESTS[:3]]
    same += [f"{a}joint_{b}" for a in ("", "se_") for b in ("intercept", "x", "10", "01", "11")]
    np.testing.assert_allclose(whole[same].astype(float), some[same].astype(float), rtol=1e-6, atol=1e-8)
    assert whole["saddle_status_interaction"] == "a covariate without a finite coefficient"
    assert whole["p_saddle_interaction"] == whole["boot_p_interaction"]


def test_epistasis_block__no_pairs():
    table = epistasis_block(
        np.zeros((0, 9), int), np.zeros((0, 9), int), *[np.zeros(0, int)] * 3, np.ones((9, 0)), (), celltype="A"
    )
    assert len(table) == 0
    assert {"beta_interaction", "p_saddle_11", "verdict"} < set(table.columns)


def test_summary__is_json(table):
    found = json.loads(json.dumps(summary(table)))
    assert found["n_pairs"] == len(table)
    assert found["n_tested"]["interaction"] == (table["status_interaction"] == "tested").sum()
    assert sum(found["verdicts"].values()) == (table["verdict"] != "").sum()


def test_ladders__are_the_published_ones():
    assert [tuple(rung) for rung in LADDERS["published"]] == [(100, 0.1), (5_000, 0.0)]
    assert [rung.n_resamples for rung in LADDERS["scent"]] == [100, 500, 2_500, 25_000, 50_000]
