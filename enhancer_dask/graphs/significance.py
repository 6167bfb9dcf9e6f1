"""Significant contacts: a negative binomial regression of counts on distance and coverage, without R.

In the manner of HiC-DC+ and FitHiC: per chromosome the count of every pair of bins within a range of distances, zeros
included, is regressed on a spline of log distance and on the coverage of the two bins. A pair's p-value is the chance
of its count or a larger one. The regression is made twice, the second time without the pairs that the first finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.background import Background, NoBackground, fit_background
from enhancer_dask.graphs.contact_matrix import read_pixels
from enhancer_dask.graphs.coverage import well_covered
from enhancer_dask.graphs.distance_pairs import DistancePairs, Floats, Integers

THRESHOLDS = (0.1, 0.01, 0.001)
WINDOW = 2_000_000
FEWEST_SEPARATIONS_IN_WINDOW = 20
FIT_PAIRS = 200_000
FEWEST_OBSERVED = 50  # pairs with contacts, for eight coefficients and a dispersion
OUTLIER_FDR = 0.1
COLUMNS = ("bin1_id", "bin2_id", "count", "expected", "p", "fdr")


def significant_contacts(
    contacts: pd.DataFrame,
    *,
    gc: ArrayLike | None = None,
    mappability: ArrayLike | None = None,
    min_distance: int | None = None,
    max_distance: int | None = None,
    mid_p: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Contacts within chromosomes that are more frequent than distance and coverage explain.

    Parameters
    ----------
    contacts : DataFrame
        bin1_id, bin2_id, count as :func:`enhancer_dask.read_contacts` gives them, raw counts; the bins, all of one
        size, in ``attrs["bins"]``. Contacts between chromosomes are passed over.
    gc, mappability : array, shape (bins,), optional
        GC content and mappability of each bin, positive; further terms log(value of one bin x value of the other).
    min_distance, max_distance : int, optional
        Range of distances between the starts of two bins, bp, both ends tested. By default two bins to 2 Mb, or to
        the end of the chromosome where 2 Mb hold fewer than 20 bins.
    mid_p : bool
        Take the chance of the observed count itself half. Without it small counts make p-values too large, and the
        share of false finds falls to half of the FDR asked for; with it that share is close to it, never above it by
        more than a few percent of it in simulations.
    seed : int
        Of the sample of pairs that a long chromosome is fitted on.

    Returns
    -------
    DataFrame
        One row per pair of valid bins in range that has contacts: bin1_id, bin2_id, count, expected, p, and fdr, the
        Benjamini-Hochberg adjusted p among all tested pairs of the chromosome, those without contacts included.
        ``attrs``: ``bins``; by chromosome ``n_tested``, ``n_bins`` (valid) and ``dispersion`` (variance is mean +
        dispersion x mean^2); ``skipped``, chromosomes without a fit and why, whose contacts are not among the rows.

    Raises
    ------
    InputError
        If the contacts are malformed, the bins are not of one size, the range is empty, or gc or mappability have
        another length or, in a bin with contacts, a value that is missing or not positive.

    Notes
    -----
    Coverage is a bin's marginal over the expected one (:mod:`.coverage`); its logarithm enters for both bins with one
    coefficient. Bins without contacts, or with far fewer than the others, are not tested. Zeros count in the fit and
    in the number of tests. Chromosomes with more than 200,000 pairs are fitted on a sample of about that size; p-values
    are computed for pairs with contacts only. Time and memory grow with contacts and with bins x log(bins).

    References
    ----------
    .. [1] Sahin et al. (2021), Nature Communications 12, 3366 (HiC-DC+).
    .. [2] Carty et al. (2017), Nature Communications 8, 15454 (HiC-DC).
    .. [3] Ay, Bailey and Noble (2014), Genome Research 24, 999-1011 (FitHiC).
    """
    genome = read_pixels(contacts).bins
    bins: pd.DataFrame = contacts.attrs["bins"]
    size = _bin_size(bins)
    terms = {
        name: _log_term(name, values, bins, contacts)
        for name, values in (("gc", gc), ("mappability", mappability))
        if values is not None
    }
    contacts = _in_order(contacts)
    tables, tested, n_bins, dispersion, skipped = [], {}, {}, {}, {}
    for chrom, (start, stop) in zip(genome.chroms, pairwise(genome.edges.tolist()), strict=True):
        least, most = _separations(size, min_distance, max_distance, stop - start)
        pairs = _pairs(contacts, start, stop, least, most)
        try:
            test = _test(pairs, [term[start:stop] for term in terms.values()], mid_p, (seed, start))
        except NoBackground as err:
            skipped[chrom] = str(err)
            continue
        tables.append(_rows(pairs, test, start))
        tested[chrom], n_bins[chrom] = pairs.total(), int(pairs.valid.sum())
        dispersion[chrom] = test.dispersion
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS), dtype=float)
    table.attrs.update(bins=bins, n_tested=tested, n_bins=n_bins, dispersion=dispersion, skipped=skipped)
    return table


def n_significant(table: pd.DataFrame, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, int]:
    """How many contacts have an FDR of at most each threshold.

    Examples
    --------
    >>> n_significant(pd.DataFrame({"fdr": [0.5, 0.05, 0.01]}))
    {0.1: 2, 0.01: 1, 0.001: 0}
    """
    return {t: int((table["fdr"] <= t).sum()) for t in thresholds}


@dataclass(frozen=True, slots=True)
class _Test:
    """What one chromosome's regression says of its pairs with contacts."""

    expected: Floats
    p: Floats
    fdr: Floats
    dispersion: float


def _test(pairs: DistancePairs, terms: Sequence[Floats], mid_p: bool, seed: tuple[int, int]) -> _Test:
    """Fit, test, and both again without what the first fit finds."""
    if pairs.count.size < FEWEST_OBSERVED:
        raise NoBackground(f"{pairs.count.size} pairs of bins with contacts in range, want {FEWEST_OBSERVED}")
    sample = pairs.sample(FIT_PAIRS, seed)
    found = np.zeros(pairs.count.size, dtype=bool)
    test = _against(pairs, fit_background(pairs, sample, pairs.count, found, terms), mid_p)
    found = test.fdr <= OUTLIER_FDR
    if not found.any():
        return test
    usual = np.where(found, test.expected, pairs.count)
    return _against(pairs, fit_background(pairs, sample, usual, found, terms), mid_p)


def _against(pairs: DistancePairs, background: Background, mid_p: bool) -> _Test:
    expected = background.expected(pairs.first, pairs.separation)
    p = upper_tail(pairs.count, expected, background.theta, mid_p=mid_p)
    return _Test(expected, p, _adjusted(p, pairs.total()), 1.0 / background.theta)


def upper_tail(count: Floats, mean: Floats, theta: float, *, mid_p: bool = False) -> Floats:
    """Chance of ``count`` or more under a negative binomial of variance mean + mean^2 / theta.

    Parameters
    ----------
    count, mean : arrays, shape (n,)
    theta : float
        Infinite for Poisson.
    mid_p : bool
        Half the chance of ``count`` itself is left out.

    Examples
    --------
    >>> upper_tail(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1.0)  # geometric: (1/2)^count
    array([1. , 0.5])
    """
    if mid_p:
        return 0.5 * (upper_tail(count, mean, theta) + upper_tail(count + 1.0, mean, theta))
    at_least_one = np.maximum(count, 1.0)
    if np.isinf(theta):
        tail = special.gammainc(at_least_one, mean)
    else:
        tail = special.betainc(at_least_one, theta, mean / (mean + theta))
    return np.where(count > 0, tail, 1.0)


def _adjusted(p: Floats, n_tested: int) -> Floats:
    """Benjamini and Hochberg's adjusted p-values, the tests not listed having p = 1."""
    order = np.argsort(p, kind="stable")
    ranked = p[order] * (n_tested / np.arange(1, p.size + 1))
    out = np.empty_like(p)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out


def _rows(pairs: DistancePairs, test: _Test, start: int) -> pd.DataFrame:
    columns: Mapping[str, NDArray[np.float64] | Integers] = {
        "bin1_id": pairs.first + start,
        "bin2_id": pairs.first + pairs.separation + start,
        "count": pairs.count,
        "expected": test.expected,
        "p": test.p,
        "fdr": test.fdr,
    }
    return pd.DataFrame(columns)


def _in_order(contacts: pd.DataFrame) -> pd.DataFrame:
    """Contacts by lower bin, then upper bin."""
    one, two = np.diff(contacts["bin1_id"]), np.diff(contacts["bin2_id"])
    if ((one > 0) | ((one == 0) & (two > 0))).all():
        return contacts
    return contacts.sort_values(["bin1_id", "bin2_id"])


def _pairs(contacts: pd.DataFrame, start: int, stop: int, least: int, most: int) -> DistancePairs:
    """The contacts of one chromosome within range, between bins that are fit to be tested."""
    here = slice(*np.searchsorted(contacts["bin1_id"].to_numpy(), [start, stop]))
    first = contacts["bin1_id"].to_numpy(np.int64)[here] - start
    separation = contacts["bin2_id"].to_numpy(np.int64)[here] - start - first
    count = contacts["count"].to_numpy(np.float64)[here]
    keep = (first + separation < stop - start) & (separation >= least) & (separation <= most) & (count > 0)
    everywhere = np.ones(stop - start, dtype=bool)
    return well_covered(DistancePairs(everywhere, least, most, first[keep], separation[keep], count[keep]))


def _separations(size: int, least_bp: int | None, most_bp: int | None, n: int) -> tuple[int, int]:
    least = 2 if least_bp is None else max(1, -(-least_bp // size))
    if most_bp is not None:
        most = most_bp // size
    else:
        most = WINDOW // size if WINDOW // size >= FEWEST_SEPARATIONS_IN_WINDOW else n - 1
    if most_bp is not None and most < least:
        raise InputError(f"max_distance is {most_bp} bp; want at least {least * size} bp ({least} bins)")
    return least, min(most, n - 1)


def _bin_size(bins: pd.DataFrame) -> int:
    start, end = bins["start"].to_numpy(np.int64), bins["end"].to_numpy(np.int64)
    size = int((end - start).max())
    place = bins.groupby("chrom", sort=False, observed=True).cumcount().to_numpy()
    wrong = np.flatnonzero(start != place * size)
    if wrong.size:
        bad = bins.iloc[wrong[0]]
        raise InputError(
            f"bin {wrong[0]} ({bad['chrom']}:{bad['start']}-{bad['end']}): want bins of one size, {size} bp"
        )
    return size


def _log_term(name: str, values: ArrayLike, bins: pd.DataFrame, contacts: pd.DataFrame) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(bins),):
        raise InputError(f"{name} has shape {array.shape}, want one value per bin, ({len(bins)},)")
    used = np.zeros(len(bins), dtype=bool)
    used[contacts["bin1_id"]] = used[contacts["bin2_id"]] = True
    wrong = np.flatnonzero(used & ~(np.isfinite(array) & (array > 0)))
    if wrong.size:
        raise InputError(f"{name} of bin {wrong[0]} is {array[wrong[0]]}, want a positive number where contacts are")
    return np.log(np.where(used, array, 1.0))
