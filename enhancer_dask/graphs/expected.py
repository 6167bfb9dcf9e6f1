"""Expected contacts by distance and by pair of chromosomes, and observed over expected."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.contact_matrix import Bins, Pixels, read_pixels, read_weights

Floats = NDArray[np.float64]


def expected_cis(contacts: pd.DataFrame, weights: ArrayLike | None = None) -> pd.DataFrame:
    """Mean balanced contact of the pairs of bins at each separation, per chromosome, zeros included.

    Parameters
    ----------
    contacts : DataFrame
        bin1_id, bin2_id, count (upper triangle, each pair of bins once), the bins as ``attrs["bins"]``.
    weights : array, shape (bins,), or None
        Multiplicative weights, NaN where a bin is left out; None for ones.

    Returns
    -------
    DataFrame
        chrom, dist_bins (0, 1, ..., bins of the chromosome - 1), n_valid (pairs of bins with weights), balanced_sum,
        balanced_avg (NaN where n_valid is 0). One row per bin of the genome.

    Raises
    ------
    InputError
        If the contacts or the weights are malformed.

    Notes
    -----
    As ``cooltools.expected_cis`` [1]_ without smoothing and without ignored diagonals. The valid pairs are counted by
    an autocorrelation (FFT) of the valid bins: O(K + N log N) time for K contacts and N bins.

    References
    ----------
    .. [1] Open2C et al. (2024), PLOS Computational Biology 20, e1012067.
    """
    pixels = read_pixels(contacts)
    values = read_weights(weights, pixels.bins.n)
    return cis_table(pixels, balanced(pixels, values), np.isfinite(values))


def expected_trans(contacts: pd.DataFrame, weights: ArrayLike | None = None) -> pd.DataFrame:
    """Mean balanced contact of the pairs of bins of two chromosomes, zeros included.

    Parameters
    ----------
    contacts, weights
        As for :func:`expected_cis`.

    Returns
    -------
    DataFrame
        chrom1, chrom2 (each pair of chromosomes once, in their order), n_valid, balanced_sum, balanced_avg.

    Raises
    ------
    InputError
        If the contacts or the weights are malformed.

    Notes
    -----
    As ``cooltools.expected_trans``.
    """
    pixels = read_pixels(contacts)
    values = read_weights(weights, pixels.bins.n)
    return trans_table(pixels, balanced(pixels, values), np.isfinite(values))


def observed_over_expected(
    contacts: pd.DataFrame,
    weights: ArrayLike | None = None,
    cis: pd.DataFrame | None = None,
    trans: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Balanced contacts over their expectation, row for row.

    Parameters
    ----------
    contacts, weights
        As for :func:`expected_cis`.
    cis, trans : DataFrame or None
        Tables of :func:`expected_cis` and :func:`expected_trans` on the same bins, for instance of pooled cells; None
        to make them of these contacts.

    Returns
    -------
    DataFrame
        balanced, oe, in the rows of ``contacts``; both NaN where a bin is left out.

    Raises
    ------
    InputError
        If the contacts or the weights are malformed, or a table is of other bins.
    """
    pixels = read_pixels(contacts)
    values = read_weights(weights, pixels.bins.n)
    scaled = balanced(pixels, values)
    oe = over_expected(pixels, scaled, np.isfinite(values), cis, trans)
    return pd.DataFrame({"balanced": scaled, "oe": oe}, index=contacts.index)


def balanced(pixels: Pixels, weights: Floats) -> Floats:
    """``count * weight * weight`` of each pixel, shape (K,), NaN where a bin is left out."""
    scaled = weights[pixels.bin1]
    scaled *= weights[pixels.bin2]
    scaled *= pixels.count
    return scaled


def cis_table(pixels: Pixels, scaled: Floats, valid: NDArray[np.bool_]) -> pd.DataFrame:
    """:func:`expected_cis` of checked arrays."""
    bins = pixels.bins
    kept = (bins.code[pixels.bin1] == bins.code[pixels.bin2]) & ~np.isnan(scaled)
    total = _sums(_cis_row(pixels, kept), scaled[kept], bins.n)
    n_valid = [_valid_pairs(valid[start:stop]) for start, stop in zip(bins.edges[:-1], bins.edges[1:], strict=True)]
    return _with_means(_cis_keys(bins), np.concatenate([np.empty(0, np.int64), *n_valid]), total)


def trans_table(pixels: Pixels, scaled: Floats, valid: NDArray[np.bool_]) -> pd.DataFrame:
    """:func:`expected_trans` of checked arrays."""
    bins, n = pixels.bins, len(pixels.bins.chroms)
    kept = (bins.code[pixels.bin1] != bins.code[pixels.bin2]) & ~np.isnan(scaled)
    first, second = np.triu_indices(n, 1)
    total = _sums(_trans_row(pixels, kept), scaled[kept], first.size)
    n_bins = np.bincount(bins.code[valid], minlength=n)
    return _with_means(_trans_keys(bins), n_bins[first] * n_bins[second], total)


def over_expected(
    pixels: Pixels,
    scaled: Floats,
    valid: NDArray[np.bool_],
    cis: pd.DataFrame | None = None,
    trans: pd.DataFrame | None = None,
) -> Floats:
    """Balanced over expected of checked arrays, shape (K,); NaN where a bin is left out or nothing is expected."""
    cis = None if cis is None else _checked(cis, _cis_keys(pixels.bins))
    trans = None if trans is None else _checked(trans, _trans_keys(pixels.bins))
    inside = pixels.bins.code[pixels.bin1] == pixels.bins.code[pixels.bin2]
    oe = np.empty(scaled.size)
    for rows, given, table, row in ((inside, cis, cis_table, _cis_row), (~inside, trans, trans_table, _trans_row)):
        if rows.any():
            mean = (table(pixels, scaled, valid) if given is None else given)["balanced_avg"].to_numpy()
            with np.errstate(invalid="ignore", divide="ignore"):
                oe[rows] = scaled[rows] / mean[row(pixels, rows)]
    oe[~np.isfinite(oe)] = np.nan
    return oe


def _sums(row: NDArray[np.int64], values: Floats, n_rows: int) -> Floats:
    return np.asarray(np.bincount(row, weights=values, minlength=n_rows), dtype=np.float64)


def _checked(given: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    if len(given) != len(keys) or any(name not in given or (given[name] != keys[name]).any() for name in keys):
        raise InputError(
            f"expected: rows by {', '.join(keys)} are not those of these bins; want a table of the same bins"
        )
    return given


def _with_means(table: pd.DataFrame, n_valid: NDArray[np.int64], total: Floats) -> pd.DataFrame:
    mean = np.full(total.size, np.nan)
    np.divide(total, n_valid, out=mean, where=n_valid > 0)
    return table.assign(n_valid=n_valid, balanced_sum=total, balanced_avg=mean)


def _cis_keys(bins: Bins) -> pd.DataFrame:
    names = np.asarray(bins.chroms, dtype=object)[bins.code]
    return pd.DataFrame({"chrom": names, "dist_bins": np.arange(bins.n) - bins.edges[bins.code]})


def _trans_keys(bins: Bins) -> pd.DataFrame:
    first, second = np.triu_indices(len(bins.chroms), 1)
    names = np.asarray(bins.chroms, dtype=object)
    return pd.DataFrame({"chrom1": names[first], "chrom2": names[second]})


def _cis_row(pixels: Pixels, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    bin1 = pixels.bin1[rows]
    return pixels.bins.edges[pixels.bins.code[bin1]] + (pixels.bin2[rows] - bin1)


def _trans_row(pixels: Pixels, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    n = len(pixels.bins.chroms)
    first = pixels.bins.code[pixels.bin1[rows]].astype(np.int64)
    return first * n - first * (first + 1) // 2 + pixels.bins.code[pixels.bin2[rows]] - first - 1


def _valid_pairs(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pairs of valid bins at each separation, from the autocorrelation of the mask."""
    size = fft.next_fast_len(2 * valid.size, real=True)
    spectrum = fft.rfft(valid.astype(np.float64), size)
    pairs = fft.irfft(spectrum * spectrum.conj(), size)[: valid.size]
    return np.rint(pairs).astype(np.int64)
