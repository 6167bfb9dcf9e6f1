"""Errors of models on data sets: bars of means, points of seeds, the error that nobody can beat."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.style import DARK, GREY, SKY, VERMILLION, house_style, say_empty, tidy
from enhancer_dask.report.ticks import in_figures, log_ticks, wants_log

Floats = NDArray[np.float64]

LABEL = "table of models"
METRICS = {"test_mse": "test error (MSE)", "roi_mse": "test error in gene regions (MSE)"}
FLOOR, PUBLISHED = "floor_mse", {"test_mse": "published_mse", "roi_mse": "published_roi_mse"}
NOTES = {  # data set -> what must be said wherever it is shown
    "enhancers": "A plain ridge regression on linked windows solves 'enhancers': there a model shows only that it "
    "reads edges."
}
BAR, OPACITY = 0.62, 0.75  # share of a bar's place
NOTE_LETTERS, NOTE_LINE = 17, 0.13  # of a note: letters an inch; inches


@house_style
def model_bars(
    table: pd.DataFrame, figure: Figure, *, metric: str = "test_mse", highlight: str | None = None
) -> Figure:
    """Error of each model, a panel for each data set.

    Parameters
    ----------
    table : DataFrame
        Of ``enhancer-dask reproduce bell``: dataset, model, the metric, a row for each seed; where known ``seed``,
        ``parameters``, ``floor_mse`` (irreducible error, of ``test_mse`` only) and ``published_mse`` or
        ``published_roi_mse``.
    figure : Figure
        Empty; its size is set to what the models need.
    metric : str
        Column to draw, the less the better.
    highlight : str, optional
        Model drawn in another colour [default: the best].

    Returns
    -------
    Figure
        A bar is the mean over seeds, with its value; a point is a seed. The best model, by the geometric mean over data
        sets, stands on top in all panels. The axis is logarithmic where the greatest value is over 8 times the
        smallest. Below stands what must be known of a data set (``NOTES``).

    Raises
    ------
    InputError
        If a column is missing or holds no numbers.
    """
    need(table, ["dataset", "model", metric], LABEL)
    table = table.assign(**{metric: numbers(table, metric)})
    table = table[np.isfinite(table[metric])]
    if table.empty:
        say_empty(figure.subplots(), f"no model has a value of {metric}")
        return figure
    datasets, models = list(dict.fromkeys(table["dataset"])), ordered_models(table, metric)
    chosen = models[0] if highlight is None else highlight
    figure.set_size_inches(1.7 + 2.7 * len(datasets), 0.95 + 0.27 * len(models))
    axes = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for ax, dataset in zip(axes, datasets, strict=True):
        _panel(ax, table[table["dataset"] == dataset], metric, models, chosen)
        ax.set_title(str(dataset), fontweight="bold")
        ax.set_xlabel(METRICS.get(metric, metric.replace("_", " ")))
    axes[0].set_yticks(range(len(models)), [_named(table, model) for model in models])
    axes[0].set_ylim(len(models) - 0.4, -0.6)  # the best on top
    if "parameters" in table.columns:
        axes[0].annotate(
            "model (parameters)", (0, 1), (-4, 3), "axes fraction", "offset points", color=GREY, ha="right", fontsize=7
        )  # fmt: skip
    _legend(figure, axes, [NOTES[name] for name in datasets if name in NOTES])
    return figure


def ordered_models(table: pd.DataFrame, metric: str) -> list[str]:
    """Models by the geometric mean over data sets of their mean error, those with the least first.

    Each data set counts relative to its mean over models, so that one that misses a data set is not favoured.

    Examples
    --------
    >>> rows = pd.DataFrame({"dataset": list("aabb"), "model": list("xyxy"), "test_mse": [1.0, 2.0, 0.5, 0.1]})
    >>> ordered_models(rows, "test_mse")
    ['y', 'x']
    """
    means = table.pivot_table(index="model", columns="dataset", values=metric, aggfunc="mean", sort=False)
    logs = np.log(means.clip(lower=np.finfo(np.float64).tiny))
    return [str(name) for name in (logs - logs.mean()).mean(axis=1).sort_values(kind="stable").index]


def _panel(ax: Axes, mine: pd.DataFrame, metric: str, models: list[str], chosen: str) -> None:
    means = mine.groupby("model")[metric].mean()
    floor = _floor(mine, metric)
    published = _published(mine, metric, models)
    low, high = _scale(ax, np.concatenate([mine[metric], [] if floor is None else [floor], list(published.values())]))
    for place, model in enumerate(models):
        if model not in means.index:
            ax.text(low, place, " not run", va="center", color=DARK, fontsize=7)
            continue
        values = mine.loc[mine["model"] == model, metric].to_numpy()
        _bar(ax, place, values, low, VERMILLION if model == chosen else SKY)
        # values stand in a column of their own, where no point or marker comes
        ax.text(
            1.02, place, in_figures(float(means[model])), transform=ax.get_yaxis_transform(), va="center", fontsize=7.5,
            fontweight="bold" if means[model] == means.min() else "normal",
        )  # fmt: skip
    if floor is not None:
        ax.axvline(floor, color=DARK, linestyle=(0, (4, 2)), linewidth=0.9, zorder=4, label="irreducible error")
    if published:
        ax.scatter(
            list(published.values()), [models.index(m) for m in published], marker="D", s=26, facecolors="white",
            edgecolors=DARK, linewidths=1.0, zorder=2, label="published",
        )  # fmt: skip
    ax.set_xlim(low, high)
    ax.tick_params(axis="y", length=0)
    tidy(ax)


def _bar(ax: Axes, place: int, values: Floats, low: float, colour: str) -> None:
    ax.barh(place, values.mean() - low, left=low, height=BAR, color=colour, alpha=OPACITY, linewidth=0, zorder=1)
    # seeds beside each other in the order of the table: no randomness, and equal ones stay apart
    spread = np.linspace(-0.5, 0.5, len(values)) * BAR * 0.6 if len(values) > 1 else np.zeros(1)
    ax.scatter(
        values, place + spread, s=9, c=DARK, edgecolors="white", linewidths=0.4, zorder=3,
        label=None if "one seed" in ax.get_legend_handles_labels()[1] else "one seed",
    )  # fmt: skip


def _scale(ax: Axes, values: Floats) -> tuple[float, float]:
    """Set the scale of the axis; where it starts and ends."""
    low, high = float(values.min()), float(values.max())
    if wants_log(low, high):
        ax.set_xscale("log")
        log_ticks(ax.xaxis, low, high)
        return low / 1.6, high * 1.35  # a bar on a log scale starts anywhere; here so that the least is seen
    return min(0.0, low), high * 1.12 if high > 0 else 1.0


def _floor(mine: pd.DataFrame, metric: str) -> float | None:
    """Irreducible error of a data set, mean over seeds; it is one of all bins."""
    if metric != "test_mse" or FLOOR not in mine.columns:
        return None
    value = float(numbers(mine, FLOOR).mean())
    return value if np.isfinite(value) else None


def _published(mine: pd.DataFrame, metric: str, models: list[str]) -> dict[str, float]:
    """Model -> published value, of those that have one."""
    column = PUBLISHED.get(metric, "")
    if column not in mine.columns:
        return {}
    known = numbers(mine, column).groupby(mine["model"]).first().dropna()
    return {model: float(known[model]) for model in models if model in known.index}


def _named(table: pd.DataFrame, model: str) -> str:
    """Name of a model with its parameters, if all rows agree."""
    if "parameters" not in table.columns:
        return model
    counts = table.loc[table["model"] == model, "parameters"].dropna().unique()
    if not len(counts):
        return model
    low, high = int(min(counts)), int(max(counts))
    return f"{model} ({low:,})" if low == high else f"{model} ({low:,}–{high:,})"


def _legend(figure: Figure, axes: NDArray[np.object_], notes: list[str]) -> None:
    found: dict[str, Artist] = {"mean over seeds": Patch(facecolor=SKY, alpha=OPACITY)}
    for ax in axes:  # what only some panels have, too
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    width, height = figure.get_size_inches()
    lines = [line for note in notes for line in wrap(note, int(NOTE_LETTERS * width))]
    figure.set_size_inches(width, height + NOTE_LINE * len(lines))
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=2 if len(axes) == 1 else 4,
        title="\n".join(lines) or None, title_fontproperties={"size": 7},
    )  # fmt: skip
