"""Files of pairs, as they come: columns, names, positions, order."""

from __future__ import annotations

import gzip
import itertools

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.contacts import read_contacts
from enhancer_dask.io.pair_columns import find_columns
from enhancer_dask.io.pairs import bin_pairs

SIZES = {"chr1": 100, "chr2": 50}
HEADER = "## pairs format v1.0\n#sorted: chr1-chr2-pos1-pos2\n#chromsize: chr1 100\n#chromsize: chr2 50\n"
# the same three contacts: (chr1 10, chr1 11), (chr1 95, chr2 50), (chr2 1, chr2 40); bins of 10
FORMS = {
    "4dn": HEADER + "#columns: readID chr1 pos1 chr2 pos2 strand1 strand2\n"
    ".\tchr1\t10\tchr1\t11\t+\t-\n.\tchr1\t95\tchr2\t50\t+\t-\n.\tchr2\t1\tchr2\t40\t+\t-\n",
    "hires": HEADER + "#columns: readID chr1 pos1 chr2 pos2 strand1 strand2 phase0 phase1\n"
    ".\tchr1\t10\tchr1\t11\t+\t-\t.\t0\n.\tchr1\t95\tchr2\t50\t+\t-\t1\t.\n.\tchr2\t1\tchr2\t40\t+\t-\t.\t.\n",
    "six columns": "chr1\t10\t0\tchr1\t11\t16\nchr1\t95\t0\tchr2\t50\t0\nchr2\t1\t16\tchr2\t40\t0\n",
    "barcode": "chr1\t10\tchr1\t11\tA\nchr1\t95\tchr2\t50\tA\nchr2\t1\tchr2\t40\tA\n",
    "seven columns": ".\tchr1\t10\tchr1\t11\t+\t-\n.\tchr1\t95\tchr2\t50\t+\t-\n.\tchr2\t1\tchr2\t40\t+\t-\n",
    "bare names": "1 10 + 1 11 -\n1 95 + 2 50 -\n2 1 + 2 40 -\n",
    "assembly": "mm10_chr1\t10\tmm10_chr1\t11\nmm10_chr1\t95\tmm10_chr2\t50\nmm10_chr2\t1\tmm10_chr2\t40\n",
    "flipped": "chr1\t11\tchr1\t10\nchr2\t50\tchr1\t95\nchr2\t40\tchr2\t1\n",
    "names in the first line": "chrom1 pos1 chrom2 pos2\nchr1 10 chr1 11\nchr1 95 chr2 50\nchr2 1 chr2 40\n",
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def to_file(text, name="a.pairs"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return to_file


@pytest.mark.parametrize("name", ["a.pairs", "a.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_read_contacts__forms_of_pairs(write, form, name):
    table = read_contacts(write(FORMS[form], name), 10, chromsizes=SIZES)
    assert table.to_numpy().tolist() == [[0, 1, 1], [9, 14, 1], [10, 13, 1]]
    assert list(table.attrs["bins"]["chrom"]) == ["chr1"] * 10 + ["chr2"] * 5
    assert table.attrs["flipped"] == (3 if form == "flipped" else 0)


def test_read_contacts__positions_from_0(write):
    table = read_contacts(write("chr1\t0\tchr1\t10\nchr1\t9\tchr1\t99\n"), 10, chromsizes=SIZES, one_based=False)
    assert table.to_numpy().tolist() == [[0, 1, 1], [0, 9, 1]]


def test_read_contacts__sizes_as_file_and_as_table(write, tmp_path):
    path = write(FORMS["six columns"])
    (tmp_path / "a.chrom.sizes").write_text("chr1\t100\nchr2\t50\n")
    table = pd.DataFrame({"name": list(SIZES), "length": list(SIZES.values())})
    want = read_contacts(path, 10, chromsizes=SIZES)
    for sizes in (tmp_path / "a.chrom.sizes", table, pd.Series(SIZES)):
        pd.testing.assert_frame_equal(read_contacts(path, 10, chromsizes=sizes), want)


def test_read_contacts__other_contigs_are_dropped_and_counted(write):
    text = "chr1\t1\tchr1\t2\nchr1\t1\tchr1_random\t2\nchrUn\t5\tchr1\t2\nchrUn\t5\tchrUn\t2\n"
    table = read_contacts(write(text), 10, chromsizes=SIZES)
    assert table["count"].sum() == 1
    assert table.attrs["dropped"] == {"chr1_random": 1, "chrUn": 2}


def test_read_contacts__one_barcode(write):
    text = "chr1\t1\tchr1\t2\tA\nchr1\t1\tchr1\t2\tB\nchr1\t1\tchr1\t30\tB\n"
    table = read_contacts(write(text), 10, cell="B", chromsizes=SIZES)
    assert table.to_numpy().tolist() == [[0, 0, 1], [0, 2, 1]]
    with pytest.raises(InputError, match="no contact has the barcode 'C'; first barcodes: A, B"):
        read_contacts(write(text), 10, cell="C", chromsizes=SIZES)


UNSORTED = FORMS["4dn"].replace("\tchr1\t10\tchr1\t11", "\tchr1\t30\tchr1\t40") + ".\tchr2\t3\tchr2\t9\t+\t-\n"
LINE = "chr1\t1\tchr1\t2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UNSORTED + ".\tchr2\t2\tchr2\t9\t+\t-\n", "line 10: unsorted pairs (position 2 after 3), but the header"),
        (UNSORTED + ".\tchr1\t2\tchr1\t9\t+\t-\n", "line 10: unsorted pairs (chr1, chr1 again), but the header"),
        (LINE + "chr1\t101\tchr1\t2\n", "line 2: position 101 lies outside chromosome 'chr1' of 100 bp (mixed"),
        (LINE + "chr1\t0\tchr1\t2\n", "line 2: position 0 lies outside chromosome 'chr1' of 100 bp (positions count"),
        (LINE + "chr1\t5\tchr1\n", "line 2 is no contact: 'chr1 5 chr1'; want 4 columns, with positions in columns"),
        (LINE * 200 + "chr1\tx\tchr1\t2\n", "line 201 is no contact: 'chr1 x chr1 2'"),
        ("a\tb\tc\n", "line 1: no two chromosomes and positions found in 'a b c'; want a '#columns:' line"),
        ("#columns: chr1 start chr2 pos2\n" + LINE, "column 'pos1' is missing; columns found: chr1, start, chr2"),
        ("#chromsize: chr1 99\n" + LINE, "chromosome 'chr1' has 99 bp, 'chr1' of chromsizes has 100: mixed assemblies"),
        ("#chromsize: chr1\n" + LINE, "line 1 is not a chromosome and its size"),
        ("hg38_chr1\t1\tmm10_chr1\t5\n", "'mm10_chr1' is not of assembly hg38: mixed assemblies"),
        ("chr1\t1\t1\t5\n", "'chr1' and '1' both mean chromosome 'chr1'"),
        ("chrX\t1\tchrX\t5\n", "no contact lies on a known chromosome: it has 'chrX', known are chr1, chr2"),
        ("", "no contacts there"),
    ],
)
def test_read_contacts__bad_pairs(write, text, message):
    path = write(text)
    with pytest.raises(InputError) as error:
        read_contacts(path, 10, chromsizes=SIZES)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_read_contacts__truncated_gzip(write, tmp_path):
    whole = write("".join(f"chr1\t{1 + i % 97}\tchr1\t{1 + i % 89}\n" for i in range(20_000)), "a.gz").read_bytes()
    cut = tmp_path / "cut.pairs.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut.pairs.gz: cannot be read, truncated or damaged"):
        read_contacts(cut, 10, chromsizes=SIZES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (None, "has no header with chromosome sizes; give chromsizes"),
        ({"chr1": 0}, "size of chromosome 'chr1' is 0, want 1 bp or more"),
        ({"chr1": "x"}, "size of chromosome 'chr1' is 'x', want a number of bp"),
        ("nowhere.sizes", "nowhere.sizes: no such file"),
    ],
)
def test_read_contacts__bad_sizes(write, sizes, message):
    with pytest.raises(InputError) as error:
        read_contacts(write(LINE), 10, chromsizes=sizes)
    assert message in str(error.value)


def test_read_contacts__pairs_need_a_resolution(write):
    with pytest.raises(InputError, match="pairs have no resolution of their own"):
        read_contacts(write(LINE), chromsizes=SIZES)


def test_bin_pairs__does_not_depend_on_blocks(write, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(rng.choice(list(SIZES)), int(rng.integers(1, 51)), rng.choice(list("AB"))) for _ in range(2_000)]
    path = write("".join(f"{a}\t{p}\t{b}\t{q}\t{cell}\n" for (a, p, cell), (b, q, _) in itertools.pairwise(rows)))
    want = bin_pairs(path, SIZES, [10, 25], by_cell=True)
    monkeypatch.setattr("enhancer_dask.io.pairs.BLOCK_BYTES", 200)
    monkeypatch.setattr("enhancer_dask.io.pixels.LEAST_PENDING", 50)
    found = bin_pairs(path, SIZES, [10, 25], by_cell=True)
    assert (found.cells, found.n_contacts, found.n_flipped) == (want.cells, want.n_contacts, want.n_flipped)
    for resolution in (10, 25):
        pd.testing.assert_frame_equal(found.sums[resolution].by_cell(), want.sums[resolution].by_cell())
    assert want.sums[10].table()["count"].sum() == len(rows) - 1


def test_bin_pairs__order_is_checked_across_blocks(write, monkeypatch):
    lines = [f".\tchr1\t{i}\tchr1\t{i + 1}\n" for i in (*range(1, 60), 58)]
    path = write("#sorted: chr1-chr2-pos1-pos2\n#columns: readID chr1 pos1 chr2 pos2\n" + "".join(lines))
    monkeypatch.setattr("enhancer_dask.io.pairs.BLOCK_BYTES", 120)
    with pytest.raises(InputError, match=r"line 62: unsorted pairs \(position 58 after 59\)"):
        bin_pairs(path, SIZES, [10])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("gm12878.hg19.subsample.sorted.txt.gz", "gm12878_subsample_1mb_coo"),
        ("hg19.sample1.pairs.gz", "hg19_sample1_1mb_coo"),
    ],
)
def test_read_contacts__real_pairs_as_cooler_bins_them(shared, oracle, file, name):
    bins = oracle("hic/hg19_1mb_bins")
    sizes = bins.groupby("chrom", sort=False)["end"].max().to_dict()
    table = read_contacts(shared / "data" / "hic" / file, 1_000_000, chromsizes=sizes)
    pd.testing.assert_frame_equal(table.attrs["bins"], bins[["chrom", "start", "end"]], check_dtype=False)
    pd.testing.assert_frame_equal(table, oracle(f"hic/{name}"))
    if name == "hg19_sample1_1mb_coo":
        assert sum(table.attrs["dropped"].values()) == 851
        assert table.attrs["flipped"] >= 717  # those are the ones that lie in two bins
    else:  # positions as they are give other pixels
        other = read_contacts(shared / "data" / "hic" / file, 1_000_000, chromsizes=sizes, one_based=False)
        assert not other.equals(table)


def test_find_columns__real_header(shared):
    columns = find_columns(shared / "data" / "hic" / "mm9.sample1.pairs")
    assert columns.is_sorted
    assert columns.sizes["chr19"] == 61342430
    table = read_contacts(shared / "data" / "hic" / "mm9.sample1.pairs", 1_000_000)
    assert table["count"].sum() == 10_000
    assert list(table.attrs["bins"]["chrom"].unique()) == list(columns.sizes)
