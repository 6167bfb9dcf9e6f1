"""Contacts of ``.hic`` files, read with hictkpy. Its objects cannot be pickled: a task opens the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.errors import EnhancerDaskError, InputError
from enhancer_dask.io.coolers import check_resolution, inverted
from enhancer_dask.io.pixels import pixel_table


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The package; whatever it cannot read is a damaged file."""
    try:
        import hictkpy
    except ImportError as err:
        raise InputError(f"{path}: .hic files need hictkpy; pip install 'enhancer-dask[hic]'") from err
    try:
        yield hictkpy
    except EnhancerDaskError:
        raise
    except Exception as err:  # damaged files make hictk raise anything
        why = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"{path}: not readable as a .hic file, truncated or damaged ({why})") from err


def hic_resolutions(path: Path) -> list[int]:
    """Bin sizes in bp, ascending."""
    with _reading(path) as hictkpy:
        return sorted(int(size) for size in hictkpy.MultiResFile(str(path)).resolutions())


def hic_sizes(path: Path) -> dict[str, int]:
    """Length in bp of each chromosome, in the order of the bins."""
    with _reading(path) as hictkpy:
        sizes = hictkpy.MultiResFile(str(path)).chromosomes()
        return {str(name): int(size) for name, size in sizes.items()}


def read_hic(path: Path, resolution: int | None = None) -> pd.DataFrame:
    """All contacts, upper triangle, with the file's own bins in ``attrs``; see :func:`enhancer_dask.read_contacts`."""
    with _reading(path) as hictkpy:
        file = hictkpy.File(str(path), _chosen(path, resolution))
        pixels = file.fetch(count_type="float64").to_df()
        count = pixels["count"].to_numpy()
        if not np.isfinite(count).all() or (count < 0).any():
            raise InputError(f"{path}: has negative or missing counts, want contacts")
        if (count == np.floor(count)).all():
            count = count.astype(np.int64)
        bin1, bin2 = pixels["bin1_id"].to_numpy(), pixels["bin2_id"].to_numpy()
        order, kept = np.lexsort((bin2, bin1)), count != 0
        order = order[kept[order]]
        table = pixel_table(bin1[order], bin2[order], count[order])
        table.attrs["bins"] = _bins(file)
        return table


def hic_vectors(path: Path, resolution: int | None = None) -> pd.DataFrame:
    """Bins with the vectors that the file carries, made multiplicative."""
    with _reading(path) as hictkpy:
        file = hictkpy.File(str(path), _chosen(path, resolution))
        found = _bins(file)
        for name in sorted(file.avail_normalizations()):
            found[name] = inverted(np.array(file.weights(name, divisive=True), dtype=np.float64))
        return found


def _bins(file: Any) -> pd.DataFrame:
    bins = file.bins().to_df()
    chrom = bins["chrom"].astype(str).astype(object)
    return pd.DataFrame({"chrom": chrom, "start": bins["start"].astype(np.int64), "end": bins["end"].astype(np.int64)})


def _chosen(path: Path, resolution: int | None) -> int:
    known = hic_resolutions(path)
    if resolution is None and len(known) > 1:
        raise InputError(f"{path}: has several resolutions, choose one of {', '.join(map(str, known))}")
    wanted = known[0] if resolution is None else resolution
    check_resolution(path, wanted, known)
    return wanted
