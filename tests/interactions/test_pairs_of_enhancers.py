from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enhancer_dask.errors import ChunkError, InputError, ResumeError
from enhancer_dask.interactions import census as module
from enhancer_dask.interactions.census import census, census_block
from enhancer_dask.interactions.pairs import enhancer_pairs, pair_up, significant_links, write_enhancer_pairs
from enhancer_dask.io.tables import check_enhancer_pairs, read_enhancer_pairs
from enhancer_dask.links.work import benjamini_hochberg
from enhancer_dask.stores import MultiomeStore

PAIR = ["gene", "enhancer_1", "enhancer_2"]


def rows(table):
    return list(table.itertuples(index=False, name=None))


def test_enhancer_pairs__are_exactly_the_published_ones(shared):
    folder = shared / "published" / "nyu_cd14_mono"
    assert len(significant_links(folder / "scent_results.parquet")) == 1_864
    pairs = enhancer_pairs(folder / "scent_results.parquet")
    want = pd.read_csv(folder / "epistasis_results.csv.gz")[PAIR]
    assert len(pairs) == len(want) == 2_863
    assert set(rows(pairs)) == set(rows(want))  # which enhancer is the first is the same, too
    itself = pairs[pairs["enhancer_1"] == pairs["enhancer_2"]]
    assert itself["gene"].tolist() == ["SPATA13"]  # GENCODE has the name twice, so their table has the link twice


def test_enhancer_pairs__of_all_published_candidates(shared):
    candidates = pd.read_parquet(shared / "published" / "nyu_cd14_mono" / "candidate_pairs.parquet")
    pairs = enhancer_pairs(candidates, fdr=None)
    n_peaks = candidates.drop_duplicates().groupby("gene").size()
    assert len(pairs) == (n_peaks * (n_peaks - 1) // 2).sum()
    assert (pairs["enhancer_1"] != pairs["enhancer_2"]).all()


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ABC"), st.sampled_from("pqrs")), max_size=14))
def test_pair_up__equals_its_definition(links):
    table = pd.DataFrame(links, columns=["celltype", "gene", "peak"])
    want = []
    for family in dict.fromkeys((t, g) for t, g, _ in links):
        peaks = [p for t, g, p in links if (t, g) == family]
        distinct = list(dict.fromkeys(peaks))
        for i, p in enumerate(distinct):
            want += [(*family, p, p)] * (peaks.count(p) > 1)
            want += [(*family, p, q) for q in distinct[i + 1 :]]
    assert rows(pair_up(table)) == want


def test_significant_links__adjusts_within_cell_type():
    rng = np.random.default_rng(0)
    links = pd.DataFrame({"celltype": np.repeat(["A", "B"], 50), "gene": "g", "peak": [f"p{i}" for i in range(50)] * 2})
    links["boot_basic_p"] = np.concatenate([rng.uniform(0, 0.05, 50), rng.uniform(0, 1, 50)])
    links.loc[[3, 77], "boot_basic_p"] = np.nan
    found = significant_links(links, 0.2)
    of_types = [links[links["celltype"] == t] for t in "AB"]
    want = pd.concat([t[benjamini_hochberg(t["boot_basic_p"].to_numpy()) < 0.2] for t in of_types])
    assert rows(found) == rows(want[["celltype", "gene", "peak"]])
    assert 49 <= len(found) < 99
    assert len(significant_links(links.drop(columns="celltype").iloc[:50], 0.2)) == 49


def test_significant_links__level_is_strict_and_p_value_chosen():
    links = pd.DataFrame({"gene": "g", "peak": list("abc"), "p": [1.0, 0.0, 1.0], "boot_basic_p": [0.01, 0.4, 0.3]})
    assert significant_links(links, 0.03)["peak"].tolist() == []  # 0.03 is not below 0.03
    assert significant_links(links, 0.031)["peak"].tolist() == ["a"]
    assert significant_links(links, 0.1, by="p")["peak"].tolist() == ["b"]
    assert significant_links(links.assign(p_saddle=np.nan), 0.1)["peak"].tolist() == ["a"]
    assert significant_links(links.assign(p_saddle=[np.nan, 0.5, 0.01]), 0.1)["peak"].tolist() == ["c"]
    assert significant_links(links, None)["peak"].tolist() == list("abc")


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda t: t.drop(columns="peak"), {}, "links: column 'peak' is missing; columns found: gene, boot_basic_p"),
        (lambda t: t[["gene", "peak"]], {}, "p-value column 'p_saddle' or 'boot_basic_p' is missing; columns found"),
        (lambda t: t, {"by": "fdr"}, "p-value column 'fdr' is missing"),
        (lambda t: t, {"by": "gene"}, "column 'gene' holds no numbers"),
        (lambda t: t.assign(boot_basic_p=[0.1, 1.5]), {}, "column 'boot_basic_p' has 1.5 in row 2; want p-values"),
        (lambda t: t, {"fdr": 0.0}, "fdr is 0.0; want a level above 0, up to 1"),
        (lambda t: t.assign(gene=["g", None]), {}, "column 'gene' is empty in 1 rows .first: row 2"),
        (lambda t: t.iloc[:0], {}, "links: the table is empty"),
    ],
)  # fmt: skip
def test_enhancer_pairs__refuses_bad_tables(change, settings, message):
    links = pd.DataFrame({"gene": ["g", "g"], "peak": ["a", "b"], "boot_basic_p": [0.1, 0.2]})
    with pytest.raises(InputError, match=message):
        enhancer_pairs(change(links), **settings)


def test_read_enhancer_pairs__takes_names_as_text(tmp_path):
    (tmp_path / "pairs.csv").write_text("enhancer_2,enhancer_1,gene,celltype,score\n2,1,007,0,5\n")
    assert rows(read_enhancer_pairs(tmp_path / "pairs.csv")) == [("0", "007", "1", "2")]
    (tmp_path / "bad.csv").write_text("enhancer_1,gene\n1,2\n")
    with pytest.raises(InputError, match="bad.csv: column 'enhancer_2' is missing; columns found: enhancer_1, gene"):
        read_enhancer_pairs(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="pairs: column 'celltype' is empty in 1 rows"):
        check_enhancer_pairs(pd.DataFrame([["", "g", "a", "b"]], columns=["celltype", *PAIR]), "pairs")


def test_write_enhancer_pairs__refuses_another_choice(tmp_path):
    links = pd.DataFrame({"gene": "g", "peak": list("abc"), "boot_basic_p": [0.01, 0.02, 0.3]})
    two, three, out = enhancer_pairs(links), enhancer_pairs(links, 0.5), tmp_path / "pairs.parquet"
    write_enhancer_pairs(two, out, settings={"fdr": 0.1})
    write_enhancer_pairs(two, out, settings={"fdr": 0.1})
    for table, settings, message in ((two, {"fdr": 0.5}, "'fdr' is 0.1 there, 0.5"), (three, {"fdr": 0.1}, "'pairs'")):
        with pytest.raises(ResumeError, match=message):
            write_enhancer_pairs(table, out, settings=settings)
    write_enhancer_pairs(three, out, settings={"fdr": 0.5}, overwrite=True)
    assert rows(read_enhancer_pairs(out)) == rows(three)


def counted_one_by_one(y, a, b):
    """Census of one pair by its definition: cells of each state, those without a count, their share."""
    inside = [(a > 0) == first for first in (False, True)], [(b > 0) == second for second in (False, True)]
    states = [inside[0][f] & inside[1][s] for f, s in ((0, 0), (1, 0), (0, 1), (1, 1))]
    n, zero = [int(s.sum()) for s in states], [int((y[s] == 0).sum()) for s in states]
    return [*n, *zero, *(z / m if m else np.nan for z, m in zip(zero, n, strict=True))]


def test_census_block__equals_its_definition():
    rng = np.random.default_rng(4)
    rna, atac = rng.poisson(0.7, (3, 50)), rng.poisson(0.5, (6, 50))
    atac[5], rna[2] = 0, 0
    gene, first, second = rng.integers(0, 3, 40), rng.integers(0, 6, 40), rng.integers(0, 6, 40)  # in no order
    table = census_block(rna, atac, gene, first, second)
    want = [counted_one_by_one(rna[g], atac[i], atac[j]) for g, i, j in zip(gene, first, second, strict=True)]
    np.testing.assert_array_equal(table.to_numpy(), want)
    assert table.columns.tolist()[3:6] == ["n_11", "zero_00", "zero_10"]
    assert table["zero_share_11"].isna().any()
    swapped = census_block(rna, atac, gene, second, first)
    np.testing.assert_array_equal(table[["n_10", "n_01", "zero_11"]], swapped[["n_01", "n_10", "zero_11"]])
    assert census_block(rna, atac, gene[:0], first[:0], second[:0]).empty


@pytest.fixture(scope="module")
def every_pair(pairs):
    return enhancer_pairs(pairs, fdr=None)


@pytest.fixture(scope="module")
def counted(store, every_pair):
    return census(store, every_pair, progress=False)


def test_census__equals_the_counts_of_the_store(store, every_pair, counted):
    data = MultiomeStore(store)
    names = {kind: data.column(kind).tolist() for kind in ("gene", "peak")}
    assert len(counted) == 2 * len(every_pair)
    for celltype in ("A", "B"):
        mine = counted[counted["celltype"] == celltype]
        assert set(rows(mine[PAIR])) == set(rows(every_pair))
        for row in mine.iloc[::37].itertuples(index=False):
            y = data.counts("rna", [names["gene"].index(row.gene)], celltype)[0]
            a, b = (data.counts("atac", [names["peak"].index(p)], celltype)[0] for p in row[2:4])
            np.testing.assert_array_equal(row[4:], counted_one_by_one(y, a, b))


@pytest.mark.parametrize("chunk_pairs", [1, 13])
def test_census__does_not_depend_on_chunks_or_order(store, every_pair, counted, chunk_pairs):
    some = every_pair.sample(frac=1, random_state=0)[:60]
    table = census(store, some, chunk_pairs=chunk_pairs, progress=False)
    given = pd.concat([some.assign(celltype=celltype) for celltype in ("A", "B")])
    want = given.merge(counted, on=["celltype", *PAIR])[counted.columns]
    pd.testing.assert_frame_equal(table, want, check_exact=True)


def test_census__on_workers(store, every_pair, counted, client):
    pd.testing.assert_frame_equal(census(store, every_pair, client=client, progress=False), counted, check_exact=True)


def test_census__keeps_pairs_with_enough_doubly_open_cells(store, every_pair, counted):
    some, limit = every_pair[:40], int(counted["n_11"].median())
    table = census(store, some, min_double=limit, chunk_pairs=1, progress=False)  # some chunks are left empty
    want = counted[counted["n_11"] >= limit].merge(some, on=PAIR)
    pd.testing.assert_frame_equal(table, want, check_exact=True)
    assert 0 < len(table) < 80
    none = census(store, every_pair, min_double=10_000, progress=False)
    assert none.columns.tolist() == counted.columns.tolist()
    assert none.empty


def test_census__counts_pairs_of_a_cell_type_there_only(store, every_pair, counted):
    of_types = every_pair.assign(celltype=np.where(np.arange(len(every_pair)) % 3 == 0, "B", "A"))
    table = census(store, of_types, progress=False)
    want = counted.merge(of_types, on=["celltype", *PAIR])
    pd.testing.assert_frame_equal(table, want, check_exact=True)
    only = census(store, of_types, "B", progress=False)
    pd.testing.assert_frame_equal(only, want[want["celltype"] == "B"].reset_index(drop=True))


def test_census__of_swapped_twice_given_and_equal_peaks(store, every_pair, counted):
    one = every_pair.iloc[[5]]
    other = one.rename(columns={"enhancer_1": "enhancer_2", "enhancer_2": "enhancer_1"})
    itself = one.assign(enhancer_2=one["enhancer_1"])
    with pytest.warns(UserWarning, match="pairs: 1 duplicate rows count once"):
        table = census(store, pd.concat([one, other, one, itself]), "A", progress=False)
    assert len(table) == 3
    assert table["n_10"].sum() == table["n_01"].sum() > 0
    alone = table[table["enhancer_1"] == table["enhancer_2"]]
    assert alone[["n_10", "n_01"]].to_numpy().tolist() == [[0, 0]]
    assert alone["n_11"].item() > 0


def test_census__goes_on_where_it_stopped(store, every_pair, counted, tmp_path, monkeypatch):
    out, real, seen = tmp_path / "census.parquet", module.census_block, []

    def failing(rna, atac, gene, first, second):
        seen.append(len(gene))
        if len(seen) == 3:
            raise InputError("the third chunk fails")
        return real(rna, atac, gene, first, second)

    monkeypatch.setattr(module, "census_block", failing)
    with pytest.raises(ChunkError, match="the third chunk fails"):
        census(store, every_pair, out=out, chunk_pairs=40, progress=False)
    n_chunks = len(seen)
    assert not out.exists()
    table = census(store, every_pair, out=out, chunk_pairs=40, progress=False)
    assert len(seen) == n_chunks + 1 > 4
    pd.testing.assert_frame_equal(table, counted, check_exact=True)
    assert [p.name for p in tmp_path.iterdir()] == ["census.parquet"]
    census(store, every_pair, out=out, progress=False)
    assert len(seen) == n_chunks + 1
    with pytest.raises(ResumeError, match="'min_double' is 0 there, 3 asked for"):
        census(store, every_pair, out=out, min_double=3, progress=False)
    assert len(census(store, every_pair, out=out, min_double=3, progress=False, overwrite=True)) < len(counted)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"gene": "NOPE"}, {}, "pairs: gene 'NOPE' is not in .*multiome.zarr .1 unknown in all"),
        ({"enhancer_2": "chr1:1-2"}, {}, "pairs: peak 'chr1:1-2' is not in"),
        ({"enhancer_1": None}, {}, "pairs: column 'enhancer_1' is empty in 1 rows"),
        ({"celltype": "NK"}, {}, "no cell is of type 'NK'; types are: A, B"),
        ({"celltype": "B"}, {"celltype": "A"}, "pairs: none is of cell type A; types found: B"),
        ({}, {"celltype": "NK"}, "no cell is of type 'NK'"),
        ({}, {"celltype": []}, "no cell type given"),
        ({}, {"min_double": -1}, "min_double is -1; want 0 or more"),
        ({}, {"chunk_pairs": 0}, "chunk_pairs is 0; want 1 or more"),
        ({}, {"out": "census.tsv"}, "census.tsv: want a name that ends in .parquet"),
    ],
)
def test_census__refuses_bad_input(store, every_pair, change, settings, message):
    with pytest.raises(InputError, match=message):
        census(store, every_pair.iloc[:1].assign(**change), progress=False, **settings)
