"""What the figures of models draw, artist by artist."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EventCollection, LineCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, StepPatch
from scipy.stats import pearsonr, spearmanr
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.report.architecture import Block, blocks
from enhancer_dask.report.contact_arcs import STRONGEST
from enhancer_dask.report.figures import (
    architecture,
    attribution_track,
    contact_arcs,
    expression_track,
    gate_strip,
    gene_locus,
    model_bars,
    new_axes,
    new_figure,
    prediction_scatter,
    prediction_scatters,
    signal_track,
    site_lanes,
    tracks,
    training_curves,
)  # fmt: skip
from enhancer_dask.report.gene_links import around_gene, gates_of, linked_bins
from enhancer_dask.report.locus import MODEL_COLOURS, MOST_STEPS, NEGATIVE, POSITIVE, locus, predictions_of, strided
from enhancer_dask.report.model_bars import ordered_models
from enhancer_dask.report.model_gallery import draw_models
from enhancer_dask.report.prediction_scatter import agreement
from enhancer_dask.report.save import save
from enhancer_dask.report.style import GREY, RASTERISE_ABOVE, SKY, VERMILLION
from enhancer_dask.simulate.chromosomes import chromosome, preset_design

N, RESOLUTION = 300, 5_000


@pytest.fixture(scope="module")
def graphs():
    design = preset_design("silencers", bins=N, genes=6, enhancers=5, silencers=4)
    return [chromosome(design, "test", number) for number in range(2)]


@pytest.fixture
def predictions(graphs):
    """Two chromosomes, predicted by two models: one that is nearly right, one that is not."""
    rng, parts = np.random.default_rng(3), []
    for graph in graphs:
        y = graph.nodes["y"].astype(float)
        part = pd.DataFrame({"graph": graph.name, "node": np.arange(N), "y": y, "loss_mask": True})
        for kind in ("gene", "enhancer", "silencer"):
            part[f"is_{kind}"] = graph.nodes[f"is_{kind}"]
        part["track_accessibility"] = graph.nodes["x"][:, 0]
        part["prediction_two-way"] = y + rng.normal(0, 0.05, N)
        part["prediction_cnn"] = rng.normal(0.2, 0.1, N)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def edges(graphs):
    return pd.concat(
        [pd.DataFrame({"graph": g.name, "source": g.source, "target": g.target, **g.edges}) for g in graphs],
        ignore_index=True,
    )


@pytest.fixture
def gene(edges):
    return int(edges["target"].iloc[0])


@pytest.fixture
def gates(edges):
    rng = np.random.default_rng(4)
    return edges.assign(**{f"gate_{h}": edges["sign"] * rng.uniform(0.1, 1, len(edges)) for h in (1, 2)})


@pytest.fixture
def ax():
    return new_axes()


def in_mb(table):
    start = 2_000_000 + table["node"] * RESOLUTION
    return table.assign(chrom="chr7", start=start, end=start + RESOLUTION)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(owner):
    found = owner.get_legend() if hasattr(owner, "get_legend") else owner.legends[0]
    return [text.get_text() for text in found.get_texts()]


def arcs(ax):
    """Ends of each arc, shape (K, 2), and the collection."""
    (found,) = (c for c in ax.collections if isinstance(c, LineCollection) and c.get_label() == "contacts")
    segments = np.array(found.get_segments())
    return segments[:, [0, -1], 0], found


def drawn_texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


# -- where bins are ----------------------------------------------------------------------------------------------


def test_locus__is_in_mb_where_coordinates_are_those_of_one_chromosome_without_gaps(predictions):
    one = predictions[predictions["graph"] == predictions["graph"][0]]
    place = locus(in_mb(one))
    assert place.label == "chr7 (Mb)"
    np.testing.assert_allclose(place.borders, 2 + np.arange(N + 1) * RESOLUTION / 1e6)
    for spoilt in (
        in_mb(one).drop(index=one.index[7]),  # a gap
        in_mb(one).assign(start=np.nan),
        in_mb(one).assign(chrom=["chr7"] * (N - 1) + ["chr8"]),
        in_mb(one).assign(chrom=None),
    ):
        assert locus(spoilt).label == "bin of test-000000"
    np.testing.assert_array_equal(locus(one).centres, np.arange(N))


def test_locus__places_nodes_of_a_part_and_none_outside(predictions):
    part = predictions[(predictions["graph"] == "test-000001") & predictions["node"].between(100, 149)]
    place = locus(in_mb(part.sample(frac=1, random_state=0)))
    np.testing.assert_allclose(
        place.places(np.array([100, 149, 99, 150, 120])), [2.5025, 2.7475, np.nan, np.nan, 2.6025]
    )


def test_locus__names_what_is_wrong(predictions):
    with pytest.raises(InputError, match="no row is of graph 'x'; graphs are: test-000000, test-000001$"):
        locus(predictions, "x")
    with pytest.raises(InputError, match="column 'node' is missing; columns found: y$"):
        locus(pd.DataFrame({"y": [1.0]}))
    with pytest.raises(InputError, match="node 0 is there twice in graph ''"):
        locus(predictions.drop(columns="graph"))


def test_strided__keeps_the_value_farthest_from_zero_of_each_block():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1_003)
    values[rng.random(1_003) < 0.3], values[20:30] = np.nan, np.nan
    steps, borders = strided(values, np.arange(1_004.0), 10)
    assert len(steps) == len(borders) - 1 == 101
    assert borders[-1] == 1_003
    for i, step in enumerate(steps):
        block = values[10 * i : 10 * i + 10]
        want = np.nan if np.isnan(block).all() else block[np.nanargmax(np.abs(block))]
        np.testing.assert_equal(step, want)


def test_predictions_of__takes_one_or_several():
    assert predictions_of(pd.DataFrame(columns=["prediction", "y"])) == {"prediction": "prediction"}
    assert predictions_of(pd.DataFrame(columns=["prediction_a", "prediction_b_c"])) == {
        "a": "prediction_a", "b_c": "prediction_b_c",
    }  # fmt: skip
    with pytest.raises(InputError, match="prediction table: column 'prediction' is missing; columns found: y"):
        predictions_of(pd.DataFrame(columns=["y"]))


# -- tracks ------------------------------------------------------------------------------------------------------


def steps_of(ax, label=None):
    (found,) = (p for p in ax.patches if isinstance(p, StepPatch) and label in (None, p.get_label()))
    return found.get_data()


def test_signal_track__steps_are_the_bins_and_gaps_where_nothing_is_known(predictions, ax):
    predictions.loc[5:8, "track_accessibility"] = np.nan
    signal_track(in_mb(predictions), ax, column="track_accessibility", name="ATAC", graph="test-000000")
    drawn = steps_of(ax)
    np.testing.assert_array_equal(drawn.values, predictions["track_accessibility"][:N])
    np.testing.assert_allclose(drawn.edges[[0, -1]], [2, 3.5])
    assert ax.get_ylabel() == "ATAC"
    assert ax.get_xlabel() == "chr7 (Mb)"
    assert ax.get_ylim()[0] == 0


def test_expression_track__truth_is_filled_and_predictions_are_lines_over_it(predictions, ax):
    expression_track(predictions, ax, graph="test-000001")
    mine = predictions[predictions["graph"] == "test-000001"]
    np.testing.assert_array_equal(steps_of(ax, "true").values, mine["y"])
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["two-way", "cnn"]
    for i, (name, line) in enumerate(lines.items()):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(N))
        np.testing.assert_array_equal(line.get_ydata(), mine[f"prediction_{name}"])
        assert line.get_color() == MODEL_COLOURS[i]
    assert legend(ax) == ["true", "two-way", "cnn"]


def test_expression_track__draws_those_asked_for_also_without_truth(predictions, ax):
    expression_track(predictions.drop(columns="y"), ax, models=["cnn"])
    assert [line.get_label() for line in ax.get_lines()] == ["predicted by cnn"]
    assert not ax.patches
    with pytest.raises(InputError, match="no prediction of 'x'; models are: two-way, cnn"):
        expression_track(predictions, ax, models=["x"])


def test_expression_track__draws_large_chromosomes_in_few_steps_and_says_so(ax):
    n = 30_000
    y = np.random.default_rng(0).gamma(0.1, size=n)
    expression_track(pd.DataFrame({"node": np.arange(n), "y": y, "prediction": y}), ax)
    drawn = steps_of(ax, "true")
    assert len(drawn.values) == MOST_STEPS // 2
    np.testing.assert_array_equal(drawn.values, y.reshape(-1, 50).max(axis=1))
    assert ax.get_xlabel() == "bin; a step is the extreme of 50 bins"


def test_site_lanes__a_tick_at_each_site_of_the_graph(predictions, graphs, ax):
    site_lanes(predictions, ax, graph="test-000001")
    lanes = {c.get_label(): c for c in ax.collections if isinstance(c, EventCollection)}
    assert list(lanes) == ["genes", "enhancers", "silencers"]
    for name, lane in lanes.items():
        assert lane.get_positions() == list(np.flatnonzero(graphs[1].nodes[f"is_{name[:-1]}"]))
    assert [label.get_text() for label in ax.get_yticklabels()] == list(lanes)
    assert to_rgb(lanes["enhancers"].get_color()) == to_rgb(POSITIVE)
    other = new_axes()
    site_lanes(predictions.drop(columns=["is_gene", "is_enhancer", "is_silencer"]), other)
    assert texts(other) == ["no gene, enhancer or silencer is marked"]


def test_site_lanes__many_become_an_image_and_unknown_is_no_site(ax):
    site_lanes(pd.DataFrame({"node": np.arange(1_400), "is_gene": [None] * 100 + [True] * 1_300}), ax)
    (lane,) = ax.collections
    assert len(lane.get_positions()) == 1_300
    assert lane.get_rasterized()


def test_tracks__rows_share_one_axis_and_tell_r_of_the_bins_that_count(predictions, edges):
    predictions.loc[:39, "loss_mask"] = False
    figure = tracks(in_mb(predictions), new_figure(), edges=edges)
    signal, right, wrong, sites, contacts = figure.axes
    mine = predictions[40:N]
    for ax, name in ((right, "two-way"), (wrong, "cnn")):
        r = np.corrcoef(mine["y"], mine[f"prediction_{name}"])[0, 1]
        assert ax.get_ylabel() == f"{name}\nr = " + f"{r:#.3g}".replace("-", "−")
    assert right.get_ylim()[1] == wrong.get_ylim()[1]
    assert signal.get_ylabel() == "accessibility"
    assert {ax.get_xlim() for ax in figure.axes} == {(2.0, 3.5)}
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "", "", "chr7 (Mb)"]
    assert len(sites.collections) == 3
    assert len(arcs(contacts)[0]) == sum(edges["graph"] == "test-000000")
    assert legend(right) == ["true", "predicted"]


def test_tracks__overlays_all_models_in_one_row(predictions):
    figure = tracks(predictions, new_figure(), layout="overlaid")
    assert [ax.get_ylabel() for ax in figure.axes] == ["accessibility", "expression", ""]
    assert len(figure.axes[1].get_lines()) == 2
    with pytest.raises(InputError, match="layout 'x' is unknown; choose from overlaid, rows"):
        tracks(predictions, new_figure(), layout="x")


def test_tracks__say_that_there_is_nothing(predictions, ax):
    assert drawn_texts(tracks(predictions.head(0), new_figure())) == ["no bin to draw"]
    assert texts(expression_track(predictions.head(0), ax)) == ["no bin of expression"]
    assert texts(signal_track(predictions.head(0), new_axes(), column="y")) == ["no bin of y"]
    figure = tracks(predictions.assign(**{"y": np.nan, "prediction_cnn": np.nan}), new_figure())
    assert figure.axes[2].get_ylabel() == "cnn\n"  # no r where nothing is known


# -- contacts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bins():
    return pd.DataFrame({"node": np.arange(2_000)})


@pytest.fixture
def many():
    """20,000 symmetric contacts with weights."""
    rng = np.random.default_rng(5)
    pairs = np.unique(np.sort(rng.integers(0, 2_000, (20_000, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    weight = rng.gamma(1, 1, len(pairs))
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return pd.DataFrame({"source": both[:, 0], "target": both[:, 1], "oe": np.tile(weight, 2)})


def test_contact_arcs__each_contact_hangs_once_between_its_bins(ax):
    edges = pd.DataFrame({"source": [3, 10, 5, 7, 7], "target": [10, 3, 6, 9, 7], "gate": [0.1, 0.6, -0.4, np.nan, 1]})
    contact_arcs(pd.DataFrame({"node": np.arange(12)}), edges, ax)
    ends, drawn = arcs(ax)
    np.testing.assert_allclose(ends, [[5, 6], [3, 10]])  # without the unknown one and the loop; the strongest last
    curves = np.array(drawn.get_segments())
    np.testing.assert_allclose(curves[:, [0, -1], 1], 0, atol=1e-12)
    np.testing.assert_allclose(curves[:, :, 1].min(axis=1), [-np.sqrt(1 / 7), -1], rtol=0.01)
    colours = drawn.get_colors()
    np.testing.assert_allclose(colours[:, :3], [to_rgb(NEGATIVE), to_rgb(POSITIVE)])
    assert drawn.get_linewidths()[1] > drawn.get_linewidths()[0]
    assert legend(ax) == ["positive", "negative"]
    assert ax.get_ylabel() == "2 contacts"
    assert ax.get_ylim() == (-1.04, 0)


def test_contact_arcs__of_many_the_strongest_and_it_says_of_how_many(bins, many, ax):
    contact_arcs(bins, many, ax, strongest=500)
    ends, drawn = arcs(ax)
    n = len(many) // 2
    best = many.head(n).nlargest(500, "oe").sort_values("oe")
    np.testing.assert_allclose(ends, best[["source", "target"]])
    assert ax.get_ylabel() == f"500 contacts\nof {n:,},\nof greatest oe"
    assert not drawn.get_rasterized()
    assert ax.get_legend() is None  # no signs


def test_contact_arcs__thousands_are_an_image(bins, many):
    for strongest, image in ((RASTERISE_ABOVE, False), (RASTERISE_ABOVE + 1, True)):
        ends, drawn = arcs(contact_arcs(bins, many, new_axes(), strongest=strongest))
        assert len(ends) == strongest
        assert drawn.get_rasterized() == image


def test_contact_arcs__equal_ones_are_chosen_at_random_and_the_same_every_time(bins, many):
    first, second = (contact_arcs(bins, many.drop(columns="oe"), new_axes()) for _ in range(2))
    ends, _ = arcs(first)
    assert len(ends) == STRONGEST
    np.testing.assert_array_equal(ends, arcs(second)[0])
    assert ends[:, 1].max() > 1_900  # not those of the first bins alone
    assert first.get_ylabel().endswith("\nchosen at random")


def test_contact_arcs__counts_those_that_lead_out_of_view(bins, many, ax):
    contact_arcs(bins[500:700], many, ax, strongest=10**6)
    inside = many.head(len(many) // 2)[["source", "target"]].apply(lambda end: end.between(500, 699)).sum(axis=1)
    assert ax.get_ylabel() == f"{(inside == 2).sum():,} contacts\n({(inside == 1).sum():,} leave\nthe view)"
    assert len(arcs(ax)[0]) == (inside == 2).sum()


def test_contact_arcs__brings_out_one_gene_even_where_it_is_weak(bins, many, ax):
    weak = pd.DataFrame({"source": [1, 2], "target": [1_999, 1_999], "oe": 1e-6})
    others = many[~many.isin([1_999]).any(axis=1)]
    contact_arcs(bins, pd.concat([others, weak]), ax, gene=1_999, strongest=50)
    ends, drawn = arcs(ax)
    np.testing.assert_allclose(drawn.get_colors()[:, :3], [to_rgb(GREY)] * 48 + [to_rgb(POSITIVE)] * 2)
    assert set(ends[-2:, 1]) == {1_999}


def test_contact_arcs__says_that_there_is_nothing_or_what_is_missing(bins, many, ax):
    contact_arcs(bins, many.head(0), ax)
    assert texts(ax) == ["no contact in view (0 lead out of it)"]
    with pytest.raises(InputError, match="edges: column 'x' is missing; columns found: source, target, oe"):
        contact_arcs(bins, many, ax, weight="x")
    with pytest.raises(InputError, match="strongest is 0, want at least 1"):
        contact_arcs(bins, many, ax, strongest=0)


# -- training curves ---------------------------------------------------------------------------------------------


@pytest.fixture
def metrics():
    """As a logger writes them: training and validation in lines of their own, validation every second epoch."""
    epoch = np.arange(20)
    train = pd.DataFrame({"epoch": epoch, "step": epoch * 5, "train_loss": 2 * 0.8**epoch + 0.05})
    val = pd.DataFrame({"epoch": epoch[::2], "step": epoch[::2] * 5, "val_loss": (epoch[::2] - 12) ** 2 / 50 + 0.1})
    return pd.concat([train, val], ignore_index=True).sort_values("epoch", kind="stable")


def curve(ax, label):
    (line,) = (line for line in ax.get_lines() if line.get_label() == label)
    return line


def test_training_curves__draw_both_losses_and_mark_the_best_epoch(metrics, ax):
    training_curves({"cnn": metrics, "gat": metrics.assign(val_loss=metrics["val_loss"] + 1)}, ax)
    val = metrics.dropna(subset="val_loss")
    np.testing.assert_array_equal(curve(ax, "cnn val_loss").get_xdata(), val["epoch"])
    np.testing.assert_array_equal(curve(ax, "gat val_loss").get_ydata(), val["val_loss"] + 1)
    np.testing.assert_array_equal(curve(ax, "cnn train_loss").get_ydata(), metrics["train_loss"].dropna())
    assert curve(ax, "_best of cnn").get_xydata().tolist() == [[12, 0.1]]
    assert curve(ax, "cnn val_loss").get_color() == curve(ax, "cnn train_loss").get_color() == MODEL_COLOURS[0]
    assert curve(ax, "cnn train_loss").get_linestyle() == "--"
    assert legend(ax) == ["cnn: best 0.100 at epoch 12", "gat: best 1.10 at epoch 12", "training", "validation"]


def test_training_curves__are_logarithmic_where_losses_span_much(metrics, ax):
    training_curves({"a": metrics}, ax)
    assert ax.get_yscale() == "log"
    flat = metrics.assign(train_loss=1.0, val_loss=metrics["val_loss"] + 2)
    assert training_curves({"a": flat}, new_axes()).get_yscale() == "linear"
    assert training_curves({"a": flat}, new_axes(), floor=0.01).get_yscale() == "log"
    assert training_curves({"a": metrics}, new_axes(), log=False).get_yscale() == "linear"
    negative = metrics.assign(train_loss=metrics["train_loss"] - 3)  # a Poisson loss
    assert training_curves({"a": negative}, new_axes(), log=True).get_yscale() == "linear"


def test_training_curves__show_the_irreducible_error(metrics, ax):
    training_curves({"a": metrics}, ax, floor=0.031)
    np.testing.assert_array_equal(curve(ax, "irreducible error").get_ydata(), 0.031)
    assert legend(ax)[-1] == "irreducible error"


def test_training_curves__one_epoch_is_a_point_and_no_validation_is_marked_by_training(ax):
    training_curves({"ridge": pd.DataFrame({"epoch": [0], "train_loss": [0.5]})}, ax)
    assert curve(ax, "ridge train_loss").get_marker() == "."
    assert legend(ax) == ["ridge: best 0.500 at epoch 0", "training"]


def test_training_curves__large_losses_and_a_single_epoch(ax):
    one = pd.DataFrame({"epoch": [1], "train_loss": [4.4e12], "val_loss": [4.6e12]})
    drawn = training_curves({"ridge": one}, ax)
    drawn.figure.draw_without_rendering()
    assert [label.get_text() for label in drawn.get_xticklabels() if label.get_text()] == ["0", "1", "2"]
    assert not drawn.yaxis.get_offset_text().get_text()
    assert "best 4.60e12 at epoch 1" in drawn.get_legend().get_texts()[0].get_text()


def test_training_curves__after_six_runs_other_markers_tell_them_apart(metrics, ax):
    training_curves({f"run {i}": metrics for i in range(8)}, ax)
    looks = [
        (curve(ax, f"_best of run {i}").get_color(), curve(ax, f"_best of run {i}").get_marker()) for i in range(8)
    ]
    assert len(set(looks)) == 8


def test_training_curves__say_that_there_is_nothing_or_what_is_missing(metrics, ax):
    training_curves({"a": metrics.assign(train_loss=np.nan, val_loss=np.nan)}, ax)
    assert texts(ax) == ["no run has a loss yet (1 runs)"]
    training_curves({"a": metrics, "b": metrics.head(0)}, new_axes())
    with pytest.raises(InputError, match="metrics of a: column 'epoch' is missing"):
        training_curves({"a": metrics.drop(columns="epoch")}, ax)
    with pytest.raises(InputError, match="metrics of a: column 'val_loss' is missing; columns found: epoch, step"):
        training_curves({"a": metrics[["epoch", "step"]]}, ax)


# -- scatter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log2", [False, True])
def test_agreement__is_that_of_scipy_over_bins_that_count(predictions, log2):
    predictions.loc[3, "y"] = predictions.loc[4, "prediction_cnn"] = np.nan
    predictions.loc[5:30, "loss_mask"] = False
    found = agreement(predictions, "prediction_cnn", log2=log2)
    kept = predictions.drop(range(3, 31))
    x, y = kept["y"].to_numpy(), kept["prediction_cnn"].to_numpy()
    x, y = (np.log2(np.clip(v, 0, None) + 1) for v in (x, y)) if log2 else (x, y)
    assert found.pearson == pytest.approx(pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(spearmanr(x, y).statistic)
    assert found.mse == pytest.approx(np.mean((x - y) ** 2))
    assert found.n_without == 2
    np.testing.assert_array_equal(found.gene, kept["is_gene"])


def test_prediction_scatter__draws_bins_and_genes_on_equal_axes(predictions, ax):
    prediction_scatter(predictions, ax, column="prediction_two-way")
    clouds = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}
    genes = predictions[predictions["is_gene"]]
    assert list(clouds) == ["other bins", "bins of genes"]
    assert len(clouds["bins of genes"]) == len(genes)
    np.testing.assert_allclose(np.sort(clouds["bins of genes"][:, 1]), np.sort(genes["prediction_two-way"]))
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_box_aspect() == 1
    found = agreement(predictions, "prediction_two-way")
    words = f"r {found.pearson:#.3g}, ρ {found.spearman:#.3g}, MSE {found.mse:#.3g}"
    assert ax.get_title() == f"two-way\n{words}\n{2 * N} bins"
    assert ax.get_xlabel() == "true expression"


def test_prediction_scatter__thins_what_hides_each_other_but_not_the_statistics(ax):
    rng = np.random.default_rng(0)
    y = rng.normal(size=300_000)
    table = pd.DataFrame({"y": y, "prediction": y + rng.normal(0, 0.01, len(y))})
    prediction_scatter(table, ax)
    (cloud,) = (c for c in ax.collections if c.get_label() == "other bins")
    assert RASTERISE_ABOVE < len(cloud.get_offsets()) < 20_000
    assert cloud.get_rasterized()
    assert "300,000 bins" in ax.get_title()
    assert ax.get_title().split("MSE ")[1].startswith(("0.000099", "0.000100"))


def test_prediction_scatters__panels_of_all_models_share_limits(predictions):
    predictions["prediction_ridge"] = predictions["y"] * 3
    predictions["prediction_empty"] = np.nan
    figure = prediction_scatters(predictions, new_figure(), log2=True)
    drawn = [ax for ax in figure.axes if ax.collections]
    assert [ax.get_title().split("\n")[0] for ax in drawn] == ["two-way", "cnn", "ridge"]
    assert len({ax.get_xlim() for ax in drawn} | {ax.get_ylim() for ax in drawn}) == 1
    top = max(np.asarray(c.get_offsets()).max() for ax in drawn for c in ax.collections)
    assert top < drawn[0].get_xlim()[1]
    assert drawn[0].get_ylabel() == "predicted expression (log2(x + 1))"
    assert drawn[1].get_ylabel() == ""
    assert drawn_texts(figure) == ["empty: no bin has both values (600 bins)"]
    assert legend(figure) == ["other bins", "bins of genes", "y = x"]


def test_prediction_scatter__constant_predictions_have_no_correlation(predictions, ax):
    prediction_scatter(predictions.assign(prediction=1.0), ax)
    assert "r nan, ρ nan, MSE" in ax.get_title()
    with pytest.raises(InputError, match="prediction table: column 'y' is missing"):
        prediction_scatter(predictions.drop(columns="y"), ax, column="prediction_cnn")
    with pytest.raises(InputError, match="no prediction of 'x'"):
        prediction_scatters(predictions, new_figure(), models=["x"])


# -- bars --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    """As ``reproduce bell`` writes it, three seeds."""
    means = {
        "cnn": (60_000, 0.7, 0.47, 1.105),
        "ridge": (133, 0.031, 0.154, np.nan),
        "two-way": (2_017, 0.032, 0.08, np.nan),
    }
    rows = [
        {"dataset": d, "model": model, "seed": seed, "parameters": n, "test_mse": value * (1 + seed / 50),
         "roi_mse": value / 3, "floor_mse": floor, "train_s": 3.0, "published_mse": published}
        for model, (n, one, two, published) in means.items()
        for d, value, floor in (("enhancers", one, 0.03), ("silencers", two, 0.021))
        for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ordered_models__by_relative_error_also_where_a_data_set_is_missing(table):
    assert ordered_models(table, "test_mse") == ["two-way", "ridge", "cnn"]
    assert (
        ordered_models(table[(table["dataset"] == "enhancers") | (table["model"] != "ridge")], "test_mse")[-1] == "cnn"
    )


def test_model_bars__bars_are_means_and_points_are_seeds(table):
    figure = model_bars(table, new_figure())
    models = ["two-way", "ridge", "cnn"]
    assert [ax.get_title() for ax in figure.axes] == ["enhancers", "silencers"]
    for ax in figure.axes:
        mine = table[table["dataset"] == ax.get_title()]
        means = mine.groupby("model")["test_mse"].mean()[models]
        np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in ax.patches], means)
        seeds = [np.asarray(c.get_offsets()) for c in ax.collections if c.get_sizes()[0] == 9]
        for place, (model, cloud) in enumerate(zip(models, seeds, strict=True)):
            np.testing.assert_allclose(cloud[:, 0], mine.loc[mine["model"] == model, "test_mse"])
            assert (abs(cloud[:, 1] - place) < 0.5).all()
        assert texts(ax)[:3] == [f"{mean:#.3g}" for mean in means]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["two-way (2,017)", "ridge (133)", "cnn (60,000)"]
    top, bottom = figure.axes[0].get_ylim()[::-1]
    assert top < 0 < 2 < bottom  # the first stands above


def test_model_bars__show_floor_and_published_values(table):
    figure = model_bars(table, new_figure())
    one, two = figure.axes
    assert [line.get_xdata()[0] for ax in (one, two) for line in ax.get_lines()] == pytest.approx([0.03, 0.021])
    (published,) = (c for c in one.collections if c.get_label() == "published")
    assert published.get_offsets().tolist() == [[1.105, 2]]
    assert one.get_xlim()[1] > 1.105
    assert legend(figure) == ["mean over seeds", "one seed", "irreducible error", "published"]
    note = figure.legends[0].get_title()
    assert note.get_text().replace("\n", " ").startswith("A plain ridge regression on linked windows solves")
    figure.canvas.draw()
    assert figure.bbox.containsx(note.get_window_extent().x0)
    assert figure.bbox.containsx(note.get_window_extent().x1)
    other = model_bars(table[table["dataset"] == "silencers"], new_figure())
    assert other.legends[0].get_title().get_text() == ""
    roi = model_bars(table, new_figure(), metric="roi_mse")
    assert not any(ax.get_lines() for ax in roi.axes)  # the floor is that of all bins
    assert legend(roi) == ["mean over seeds", "one seed"]


def test_model_bars__are_logarithmic_where_values_span_much(table):
    assert [ax.get_xscale() for ax in model_bars(table, new_figure()).axes] == ["log", "log"]
    near = table.assign(test_mse=table["test_mse"].clip(lower=0.4), floor_mse=np.nan, published_mse=np.nan)
    axes = model_bars(near, new_figure()).axes
    assert [ax.get_xscale() for ax in axes] == ["linear", "linear"]
    assert axes[0].get_xlim()[0] == 0


def test_model_bars__colour_the_best_or_the_one_asked_for(table):
    for highlight, want in ((None, [VERMILLION, SKY, SKY]), ("cnn", [SKY, SKY, VERMILLION])):
        ax = model_bars(table, new_figure(), highlight=highlight).axes[0]
        assert [to_rgb(bar.get_facecolor()) for bar in ax.patches] == [to_rgb(colour) for colour in want]


def test_model_bars__say_what_was_not_run_and_what_is_missing(table):
    some = table[(table["dataset"] == "enhancers") | (table["model"] != "ridge")]
    ax = model_bars(some, new_figure()).axes[1]
    assert [t.strip() for t in texts(ax) if "run" in t] == ["not run"]
    assert len(ax.patches) == 2
    empty = model_bars(table.assign(test_mse=np.nan), new_figure())
    assert drawn_texts(empty) == ["no model has a value of test_mse"]
    with pytest.raises(InputError, match="table of models: column 'dataset' is missing; columns found: model,"):
        model_bars(table.drop(columns="dataset"), new_figure())


# -- links of a gene ---------------------------------------------------------------------------------------------


def test_gates_of__are_the_edges_of_the_gene_the_greatest_first(gates, gene):
    one = gates[gates["graph"] == "test-000000"]
    mine = one[one["target"] == gene].sort_values("source")
    found = gates_of(one, gene)
    np.testing.assert_array_equal(found.source, mine["source"])
    np.testing.assert_array_equal(found.weight, mine[["gate_1", "gate_2"]].T)
    assert found.heads == ["1", "2"]
    two = gates_of(one, gene, most=2)
    size = mine[["gate_1", "gate_2"]].abs().mean(axis=1)
    assert set(two.source) == set(mine.loc[size.nlargest(2).index, "source"])
    assert (len(two.source), two.n_all) == (2, len(mine))
    with pytest.raises(InputError, match="gates: column 'gate' is missing"):
        gates_of(one[["source", "target"]], gene)


def test_gate_strip__cells_are_weights_tied_to_their_bins(predictions, gates, gene, ax):
    gate_strip(predictions, gates, ax, gene=gene)
    mine = gates[(gates["graph"] == "test-000000") & (gates["target"] == gene)].sort_values("source")
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array(), mine[["gate_1", "gate_2"]].T)
    top = mine[["gate_1", "gate_2"]].abs().max().max()
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-top, top)  # signs diverge from 0
    (ties,) = (c for c in ax.collections if c.get_label() == "linked bins")
    np.testing.assert_array_equal([line[0, 0] for line in ties.get_segments()], mine["source"])
    ends = np.array([line[-1, 0] for line in ties.get_segments()])
    np.testing.assert_allclose(np.diff(ends), np.ptp(ax.get_xlim()) / len(mine))
    (triangle,) = (line for line in ax.get_lines() if line.get_label() == "gene")
    assert triangle.get_xdata()[0] == gene
    assert [label.get_text() for label in ax.get_yticklabels()] == ["head 1", "head 2"]
    assert [inset.get_ylabel() for inset in ax.child_axes] == ["gate"]
    renamed = gates.rename(columns={"gate_1": "gate_layer 1", "gate_2": "gate_layer 2"})
    gate_strip(predictions, renamed, other := new_axes(), gene=gene)
    assert [label.get_text() for label in other.get_yticklabels()] == ["layer 1", "layer 2"]
    assert ax.get_ylabel() == f"{len(mine)}\nlinked bins"


def test_gate_strip__weights_of_one_sign_rise_from_zero_and_unknown_ones_are_left_out(predictions, gates, gene, ax):
    positive = gates.drop(columns=["gate_1", "gate_2"]).assign(gate=np.linspace(0.1, 1, len(gates)))
    positive.loc[positive.index[positive["target"] == gene][0], "gate"] = np.nan
    gate_strip(predictions, positive, ax, gene=gene, most=3)
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    assert mesh.norm.vmin == 0
    assert not np.ma.is_masked(mesh.get_array())  # the unknown one is the least
    assert ax.get_ylabel() == "3 of 5\nlinked bins"
    gate_strip(predictions, positive, other := new_axes(), gene=0)
    assert texts(other) == ["no bin in view is linked to the gene in bin 0"]


@pytest.fixture
def attributions(gene):
    scores = np.random.default_rng(6).normal(size=N)
    return pd.DataFrame({"graph": "test-000000", "gene": gene, "node": np.arange(N), "score": scores})


def test_attribution_track__parts_the_signs_and_marks_linked_bins(predictions, edges, attributions, gene, ax):
    attributions = pd.concat([attributions.drop(index=[4]), attributions.assign(gene=gene + 1)])
    attribution_track(predictions, attributions, ax, gene=gene, edges=edges)
    scores = attributions["score"].iloc[: N - 1].reindex(range(N)).to_numpy()
    for label, part in (("positive", np.maximum(scores, 0)), ("negative", np.minimum(scores, 0))):
        np.testing.assert_array_equal(steps_of(ax, label).values, part)
    marks = {line.get_label(): line.get_xdata() for line in ax.get_lines()}
    mine = edges[(edges["graph"] == "test-000000") & (edges["target"] == gene)]
    np.testing.assert_array_equal(np.sort(marks["linked bins"]), np.sort(mine["source"]))
    assert marks["gene"][0] == gene


def test_attribution_track__says_that_there_is_nothing_or_what_is_wrong(predictions, attributions, gene, ax):
    attribution_track(predictions, attributions, ax, gene=gene + 5)
    assert texts(ax) == [f"no score for the gene in bin {gene + 5}"]
    with pytest.raises(InputError, match="attributions: column 'shap' is missing"):
        attribution_track(predictions, attributions, ax, gene=gene, column="shap")
    twice = pd.concat([attributions, attributions]).drop(columns="gene")
    with pytest.raises(InputError, match="attributions: node 0 has two scores; name their genes in a column"):
        attribution_track(predictions, twice, ax, gene=gene)


def test_gene_locus__a_row_for_each_signal_method_and_the_gates(predictions, edges, gates, attributions, gene):
    attributions = attributions.rename(columns={"score": "gradient_x_input"}).assign(shap=0.5)
    figure = gene_locus(
        in_mb(predictions), new_figure(), gene=gene, gates=gates, attributions=attributions, edges=edges
    )
    assert [ax.get_ylabel().split("\n")[-1] for ax in figure.axes] == [
        "accessibility", "gradient x input", "shap", "linked bins",
    ]  # fmt: skip
    assert {ax.get_xlim() for ax in figure.axes} == {(2.0, 3.5)}
    assert figure.axes[-1].get_xlabel() == "chr7 (Mb)"
    assert legend(figure.axes[0]) == [f"gene at {2 + (gene + 0.5) * 0.005:,.3f} Mb", "linked bin"]
    (lines,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    at = [line[0, 0] for line in lines.get_segments()]
    np.testing.assert_allclose(at, 2 + (linked_bins(gates[gates["graph"] == "test-000000"], gene) + 0.5) * 0.005)
    with pytest.raises(InputError, match="shows gates or attributions"):
        gene_locus(predictions, new_figure(), gene=gene)
    with pytest.raises(InputError, match="attributions: column 'score' is missing"):
        gene_locus(predictions, new_figure(), gene=gene, attributions=attributions[["graph", "gene", "node"]])
    assert drawn_texts(gene_locus(predictions.head(0), new_figure(), gene=1, gates=gates)) == ["no bin to draw"]


def test_around_gene__holds_all_linked_bins_with_a_margin(predictions, edges):
    links = pd.DataFrame({"source": [150, 190, 7], "target": [160, 160, 8]})
    part = around_gene(predictions, links, 160, graph="test-000001")
    assert part["graph"].unique().tolist() == ["test-000001"]
    assert part["node"].tolist() == list(range(145, 196))


# -- architecture ------------------------------------------------------------------------------------------------

CNN = [
    ("conv", (64, N), 256),
    *[("norm", (64, N), 0), ("conv", (64, N), 100), ("ReLU", (64, N), 0)] * 5,
    ("head", (1, N), 65),
]


def test_blocks__repeats_are_one_block():
    assert blocks(CNN) == [
        Block(("conv",), (64, N), 256), Block(("norm", "conv", "ReLU"), (64, N), 500, 5), Block(("head",), (1, N), 65),
    ]  # fmt: skip
    assert [b.times for b in blocks([("pool", (100,), 0), ("pool", (50,), 0)])] == [1, 1]  # other shapes
    assert blocks([("a", (1,), 1), ("b", (1,), 1)] * 2) == [Block(("a", "b"), (1,), 4, 2)]
    assert blocks([]) == []


def test_architecture__a_box_for_each_block_with_shape_and_parameters():
    figure = architecture(CNN, new_figure(), title="epi-cnn")
    (ax,) = figure.axes
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert (len(boxes), len(arrows)) == (3, 2)
    assert np.all(np.diff([box.get_y() for box in boxes]) < 0)  # from above
    assert texts(ax)[:9] == [
        "conv", "64 × 300", "256", "norm · conv · ReLU  × 5", "64 × 300", "500", "head", "1 × 300", "65",
    ]  # fmt: skip
    assert ax.get_title() == "epi-cnn: 821 parameters"
    assert [box.get_label() for box in boxes] == ["convolution", "convolution", "other"]
    assert legend(figure) == ["convolution"]
    assert drawn_texts(architecture([], new_figure(), title="x")) == ["x: no layers"]


def test_architecture__messages_along_edges_count_more_than_what_is_around_them():
    figure = architecture([("GATConv", (5, 8), 9), ("norm", (5, 8), 1), ("ReLU", (5, 8), 0)] * 2, new_figure())
    (box,) = (p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch))
    assert box.get_label() == "messages along edges"


# -- files -------------------------------------------------------------------------------------------------------


def stems(files):
    assert all(file.is_file() and file.stat().st_size > 1_000 for file in files)
    names = sorted(file.stem for file in files if file.suffix == ".png")
    assert names == sorted(file.stem for file in files if file.suffix == ".svg")
    return names


def test_draw_models__draws_what_the_tables_allow(
    predictions, edges, metrics, table, gates, attributions, gene, tmp_path
):
    table.to_csv(tmp_path / "table.csv", index=False)
    drawn = draw_models(
        tmp_path / "out", predictions=predictions, edges=edges, curves={"cnn": metrics}, table=tmp_path / "table.csv",
        gates={"two-way": gates}, attributions=attributions, layers={"cnn": CNN}, floor=0.03,
    )  # fmt: skip
    highest = predictions[predictions["graph"].eq("test-000000") & predictions["node"].isin(edges["target"])]
    best = int(highest[highest["is_gene"]].nlargest(1, "y")["node"].iloc[0])
    assert stems(drawn) == [
        "architecture_cnn", f"attribution_test-000000_{gene}", f"gates_two-way_test-000000_{best}", "models_roi_mse",
        "models_test_mse", "scatter", "tracks_test-000000", "training_curves",
    ]  # fmt: skip
    text = " ".join(re.findall(r">([^<>]+)</text>", (tmp_path / "out" / "models_test_mse.svg").read_text()))
    assert "two-way (2,017)" in text


def test_draw_models__one_graph_one_gene_and_logarithms_for_long_tails(predictions, gates, tmp_path):
    predictions = predictions.drop(columns="prediction_cnn")
    predictions.loc[0, "y"] = 1_000.0
    gene = int(gates.loc[gates["graph"] == "test-000001", "target"].iloc[-1])
    drawn = draw_models(tmp_path, predictions=predictions, gates=gates, graph="test-000001", gene=gene)
    assert stems(drawn) == [f"gates_test-000001_{gene}", "scatter", "scatter_log2", "tracks_test-000001"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to draw; give predictions, training curves, layers or a table of models"),
        ({"edges": True}, "are drawn along a locus; give predictions, too"),
        ({"predictions": True, "graph": "x"}, "no row is of graph 'x'"),
        ({"predictions": True, "gates": True, "gene": 0}, "gates: node 0 has no values; nodes that have: "),
        (
            {"predictions": True, "attributions": pd.DataFrame({"gene": ["A"], "node": [1], "shap": [0.5]})},
            "column 'gene' holds no numbers",
        ),
    ],
)
def test_draw_models__says_what_is_missing_and_writes_nothing(predictions, edges, gates, given, message, tmp_path):
    tables = {"predictions": predictions, "edges": edges, "gates": gates}
    with pytest.raises(InputError, match=re.escape(message)):
        draw_models(tmp_path / "out", **{name: tables[name] if v is True else v for name, v in given.items()})
    assert not (tmp_path / "out").exists()


def test_save__figures_of_models_are_the_same_bytes(predictions, edges, gates, gene, bins, many, tmp_path):
    predictions, gates = (
        predictions.drop(columns=["prediction_cnn", "track_accessibility"]),
        gates[gates["target"] == gene],
    )

    def drawn(folder):
        figures = {
            "tracks": tracks(predictions, new_figure()),
            "arcs": contact_arcs(bins, many, new_axes(), strongest=1_001).figure,
            "gene": gene_locus(predictions, new_figure(), gene=gene, gates=gates),
        }
        return [file for name, figure in figures.items() for file in save(figure, tmp_path / folder / name)]

    first, second = drawn("a"), drawn("b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert "data:image/png" in (tmp_path / "a" / "arcs.svg").read_text()
    assert "data:image/png" not in (tmp_path / "a" / "tracks.svg").read_text()


def test_new_figure__places_are_rounded_and_stay_in_the_layout():
    figure = new_figure()
    axes = figure.subplots(2, 1)
    for k in range(2):
        axes[0].set_ylabel("\n" * k + "label")
        figure.draw_without_rendering()
        places = np.array([ax.get_position(original=True).bounds for ax in axes])
        np.testing.assert_array_equal(places, np.round(places, 6))
        assert all(ax.get_in_layout() for ax in axes)
        assert places[0, 0] > 0.1 * (k + 1)  # room was made for the longer label


# -- command -----------------------------------------------------------------------------------------------------


def test_command__draws_the_bars_of_a_table_alone(table, tmp_path):
    table.drop(columns="roi_mse").to_csv(tmp_path / "table.csv", index=False)
    done = CliRunner().invoke(
        app, ["model-figures", "--table", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    names = sorted(file.split("/")[-1] for file in json.loads(done.stdout)["figures"])
    assert names == ["models_test_mse.png", "models_test_mse.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to draw; give folders of trainings, or --table"),
        (["--table", "t.csv", "--gene", "3"], "need graphs: give --shards"),
        (["--table", "t.csv", "--shards", "s"], "give folders of trainings"),
        (["--table", "t.csv"], "t.csv: no such file"),
    ],
)
def test_command__says_what_is_missing(arguments, message, tmp_path):
    done = CliRunner().invoke(app, ["model-figures", *arguments, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_command__draws_what_trained_models_predict(metrics, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    pytest.importorskip("enhancer_dask.models.predictions")
    from enhancer_dask.models.registry import Expression
    from enhancer_dask.models.runs import SCHEMA, SCHEMA_VERSION, Run
    from enhancer_dask.simulate.chromosomes import simulate_chromosomes

    class Gated(Expression):
        def __init__(self):
            super().__init__()
            self.read_out = torch.nn.Linear(1, 1)

        def forward(self, batch):
            return self.read_out(batch.x)[:, 0]

        def edge_gates(self, batch):
            return batch.edge_attr[:, :1]

    simulate_chromosomes(tmp_path / "shards", preset_design("silencers", bins=300), n_train=1, n_validation=1, n_test=2)
    monkeypatch.setattr(Run, "model", lambda run: Gated().eval())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        told = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "model": "gated", "options": {}}
        (tmp_path / name / "run.json").write_text(json.dumps({**told, "training": {"loss": "mse"}}))
        metrics.to_csv(tmp_path / name / "metrics.csv", index=False)
    runs, out = [str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out")
    done = CliRunner().invoke(app, ["model-figures", *runs, "--shards", str(tmp_path / "shards"), "--out", out])
    assert done.exit_code == 0, done.exception
    names = {file.split("/")[-1] for file in json.loads(done.stdout)["figures"] if file.endswith(".svg")}
    assert {"scatter.svg", "tracks_test-000000.svg", "training_curves.svg", "architecture_one.svg"} <= names
    assert sum(name.startswith(("gates_one_test-000000_", "gates_two_test-000000_")) for name in names) == 2
    text = (tmp_path / "out" / "tracks_test-000000.svg").read_text()
    assert ">enhancers</text>" in text
    assert "irreducible error" in (tmp_path / "out" / "training_curves.svg").read_text()
    assert "Linear" in (tmp_path / "out" / "architecture_one.svg").read_text()


def test_layers_of__each_layer_once_in_the_order_of_the_computation():
    torch = pytest.importorskip("torch")
    from enhancer_dask.cli.model_figures import layers_of

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Linear(4, 1), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
            self.dropout, self.scale = torch.nn.Dropout(), torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.last(self.dropout(self.first(self.first(x)))) * self.scale.sum()

    assert layers_of(Model(), torch.zeros(5, 4)) == [
        ("Linear", (5, 4), 20), ("ReLU", (5, 4), 0), ("Linear", (5, 1), 5), ("Model", (5, 1), 3),
    ]  # fmt: skip


def test_of_models__a_graph_without_edges_has_no_gates():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    from enhancer_dask.cli.model_figures import _of_models
    from enhancer_dask.models.registry import build, n_parameters
    from enhancer_dask.shard_store import Graph

    none = np.zeros(0, np.int32)
    graph = Graph("g", 5, none, none, {"x": np.ones((5, 1), np.float32)})
    model = build("two-way-windows").eval()
    found = _of_models({"ours": SimpleNamespace(model=lambda: model)}, graph)
    assert found["gates"] is None
    layers = found["layers"]["ours"]
    assert [shape for _, shape, _ in layers] == [(5, 11), (0,), (0,), (0,), (5,)]
    assert sum(size for _, _, size in layers) == n_parameters(model)
    assert sum(p.numel() for p in model.parameters()) == model.replicas * n_parameters(model)
    assert torch.is_grad_enabled()


def test_command__draws_training_curves_of_runs_alone(metrics, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("torch_geometric")
    from enhancer_dask.models.runs import SCHEMA, SCHEMA_VERSION

    told = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "model": "gated", "options": {}}
    (tmp_path / "run.json").write_text(json.dumps(told))
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    done = CliRunner().invoke(app, ["model-figures", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.exception
    assert stems(list((tmp_path / "out").iterdir())) == ["training_curves"]
