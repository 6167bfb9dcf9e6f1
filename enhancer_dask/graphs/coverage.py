"""How well each bin of a chromosome is covered, and which bins are too poor to be tested."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.graphs.tested_pairs import Floats, Integers, TestedPairs, lag_sums, spread

ROUNDS = 10
DEVIATIONS = 5.0


def valid_bins(n: int, first: Integers, second: Integers, count: Floats) -> NDArray[np.bool_]:
    """Bins with contacts, without those that have far fewer than the others; shape (n,).

    The rule is cooler's: the logarithm of a bin's number of contacts may lie at most 5 median absolute deviations
    below the median. A bin whose only partners were left out is left out too.
    """
    marginal = np.bincount(first, count, n) + np.bincount(second, count, n)
    valid = marginal > 0
    if valid.any():
        logs = np.log(marginal[valid])
        middle = np.median(logs)
        valid[valid] = logs >= middle - DEVIATIONS * np.median(np.abs(logs - middle))
    while valid.any():
        both = valid[first] & valid[second]
        marginal = np.bincount(first[both], count[both], n) + np.bincount(second[both], count[both], n)
        lonely = valid & (marginal <= 0)
        if not lonely.any():
            break
        valid &= ~lonely
    return valid


def coverage(pairs: TestedPairs, count: Floats) -> Floats:
    """A bin's contacts over what its place on the chromosome and its partners' coverage let expect, shape (n,).

    The marginal of a bin corrected for distance: b solves, by rounds, b[i] = sum of counts over sum of e(d) b[j], both
    over the tested pairs of i, where e(d) is the count at separation d over the sum of b[i] b[j] there. A bin at a
    chromosome's end or beside empty bins is therefore not taken for a poor one. Mean 1 over the valid bins, 0 elsewhere.
    """
    n, second = pairs.valid.size, pairs.first + pairs.separation
    marginal = np.bincount(pairs.first, count, n) + np.bincount(second, count, n)
    by_separation = np.bincount(pairs.separation, count, pairs.most + 1)
    b = pairs.valid.astype(np.float64)
    some = pairs.n_by_separation > 0
    for _ in range(ROUNDS):
        products = lag_sums(b, pairs.most)
        decay = np.divide(by_separation, products, out=np.zeros_like(products), where=some)
        partners = spread(b, decay)
        # half a step on the log scale: a whole one swings between two sets of bins that touch only each other
        b = np.sqrt(b * np.divide(marginal, partners, out=np.zeros(n), where=pairs.valid))
        b /= b[pairs.valid].mean()
    return b
