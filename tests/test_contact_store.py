"""The contact store: what is written is read, block by block; what is damaged is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import zarr

from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.contact_writer import write_contacts
from enhancer_dask.io.pixels import PixelSum, make_bins

SIZES = {"a": 95, "b": 40, "c": 7}


def random_contacts(seed, dtype=np.int64):
    rng, bins = np.random.default_rng(seed), make_bins(SIZES, 10)
    total = PixelSum(len(bins))
    bin1, bin2 = rng.integers(0, len(bins), (2, 60))
    total.add(bin1, bin2, rng.integers(1, 9, 60).astype(dtype) / (1 if dtype == np.int64 else 4))
    table = total.table()
    table.attrs["bins"] = bins
    return table


@pytest.fixture
def contacts():
    return random_contacts(0)


@pytest.fixture
def store(contacts, tmp_path):
    weights = np.linspace(0.5, 2, len(contacts.attrs["bins"]))
    weights[3] = np.nan
    write_contacts(tmp_path / "a.zarr", contacts, vectors={"KR": weights}, assembly="toy")
    return ContactStore(tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_write_contacts__is_read_again(tmp_path, dtype):
    contacts = random_contacts(1, dtype)
    write_contacts(tmp_path / "a.zarr", contacts)
    found = ContactStore(tmp_path / "a.zarr").contacts(10)
    pd.testing.assert_frame_equal(found.sort_values(["bin1_id", "bin2_id"], ignore_index=True), contacts)
    pd.testing.assert_frame_equal(found.attrs["bins"], contacts.attrs["bins"])


def test_contacts__are_sorted_by_block_then_bins(store):
    found = store.contacts(10)
    chrom = pd.factorize(store.bins(10)["chrom"])[0]
    keys = [chrom[found["bin1_id"]], chrom[found["bin2_id"]], found["bin1_id"], found["bin2_id"]]
    assert (np.lexsort(keys[::-1]) == np.arange(len(found))).all()


@pytest.mark.parametrize("inter", [True, False])
@pytest.mark.parametrize("chosen", [None, ["b"], ["c", "a"], ["a", "b", "c"]])
def test_contacts__of_some_chromosomes(store, contacts, chosen, inter):
    found = store.contacts(10, chosen, inter=inter)
    chrom = contacts.attrs["bins"]["chrom"].to_numpy()
    chrom1, chrom2 = chrom[contacts["bin1_id"]], chrom[contacts["bin2_id"]]
    kept = np.isin(chrom1, chosen or list(SIZES)) & np.isin(chrom2, chosen or list(SIZES))
    kept &= inter | (chrom1 == chrom2)
    want = contacts[kept].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.sort_values(["bin1_id", "bin2_id"], ignore_index=True), want)


@pytest.mark.parametrize("at_a_time", [7, 1_000])
def test_contacts__of_one_cell_and_of_all(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr("enhancer_dask.contact_store.PIXELS_AT_A_TIME", at_a_time)
    cells = {f"cell {i}": random_contacts(i) for i in range(4)}
    empty = cells["cell 0"].iloc[:0]
    table = pd.DataFrame({"stage": ["E7", None, "E9", "E9", "E9"], "depth": range(5)})
    write_contacts(tmp_path / "a.zarr", {**cells, "none": empty}, cells=table)
    store = ContactStore(tmp_path / "a.zarr")
    assert store.cells == [*cells, "none"]
    for name, want in cells.items():
        found = store.contacts(10, cell=name).sort_values(["bin1_id", "bin2_id"], ignore_index=True)
        pd.testing.assert_frame_equal(found, want)
        inner = store.contacts(10, ["a"], cell=name)
        assert inner["bin2_id"].max() < 10
    assert len(store.contacts(10, cell="none")) == 0
    pooled = PixelSum(len(store.bins(10)))
    for want in cells.values():
        pooled.add(*(want[name].to_numpy() for name in want))
    pd.testing.assert_frame_equal(store.contacts(10), pooled.table())
    inner = sum(store.contacts(10, ["a", "c"], inter=False, cell=name)["count"].sum() for name in cells)
    assert store.contacts(10, ["a", "c"], inter=False)["count"].sum() == inner
    assert store.cell_columns == ["depth", "stage"]
    assert store.cell_column("stage").tolist() == ["E7", "", "E9", "E9", "E9"]
    assert store.cell_column("depth").tolist() == list(range(5))


def test_vectors__are_read_again(store):
    (name, weights), *others = store.vectors(10).items()
    assert (name, others, store.assembly) == ("KR", [], "toy")
    assert np.isnan(weights[3])
    np.testing.assert_array_equal(weights, np.where(np.arange(15) == 3, np.nan, np.linspace(0.5, 2, 15)))


def test_fingerprint__tells_contents_apart(tmp_path, contacts):
    other = contacts.copy()
    other.loc[0, "count"] += 1
    found = set()
    for i, (table, cells) in enumerate([(contacts, None), (other, None), ({"x": contacts}, None)]):
        write_contacts(tmp_path / str(i), table, cells=cells)
        found.add(ContactStore(tmp_path / str(i)).fingerprint)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 5}, "no contacts at 5 bp; resolutions are: 10"),
        ({"resolution": 10, "chromosomes": ["a", "z"]}, "no chromosome 'z'; it has a, b, c"),
        ({"resolution": 10, "cell": "x"}, "no cell is named 'x'; it holds bulk contacts"),
    ],
)
def test_contacts__bad_requests(store, arguments, message):
    with pytest.raises(InputError) as error:
        store.contacts(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["bin1", "bin2", "count", "offset", "bin_start", "block_chrom1", "vector_KR"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_contacts__damage_is_noticed(store, name, damage):
    chunk = next(path for path in (store.path / "10" / name / "c").rglob("*") if path.is_file())
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-3])
    else:
        chunk.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.vectors(10) if name == "vector_KR" else store.contacts(10)


def test_contact_store__what_is_none(tmp_path, store):
    with pytest.raises(StoreError, match="no such store"):
        _ = ContactStore(tmp_path / "nothing").chroms
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="not a Zarr store"):
        _ = ContactStore(tmp_path / "empty").chroms
    shutil.copytree(store.path, tmp_path / "newer")
    group = zarr.open_group(str(tmp_path / "newer"), mode="r+")
    group.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="schema version 99, written by enhancer-dask"):
        _ = ContactStore(tmp_path / "newer").chroms
    group.attrs["schema"] = "other"
    with pytest.raises(StoreError, match="attribute 'schema' is 'other'"):
        _ = ContactStore(tmp_path / "newer").chroms


def test_write_contacts__bins_of_one_size(tmp_path, contacts):
    contacts.attrs["bins"] = contacts.attrs["bins"].assign(end=lambda bins: bins["end"] - (bins.index == 2))
    with pytest.raises(InputError, match="bins are not of one size"):
        write_contacts(tmp_path / "a.zarr", contacts)
    assert not (tmp_path / "a.zarr").exists()
