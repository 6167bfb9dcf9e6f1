"""Contacts as arcs under a track, the strongest of them where there are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.report.columns import need, numbers
from enhancer_dask.report.locus import NEGATIVE, POSITIVE, Locus, locus, name_row, of_graph
from enhancer_dask.report.style import DARK, GREY, RASTERISE_ABOVE, house_style, say_empty, tidy

Floats = NDArray[np.float64]

STRONGEST = 1_000
WEIGHTS = ("sign", "gate", "oe", "log_count", "balanced", "count", "minus_log10_fdr")  # in the order of preference
ENDS = ("source", "target")
LABEL = "edges"
CORNERS = 32  # of an arc
THINNEST, THICKEST = 0.3, 1.8  # points


@dataclass(frozen=True, slots=True)
class Contacts:
    """Contacts to draw, each once, the strongest last. K contacts."""

    left: Floats
    """Shape (K,), on the axis."""
    right: Floats
    weight: Floats
    """Signed; 1 where edges have no weights."""
    of_gene: NDArray[np.bool_]
    """Whether one end is the gene that was asked for."""
    n_all: int
    """Contacts of the locus with both ends in it."""
    n_outside: int
    """Contacts with one end in it, the other outside."""
    ties: bool
    """All have the same weight but for the sign, so those drawn are a random choice."""


@house_style
def contact_arcs(
    table: pd.DataFrame,
    edges: pd.DataFrame,
    ax: Axes,
    *,
    weight: str | None = None,
    gene: int | None = None,
    strongest: int = STRONGEST,
    graph: str | None = None,
) -> Axes:
    """Contacts as arcs that hang from the axis of a locus.

    Parameters
    ----------
    table : DataFrame
        The bins, see :func:`enhancer_dask.report.locus.locus`.
    edges : DataFrame
        ``source`` and ``target``, nodes of the graph, any columns of weights, and ``graph`` where there are several. A
        contact that is there in both directions is drawn once, with the greater weight.
    ax : Axes
    weight : str, optional
        Column that chooses and scales the arcs [default: the first there is of sign, gate, oe, log_count, balanced,
        count, minus_log10_fdr; none: all alike]. With a negative value among them the colour shows the sign.
    gene : int, optional
        Node whose contacts are coloured, the others grey.
    strongest : int
        Most contacts to draw, by the size of their weight; among equal ones at random, the same every time.
    graph : str, optional
        By default the first of the table.

    Returns
    -------
    Axes
        Its label says how many of how many contacts are drawn. Beyond 1,000 they are an image in an SVG.

    Raises
    ------
    InputError
        If a column is missing.
    """
    need(edges, ENDS, LABEL)
    if weight is not None:
        need(edges, [weight], LABEL)
    if strongest < 1:
        raise InputError(f"strongest is {strongest}, want at least 1")
    name = weight or next((w for w in WEIGHTS if w in edges.columns), None)
    if table.empty:
        return say_empty(ax, "no bin to draw")
    place = locus(table, graph)
    graph = str(place.table["graph"].iloc[0]) if "graph" in place.table.columns else graph
    found = _contacts(place, of_graph(edges, graph, LABEL), name, gene, strongest)
    if not len(found.left):
        return say_empty(ax, f"no contact in view ({found.n_outside:,} lead out of it)")
    _draw(ax, found)
    _legend(ax, found)
    place.frame(ax)
    ax.set(ylim=(-1.04, 0), xlabel=place.label, yticks=[])
    ax.spines["left"].set_visible(False)
    name_row(ax, _words(found, name))
    return tidy(ax)


def _contacts(place: Locus, edges: pd.DataFrame, weight: str | None, gene: int | None, strongest: int) -> Contacts:
    source, target = (edges[end].to_numpy(np.int64) for end in ENDS)
    size = np.ones(len(edges)) if weight is None else numbers(edges, weight).to_numpy()
    low, high = np.minimum(source, target), np.maximum(source, target)
    known = (low != high) & ~np.isnan(size)
    low, high, size = low[known], high[known], size[known]
    once = _once(low, high, size)
    low, high, size = low[once], high[once], size[once]
    left, right = place.places(low), place.places(high)
    inside, n_ends = ~np.isnan(left + right), int(np.sum(~np.isnan(left))) + int(np.sum(~np.isnan(right)))
    left, right, size = left[inside], right[inside], size[inside]
    of_gene = (low[inside] == gene) | (high[inside] == gene)
    # ties in random order: in that of the nodes only the left end of a chromosome would be seen
    shuffled = np.random.default_rng(0).permutation(len(size))
    order = np.lexsort((shuffled, np.abs(size), of_gene))[-strongest:]
    ties = bool(len(size)) and bool(np.ptp(np.abs(size)) == 0)
    return Contacts(
        left[order], right[order], size[order], of_gene[order], len(size), n_ends - 2 * len(size), ties
    )  # fmt: skip


def _once(low: NDArray[np.int64], high: NDArray[np.int64], size: Floats) -> NDArray[np.int64]:
    """Of edges between the same two nodes the one with the greatest weight."""
    order = np.lexsort((np.abs(size), high, low))
    last = np.ones(len(order), np.bool_)
    last[:-1] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    return order[last]


def _draw(ax: Axes, found: Contacts) -> None:
    span = found.right - found.left
    turn = np.linspace(0.0, np.pi, CORNERS)
    x = (found.left + found.right)[:, None] / 2 - span[:, None] / 2 * np.cos(turn)
    y = -np.sqrt(span / span.max())[:, None] * np.sin(turn)  # the root, so that short ones are seen beside long ones
    colours = np.where(found.weight < 0, NEGATIVE, POSITIVE if (found.weight < 0).any() else DARK)
    if found.of_gene.any():
        colours = np.where(found.of_gene, np.where(colours == DARK, POSITIVE, colours), GREY)
    n = len(span)
    opacity = np.full(n, float(np.clip(6.0 / np.sqrt(n), 0.1, 0.85)))
    if found.of_gene.any():
        opacity = np.where(found.of_gene, 0.9, 0.5 * opacity)
    arcs = LineCollection(
        list(np.stack([x, y], axis=-1)), colors=list(colours), linewidths=_widths(found), alpha=opacity,
        capstyle="butt", label="contacts", rasterized=n > RASTERISE_ABOVE,
    )  # fmt: skip
    ax.add_collection(arcs, autolim=False)


def _widths(found: Contacts) -> Floats:
    size = np.abs(found.weight)
    if found.ties or np.ptp(size) == 0:
        return np.full(len(size), 0.8 if len(size) <= 200 else 0.5)
    top = float(np.quantile(size, 0.99)) or 1.0  # one outlier would make all others hairlines
    thickest = THICKEST if len(size) <= 200 else THICKEST / 2
    return np.asarray(THINNEST + (thickest - THINNEST) * np.minimum(size / top, 1.0))


def _legend(ax: Axes, found: Contacts) -> None:
    if not (found.weight < 0).any():
        return
    handles = [Line2D([], [], color=c, label=name) for c, name in ((POSITIVE, "positive"), (NEGATIVE, "negative"))]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1.2, borderaxespad=0.2)


def _words(found: Contacts, weight: str | None) -> str:
    n = len(found.left)
    if n == found.n_all:
        text = f"{n:,} contacts"
    else:
        chosen = "chosen at random" if found.ties or weight is None else f"of greatest {weight.replace('_', ' ')}"
        text = f"{n:,} contacts\nof {found.n_all:,},\n{chosen}"
    return text + (f"\n({found.n_outside:,} leave\nthe view)" if found.n_outside else "")
