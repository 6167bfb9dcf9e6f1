"""Windows along a chromosome, and the bins of each that a loss counts.

Epi-GraphReg [1]_ takes 6 Mb every 2 Mb and counts the middle 2 Mb of each, after padding the chromosome on both sides.
Here nothing is padded: all windows of a chromosome have the same number of bins and lie within it, the last one shifted
back to its end.

References
----------
.. [1] Karbalayghareh et al. (2022), Chromatin interaction-aware gene regulatory modeling with graph attention networks.
   Genome Research 32, 930-944.
"""

from __future__ import annotations

from typing import NamedTuple

from enhancer_dask.errors import InputError


class Window(NamedTuple):
    """Bins ``start:stop`` of a chromosome; the loss counts ``loss_start:loss_stop``, which lies within."""

    start: int
    stop: int
    loss_start: int
    loss_stop: int


def windows(n_bins: int, size: int, step: int) -> list[Window]:
    """Cut a chromosome into windows.

    Parameters
    ----------
    n_bins : int
        Bins of the chromosome, at least 1.
    size, step : int
        In bins, ``step <= size``.

    Returns
    -------
    list of Window
        In order. Every bin of the chromosome is in the loss mask of exactly one window: the middle ``step`` bins of
        each; in the first window also those before, in the last also those after, since beyond the ends there is
        nothing that a window could show. So between a bin that counts and the end of its window lie at least
        ``(size - step) // 2`` bins, or the end of the chromosome. A chromosome of up to ``size`` bins is one window.

    Raises
    ------
    InputError
        If size or step make no sense.

    Examples
    --------
    >>> windows(10, 6, 2)
    [Window(start=0, stop=6, loss_start=0, loss_stop=4), Window(start=2, stop=8, loss_start=4, loss_stop=6),
     Window(start=4, stop=10, loss_start=6, loss_stop=10)]
    """
    if not 1 <= step <= size:
        raise InputError(f"windows have {size} bins every {step}; want 1 <= step <= size")
    flank = (size - step) // 2
    found: list[Window] = []
    for begin in range(0, max(1, n_bins - size + step), step):
        start = max(0, min(begin, n_bins - size))
        stop = min(n_bins, start + size)
        loss_start = found[-1].loss_stop if found else 0
        found.append(Window(start, stop, loss_start, n_bins if stop == n_bins else begin + flank + step))
    return found


def in_bins(bp: int, resolution: int, name: str) -> int:
    """A length in bins.

    Raises
    ------
    InputError
        If it is no multiple of the resolution.
    """
    if bp < resolution or bp % resolution:
        raise InputError(f"{name} is {bp} bp; want a multiple of the resolution, {resolution} bp")
    return bp // resolution
