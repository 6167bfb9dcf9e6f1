"""Values along chromosomes out: bigWig files for browsers, Zarr stores for arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from enhancer_dask._version import __version__
from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.io.files import is_url, staged
from enhancer_dask.stores import consolidate

SCHEMA, SCHEMA_VERSION = "enhancer-dask tracks", 1
BIGWIG_ENDINGS = (".bw", ".bigWig", ".bigwig")
BINS_PER_CHUNK = 1_000_000
Array = NDArray[Any]


def write_bigwig(bins: pd.DataFrame, path: str | Path, column: str, lengths: Mapping[str, int]) -> int:
    """Write one value per bin as a bigWig, at once or not at all.

    Parameters
    ----------
    bins : DataFrame
        Columns chrom, start, end (bp, 0-based, half-open) and ``column``, in any order; bins without a value (NaN) are
        left out.
    path : path
        Ends in ``.bw`` or ``.bigWig``; replaced if it exists.
    column : str
        Kept as float32.
    lengths : mapping
        Length of each chromosome, bp, in the order of the file. ``1`` and ``chr1`` are one chromosome; the file calls
        it as ``lengths`` does.

    Returns
    -------
    int
        Bins written.

    Raises
    ------
    InputError
        If the name has another ending, bins overlap, one lies beyond the end of its chromosome or on none of them, a
        value is infinite, or there is nothing to write.
    """
    path = Path(path)
    check_bigwig(path)
    bins = bins[bins[column].notna()]
    if bins.empty:
        raise InputError(f"{path}: no bin has a {column!r} to write")
    table = _placed(bins, lengths, path)
    _refuse(table, np.isinf(table[column].to_numpy(np.float64)), path, "is infinite")
    with staged(path) as work:
        named = work.with_name(f"{work.name}.bw")  # the writer wants an ending that it knows
        try:
            _write(table, named, column, lengths)
            named.rename(work)
        finally:
            named.unlink(missing_ok=True)
    return len(table)


def check_bigwig(path: str | Path) -> None:
    """Refuse names that are not those of bigWig files, or are URLs.

    Raises
    ------
    InputError
    """
    if is_url(path):
        raise InputError(f"{path}: written to a file system, want a path; copy the finished file there")
    if Path(path).suffix not in BIGWIG_ENDINGS:
        raise InputError(f"{path}: want a name that ends in .bw or .bigWig")


def _placed(bins: pd.DataFrame, lengths: Mapping[str, int], path: Path) -> pd.DataFrame:
    """Bins in the order of the file, checked: the writer itself says little of what is wrong."""
    names = ChromosomeNames(lengths, "the bins")
    codes = {chrom: names.code(str(chrom)) for chrom in bins["chrom"].unique()}
    for chrom, code in codes.items():
        if code < 0:
            raise InputError(f"{path}: no length of chromosome {chrom!r}; there are {', '.join(list(lengths)[:5])} ...")
    table = bins.assign(code=bins["chrom"].map(codes)).sort_values(["code", "start"], kind="stable")
    code, start, end = (table[c].to_numpy(np.int64) for c in ("code", "start", "end"))
    limit = np.array(list(lengths.values()), dtype=np.int64)[code]
    _refuse(table, (start < 0) | (end > limit) | (end <= start), path, "is not within its chromosome")
    again = np.r_[False, (code[1:] == code[:-1]) & (start[1:] < end[:-1])]
    _refuse(table, again, path, "overlaps the one before it")
    return table


def _refuse(table: pd.DataFrame, bad: Array, path: Path, what: str) -> None:
    if bad.any():
        row = table.iloc[int(bad.argmax())]
        raise InputError(f"{path}: bin {row['chrom']}:{row['start']}-{row['end']} {what}")


def _write(table: pd.DataFrame, path: Path, column: str, lengths: Mapping[str, int]) -> None:
    import pybigtools

    names = list(lengths)

    def records() -> Iterator[tuple[str, int, int, float]]:
        columns = (table["code"], table["start"], table["end"], table[column])
        for code, start, end, value in zip(*(c.to_numpy() for c in columns), strict=True):
            yield names[code], int(start), int(end), float(value)

    pybigtools.open(str(path), "w").write({name: int(size) for name, size in lengths.items()}, records())
    try:  # the writer prints its errors and goes on
        pybigtools.open(str(path)).chroms()
    except Exception as err:
        raise OSError(f"bigWig not written ({str(err).splitlines()[0]})") from err


def write_tracks(
    bins: pd.DataFrame,
    path: str | Path,
    columns: Mapping[str, str],
    lengths: Mapping[str, int],
    *,
    attributes: Mapping[str, Any] | None = None,
) -> int:
    """Write several values per bin as a Zarr store that xarray opens, at once or not at all.

    Parameters
    ----------
    bins : DataFrame
        Columns chrom, start, end and those of ``columns``, in any order.
    path : path
        Replaced if it exists.
    columns : mapping
        Variables of the store and the columns that they are of; kept as float32.
    lengths : mapping
        Chromosomes in order, and their lengths in the unit of start and end. ``1`` and ``chr1`` are one chromosome.
    attributes : mapping, optional
        JSON values to go with the store.

    Returns
    -------
    int
        Bins written.

    Raises
    ------
    InputError
        If there is nothing to write, bins overlap, or one lies beyond the end of its chromosome or on none of them.

    Notes
    -----
    Dimension ``bin``: ``bin_chrom`` (int32, position in ``chrom_name``), ``bin_start``, ``bin_end`` (int64) and the
    variables; dimension ``chrom``: ``chrom_name``, ``chrom_length``, ``chrom_first_bin``, ``chrom_n_bins``. Bins are
    sorted by chromosome and start, so those of a chromosome are one slice. Chunks are Zstd with a CRC-32C each.
    """
    path = Path(path)
    if bins.empty:
        raise InputError(f"{path}: no bin to write")
    table = _placed(bins, lengths, path)
    n_bins = np.bincount(table["code"], minlength=len(lengths))
    with staged(path) as work:
        group = zarr.create_group(str(work))
        _put(group, "chrom_name", np.array(list(lengths), dtype=object), "chrom")
        _put(group, "chrom_length", np.array(list(lengths.values()), dtype=np.int64), "chrom")
        _put(group, "chrom_first_bin", np.cumsum(n_bins) - n_bins, "chrom")
        _put(group, "chrom_n_bins", n_bins.astype(np.int64), "chrom")
        _put(group, "bin_chrom", table["code"].to_numpy(np.int32), "bin")
        for name in ("start", "end"):
            _put(group, f"bin_{name}", table[name].to_numpy(np.int64), "bin")
        for name, column in columns.items():
            _put(group, name, table[column].to_numpy(np.float32), "bin")
        group.attrs.update(
            {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "software": __version__, **(attributes or {})}
        )
        consolidate(work)
    return len(table)


def _put(group: zarr.Group, name: str, values: Array, *dims: str) -> None:
    if values.dtype == object:
        values = values.astype(np.dtypes.StringDType())
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, min(n, BINS_PER_CHUNK)) for n in values.shape),
        dtype=values.dtype,
        dimension_names=dims,
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
    )
    array[...] = values


def merged_lengths(own: Mapping[str, int], given: Mapping[str, int] | None, names: Sequence[str]) -> dict[str, int]:
    """Lengths of chromosomes, those given before those that the bins reach to.

    Raises
    ------
    InputError
        If bins reach beyond a length that is given, or a chromosome is not among them.
    """
    if given is None:
        return dict(own)
    codes = ChromosomeNames(given, "the bins")
    for name in names:
        code = codes.code(name)
        if code < 0 or list(given.values())[code] < own[name]:
            found = "is missing" if code < 0 else f"has {list(given.values())[code]} bp, bins reach to {own[name]}"
            raise InputError(f"chromosome sizes: {name!r} {found}; want those of the graphs' assembly")
    return dict(given)
