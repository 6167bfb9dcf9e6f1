"""One look for all figures, without global state: no pyplot, and settings hold only inside :func:`house_style`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's palette, told apart with every kind of colour vision
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY, DARK = "#9A9A9A", "#333333"

RASTERISE_ABOVE = 1_000  # points of a cloud that a vector file holds one by one

HOUSE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.7,
    "axes.edgecolor": DARK,
    "axes.unicode_minus": True,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "lines.linewidth": 1.0,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "enhancer-dask",
}


def house_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function with the settings of the house, and put the former ones back."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(HOUSE):
            return draw(*args, **kwargs)

    return styled


class SteadyLayout(ConstrainedLayoutEngine):
    """Constrained layout with the same places every time: the last digits of its solver depend on memory addresses."""

    def execute(self, fig: Figure) -> Any:
        """Place the axes."""
        done = super().execute(fig)
        for ax in fig.axes:
            if ax.get_in_layout():
                ax.set_position(np.round(ax.get_position(original=True).bounds, 6).tolist(), which="original")
                ax.set_in_layout(True)
        return done


@house_style
def new_figure(width: float = 3.6, height: float = 3.2) -> Figure:
    """An empty figure, size in inches, that keeps labels from overlapping."""
    return Figure(figsize=(width, height), layout=SteadyLayout())


@house_style
def new_axes(width: float = 3.6, height: float = 3.2) -> Axes:
    """The axes of a new figure (``ax.figure``), size in inches."""
    return new_figure(width, height).subplots()


def tidy(ax: Axes) -> Axes:
    """Remove the frame above and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def say_empty(ax: Axes, message: str) -> Axes:
    """A figure without data says so."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color=DARK, wrap=True)
    return ax


def thin(x: NDArray[np.float64], y: NDArray[np.float64], cells: int = 400) -> NDArray[np.int64]:
    """One point of each box of a grid of ``cells`` x ``cells`` over all points: looks the same, draws less.

    Examples
    --------
    >>> thin(np.array([0.0, 0.001, 1.0]), np.array([0.0, 0.001, 1.0]), cells=10)
    array([0, 2])
    """
    boxes = [np.floor(v * (cells / span)) if (span := np.ptp(v)) > 0 else np.zeros(len(v)) for v in (x, y)]
    return np.sort(np.unique(np.stack(boxes), axis=1, return_index=True)[1]) if len(x) else np.empty(0, np.int64)
