"""The pairs of bins of one chromosome that a test of contacts asks about, without listing them.

A chromosome of 50,000 bins has 20 million pairs within 2 Mb. Only the pairs with contacts are in memory; the others
are counted by correlating the mask of valid bins with itself, and a sample of all pairs is drawn for fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class DistancePairs:
    """Pairs of valid bins of one chromosome within a range of separations, and the counts that are not zero."""

    valid: NDArray[np.bool_]
    """Shape (n,), by bin of the chromosome."""
    least: int
    """Smallest separation, bins."""
    most: int
    """Largest separation, bins, below n."""
    first: Integers
    """Shape (c,): lower bin of each pair with contacts, from 0 on this chromosome."""
    separation: Integers
    """Shape (c,), bins. Pairs are sorted by lower bin, then separation, and none stands twice."""
    count: Floats
    """Shape (c,), positive."""

    @cached_property
    def n_by_separation(self) -> Integers:
        """How many pairs there are at separations 0, 1 .. most; 0 below ``least``. Shape (most + 1,)."""
        n = np.rint(lag_sums(self.valid.astype(np.float64), self.most)).astype(np.int64)
        n[: self.least] = 0
        return n

    def total(self) -> int:
        """How many pairs there are, those without contacts included."""
        return int(self.n_by_separation.sum())

    def sample(self, size: int, seed: Any) -> tuple[Integers, Integers, Integers]:
        """About ``size`` pairs, with and without contacts, or all if there are no more.

        Half of the sample is spread evenly over the separations, half evenly over their logarithm, so that short
        separations, few pairs with most of the contacts, weigh in. Who is drawn depends on the separation only, so a
        regression on distance needs no weights.

        Returns
        -------
        first, separation, row : int64 arrays, shape (s,)
            ``row`` is the pair's place in ``count``, -1 if it has no contacts.
        """
        rng = np.random.default_rng(seed)
        d = np.arange(self.least, self.most + 1)
        share = 0.5 / d.size + 0.5 / d / (1.0 / d).sum()
        enough = self.total() <= size
        wanted = np.ceil(share * size).astype(np.int64)
        firsts = []
        for lag, want in zip(d, wanted, strict=True):
            there = np.flatnonzero(self.valid[:-lag] & self.valid[lag:])
            drawn = there if enough or want >= there.size else np.sort(rng.choice(there, want, replace=False))
            firsts.append(drawn)
        first = np.concatenate(firsts)
        separation = np.repeat(d, [f.size for f in firsts])
        return first, separation, self._rows(first, separation)

    def _rows(self, first: Integers, separation: Integers) -> Integers:
        keys = self.first * (self.most + 1) + self.separation
        wanted = first * (self.most + 1) + separation
        at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        return np.where(keys[at] == wanted, at, -1)


def lag_sums(values: Floats, most: int) -> Floats:
    """Sum of ``values[i] * values[i + d]`` over i, for d = 0 .. most.

    Examples
    --------
    >>> np.rint(lag_sums(np.array([1.0, 2.0, 3.0]), 2))
    array([14.,  8.,  3.])
    """
    size = fft.next_fast_len(2 * values.size, real=True)
    spectrum = fft.rfft(values, size)
    return np.asarray(fft.irfft(spectrum * spectrum.conj(), size)[: most + 1])


def spread(values: Floats, kernel: Floats) -> Floats:
    """Sum of ``values[j] * kernel[|i - j|]`` over j, for each i; the kernel is 0 beyond its end.

    Examples
    --------
    >>> np.rint(spread(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0])))
    array([2., 4., 2.])
    """
    size = fft.next_fast_len(2 * values.size + kernel.size, real=True)
    padded = np.zeros(size)
    padded[: kernel.size] = kernel
    padded[size - kernel.size + 1 :] = kernel[:0:-1]
    return np.asarray(fft.irfft(fft.rfft(values, size) * fft.rfft(padded), size)[: values.size])
