"""Hi-C files to a contact store: bulk, single cells, what is refused, what does not matter."""

from __future__ import annotations

import filecmp
import shutil

import numpy as np
import pandas as pd
import pytest
from commands import cli, result
from distributed import Client, LocalCluster

from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import ChunkError, InputError, ResumeError
from enhancer_dask.io.contact_ingest import ingest_contacts
from enhancer_dask.io.contact_writer import write_contacts
from enhancer_dask.io.contacts import read_contacts, read_vectors

MM10_CHR1 = {"chr1": 195_471_971}
SIZES = {"chr1": 100, "chr2": 50}


@pytest.fixture(scope="session")
def hic(shared):
    pytest.importorskip("hictkpy")
    return shared / "data" / "hic"


@pytest.fixture(scope="module")
def threads():
    """One cluster for all runs: starting one takes longer than they do."""
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def ingested(tmp_path, threads):
    def ingest(inputs, *, name="a.zarr", **settings):
        return ingest_contacts(inputs, tmp_path / name, client=threads, progress=False, **settings)

    return ingest


@pytest.fixture
def write(tmp_path):
    def to_file(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return to_file


def same_contacts(found, want):
    order = ["bin1_id", "bin2_id"]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), want.sort_values(order, ignore_index=True)
    )


def same_files(one, other):
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    assert names == {p.relative_to(other) for p in other.rglob("*") if p.is_file()}
    different = [n for n in names if not filecmp.cmp(one / n, other / n, shallow=False)]
    return not different


def test_ingest_contacts__bulk_files_of_every_kind(hic, ingested):
    for file, resolutions in (
        ("straw_test.hg19.2500kb.hic", [2_500_000]),
        ("cn.mm9.10000kb.cool", [10_000_000]),
        ("toy.symm.upper.2.mcool", [2, 8]),
        ("mm9.sample1.pairs", [1_000_000, 5_000_000]),
    ):
        store = ingested(hic / file, name=file, resolution=resolutions, assembly="any")
        assert (store.resolutions, store.cells, store.assembly) == (resolutions, [], "any")
        for r in resolutions:
            want = read_contacts(hic / file, r)
            same_contacts(store.contacts(r), want)
            pd.testing.assert_frame_equal(store.bins(r), want.attrs["bins"])
            if not file.endswith("pairs"):
                vectors = read_vectors(hic / file, r)
                assert sorted(vectors) == sorted(store.vectors(r))
                for name, weights in store.vectors(r).items():
                    np.testing.assert_array_equal(weights, vectors[name])


def test_ingest_contacts__bulk_files_are_added_up(hic, ingested, oracle):
    sizes = oracle("hic/hg19_1mb_bins").groupby("chrom", sort=False)["end"].max().to_dict()
    files = [hic / "gm12878.hg19.subsample.sorted.txt.gz", hic / "hg19.sample1.pairs.gz"]
    store = ingested(files, resolution=1_000_000, chromsizes=sizes)
    both = [oracle(f"hic/{name}") for name in ("gm12878_subsample_1mb_coo", "hg19_sample1_1mb_coo")]
    want = pd.concat(both).groupby(["bin1_id", "bin2_id"], as_index=False)["count"].sum()
    same_contacts(store.contacts(1_000_000), want)
    assert (store.report["n_contacts"], store.report["n_dropped"]) == (160_643, 851)
    # a cooler with bins half the size is one more, under other names of the chromosomes
    store = ingested(
        [hic / "gm12878.hg19.2000kb.cool"], name="b.zarr", resolution=4_000_000, chromosomes=["2", "chr11"]
    )
    assert store.chroms == ["chr2", "chr11"]
    whole = read_contacts(hic / "gm12878.hg19.2000kb.cool").pipe(lambda t: t.assign(**{k: t[k] for k in t}))
    bins = whole.attrs["bins"]
    chrom1, chrom2 = (bins["chrom"].to_numpy()[whole[f"bin{i}_id"]] for i in (1, 2))
    kept = np.isin(chrom1, store.chroms) & np.isin(chrom2, store.chroms)
    first = {"chr2": 0, "chr11": len(store.bins(4_000_000).query("chrom == 'chr2'"))}
    place = bins["chrom"].map(first).to_numpy() + bins["start"].to_numpy() // 4_000_000
    moved = whole[kept].assign(**{f"bin{i}_id": place[whole[f"bin{i}_id"][kept]].astype(int) for i in (1, 2)})
    want = moved.groupby(["bin1_id", "bin2_id"], as_index=False)["count"].sum()
    same_contacts(store.contacts(4_000_000), want)
    assert "bins of 2000000 bp were joined to 4000000 bp" in store.report["warnings"][0]


def test_ingest_contacts__only_chosen_chromosomes_must_agree(ingested, write):
    """Two sources of one assembly often differ in the mitochondrial genome."""
    texts = [f"#chromsize: chr1 100\n#chromsize: chrM {size}\n#columns: chr1 pos1 chr2 pos2\n{LINE}" for size in (8, 9)]
    files = [write(f"{i}.pairs", text) for i, text in enumerate(texts)]
    with pytest.raises(InputError, match="chromosome 'chrM' has 9 bp"):
        ingested(files, resolution=10)
    assert ingested(files, resolution=10, chromosomes="chr1").contacts(10)["count"].sum() == 2


def test_ingest_contacts__nagano_cells(hic, ingested, shared, oracle):
    store = ingested(hic / "nagano_20cells.mm9.1mb.scool", resolution=1_000_000)
    oracles = np.load(shared / "oracles" / "hic" / "nagano_20cells_pooled_and_degree.npz", allow_pickle=True)
    pooled = store.contacts(1_000_000)
    for column, name in (("bin1_id", "bin1_id"), ("bin2_id", "bin2_id"), ("count", "count")):
        np.testing.assert_array_equal(pooled[column], oracles[f"pooled_{name}"])
    cells = oracle("hic/nagano_20cells_cells")
    assert store.cells == cells["cell"].tolist()
    assert store.chroms[0] == "chr10"  # the file's order
    for row in cells.itertuples():
        table = store.contacts(1_000_000, cell=row.cell)
        inner = store.contacts(1_000_000, inter=False, cell=row.cell)
        found = (len(table), table["count"].sum(), inner["count"].sum())
        assert found == (row.n_pixels, row.count_sum, row.count_intra)


def test_ingest_contacts__cells_as_files_and_as_barcodes(hic, ingested, shared):
    folder = hic / "gageseq_mbc_chr1"
    files = sorted(folder.glob("*.pairs.gz"))
    store = ingested(files, resolution=1_000_000, chromsizes=MM10_CHR1, single_cell=True, assembly="mm10")
    oracles = np.load(shared / "oracles" / "hic" / "gageseq_mbc_chr1_1mb_coo.npz", allow_pickle=True)
    for k, cell in enumerate(oracles["cell"]):
        rows = slice(*oracles["ptr"][k : k + 2])
        table = store.contacts(1_000_000, cell=str(cell))
        for column, name in (("bin1_id", "bin1"), ("bin2_id", "bin2"), ("count", "count")):
            np.testing.assert_array_equal(table[column], oracles[name][rows])
    labels = pd.read_csv(folder / "cells.csv")
    table = labels.iloc[7::-2]  # another order, some of them
    other = ingested(files[:10], name="b.zarr", resolution=1_000_000, chromsizes=MM10_CHR1, cells=table)
    assert other.cells == table["barcode"].tolist()
    assert other.cell_column("cell_type_from_rna").tolist() == table["cell_type_from_rna"].tolist()
    assert other.report["warnings"] == ["6 of 10 cells are not in the table of cells and were left out"]
    for row in table.itertuples():
        want = store.contacts(1_000_000, cell=row.file.removesuffix(".pairs.gz"))
        pd.testing.assert_frame_equal(other.contacts(1_000_000, cell=row.barcode), want)


def test_ingest_contacts__one_cell_in_several_files(ingested, write):
    files = [
        write("a.pairs", "chr1\t1\tchr1\t20\tA\nchr1\t1\tchr2\t20\tB\n"),
        write("b.pairs", "1\t5\t1\t15\tC\n2\t5\t1\t15\tA\n1\t5\t1\t15\tA\n"),
    ]
    store = ingested(files, resolution=10, chromsizes=SIZES)
    assert store.cells == ["A", "B", "C"]
    assert store.contacts(10, cell="A").to_numpy().tolist() == [[0, 1, 2], [1, 10, 1]]
    assert store.contacts(10, cell="C").to_numpy().tolist() == [[0, 1, 1]]
    assert store.report["n_flipped"] == 1
    assert store.contacts(10)["count"].sum() == 5


def test_ingest_contacts__libraries_may_share_barcodes_if_each_file_is_a_cell(ingested, write):
    files = [write("one.pairs", LINE), write("two.pairs", LINE * 2)]
    table = pd.DataFrame({"cell": ["l1_A", "l2_A"], "file": ["one.pairs", "two.pairs"], "barcode": ["A", "A"]})
    store = ingested(files, resolution=10, chromsizes=SIZES, cells=table, single_cell=True)
    assert [store.contacts(10, cell=cell)["count"].sum() for cell in ("l1_A", "l2_A")] == [1, 2]


def test_ingest_contacts__a_cell_without_contacts(ingested, write):
    files = [write("a.pairs", "chr1\t1\tchr1\t20\n"), write("b.pairs", "chr2\t1\tchr2\t20\n")]
    store = ingested(files, resolution=10, chromsizes=SIZES, chromosomes=["chr1"], single_cell=True)
    assert store.cells == ["a", "b"]
    assert [len(store.contacts(10, cell=cell)) for cell in "ab"] == [1, 0]


def test_ingest_contacts__same_bytes_however_it_is_cut(hic, ingested, tmp_path, monkeypatch, client):
    path, settings = hic / "mouse_5cells.mm9.100kb.scool", {"resolution": [500_000, 1_000_000]}
    ingested(path, name="one.zarr", **settings)
    monkeypatch.setattr("enhancer_dask.io.contact_merge.MERGED_ROWS", 30_000)
    ingested(path, name="two.zarr", chunk_cells=2, **settings)
    ingest_contacts(path, tmp_path / "three.zarr", client=client, chunk_cells=1, progress=False, **settings)
    assert same_files(tmp_path / "one.zarr", tmp_path / "two.zarr")
    assert same_files(tmp_path / "one.zarr", tmp_path / "three.zarr")
    assert not list(tmp_path.glob("*.parts"))


def test_ingest_contacts__many_chunks_of_pixels(hic, ingested, tmp_path, monkeypatch):
    want = read_contacts(hic / "straw_test.hg19.2500kb.hic")
    monkeypatch.setattr("enhancer_dask.io.contact_merge.MERGED_ROWS", 20_000)
    monkeypatch.setattr("enhancer_dask.io.contact_writer.PIXELS_PER_CHUNK", 50_000)
    store = ingested(hic / "straw_test.hg19.2500kb.hic", resolution=2_500_000)
    assert len(list((tmp_path / "a.zarr" / "2500000" / "bin1" / "c").iterdir())) == 8
    same_contacts(store.contacts(2_500_000), want)


LINE = "chr1\t1\tchr1\t2\n"


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["#chromsize: chr1 90\n" + LINE], {"chromsizes": SIZES}, "mixed assemblies"),
        (
            ["#chromsize: chr1 90\n" + LINE, "#chromsize: 1 91\n" + LINE],
            {"chromsizes": None},
            "chromosome '1' has 91 bp",
        ),
        ([LINE.replace("chr", "mm10_chr"), LINE.replace("chr", "hg38_chr")], {}, "are of hg38, "),
        ([LINE.replace("chr", "mm10_chr")], {"assembly": "hg38"}, "are of mm10, assembly is hg38: mixed assemblies"),
        ([LINE], {"chromosomes": ["chr3"]}, "chromsizes: no chromosome 'chr3'; it has chr1, chr2"),
        ([LINE], {"chromsizes": {"chr9": 10}}, "no contact lies on a chromosome of the store; first contig: 'chr1'"),
        ([LINE], {"chromsizes": None}, "has no header with chromosome sizes; give chromsizes"),
        ([LINE], {"resolution": 0}, "resolution is 0; want a whole number of bp"),
        ([LINE], {"resolution": [10, 2.5]}, "resolution is 2.5; want a whole number of bp"),
        ([LINE], {"resolution": []}, "no resolution given"),
        ([LINE], {"cells": pd.DataFrame({"cell": ["A"]})}, "does not tell cells apart; if each file is one cell, give"),
        ([LINE], {"cells": pd.DataFrame({"file": ["x"]})}, "not in column 'file' of the table of cells"),
        (
            [LINE],
            {"cells": pd.DataFrame({"name": ["x"]})},
            "cells: no column cell, barcode or file; columns found: name",
        ),
        ([LINE], {"cells": pd.DataFrame({"cell": ["x", "x"]})}, "cells: cell 'x' is there twice"),
        (
            [LINE.strip() + "\tA\n"],
            {"cells": pd.DataFrame({"cell": ["B"]})},
            "none is in the input (first cell 'B', first of",
        ),
        (
            [LINE.strip() + "\tA\n"],
            {"cells": pd.DataFrame({"cell": ["x", "y"], "barcode": ["A", "A"]})},
            "cells: 'A' is the name or barcode of several cells",
        ),
        (
            [LINE.strip() + "\tA\n"],
            {"cells": pd.DataFrame({"cell": ["y", "A"], "barcode": ["A", "B"]})},
            "cells: 'A' is the name or barcode of several cells",
        ),
        (["#columns: chrom1 pos1 chrom2 pos2 barcode\n"], {}, "0.pairs: no contact has a barcode, so there are no"),
        ([], {}, "no input file given"),
        (["a b\n"], {}, "no two chromosomes and positions found"),
    ],
)
def test_ingest_contacts__bad_input(ingested, write, tmp_path, texts, settings, message):
    files = [write(f"{i}.pairs", text) for i, text in enumerate(texts)]
    with pytest.raises(InputError) as error:
        ingested(files, **{"resolution": 10, "chromsizes": SIZES, **settings})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.zarr").exists()


def test_ingest_contacts__one_file_twice(ingested, write):
    path = write("a.pairs", LINE)
    with pytest.raises(InputError, match="a.pairs: given 2 times, its contacts would count more than once"):
        ingested([path, path], resolution=10, chromsizes=SIZES)


def test_ingest_contacts__an_error_of_a_task_names_the_line(ingested, write, tmp_path):
    text = "#sorted: chr1-chr2-pos1-pos2\n#columns: chr1 pos1 chr2 pos2\nchr1\t9\tchr1\t9\n" + LINE
    with pytest.raises(ChunkError, match=r"bad.pairs: line 4: unsorted pairs \(position 1 after 9\)"):
        ingested(write("bad.pairs", text), resolution=10, chromsizes=SIZES)
    assert not (tmp_path / "a.zarr").exists()


def test_ingest_contacts__useless_vectors_are_left_out(hic, ingested, tmp_path):
    import h5py

    shutil.copyfile(hic / "cn.mm9.10000kb.cool", tmp_path / "a.cool")
    with h5py.File(tmp_path / "a.cool", "r+") as file:
        file["bins/weight"][:] = np.nan
    store = ingested(tmp_path / "a.cool", resolution=10_000_000)
    assert store.vectors(10_000_000) == {}
    assert "vector 'ICE' is NaN in all bins; it is left out" in store.report["warnings"][0]


def test_ingest_contacts__finished_work_is_kept_and_other_input_refused(ingested, write, tmp_path):
    path = write("a.pairs", LINE)
    first = ingested(path, resolution=10, chromsizes=SIZES)
    made = (tmp_path / "a.zarr" / "zarr.json").stat().st_mtime_ns
    again = ingested(path, resolution=10, chromsizes=SIZES)
    assert (tmp_path / "a.zarr" / "zarr.json").stat().st_mtime_ns == made
    assert again.fingerprint == first.fingerprint
    with pytest.raises(ResumeError, match="'resolutions' is \\[10\\] there, \\[5\\] asked for"):
        ingested(path, resolution=5, chromsizes=SIZES)
    assert ingested(path, resolution=5, chromsizes=SIZES, overwrite=True).resolutions == [5]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is no contact store, so it is not overwritten"):
        ingested(path, name="mine", resolution=5, chromsizes=SIZES, overwrite=True)


def test_ingest_contacts__a_store_written_otherwise_is_not_taken_over(ingested, write, tmp_path):
    contacts = read_contacts(write("a.pairs", LINE), 10, chromsizes=SIZES)
    write_contacts(tmp_path / "a.zarr", contacts)
    with pytest.raises(ResumeError, match="a.zarr: exists and was made with other parameters: 'stage' is None there"):
        ingested(tmp_path / "a.pairs", resolution=10, chromsizes=SIZES)


def test_cli__contacts(hic, tmp_path):
    args = ["contacts", hic / "mm9.sample1.pairs", "--resolution", "1000000", "--resolution", "5000000"]
    args += ["--out", "a.zarr", "--chromosomes", "1, chrX", "--assembly", "mm9", "--no-progress"]
    made = result(cli(*args, cwd=tmp_path))
    assert (made["resolutions"], made["n_chromosomes"], made["n_cells"]) == ([1_000_000, 5_000_000], 2, 0)
    store = ContactStore(tmp_path / "a.zarr")
    assert store.chroms == ["chr1", "chrX"]
    kept = store.contacts(1_000_000)["count"].sum()
    assert kept == 10_000 - made["n_dropped"]
    assert made["n_pixels"]["1000000"] == len(store.contacts(1_000_000))
