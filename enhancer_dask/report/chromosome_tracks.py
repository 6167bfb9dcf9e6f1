"""Tracks along a chromosome or a part of it: signals, true and predicted expression, known sites, contacts below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from enhancer_dask.errors import InputError
from enhancer_dask.report.columns import need
from enhancer_dask.report.contact_arcs import STRONGEST, contact_arcs
from enhancer_dask.report.locus import (
    LABEL,
    SITES,
    TRUE,
    Locus,
    colours_of,
    flags,
    locus,
    name_row,
    predictions_of,
    tracks_of,
)  # fmt: skip
from enhancer_dask.report.style import DARK, ORANGE, PURPLE, RASTERISE_ABOVE, SKY, house_style, say_empty, tidy
from enhancer_dask.report.ticks import in_figures

Layout = Literal["overlaid", "rows"]
Row = tuple[float, Callable[[Axes], object]]  # height in inches, and what draws it

LAYOUTS = ("overlaid", "rows")
MANY_SITES = 200  # ticks of a lane that are as wide as can be
SIGNAL_COLOURS = (SKY, PURPLE, ORANGE)
SIGNAL_HEIGHT, EXPRESSION_HEIGHT, LANE_HEIGHT, ARCS_HEIGHT, AROUND = 0.6, 0.95, 0.16, 1.1, 0.75  # inches


@house_style
def signal_track(
    table: pd.DataFrame, ax: Axes, *, column: str, name: str | None = None, colour: str = SKY, graph: str | None = None
) -> Axes:
    """A signal along the bins of a graph, as filled steps from 0.

    Parameters
    ----------
    table : DataFrame
        Prediction table, see :func:`enhancer_dask.report.locus.locus`.
    ax : Axes
    column : str
        For instance ``track_accessibility``.
    name : str, optional
        What to call it [default: the column].
    colour : str
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Axes
        Beyond 1,200 bins a step stands for several, as the axis tells. Bins without a value are gaps.
    """
    need(table, ["node", column], LABEL)
    if table.empty:
        return say_empty(ax, f"no bin of {name or column}")
    _signal(locus(table, graph), ax, column, name or column, colour)
    return ax


def _signal(place: Locus, ax: Axes, column: str, name: str, colour: str) -> None:
    values, borders = place.steps(place.values(column))
    ax.stairs(values, borders, fill=True, color=colour, linewidth=0)
    _finish(place, ax, name)


def _finish(place: Locus, ax: Axes, name: str) -> None:
    place.frame(ax)
    name_row(ax, name)
    ax.set_xlabel(place.label)
    if ax.get_ylim()[0] >= 0 or ax.dataLim.y0 >= 0:
        ax.set_ylim(bottom=0)
    ax.locator_params(axis="y", nbins=3)
    tidy(ax)


@house_style
def expression_track(
    table: pd.DataFrame, ax: Axes, *, models: Sequence[str] | None = None, graph: str | None = None
) -> Axes:
    """True expression along the bins of a graph in grey, predictions as lines over it.

    Parameters
    ----------
    table : DataFrame
        ``node`` and ``prediction`` or ``prediction_<label>`` of each model; ``y`` where it is known.
    ax : Axes
    models : sequence of str, optional
        Labels of those to draw [default: all].
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Axes
        Bins without a value are gaps. The legend stands above the axes.

    Raises
    ------
    InputError
        If there is no prediction, or a model is not in the table.
    """
    columns = _chosen(table, models)
    need(table, ["node"], LABEL)
    if table.empty:
        return say_empty(ax, "no bin of expression")
    place = locus(table, graph)
    _expression(place, ax, columns, colours_of(list(columns)), "expression")
    _legend(ax)
    return ax


def _chosen(table: pd.DataFrame, models: Sequence[str] | None) -> dict[str, str]:
    found = predictions_of(table)
    for model in models or ():
        if model not in found:
            raise InputError(f"{LABEL}: no prediction of {model!r}; models are: {', '.join(found)}")
    return found if models is None else {model: found[model] for model in models}


def _expression(
    place: Locus, ax: Axes, columns: dict[str, str], colours: dict[str, str], name: str, top: float | None = None
) -> None:
    if "y" in place.table.columns and np.isfinite(place.values("y")).any():
        ax.stairs(*place.steps(place.values("y")), fill=True, color=TRUE, linewidth=0, label="true")
    for model, column in columns.items():
        values, borders = place.steps(place.values(column))
        label = model if model == "prediction" or len(columns) > 1 else f"predicted by {model}"
        # a line between the middles of the bins: with steps two lines would be one thicket
        width = 0.9 if place.per_step == 1 else 0.6
        ax.plot((borders[1:] + borders[:-1]) / 2, values, color=colours[model], linewidth=width, label=label)
    _finish(place, ax, name)
    ax.set_ylim(top=top)


def _legend(ax: Axes, *, of_many: bool = False) -> None:
    """Above the axes; for rows of several models, each in its colour, what a line means."""
    handles, labels = ax.get_legend_handles_labels()
    if of_many:
        handles, labels = [*handles[:-1], Line2D([], [], color=DARK)], [*labels[:-1], "predicted"]
    ax.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.1, handlelength=1.4,
        columnspacing=1.2,
    )  # fmt: skip


@house_style
def site_lanes(table: pd.DataFrame, ax: Axes, *, graph: str | None = None) -> Axes:
    """A lane for each kind of known site, a tick at each: genes, enhancers, silencers.

    Parameters
    ----------
    table : DataFrame
        ``node`` and any of ``is_gene``, ``is_enhancer``, ``is_silencer``.
    ax : Axes
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Axes
        Only kinds of which there is a site.
    """
    need(table, ["node"], LABEL)
    place = locus(table, graph) if len(table) else None
    kinds = [] if place is None else _kinds(place.table)
    if place is None or not kinds:
        return say_empty(ax, "no gene, enhancer or silencer is marked")
    _lanes(place, ax, kinds)
    return ax


def _kinds(table: pd.DataFrame) -> list[str]:
    return [kind for kind in SITES if flags(table, f"is_{kind}").any()]


def _lanes(place: Locus, ax: Axes, kinds: list[str]) -> None:
    for lane, kind in enumerate(kinds):
        at = place.centres[flags(place.table, f"is_{kind}")]
        width = 1.2 if len(at) <= MANY_SITES else 0.4
        ax.eventplot(
            at, lineoffsets=-lane, linelengths=0.7, linewidths=width, colors=SITES[kind], label=f"{kind}s",
            rasterized=len(at) > RASTERISE_ABOVE,
        )  # fmt: skip
    ax.set_yticks([-lane for lane in range(len(kinds))], [f"{kind}s" for kind in kinds])
    for label, kind in zip(ax.get_yticklabels(), kinds, strict=True):
        label.set_color(SITES[kind])
    ax.set_ylim(0.5 - len(kinds), 0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    place.frame(ax)
    ax.set_xlabel(place.label)
    tidy(ax)


@house_style
def tracks(
    table: pd.DataFrame,
    figure: Figure,
    *,
    edges: pd.DataFrame | None = None,
    weight: str | None = None,
    gene: int | None = None,
    models: Sequence[str] | None = None,
    layout: Layout = "rows",
    strongest: int = STRONGEST,
    graph: str | None = None,
) -> Figure:
    """All there is of a locus, one under the other on one axis: signals, expression, sites, contacts.

    Parameters
    ----------
    table : DataFrame
        Prediction table: ``node``, ``prediction`` or ``prediction_<label>``; where known ``y``, ``track_<name>``,
        ``is_gene``, ``is_enhancer``, ``is_silencer`` and coordinates. A part of the rows zooms in.
    figure : Figure
        Empty; its height is set to what the rows need.
    edges : DataFrame, optional
        Contacts to draw below, see :func:`contact_arcs`; also ``weight``, ``gene`` and ``strongest``.
    models : sequence of str, optional
        Labels of those to draw [default: all].
    layout : {"rows", "overlaid"}
        A row for each model with r of its bins, or all in one.
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Figure

    Raises
    ------
    InputError
        If a column, model or layout is unknown.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; choose from {', '.join(LAYOUTS)}")
    columns = _chosen(table, models)
    if table.empty:
        say_empty(figure.subplots(), "no bin to draw")
        return figure
    place = locus(table, graph)
    rows = [*_signal_rows(place), *_expression_rows(place, columns, layout)]
    if kinds := _kinds(place.table):
        rows.append((LANE_HEIGHT * len(kinds), partial(_lanes, place, kinds=kinds)))
    if edges is not None:
        draw = partial(contact_arcs, place.table, edges, weight=weight, gene=gene, strongest=strongest, graph=graph)
        rows.append((ARCS_HEIGHT, draw))
    stack(figure, rows)
    _legend(figure.axes[len(tracks_of(place.table))], of_many=layout == "rows" and len(columns) > 1)
    return figure


def _signal_rows(place: Locus) -> list[Row]:
    return [
        (SIGNAL_HEIGHT, partial(_signal, place, column=column, name=name, colour=signal_colour(i)))
        for i, (name, column) in enumerate(tracks_of(place.table).items())
    ]


def signal_colour(i: int) -> str:
    """Colour of the i-th signal; they repeat."""
    return SIGNAL_COLOURS[i % len(SIGNAL_COLOURS)]


def _expression_rows(place: Locus, columns: dict[str, str], layout: Layout) -> list[Row]:
    colours = colours_of(list(columns))
    if layout == "overlaid" or len(columns) == 1:
        return [(EXPRESSION_HEIGHT, partial(_expression, place, columns=columns, colours=colours, name="expression"))]
    rows: list[Row] = []
    for model, column in columns.items():
        name = f"{model}\n{_agreement(place, column)}"
        draw = partial(_expression, place, columns={model: column}, colours=colours, name=name)
        rows.append((EXPRESSION_HEIGHT, partial(draw, top=_top(place, columns))))
    return rows


def _top(place: Locus, columns: dict[str, str]) -> float | None:
    """One scale for all rows of expression."""
    names = [*columns.values(), *(["y"] if "y" in place.table.columns else [])]
    values = np.concatenate([place.values(name) for name in names])
    values = values[np.isfinite(values)]
    return 1.05 * float(values.max()) if values.size and values.max() > 0 else None


def _agreement(place: Locus, column: str) -> str:
    """Pearson's r of the bins that count, in words; nothing where it is not defined."""
    if "y" not in place.table.columns:
        return ""
    true, predicted = place.values("y"), place.values(column)
    counted = flags(place.table, "loss_mask") if "loss_mask" in place.table.columns else np.True_
    used = np.isfinite(true) & np.isfinite(predicted) & counted
    if used.sum() < 3 or np.ptp(true[used]) == 0 or np.ptp(predicted[used]) == 0:
        return ""
    return f"r = {in_figures(float(np.corrcoef(true[used], predicted[used])[0, 1]))}"


def stack(figure: Figure, rows: list[Row]) -> None:
    """Draw rows under each other on one axis, which only the last one labels."""
    heights = [height for height, _ in rows]
    figure.set_figheight(sum(heights) + 0.09 * len(rows) + AROUND)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (_, draw) in zip(axes, rows, strict=True):
        draw(ax)
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(axis="x", labelbottom=False, length=0)
    figure.align_ylabels([ax for ax in axes if ax.get_ylabel()])
