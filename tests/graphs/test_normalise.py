"""Balancing: ICE equals cooler, Knight-Ruiz weights balance or are refused, coverage equals Juicer's."""

import json
import warnings

import cooler
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from enhancer_dask.errors import InputError, NoBalanceError
from enhancer_dask.graphs.contact_matrix import as_matrix
from enhancer_dask.graphs.normalise import BalanceWarning, balance, ice, kr, vc, vc_sqrt
from enhancer_dask.io.contacts import read_contacts

FILES = {"gm12878_2mb": "gm12878.hg19.2000kb.cool", "mm9_10mb": "cn.mm9.10000kb.cool"}


@pytest.fixture(scope="module", params=list(FILES))
def measured(request, shared):
    """(matrix, chromosome of each bin, oracle table) of a real experiment."""
    contacts = read_contacts(shared / "data" / "hic" / FILES[request.param])
    weights = pd.read_csv(shared / "oracles" / "hic" / f"{request.param}_weights.csv.gz")
    return as_matrix(contacts), contacts.attrs["bins"]["chrom"], weights


def contacts_of(dense, chroms):
    """Upper triangle of a dense symmetric matrix as contacts."""
    bin1, bin2 = np.nonzero(np.triu(dense))
    contacts = pd.DataFrame({"bin1_id": bin1, "bin2_id": bin2, "count": dense[bin1, bin2]})
    start = np.concatenate([10 * np.arange(n) for n in np.unique(chroms, return_counts=True)[1]])
    contacts.attrs["bins"] = pd.DataFrame({"chrom": chroms, "start": start, "end": start + 10})
    return contacts


def random_counts(rng, n, density=0.3, mean=3.0):
    upper = np.triu(rng.poisson(mean, (n, n)) * (rng.random((n, n)) < density))
    return upper + np.triu(upper, 1).T


def row_sums(matrix, weights):
    kept = ~np.isnan(weights)
    filled = np.where(kept, weights, 0)
    return (filled * (matrix @ filled))[kept]


def test_as_matrix__has_the_row_sums_and_entries_of_the_oracle(measured):
    matrix, _, oracle = measured
    np.testing.assert_array_equal(matrix.sum(axis=1), oracle["row_sum_raw"])
    np.testing.assert_array_equal(np.diff(matrix.indptr), oracle["nnz"])
    assert (matrix != matrix.T).nnz == 0


def test_ice__equals_cooler_on_real_contacts(measured):
    matrix, chroms, oracle = measured
    # tolerances: the oracle's README; the two oracles themselves differ by 5.3e-5
    np.testing.assert_allclose(ice(matrix, chromosomes=chroms), oracle["ice_default"], rtol=1e-4)
    tight = ice(matrix, chromosomes=chroms, tol=1e-12, max_iters=5000)
    np.testing.assert_allclose(tight, oracle["ice_tight"], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mad_max": 0},
        {"mad_max": 2},
        {"min_nnz": 3, "mad_max": 3},
        {"min_nnz": 0, "mad_max": 0, "tol": 1e-3},
        {"min_count": 40, "mad_max": 0},
        {"ignore_diags": 0},
        {"ignore_diags": 4, "rescale_marginals": False},
    ],
    ids=json.dumps,
)
def test_ice__equals_cooler_on_random_contacts(tmp_path, options):
    if options.get("ignore_diags") == 0 and cooler.__version__.startswith("0.10."):
        pytest.skip("cooler before 0.11 counts a contact of a bin with itself twice")
    rng = np.random.default_rng(5)
    dense = random_counts(rng, 60)
    dense[[3, 41]], dense[:, [3, 41]] = 0, 0
    dense[7, 9:], dense[9:, 7] = 0, 0
    contacts = contacts_of(dense, np.repeat(["chr1", "chr2", "chr3"], [30, 29, 1]))
    options = {"tol": 1e-12, "max_iters": 3000} | options
    cooler.create_cooler(str(tmp_path / "a.cool"), contacts.attrs["bins"], contacts)
    want, stats = cooler.balance_cooler(cooler.Cooler(str(tmp_path / "a.cool")), **options)
    got = ice(as_matrix(contacts), chromosomes=contacts.attrs["bins"]["chrom"], **options)
    assert stats["converged"]
    np.testing.assert_allclose(got, want, rtol=1e-9)  # the same algorithm; only the order of sums differs


def test_ice__says_when_it_did_not_converge():
    matrix = sparse.csr_array(random_counts(np.random.default_rng(1), 40))
    with pytest.warns(BalanceWarning, match="did not converge in 2 rounds"):
        ice(matrix, max_iters=2)
    with pytest.raises(InputError, match="max_iters is 0"):
        ice(matrix, max_iters=0)


def test_ice__leaves_nothing_of_too_few_contacts():
    found = balance(sparse.csr_array(np.ones((5, 5))), "ice")
    assert np.isnan(found.weights).all()
    assert found.dropped["min_nnz"].tolist() == [0, 1, 2, 3, 4]
    assert balance(sparse.csr_array((0, 0)), "ice").weights.size == 0


def test_kr__equals_the_oracle_on_the_bins_that_ice_keeps(measured):
    matrix, chroms, oracle = measured
    kept = oracle["ice_default"].notna().to_numpy()
    sub = matrix[kept][:, kept]
    weights = kr(sub)
    np.testing.assert_allclose(weights, oracle["kr_masked"][kept], rtol=1e-9)
    np.testing.assert_allclose(row_sums(sub, weights), 1, rtol=1e-12)
    found = balance(matrix, "kr", chromosomes=chroms)
    np.testing.assert_allclose(found.weights, oracle["kr_masked"], rtol=1e-9)
    assert np.concatenate(list(found.dropped.values())).size == (~kept).sum()


def test_kr__keeps_all_non_empty_bins_where_that_has_a_solution(shared):
    matrix = as_matrix(read_contacts(shared / "data" / "hic" / FILES["mm9_10mb"]))
    oracle = pd.read_csv(shared / "oracles" / "hic" / "mm9_10mb_weights.csv.gz")
    for switch in (True, False):
        np.testing.assert_allclose(kr(matrix, filter=switch), oracle["kr_nonempty"], rtol=1e-9)


def test_kr__refuses_contacts_without_a_solution_or_drops_what_stands_in_the_way(shared):
    # the oracle's README: no solution exists on all non-empty bins, and iterates look as if there were one
    matrix = as_matrix(read_contacts(shared / "data" / "hic" / FILES["gm12878_2mb"]))
    with pytest.raises(NoBalanceError, match=r"no Knight-Ruiz weights exist, 234 of 74854 entries .* bins 564, 1338"):
        kr(matrix, filter=False)
    weights = kr(matrix)
    np.testing.assert_allclose(row_sums(matrix, weights), 1, rtol=1e-10)
    empty = np.diff(matrix.indptr) == 0
    dropped = np.flatnonzero(np.isnan(weights) & ~empty)
    assert 0 < dropped.size <= 18  # the bins with an empty diagonal
    assert (matrix.diagonal()[dropped] == 0).all()


def supported_entries(dense):
    """Entries that lie on a positive diagonal, by the permanent of what is left without their row and column."""

    def matchable(rows):
        """Can these rows be matched to the columns that the used ones leave, by brute force."""
        found = {frozenset()}
        for row in rows:
            found = {used | {c} for used in found for c in np.flatnonzero(row) if c not in used}
        return bool(found)

    hits = np.zeros(dense.shape, dtype=bool)
    for i, j in zip(*np.nonzero(dense), strict=True):
        hits[i, j] = matchable(np.delete(np.delete(dense, i, 0), j, 1))
    return hits


@given(
    pattern=st.integers(1, 6).flatmap(lambda n: st.lists(st.integers(0, 3), min_size=n * n, max_size=n * n)),
)
@settings(deadline=None, max_examples=150)
def test_kr__balances_exactly_the_matrices_with_total_support(pattern):
    n = round(len(pattern) ** 0.5)
    dense = np.maximum(np.array(pattern).reshape(n, n) - 1, 0)  # half of the entries are empty
    dense = np.triu(dense) + np.triu(dense, 1).T
    matrix = sparse.csr_array(dense)
    kept = dense.any(axis=0)
    full = dense[kept][:, kept]
    if np.array_equal(supported_entries(full), full > 0):
        weights = kr(matrix, filter=False)
        np.testing.assert_array_equal(np.isnan(weights), ~kept)
    else:
        with pytest.raises(NoBalanceError, match="no total support"):
            kr(matrix, filter=False)
        weights = kr(matrix)
        assert np.isnan(weights).sum() > (~kept).sum()
    np.testing.assert_allclose(row_sums(matrix, weights), 1, rtol=1e-11)


def test_kr__drops_one_bin_of_two_that_share_their_only_neighbour():
    # 0 and 1 touch only 2, which also touches 3 and itself: without one of them 2 belongs to the other alone
    dense = np.array([[0, 0, 1, 0], [0, 0, 5, 0], [1, 5, 2, 3], [0, 0, 3, 4]])
    found = balance(sparse.csr_array(dense), "kr")
    assert found.dropped["no_support"].size == 2
    assert set(found.dropped["no_support"]) == {0, 1}


def test_kr__warns_of_weights_that_nearly_run_off():
    # exact: x0 = 1 / x1 up to 1e-20, and x0^4 = 1e40
    matrix = sparse.csr_array(np.array([[1e-40, 1.0], [1.0, 1.0]]))
    with pytest.warns(BalanceWarning, match="bin 0 hardly hangs on"):
        kr(matrix)


def test_kr__says_when_it_runs_out_of_steps():
    matrix = sparse.csr_array(random_counts(np.random.default_rng(3), 30) + np.eye(30))
    with pytest.raises(NoBalanceError, match="not found in 1 steps"):
        kr(matrix, max_iters=1)


def test_coverage_and_kr__equal_juicer(shared):
    table = pd.read_csv(shared / "oracles" / "hic" / "straw_test_2500kb_norm_vectors.csv.gz", dtype={"chrom": str})
    contacts = read_contacts(shared / "data" / "hic" / "straw_test.hg19.2500kb.hic")
    names = contacts.attrs["bins"]["chrom"].str.removeprefix("chr").to_numpy()
    matrix = as_matrix(contacts)
    for chrom, oracle in table.groupby("chrom"):
        rows = np.flatnonzero(names == chrom)
        cis = matrix[rows][:, rows]
        for function, name in ((vc, "VC"), (vc_sqrt, "VC_SQRT")):
            # vectors of .hic files divide, and are 0 in empty bins
            np.testing.assert_allclose(1 / function(cis), oracle[name].where(oracle[name] > 0), rtol=1e-12)
        kept = oracle["KR"].notna().to_numpy()
        sub = cis[kept][:, kept]
        weights = kr(sub)
        scale = np.sqrt(sub.sum() / weights.size)  # Juicer: the balanced contacts have the sum of the counts
        np.testing.assert_allclose(1 / (weights * scale), oracle["KR"][kept], rtol=1e-6)
        np.testing.assert_allclose(1 / (weights * scale), oracle["own_kr"][kept], rtol=1e-9)
    assert table["chrom"].nunique() == 21


def test_balance__none_keeps_all_bins():
    found = balance(sparse.csr_array((3, 3)), "none")
    assert found.weights.tolist() == [1, 1, 1]
    assert found.converged


def test_balance__gives_coverage_and_its_empty_bins():
    found = balance(sparse.csr_array(np.diag([4.0, 0, 1])), "vc")
    np.testing.assert_allclose(found.weights, vc(sparse.csr_array(np.diag([4.0, 0, 1]))))
    assert found.dropped["empty"].tolist() == [1]


def test_balance__goes_on_without_filters_that_leave_nothing():
    found = balance(sparse.csr_array(np.array([[2.0, 1], [1, 2]])), "kr")
    np.testing.assert_allclose(found.weights, 1 / np.sqrt(3))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), "ndarray"),
        (sparse.csr_array((2, 3)), r"shape (2, 3)"),
        (sparse.csr_array(np.triu(np.ones((3, 3)))), "not symmetric"),
        (sparse.csr_array(-np.eye(3)), "negative"),
        (sparse.csr_array(np.diag([1, np.nan])), "not finite"),
    ],
    ids=["dense", "oblong", "upper", "negative", "nan"],
)
@pytest.mark.parametrize("method", ["ice", "kr", "vc", "none"])
def test_balance__names_what_is_wrong_with_the_matrix(matrix, words, method):
    with pytest.raises(InputError) as caught:
        balance(matrix, method)
    assert str(caught.value).startswith("matrix: ")
    assert words in str(caught.value)


def test_balance__refuses_unknown_methods_and_chromosomes_of_other_bins():
    with pytest.raises(InputError, match="'sinkhorn' is unknown, want one of ice, kr, vc, vc_sqrt, none"):
        balance(sparse.csr_array(np.eye(3)), "sinkhorn")
    with pytest.raises(InputError, match=r"chromosomes: shape \(2,\), want \(3,\)"):
        balance(sparse.csr_array(np.eye(3)), "ice", chromosomes=["a", "b"])


def test_balance__takes_any_format_and_stored_zeros():
    dense = random_counts(np.random.default_rng(8), 30) + np.eye(30)
    stored = sparse.coo_array(dense)
    extra = sparse.coo_array(
        (np.append(stored.data, [0, 0]), tuple(np.append(c, [2, 2]) for c in stored.coords)), shape=dense.shape
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for matrix in (sparse.csc_matrix(dense), stored, extra):
            np.testing.assert_allclose(kr(matrix), kr(sparse.csr_array(dense)), rtol=1e-10)
