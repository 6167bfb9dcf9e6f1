from __future__ import annotations

import gzip
import hashlib
import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import sparse

from enhancer_dask import stores
from enhancer_dask.errors import InputError, ResumeError
from enhancer_dask.io import multiome
from enhancer_dask.io.ingest import _unique_names, ingest
from enhancer_dask.simulate.multiome import write_10x


def content(folder):
    """Hash of every file of a store."""
    return {
        str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def make_mudata(n=30, seed=0, **changes):
    """A tiny experiment; changes replace what a test wants to be wrong."""
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(n)]
    rna = anndata.AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 4)).astype(np.float32)))
    atac = anndata.AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 3)).astype(np.float32)))
    rna.obs_names, atac.obs_names = names, names
    rna.var_names, atac.var_names = ["g1", "g2", "mt-x", "g1x"], ["chr2:5-9", "chr10:1-4", "chr2:1-4"]
    for name, value in changes.items():
        part = rna if name.startswith("rna") else atac
        if name.endswith("_names"):
            part.var_names = value
        elif name.endswith("_barcodes"):
            part.obs_names = value
        else:
            part.X = value(part.X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({"rna": rna, "atac": atac})


def test_ingest__store_holds_every_count_where_the_schema_says(simulation, store):
    data = stores.open_store(store)
    assert dict(data.sizes) == {"gene": 48, "peak": len(simulation.peaks), "cell": 260, "celltype": 2}
    cells = simulation.cells.sort_values(["celltype", "barcode"])
    assert data["cell"].values.tolist() == cells["barcode"].tolist()
    assert data["cell_celltype"].values.tolist() == cells["celltype"].tolist()
    assert data["cell_donor"].values.tolist() == cells["donor"].tolist()
    row = pd.Index(simulation.genes["name"]).get_indexer(pd.Index(data["gene"].values.astype(object)))
    np.testing.assert_array_equal(data["rna"].values, simulation.rna[row][:, cells.index])
    row = pd.Index(simulation.peaks["name"]).get_indexer(pd.Index(data["peak"].values.astype(object)))
    np.testing.assert_array_equal(data["atac"].values, simulation.atac[row][:, cells.index])
    np.testing.assert_array_equal(data["cell_n_umi"], simulation.rna[:, cells.index].sum(axis=0))
    np.testing.assert_array_equal(data["cell_n_atac"], simulation.atac[:, cells.index].sum(axis=0))
    mito = simulation.genes["name"].str.startswith("MT-").to_numpy()
    np.testing.assert_allclose(
        data["cell_percent_mito"], simulation.rna[mito][:, cells.index].sum(axis=0) / data["cell_n_umi"].values
    )
    for t, name in enumerate(("A", "B")):
        mine = data["cell_celltype"].values == name
        np.testing.assert_array_equal(data["gene_n_nonzero"][:, t], (data["rna"].values[:, mine] > 0).sum(axis=1))
        np.testing.assert_array_equal(data["peak_n_nonzero"][:, t], (data["atac"].values[:, mine] > 0).sum(axis=1))


def test_ingest__features_stand_along_the_genome_with_gtf_bodies(simulation, store):
    data = stores.open_store(store)
    table = pd.DataFrame({c: data[f"gene_{c}"].values.astype(object) for c in ("chrom", "start", "end", "strand")})
    order = {"chr1": 0, "chr2": 1, "chr3": 2, "chrM": 3}
    assert table.assign(rank=table["chrom"].map(order)).sort_values(["rank", "start"]).index.is_monotonic_increasing
    truth = simulation.genes.set_index("name").loc[data["gene"].values.astype(object)]
    for column in table:
        assert table[column].tolist() == truth[column].tolist()
    assert data["rna"].dtype == np.uint16
    assert data["atac"].dtype == np.uint8


def test_ingest__opens_with_plain_xarray_and_without_warnings(store):
    data = xr.open_zarr(store)
    one = data["rna"].sel(gene="GENE1").values
    assert one.shape == (260,)
    assert data.attrs["schema_version"] == 1
    assert data.attrs["params"]["inputs"][0]["name"] == "multiome.h5"


def test_ingest__twice_gives_the_same_store(simulated, store, tmp_path):
    inputs = {"cells": simulated["cells"], "gtf": simulated["gtf"]}
    ingest(simulated["multiome"], tmp_path / "again.zarr", **inputs)
    assert content(tmp_path / "again.zarr") == content(store)
    before = (tmp_path / "again.zarr" / "zarr.json").stat().st_mtime_ns
    ingest(simulated["multiome"], tmp_path / "again.zarr", **inputs)
    assert (tmp_path / "again.zarr" / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(ResumeError, match="made from other input .gtf: "):
        ingest(simulated["multiome"], tmp_path / "again.zarr", cells=simulated["cells"])
    ingest(simulated["multiome"], tmp_path / "again.zarr", cells=simulated["cells"], overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["again.zarr"]


def test_ingest__blocks_and_chunks_change_nothing(simulated, store, tmp_path, monkeypatch):
    monkeypatch.setattr(multiome, "BLOCK_ENTRIES", 3_000)
    monkeypatch.setattr(stores, "CELL_CHUNK", 64)
    monkeypatch.setattr(stores, "FEATURE_CHUNK", 7)
    ingest(simulated["multiome"], tmp_path / "small.zarr", cells=simulated["cells"], gtf=simulated["gtf"])
    xr.testing.assert_equal(stores.open_store(tmp_path / "small.zarr").load(), stores.open_store(store).load())


def test_ingest__h5mu_equals_mudata_and_10x(simulated, simulation, tmp_path, monkeypatch):
    data = make_mudata()
    data.mod["rna"].obs["batch"] = ["x", "y", "z"] * 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write(tmp_path / "data.h5mu")
    monkeypatch.setattr(multiome, "BLOCK_CELLS", 7)
    from_object = ingest(data, tmp_path / "a.zarr").load()
    from_file = ingest(tmp_path / "data.h5mu", tmp_path / "b.zarr").load()
    xr.testing.assert_equal(from_object, from_file)
    assert from_file["cell_batch"].values.tolist() == [
        ("x", "y", "z")[int(c[1:]) % 3] for c in from_file["cell"].values
    ]
    assert from_file["peak"].values.tolist() == ["chr2:1-4", "chr2:5-9", "chr10:1-4"]
    np.testing.assert_array_equal(
        from_file["rna"].sel(gene="g2"),
        np.asarray(data["rna"][from_file["cell"].values.astype(object), "g2"].X.todense()).ravel(),
    )


def test_ingest__real_peaks(shared, tmp_path):
    data = ingest(shared / "data" / "pbmc_multiome_peaks.h5mu", tmp_path / "peaks.zarr")
    assert dict(data.sizes) == {"gene": 45, "peak": 174, "cell": 1000, "celltype": 1}
    report = data.attrs["report"]
    assert report["warnings"] == [
        "no cell types given (--cells with a column 'celltype'): all cells are of the type 'all'",
        "no gene is named MT-*: percent.mito is 0 in every cell",
    ]
    assert int(data["rna"].max()) == 84
    assert int(data["atac"].max()) == 42


def test_ingest__cells_of_a_table_only(simulation, simulated, tmp_path):
    cells = simulation.cells.iloc[::3].assign(**{"nUMI": 100.5, "percent.mito": 7.5})
    data = ingest(simulated["multiome"], tmp_path / "s.zarr", cells=cells)
    assert data.sizes["cell"] == len(cells)
    assert data.attrs["report"]["n_dropped"] == 260 - len(cells)
    assert set(data["cell_n_umi"].values) == {100.5}
    np.testing.assert_allclose(data["cell_percent_mito"], 0.075)  # a percentage became a fraction
    assert "percent.mito goes beyond 1" in data.attrs["report"]["warnings"][0]


def test_ingest__several_samples(simulation, tmp_path):
    for name in ("one", "two"):
        write_10x(tmp_path / f"{name}.h5", simulation)
    with pytest.raises(InputError, match="duplicate barcodes .*several samples need names"):
        ingest([tmp_path / "one.h5", tmp_path / "two.h5"], tmp_path / "s.zarr")
    data = ingest([f"s1={tmp_path}/one.h5", f"s2={tmp_path}/two.h5"], tmp_path / "s.zarr")
    assert data.sizes["cell"] == 520
    assert data["cell_sample"].values.tolist() == ["s1"] * 260 + ["s2"] * 260
    np.testing.assert_array_equal(data["rna"].values[:, :260], data["rna"].values[:, 260:])
    assert data["cell"].values[0].startswith("s1_")


def test_ingest__large_counts_get_a_larger_dtype(tmp_path):
    def with_value(value):
        def put(x):
            x = x.astype(np.float64).tolil()
            x[0, 0] = value
            return x.tocsr()

        return put

    for rna, atac, want in ((70_000, 255, ("uint32", "uint8")), (65_535, 256, ("uint16", "uint16"))):
        data = ingest(make_mudata(rna_x=with_value(rna), atac_x=with_value(atac)), tmp_path / f"{rna}.zarr")
        assert (str(data["rna"].dtype), str(data["atac"].dtype)) == want
        assert int(data["rna"].max()) == rna
        assert int(data["atac"].max()) == atac


def test_unique_names__follow_seurat():
    names = pd.Series(["A", "B", "A", "A.1", "A", "B"])
    assert _unique_names(names).tolist() == ["A", "B", "A.2", "A.1", "A.3", "B.1"]


def test_ingest__duplicate_gene_names_are_told_apart(tmp_path):
    data = ingest(make_mudata(rna_names=["g1", "g2", "g1", "MT-x"]), tmp_path / "s.zarr")
    assert sorted(data["gene"].values.tolist()) == ["MT-x", "g1", "g1.1", "g2"]
    assert data.attrs["report"]["n_gene_names_made_unique"] == 1


def edited(value):
    def change(x):
        x = x.tolil()
        x[3, 1] = value
        return x.tocsr()

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rna_x": edited(-1)}, "rna has negative counts .first: -1.0 of 'g2' in cell 'c3'.; want raw counts"),
        ({"atac_x": edited(0.5)}, "atac has fractional counts .first: 0.5 of 'chr10:1-4' in cell 'c3'"),
        ({"rna_x": edited(np.nan)}, "rna has missing counts"),
        ({"rna_x": edited(2.0**33)}, "rna has impossibly large counts .first: 8589934592.0 of 'g2'"),
        ({"atac_names": ["chr2:5-9", "chr2:5-9", "chr2:1-4"]}, "1 duplicate peaks .first: 'chr2:5-9'"),
        ({"atac_names": ["chr2:5-9", "peak2", "chr2:1-4"]}, "1 peaks have no interval .first: 'peak2'"),
        ({"rna_barcodes": [f"d{i}" for i in range(30)]}, "no barcode is in both modalities .first: 'd0' in rna, 'c0'"),
    ],
)
def test_ingest__bad_counts_and_features_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ingest(make_mudata(**changes), tmp_path / "s.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("barcode,type\nc1,A\n", "cells.csv: column 'celltype' is missing; columns found: barcode, type"),
        ("cell,celltype\nc1,A\n", "cells.csv: column 'barcode' is missing"),
        ("barcode,celltype\nc1,A\nzz,A\n", "1 of 2 barcodes are not in MuData .first: 'zz'; .* like 'c0'"),
        ("barcode,celltype\nc1,A\nc1,B\n", "cells.csv: 1 duplicate barcodes .first: 'c1'"),
        ("barcode,celltype\nc1,A\nc2,\n", "column 'celltype' is empty for 1 cells .first: 'c2'"),
        ("barcode,celltype\nc1,A\n,A\n", "column 'barcode' is empty in 1 rows"),
        ("barcode,celltype,nUMI\nc1,A,many\n", "column 'nUMI' is not a number .first: 'many' in 'c1'"),
        ("barcode,celltype,a/b\nc1,A,1\n", "column 'a/b' has a '/' in its name"),
        ("", "cells.csv: not readable as a table"),
        ("barcode,celltype\n", "cells.csv: the table has no cells"),
        ("barcode,celltype,nUMI,n_umi\nc1,A,1,1\n", "columns 'nUMI' and 'n_umi' mean the same"),
    ],
)
def test_ingest__bad_cell_tables_are_named(tmp_path, table, message):
    (tmp_path / "cells.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        ingest(make_mudata(), tmp_path / "out" / "s.zarr", cells=tmp_path / "cells.csv")
    assert not (tmp_path / "out").exists()


def test_ingest__damaged_files_are_named(simulated, tmp_path):
    whole = simulated["multiome"].read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "cut.h5").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="cut.h5: not a readable HDF5 file, perhaps truncated"):
            ingest(tmp_path / "cut.h5", tmp_path / "s.zarr")
    (tmp_path / "cut.h5mu").write_bytes(whole[:1000])
    with pytest.raises(InputError, match="cut.h5mu: not a readable HDF5 file"):
        ingest(tmp_path / "cut.h5mu", tmp_path / "s.zarr")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="other.h5: not a 10x feature-barcode matrix"):
        ingest(tmp_path / "other.h5", tmp_path / "s.zarr")
    with pytest.raises(InputError, match="other.loom: no such file"):
        ingest(tmp_path / "other.loom", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_ingest__damaged_counts_are_named(simulated, tmp_path):
    broken = bytearray(simulated["multiome"].read_bytes())
    with h5py.File(simulated["multiome"]) as file:
        chunk = file["matrix/indices"].id.get_chunk_info(0)
    broken[chunk.byte_offset + 20 : chunk.byte_offset + 400] = bytes(380)
    (tmp_path / "broken.h5").write_bytes(broken)
    with pytest.raises(InputError, match="broken.h5: damaged, the counts cannot be read"):
        ingest(tmp_path / "broken.h5", tmp_path / "s.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.h5"]


def test_ingest__gtf_that_matches_no_gene(tmp_path):
    (tmp_path / "g.gtf").write_text('chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_id "ENSMUSG1"; gene_name "Zzz3";\n')
    with pytest.raises(InputError, match="g.gtf: none of the 4 genes is in this GTF"):
        ingest(make_mudata(), tmp_path / "s.zarr", gtf=tmp_path / "g.gtf")
    assert [p.name for p in tmp_path.iterdir()] == ["g.gtf"]


def test_ingest__rna_only_file(simulation, tmp_path):
    data = make_mudata()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only = mudata.MuData({"rna": data["rna"]})
    with pytest.raises(InputError, match="modality 'atac' is missing; modalities found: rna"):
        ingest(only, tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("indices", lambda x: np.where(np.arange(len(x)) == 5, 10**6, x), "indices go from 0 to 1000000"),
        ("indices", lambda x: np.where(np.arange(len(x)) == 5, -5, x), "indices go from -5 to"),
        ("indptr", lambda x: x[:-3], "indptr is not 261 ascending numbers from 0"),
        ("indptr", lambda x: np.append(x[:-1], x[-1] + 9), "indptr ends at"),
        ("shape", lambda x: x[::-1], "shape is "),
        ("barcodes", lambda x: np.arange(len(x)), "not a 10x feature-barcode matrix"),
    ],
)
def test_ingest__inconsistent_10x_files_are_named(simulated, tmp_path, name, change, message):
    (tmp_path / "odd.h5").write_bytes(simulated["multiome"].read_bytes())
    with h5py.File(tmp_path / "odd.h5", "r+") as file:
        values = change(file["matrix"][name][:])
        del file["matrix"][name]
        file["matrix"][name] = values
    with pytest.raises(InputError, match=f"odd.h5: .*{message}"):
        ingest(tmp_path / "odd.h5", tmp_path / "s.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["odd.h5"]


def test_ingest__overwrite_spares_what_is_not_ours(simulated, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="mine: exists and is no multiome store, so it is not overwritten"):
        ingest(simulated["multiome"], tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_ingest__clears_what_a_killed_one_left(simulated, tmp_path):
    left = tmp_path / ".s.zarr.0123456789ab"
    left.mkdir()
    (left / "rna-0-0.npz").write_text("x")
    other = tmp_path / ".other.zarr.0123456789ab"
    other.mkdir()
    ingest(simulated["multiome"], tmp_path / "s.zarr")
    assert not left.exists()
    assert other.exists()


def test_ingest__h5mu_is_closed_and_unknown_coordinates_stay_unknown(tmp_path):
    data = make_mudata()
    data.mod["rna"].var["chrom"] = ["chr2", None, "chr10", "chr2"]
    data.mod["rna"].var["start"] = [5.0, np.nan, 7.0, 1.0]
    data.mod["rna"].var["end"] = [9.0, np.nan, 8.0, 3.0]
    data.mod["rna"].var["strand"] = ["1", "?", "-", "+"]
    made = ingest(data, tmp_path / "a.zarr").load()
    assert made["gene_chrom"].values.tolist() == ["chr2", "chr2", "chr10", ""]
    assert made["gene_start"].values.tolist() == [1, 5, 7, -1]
    assert made["gene_strand"].values.tolist() == ["+", "+", "-", "."]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write(tmp_path / "data.h5mu")
        xr.testing.assert_equal(ingest(tmp_path / "data.h5mu", tmp_path / "b.zarr").load(), made)
        data.write(tmp_path / "data.h5mu")  # which an open file would not allow


def test_ingest__genes_off_the_peaks_chromosomes_are_reported(simulated, tmp_path):
    data = ingest(simulated["multiome"], tmp_path / "s.zarr")
    report = data.attrs["report"]
    assert report["n_genes_off_the_peaks_chromosomes"] == 40  # the background genes
    assert not [w for w in report["warnings"] if "chromosomes" in w]
    data = make_mudata()
    data.mod["rna"].var["interval"] = ["NC_1:5-6"] * 4
    report = ingest(data, tmp_path / "t.zarr").attrs["report"]
    assert "4 of 4 genes lie on chromosomes without peaks (first: 'NC_1'; peaks have 'chr2')" in report["warnings"]


def test_ingest__gtf_without_chr_that_lacks_a_gene(simulated, tmp_path):
    lines = gzip.decompress(simulated["gtf"].read_bytes()).decode().replace("chr", "").splitlines(keepends=True)
    (tmp_path / "g.gtf").write_text("".join(line for line in lines if '"GENE1"' not in line))
    data = ingest(simulated["multiome"], tmp_path / "s.zarr", gtf=tmp_path / "g.gtf")
    assert set(data["gene_chrom"].values.tolist()) == {"chr1", "chr2", "3", "M"}
