"""Simulated bulk contacts of one chromosome with planted loops, to see whether a test finds these and no others."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError


def simulate_loops(
    *,
    n_bins: int = 500,
    bin_size: int = 10_000,
    n_contacts: float = 2e6,
    n_loops: int = 100,
    fold: float = 3.0,
    dispersion: float = 0.02,
    coverage_sd: float = 0.3,
    decay: float = 1.0,
    max_separation: int = 200,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contacts whose frequency falls with distance, times the coverage of both bins, times a fold change in loops.

    Parameters
    ----------
    n_bins, bin_size : int
        Bins of the chromosome, and bp of each.
    n_contacts : float
        Contacts expected in all, without the loops' surplus.
    n_loops : int
        Pairs of bins whose mean count is ``fold`` times what it would be, at separations of 3 bins or more.
    fold : float
    dispersion : float
        Counts are negative binomial, variance mean + dispersion x mean^2; 0 for Poisson.
    coverage_sd : float
        Coverage of bins is log-normal with this standard deviation of its logarithm.
    decay : float
        The mean count falls as (separation + 1)^-decay.
    max_separation : int
        Largest separation with contacts, bins.
    seed : int

    Returns
    -------
    contacts : DataFrame
        bin1_id, bin2_id, count of the pairs with contacts, sorted; the bins in ``attrs["bins"]``.
    loops : DataFrame
        bin1_id, bin2_id, expected (mean count without the loop), sorted.

    Raises
    ------
    InputError
        If there is no room for the loops.
    """
    rng = np.random.default_rng(seed)
    most = min(max_separation, n_bins - 1)
    if not 0 <= n_loops <= sum(n_bins - d for d in range(3, most + 1)) // 2:
        raise InputError(f"n_loops is {n_loops}: too many for {n_bins} bins and separations of 3 to {most}")
    cover = np.exp(rng.normal(0.0, coverage_sd, n_bins))
    rate = np.arange(1, most + 2, dtype=float) ** -decay
    total = sum(rate[d] * (cover[: n_bins - d] @ cover[d:]) for d in range(most + 1))
    loops = _loop_places(rng, n_bins, most, n_loops)
    blocks = []
    for d in range(most + 1):
        mean = n_contacts / total * rate[d] * cover[: n_bins - d] * cover[d:]
        planted = loops[loops[:, 1] == d, 0]
        expected = mean[planted].copy()
        mean[planted] *= fold
        count = _draw(rng, mean, dispersion)
        blocks.append((d, np.flatnonzero(count), count[count > 0], planted, expected))
    first = np.concatenate([b[1] for b in blocks])
    second = np.concatenate([b[1] + b[0] for b in blocks])
    contacts = pd.DataFrame({"bin1_id": first, "bin2_id": second, "count": np.concatenate([b[2] for b in blocks])})
    contacts = contacts.sort_values(["bin1_id", "bin2_id"], ignore_index=True)
    start = np.arange(n_bins) * bin_size
    contacts.attrs["bins"] = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + bin_size})
    truth = pd.DataFrame(
        {
            "bin1_id": np.concatenate([b[3] for b in blocks]),
            "bin2_id": np.concatenate([b[3] + b[0] for b in blocks]),
            "expected": np.concatenate([b[4] for b in blocks]),
        }
    )
    return contacts, truth.sort_values(["bin1_id", "bin2_id"], ignore_index=True)


def _loop_places(rng: np.random.Generator, n_bins: int, most: int, n_loops: int) -> NDArray[np.int64]:
    """Distinct (lower bin, separation), even over separations; shape (loops, 2)."""
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < n_loops:
        d = int(rng.integers(3, most + 1))
        chosen[int(rng.integers(n_bins - d)), d] = None
    return np.array(list(chosen), dtype=np.int64).reshape(-1, 2)


def _draw(rng: np.random.Generator, mean: NDArray[np.float64], dispersion: float) -> NDArray[np.int64]:
    if dispersion > 0:
        mean = mean * rng.gamma(1.0 / dispersion, dispersion, mean.size)
    return rng.poisson(mean)
