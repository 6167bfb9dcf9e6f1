"""Tests in the same cells, and their refits by Newton on all cells of every resample: the reference engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tests in the same cells with the same covariates: T tests of G genes on q of P indicators each."""

    counts: Floats
    """Counts of the genes, shape (G, n)."""
    indicators: NDArray[Any]
    """Peaks (0/1 or counts) and products of peaks, shape (P, n); uint8 where the values allow it, else float64."""
    gene: Ints
    """Row of ``counts`` of each test, shape (T,)."""
    peak: Ints
    """Rows of ``indicators`` of each test, shape (T, q)."""
    nuisance: poisson.Nuisance
    """Covariates and offset."""
    start: Floats
    """Full-sample coefficients: intercept, standardised covariates, indicators; shape (T, 1 + c + q), finite."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of tests, indicators per test and cells."""
        return len(self.gene), self.peak.shape[1], self.counts.shape[1]


def make_batch(
    counts: NDArray[Any],
    indicators: NDArray[Any],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    nuisance: poisson.Nuisance,
    start: Floats,
) -> Batch:
    """A :class:`Batch` with settled types, so that kernels are compiled once; ``peak`` may be of shape (T,) if q =
    1.
    """
    return Batch(
        np.ascontiguousarray(counts, dtype=np.float64),
        settled(indicators),
        np.asarray(gene, dtype=np.int64),
        np.asarray(peak, dtype=np.int64).reshape(len(gene), -1),
        nuisance,
        np.ascontiguousarray(start, dtype=np.float64),
    )


def settled(indicators: NDArray[Any]) -> NDArray[Any]:
    """Indicators as uint8 where the values allow it, else as float64: two types that kernels are compiled for."""
    rows = np.asarray(indicators)
    small = rows.dtype.kind in "bui" and rows.min(initial=0) >= 0 and rows.max(initial=0) <= np.iinfo(np.uint8).max
    return np.ascontiguousarray(rows, dtype=np.uint8 if small else np.float64)


def settled_weights(resamples: NDArray[Any]) -> NDArray[Any]:
    """Resample counts as uint16 where they fit, other weights as float64: two types that kernels are compiled for."""
    rows = np.asarray(resamples)
    if rows.dtype == np.uint16:
        return np.ascontiguousarray(rows)
    small = rows.dtype.kind in "bui" and rows.min(initial=0) >= 0 and rows.max(initial=0) <= np.iinfo(np.uint16).max
    return np.ascontiguousarray(rows, dtype=np.uint16 if small else np.float64)


Refitter = Callable[[NDArray[Any], Ints], tuple[Floats, Ints]]
"""From resample counts, shape (R, n), and the tests wanted, shape (A,), to the coefficients of their indicators, shape
(A, R, q), and how many of these R refits ran over all cells (all of them, unless the engine knows better), shape
(A,)."""

Engine = Callable[[Batch], Refitter]


@compiled
def refit_marked(
    marked, which, design, watched, counts, indicators, gene, peak, offset, start, resamples, tolerance, out
):
    """Refit the marked pairs of (test, resample) by Newton on all cells, into ``out``.

    ``marked`` is (A, R), ``out`` (A, R, q); the last q rows of ``design`` are overwritten with a test's indicators.
    """
    first = design.shape[0] - peak.shape[1]
    for a in range(which.size):
        if not marked[a].any():
            continue
        test = which[a]
        for j in range(peak.shape[1]):
            design[first + j] = indicators[peak[test, j]]
        y = counts[gene[test]]
        for r in range(resamples.shape[0]):
            if marked[a, r]:
                weights = resamples[r].astype(np.float64)
                out[a, r] = poisson.refit_weighted(design, first, watched, y, weights, offset, start[test], tolerance)


def refit_exactly(batch: Batch, resamples: NDArray[Any], which: Ints, marked: NDArray[np.bool_], out: Floats) -> None:
    """Fill ``out``, shape (A, R, q), where ``marked``, shape (A, R)."""
    weights = settled_weights(resamples)
    q = batch.peak.shape[1]
    design = np.vstack(
        [batch.nuisance.design(np.empty((len(batch.nuisance.z), 0))), np.empty((q, batch.counts.shape[1]))]
    )
    refit_marked(
        marked, which, design, batch.nuisance.watched(q), batch.counts, batch.indicators, batch.gene, batch.peak,
        batch.nuisance.offset, batch.start, weights, poisson.STEP_TOLERANCE, out,
    )  # fmt: skip


def exact_engine(batch: Batch) -> Refitter:
    """Newton on all cells of every resample, warm-started at the full-sample fit."""

    def refitter(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        shape = (len(which), len(resamples))
        out = np.empty((*shape, batch.peak.shape[1]))
        refit_exactly(batch, resamples, which, np.ones(shape, dtype=np.bool_), out)
        return out, np.full(len(which), len(resamples))

    return refitter
