"""Figures, each a function of a table and an axis (or of a table and a figure, where there are several axes)."""

from enhancer_dask.report.combination import sum_against_both, sum_box, sums_against_both, verdicts
from enhancer_dask.report.expression import expression_by_state
from enhancer_dask.report.p_values import qq, volcano, volcanoes
from enhancer_dask.report.style import new_axes, new_figure

__all__ = [
    "expression_by_state",
    "new_axes",
    "new_figure",
    "qq",
    "sum_against_both",
    "sum_box",
    "sums_against_both",
    "verdicts",
    "volcano",
    "volcanoes",
]
