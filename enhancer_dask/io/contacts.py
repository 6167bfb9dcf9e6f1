"""Hi-C contacts of one file, of whatever kind, as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io import coolers, hic_files
from enhancer_dask.io.chromosomes import ChromosomeNames, Sizes, check_same_assembly, read_chromsizes
from enhancer_dask.io.pair_columns import find_columns
from enhancer_dask.io.pairs import bin_pairs
from enhancer_dask.io.pixels import PixelSum, ascend, chromosome_codes, chromosome_lengths, make_bins, pixel_table

Kind = Literal["pairs", "cool", "hic"]


def read_contacts(
    path: str | Path,
    resolution: int | None = None,
    cell: str | None = None,
    chromsizes: Sizes | None = None,
    one_based: bool = True,
) -> pd.DataFrame:
    """Contacts of a ``.pairs``, ``.cool``, ``.mcool``, ``.scool`` or ``.hic`` file.

    The kind is told by the content, not by the name.

    Parameters
    ----------
    path : path
        Pairs may be plain or gzip; see :func:`enhancer_dask.io.pair_columns.find_columns` for their columns.
    resolution : int, optional
        Size of the bins, bp. Must be given for pairs and where a file has several.
    cell : str, optional
        Cell of a ``.scool`` (with or without ``/cells/`` and ``.cool``), or barcode of a file of pairs that has them.
    chromsizes : mapping, DataFrame or path, optional
        Chromosomes and their lengths in bp; they give the bins and their order. By default those of the file; pairs
        without a header have none. ``chr1``, ``1`` and ``mm10_chr1`` name one chromosome. Contacts on other contigs are
        dropped.
    one_based : bool
        Positions in pairs count from 1: bin ``(pos - 1) // resolution``; else from 0.

    Returns
    -------
    DataFrame
        Columns bin1_id, bin2_id (bin1_id <= bin2_id; genome-wide, 0-based, in the order of the bins), count (int64;
        float64 if the file has fractions), sorted by both bins. ``attrs["bins"]`` is a DataFrame chrom, start, end
        (bp, 0-based, half-open), row = bin id; ``attrs["dropped"]`` the contacts left out by contig (for matrices:
        the sum of their counts), ``attrs["flipped"]`` the pairs of which the later position stood first. Empty the
        ``attrs`` of tables before ``pandas.concat``, which cannot compare the tables in them.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, lacks the resolution or the cell, a position lies outside its
        chromosome, pairs are not sorted although their header says so, or chromosomes have other sizes than given.
    """
    path = _existing(path)
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution is {resolution} bp; want 1 or more")
    sizes = None if chromsizes is None else read_chromsizes(chromsizes)
    if kind_of(path) == "pairs":
        if resolution is None:
            raise InputError(f"{path}: pairs have no resolution of their own; give one, in bp")
        known = pair_sizes(path, sizes)
        found = bin_pairs(path, known, [resolution], one_based=one_based, cell=cell)
        if found.n_contacts and found.dropped.total() == found.n_contacts:
            raise _nothing_known(path, next(iter(found.dropped)), known)
        table = found.sums[resolution].table()
        table.attrs = {"bins": make_bins(known, resolution), "dropped": dict(found.dropped), "flipped": found.n_flipped}
        return table
    table = read_matrix(path, resolution, cell)
    table.attrs |= {"dropped": {}, "flipped": 0}
    return table if sizes is None else onto(table, sizes, path)


def read_vectors(
    path: str | Path, resolution: int | None = None, names: Sequence[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Weights per bin that a matrix file carries, all multiplicative: balanced = count * w[bin1] * w[bin2].

    Vectors of ``.hic`` files, and KR, VC, VC_SQRT and SCALE in coolers made from them, divide; they come back inverted.
    Cooler's ``weight`` multiplies and is called ``ICE``.

    Parameters
    ----------
    path : path
    resolution : int, optional
        As in :func:`read_contacts`.
    names : sequence of str, optional
        Those that must be there and usable; by default all that are usable.

    Returns
    -------
    dict of float64 arrays, shape (bins,)
        NaN where a bin is left out.

    Raises
    ------
    InputError
        If a vector asked for is not there, NaN in all bins, or negative or infinite anywhere.
    """
    path = _existing(path)
    table = vector_table(path, resolution)
    found = {str(name): table[name].to_numpy(dtype=np.float64) for name in table.columns[3:]}
    for name in names or []:
        if name not in found:
            raise InputError(f"{path}: no vector {name!r}; it has {', '.join(found) or 'none'}")
        why = unusable(found[name])
        if why:
            raise InputError(f"{path}: vector {name!r} {why}")
    return {name: values for name, values in found.items() if (names is None or name in names) and not unusable(values)}


def vector_table(path: Path, resolution: int | None) -> pd.DataFrame:
    """Bins of a matrix file (chrom, start, end) with a column for each vector, multiplicative, usable or not."""
    kind = kind_of(path)
    if kind == "pairs":
        raise InputError(f"{path}: pairs carry no vectors")
    return (hic_files.hic_vectors if kind == "hic" else coolers.cooler_vectors)(path, resolution)


def unusable(weights: NDArray[np.float64]) -> str:
    """What is wrong with weights; empty if nothing is. NaN in some bins is normal: they are left out."""
    if np.isnan(weights).all():
        return "is NaN in all bins"
    bad = (weights <= 0) | np.isinf(weights)
    return f"is {weights[bad][0]} in bin {np.flatnonzero(bad)[0]}, want a positive number or NaN" if bad.any() else ""


def kind_of(path: Path) -> Kind:
    """Kind of a file by its first bytes."""
    with open(path, "rb") as handle:
        begin = handle.read(8)
    if begin == b"\x89HDF\r\n\x1a\n":
        return "cool"
    return "hic" if begin.startswith(b"HIC\0") else "pairs"


def pair_sizes(path: Path, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Chromosome sizes for a file of pairs: those given, checked against its header, or those of the header.

    Raises
    ------
    InputError
        If there are none, or they differ.
    """
    own = find_columns(path).sizes
    if sizes is None:
        if not own:
            raise InputError(f"{path}: has no header with chromosome sizes; give chromsizes")
        return own
    check_same_assembly(sizes, own, "chromsizes", str(path))
    return dict(sizes)


def read_matrix(path: Path, resolution: int | None, cell: str | None = None) -> pd.DataFrame:
    """Contacts of a ``.hic`` or cooler file with its own bins."""
    if kind_of(path) == "cool":
        return coolers.read_cooler(path, resolution, cell)
    if cell is not None:
        raise InputError(f"{path}: holds bulk contacts, so no cell can be chosen")
    return hic_files.read_hic(path, resolution)


def onto(contacts: pd.DataFrame, sizes: Mapping[str, int], path: Path, resolution: int | None = None) -> pd.DataFrame:
    """The same contacts on the chromosomes of ``sizes``, in their order, and on larger bins if a resolution is given.

    Raises
    ------
    InputError
        If a chromosome has another length, or none is there.
    """
    moved, bins = bins_onto(contacts.attrs["bins"], sizes, path, resolution)
    bin1, bin2, count = (contacts[name].to_numpy() for name in contacts)
    if np.array_equal(moved, np.arange(len(bins))) and ascend(bin1, bin2) and count.all():  # nothing moves
        same = pixel_table(bin1, bin2, count)
        same.attrs = {"bins": bins, "dropped": {}, "flipped": 0}
        return same
    to1, to2 = moved[bin1], moved[bin2]
    kept = (to1 >= 0) & (to2 >= 0)
    total = PixelSum(len(bins))
    total.add(to1[kept], to2[kept], count[kept])
    lost: Counter[str] = Counter()
    chrom = contacts.attrs["bins"]["chrom"].to_numpy()[np.where(to1 < 0, bin1, bin2)[~kept]]
    for name, n in pd.Series(count[~kept]).groupby(chrom).sum().items():
        lost[str(name)] += n
    table = total.table()
    table.attrs = {"bins": bins, "dropped": dict(lost), "flipped": 0}
    return table


def bins_onto(
    bins: pd.DataFrame, sizes: Mapping[str, int], path: Path, resolution: int | None = None
) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """New number of each bin (-1: none) on the chromosomes of ``sizes``, and the new bins."""
    own = chromosome_lengths(bins)
    check_same_assembly(sizes, own, "chromsizes", str(path))
    names = ChromosomeNames(sizes, str(path))
    code_of = np.array([names.code(name) for name in own], dtype=np.int64)
    if (code_of < 0).all():
        raise _nothing_known(path, next(iter(own)), sizes)
    code = code_of[chromosome_codes(bins)]
    moved = np.full(len(bins), -1, dtype=np.int64)
    if resolution is not None:
        n_bins = np.array([-(-size // resolution) for size in sizes.values()], dtype=np.int64)
        first, kept = np.cumsum(n_bins) - n_bins, code >= 0
        moved[kept] = first[code[kept]] + bins["start"].to_numpy()[kept] // resolution
        return moved, make_bins(dict(sizes), resolution)
    order = np.argsort(code, kind="stable")
    order = order[code[order] >= 0]
    moved[order] = np.arange(len(order))
    kept_bins = bins.iloc[order].reset_index(drop=True)
    kept_bins["chrom"] = np.array(list(sizes), dtype=object)[code[order]]
    return moved, kept_bins


def _nothing_known(path: Path, example: str, sizes: Mapping[str, int]) -> InputError:
    return InputError(
        f"{path}: no contact lies on a known chromosome: it has {example!r}, known are {', '.join(list(sizes)[:3])} ..."
    )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path
