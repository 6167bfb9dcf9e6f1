"""What figures along a chromosome draw, artist by artist."""

import numpy as np
import pandas as pd
import pytest
from drawn import RESOLUTION, N, arcs, drawn_texts, in_mb, legend, steps_of, texts
from matplotlib.collections import EventCollection
from matplotlib.colors import to_rgb

from enhancer_dask.errors import InputError
from enhancer_dask.report.contact_arcs import STRONGEST
from enhancer_dask.report.figures import (
    contact_arcs,
    expression_track,
    new_axes,
    new_figure,
    signal_track,
    site_lanes,
    tracks,
)
from enhancer_dask.report.locus import MODEL_COLOURS, MOST_STEPS, NEGATIVE, POSITIVE, locus, predictions_of, strided
from enhancer_dask.report.style import GREY, RASTERISE_ABOVE


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
