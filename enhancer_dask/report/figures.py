"""Figures, each a function of a table and an axis (or of a table and a figure, where there are several axes)."""

from enhancer_dask.report.architecture import architecture
from enhancer_dask.report.chromosome_tracks import expression_track, signal_track, site_lanes, tracks
from enhancer_dask.report.combination import sum_against_both, sum_box, sums_against_both, verdicts
from enhancer_dask.report.contact_arcs import contact_arcs
from enhancer_dask.report.expression import expression_by_state
from enhancer_dask.report.gene_links import attribution_track, gate_strip, gene_locus
from enhancer_dask.report.model_bars import model_bars
from enhancer_dask.report.p_values import qq, volcano, volcanoes
from enhancer_dask.report.prediction_scatter import prediction_scatter, prediction_scatters
from enhancer_dask.report.style import new_axes, new_figure
from enhancer_dask.report.training_curves import training_curves

__all__ = [
    "architecture",
    "attribution_track",
    "contact_arcs",
    "expression_by_state",
    "expression_track",
    "gate_strip",
    "gene_locus",
    "model_bars",
    "new_axes",
    "new_figure",
    "prediction_scatter",
    "prediction_scatters",
    "qq",
    "signal_track",
    "site_lanes",
    "sum_against_both",
    "sum_box",
    "sums_against_both",
    "tracks",
    "training_curves",
    "verdicts",
    "volcano",
    "volcanoes",
]
