"""Refits of the four tests of enhancer pairs by Newton on all cells of every resample: the reference engine.

Tests are numbered ``4 * pair + test``. Resamples are of all cells of the type; a contrast is refitted on those drawn in
its two states, whose number varies from one resample to the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exact import Floats, Ints, Refitter, settled_weights
from enhancer_dask.stats.states import INTERACTION, StateFits, StatePairs


@compiled
def limit_of_resample(test, cells, totals):
    """:func:`.states.limit_of`, compiled."""
    rises, falls, empty = False, False, False
    for s in range(4):
        if test != INTERACTION and s != 0 and s != test + 1:
            continue
        empty = empty or cells[s] == 0.0
        if totals[s] == 0.0:
            if (s == 0 or s == 3) if test == INTERACTION else s != 0:
                falls = True
            else:
                rises = True
    if empty or (falls and rises):
        return np.nan
    return -np.inf if falls else np.inf if rises else 0.0


@compiled
def _refit(test, nuisance_rows, state, watched, counts, offset, weights, start, scratch, tolerance):
    """Coefficient of a test for one set of case weights; overwrites ``scratch``, (4 + c, n), and ``weights``."""
    k, n = nuisance_rows.shape
    cells, totals = np.zeros(4), np.zeros(4)
    for i in range(n):
        cells[state[i]] += weights[i]
        totals[state[i]] += weights[i] * counts[i]
    limit = limit_of_resample(test, cells, totals)
    if limit != 0.0:
        return limit
    q = 3 if test == INTERACTION else 1
    design = scratch[: k + q]
    design[:k] = nuisance_rows
    for i in range(n):
        if test != INTERACTION:
            design[k, i] = state[i] == test + 1
            weights[i] *= state[i] == 0 or state[i] == test + 1
        else:
            for s in range(3):
                design[k + s, i] = state[i] == s + 1
    rows = np.empty(watched.size + q, np.int64)
    rows[: watched.size] = watched
    rows[watched.size :] = np.arange(k, k + q)
    b = poisson.refit_weighted(design, k, rows, counts, weights, offset, start[: k + q], tolerance)
    return b[2] - b[0] - b[1] if test == INTERACTION else b[0]


@compiled
def refit_marked_states(
    marked,
    which,
    nuisance_rows,
    watched,
    rna,
    peaks,
    gene,
    first,
    second,
    offset,
    contrasts,
    joint,
    resamples,
    tolerance,
    out,
):
    """Refit the marked pairs of (test, resample), into ``out``; both of shape (A, R)."""
    k, n = nuisance_rows.shape
    scratch, state = np.empty((k + 3, n)), np.empty(n, np.int64)
    for a in range(which.size):
        if not marked[a].any():
            continue
        pair, test = which[a] // 4, which[a] % 4
        one, two = peaks[first[pair]], peaks[second[pair]]
        for i in range(n):
            state[i] = one[i] + 2 * two[i]
        start = joint[pair] if test == INTERACTION else contrasts[pair, test]
        for r in range(resamples.shape[0]):
            if marked[a, r]:
                weights = resamples[r].astype(np.float64)
                out[a, r] = _refit(
                    test, nuisance_rows, state, watched, rna[gene[pair]], offset, weights, start, scratch, tolerance
                )


def starts(pairs: StatePairs, fits: StateFits) -> tuple[Floats, Floats]:
    """Coefficients from which refits start: the fits, or an intercept where there is none; contrasts and joint."""
    out = []
    for coefficients in (fits.contrasts, fits.joint[:, None]):
        start = np.where(np.isfinite(coefficients), coefficients, 0.0)
        lost = ~np.isfinite(coefficients).all(axis=2)
        null = np.array([pairs.nuisance.null_intercept(row) for row in pairs.counts])
        start[..., 0] = np.where(lost, null[pairs.gene][:, None], start[..., 0])
        out.append(start)
    return out[0], np.ascontiguousarray(out[1][:, 0])


def refit_exactly(
    pairs: StatePairs,
    start: tuple[Floats, Floats],
    resamples: NDArray[Any],
    which: Ints,
    marked: NDArray[np.bool_],
    out: Floats,
) -> None:
    """Fill ``out``, shape (A, R), where ``marked``, shape (A, R)."""
    nuisance = pairs.nuisance
    rows = nuisance.design(np.empty((len(nuisance.z), 0)))
    refit_marked_states(
        marked, which, rows, nuisance.watched(0), pairs.counts, pairs.peaks, pairs.gene, pairs.first, pairs.second,
        nuisance.offset, *start, settled_weights(resamples), poisson.STEP_TOLERANCE, out,
    )  # fmt: skip


def exact_engine(pairs: StatePairs, fits: StateFits) -> Refitter:
    """Newton on all cells of every resample, warm-started at the fits."""
    start = starts(pairs, fits)

    def refitter(resamples: NDArray[Any], which: Ints) -> tuple[Floats, Ints]:
        shape = (len(which), len(resamples))
        out = np.empty(shape)
        refit_exactly(pairs, start, resamples, which, np.ones(shape, dtype=np.bool_), out)
        return out[:, :, None], np.full(len(which), len(resamples))

    return refitter
