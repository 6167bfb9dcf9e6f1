"""Write a contact store, pixels of one cell and some blocks at a time; see :mod:`enhancer_dask.contact_store`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from operator import floordiv, mod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from enhancer_dask._version import __version__
from enhancer_dask.contact_store import PIXELS_PER_CHUNK, SCHEMA, SCHEMA_VERSION
from enhancer_dask.errors import InputError
from enhancer_dask.io.files import staged
from enhancer_dask.io.pixels import ascend, chromosome_codes, chromosome_lengths
from enhancer_dask.stores import consolidate

Array = NDArray[Any]
COUNT_DTYPES = (np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64))


class ContactWriter:
    """A contact store in the making, in a folder that is not yet there.

    Parameters
    ----------
    path : path
        Name to write under; the caller renames it when whole (:func:`enhancer_dask.io.files.staged`).
    lengths : mapping
        Length in bp of each chromosome, in the order of the bins.
    cells : DataFrame, optional
        For single cells: index the names, columns become ``cell_<column>``.
    """

    def __init__(self, path: Path, lengths: Mapping[str, int], cells: pd.DataFrame | None = None) -> None:
        self.group = zarr.create_group(str(path))
        self.path, self.n_cells = path, 1 if cells is None else len(cells)
        self.digest = hashlib.blake2b(digest_size=16)
        self._put(self.group, "chrom_name", np.array(list(lengths), dtype=object))
        self._put(self.group, "chrom_length", np.array(list(lengths.values()), dtype=np.int64))
        if cells is not None:
            self._put(self.group, "cell", cells.index.to_numpy(dtype=object))
            for name in cells.columns:
                self._put(self.group, f"cell_{name}", _column(cells[name], str(name)))

    def add(
        self,
        resolution: int,
        bins: pd.DataFrame,
        pixels: Iterable[tuple[int, pd.DataFrame]],
        vectors: Mapping[str, NDArray[np.float64]] | None = None,
        dtype: np.dtype[Any] = COUNT_DTYPES[0],
    ) -> int:
        """Write one resolution.

        Parameters
        ----------
        resolution : int
            Size of the bins, bp.
        bins : DataFrame
            Columns chrom, start, end.
        pixels : iterable of (cell, DataFrame)
            Position of the cell (0 if bulk) and its contacts in **all** blocks of some first chromosomes, each pair
            of bins once; cells ascend, and so do the first chromosomes within a cell.
        vectors : mapping, optional
            Multiplicative weights by name.
        dtype : dtype
            Of the counts.

        Returns
        -------
        int
            Pixels written.
        """
        group = self.group.create_group(str(resolution))
        code = chromosome_codes(bins)
        self._put(group, "bin_chrom", code.astype(np.int32))
        for name in ("start", "end"):
            self._put(group, f"bin_{name}", bins[name].to_numpy(dtype=np.int64))
        for name, values in sorted((vectors or {}).items()):
            self._put(group, f"vector_{name}", np.asarray(values, dtype=np.float64))
        offset, block1, block2 = self._pixels(group, code, pixels, dtype)
        self._put(group, "block_chrom1", block1)
        self._put(group, "block_chrom2", block2)
        self._put(group, "offset", offset)
        return int(offset[-1, -1])

    def finish(self, attrs: Mapping[str, Any]) -> None:
        """Write the attributes, which make it a store."""
        known: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "software": __version__}
        self.group.attrs.update({**known, **attrs, "fingerprint": self.digest.hexdigest()})
        consolidate(self.path)

    def _pixels(
        self, group: zarr.Group, code: NDArray[np.int64], pixels: Iterable[tuple[int, pd.DataFrame]], dtype: Any
    ) -> tuple[Array, Array, Array]:
        columns = {"bin1": np.dtype(np.int32), "bin2": np.dtype(np.int32), "count": np.dtype(dtype)}
        arrays = {name: _Appended(group, name, kind, self.digest) for name, kind in columns.items()}
        n_chroms = int(code.max(initial=-1)) + 1
        sizes: dict[tuple[int, int], int] = {}
        for cell, table in pixels:
            bin1, bin2 = table["bin1_id"].to_numpy(), table["bin2_id"].to_numpy()
            block = code[bin1] * n_chroms + code[bin2]
            order = _order(block, bin1, bin2)
            for name, values in (("bin1", bin1), ("bin2", bin2), ("count", table["count"].to_numpy())):
                arrays[name].add(values[order])
            for found, size in zip(*np.unique(block, return_counts=True), strict=True):
                sizes[cell, int(found)] = int(size)
        for array in arrays.values():
            array.close()
        blocks = sorted({block for _, block in sizes})
        block1, block2 = (np.array([part(b, n_chroms) for b in blocks], dtype=np.int32) for part in (floordiv, mod))
        return _offsets(sizes, self.n_cells, blocks), block1, block2

    def _put(self, group: zarr.Group, name: str, values: Array) -> None:
        self.digest.update(f"{group.path}/{name}{values.tolist() if values.dtype == object else ''}".encode())
        if values.dtype == object:
            values = values.astype(np.dtypes.StringDType())
        else:
            self.digest.update(values.tobytes())
        shape = values.shape
        array = _create(group, name, values.dtype, tuple(max(1, n) for n in shape), shape)
        if values.size:
            array[...] = values


class _Appended:
    """An array of unknown length, written chunk by chunk."""

    def __init__(self, group: zarr.Group, name: str, dtype: np.dtype[Any], digest: Any) -> None:
        # no bin is below 0 and no count 0: a chunk that is missing is noticed when read
        fill = 0 if name == "count" else -1
        self.array = _create(group, name, dtype, (PIXELS_PER_CHUNK,), (0,), fill)
        # the fingerprint must not depend on how many pixels are added at a time
        self.dtype, self.digest, self.of_store = dtype, hashlib.blake2b(digest_size=16), digest
        self.held: list[Array] = []
        self.n_held = 0

    def add(self, values: Array) -> None:
        self.held.append(values.astype(self.dtype))
        self.n_held += len(values)
        if self.n_held >= PIXELS_PER_CHUNK:
            whole = np.concatenate(self.held)
            n = len(whole) - len(whole) % PIXELS_PER_CHUNK
            self._append(whole[:n])
            self.held, self.n_held = [whole[n:].copy()], len(whole) - n

    def close(self) -> None:
        if self.n_held:
            self._append(np.concatenate(self.held))
        self.of_store.update(self.digest.digest())

    def _append(self, values: Array) -> None:
        self.digest.update(values.tobytes())
        self.array.append(values)


def _order(block: Array, bin1: Array, bin2: Array) -> Any:
    """Rows by block, then bins; contacts within one chromosome mostly stand so already."""
    if (block[1:] == block[:-1]).all() and ascend(bin1, bin2):
        return slice(None)
    return np.lexsort((bin2, bin1, block))


def _create(
    group: zarr.Group, name: str, dtype: Any, chunks: tuple[int, ...], shape: tuple[int, ...], fill: Any = None
) -> Any:
    text = not isinstance(dtype, np.dtype) or dtype.kind not in "biuf"
    codec = BloscCodec(cname="zstd", clevel=5, shuffle="noshuffle" if text else "shuffle")
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, compressors=[codec, Crc32cCodec()],
        config={"write_empty_chunks": True},
    )  # fmt: skip


def _offsets(sizes: Mapping[tuple[int, int], int], n_cells: int, blocks: list[int]) -> NDArray[np.int64]:
    counts = np.zeros((n_cells, len(blocks)), dtype=np.int64)
    place = {block: i for i, block in enumerate(blocks)}
    for (cell, block), size in sizes.items():
        counts[cell, place[block]] = size
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    offset = np.zeros((n_cells, len(blocks) + 1), dtype=np.int64)
    offset[:, 1:] = ends
    before = counts.sum(axis=1)
    offset[:, 0] = np.cumsum(before) - before
    return offset


def _column(values: pd.Series, name: str) -> Array:
    if "/" in name:
        raise InputError(f"cell table: column {name!r} has a '/' in its name, which a Zarr store cannot hold")
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return np.asarray(values)
    return np.asarray(values.astype(object).where(values.notna(), "").astype(str), dtype=object)


def count_dtype(tables: Iterable[pd.DataFrame]) -> np.dtype[Any]:
    """Smallest of int32, int64, float64 that holds all counts."""
    found: np.dtype[Any] = COUNT_DTYPES[0]
    for table in tables:
        count = table["count"].to_numpy()
        if count.dtype.kind == "f":
            return COUNT_DTYPES[2]
        if count.max(initial=0) > np.iinfo(np.int32).max:
            found = COUNT_DTYPES[1]
    return found


def write_contacts(
    out: str | Path,
    contacts: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    vectors: Mapping[str, NDArray[np.float64]] | None = None,
    cells: pd.DataFrame | None = None,
    assembly: str = "",
) -> None:
    """Write contacts that are in memory as a store of one resolution, whole or not at all; it replaces what is there.

    Parameters
    ----------
    out : path
        Folder to write.
    contacts : DataFrame, or mapping of cell name to DataFrame
        As :func:`enhancer_dask.read_contacts` gives them, each pair of bins once; all with the same bins.
    vectors : mapping, optional
        Multiplicative weights by name, shape (bins,).
    cells : DataFrame, optional
        Columns known per cell, rows in the order of the mapping.
    assembly : str
        Name of the genome assembly.

    Raises
    ------
    InputError
        If the bins are not of one size, or there is no cell.
    """
    frames = {"": contacts} if isinstance(contacts, pd.DataFrame) else dict(contacts)
    if not frames:
        raise InputError(f"{out}: no cells to write")
    bins = next(iter(frames.values())).attrs["bins"]
    table = None if isinstance(contacts, pd.DataFrame) else pd.DataFrame(index=list(frames))
    if table is not None and cells is not None:
        table = cells.set_axis(list(frames))
    with staged(Path(out)) as work:
        writer = ContactWriter(work, chromosome_lengths(bins), table)
        writer.add(bin_size(bins, str(out)), bins, enumerate(frames.values()), vectors, count_dtype(frames.values()))
        writer.finish({"assembly": assembly})


def bin_size(bins: pd.DataFrame, label: str) -> int:
    """Size of the bins, bp.

    Raises
    ------
    InputError
        If they differ in size, other than the last of a chromosome.
    """
    size = (bins["end"] - bins["start"]).to_numpy(dtype=np.int64)
    largest = int(size.max(initial=0))
    last = np.append(np.diff(chromosome_codes(bins)) != 0, True)
    if len(bins) == 0 or (size[~last] != largest).any():
        raise InputError(f"{label}: bins are not of one size, want a fixed resolution")
    return largest
