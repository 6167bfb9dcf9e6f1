"""Scores of candidates against loops and hand values, and the whole command on models whose answer is known."""

import json
import sys
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.models.activity_by_contact import (
    activity_by_contact,
    activity_of,
    contact_of,
    edge_places,
    geometric_mean,
    power_law,
)
from enhancer_dask.models.candidate_pairs import (
    check_elements,
    element_candidates,
    genes_of,
    linked_candidates,
    near_candidates,
    simulated_truth,
)
from enhancer_dask.models.enhancer_scores import auprc, enhancer_scores, judge, signed_scores, trapezoidal_auprc
from enhancer_dask.shard_store import Graph, finish_shards, sorted_edges, write_shard
from enhancer_dask.simulate.chromosomes import ChromosomeDesign, chromosome, simulate_chromosomes

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from enhancer_dask.models import registry, runs  # noqa: E402
from enhancer_dask.models.explaining import read_candidates  # noqa: E402
from enhancer_dask.models.registry import Expression, ModelSpec  # noqa: E402
from enhancer_dask.models.scoring import ScoreOptions, score_shards  # noqa: E402

DESIGN = ChromosomeDesign(bins=400, genes=6, enhancers=6, silencers=6, silencers_per_gene=2, decoys_per_gene=6)


# -- scores ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("reach", [0, 1, 40])
def test_enhancer_scores__equal_their_definition(reach, absolute):
    rng = np.random.default_rng(0)
    values, at = rng.normal(size=100), np.array([0, 3, 50, 98, 99])
    size = np.abs(values) if absolute else values
    want = [max(size[max(0, i - reach) : i + reach + 1]) / max(size) for i in at]
    np.testing.assert_allclose(enhancer_scores(values, at, reach=reach, absolute=absolute), want)
    sums = [values[max(0, i - reach) : i + reach + 1].sum() for i in at]
    np.testing.assert_allclose(signed_scores(values, at, reach=reach), sums, atol=1e-12)


def test_enhancer_scores__where_there_is_nothing():
    assert enhancer_scores(np.zeros(5), [0, 4]).tolist() == [0.0, 0.0]
    assert enhancer_scores([-1.0, -2.0], [0], absolute=False).tolist() == [0.0]
    assert enhancer_scores([1.0], []).tolist() == []
    with pytest.raises(InputError, match="candidates lie in bins 2 to 7, want 0 to 4"):
        enhancer_scores(np.ones(5), [2, 7])


@pytest.mark.parametrize(
    ("scores", "labels", "want"),
    [
        ([3, 2, 1], [1, 0, 1], 0.5 * 1 + 0.5 * 2 / 3),
        ([3, 2, 1], [0, 0, 1], 1 / 3),
        ([2, 2, 1], [1, 0, 1], 0.5 * 1 / 2 + 0.5 * 2 / 3),  # a tie is called together
        ([1, 1, 1, 1], [0, 1, 0, 0], 0.25),
        ([5, 4], [1, 1], 1.0),
    ],
)
def test_auprc__hand_values(scores, labels, want):
    assert auprc(scores, labels) == pytest.approx(want)
    assert auprc(scores[::-1], labels[::-1]) == pytest.approx(want)


def test_auprc__equals_its_definition_at_every_threshold():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 30, 200).astype(float), rng.random(200) < 0.2
    area, trapezoids, before = 0.0, 0.0, (0.0, 1.0)
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        recall, precision = labels[called].sum() / labels.sum(), labels[called].mean()
        area += (recall - before[0]) * precision
        trapezoids += (recall - before[0]) * (precision + before[1]) / 2
        before = recall, precision
    assert auprc(scores, labels) == pytest.approx(area)
    assert trapezoidal_auprc(scores, labels) == pytest.approx(trapezoids)
    assert np.isnan(auprc(scores, np.zeros(200)))
    with pytest.raises(InputError, match="1 of 2 scores are not numbers"):
        auprc([np.nan, 1.0], [0, 1])


def test_judge__by_genes_with_enough_elements_and_a_hit():
    table = pd.DataFrame({
        "graph": ["a"] * 6 + ["b"] * 2, "gene": [1, 1, 1, 2, 2, 2, 1, 1],
        "is_linked": [1, 0, 0, 0, 0, 0, 0, 1], "score": [3.0, 1, 2, 9, 8, 7, 5, 4],
        "score_signed": [-3.0, 1, 2, 9, 8, 7, 5, 4], "effect": [-1.0, 0, 0.5, 0, 0, 0, 0, 2],
        "sign": [-1, 0, 0, 0, 0, 0, 0, -1],
    })  # fmt: skip
    table["is_linked"] = table["is_linked"].astype(bool)
    (row,) = judge(table, ["score"]).to_dict("records")
    assert (row["n_genes"], row["n_pairs"], row["n_linked"], row["prevalence"]) == (2, 5, 2, 0.4)
    assert row["auprc"] == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)
    assert row["auprc_gene_mean"] == pytest.approx((1 + 0.5) / 2)
    assert row["sign_agreement"] == 0.5
    # ranks of -3 1 2 5 4 and of -1 0 .5 0 2: 1 2 3 5 4 and 1 2.5 4 2.5 5
    assert row["spearman"] == pytest.approx(np.corrcoef([1, 2, 3, 5, 4], [1, 2.5, 4, 2.5, 5])[0, 1])
    assert judge(table, ["score"], min_elements=3).loc[0, "n_pairs"] == 3
    none = judge(table, ["score"], min_elements=4).loc[0]
    assert none["n_pairs"] == 0
    assert np.isnan(none["auprc"])


# -- activity by contact ---------------------------------------------------------------------------------------


def test_activity_by_contact__equals_a_loop():
    rng = np.random.default_rng(2)
    gene, activity, contact = rng.integers(0, 5, 60), rng.random(60), rng.random(60)
    distance = rng.uniform(-8e6, 8e6, 60)
    found = activity_by_contact(gene, activity, contact, distance)
    for p in range(60):
        total = sum(activity[q] * contact[q] for q in range(60) if gene[q] == gene[p] and abs(distance[q]) <= 5e6)
        want = activity[p] * contact[p] / total if abs(distance[p]) <= 5e6 else 0.0
        assert found[p] == pytest.approx(want)
    assert (found == 0).any()
    assert activity_by_contact([1, 1], [0, 0], [1, 1], [0, 0]).tolist() == [0, 0]
    assert activity_by_contact([], [], [], []).shape == (0,)
    with pytest.raises(InputError, match="contact has the value -1, want none below 0"):
        activity_by_contact([1], [1], [-1], [0])


def test_power_law__of_distance_with_a_floor():
    np.testing.assert_allclose(power_law([0, 5e3, -1e4, 1e5]), [1, 1, 2**-0.87, 20**-0.87])


def test_geometric_mean__of_tracks():
    np.testing.assert_allclose(geometric_mean({"a": [4, 0, 2], "b": [9, 5, 2]}), [6, 0, 2])
    with pytest.raises(InputError, match="activity track 'b' has the value nan"):
        geometric_mean({"b": [1, np.nan]})


@pytest.fixture(scope="module")
def graph():
    source, target, edges = sorted_edges(
        [1, 3, 5, 0, 4], [2, 2, 2, 5, 5], {"log_count": np.log2([2.0, 4, 8, 16, 32]), "oe": [1.0, 2, 3, 4, 5]}
    )
    nodes = {
        "x": np.array([[9, 1, 4], [9, 4, 9], [9, 0, 1], [9, 1, 1], [9, 4, 4], [9, 2, 8]], dtype=np.float32),
        "gene_mask": np.array([0, 0, 1, 0, 0, 1], dtype=bool),
        "loss_mask": np.array([1, 1, 1, 1, 1, 0], dtype=bool),
        "dnase": np.arange(12, dtype=np.float32).reshape(6, 2),
    }
    return Graph("chr1", 6, source, target, nodes, edges, labels={"chrom": "chr1", "start": 1_000})


def test_contact_of__edges_and_distance(graph):
    gene, candidate, away = np.array([2, 2, 2, 5]), np.array([1, 5, 0, 4]), np.array([1e4, 5e4, 2e4, 1e4])
    assert edge_places(graph, candidate, gene).tolist() == [0, 2, -1, 4]
    np.testing.assert_allclose(contact_of(graph, gene, candidate, away), [1, 7, 0, 31])  # log_count, as counts
    assert contact_of(graph, gene, candidate, away, "oe").tolist() == [1, 3, 0, 5]
    assert contact_of(graph, gene, candidate, away, "edge").tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(contact_of(graph, gene, candidate, away, "power-law"), power_law(away))
    empty = Graph("g", 6, graph.source[:0], graph.target[:0])
    np.testing.assert_allclose(contact_of(empty, gene, candidate, away), power_law(away))
    assert contact_of(empty, gene, candidate, away, "edge").tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="no contact 'kr'; it has log_count, oe, edge, power-law"):
        contact_of(graph, gene, candidate, away, "kr")


def test_activity_of__tracks_but_not_degrees(graph):
    columns = ("degree", "h3k27ac", "atac")
    np.testing.assert_allclose(activity_of(graph, columns, ("h3k27ac", "atac")), [2, 6, 0, 1, 4, 4])
    np.testing.assert_allclose(activity_of(graph, columns, ("dnase",)), [0.5, 2.5, 4.5, 6.5, 8.5, 10.5])
    every = np.cbrt([1 * 4 * 0.5, 4 * 9 * 2.5, 0, 6.5, 16 * 8.5, 16 * 10.5])
    np.testing.assert_allclose(activity_of(graph, columns), every, rtol=1e-6)
    with pytest.raises(InputError, match="no track 'h3k4me3' for the activity; it has h3k27ac, atac, dnase"):
        activity_of(graph, columns, ("h3k4me3",))


# -- candidates ------------------------------------------------------------------------------------------------


def test_candidates__by_edge_and_by_distance(graph):
    assert genes_of(graph).tolist() == [2]  # 5 is outside the loss mask
    found = linked_candidates(graph, [5, 2])
    assert found[["gene", "candidate", "distance"]].to_numpy().tolist() == [
        [5, 0, -5], [5, 4, -1], [2, 1, -1], [2, 3, 1], [2, 5, 3],
    ]  # fmt: skip
    near = near_candidates(graph, [2, 5], 2)
    assert list(zip(near["gene"], near["candidate"], strict=True)) == [(2, 0), (2, 1), (2, 3), (2, 4), (5, 3), (5, 4)]
    assert len(linked_candidates(graph, [])) == 0


def test_element_candidates__by_place_and_by_node(graph):
    # bins of 100 bp from 1,000: gene A in bin 2, B in bin 5, which the loss does not count
    table = pd.DataFrame({
        "gene": ["A", "A", "A", "B", "A"], "chrom": ["chr1"] * 4 + ["chr2"], "tss": [1_250, 1_250, 1_250, 1_510, 1_250],
        "start": [1_000, 1_460, 1_590, 1_000, 1_000], "end": [1_050, 1_480, 1_700, 1_050, 1_050],
        "is_linked": [1, 0, 1, 1, 1], "note": list("abcde"),
    })  # fmt: skip
    found = element_candidates(graph, check_elements(table, "t"), 100)
    assert found[["gene", "candidate", "gene_name", "note"]].to_numpy().tolist() == [[2, 0, "A", "a"], [2, 4, "A", "b"]]
    np.testing.assert_allclose(found["at"], [0.25, 0.7])
    nodes = pd.DataFrame({"graph": ["chr1", "chr2"], "gene": [2, 0], "candidate": [3, 1], "effect": [0.5, np.nan]})
    found = element_candidates(graph, check_elements(nodes, "t"), None)
    assert found[["gene", "candidate", "distance", "effect"]].to_numpy().tolist() == [[2, 3, 1, 0.5]]
    with pytest.raises(InputError, match="the elements name nodes that are not among its 6"):
        element_candidates(graph, check_elements(nodes.assign(candidate=6), "t"), None)
    with pytest.raises(InputError, match="t: column 'tss' is missing; want gene, chrom, tss, start, end, or graph"):
        check_elements(table.drop(columns="tss"), "t")
    with pytest.raises(InputError, match="t: column 'start' has 'x', want numbers"):
        check_elements(table.assign(start="x"), "t")


def test_simulated_truth__effects_make_the_expression_of_a_gene():
    graph = chromosome(DESIGN, seed=3)
    genes = genes_of(graph)
    truth = simulated_truth(graph, linked_candidates(graph, genes), reach=0)
    assert truth["is_linked"].sum() == 6 * 5
    assert truth.groupby("sign").size().to_dict() == {-1: 12, 0: 36, 1: 18}
    alone = [g for g in genes if (np.abs(genes - g) <= 5).sum() == 1]  # elsewhere other genes' windows add to it
    assert len(alone) >= 3
    for gene in alone:
        effect = truth["effect"][truth["gene"] == gene].sum()
        assert graph.nodes["y_noiseless"][gene] == pytest.approx(max(effect, 0), abs=1e-5)


def test_chromosome__decoys_change_nothing_else_and_are_no_regulators():
    with_decoys, without = chromosome(DESIGN, seed=3), chromosome(replace(DESIGN, decoys_per_gene=0), seed=3)
    for name, values in without.nodes.items():
        np.testing.assert_array_equal(with_decoys.nodes[name], values)
    real = with_decoys.edges["sign"] != 0
    np.testing.assert_array_equal(with_decoys.source[real], without.source)
    np.testing.assert_array_equal(with_decoys.target[real], without.target)
    decoys = with_decoys.source[~real]
    assert len(decoys) == 6 * 6
    assert len(set(zip(with_decoys.source.tolist(), with_decoys.target.tolist(), strict=True))) == 6 * 11
    regulators = np.flatnonzero(without.nodes["is_enhancer"] | without.nodes["is_silencer"])
    assert np.abs(decoys[:, None] - regulators).min() > 7
    assert (with_decoys.nodes["x"][decoys, 0] > 0).all()
    with pytest.raises(InputError, match="decoys_per_gene is 300, but only"):
        chromosome(replace(DESIGN, decoys_per_gene=300))


# -- the whole way ---------------------------------------------------------------------------------------------


class Oracle(Expression):
    """The process itself, told by the edges' signs: what it says is known."""

    def __init__(self, column: int | None = 0):
        super().__init__()
        self.column = column

    def forward(self, batch):
        source, target = batch.edge_index
        weight = torch.ones(len(source)) if self.column is None else batch.edge_attr[:, self.column]
        total = torch.zeros(batch.num_nodes)
        for offset in range(-5, 6):
            total = total.index_add(0, target + offset, weight * batch.x[source + offset, 0])
        return total


@pytest.fixture
def oracle_run(tmp_path, monkeypatch):
    """A folder as a training leaves it."""
    module = types.ModuleType("enhancer_dask.models.of_this_test")
    module.Oracle = Oracle
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.SPECS, "oracle", ModelSpec("oracle", "of_this_test:Oracle", "the process itself"))
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    description = {"schema": runs.SCHEMA, "schema_version": runs.SCHEMA_VERSION, "model": "oracle", "options": {}}
    (folder / "run.json").write_text(json.dumps(description))
    state = {f"{runs.PREFIX}{name}": values for name, values in Oracle().state_dict().items()}
    torch.save({"state_dict": state}, folder / runs.BEST)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "shards"
    return simulate_chromosomes(out, DESIGN, n_train=1, n_validation=1, n_test=2, seed=1).path


def invoke(*args, ok=True):
    done = CliRunner().invoke(app, ["attribute", *map(str, args)])
    assert (done.exit_code == 0) == ok, done.output
    return json.loads(done.stdout.splitlines()[-1]) if ok else done.exception


def test_attribute_command__of_the_process_itself_finds_all_links_and_their_signs(oracle_run, shards, tmp_path):
    methods = "gradient-x-input,integrated-gradients,shap,deletion,abc"
    found = invoke(
        oracle_run, shards, "--out", tmp_path / "out", "--method", methods, "--split", "test", "--n-steps", 4,
        "--n-samples", 4, "--contributions", "--min-elements", 10,
    )  # fmt: skip
    assert (found["genes"], found["pairs"], found["linked"]) == (12, 12 * 11, 12 * 5)
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    verdict = pd.read_csv(tmp_path / "out" / "auprc.csv").set_index("method")
    # within a gene every link is above all decoys, which are exactly 0; over all genes together, too
    for method in ("gradient_x_input", "integrated_gradients", "shap", "deletion"):
        assert verdict.loc[method, "auprc"] == pytest.approx(1.0)
        assert verdict.loc[method, "sign_agreement"] == 1.0
        assert (table.loc[~table["is_linked"], method] < 0.2).all()
        assert table.groupby(["graph", "gene"])[method].max().between(0.3, 1).all()
    # the model is linear, and what a gene gets from three bins through all offsets is its effect seen from three bins
    np.testing.assert_allclose(table["gradient_x_input_signed"], table["integrated_gradients_signed"], atol=1e-5)
    np.testing.assert_allclose(table["gradient_x_input_signed"], table["deletion_signed"], atol=1e-4)
    assert verdict.loc["gradient_x_input", "spearman"] > 0.95
    assert verdict.loc["abc", "auprc"] < 0.9  # silencers are hardly open
    assert found["auprc"]["deletion"] == 1.0
    kept = pd.read_parquet(tmp_path / "out" / "contributions.parquet")
    assert len(kept) == 12 * DESIGN.bins
    row = table.iloc[7]
    mine = kept[(kept["graph"] == row["graph"]) & (kept["gene"] == row["gene"])].set_index("node")["gradient_x_input"]
    near = mine.loc[row["candidate"] - 1 : row["candidate"] + 1]
    assert row["gradient_x_input_signed"] == pytest.approx(near.sum(), abs=1e-5)
    assert row["gradient_x_input"] == pytest.approx(near.abs().max() / mine.abs().max(), abs=1e-5)


def test_attribute_command__genes_limits_and_candidates(oracle_run, shards, tmp_path):
    out, rest = tmp_path / "out", ("--method", "gradient-x-input", "--overwrite")
    assert invoke(oracle_run, shards, "--out", out, "--limit", 8, *rest)["genes"] == 8
    gene = int(pd.read_parquet(out / "scores.parquet")["gene"].iloc[0])
    found = invoke(oracle_run, shards, "--out", out, "--genes", f"train-000000:{gene}", "--candidates", 20, *rest)
    assert (found["genes"], found["pairs"]) == (1, min(20, gene) + min(20, DESIGN.bins - 1 - gene))
    elements = pd.DataFrame(
        {"graph": ["train-000000"] * 2, "gene": [gene] * 2, "candidate": [5, 9], "is_linked": [0, 1]}
    )
    elements.to_csv(tmp_path / "elements.csv", index=False)
    found = invoke(oracle_run, shards, "--out", out, "--candidates", tmp_path / "elements.csv", *rest)
    assert (found["pairs"], found["linked"]) == (2, 1)


def test_score_shards__abc_is_a_share_of_all_bins_whatever_the_candidates(shards):
    abc = ScoreOptions(methods=("abc",))
    every = score_shards(Oracle(), shards, options=abc, split="test")
    linked = every[["graph", "gene", "candidate"]]
    np.testing.assert_allclose(every.groupby(["graph", "gene"])["abc"].sum(), 1)
    some = pd.concat([linked.iloc[3:9], linked.iloc[[7]]])  # two elements may lie in one bin
    found = score_shards(Oracle(), shards, options=replace(abc, candidates=some), split="test")
    assert found["abc"].tolist() == found.merge(every, on=list(linked))["abc_y"].tolist()
    power = replace(abc, contact="power-law")
    near = score_shards(Oracle(), shards, options=replace(power, candidates=30), split="test", limit=1)
    alone = near.iloc[[4]][["graph", "gene", "candidate"]]
    found = score_shards(Oracle(), shards, options=replace(power, candidates=alone), split="test")
    assert found["abc"].tolist() == near["abc"].iloc[[4]].tolist()
    assert 0 < near["abc"].sum() < 1  # bins beyond 30 count, too


def test_attribute_command__errors_name_what_is_wrong(oracle_run, shards, tmp_path):
    out = tmp_path / "out"
    for args, message in (
        (["--method", "saliency"], "method is 'saliency', want one of"),
        (["--genes", "chr9:3"], "gene 'chr9:3' is not there or has no candidate"),
        (["--split", "tset"], "no graph is in split 'tset'"),
        (["--candidates", "near"], "near: no such file"),
        (["--method", ""], "no method is given, want some of gradient-x-input, integrated-gradients, shap, deletion"),
        (
            ["--method", "deletion,abc", "--contributions"],
            "contributions of bins are wanted, but methods are deletion, abc",
        ),
        (["--method", "abc", "--contact", "oe"], "no contact 'oe'; it has sign, edge, power-law"),
    ):
        error = invoke(oracle_run, shards, "--out", out, *args, ok=False)
        assert isinstance(error, InputError)
        assert message in str(error)
        assert not out.exists()
    invoke(oracle_run, shards, "--out", out, "--limit", 1)
    assert "exists; choose another name" in str(invoke(oracle_run, shards, "--out", out, ok=False))


class Fine(Expression):
    """Reads a track in finer bins, of the next bin and its own."""

    def inputs(self, batch):
        return {"dnase": batch.dnase}

    def forward(self, batch):
        return batch.dnase[:, 7] + torch.roll(batch.dnase[:, 2], -1)


@pytest.fixture
def fine_shards(tmp_path):
    """One window of 20 bins with a track in 50 finer ones each."""
    rng = np.random.default_rng(0)
    nodes = {"dnase": rng.random((20, 50)).astype(np.float32) + 1, "gene_mask": np.arange(20) == 10}
    empty = np.zeros(0, dtype=np.int32)
    labels = {"chrom": "chr1", "start": 0, "end": 100_000}
    folder = tmp_path / "shards"
    folder.mkdir()
    rows = write_shard(folder / "shard-00000000.zarr", [Graph("w", 20, empty, empty, nodes, labels=labels)])
    finish_shards(folder, rows, {"resolution": 5_000})
    return folder, nodes


def test_score_shards__finer_bins_of_a_track_by_place(fine_shards):
    folder, nodes = fine_shards
    # the gene in bin 10 is read from fine bins 9*50+7, 10*50+7, 11*50+7 and 10*50+2, 11*50+2, 12*50+2
    middle = np.array([600, 602, 460, 498, 660])
    table = pd.DataFrame({
        "gene": "G", "chrom": "chr1", "tss": 52_000, "start": middle * 100, "end": middle * 100 + 100,
    })  # fmt: skip
    options = ScoreOptions(methods=("gradient-x-input",), candidates=table)
    found = score_shards(Fine(), folder, options=options)
    track = nodes["dnase"].reshape(-1)
    used = [457, 507, 557, 502, 552, 602]
    want = [max([track[u] for u in used if abs(u - m) <= 40], default=0) / max(track[used]) for m in middle]
    assert min(want) == 0 < want[3]
    np.testing.assert_allclose(found["gradient_x_input"], want, rtol=1e-6)
    narrow = score_shards(
        Fine(), folder, options=ScoreOptions(methods=("gradient-x-input",), candidates=table, reach=1)
    )
    assert (narrow["gradient_x_input"] > 0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(("reach", "whole_bins"), [(None, 1), (0, 0), (40, 1), (51, 2)])
def test_score_shards__deletion_takes_the_whole_bins_that_the_finer_ones_begin(fine_shards, reach, whole_bins):
    folder, nodes = fine_shards
    table = pd.DataFrame({"graph": ["w"], "gene": [10], "candidate": [13]})
    found = score_shards(Fine(), folder, options=ScoreOptions(methods=("deletion",), candidates=table, reach=reach))
    track = nodes["dnase"]  # the gene, bins 9 to 11, reads bins 10 to 12 at 2 and 9 to 11 at 7
    lost = [0, track[12, 2], track[12, 2] + track[11, 2] + track[11, 7]][whole_bins]
    assert found["deletion_signed"].tolist() == pytest.approx([lost], rel=1e-5)


def test_score_shards__elements_by_names_that_are_numbers_and_chromosomes_without_chr(fine_shards, tmp_path):
    text = "gene,chrom,tss,start,end\n7157,1,52000,60000,60100\n7157,2,52000,60000,60100\n672,1,51000,60000,60100\n"
    (tmp_path / "elements.csv").write_text(text)
    for elements in (read_candidates(str(tmp_path / "elements.csv")), pd.read_csv(tmp_path / "elements.csv")):
        options = ScoreOptions(methods=("gradient-x-input",), candidates=elements)
        found = score_shards(Fine(), fine_shards[0], options=options, genes=["7157"])
        assert found[["gene_name", "gene", "candidate", "chrom"]].to_numpy().tolist() == [["7157", 10, 12, "chr1"]]
