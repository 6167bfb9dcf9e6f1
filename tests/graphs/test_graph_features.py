"""Features and targets of nodes against sums done by hand."""

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.expression import cell_expression, expressed_genes
from enhancer_dask.graphs.genes import gene_nodes, read_genes
from enhancer_dask.graphs.nodes import accessibility
from enhancer_dask.graphs.sequence import check_fasta, sequence_codes
from enhancer_dask.graphs.tracks import Track, check_track, parse_track, track_values
from enhancer_dask.io.pixels import chromosome_lengths, make_bins
from enhancer_dask.stores import MultiomeStore

BINS = make_bins({"chr1": 250, "chr2": 100}, 100)
LENGTHS = chromosome_lengths(BINS)
RECORDS = [("1", 0, 10, 1.0), ("1", 90, 120, 2.0), ("1", 130, 240, 0.5)]


@pytest.fixture
def bigwig(tmp_path):
    import pybigtools

    def write(records, sizes):
        path = tmp_path / "track.bw"
        pybigtools.open(str(path), "w").write(sizes, iter(records))
        return path

    return write


@pytest.fixture
def signal(bigwig):
    return bigwig(RECORDS, {"1": 250, "2": 100})  # the writer leaves out chromosomes without records


def by_base(records, chrom, size):
    base = np.zeros(size)
    for name, start, end, value in records:
        if name == chrom:
            base[start:end] = value
    return base


def test_track__sums_means_and_maxima_of_bases(signal):
    base = np.concatenate([by_base(RECORDS, "1", 250), np.zeros(100)])
    cuts = [slice(0, 100), slice(100, 200), slice(200, 250), slice(250, 350)]
    for summary, of in (("sum", np.sum), ("mean", np.mean), ("max", np.max)):
        found = track_values(Track("t", signal, summary), BINS, 100)
        np.testing.assert_allclose(found, [of(base[cut]) for cut in cuts], rtol=1e-6)
    logged = track_values(Track("t", signal, "sum", log2=True), BINS, 100)
    np.testing.assert_allclose(logged, [np.log2(base[cut].sum() + 1) for cut in cuts], rtol=1e-6)


def test_track__in_smaller_bins(signal):
    found = track_values(Track("t", signal, "mean", bp=20), BINS, 100)
    base = np.concatenate([by_base(RECORDS, "1", 300), np.zeros(100)])
    np.testing.assert_allclose(found, base.reshape(4, 5, 20).mean(axis=2), rtol=1e-6)


def test_track__some_bins_have_the_values_of_all(signal):
    whole = track_values(Track("t", signal, "max", bp=50), BINS, 100)
    for rows in ([1], [0, 2], [2, 3]):
        some = track_values(Track("t", signal, "max", bp=50), BINS.iloc[rows].reset_index(drop=True), 100)
        np.testing.assert_array_equal(some, whole[rows])


def test_track__random_records_equal_single_bases(bigwig):
    rng = np.random.default_rng(1)
    cuts = np.unique(rng.integers(0, 5_000, 300))
    records = [
        ("chr1", int(a), int(b), float(v))
        for a, b, v in zip(cuts, cuts[1:], rng.integers(1, 9, len(cuts)), strict=False)
        if rng.random() < 0.7
    ]
    bins = make_bins({"chr1": 5_000}, 70)
    found = track_values(Track("t", bigwig(records, {"chr1": 5_000}), "sum"), bins, 70)
    base = by_base(records, "chr1", 5_000)
    np.testing.assert_allclose(found, [base[s:e].sum() for s, e in zip(bins["start"], bins["end"], strict=True)])


def test_track__missing_values_are_bases_without_a_value(bigwig):
    path = bigwig([("chr1", 0, 50, float("nan")), ("chr1", 60, 80, 3.0)], {"chr1": 250})
    for summary, want in (("mean", 0.6), ("sum", 60), ("max", 3)):
        np.testing.assert_allclose(track_values(Track("t", path, summary), BINS, 100), [want, 0, 0, 0], rtol=1e-6)


def test_track__of_negative_values(bigwig):
    path = bigwig([("chr1", 0, 90, -3.0), ("chr1", 90, 150, -2.0)], {"chr1": 250})
    found = track_values(Track("t", path, "max"), BINS, 100)
    assert found.tolist() == [-2, 0, 0, 0]  # half of the second bin has no value, which is 0
    with pytest.raises(InputError, match=r"track\.bw: track 't' is -290.* in chr1:0-100, which has no log2\(x \+ 1\)"):
        track_values(Track("t", path, "sum", log2=True), BINS, 100)


def test_track__what_is_wrong_is_named(tmp_path, bigwig, signal):
    check_track(Track("t", signal), LENGTHS, 100)
    with pytest.raises(InputError, match="track 't': 30 bp is not a part of the resolution, 100 bp"):
        check_track(Track("t", signal, bp=30), LENGTHS, 100)
    with pytest.raises(InputError, match=r"track\.bw: chromosome 'chr1' has 251 bp.*mixed assemblies"):
        check_track(Track("t", bigwig([("chr1", 0, 5, 1.0)], {"chr1": 251})), LENGTHS, 100)
    with pytest.raises(InputError, match=r"track\.bw: its chromosomes are chr9"):
        check_track(Track("t", bigwig([("chr9", 0, 5, 1.0)], {"chr9": 251})), LENGTHS, 100)
    with pytest.raises(InputError, match=r"none\.bw: no such file"):
        check_track(Track("t", tmp_path / "none.bw"), LENGTHS, 100)
    (tmp_path / "text.bw").write_text("no bigWig")
    with pytest.raises(InputError, match=r"text\.bw: not readable as bigWig"):
        check_track(Track("t", tmp_path / "text.bw"), LENGTHS, 100)
    for text in ("dnase", "=a.bw", "a b=a.bw", "dnase=", "dnase=a.bw,median"):
        with pytest.raises(InputError, match=f"track '{text}': cannot read"):
            parse_track(text)


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "genome.fa"
    sequence = {"1": ("ACGTNacgtn" * 25)[:250], "2": "T" * 100}
    lines = [f">{name}\n" + "\n".join(s[i : i + 60] for i in range(0, len(s), 60)) for name, s in sequence.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_sequence__codes_of_bases(fasta):
    check_fasta(fasta, LENGTHS)
    codes = sequence_codes(fasta, BINS, 100)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes[0], np.tile([0, 1, 2, 3, 4], 20))
    np.testing.assert_array_equal(codes[2, :50], np.tile([0, 1, 2, 3, 4], 10))
    assert (codes[2, 50:] == 4).all()
    assert (codes[3] == 3).all()
    with pytest.raises(InputError, match=r"genome\.fa: has no chromosome 'chr3'; it has 1, 2"):
        check_fasta(fasta, {"chr3": 10})
    with pytest.raises(InputError, match=r"genome\.fa: chromosome '2' has 100 bp.*mixed assemblies"):
        check_fasta(fasta, {"chr2": 90})


@pytest.fixture
def gene_table(tmp_path):
    path = tmp_path / "genes.csv"
    table = pd.DataFrame(
        [
            ("a", "1", 0, 150, "+", 2.0, 1.0),
            ("b", "1", 20, 100, "-", 4.0, 0.5),
            ("c", "chr2", 10, 100, "-", 8.0, 0.0),
            ("d", "1", 10, 201, "-", 16.0, 0.0),
            ("e", "chr7", 10, 99, "-", 32.0, 0.0),
        ],
        columns=["gene", "chrom", "start", "end", "strand", "tpm", "other"],
    )
    table.to_csv(path, index=False)
    return path


def test_genes__are_at_their_start_sites(gene_table, tmp_path):
    genes = read_genes(gene_table, BINS)
    assert genes.names == ("a", "b", "c", "d")
    assert genes.bin.tolist() == [0, 0, 3, 2]
    values, mask = gene_nodes(genes, len(BINS))
    np.testing.assert_array_equal(values, [[6, 1.5], [0, 0], [16, 0], [8, 0]])
    assert mask.tolist() == [True, False, True, True]
    gtf = tmp_path / "genes.gtf"
    gtf.write_text('chr1\tx\tgene\t11\t201\t.\t-\t.\tgene_id "d";\n')
    assert read_genes(gtf, BINS).bin.tolist() == [2]
    assert read_genes(gtf, BINS).columns == ()


def test_genes__what_is_wrong_is_named(gene_table, tmp_path):
    table = pd.read_csv(gene_table)
    for column, value, message in (
        ("end", 251, "gene 'd' starts at 250, beyond the end of '1' \\(250 bp\\): mixed assemblies"),
        ("tpm", np.nan, "values of gene 'd' are not finite"),
        ("end", np.nan, "column 'end' of gene 'd' is 'nan', want a position in bp"),
        ("end", "x", "column 'end' of gene 'd' is 'x', want a position in bp"),
    ):
        bad = table.astype({column: object})
        bad.loc[3, column] = value
        bad.to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(InputError, match=message):
            read_genes(tmp_path / "bad.csv", BINS)
    with pytest.raises(InputError, match="no gene is on a chromosome of the contacts \\(chrX"):
        read_genes(gene_table, make_bins({"chrX": 10}, 5))


def test_expression__of_cells(tmp_path):
    table = pd.DataFrame({"cell": ["z", "a", "b"], "Smo": [1, 2, 3], "Shh": [0.5, 0.25, 0.0]})
    for path in (tmp_path / "cells.csv", tmp_path / "cells.parquet"):
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
        assert expressed_genes(path, ["a", "z"]) == ["Smo", "Shh"]
        found = cell_expression(path, ["a", "z"])
        assert {cell: values.tolist() for cell, values in found.items()} == {"a": [2, 0.25], "z": [1, 0.5]}
        with pytest.raises(InputError, match="has no cell 'q' \\(1 of 2 cells are missing\\)"):
            expressed_genes(path, ["a", "q"])
    table.assign(cell=["a", "a", "b"]).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(InputError, match=r"twice\.csv: cell 'a' is there twice"):
        expressed_genes(tmp_path / "twice.csv", ["a"])
    table.assign(Smo="high").to_csv(tmp_path / "text.csv", index=False)
    with pytest.raises(InputError, match=r"text\.csv: column 'Smo' is not of numbers"):
        expressed_genes(tmp_path / "text.csv", ["a"])


@pytest.mark.parametrize("table", [{"cell": [7, 8], "Smo": [1, 2]}, {"Smo": [1, 2]}], ids=["numbers", "index"])
def test_expression__however_parquet_has_the_cells(tmp_path, table):
    index = None if "cell" in table else pd.Index(["7", "8"], name="cell")
    pd.DataFrame(table, index=index).to_parquet(tmp_path / "cells.parquet")
    assert expressed_genes(tmp_path / "cells.parquet", ["8"]) == ["Smo"]
    assert cell_expression(tmp_path / "cells.parquet", ["8", "7"])["8"].tolist() == [2]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_expression__missing_values_are_named(tmp_path, ending):
    path = tmp_path / f"cells.{ending}"
    table = pd.DataFrame({"cell": ["a", "b"], "Smo": [1, 2], "Shh": [0.5, np.nan]})
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    with pytest.raises(InputError, match=rf"cells\.{ending}: column 'Shh' of cell 'b' is not finite"):
        cell_expression(path, ["b", "a"])
    assert cell_expression(path, ["a"])["a"].tolist() == [1, 0.5]


def test_expression__of_a_multiome_store(store):
    data = MultiomeStore(store)
    cells = [str(cell) for cell in data.column("cell")[[3, 200, 0]]]
    assert expressed_genes(store, cells) == list(data.column("gene"))
    found = cell_expression(store, cells)
    everything = np.concatenate(
        [data.counts("rna", np.arange(len(data.column("gene"))), celltype) for celltype in data.celltypes], axis=1
    )
    for cell, column in zip(cells, (3, 200, 0), strict=True):
        np.testing.assert_array_equal(found[cell], everything[:, column])


def test_accessibility__is_the_mean_count_of_peaks_by_centre(store):
    data = MultiomeStore(store)
    peaks = data.features("peak")
    size, end = 10_000, int(peaks["end"].max())
    chrom = str(peaks["chrom"].iloc[0])
    bins = make_bins({chrom.removeprefix("chr"): end + 5}, size)
    mean = data.counts("atac", np.arange(len(peaks)), "A").mean(axis=1)
    want = np.zeros(len(bins))
    for row in np.flatnonzero(peaks["chrom"] == chrom):
        want[(peaks["start"][row] + peaks["end"][row]) // 2 // size] += mean[row]
    found = accessibility(data, "A", bins)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found.any()
    some = bins.iloc[[0, 4, 5]].reset_index(drop=True)
    np.testing.assert_array_equal(accessibility(data, "A", some), found[[0, 4, 5]])
    with pytest.raises(InputError, match="no peak is on a chromosome of the contacts"):
        accessibility(data, "A", make_bins({"chr99": 10}, 5))
