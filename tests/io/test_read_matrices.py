"""Cooler and .hic files: storage, resolutions, cells, vectors, damage."""

from __future__ import annotations

import shutil

import cooler
import h5py
import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.contacts import read_contacts, read_vectors

SINGLE = [
    # file, pixels, sum of counts, bins
    ("gm12878.hg19.2000kb.cool", 38_156, 100_000, 1561),
    ("gm12878.hg19.2000kb.hic", 38_156, 100_000, 1561),
    ("cn.mm9.10000kb.cool", 38_503, 499_864_755, 278),
    ("yeast.10kb.cool", 728_311, 115_245_764, 1226),
    ("dm6.100kb.hic", 890_384, 119_208_613, 1380),
    ("straw_test.hg19.2500kb.hic", 386_625, 2_353_230, 1254),
    ("toy.symm.upper.2.cool", 48, 96, 32),
    ("toy.symm.upper.var.cool", 37, 96, 15),
    ("toy.asymm.2.cool", 48, 96, 32),
]


@pytest.fixture(scope="session")
def hic(shared):
    pytest.importorskip("hictkpy")
    return shared / "data" / "hic"


@pytest.mark.parametrize(("file", "n_pixels", "n_contacts", "n_bins"), SINGLE)
def test_read_contacts__real_matrices(hic, file, n_pixels, n_contacts, n_bins):
    table = read_contacts(hic / file)
    assert (len(table), table["count"].sum(), len(table.attrs["bins"])) == (n_pixels, n_contacts, n_bins)
    key = table["bin1_id"].to_numpy() * n_bins + table["bin2_id"].to_numpy()
    assert (table["bin1_id"] <= table["bin2_id"]).all()
    assert (np.diff(key) > 0).all()


def test_read_contacts__hic_equals_the_cooler_it_was_made_from(hic):
    one, other = (read_contacts(hic / f"gm12878.hg19.2000kb.{kind}") for kind in ("cool", "hic"))
    pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(one.attrs["bins"], other.attrs["bins"])
    one, other = read_contacts(hic / "dm6.100kb.mcool", 100_000), read_contacts(hic / "dm6.100kb.hic")
    pd.testing.assert_frame_equal(one, other)


def test_read_contacts__kind_is_told_by_the_content(hic, tmp_path):
    shutil.copy(hic / "toy.symm.upper.2.cool", tmp_path / "renamed.hic")
    assert len(read_contacts(tmp_path / "renamed.hic")) == 48


def test_read_contacts__both_triangles(hic, tmp_path):
    """Each contact on one side: the sides are added. A mirrored matrix holds each twice: one side is taken."""
    want = read_contacts(hic / "toy.symm.upper.2.cool")
    pd.testing.assert_frame_equal(read_contacts(hic / "toy.asymm.2.cool"), want)
    bins, upper = want.attrs["bins"], want.copy()
    upper.attrs = {}
    lower = upper[upper["bin1_id"] != upper["bin2_id"]].rename(columns={"bin1_id": "bin2_id", "bin2_id": "bin1_id"})
    both = pd.concat([upper, lower[list(upper)]]).sort_values(["bin1_id", "bin2_id"])
    path = str(tmp_path / "mirrored.cool")
    cooler.create_cooler(path, bins, both, symmetric_upper=False, triucheck=False)
    pd.testing.assert_frame_equal(read_contacts(path), want)


def test_read_contacts__counts_with_fractions(hic, tmp_path):
    want = read_contacts(hic / "toy.symm.upper.2.cool")
    halves = want.assign(count=want["count"] / 2)
    path = str(tmp_path / "halves.cool")
    cooler.create_cooler(path, want.attrs["bins"], halves, dtypes={"count": float})
    pd.testing.assert_frame_equal(read_contacts(path), halves)


@pytest.mark.parametrize(("resolution", "n_pixels"), [(100_000, 890_384), (1_000_000, 10_148)])
def test_read_contacts__resolutions_of_an_mcool(hic, resolution, n_pixels):
    assert len(read_contacts(hic / "dm6.100kb.mcool", resolution)) == n_pixels


def test_read_contacts__resolutions_of_a_hic(hic, oracle):
    for row in oracle("hic/hic2cool_no_norms_resolutions").itertuples():
        table = read_contacts(hic / "hic2cool_no_norms.hg38.hic", row.resolution)
        assert (len(table), table["count"].sum()) == (row.n_pixels, row.count_sum)


@pytest.mark.parametrize("form", ["{}", "/cells/{}", "{}.cool"])
def test_read_contacts__name_of_a_cell(hic, form):
    for file, cell, n_pixels in (
        ("mouse_5cells.mm9.100kb.scool", "GSM2687248_41669_ACAGTG-R1-DpnII.100000", 107_041),
        ("nagano_20cells.mm9.1mb.scool", "Diploid_1_CGTACTAG_AAGGAGTA_R1fastqgz", 55_498),
    ):
        assert len(read_contacts(hic / file, cell=form.format(cell))) == n_pixels


def test_read_contacts__onto_other_names_and_fewer_chromosomes(hic):
    path = hic / "straw_test.hg19.2500kb.hic"  # 1, 2 ...
    whole, some = read_contacts(path), read_contacts(path, chromsizes={"chr2": 243_199_373, "chr1": 249_250_621})
    bins = some.attrs["bins"]
    assert list(bins["chrom"].unique()) == ["chr2", "chr1"]
    n = [(bins["chrom"] == chrom).sum() for chrom in ("chr2", "chr1")]
    at = whole["bin2_id"] < sum(n)  # chromosome 1, then 2, in the file
    moved = whole.loc[at, ["bin1_id", "bin2_id"]].to_numpy()
    moved = np.sort(np.where(moved < n[1], moved + n[0], moved - n[1]), axis=1)
    want = pd.DataFrame(moved, columns=["bin1_id", "bin2_id"]).assign(count=whole.loc[at, "count"].to_numpy())
    pd.testing.assert_frame_equal(some, want.sort_values(["bin1_id", "bin2_id"], ignore_index=True))
    assert sum(some.attrs["dropped"].values()) == whole["count"].sum() - some["count"].sum()


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("dm6.100kb.mcool", {}, "has several resolutions, choose one of 100000, 1000000"),
        ("dm6.100kb.mcool", {"resolution": 5}, "no contacts at 5 bp; resolutions are: 100000, 1000000"),
        ("straw_test.hg19.2500kb.hic", {"resolution": 5}, "no contacts at 5 bp; resolutions are: 2500000"),
        ("hic2cool_no_norms.hg38.hic", {}, "has several resolutions, choose one of 500000, 1000000"),
        ("cn.mm9.10000kb.cool", {"resolution": 5}, "no contacts at 5 bp; resolutions are: 10000000"),
        ("toy.symm.upper.var.cool", {"resolution": 2}, "no contacts at 2 bp; its bins have different sizes"),
        ("nagano_20cells.mm9.1mb.scool", {}, "has 20 cells, choose one, for instance"),
        ("nagano_20cells.mm9.1mb.scool", {"cell": "A"}, "no cell is named 'A'; first cells: Diploid_1"),
        ("cn.mm9.10000kb.cool", {"cell": "A"}, "holds bulk contacts"),
        ("straw_test.hg19.2500kb.hic", {"cell": "A"}, "holds bulk contacts"),
        ("cn.mm9.10000kb.cool", {"chromsizes": {"1": 9}}, "'chr1' has 197195432 bp, '1' of chromsizes has 9: mixed"),
        ("cn.mm9.10000kb.cool", {"chromsizes": {"c": 9}}, "no contact lies on a known chromosome: it has 'chr1'"),
        ("nothing.cool", {}, "no such file"),
    ],
)
def test_read_contacts__bad_requests(hic, file, arguments, message):
    with pytest.raises(InputError) as error:
        read_contacts(hic / file, **arguments)
    assert str(error.value).startswith(str(hic / file))
    assert message in str(error.value)


@pytest.mark.parametrize("file", ["gm12878.hg19.2000kb.cool", "dm6.100kb.mcool", "dm6.100kb.hic"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_read_contacts__truncated(hic, tmp_path, file, share):
    whole = (hic / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=f"{file}: not readable as a .*truncated or damaged"):
        read_contacts(tmp_path / file, 100_000)


def test_read_contacts__no_contacts_in_an_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "a.cool", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="no contacts there; want bins, chroms and pixels"):
        read_contacts(tmp_path / "a.cool")


@pytest.mark.parametrize("resolution", [0, -1, 2.5, np.nan, np.inf, "1000000"])
def test_read_contacts__resolution_is_a_number_of_bp(hic, resolution):
    with pytest.raises(InputError, match=f"resolution is {resolution!r}; want a whole number of bp, 1 or more"):
        read_contacts(hic / "dm6.100kb.mcool", resolution)


def test_read_contacts__resolution_of_any_numeric_type(hic):
    want = read_contacts(hic / "dm6.100kb.mcool", 1_000_000)
    for resolution in (1e6, np.int64(1_000_000)):
        pd.testing.assert_frame_equal(read_contacts(hic / "dm6.100kb.mcool", resolution), want)


def exact(path):
    return pd.read_csv(path, dtype={"chrom": str}, float_precision="round_trip")


def test_read_vectors__hic_divides(hic, shared):
    want = exact(shared / "oracles" / "hic" / "straw_test_2500kb_norm_vectors.csv.gz")
    found = read_vectors(hic / "straw_test.hg19.2500kb.hic")
    assert sorted(found) == ["KR", "SCALE", "VC", "VC_SQRT"]
    for name, weights in found.items():
        divisor = want[name].where(want[name] != 0).to_numpy()  # VC is 0 in empty bins
        np.testing.assert_allclose(weights[want["bin_id"]], 1 / divisor, rtol=1e-15)


def test_read_vectors__columns_of_a_cooler(hic, shared):
    want = exact(shared / "oracles" / "hic" / "dm6_100kb_norm_vectors.csv.gz")
    found = read_vectors(hic / "dm6.100kb.mcool", 100_000)
    np.testing.assert_array_equal(found["ICE"], want["mcool_weight_multiplicative"])
    for name in ("KR", "SCALE", "VC", "VC_SQRT"):
        divisor = want[f"mcool_{name}_divisive"].where(want[f"mcool_{name}_divisive"] != 0)
        np.testing.assert_allclose(found[name], 1 / divisor, rtol=1e-15)
    # .hic holds the same in single precision
    np.testing.assert_allclose(read_vectors(hic / "dm6.100kb.hic")["ICE"], found["ICE"], rtol=1e-7)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "is NaN in all bins"), (-1.0, "is -1.0 in bin 0, want a positive number or NaN"), (np.inf, "is inf in")],
)
def test_read_vectors__useless_weights(hic, tmp_path, value, message):
    path = tmp_path / "a.cool"
    shutil.copyfile(hic / "cn.mm9.10000kb.cool", path)
    with h5py.File(path, "r+") as file:
        file["bins/weight"][:] = value
    assert read_vectors(path) == {}
    with pytest.raises(InputError, match=f"a.cool: vector 'ICE' {message}"):
        read_vectors(path, names=["ICE"])
    with pytest.raises(InputError, match="a.cool: no vector 'KR'; it has ICE"):
        read_vectors(path, names=["KR"])


def test_read_vectors__a_cooler_says_which_divide(hic, tmp_path):
    path = tmp_path / "said.cool"
    shutil.copyfile(hic / "toy.symm.upper.2.cool", path)
    with h5py.File(path, "r+") as file:
        for name, divides in {"KR": False, "weight": True, "SCALE": None}.items():
            column = file["bins"].create_dataset(name, data=np.full(32, 4.0))
            if divides is not None:
                column.attrs["divisive_weights"] = divides
    found = read_vectors(path)
    assert {name: weights[0] for name, weights in found.items()} == {"KR": 4.0, "ICE": 0.25, "SCALE": 0.25}
