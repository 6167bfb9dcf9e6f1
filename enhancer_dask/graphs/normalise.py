"""Weights of bins, in one place: ICE, Knight-Ruiz, and vanilla coverage."""

from __future__ import annotations

from enhancer_dask.graphs.iterative import ice as ice
