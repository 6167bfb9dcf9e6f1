"""How well each bin of a chromosome is covered, and which bins are too poor to be tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.graphs.distance_pairs import DistancePairs, Floats, lag_sums, spread

ROUNDS = 10
DEVIATIONS = 5.0


def well_covered(pairs: DistancePairs) -> DistancePairs:
    """The pairs without those of bins that have no contacts, or far fewer than others in their place would have.

    The rule is cooler's for marginals, here of coverage: its logarithm may lie at most 5 median absolute deviations
    below the median. A bin whose only partners are left out is left out too.
    """
    pairs = _without(pairs, _marginal(pairs, pairs.count) > 0)
    if pairs.count.size:
        logs = np.log(coverage(pairs, pairs.count)[pairs.valid])
        deviation = np.abs(logs - np.median(logs))
        enough = pairs.valid.copy()
        enough[pairs.valid] = logs >= np.median(logs) - DEVIATIONS * np.median(deviation)
        pairs = _without(pairs, enough)
    while (lonely := pairs.valid & (_marginal(pairs, pairs.count) <= 0)).any():
        pairs = _without(pairs, ~lonely)
    return pairs


def _without(pairs: DistancePairs, good: NDArray[np.bool_]) -> DistancePairs:
    keep = good[pairs.first] & good[pairs.first + pairs.separation]
    return replace(
        pairs,
        valid=pairs.valid & good,
        first=pairs.first[keep],
        separation=pairs.separation[keep],
        count=pairs.count[keep],
    )


def _marginal(pairs: DistancePairs, count: Floats) -> Floats:
    n = pairs.valid.size
    return np.asarray(np.bincount(pairs.first, count, n) + np.bincount(pairs.first + pairs.separation, count, n))


def coverage(pairs: DistancePairs, count: Floats) -> Floats:
    """A bin's contacts over what its place on the chromosome and its partners' coverage let expect, shape (n,).

    The marginal of a bin corrected for distance: b solves, by rounds, b[i] = sum of counts over sum of e(d) b[j], both
    over the tested pairs of i, where e(d) is the count at separation d over the sum of b[i] b[j] there. A bin at a
    chromosome's end or beside empty bins is therefore not taken for a poor one. Mean 1 over valid bins, 0 elsewhere.
    """
    marginal = _marginal(pairs, count)
    by_separation = np.bincount(pairs.separation, count, pairs.most + 1)
    b = pairs.valid.astype(np.float64)
    some = pairs.n_by_separation > 0
    for _ in range(ROUNDS):
        products = lag_sums(b, pairs.most)
        decay = np.divide(by_separation, products, out=np.zeros_like(products), where=some)
        partners = spread(b, decay)
        # half a step on the log scale: a whole one swings between two sets of bins that touch only each other
        b = np.sqrt(b * np.divide(marginal, partners, out=np.zeros_like(b), where=pairs.valid))
        b /= b[pairs.valid].mean()
    return b
