"""What figures of trainings and their errors draw, artist by artist."""

import numpy as np
import pandas as pd
import pytest
from drawn import N, curve, drawn_texts, legend, texts
from matplotlib.colors import to_rgb
from scipy.stats import pearsonr, spearmanr

from enhancer_dask.errors import InputError
from enhancer_dask.report.figures import (
    model_bars,
    new_axes,
    new_figure,
    prediction_scatter,
    prediction_scatters,
    training_curves,
)
from enhancer_dask.report.locus import MODEL_COLOURS
from enhancer_dask.report.model_bars import ordered_models
from enhancer_dask.report.prediction_scatter import agreement
from enhancer_dask.report.style import RASTERISE_ABOVE, SKY, VERMILLION


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
