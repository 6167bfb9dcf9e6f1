"""Models side by side: the columns of the published table, values, direction of the tests, nothing seen in training."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from tiny_model import GENES, register, windowed_shards, write_run
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.models.evaluation import evaluate, joined
from enhancer_dask.models.gene_table import gene_table, mark_genes, read_starts
from enhancer_dask.models.metrics import metrics_table
from enhancer_dask.models.predictions import predict
from enhancer_dask.models.unseen import names_digest
from enhancer_dask.simulate.chromosomes import preset_design, simulate_chromosomes

X3 = ["degree", "strength", "dnase"]
GTF = """\
chr1\tX\tgene\t101\t2900\t.\t-\t.\tgene_id "A.1"; gene_name "A";
chr2\tX\tgene\t7501\t9000\t.\t+\t.\tgene_id "D.1"; gene_name "D";
"""


@pytest.fixture(autouse=True)
def scaled(monkeypatch):
    register(monkeypatch)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    design = preset_design("enhancers", bins=200)
    return simulate_chromosomes(tmp_path_factory.mktemp("s") / "s", design, n_train=3, n_validation=1, n_test=4)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return windowed_shards(tmp_path_factory.mktemp("w"))[0]


@pytest.fixture
def runs(tmp_path):
    return {
        "epi-good": write_run(tmp_path / "good", [1.0], x=["accessibility"]),
        "bad": write_run(tmp_path / "bad", [30.0], x=["accessibility"]),
    }


@pytest.fixture
def runs3(tmp_path):
    return {"a-b": write_run(tmp_path / "a", [0, 0, 9.0], x=X3), "c": write_run(tmp_path / "c", [1, 0, 0], x=X3)}


# -- the table of genes ----------------------------------------------------------------------------------------


def test_gene_table__simulated(simulated, runs):
    found = evaluate(simulated.path, runs, split="test", accelerator="cpu").genes
    assert list(found.columns) == [
        "chr", "genes", "n_tss", "tss", "tss_distance_from_center", "n_contact", "average_accessibility", "true_cage",
        "pred_cage_epi_good", "pred_cage_bad", "nll_epi_good", "nll_bad", "delta_nll",
    ]  # fmt: skip
    graphs = [g for g in simulated.graphs() if g.labels["split"] == "test"]
    places = [(g.name, int(i)) for g in graphs for i in np.flatnonzero(g.nodes["is_gene"])]
    assert list(zip(found["chr"], found["tss"], strict=True)) == places
    assert found["genes"].tolist() == [f"{graph}:{node}" for graph, node in places]
    y = np.array([graph.nodes["y"][i] for graph in graphs for i in np.flatnonzero(graph.nodes["is_gene"])])
    np.testing.assert_array_equal(found["true_cage"], y)
    assert (found["n_contact"] == 3).all()
    assert (found["n_tss"] == 1).all()
    assert (found["tss_distance_from_center"] == 0).all()
    np.testing.assert_allclose(found["delta_nll"], found["nll_bad"] - found["nll_epi_good"])
    assert (found["delta_nll"] > 0).mean() > 0.9  # above 0 where the first is better


def test_gene_table__of_an_annotation(windowed, runs3, tmp_path):
    (tmp_path / "genes.csv").write_text(GENES)
    starts = read_starts(tmp_path / "genes.csv")
    tables = {label: predict(run, windowed.path, accelerator="cpu") for label, run in runs3.items()}
    predictions = joined(tables)
    found = gene_table(predictions, starts=starts).set_index(["chr", "tss"])
    # A starts at 2899 (minus strand, last base) and again at 2950, B at 2100: one bin, three sites, two genes
    assert found["genes"].to_dict() == {
        ("chr1", 2100): "B+A", ("chr1", 30_000): "C", ("chr2", 7_500): "D+E", ("chr10", 0): "F"
    }  # fmt: skip
    assert found["n_tss"].tolist() == [3, 1, 2, 1]
    assert found["tss_distance_from_center"].tolist() == [400, 500, 0, 500]
    for (chrom, tss), row in found.iterrows():
        here = predictions["loss_mask"] & (predictions["chrom"] == chrom)
        bin_ = predictions[here & (predictions["start"] <= tss) & (tss < predictions["end"])]
        assert len(bin_) == 1
        bin_ = bin_.iloc[0]
        assert row["n_contact"] == bin_["n_contacts"]
        assert row["average_dnase"] == bin_["track_dnase"]
        assert row["true_cage"] == bin_["y"]
        assert row["pred_cage_a_b"] == bin_["prediction_a-b"]
        want = -stats.poisson.logpmf(bin_["y"], float(bin_["prediction_c"]))
        assert row["nll_c"] == pytest.approx(want, rel=1e-6)
    marked = mark_genes(predictions, starts)
    assert (marked["is_gene"] & marked["loss_mask"]).sum() == len(found)
    # the shards were made with the same genes
    np.testing.assert_array_equal(marked["is_gene"], predictions["is_gene"])


def test_gene_table__one_and_three_models(windowed, runs3):
    one = predict(runs3["c"], windowed.path, accelerator="cpu")
    found = gene_table(one)
    assert list(found.columns)[-3:] == ["true_cage", "pred_cage_model", "nll_model"]
    assert found["n_tss"].isna().all()  # marked, not named
    three = gene_table(joined({"a": one, "b": one, "c": one}))
    assert list(three.columns)[-2:] == ["delta_nll_b", "delta_nll_c"]
    assert (three["delta_nll_b"] == 0).all()
    with pytest.raises(InputError, match="two have the same name in a table"):
        gene_table(joined({"a-b": one, "a_b": one}))


def test_gene_table__genes_that_cannot_be_placed(simulated, windowed, runs, runs3, tmp_path):
    starts = pd.DataFrame({"gene": ["A"], "chrom": ["chr1"], "tss": [90_000]})
    flat = predict(runs["bad"], simulated.path, accelerator="cpu")
    with pytest.raises(InputError, match="the bins have no 'chrom'"):
        gene_table(flat, starts=starts)
    table = predict(runs3["c"], windowed.path, accelerator="cpu")
    with pytest.raises(InputError, match="g: no gene starts in a bin that counts"):
        mark_genes(table, starts, "g")
    with pytest.raises(InputError, match=r"no gene is on a chromosome of the predictions \(chr1, chr2, chr10"):
        gene_table(table, starts=starts.assign(chrom="chrUn"))
    (tmp_path / "bad.csv").write_text("gene,chrom,start,end\nA,chr1,x,5\n")
    with pytest.raises(InputError, match="column 'start' of gene 'A' is 'x', want a position in bp"):
        read_starts(tmp_path / "bad.csv")


# -- evaluation ------------------------------------------------------------------------------------------------


def test_evaluate__writes_what_it_returns(simulated, runs, tmp_path):
    found = evaluate(simulated.path, runs, tmp_path / "e", split="test", accelerator="cpu", tsv=True)
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "metrics.csv", "genes.parquet", "genes.tsv.gz", "wilcoxon.csv", "predictions.parquet",
    }  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "e" / "metrics.csv"), found.metrics)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "e" / "wilcoxon.csv"), found.wilcoxon)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "e" / "genes.parquet"), found.genes)
    again = metrics_table(pd.read_parquet(tmp_path / "e" / "predictions.parquet"))
    pd.testing.assert_frame_equal(again, found.metrics)
    tests = found.wilcoxon.query("group == 'genes'").set_index(["model", "against"])["p"]
    assert tests["epi-good", "bad"] < 0.01
    assert tests["bad", "epi-good"] > 0.99
    with pytest.raises(InputError, match="exists; choose another name or overwrite it"):
        evaluate(simulated.path, runs, tmp_path / "e")
    summary = found.summary()
    assert (summary["n_graphs"], summary["n_bins"], summary["n_genes"]) == (4, 800, 16)
    mse = found.metrics.query("model == 'bad' and group == 'bins' and metric == 'mse'")["value"].item()
    assert summary["metrics"]["bad"]["mse"] == mse


def test_evaluate__tables_in_the_place_of_runs(simulated, runs, tmp_path):
    predict(runs["bad"], simulated.path, tmp_path / "bad.parquet", accelerator="cpu")
    mixed = evaluate(simulated.path, runs | {"bad": tmp_path / "bad.parquet"}, split="test", accelerator="cpu")
    pd.testing.assert_frame_equal(
        mixed.metrics, evaluate(simulated.path, runs, split="test", accelerator="cpu").metrics
    )
    with pytest.raises(InputError, match="predictions of 'b' have another 'y' than those of 'a'"):
        one = pd.read_parquet(tmp_path / "bad.parquet")
        joined({"a": one, "b": one.assign(y=one["y"] + 1)})
    with pytest.raises(InputError, match="predictions of 'b' are of other nodes"):
        joined({"a": one, "b": one[:-1]})
    one.assign(y=np.nan).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"no bin that counts has a target \(y\)"):
        evaluate(simulated.path, {"none": tmp_path / "none.parquet"})
    predict(runs["bad"], simulated.path, tmp_path / "few.parquet", accelerator="cpu", where="number == 0")
    with pytest.raises(InputError, match="has 0 rows of graph 'test-000001', want its 200 nodes"):
        evaluate(simulated.path, {"few": tmp_path / "few.parquet"}, split="test")


def test_joined__order_of_rows_does_not_matter(windowed, runs3):
    one, two = (predict(run, windowed.path, accelerator="cpu") for run in runs3.values())
    straight = joined({"a": one, "b": two})
    pd.testing.assert_frame_equal(straight, joined({"a": one, "b": two.sample(frac=1, random_state=1)}))
    np.testing.assert_array_equal(straight["prediction_b"], two["prediction"])


def test_evaluate__refuses_chromosomes_seen_in_training(windowed, tmp_path):
    seen = {"train": {"graphs": 3, "chroms": ["chr1", "chr10"]}, "validation": {"graphs": 1, "chroms": ["chr2"]}}
    run = write_run(tmp_path / "r", [1, 0, 0], x=X3, splits=seen)
    for where, message in (
        ("chrom == 'chr1'", r"'m' \(.*\) saw chromosome chr1 in train"),
        ("chrom == 'chr2'", "saw chromosome chr2 in validation"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(windowed.path, {"m": run}, where=where, accelerator="cpu")
        assert len(evaluate(windowed.path, {"m": run}, where=where, accelerator="cpu", allow_train=True).genes)
    del seen["validation"]
    other = write_run(tmp_path / "o", [1, 0, 0], x=X3, splits=seen)
    assert len(evaluate(windowed.path, {"m": other}, where="chrom == 'chr2'", accelerator="cpu").metrics)


@pytest.mark.parametrize("how", ["names", "names_digest", "where"])
def test_evaluate__refuses_graphs_seen_in_training(simulated, tmp_path, how):
    names = simulated.index.query("split == 'train'")["name"].tolist()
    told = {"names": names, "names_digest": names_digest(names[::-1]), "where": "split == 'train'"}
    splits = {"train": {"graphs": 3, how: told[how]}}
    run = write_run(tmp_path / "r", [1.0], x=["accessibility"], splits=splits, params=simulated.params)
    with pytest.raises(InputError, match="saw graph train-000000.* in train"):
        evaluate(simulated.path, {"m": run}, split="train", accelerator="cpu")
    if how != "names_digest":  # a digest does not tell some of them
        with pytest.raises(InputError, match="saw graph train-000000.* in train"):
            evaluate(simulated.path, {"m": run}, where="number == 0", accelerator="cpu")
    assert len(evaluate(simulated.path, {"m": run}, split="test", accelerator="cpu").metrics)
    # graphs of another simulation have the same names
    elsewhere = write_run(
        tmp_path / "x", [1.0], x=["accessibility"], splits=splits, params={**simulated.params, "seed": 1}
    )
    assert len(evaluate(simulated.path, {"m": elsewhere}, split="train", accelerator="cpu").metrics)


def shards_hash(store):
    content = b"".join((store.path / name).read_bytes() for name in ("shards.json", "index.parquet"))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def test_evaluate__conditions_of_a_training(simulated, windowed, tmp_path):
    splits = {part: f"split == '{part}'" for part in ("train", "validation", "test")}
    x = {"x": ["accessibility"], "splits": splits}
    here = write_run(tmp_path / "h", [1.0], **x, shards=str(simulated.path), shards_hash=shards_hash(simulated))
    with pytest.raises(InputError, match="saw graph validation-000000 in validation"):
        evaluate(simulated.path, {"m": here}, where="split != 'train'", accelerator="cpu")
    assert len(evaluate(simulated.path, {"m": here}, split="test", accelerator="cpu").metrics)
    elsewhere = write_run(tmp_path / "e", [1.0], **x, shards="gone", shards_hash="0")
    assert len(evaluate(simulated.path, {"m": elsewhere}, accelerator="cpu").metrics)
    # a chromosome that was seen was seen, whatever shards it is in
    splits = {"train": "chrom in ['chr1']", "validation": "chrom == 'chr10'"}
    run = write_run(tmp_path / "c", [1, 0, 0], x=X3, splits=splits, shards_hash="0")
    with pytest.raises(InputError, match="saw chromosome chr10 in validation"):
        evaluate(windowed.path, {"m": run}, where="chrom != 'chr1'", accelerator="cpu")
    assert len(evaluate(windowed.path, {"m": run}, where="chrom == 'chr2'", accelerator="cpu").metrics)


# -- the command -----------------------------------------------------------------------------------------------


def test_cli__evaluate(windowed, runs3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genes.gtf").write_text(GTF)
    args = ["evaluate", str(windowed.path), "--run", "a=a", "--run", "c=c", "--genes", "genes.gtf", "--out", "e"]
    done = CliRunner().invoke(app, [*args, "--sigma", "a=2"], catch_exceptions=False)
    made = json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)  # no NaN
    assert (made["evaluation"], made["n_genes"]) == ("e", 2)
    assert {(w["model"], w["against"]) for w in made["wilcoxon"]} == {("a", "c"), ("c", "a")}
    assert pd.read_parquet(tmp_path / "e" / "genes.parquet")["genes"].tolist() == ["A", "D"]
    metrics = pd.read_csv(tmp_path / "e" / "metrics.csv").set_index(["model", "group", "metric"])["value"]
    assert metrics["a", "bins", "gaussian_sigma"] == 2
    for wrong, message in (
        (["--run", "a=c"], "--run: 'a' is there twice"),
        (["--run", "a"], "--run is 'a'; want NAME=VALUE"),
        (["--sigma", "a=x"], "--sigma: could not convert"),
        (["--sigma", "b=1"], "sigma is given for 'b', which is none of the models a, c"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*args, "--overwrite", *wrong], catch_exceptions=False)
