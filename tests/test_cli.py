"""The commands as a user types them."""

from __future__ import annotations

import os
import re
import signal
import sys

import pandas as pd
import psutil
import pytest
import zarr
from commands import SLOW, cli, result, spoil_chunk, start, wait_for_parts

from enhancer_dask.cli import main
from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.scent import scent
from enhancer_dask.stats.bootstrap import up_to
from enhancer_dask.stores import consolidate

GENES = """\
chr17\tHAVANA\tgene\t40553769\t40565472\t.\t-\t.\tgene_id "ENSG00000126353.3"; gene_name "CCR7";
chr2\tHAVANA\tgene\t144384081\t144520390\t.\t-\t.\tgene_id "ENSG00000169554.23"; gene_name "ZEB2";
chr6\tHAVANA\tgene\t32659467\t32668383\t.\t-\t.\tgene_id "ENSG00000179344.16"; gene_name "HLA-DQB1";
"""


def test_cli__tiles_from_ingest_to_links(shared, oracle, tmp_path):
    data = shared / "data"
    (tmp_path / "genes.gtf").write_text(GENES)
    made = result(
        cli("ingest", data / "pbmc_multiome_tiles.h5mu", "--gtf", "genes.gtf", "--out", "tiles.zarr", cwd=tmp_path)
    )
    assert (made["n_cells"], made["n_genes"], made["n_peaks"], made["n_celltypes"]) == (9460, 3, 3325, 11)
    # the tiles were made of the gene bodies +- 250 kb; ZEB2's body was longer in the annotation of that day
    cli("candidates", "tiles.zarr", "--window", "250000", "--min-fraction", "0", "--out", "pairs.parquet", cwd=tmp_path)
    pairs, blocks = pd.read_parquet(tmp_path / "pairs.parquet"), pd.read_csv(data / "pbmc_tiles_pairs.csv.gz")
    for gene in ("CCR7", "HLA-DQB1"):
        assert set(pairs["peak"][pairs["gene"] == gene]) == set(blocks["peak"][blocks["gene"] == gene])
    assert set(pairs["peak"]) < set(blocks["peak"])
    assert len(blocks) - len(pairs) == 9
    args = ["scent", "tiles.zarr", "--pairs", data / "pbmc_tiles_pairs.csv.gz", "--celltype", "CD14+ Monocytes"]
    args += ["--celltype", "CD4 Memory", "--covariates", "log(nUMI),percent.mito", "--seed", "0", "--engine", "exact"]
    made = result(cli(*args, "--out", "links.parquet", "--max-resamples", "500", "--tsv", cwd=tmp_path))
    assert made["n_pairs"] == 2 * 3325
    links = pd.read_parquet(tmp_path / "links.parquet")
    want = oracle("poisson_glm")
    assert made["status"]["tested"] == len(want)
    both = links.merge(want, on=["celltype", "gene", "peak"], suffixes=("", "_r"))
    assert (both["beta"] - both["beta_r"]).abs().max() < 1e-8
    assert len(pd.read_csv(tmp_path / "links.tsv.gz", sep="\t")) == len(links)
    assert links["distance_bp"].abs().max() < 400_000
    kept = {"links.parquet", "links.tsv.gz", "pairs.parquet", "pairs.genes.bed", "pairs.peaks.bed"}
    assert {p.name for p in tmp_path.iterdir()} == kept | {"genes.gtf", "tiles.zarr"}


def test_cli__real_peaks_from_ingest_to_links(shared, tmp_path):
    done = cli("ingest", shared / "data" / "pbmc_multiome_peaks.h5mu", "--out", "p.zarr", cwd=tmp_path)
    assert "warning: no cell types given" in done.stderr
    made = result(cli("candidates", "p.zarr", "--out", "pairs.parquet", cwd=tmp_path))
    assert made["n_pairs"] == 78
    done = cli("scent", "p.zarr", "--pairs", "pairs.parquet", "--all", "--out", "links.parquet", "--max-resamples", "2500",
               cwd=tmp_path)  # fmt: skip
    assert "warning: covariate 'percent.mito' is constant in 'all' and left out there" in done.stderr
    links = pd.read_parquet(tmp_path / "links.parquet")
    assert len(links) == made["n_pairs"]
    assert (links["status"] == "tested").all()
    assert links[["beta", "se", "boot_basic_p", "fdr", "distance_bp"]].notna().all(axis=None)
    found = links[links["fdr"] < 0.1].set_index("gene")["beta"]
    assert (found[["CD8A", "CD8B", "LEF1", "IL7R", "BANK1"]] > 0).all()  # markers beside their own peaks


def test_cli__pairs_of_the_published_links(shared, tmp_path):
    links = shared / "published" / "nyu_cd14_mono" / "scent_results.parquet"
    done = cli("pairs", links, "--out", "pairs.parquet", "--tsv", cwd=tmp_path)
    assert result(done) == {"pairs": "pairs.parquet", "n_pairs": 2863, "n_genes": 311, "n_links": 1864}
    assert "1 links are there twice and pair with themselves (first: of SPATA13)" in done.stderr
    assert pd.read_parquet(tmp_path / "pairs.parquet").columns.tolist() == ["gene", "enhancer_1", "enhancer_2"]
    assert len(pd.read_csv(tmp_path / "pairs.tsv.gz", sep="\t")) == 2863
    done = cli("pairs", links, "--out", "pairs.parquet", "--fdr", "0.2", cwd=tmp_path, ok=False)
    assert done.returncode == 4
    assert "'fdr' is 0.1 there, 0.2 asked for" in done.stderr
    done = cli("pairs", links, "--out", "pairs.parquet", "--fdr", "1e-9", "--overwrite", cwd=tmp_path)
    assert "warning: " + str(links) + ": no gene has two significant links" in done.stderr
    assert result(done)["n_pairs"] == len(pd.read_parquet(tmp_path / "pairs.parquet")) == 0


@pytest.fixture
def with_workers(workplace, client):
    """Make the profile ``local`` mean workers that run already: one test more need not wait until two have started."""
    (workplace / "cluster.yaml").write_text(f"local: {{scheduler: '{client.scheduler.address}'}}\n")


@pytest.mark.usefixtures("with_workers")
def test_cli__from_candidates_to_interactions(workplace):
    """All pairs of candidates with ten doubly open cells, as GLiMMIRS at scale; tables for other programs; figures."""
    found = result(
        cli("pairs", "pairs.parquet", "--all", "--store", "good.zarr", "--celltype", "A", "--min-double", "10", "--out",
            "enhancers.parquet", cwd=workplace)
    )  # fmt: skip
    pairs = pd.read_parquet(workplace / "enhancers.parquet")
    assert found["n_pairs"] == len(pairs) > 20
    assert pairs["n_11"].min() >= 10
    pairs[:20].to_csv(workplace / "enhancers.tsv", sep="\t", index=False)
    args = [*EPISTASIS.split(), "--celltype", "A", "--tsv"]
    told = result(cli(*args, "--layout", "published", cwd=workplace))
    table = pd.read_parquet(workplace / "epistasis.parquet")
    assert told["n_pairs"] == len(table) == 20
    assert told["n_refits"] == table[[f"n_refits_{t}" for t in ("10", "01", "11", "interaction")]].to_numpy().sum() > 0
    assert sum(told["verdicts"].values()) == (table["verdict"] != "").sum()
    theirs = pd.read_csv(workplace / "epistasis.tsv.gz", sep="\t")
    assert theirs.columns[3:7].tolist() == ["intercept_10", "beta_estimate_10", "beta_pvalue_10", "bootstrap_pvalue_10"]
    cli(*args, "--layout", "glimmirs", cwd=workplace)  # nothing is computed again
    assert "interaction.effects" in pd.read_csv(workplace / "epistasis.tsv.gz", sep="\t").columns
    done = cli(*args, "--coding", "legacy", cwd=workplace, ok=False)
    assert done.returncode == 4
    assert "'coding' is 'fixed' there, 'legacy' asked for" in done.stderr
    drawn = result(cli("figures", "--epistasis", "epistasis.parquet", "--out", "figures", cwd=workplace))["figures"]
    assert {"figures/volcano_A.png", "figures/sum_against_both_A.svg"} < set(drawn)


def spoil_newer(folder):
    zarr.open_group(folder / "good.zarr", mode="r+").attrs["schema_version"] = 99
    consolidate(folder / "good.zarr")


def spoil_covariate(folder):
    table = pd.read_csv(folder / "cells.tsv", sep="\t").assign(age=1.5)
    table.loc[3, "age"] = None
    table.to_csv(folder / "cells.tsv", sep="\t", index=False)
    ingest(folder / "multiome.h5", folder / "good.zarr", cells=folder / "cells.tsv", overwrite=True)


def spoil_pairs(folder):
    pd.read_parquet(folder / "pairs.parquet").rename(columns={"peak": "enhancer"}).to_parquet(folder / "pairs.parquet")


def cut_h5(folder):
    (folder / "multiome.h5").write_bytes((folder / "multiome.h5").read_bytes()[:5000])


def foreign_gtf(folder):
    (folder / "genes.gtf.gz").unlink()
    (folder / "genes.gtf").write_text('chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_id "ENSMUSG1"; gene_name "Zzz3";\n')


def in_cells(old, new):
    def change(folder):
        table = folder / "cells.tsv"
        table.write_text(re.sub(old, new, table.read_text(), count=1, flags=re.MULTILINE))

    return change


def nothing(folder):
    pass


@pytest.fixture
def cli_here(workplace, monkeypatch, capfd):
    """Run a command in this process, where all is imported already; returns its exit code and both streams."""

    def run(*args):
        monkeypatch.chdir(workplace)
        monkeypatch.setattr(sys, "argv", ["enhancer-dask", *args])
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, getattr(sys, stream))  # the command puts others there
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            with pytest.raises(SystemExit) as stop:
                main()
            sys.stdout.flush()
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
        return stop.value.code, *capfd.readouterr()

    return run


INGEST = "ingest multiome.h5 --cells cells.tsv --out new.zarr"
PAIRS = "pairs pairs.parquet --out enhancers.parquet"

FIGURES = "figures --out new --store good.zarr --celltype A"
EPISTASIS = "epistasis good.zarr --pairs enhancers.tsv --out epistasis.parquet"
SCENT = "scent good.zarr --pairs pairs.parquet --out links.parquet --max-resamples 100"


@pytest.mark.parametrize(
    ("change", "command", "message"),
    [
        (in_cells("celltype", "type"), INGEST, "cells.tsv: column 'celltype' is missing; columns found: barcode, type, donor"),
        (in_cells(r"^[ACGT]{16}", "NNNN"), INGEST, "1 of 260 barcodes are not in .*multiome.h5 .first: 'NNNN-1'"),
        (in_cells(r"^([ACGT]{16}.*\n)", r"\1\1"), INGEST, "cells.tsv: 1 duplicate barcodes"),
        (nothing, "ingest nope.h5 --out new.zarr", "nope.h5: no such file"),
        (cut_h5, INGEST, "multiome.h5: not a readable HDF5 file, perhaps truncated"),
        (foreign_gtf, INGEST + " --gtf genes.gtf", "genes.gtf: none of the 48 genes is in this GTF"),
        (nothing, INGEST.replace("new.zarr", "/proc/self/new.zarr"), "/proc/self: cannot write to this folder"),
        (nothing, "candidates nope.zarr --out p.parquet", "nope.zarr: no such store"),
        (nothing, "candidates good.zarr --out p.parquet --anchor middle", "anchor is 'middle'; want one of overlap, centre"),
        (nothing, "candidates good.zarr --out p.parquet --window -5", "window is -5 bp"),
        (spoil_newer, SCENT + " --all", "good.zarr: schema version 99"),
        (spoil_covariate, SCENT + " --all --covariates age", "covariate 'age' is not a finite number in 1 cells of type"),
        (spoil_pairs, SCENT + " --all", "pairs.parquet: column 'peak' is missing; columns found: gene, enhancer"),
        (nothing, SCENT + " --celltype NK", "no cell is of type 'NK'; types are: A, B"),
        (nothing, SCENT, "name cell types with --celltype, or give --all"),
        (nothing, SCENT + " --all --celltype A", "name cell types with --celltype, or give --all"),
        (nothing, SCENT + " --all --engine fast", "engine 'fast' is unknown; choose from moments, exact"),
        (nothing, SCENT + " --all --covariates age", "covariate 'age' is not a column of the cells"),
        (nothing, SCENT + " --all --profile slurm", "cluster.yaml: no such file; it should hold the profile 'slurm'"),
        (nothing, SCENT.replace("links", "/proc/self/links") + " --all", "/proc/self.*: cannot write to this folder"),
        (nothing, PAIRS + " --fdr 2", "fdr is 2.0; want a level above 0, up to 1"),
        (nothing, PAIRS, "pairs.parquet: p-value column 'p_saddle' or 'boot_basic_p' is missing; columns found: gene, peak"),
        (nothing, PAIRS + " --all --min-double 10", "give --store with --celltype and --min-double"),
        (nothing, PAIRS + " --all --store good.zarr --celltype NK", "no cell is of type 'NK'; types are: A, B"),
        (spoil_pairs, PAIRS + " --all", "pairs.parquet: column 'peak' is missing; columns found: gene, enhancer"),

        (nothing, EPISTASIS + " --all", "enhancers.tsv: no such file"),
        (nothing, EPISTASIS.replace("enhancers.tsv", "pairs.parquet") + " --all", "pairs.parquet: column 'enhancer_1' is missing; columns found: gene, peak"),
        (nothing, EPISTASIS, "name cell types with --celltype, or give --all"),
        (nothing, EPISTASIS + " --all --ladder long", "ladder 'long' is unknown; choose from published, scent"),
        (nothing, EPISTASIS + " --all --tsv --layout wide", "layout 'wide' is unknown; choose from ours, published, glimmirs"),
        (nothing, "figures --out new", "nothing to draw; give links, an epistasis table, or a store"),
        (nothing, "figures --out new --links pairs.parquet", "pairs.parquet: no column of p-values, want 'p' or"),
        (nothing, "figures --out new --epistasis pairs.parquet", "pairs.parquet: column 'beta_10' is missing; columns found: gene"),
        (nothing, FIGURES + " --pair nope,a,b", "gene 'nope' is not in the store"),
        (nothing, FIGURES + " --pair nope,a", "pair 'nope,a': want GENE,ENHANCER_1,ENHANCER_2"),
        (nothing, FIGURES, "which cells to draw"),
        (nothing, "run run.yaml", "run.yaml: no such file"),
    ],
)  # fmt: skip
def test_cli__bad_input_gets_one_clear_line_and_leaves_nothing(workplace, cli_here, change, command, message):
    change(workplace)
    before = {p.relative_to(workplace) for p in workplace.iterdir()}
    code, out, err = cli_here(*command.split())
    assert code in range(1, 128)
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert out == ""
    left = {str(p.relative_to(workplace)) for p in workplace.iterdir()} - set(map(str, before))
    assert not left


@pytest.mark.usefixtures("with_workers")
def test_cli__pairs_of_candidates_with_enough_cells(workplace):
    command = "pairs pairs.parquet --all --store good.zarr --celltype A --out census.parquet".split()
    every = result(cli(*command, cwd=workplace))
    table = pd.read_parquet(workplace / "census.parquet")
    n_links = pd.read_parquet(workplace / "pairs.parquet").groupby("gene").size()
    assert every["n_links"] == n_links.sum()
    assert every["n_pairs"] == len(table) == (n_links * (n_links - 1) // 2).sum()
    assert (table[["n_00", "n_10", "n_01", "n_11"]].sum(axis=1) == 150).all()
    some = result(cli(*command, "--min-double", "10", "--overwrite", cwd=workplace))
    assert some["n_pairs"] == (table["n_11"] >= 10).sum() < len(table)


@pytest.mark.usefixtures("with_workers")
def test_cli__chunks_that_failed_leave_their_journal(workplace):
    spoil_chunk(workplace)
    done = cli(*SCENT.split(), "--all", cwd=workplace, ok=False)
    assert done.returncode == 5
    assert re.search("chunks failed.*a chunk of 'rna' is damaged", done.stderr)
    left = {p.name for p in (workplace / "links.parquet.parts").iterdir()}
    assert {name for name in left if not name.startswith("part-")} == {"manifest.json", "progress.json"}


@pytest.fixture(scope="module")
def undisturbed(store, pairs):
    return scent(store, pairs, seed=3, ladder=up_to(2_500), progress=False)


def stopped(kind, workplace):
    """Stop a driver that has finished some parts; returns these and when they were written."""
    process = start(SLOW, workplace)
    wait_for_parts(workplace, 4, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, kind)
    _, err = process.communicate(timeout=60)
    assert not (workplace / "links.parquet").exists()
    if kind == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + kind
        assert f"interrupted ({kind.name}); what is finished is kept" in err
        assert "Traceback" not in err
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive  # no worker outlives its driver
    parts = {p: p.stat().st_mtime_ns for p in (workplace / "links.parquet.parts").glob("part-*")}
    assert len(parts) >= 4
    return parts


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_cli__stopped_driver_goes_on_where_it_was(workplace, undisturbed, kind):
    parts = stopped(kind, workplace)
    again = start(SLOW, workplace)
    wait_for_parts(workplace, len(parts) + 1, again)
    assert {p: p.stat().st_mtime_ns for p in parts} == parts  # no finished part is computed again
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    pd.testing.assert_frame_equal(pd.read_parquet(workplace / "links.parquet"), undisturbed, check_exact=True)
    assert not (workplace / "links.parquet.parts").exists()


@pytest.mark.usefixtures("one_worker")
def test_cli__sigterm_is_a_friendly_end_like_ctrl_c(workplace):
    stopped(signal.SIGTERM, workplace)


def test_cli__killed_worker_changes_nothing(workplace, undisturbed):
    process = start(SLOW, workplace)
    wait_for_parts(workplace, 4, process)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    pd.testing.assert_frame_equal(pd.read_parquet(workplace / "links.parquet"), undisturbed, check_exact=True)


@pytest.mark.usefixtures("with_workers")
def test_cli__refuses_to_mix_and_names_the_key(workplace):
    args = [*SCENT.split(), "--celltype", "A"]
    cli(*args, cwd=workplace)
    done = cli(*args, "--seed", "1", cwd=workplace, ok=False)
    assert done.returncode == 4
    assert "'seed' is 0 there, 1 asked for" in done.stderr
    assert result(cli(*args, "--seed", "1", "--overwrite", cwd=workplace))["n_pairs"] > 0


def test_cli__help_and_version():
    assert "candidates" in cli("--help").stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", cli("--version").stdout)
    for command in ("ingest", "candidates", "scent", "pairs", "epistasis", "figures", "run", "demo"):
        assert "--" in cli(command, "--help").stdout
