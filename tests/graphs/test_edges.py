"""Edges: the oracle's graphs of GM12878, a dense definition, rules and their ties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enhancer_dask as ed
from enhancer_dask.errors import InputError
from enhancer_dask.graphs import significance
from enhancer_dask.graphs.edges import edge_weights
from enhancer_dask.graphs.rules import Condition, parse_rule
from enhancer_dask.io.contacts import read_contacts

ORACLES = {"t1_d1": ("oe>1", 1, 12_110), "t2_d1": ("oe>2", 1, 8_284), "t1_d2": ("oe > 1", 2, 11_560)}
SIZES = {"a": 5, "b": 1, "c": 4}


@pytest.fixture(scope="module")
def gm12878(shared):
    """(contacts, ICE weights of the oracle)."""
    weights = pd.read_csv(shared / "oracles" / "hic" / "gm12878_2mb_weights.csv.gz")["ice_default"]
    return read_contacts(shared / "data" / "hic" / "gm12878.hg19.2000kb.cool"), weights


def degrees(edges, values=None):
    n = edges.attrs["n_nodes"]
    return np.bincount(edges["node1"], values, minlength=n) + np.bincount(edges["node2"], values, minlength=n)


@pytest.mark.parametrize("name", list(ORACLES))
def test_contact_graph__equals_the_oracle_of_all_chromosomes(gm12878, shared, name):
    rule, min_distance, n_edges = ORACLES[name]
    edges = ed.contact_graph(*gm12878, rule, min_distance)
    nodes = pd.read_csv(shared / "oracles" / "hic" / "gm12878_2mb_node_degree.csv.gz")
    assert len(edges) == n_edges
    np.testing.assert_array_equal(degrees(edges), nodes[f"degree_{name}"])
    np.testing.assert_allclose(degrees(edges, edges["oe"]), nodes[f"strength_oe_{name}"], rtol=1e-9)
    chroms = pd.read_csv(shared / "oracles" / "hic" / "gm12878_2mb_edges_per_chrom.csv.gz").set_index("chrom")
    count = nodes["chrom"][edges["node1"]].value_counts().reindex(chroms.index, fill_value=0)
    np.testing.assert_array_equal(count, chroms[f"edges_{name}"])


@pytest.mark.parametrize(
    ("table", "chroms"),
    [("block_chr2_11_17", ["chr2", "chr11", "chr17"]), ("oe_chr2", ["chr2"]), ("oe_chr11", ["chr11"])],
)
@pytest.mark.parametrize("threshold", [1, 2])
def test_contact_graph__equals_the_oracle_of_chosen_chromosomes(gm12878, shared, table, chroms, threshold):
    edges = ed.contact_graph(*gm12878, f"oe>{threshold}", chromosomes=chroms, inter=True)
    oracle = pd.read_csv(shared / "oracles" / "hic" / f"gm12878_2mb_{table}.csv.gz")
    want = oracle[oracle[f"kept_oe_gt{threshold}"] == 1].sort_values(["node1", "node2"])
    assert list(edges.columns) == ["node1", "node2", "count", "oe"]
    np.testing.assert_array_equal(edges[["node1", "node2", "count"]], want[["node1", "node2", "count"]])
    np.testing.assert_allclose(edges["oe"], want["oe"], rtol=1e-9)


def test_contact_graph__numbers_nodes_in_the_order_of_the_chromosomes(gm12878):
    forward = ed.contact_graph(*gm12878, chromosomes=["chr2", "chr17"], inter=True)
    backward = ed.contact_graph(*gm12878, chromosomes=["chr17", "chr2"], inter=True)
    n, n_2 = forward.attrs["n_nodes"], 122
    moved = backward[["node1", "node2"]].to_numpy()
    moved = np.sort(np.where(moved < n - n_2, moved + n_2, moved - (n - n_2)), axis=1)
    order = np.lexsort(moved.T[::-1])
    np.testing.assert_array_equal(moved[order], forward[["node1", "node2"]])
    np.testing.assert_array_equal(backward["oe"].to_numpy()[order], forward["oe"])
    assert (backward["node1"] < backward["node2"]).all()
    assert backward.equals(backward.sort_values(["node1", "node2"], ignore_index=True))


def contacts_of(dense):
    """Upper triangle of a dense matrix over the chromosomes of SIZES."""
    bin1, bin2 = np.nonzero(np.triu(dense))
    contacts = pd.DataFrame({"bin1_id": bin1, "bin2_id": bin2, "count": dense[bin1, bin2]})
    start = 10 * np.concatenate([np.arange(n) for n in SIZES.values()])
    contacts.attrs["bins"] = pd.DataFrame(
        {"chrom": np.repeat(list(SIZES), list(SIZES.values())), "start": start, "end": start + 10}
    )
    return contacts


def dense_edges(dense, weights, threshold, min_distance, inter):
    """Edges by their definition, pair of bins by pair of bins."""
    chrom = np.repeat(np.arange(len(SIZES)), list(SIZES.values()))
    found = []
    for i in range(len(chrom)):
        for j in range(i + 1, len(chrom)):
            cis = chrom[i] == chrom[j]
            if np.isnan(weights[i] * weights[j]) or (j - i < min_distance if cis else not inter):
                continue
            group = [
                dense[k, m] * weights[k] * weights[m]
                for k in np.flatnonzero(chrom == chrom[i])
                for m in np.flatnonzero(chrom == chrom[j])
                if not np.isnan(weights[k] * weights[m]) and (not cis or m - k == j - i)
            ]
            balanced = dense[i, j] * weights[i] * weights[j]
            if balanced > 0 and balanced / np.mean(group) > threshold * (1 + 1e-9):
                found.append((i, j, dense[i, j], balanced / np.mean(group)))
    return np.array(found, dtype=float).reshape(-1, 4)


@given(
    seed=st.integers(0, 2**32 - 1),
    mean=st.sampled_from([0.0, 0.2, 2.0]),
    missing=st.sampled_from([0.0, 0.3, 0.7]),
    threshold=st.sampled_from([0.0, 1.0, 1.5]),
    min_distance=st.integers(0, 3),
    inter=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_contact_graph__equals_its_dense_definition(seed, mean, missing, threshold, min_distance, inter):
    rng = np.random.default_rng(seed)
    n = sum(SIZES.values())
    dense = np.triu(rng.poisson(mean, (n, n)))
    weights = np.where(rng.random(n) < missing, np.nan, rng.uniform(0.2, 2, n))
    weights[-1] = 1.0
    edges = ed.contact_graph(contacts_of(dense), weights, f"oe>{threshold}", min_distance, inter=inter)
    want = dense_edges(dense, weights, threshold, min_distance, inter)
    np.testing.assert_array_equal(edges[["node1", "node2", "count"]], want[:, :3])
    np.testing.assert_allclose(edges["oe"], want[:, 3], rtol=1e-12)


@pytest.fixture
def star():
    """Bin 0 touches 1, 2, 3, 4 of its chromosome and 6 of another; 1 touches 2."""
    dense = np.zeros((10, 10), dtype=int)
    dense[0, 1:5], dense[1, 2], dense[0, 6], dense[0, 0] = [8, 2, 3, 1], 4, 5, 9
    return contacts_of(dense)


def pairs(edges):
    return list(zip(edges["node1"], edges["node2"], strict=True))


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("count>0", [(0, 1), (0, 2), (0, 3), (0, 4), (0, 6), (1, 2)]),
        ("count>=3", [(0, 1), (0, 3), (0, 6), (1, 2)]),
        ("count>3 and count<8", [(0, 6), (1, 2)]),
        ("distance>=20", [(0, 2), (0, 3), (0, 4), (0, 6)]),
        ("distance<=10 and balanced<5", [(1, 2)]),
        ("oe>=4", [(0, 6)]),  # 5 contacts of 5 x 4 pairs of bins: O/E 20
        ("oe>1", [(0, 1), (0, 2), (0, 3), (0, 6), (1, 2)]),  # O/E 8 / 3, 3, 2, 20, 4 / 3; 0-4 is a tie
        ("count>0 and top<=1", [(0, 1), (0, 2), (0, 3), (0, 4), (0, 6)]),  # 1-2 is second for both
    ],
)
def test_contact_graph__follows_the_rule(star, rule, want):
    assert sorted(pairs(ed.contact_graph(star, None, rule, inter=True))) == sorted(want)


def test_contact_graph__takes_the_top_of_either_end_and_settles_ties_by_number():
    dense = np.zeros((10, 10), dtype=int)
    dense[0, 1], dense[1, 2], dense[2, 3], dense[3, 4], dense[0, 2] = 1, 1, 1, 1, 1
    edges = ed.contact_graph(contacts_of(dense), None, "count>0 and top<=1")
    # the four steps have O/E 1, 0-2 has 3: 1 takes 0 of 0 and 2, 3 takes 2 of 2 and 4
    assert pairs(edges) == [(0, 1), (0, 2), (2, 3), (3, 4)]


def test_contact_graph__adds_the_columns_that_are_asked_for(star):
    edges = ed.contact_graph(star, np.full(10, 2.0), "count>=4", inter=True, extra=["distance", "balanced"])
    assert list(edges.columns) == ["node1", "node2", "count", "oe", "balanced", "distance"]
    assert edges["balanced"].tolist() == [32, 20, 16]
    np.testing.assert_array_equal(edges["distance"], [10, np.nan, 10])
    assert "balanced" in ed.contact_graph(star, None, "balanced>1").columns


def test_contact_graph__takes_the_fdr_of_the_contacts(star):
    given = star.assign(fdr=[0.5, 0.01, np.nan, 0.2, 0.001, 0.05, 0.3])
    edges = ed.contact_graph(given, None, "fdr<=0.05")
    assert pairs(edges) == [(0, 1), (0, 4)]
    assert edges["fdr"].tolist() == [0.01, 0.001]


def test_contact_graph__tests_contacts_without_fdr(star, monkeypatch):
    def tested(contacts):
        assert contacts is star
        return pd.DataFrame({"bin1_id": [1, 0, 0], "bin2_id": [2, 3, 1], "fdr": [0.04, 0.5, 0.01]})

    monkeypatch.setattr(significance, "significant_contacts", tested)
    edges = ed.contact_graph(star, None, "count>0", inter=True, extra=["fdr"])
    assert dict(zip(pairs(edges), edges["fdr"].fillna(1), strict=True)) == {
        (0, 1): 0.01, (0, 2): 1, (0, 3): 0.5, (0, 4): 1, (0, 6): 1, (1, 2): 0.04
    }  # fmt: skip
    assert pairs(ed.contact_graph(star, None, "fdr<0.1", inter=True)) == [(0, 1), (1, 2)]


def test_contact_graph__of_no_contacts_has_nodes_only():
    edges = ed.contact_graph(contacts_of(np.zeros((10, 10), dtype=int)), None, "oe>1 and top<=3", inter=True)
    assert len(edges) == 0
    assert edges.attrs["n_nodes"] == 10
    assert edges.dtypes[["node1", "node2"]].tolist() == [np.int32, np.int32]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chromosomes": ["a", "chr1"]}, "unknown chromosome 'chr1'; the contacts have a, b, c"),
        ({"chromosomes": ["a", "a"]}, "chromosomes 'a,a': want one or more names, each once"),
        ({"chromosomes": []}, "want one or more names"),
        ({"min_distance": -1}, "min_distance is -1"),
        ({"extra": ["p"]}, "extra column 'p' is unknown, want some of balanced, distance, fdr"),
        ({"weights": np.full(10, np.nan)}, "all are NaN"),
    ],
)
def test_contact_graph__names_what_is_wrong(star, change, words):
    with pytest.raises(InputError, match=words):
        ed.contact_graph(star, **({"weights": None} | change))


@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
def test_condition__counts_values_within_rounding_as_equal(operator):
    near = np.array([3 * (1 - 1e-8), 3 * (1 - 1e-10), 3, 3 * (1 + 1e-10), 3 * (1 + 1e-8), np.nan])
    held = Condition("oe", operator, 3.0).holds(near).tolist()
    equal = operator.endswith("=")
    assert held == [operator[0] == "<", equal, equal, equal, operator[0] == ">", False]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("oe", "'oe'"),
        ("oe=1", "'oe=1'"),
        ("oe>1 and", "'oe>1 and'"),
        ("oe>1 or count>2", "'oe>1 or count>2'"),
        ("oe>1,count>2", "'oe>1,count>2'"),
        ("reads>1", "'reads>1'"),
        ("oe>high", "'oe>high'"),
        ("oe>-1", "'oe>-1'"),
        ("oe>nan", "'oe>nan'"),
        ("count>1 and top<3", "'top<3'"),
        ("top<=2.5", "'top<=2.5'"),
        ("top<=0", "'top<=0'"),
        ("top<=2 and top<=3", "'top<=3'"),
    ],
)
def test_parse_rule__shows_what_it_cannot_read(text, part):
    with pytest.raises(InputError) as caught:
        parse_rule(text)
    assert part in str(caught.value)
    assert "want conditions like 'oe>1' joined by 'and'" in str(caught.value)


def test_edge_weights__are_what_their_names_say(star):
    edges = ed.contact_graph(star, None, "count>=4").assign(fdr=[0.0, 0.01])
    assert edge_weights(edges.assign(fdr=np.nan), ["minus_log10_fdr"])["minus_log10_fdr"].tolist() == [0, 0]
    found = edge_weights(edges, ["binary", "count", "log_count", "oe", "minus_log10_fdr"])
    assert {name: values.dtype for name, values in found.items()} == dict.fromkeys(found, np.float32)
    np.testing.assert_allclose(found["log_count"], np.log2([9, 5]), rtol=1e-6)
    np.testing.assert_array_equal([found["binary"], found["count"]], [[1, 1], [8, 4]])
    np.testing.assert_allclose(found["minus_log10_fdr"], [300, 2], rtol=1e-6)
    np.testing.assert_allclose(found["oe"], edges["oe"], rtol=1e-6)
    with pytest.raises(InputError, match="'weird' is unknown, want some of binary, count, log_count"):
        edge_weights(edges, ["weird"])
    with pytest.raises(InputError, match="'balanced': the edges have no column 'balanced'"):
        edge_weights(edges, ["balanced"])
