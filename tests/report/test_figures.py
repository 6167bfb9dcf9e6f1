"""What the figures draw, point by point."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_rgb

from enhancer_dask.errors import InputError
from enhancer_dask.interactions.cells import cells_of_pair
from enhancer_dask.io.cells import STORE_NAMES
from enhancer_dask.links.work import benjamini_hochberg
from enhancer_dask.report.combination import VERDICTS, sum_and_both
from enhancer_dask.report.expression import LEAST_BOX, MOST_POINTS, STATE_COLOURS
from enhancer_dask.report.figures import (
    expression_by_state,
    new_axes,
    new_figure,
    qq,
    sum_against_both,
    sum_box,
    sums_against_both,
    verdicts,
    volcano,
    volcanoes,
)  # fmt: skip
from enhancer_dask.report.save import save
from enhancer_dask.report.style import GREY, house_style, thin

TESTS = ("10", "01", "11", "interaction")


@pytest.fixture
def ax():
    return new_axes()


@pytest.fixture
def links():
    rng = np.random.default_rng(1)
    p = rng.uniform(size=500) ** 2
    return pd.DataFrame({"p": p / 3, "p_saddle": p, "boot_basic_p": np.maximum(p, 0.01), "saddle_status": "trusted"})


@pytest.fixture
def table():
    """120 pairs under our names, with p-values of their own for each test."""
    rng, columns = np.random.default_rng(2), {}
    for test in TESTS:
        columns[f"beta_{test}"] = rng.normal(size=120)
        for kind in ("p", "p_saddle", "boot_p"):
            columns[f"{kind}_{test}"] = rng.uniform(1e-6, 1, 120) ** 3
    columns["verdict"] = rng.choice([name for name in VERDICTS if name], 120)
    return pd.DataFrame(columns)


@pytest.fixture
def published(shared):
    return pd.read_csv(shared / "published" / "nyu_cd14_mono" / "epistasis_results.csv.gz")


def points(ax):
    """Offsets of all clouds of points, shape (n, 2), sorted."""
    found = np.concatenate(
        [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) and c.get_label()]
    )
    return found[np.lexsort(found.T)]


def in_order(x, y):
    found = np.column_stack([x, y])
    return found[np.lexsort(found.T)]


def series(ax):
    """Points of a QQ plot by name."""
    return {line.get_label().split(" (")[0]: line.get_xydata() for line in ax.get_lines() if line.get_marker() == "."}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_thin__leaves_a_point_beside_each_that_it_drops():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 5, 20_000), rng.uniform(0, 3, 20_000)
    kept = thin(x, y, cells=20)
    assert len(kept) <= 21**2
    boxes = {(int(a * 20 / np.ptp(x)), int(b * 20 / np.ptp(y))) for a, b in zip(x, y, strict=True)}
    assert {(int(a * 20 / np.ptp(x)), int(b * 20 / np.ptp(y))) for a, b in zip(x[kept], y[kept], strict=True)} == boxes


def test_qq__draws_each_series_against_its_own_ranks(links, ax):
    links.loc[:99, "boot_basic_p"] = np.nan
    links.loc[100:149, "saddle_status"] = "concentrated"
    qq(links, ax, top=50.0)
    drawn = series(ax)
    assert set(drawn) == {"Wald", "saddlepoint", "bootstrap ladder"}
    used = {
        "Wald": links["p"],
        "saddlepoint": links["p_saddle"].drop(range(100, 150)),
        "bootstrap ladder": links["boot_basic_p"].dropna(),
    }
    for name, p in used.items():
        expected = -np.log10((np.arange(len(p)) + 0.5) / len(p))
        everywhere = pd.DataFrame({"x": expected, "y": -np.log10(np.sort(p))})
        assert len(everywhere.round(9).merge(pd.DataFrame(drawn[name], columns=["x", "y"]).round(9))) == len(
            drawn[name]
        )
        assert drawn[name][:, 0].max() == pytest.approx(expected[0])  # the smallest p-value is not thinned away
        assert len(drawn[name]) > 100
    assert ax.get_legend().get_title().get_text() == "500 links"


def test_qq__shows_the_floor_of_the_ladder(links, ax):
    qq(links, ax)
    floor = next(line for line in ax.get_lines() if "smallest p" in line.get_label())
    np.testing.assert_allclose(floor.get_ydata(), 2.0)
    assert f"0.01 (n = {(links['boot_basic_p'] == 0.01).sum()})" in floor.get_label()


def test_qq__puts_what_is_beyond_the_frame_on_its_edge(links, ax):
    links.loc[:2, "p"] = [0.0, 1e-80, 1e-20]
    qq(links[["p"]], ax)
    (edge,) = (line for line in ax.get_lines() if line.get_marker() == "^")
    np.testing.assert_allclose(np.sort(edge.get_xdata()), np.sort(-np.log10((np.arange(3) + 0.5) / 500)))
    assert (np.asarray(edge.get_ydata()) < ax.get_ylim()[1]).all()
    assert "Wald (3 above)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_qq__counts_links_without_p_value(links, ax):
    links.loc[:49, ["p", "p_saddle", "boot_basic_p"]] = np.nan
    qq(links, ax)
    assert ax.get_legend().get_title().get_text() == "450 links, 50 without p-value"


def test_qq__holds_the_published_links(shared, ax):
    links = pd.read_parquet(shared / "published" / "nyu_cd14_mono" / "scent_results.parquet")
    qq(links, ax)
    drawn = series(ax)
    assert set(drawn) == {"Wald", "bootstrap ladder"}
    assert max(map(len, drawn.values())) < 2_000  # of 190,124
    assert drawn["bootstrap ladder"][:, 1].max() == pytest.approx(-np.log10(0.0008))
    assert any("0.0008 (n = 1,864)" in line.get_label() for line in ax.get_lines())


def test_qq__says_that_there_is_nothing_or_which_column_is_missing(links, ax):
    qq(links.assign(p=np.nan, p_saddle=np.nan, boot_basic_p=np.nan), ax)
    assert texts(ax) == ["no link has a p-value (500 links)"]
    with pytest.raises(InputError, match="links: no column of p-values, want 'p' or .*; columns found: beta$"):
        qq(pd.DataFrame({"beta": [1.0]}), ax)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("kind", ["auto", "boot_p", "p"])
def test_volcano__has_the_p_values_of_its_own_test(table, ax, test, kind):
    volcano(table, ax, test=test, p=kind)
    p = table[f"{'p_saddle' if kind == 'auto' else kind}_{test}"]
    np.testing.assert_allclose(points(ax), in_order(table[f"beta_{test}"], -np.log10(p)))


def test_volcano__falls_back_to_the_bootstrap(table, ax):
    volcano(table.assign(p_saddle_10=np.nan), ax, test="10")
    np.testing.assert_allclose(points(ax), in_order(table["beta_10"], -np.log10(table["boot_p_10"])))
    assert ax.get_ylabel() == "−log10 p (bootstrap)"


def test_volcano__marks_and_counts_by_fdr_within_the_cell_type(table, ax):
    table["celltype"] = ["A"] * 20 + ["B"] * 100
    fdr = np.concatenate([benjamini_hochberg(part["p_saddle_10"].to_numpy()) for _, part in table.groupby("celltype")])
    volcano(table, ax, test="10")
    found = {c.get_label(): len(c.get_offsets()) for c in ax.collections if c.get_label().startswith("FDR")}
    up, down = ((fdr < 0.1) & (table["beta_10"] > 0)).sum(), ((fdr < 0.1) & (table["beta_10"] < 0)).sum()
    assert found == {"FDR < 0.1, up": up, "FDR < 0.1, down": down}
    assert up > 0
    assert down > 0
    assert ax.get_title() == f"10 against 00\n{up} up, {down} down of 120 pairs"
    told = new_axes()
    volcano(table.assign(fdr_saddle_10=1.0), told, test="10")  # the table's own adjusted values come first
    assert "0 up, 0 down" in told.get_title()


def test_volcano__drops_and_counts_what_has_no_estimate(table, ax):
    table.loc[0, "beta_11"], table.loc[1, "beta_11"], table.loc[2, "p_saddle_11"] = np.nan, -np.inf, np.nan
    volcano(table, ax, test="11")
    assert len(points(ax)) == 117
    assert ax.get_title().endswith("of 120 pairs\n(3 not estimated)")


def test_volcano__draws_p_of_zero_at_the_top(table, ax):
    table.loc[7, "p_saddle_11"] = 0.0
    volcano(table, ax, test="11")
    (at,) = (c for c in ax.collections if c.get_label().startswith("_") and len(c.get_offsets()) == 1)
    highest = -np.log10(table["p_saddle_11"].drop(7).min())
    np.testing.assert_allclose(at.get_offsets(), [[table["beta_11"][7], 1.05 * highest]])
    assert 1.05 * highest < ax.get_ylim()[1]


def test_volcano__doubles_an_effect_that_the_coding_halved(table, published, ax):
    volcano(table, ax, test="11", table_coding="legacy")
    np.testing.assert_allclose(points(ax), in_order(2 * table["beta_11"], -np.log10(table["p_saddle_11"])))
    other = new_axes()
    volcano(published, other, test="11")
    want = in_order(2 * published["beta_estimate_11"], -np.log10(published["bootstrap_pvalue_11"]))
    np.testing.assert_allclose(points(other), want)


def test_volcano__rings_what_one_cell_carries(table, ax):
    table["one_cell"] = table.index.isin([3, 30])
    volcano(table, ax)
    (ring,) = (c for c in ax.collections if "one cell" in c.get_label())
    want = in_order(table["beta_interaction"][[3, 30]], -np.log10(table["p_saddle_interaction"][[3, 30]]))
    np.testing.assert_allclose(in_order(*np.asarray(ring.get_offsets()).T), want)


def test_volcano__says_that_there_is_nothing_or_which_column_is_missing(table, ax):
    volcano(table.head(0), ax)
    assert texts(ax) == ["Interaction: no pair has an estimate (0 pairs)"]
    with pytest.raises(InputError, match="epistasis table: column 'beta_01' is missing; columns found: beta_10, p_10"):
        volcano(table.drop(columns="beta_01"), ax, test="01")
    with pytest.raises(InputError, match="no column of p-values, want 'p_saddle_01' or 'boot_p_01'"):
        volcano(table.drop(columns=["p_saddle_01", "boot_p_01"]), ax, test="01")


def test_volcanoes__three_facets_with_all_points_in_view(table):
    figure = volcanoes(table, new_figure(7, 3))
    for ax, test in zip(figure.axes, ("10", "01", "11"), strict=True):
        want = in_order(table[f"beta_{test}"], -np.log10(table[f"p_saddle_{test}"]))
        np.testing.assert_allclose(points(ax), want)
        assert ax.get_xlim()[0] < want[:, 0].min() < want[:, 0].max() < ax.get_xlim()[1]
        assert ax.get_ylim()[0] == 0
        assert want[:, 1].max() < ax.get_ylim()[1]


@pytest.mark.parametrize(
    ("coding", "share", "n_below", "median"), [("legacy", "73.8%", 2113, "−0.155"), ("fixed", "46.0%", 1318, "+0.018")]
)
def test_sum_against_both__tells_the_published_shares(published, ax, coding, share, n_below, median):
    sum_against_both(published, ax, coding=coding)
    assert f"{n_below:,} pairs below y = x ({share})" in ax.get_title()
    assert f"median of y − x: {median} (1 without estimate)" in ax.get_title()
    drawn = points(ax)
    assert len(drawn) == 2_862
    assert (drawn[:, 1] < drawn[:, 0]).sum() == n_below


@pytest.mark.parametrize("table_coding", ["legacy", "fixed"])
@pytest.mark.parametrize("coding", ["legacy", "fixed"])
def test_sum_against_both__puts_11_on_the_scale_asked_for(table, ax, coding, table_coding):
    sum_against_both(table, ax, coding=coding, table_coding=table_coding)
    factor = {("legacy", "fixed"): 2.0, ("fixed", "legacy"): 0.5}.get((table_coding, coding), 1.0)
    np.testing.assert_allclose(points(ax), in_order(table["beta_10"] + table["beta_01"], factor * table["beta_11"]))


def test_sum_against_both__drops_and_counts_what_has_no_estimate(table, ax):
    table.loc[0, "beta_11"], table.loc[1, "beta_10"] = -np.inf, np.nan
    sum_against_both(table, ax)
    assert len(points(ax)) == 118
    assert "(2 without estimate)" in ax.get_title()
    empty = new_axes()
    sum_against_both(table.head(0), empty)
    assert texts(empty) == ["no pair has all three effects (0 pairs)"]


def test_sum_against_both__wants_known_columns_and_codings(table, ax):
    with pytest.raises(InputError, match="column 'beta_11' is missing"):
        sum_against_both(table.drop(columns="beta_11"), ax)
    with pytest.raises(InputError, match="coding 'half' is unknown; choose from fixed, legacy"):
        sum_against_both(table, ax, coding="half")


def test_sums_against_both__both_codings_on_the_same_axes(table):
    legacy, fixed = sums_against_both(table, new_figure(6, 3)).axes
    np.testing.assert_allclose(np.sort(points(fixed)[:, 1]), 2 * np.sort(points(legacy)[:, 1]))
    assert legacy.get_ylim() == fixed.get_ylim()
    assert points(fixed)[:, 1].max() < fixed.get_ylim()[1]


def test_sum_box__boxes_are_quartiles_of_pairs_with_all_effects(table, ax):
    table.loc[5, "beta_11"] = np.nan
    sum_box(table, ax)
    rest = table.drop(5)
    effects = [
        rest["beta_10"],
        rest["beta_01"],
        rest["beta_10"] + rest["beta_01"],
        rest["beta_11"],
        rest["beta_11"] / 2,
    ]
    boxes = [patch.get_path().vertices[:, 1] for patch in ax.patches]
    np.testing.assert_allclose([[b.min(), b.max()] for b in boxes], [np.quantile(v, [0.25, 0.75]) for v in effects])
    assert texts(ax) == [f"{np.median(v):+.2f}".replace("-", "−") for v in effects]
    assert ax.get_title() == "Medians of 119 pairs (1 without estimate)"


def test_sum_box__names_the_coding_of_each_box(table, ax):
    sum_box(table, ax, table_coding="legacy")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "01", "10 + 01", "11\n(0/1)", "11\n(0/2)"]
    assert texts(ax)[4] == f"{np.median(table['beta_11']):+.2f}".replace("-", "−")  # as the table has it


def test_sum_and_both__infinite_effects_are_no_estimates():
    effects = sum_and_both(
        pd.DataFrame({"beta_10": [1.0, -np.inf, 0.0], "beta_01": 1.0, "beta_11": [1.0, 1.0, np.nan]})
    )
    assert effects.estimated.tolist() == [True, False, False]
    assert effects.share_below == pytest.approx(1 / 3)
    assert effects.median_difference == -1.0


def test_verdicts__bars_are_counts(table, ax):
    table.loc[:9, "verdict"] = ""
    verdicts(table, ax)
    counts = table["verdict"].value_counts()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [name or "no fit" for name in VERDICTS]
    assert [bar.get_width() for bar in ax.patches] == [counts[name] for name in VERDICTS]
    assert texts(ax)[-1] == "10 (8%)"
    with pytest.raises(InputError, match="column 'verdict' is missing"):
        verdicts(table.drop(columns="verdict"), ax)


@pytest.fixture
def cells():
    rng = np.random.default_rng(4)
    state = np.repeat(["00", "10", "11"], [1_000, 40, 3])
    return pd.DataFrame(
        {"state": state, "count": rng.poisson(2, len(state)), "n_umi": rng.integers(1_000, 9_000, len(state))}
    )


def shown_by_state(ax):
    """Values of the points by place."""
    clouds = [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 1 or c.get_sizes().size]
    return {round(float(cloud[:, 0].mean())): cloud for cloud in clouds if len(cloud)}


@pytest.mark.parametrize("scale", ["count", "per10k"])
def test_expression_by_state__points_are_cells_of_the_state(cells, ax, scale):
    expression_by_state(cells, ax, scale=scale)
    of_cells = np.log1p(cells["count"] if scale == "count" else cells["count"] / cells["n_umi"] * 1e4)
    shown = shown_by_state(ax)
    assert {place: len(cloud) for place, cloud in shown.items()} == {0: MOST_POINTS, 1: 40, 3: 3}
    for place, state in enumerate(STATE_COLOURS):
        if place in shown:
            assert np.isin(shown[place][:, 1], of_cells[cells["state"] == state]).all()
            assert (abs(shown[place][:, 0] - place) < 0.3).all()
    np.testing.assert_allclose(np.sort(shown[1][:, 1]), np.sort(of_cells[cells["state"] == "10"]))


def test_expression_by_state__counts_cells_below_each_state_also_none(cells, ax):
    expression_by_state(cells, ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    zero = (cells["count"] == 0).groupby(cells["state"]).mean()
    assert labels[0] == f"00\nneither\nn = 1,000\n{zero['00']:.0%} zero"
    assert labels[2] == "01\nsecond\nn = 0\n"
    assert labels[3].startswith("11\nboth\nn = 3\n")


def test_expression_by_state__boxes_and_means_only_where_there_are_cells_enough(cells, ax):
    expression_by_state(cells, ax)
    means = {line.get_xdata()[0]: line.get_ydata()[0] for line in ax.get_lines() if line.get_marker() == "D"}
    log = np.log1p(cells["count"]).groupby(cells["state"]).mean()
    assert means == pytest.approx({0: log["00"], 1: log["10"]})
    assert (cells["state"] == "11").sum() < LEAST_BOX


def test_expression_by_state__is_the_same_every_time(cells):
    first, second = (shown_by_state(expression_by_state(cells, new_axes())) for _ in range(2))
    for place, cloud in first.items():
        np.testing.assert_array_equal(cloud, second[place])


def test_expression_by_state__wants_known_states_columns_and_scales(cells, ax):
    with pytest.raises(InputError, match="cells: column 'n_umi' is missing"):
        expression_by_state(cells.drop(columns="n_umi"), ax, scale="per10k")
    with pytest.raises(InputError, match="cells: state '22' is unknown; want 00, 10, 01, 11"):
        expression_by_state(cells.replace({"state": {"11": "22"}}), ax)
    with pytest.raises(InputError, match="scale 'raw' is unknown; choose from count, per10k"):
        expression_by_state(cells, ax, scale="raw")
    expression_by_state(cells.head(0), ax)
    assert texts(ax) == ["no cells"]


def test_cells_of_pair__states_and_counts_of_real_cells(tiles, tiles_store, oracle):
    for row in oracle("epistasis_contrasts").drop_duplicates("triple").iloc[::6].itertuples():
        found = cells_of_pair(tiles_store, row.gene, row.tile1, row.tile2, "CD14+ Monocytes").set_index("cell")
        n = found["state"].value_counts().to_dict()
        assert n == {"00": row.n00, "10": row.n10, "01": row.n01, "11": row.n11}
        cells = tiles[tiles.obs["celltype"] == "CD14+ Monocytes"]
        count = pd.Series(np.asarray(cells["rna"][:, row.gene].X.todense()).ravel(), cells.obs_names)
        np.testing.assert_array_equal(found["count"], count[found.index])
        assert STORE_NAMES["nUMI"] == "n_umi"
        np.testing.assert_array_equal(found["n_umi"], cells.obs["nUMI"][found.index])


def test_cells_of_pair__names_what_is_not_in_the_store(tiles_store):
    known = ("ZEB2", "chr2-144376500-144377000", "chr2-144523500-144524000", "NK")
    for place, message in enumerate(
        ("gene 'x' is not", "peak 'x' is not", "peak 'x' is not", "no cell is of type 'x'")
    ):
        with pytest.raises(InputError, match=message):
            cells_of_pair(tiles_store, *known[:place], "x", *known[place + 1 :])


def test_house_style__holds_only_inside():
    before = dict(rcParams)
    seen = house_style(lambda: rcParams["svg.fonttype"])()
    assert seen == "none"
    assert dict(rcParams) == before


def test_save__writes_the_same_bytes_with_text_as_text(table, links, cells, tmp_path):
    table = pd.concat([table] * 10, ignore_index=True)  # enough for an image within the SVG

    def drawn(folder):
        figure = volcanoes(table, new_figure(7, 3))
        expression = expression_by_state(cells, new_axes())
        return [
            *save(qq(links, new_axes()).figure, tmp_path / folder / "qq v1.2"),
            *save(figure, tmp_path / folder / "volcano"),
            *save(expression.figure, tmp_path / folder / "cells"),
        ]

    first, second = drawn("a"), drawn("b")
    assert [file.name for file in first] == [
        "qq v1.2.png",
        "qq v1.2.svg",
        "volcano.png",
        "volcano.svg",
        "cells.png",
        "cells.svg",
    ]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert {file.name for file in (tmp_path / "a").iterdir()} == {file.name for file in first}
    svg = first[1].read_text()
    assert ">500 links</text>" in svg
    assert "<dc:date>" not in svg
    assert "data:image/png" in first[3].read_text()
    assert first[0].read_bytes().startswith(b"\x89PNG")


def test_volcano__grey_is_what_is_not_found(table, ax):
    volcano(table.assign(fdr_saddle_10=np.where(table.index < 5, 0.01, 0.5)), ax, test="10")
    (other,) = (c for c in ax.collections if c.get_label() == "other pairs")
    assert len(other.get_offsets()) == 115
    np.testing.assert_allclose(other.get_facecolor()[0][:3], to_rgb(GREY))
