from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.stores import MultiomeStore, consolidate, open_store


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


def test_counts__are_the_block_asked_for(store):
    data, reader = open_store(store), MultiomeStore(store)
    block = reader.counts("atac", [0, 3, 40], "B")
    mine = data["cell_celltype"].values == "B"
    np.testing.assert_array_equal(block, data["atac"].values[[0, 3, 40]][:, mine])
    with pytest.raises(InputError, match="no cell is of type 'Z'; types are: A, B"):
        reader.counts("rna", [0], "Z")


def test_open_store__refuses_a_newer_schema(copy):
    zarr.open_group(copy, mode="r+").attrs["schema_version"] = 2
    consolidate(copy)
    with pytest.raises(StoreError, match=r"schema version 2, written by enhancer-dask .*reads up to version 1"):
        open_store(copy)


def test_open_store__refuses_what_is_no_store(tmp_path, copy):
    with pytest.raises(StoreError, match="nothing.zarr: no such store"):
        open_store(tmp_path / "nothing.zarr")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file: not a Zarr store"):
        open_store(tmp_path / "file")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="attribute 'schema' is None"):
        open_store(tmp_path / "other.zarr")
    shutil.rmtree(copy / "peak_n_nonzero")
    consolidate(copy)
    with pytest.raises(StoreError, match="variable 'peak_n_nonzero' is missing"):
        open_store(copy)


def test_read__a_store_of_another_kind_is_no_unreachable_one(tmp_path):
    zarr.create_group(tmp_path / "contacts.zarr", attributes={"schema": "enhancer-dask contacts"})
    with pytest.raises(StoreError, match="attribute 'schema' is 'enhancer-dask contacts'"):
        MultiomeStore(str(tmp_path / "contacts.zarr")).cells_of("B")


def test_open_store__refuses_other_dimensions(copy):
    group = zarr.open_group(copy, mode="r+")
    values = group["atac"][:].T
    del group["atac"]
    group.create_array("atac", data=values, dimension_names=["cell", "peak"])
    consolidate(copy)
    with pytest.raises(StoreError, match=r"'atac' has dims \('cell', 'peak'\), want \('peak', 'cell'\)"):
        open_store(copy)


def test_counts__flipped_bits_are_noticed(copy):
    chunk = copy / "atac" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0x10
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match="a chunk of 'atac' is damaged .peaks 0..2, A.*checksum"):
        MultiomeStore(copy).counts("atac", [0, 1, 2], "A")


def test_counts__cut_and_missing_chunks_are_noticed(copy):
    chunk = copy / "atac" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(StoreError, match="a chunk of 'atac' is damaged"):
        MultiomeStore(copy).counts("atac", [0, 1, 2], "A")
    chunk.unlink()
    with pytest.raises(
        StoreError, match="damaged or missing: peak .* has 0 non-zero cells of type 'A', ingest counted"
    ):
        MultiomeStore(copy).counts("atac", [0, 1, 2], "A")
