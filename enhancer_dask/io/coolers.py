"""Contacts of ``.cool``, ``.mcool`` and ``.scool`` files, read with cooler, which also opens those of 2016."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import EnhancerDaskError, InputError
from enhancer_dask.io.pixels import PixelSum, ascend, pixel_table, widest

PARTS = {"bins", "pixels", "chroms"}
# hic2cool copies the vectors of a .hic file, which divide; cooler's own ``weight`` multiplies
DIVISIVE = re.compile(r"(GW_|INTER_)?(KR|VC|VC_SQRT|SCALE)")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file; whatever HDF5 or cooler cannot read is a damaged file."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except EnhancerDaskError:
        raise
    except Exception as err:  # damaged files make HDF5 and cooler raise anything
        why = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"{path}: not readable as a cooler file, truncated or damaged ({why})") from err


def cooler_resolutions(path: Path) -> list[int]:
    """Bin sizes of the file in bp, ascending; empty if its bins have different sizes.

    Raises
    ------
    InputError
        If the file is damaged or holds no contacts.
    """
    with _opened(path) as file:
        if "resolutions" in file:
            return sorted(int(name) for name in file["resolutions"])
        cells = cooler_cells(path)
        size = _cooler(file[f"cells/{cells[0]}"] if cells else _root(file, path)).binsize
        return [] if size is None else [int(size)]


def cooler_cells(path: Path) -> list[str]:
    """Names of the cells of a ``.scool`` as the file has them; empty for bulk contacts."""
    with _opened(path) as file:
        return [] if "cells" not in file else [str(name) for name in file["cells"]]


def cooler_sizes(path: Path) -> dict[str, int]:
    """Length in bp of each chromosome, in the order of the bins."""
    with _opened(path) as file:
        group = file
        if "resolutions" in file:
            group = file["resolutions"][next(iter(file["resolutions"]))]
        elif "cells" in file:
            group = file["cells"][next(iter(file["cells"]))]
        sizes = _cooler(_root(group, path)).chromsizes
        return {str(name): int(size) for name, size in sizes.items()}


def read_cooler(path: Path, resolution: int | None = None, cell: str | None = None) -> pd.DataFrame:
    """All contacts, upper triangle, with the file's own bins in ``attrs``; see :func:`enhancer_dask.read_contacts`.

    Notes
    -----
    Square storage that is symmetric holds each contact twice, so one triangle is taken; if it is not, each contact was
    counted on one side only, and the two sides are added.
    """
    with _opened(path) as file:
        source = _chosen(file, path, resolution, cell)
        bins = source.bins()[["chrom", "start", "end"]][:]
        bins["chrom"] = bins["chrom"].astype(str).astype(object)
        pixels = source.pixels()[["bin1_id", "bin2_id", "count"]][:]
        bin1, bin2, count = (pixels[name].to_numpy() for name in pixels)
        if len(bin1) and any(ends.min() < 0 or ends.max() >= len(bins) for ends in (bin1, bin2)):
            raise InputError(f"{path}: pixels name bins that are not there, the file is damaged")
        if not np.isfinite(count).all() or (count < 0).any():
            raise InputError(f"{path}: column 'count' has negative or missing values, want contacts")
        above = bin1 <= bin2
        if not above.all() and _mirrored(bin1, bin2, count):
            bin1, bin2, count = bin1[above], bin2[above], count[above]
        table = _summed(bin1, bin2, count, len(bins))
        table.attrs["bins"] = bins.astype({"start": np.int64, "end": np.int64})
        return table


def cooler_vectors(path: Path, resolution: int | None = None) -> pd.DataFrame:
    """Bins with their columns of weights, made multiplicative; cooler's ``weight`` is called ``ICE``.

    Whether a column divides is what its attribute ``divisive_weights`` says; without one its name decides.
    """
    with _opened(path) as file:
        if "cells" in file:
            raise InputError(f"{path}: holds single cells, which carry no vectors")
        source = _chosen(file, path, resolution, None)
        bins = source.bins()[:]
        with source.open("r") as group:
            said = {name: group["bins"][name].attrs.get("divisive_weights") for name in bins.columns}
        found = bins[["chrom", "start", "end"]].copy()
        for name in bins.columns.drop(list(found.columns)):
            if bins[name].dtype.kind == "f":
                called = "ICE" if name == "weight" and "ICE" not in bins else str(name)
                values = bins[name].to_numpy(dtype=np.float64)
                divides = DIVISIVE.fullmatch(called) if said[name] is None else said[name]
                found[called] = inverted(values) if divides else values
        return found


def inverted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiplicative weights from those that divide; NaN where they are NaN or 0, as those of empty bins are."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(values == 0, np.nan, 1.0 / values), dtype=np.float64)


def _cooler(group: Any) -> Any:
    import cooler

    return cooler.Cooler(group)


def _root(group: Any, path: Path) -> Any:
    if not set(group) >= PARTS:
        raise InputError(f"{path}: no contacts there; want bins, chroms and pixels, or resolutions, or cells")
    return group


def _chosen(file: h5py.File, path: Path, resolution: int | None, cell: str | None) -> Any:
    if cell is not None and "cells" not in file:
        raise InputError(f"{path}: holds bulk contacts, so no cell can be chosen")
    if "resolutions" in file:
        known = sorted(int(name) for name in file["resolutions"])
        if resolution is None and len(known) > 1:
            raise InputError(f"{path}: has several resolutions, choose one of {_listed(known)}")
        wanted = known[0] if resolution is None else resolution
        check_resolution(path, wanted, known)
        return _cooler(file["resolutions"][str(wanted)])
    if "cells" in file:
        source = _cooler(_root(file["cells"][_cell(path, list(file["cells"]), cell)], path))
    else:
        source = _cooler(_root(file, path))
    if resolution is not None:
        check_resolution(path, resolution, [] if source.binsize is None else [int(source.binsize)])
    return source


def _cell(path: Path, cells: list[str], cell: str | None) -> str:
    if cell is None:
        raise InputError(f"{path}: has {len(cells)} cells, choose one, for instance {cells[0]!r}")
    by_name = {plain_cell(name): name for name in cells}
    if plain_cell(cell) not in by_name:
        raise InputError(f"{path}: no cell is named {cell!r}; first cells: {', '.join(cells[:3])}")
    return by_name[plain_cell(cell)]


def plain_cell(name: str) -> str:
    """A cell's name without ``/cells/`` and ``.cool``, as files have it with and without.

    Examples
    --------
    >>> plain_cell("/cells/A1.cool")
    'A1'
    """
    return name.removeprefix("/").removeprefix("cells/").removesuffix(".cool")


def check_resolution(path: Path, resolution: int, known: list[int]) -> None:
    """Refuse a resolution that the file does not have.

    Raises
    ------
    InputError
        Names those that are there.
    """
    if resolution not in known:
        raise InputError(
            f"{path}: no contacts at {resolution} bp; "
            + (f"resolutions are: {_listed(known)}" if known else "its bins have different sizes")
        )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _mirrored(bin1: NDArray[Any], bin2: NDArray[Any], count: NDArray[Any]) -> bool:
    """Whether the lower triangle is the upper one again."""
    upper, lower = np.flatnonzero(bin1 < bin2), np.flatnonzero(bin1 > bin2)
    if len(upper) != len(lower):
        return False
    upper = upper[np.lexsort((bin2[upper], bin1[upper]))]
    lower = lower[np.lexsort((bin1[lower], bin2[lower]))]
    pairs = ((bin1, bin2), (bin2, bin1), (count, count))
    return all(bool((a[upper] == b[lower]).all()) for a, b in pairs)


def _summed(bin1: NDArray[Any], bin2: NDArray[Any], count: NDArray[Any], n_bins: int) -> pd.DataFrame:
    if (bin1 <= bin2).all() and ascend(bin1, bin2):  # as nearly all files are
        kept = count != 0
        return pixel_table(bin1[kept], bin2[kept], widest(count[kept]))
    total = PixelSum(n_bins)
    total.add(bin1, bin2, count)
    return total.table()
