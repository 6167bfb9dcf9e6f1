"""Expected contacts and O/E equal cooltools' tables and a dense definition."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.expected import expected_cis, expected_trans, observed_over_expected
from enhancer_dask.io.contacts import read_contacts


@pytest.fixture(scope="module")
def gm12878(shared):
    """(contacts, ICE weights of the oracle)."""
    weights = pd.read_csv(shared / "oracles" / "hic" / "gm12878_2mb_weights.csv.gz")["ice_default"]
    return read_contacts(shared / "data" / "hic" / "gm12878.hg19.2000kb.cool"), weights


@pytest.fixture
def toy():
    contacts = pd.DataFrame(
        {"bin1_id": [0, 0, 1, 1], "bin2_id": [1, 2, 2, 3], "count": [4, 1, 2, 3]}, index=[7, 5, 3, 1]
    )
    chroms = ["a", "a", "a", "b", "b"]
    contacts.attrs["bins"] = pd.DataFrame({"chrom": chroms, "start": [0, 10, 20, 0, 10], "end": [10, 20, 30, 10, 20]})
    return contacts


@pytest.mark.parametrize(
    ("function", "kind", "keys"),
    [(expected_cis, "cis", ["chrom", "dist_bins"]), (expected_trans, "trans", ["chrom1", "chrom2"])],
    ids=["cis", "trans"],
)
def test_expected__equals_the_oracle(gm12878, shared, function, kind, keys):
    oracle = pd.read_csv(shared / "oracles" / "hic" / f"gm12878_2mb_expected_{kind}.csv.gz")
    table = oracle[keys].merge(function(*gm12878), on=keys, how="left", validate="1:1")
    np.testing.assert_array_equal(table["n_valid"], oracle["n_valid"])
    for column in ("balanced_sum", "balanced_avg"):
        np.testing.assert_allclose(table[column], oracle[column], rtol=1e-9)


@pytest.mark.parametrize("chrom", ["chr2", "chr11"])
def test_observed_over_expected__equals_the_oracle(gm12878, shared, chrom):
    contacts, weights = gm12878
    oracle = pd.read_csv(shared / "oracles" / "hic" / f"gm12878_2mb_oe_{chrom}.csv.gz")
    inside = contacts["bin1_id"].isin(oracle["bin1_id"]) & contacts["bin2_id"].isin(oracle["bin2_id"])
    table = observed_over_expected(contacts, weights)[inside]
    np.testing.assert_allclose(table["balanced"], oracle["balanced"], rtol=1e-9)
    np.testing.assert_allclose(table["oe"], oracle["oe"], rtol=1e-9)


def test_observed_over_expected__equals_a_dense_well_covered_example(shared):
    dense = np.load(shared / "oracles" / "hic" / "dm6_100kb_chr2L_oe.npz")
    contacts = read_contacts(shared / "data" / "hic" / "dm6.100kb.mcool", 100_000)
    n = len(dense["weight"])
    weights = np.append(dense["weight"], np.ones(len(contacts.attrs["bins"]) - n))  # only chr2L is looked at
    cis = expected_cis(contacts, weights).iloc[:n]
    np.testing.assert_array_equal(cis["n_valid"], dense["n_valid"])
    np.testing.assert_allclose(cis["balanced_avg"], dense["expected"], rtol=1e-9)
    inside = (contacts["bin2_id"] < n).to_numpy()
    bin1, bin2 = contacts["bin1_id"].to_numpy()[inside], contacts["bin2_id"].to_numpy()[inside]
    np.testing.assert_array_equal(contacts["count"].to_numpy()[inside], dense["counts"][bin1, bin2])
    oe = observed_over_expected(contacts, weights)["oe"].to_numpy()[inside]
    np.testing.assert_allclose(oe, dense["oe"][bin1, bin2], rtol=1e-9)


@st.composite
def experiments(draw):
    """(contacts, dense matrix, weights) with empty chromosomes, chromosomes of one bin, bins left out."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    n = sum(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dense = np.triu(rng.poisson(draw(st.sampled_from([0.0, 0.3, 3.0])), (n, n)))
    weights = rng.uniform(0.1, 3, n)
    weights[rng.random(n) < draw(st.sampled_from([0.0, 0.4, 0.8]))] = np.nan
    weights[0] = 1.0
    code = np.repeat(np.arange(len(sizes)), sizes)
    if draw(st.booleans()):
        weights[code == len(sizes) - 1] = np.nan
        weights[0] = 1.0
        dense[code == 0] = 0
    bin1, bin2 = np.nonzero(dense)
    order = rng.permutation(bin1.size)
    contacts = pd.DataFrame({"bin1_id": bin1[order], "bin2_id": bin2[order], "count": dense[bin1, bin2][order]})
    start = 10 * np.concatenate([np.arange(size) for size in sizes])
    chroms = np.array(["x", "a", "10", "2"])[code]
    contacts.attrs["bins"] = pd.DataFrame({"chrom": chroms, "start": start, "end": start + 10})
    return contacts, dense + np.triu(dense, 1).T, weights


def dense_expected(dense, weights, chroms):
    """Expected balanced contact of each pair of bins, by its definition."""
    balanced = dense * weights[:, None] * weights
    n = len(weights)
    expected = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(n):
            group = [
                (k, m)
                for k in range(n)
                for m in range(n)
                if (chroms[k], chroms[m]) == (chroms[i], chroms[j]) and (chroms[i] != chroms[j] or m - k == j - i)
            ]
            values = np.array([balanced[pair] for pair in group])
            valid = values[~np.isnan(values)]
            expected[i, j] = valid.mean() if valid.size else np.nan
    return expected


@given(experiment=experiments())
@settings(deadline=None, max_examples=40)
def test_observed_over_expected__equals_its_dense_definition(experiment):
    contacts, dense, weights = experiment
    chroms = contacts.attrs["bins"]["chrom"].to_numpy()
    expected = dense_expected(dense, weights, chroms)
    bin1, bin2 = contacts["bin1_id"].to_numpy(), contacts["bin2_id"].to_numpy()
    table = observed_over_expected(contacts, weights)
    want = (dense * weights[:, None] * weights)[bin1, bin2]
    np.testing.assert_allclose(table["balanced"], want, rtol=1e-12)
    np.testing.assert_allclose(table["oe"], want / expected[bin1, bin2], rtol=1e-9)
    given = observed_over_expected(
        contacts, weights, expected_cis(contacts, weights), expected_trans(contacts, weights)
    )
    pd.testing.assert_frame_equal(given, table)


def test_observed_over_expected__keeps_the_rows(toy):
    table = observed_over_expected(toy)
    assert table.index.tolist() == [7, 5, 3, 1]
    # separation 1 on chromosome a: (4 + 2) / 2; separation 2: 1; a with b: 3 of 6 pairs of bins
    np.testing.assert_allclose(table["oe"], [4 / 3, 1, 2 / 3, 6])


def test_observed_over_expected__refuses_tables_of_other_bins(toy):
    cis, trans = expected_cis(toy), expected_trans(toy)
    for wrong in (cis.iloc[1:], cis.assign(chrom="c"), trans):
        with pytest.raises(InputError, match="rows by chrom, dist_bins are not those of these bins"):
            observed_over_expected(toy, None, wrong, trans)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.drop(columns="count"), "column 'count' is missing"),
        (lambda c: c.assign(bin1_id=c["bin1_id"] + 0.5), "column 'bin1_id' is float64, want whole numbers"),
        (lambda c: c.assign(bin2_id=9), "bin2_id runs from 9 to 9, but there are 5 bins"),
        (lambda c: c.rename(columns={"bin1_id": "bin2_id", "bin2_id": "bin1_id"}), "want the upper triangle"),
        (lambda c: c.assign(bin1_id=1, bin2_id=2), "bins 1, 2 occur more than once"),
        (lambda c: c.assign(count=-1), "column 'count' has values that are not finite numbers from 0"),
        (lambda c: c.assign(count=np.inf), "column 'count' has values that are not finite numbers from 0"),
        (lambda c: c.assign(count="1"), "column 'count' has values that are not finite numbers from 0"),
    ],
    ids=["column", "fraction", "range", "lower", "twice", "negative", "infinite", "text"],
)
def test_contacts__name_what_is_wrong(toy, spoil, words):
    with pytest.raises(InputError, match=words):
        expected_cis(spoil(toy))


def test_contacts__want_bins_whose_chromosomes_stand_together(toy):
    bare = toy.copy()
    bare.attrs = {}
    with pytest.raises(InputError, match=r"attrs\['bins'\] is missing"):
        expected_cis(bare)
    bare.attrs["bins"] = toy.attrs["bins"].assign(chrom=list("abaab"))
    with pytest.raises(InputError, match="do not stand together"):
        expected_cis(bare)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(4), r"shape \(4,\), want \(5,\)"),
        (np.full(5, np.nan), "all are NaN"),
        ([1, 1, 1, 1, np.inf], "infinite, zero or negative"),
        ([1, 1, 1, 1, -1], "infinite, zero or negative"),
        ([1, 1, 1, 1, 0], "infinite, zero or negative"),
    ],
)
def test_weights__name_what_is_wrong(toy, weights, words):
    with pytest.raises(InputError, match=f"weights: .*{words}"):
        expected_trans(toy, weights)
