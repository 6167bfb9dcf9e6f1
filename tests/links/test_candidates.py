from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.errors import InputError, ResumeError
from enhancer_dask.io.tables import read_meta
from enhancer_dask.links.candidates import candidate_pairs, candidates, signed_distance
from enhancer_dask.links.work import benjamini_hochberg


@pytest.fixture
def published(shared):
    folder = shared / "published" / "nyu_cd14_mono"
    names = ["chrom", "start", "end", "name"]
    genes = pd.read_csv(folder / "gencode_v44_genes.bed.gz", sep="\t", header=None, names=names)
    peaks = pd.read_csv(folder / "peaks.bed.gz", sep="\t", header=None, names=names[:3])
    peaks["name"] = [f"{p.chrom}-{p.start + 1}-{p.end}" for p in peaks.itertuples()]  # theirs count from 1
    return folder, genes, peaks


def test_candidate_pairs__are_exactly_the_published_ones(published):
    folder, genes, peaks = published
    expressed = set(pd.read_csv(folder / "expressed_genes.csv.gz").iloc[:, 0])
    pairs = candidate_pairs(genes[genes["name"].isin(expressed)], peaks, window=500_000)
    want = pd.read_parquet(folder / "candidate_pairs.parquet")
    assert len(pairs) == len(want) == 244_727
    assert len(pairs.drop_duplicates()) == 244_670
    order = ["gene", "peak"]
    pd.testing.assert_frame_equal(
        pairs.sort_values(order, ignore_index=True), want[order].sort_values(order, ignore_index=True)
    )


def test_benjamini_hochberg__finds_the_published_links(shared):
    table = pd.read_parquet(shared / "published" / "nyu_cd14_mono" / "scent_results.parquet")
    assert (benjamini_hochberg(table["boot_basic_p"]) < 0.1).sum() == 1_864


@pytest.fixture(scope="session")
def bedtools():
    found = shutil.which("bedtools")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("bedtools is not installed")
        pytest.skip("bedtools is not installed")
    return found


def random_bed(rng, n, longest, names):
    start = rng.integers(0, 4_000, n)
    table = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2", "chr10"], n), "start": start})
    table["end"] = start + rng.integers(1, longest, n)
    table["name"] = [f"{names}{i}" for i in range(n)]
    return table


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", [0, 1, 50, 5_000])
def test_candidate_pairs__equal_bedtools_window(bedtools, tmp_path, seed, window):
    rng = np.random.default_rng(seed)
    genes, peaks = random_bed(rng, 60, 400, "g"), random_bed(rng, 80, 60, "p")
    genes["name"] = genes["name"].where(rng.random(60) < 0.9, "twice")  # names may repeat
    for label, table in (("a", genes), ("b", peaks)):
        table.to_csv(tmp_path / f"{label}.bed", sep="\t", header=False, index=False)
    out = subprocess.run(
        [bedtools, "window", "-w", str(window), "-a", tmp_path / "a.bed", "-b", tmp_path / "b.bed"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    want = sorted((line.split("\t")[3], line.split("\t")[7]) for line in out.splitlines())
    pairs = candidate_pairs(genes, peaks, window=window)
    assert sorted(zip(pairs["gene"], pairs["peak"], strict=True)) == want


def test_candidate_pairs__anchors():
    genes = pd.DataFrame({"chrom": "chr1", "start": [1_000, 1_000], "end": [2_000, 2_000], "name": ["f", "r"]})
    genes["strand"] = ["+", "-"]
    peaks = pd.DataFrame(
        {"chrom": "chr1", "start": [880, 2_090, 1_880], "end": [910, 2_130, 1_910], "name": list("abc")}
    )
    everything = {"overlap": "fa fb fc ra rb rc", "centre": "fc rc", "tss": "fa rb rc"}
    for anchor, want in everything.items():
        pairs = candidate_pairs(genes, peaks, window=100, anchor=anchor)
        assert " ".join(pairs["gene"] + pairs["peak"]) == want


def test_candidate_pairs__refuses_bad_tables():
    genes = pd.DataFrame({"chrom": ["1"], "start": [0], "end": [5], "name": ["g"]})
    peaks = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [5], "name": ["p"]})
    with pytest.raises(InputError, match="share no chromosome: genes have '1', peaks 'chr1'"):
        candidate_pairs(genes, peaks)
    with pytest.raises(InputError, match="peaks: column 'name' is missing; columns found: chrom, start, end"):
        candidate_pairs(genes, peaks.drop(columns="name"))
    with pytest.raises(InputError, match="genes: column 'strand' is missing"):
        candidate_pairs(genes, peaks, anchor="tss")
    with pytest.raises(InputError, match="window is -1 bp; want 0 to 1000000000"):
        candidate_pairs(genes, peaks, window=-1)
    assert candidate_pairs(genes.iloc[:0], peaks).empty


def test_signed_distance__is_negative_upstream():
    genes = pd.DataFrame({"chrom": ["chr1", "chr1", "chr1", ""], "start": [100] * 4, "end": [200] * 4})
    genes["strand"] = ["+", "-", ".", "+"]
    peaks = pd.DataFrame({"chrom": "chr1", "start": [0] * 4, "end": [50] * 4})
    np.testing.assert_equal(signed_distance(genes, peaks), [25 - 100, 199 - 25, 25 - 150, np.nan])


def test_candidates__writes_a_table_and_beds_that_bedtools_takes(bedtools, store, simulation, tmp_path):
    pairs = candidates(store, tmp_path / "pairs.parquet", window=100_000)
    frequent = {
        g for g, n in zip(simulation.genes["name"], (simulation.rna > 0).mean(axis=1), strict=True) if n >= 0.05
    }
    assert set(pairs["gene"]) <= frequent
    bed = {name: tmp_path / f"pairs.{name}.bed" for name in ("genes", "peaks")}
    out = subprocess.run(
        [bedtools, "window", "-w", "100000", "-a", bed["genes"], "-b", bed["peaks"]],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    want = sorted((line.split("\t")[3], line.split("\t")[9]) for line in out.splitlines())
    assert sorted(zip(pairs["gene"], pairs["peak"], strict=True)) == want
    assert read_meta(tmp_path / "pairs.parquet")["params"]["window"] == 100_000


def test_candidates__goes_on_only_with_the_same_parameters(store, tmp_path):
    out = tmp_path / "pairs.parquet"
    first = candidates(store, out, window=100_000)
    pd.testing.assert_frame_equal(candidates(store, out, window=100_000), first)
    with pytest.raises(ResumeError, match="'window' is 100000 there, 50000 asked for"):
        candidates(store, out, window=50_000)
    assert len(candidates(store, out, window=50_000, overwrite=True)) < len(first)


def test_candidates__of_chosen_genes(store, tmp_path):
    some = candidates(store, tmp_path / "pairs.parquet", genes=["GENE3"])
    assert set(some["gene"]) == {"GENE3"}
    with pytest.raises(InputError, match="gene 'NOPE' is not in the store"):
        candidates(store, tmp_path / "other.parquet", genes=["NOPE"])
    assert not (tmp_path / "other.parquet").exists()


def test_candidates__needs_coordinates(tiles_store, tmp_path):
    with pytest.raises(InputError, match="no gene has coordinates; ingest again with --gtf"):
        candidates(tiles_store, tmp_path / "pairs.parquet")
    assert not list(tmp_path.iterdir())
