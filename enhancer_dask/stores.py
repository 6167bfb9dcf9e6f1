"""The multiome store: create, open, validate, read blocks. The schema is documented in stores/README.md.

Tasks read through :class:`MultiomeStore`, which checks every block it reads: each chunk carries a CRC-32C, and
the number of non-zero cells per feature and cell type must be what ingest counted, so that even a chunk file
that went missing (which Zarr reads as zeros) is noticed.

A store is read from a folder or from any URL that fsspec knows; it is written to a folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from fsspec.core import url_to_fs
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from enhancer_dask.errors import InputError, StoreError, first_line
from enhancer_dask.io.files import is_url

Location = Path | str
"""A folder, or a URL such as ``s3://bucket/multiome.zarr``; see :func:`located`."""

SCHEMA = "enhancer-dask multiome"
SCHEMA_VERSION = 1

FEATURE_CHUNK = 256
CELL_CHUNK = 10_000
FEATURE_DIM = {"rna": "gene", "atac": "peak"}
# variable -> dimensions; cell_* columns beyond these are covariates of the user
VARIABLES: dict[str, tuple[str, ...]] = {
    "rna": ("gene", "cell"),
    "atac": ("peak", "cell"),
    **{f"gene_{name}": ("gene",) for name in ("id", "name", "chrom", "start", "end", "strand")},
    **{f"peak_{name}": ("peak",) for name in ("chrom", "start", "end")},
    "gene_n_nonzero": ("gene", "celltype"),
    "peak_n_nonzero": ("peak", "celltype"),
    "celltype_n_cells": ("celltype",),
    "cell_celltype": ("cell",),
    "cell_n_umi": ("cell",),
    "cell_percent_mito": ("cell",),
    "cell_n_atac": ("cell",),
}


def create_counts(group: zarr.Group, name: str, shape: tuple[int, int], dtype: Any) -> Any:
    """An empty count matrix of the schema; bitshuffle + zstd took 0.8 bits per entry on real data."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(FEATURE_CHUNK, CELL_CHUNK),
        dtype=dtype,
        fill_value=0,
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        dimension_names=VARIABLES[name],
        config={"write_empty_chunks": True},
    )


def consolidate(path: Path) -> None:
    """Put all metadata in one place, so that opening takes one read; zarr warns that v3 lacks a word on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))


def located(store: Location) -> Location:
    """Where a store is, the same for workers that have another current folder: an absolute path, or the URL.

    Examples
    --------
    >>> located("s3://bucket/multiome.zarr/"), located("file:///data/multiome.zarr")
    ('s3://bucket/multiome.zarr', PosixPath('/data/multiome.zarr'))
    """
    if isinstance(store, str) and is_url(store) and not store.startswith("file://"):
        return store.rstrip("/")
    return Path(str(store).removeprefix("file://")).absolute()


def _open_group(path: Location) -> zarr.Group:
    if isinstance(path, Path) and not path.exists():
        raise StoreError(f"{path}: no such store")
    try:
        if isinstance(path, str):
            _look(path)
        group = zarr.open_group(str(path), mode="r")
    except Exception as err:
        raise StoreError(f"{path}: {_why_not_opened(path, err)}") from err
    check_schema(group.attrs, path, SCHEMA, SCHEMA_VERSION, "ingest again")
    return group


def check_schema(attrs: Mapping[str, Any], path: Location, schema: str, newest: int, otherwise: str) -> None:
    """Refuse what is no store of this kind, or of a newer version; ``otherwise`` says what to do but update.

    Raises
    ------
    StoreError
    """
    if attrs.get("schema") != schema:
        raise StoreError(f"{path}: attribute 'schema' is {attrs.get('schema')!r}, want {schema!r}")
    version = attrs.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise StoreError(
            f"{path}: schema version {version}, written by enhancer-dask {attrs.get('software', '?')}; this one "
            f"reads up to version {newest}: update enhancer-dask or {otherwise}"
        )


def _look(url: str) -> None:
    """Read one file: zarr asks for several at once, and where one cannot be had the others print tracebacks."""
    fs, folder = url_to_fs(url)
    fs.cat_file(f"{folder}/zarr.json")


def _why_not_opened(path: Location, err: Exception) -> str:
    found = first_line(err)
    if isinstance(path, Path):
        return f"not a Zarr store ({found})"
    if isinstance(err, FileNotFoundError):
        return "no such store"
    if isinstance(err, ImportError):
        return f"{err}; for s3:// pip install 'enhancer-dask[cloud]'"
    if isinstance(err, ValueError) and "Protocol not known" in str(err):
        return f"fsspec knows no such protocol ({found})"
    if isinstance(err, PermissionError) or "Credentials" in type(err).__name__:
        return (
            f"no right to read it ({found}); s3:// takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "FSSPEC_S3_ANON=true for a public bucket"
        )
    if _is_transport(err):
        return f"cannot be reached ({found}); another endpoint of s3:// is named by AWS_ENDPOINT_URL"
    return f"not a Zarr store ({found})"


def _is_transport(err: Exception) -> bool:
    """Whether reading failed before there was anything to decode; client libraries have exceptions of their own."""
    return isinstance(err, OSError) or type(err).__module__.split(".")[0] not in ("builtins", "zarr", "numcodecs")


def is_store(path: Path) -> bool:
    """Whether a folder is a multiome store, of any version."""
    try:
        return bool(zarr.open_group(str(path), mode="r").attrs.get("schema") == SCHEMA)
    except Exception:  # zarr raises whatever the files make it raise
        return False


def open_store(path: str | Path) -> xr.Dataset:
    """Open a multiome store as a lazy Dataset.

    Parameters
    ----------
    path : path or URL
        Folder written by :func:`enhancer_dask.ingest`, or a copy of it behind a URL that fsspec knows.

    Returns
    -------
    xarray.Dataset
        ``rna`` (gene, cell) and ``atac`` (peak, cell) as Dask arrays, coordinates and columns beside them.

    Raises
    ------
    StoreError
        If it is no store of ours, of a newer schema version, or a variable is missing or has other dimensions; if a URL
        cannot be read, with what to install or set.
    """
    path = located(path)
    _open_group(path)
    dataset: xr.Dataset = xr.open_zarr(path)
    for name, dims in VARIABLES.items():
        if name not in dataset:
            raise StoreError(f"{path}: variable {name!r} is missing")
        if dataset[name].dims != dims:
            raise StoreError(f"{path}: {name!r} has dims {dataset[name].dims}, want {dims}")
    return dataset


@dataclass(frozen=True)
class MultiomeStore:
    """Read-only access to a store from inside a task: labels once, counts block by block."""

    path: Location
    """Folder or URL of the store."""

    @cached_property
    def group(self) -> zarr.Group:
        """The open Zarr group."""
        return _open_group(located(self.path))

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the store, made by ingest."""
        return str(self.group.attrs["fingerprint"])

    def column(self, name: str) -> NDArray[Any]:
        """A variable other than the counts, whole; text as object array. Kept after the first reading."""
        if name not in self._columns:
            self._columns[name] = self._read_column(name)
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}

    def _array(self, name: str) -> Any:  # zarr's own types know no slices
        return self.group[name]

    def _read_column(self, name: str) -> NDArray[Any]:
        try:
            values = np.asarray(self._array(name)[...])
        except KeyError as err:
            raise StoreError(f"{self.path}: variable {name!r} is missing") from err
        except StoreError:  # no store of ours
            raise
        except Exception as err:
            if _is_transport(err):
                raise self._unreachable(err) from err
            raise StoreError(f"{self.path}: variable {name!r} cannot be read ({err})") from err
        return values if values.dtype.kind in "biuf" else values.astype(object)

    def _unreachable(self, err: Exception) -> OSError:
        """No damage: the next attempt may succeed."""
        return OSError(f"{self.path}: cannot be read ({first_line(err)})")

    @cached_property
    def celltypes(self) -> list[str]:
        """Cell types, sorted."""
        return [str(t) for t in self.column("celltype")]

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.column("celltype_n_cells"))]).astype(np.int64)

    def cells_of(self, celltype: str) -> slice:
        """Positions of the cells of one type: they are neighbours."""
        if celltype not in self.celltypes:
            raise InputError(f"{self.path}: no cell is of type {celltype!r}; types are: {', '.join(self.celltypes)}")
        t = self.celltypes.index(celltype)
        return slice(int(self._bounds[t]), int(self._bounds[t + 1]))

    def chosen_types(self, celltype: str | Sequence[str] | None) -> list[str]:
        """Cell types asked for, each once; all of the store for None.

        Raises
        ------
        InputError
            If one is not in the store, or none is asked for.
        """
        asked = [celltype] if isinstance(celltype, str) else self.celltypes if celltype is None else celltype
        types = list(dict.fromkeys(asked))
        if not types:
            raise InputError("no cell type given")
        for name in types:
            self.cells_of(name)
        return types

    def rows_of(self, kind: str, names: pd.Series, label: str = "pairs") -> NDArray[np.int64]:
        """Positions of genes or peaks.

        Raises
        ------
        InputError
            If a name is not in the store; ``label`` says where the names come from.
        """
        rows: NDArray[np.int64] = pd.Index(self.column(kind)).get_indexer(pd.Index(names, dtype=object))
        unknown = names[rows < 0].unique()
        if len(unknown):
            raise InputError(f"{label}: {kind} {unknown[0]!r} is not in {self.path} ({len(unknown)} unknown in all)")
        return rows

    @property
    def cell_columns(self) -> list[str]:
        """Names of the columns known per cell, as in the store without ``cell_``."""
        return sorted(name.removeprefix("cell_") for name in self.group.array_keys() if name.startswith("cell_"))

    def features(self, kind: str, rows: NDArray[np.integer] | slice = slice(None)) -> pd.DataFrame:
        """Genes or peaks with name, chrom, start, end (strand for genes); all in store order, or the rows given."""
        columns = ["chrom", "start", "end"] + (["strand"] if kind == "gene" else [])
        names = {"name": kind} | {c: f"{kind}_{c}" for c in columns}
        return pd.DataFrame({name: self.column(variable)[rows] for name, variable in names.items()})

    def counts(self, name: str, rows: Sequence[int] | NDArray[np.integer], celltype: str) -> NDArray[np.integer]:
        """Counts of some features in the cells of one type, shape (rows, cells), checked.

        Parameters
        ----------
        name : ``rna`` or ``atac``
        rows : ascending positions of features
        celltype : str

        Raises
        ------
        StoreError
            If a chunk is damaged or missing.
        OSError
            If nothing could be read.
        """
        cells, rows = self.cells_of(celltype), np.asarray(rows, dtype=np.int64)
        dim = FEATURE_DIM[name]
        try:
            block: NDArray[np.integer] = np.asarray(self._array(name).oindex[rows, cells])
        except Exception as err:
            if _is_transport(err):
                raise self._unreachable(err) from err
            raise StoreError(
                f"{self.path}: a chunk of {name!r} is damaged ({dim}s {_span(rows)}, {celltype}): {err}"
            ) from err
        expected = self.column(f"{dim}_n_nonzero")[rows, self.celltypes.index(celltype)]
        found = np.count_nonzero(block, axis=1)
        if (found != expected).any():
            bad = int(np.flatnonzero(found != expected)[0])
            raise StoreError(
                f"{self.path}: a chunk of {name!r} is damaged or missing: {dim} {self.column(dim)[rows[bad]]!r} has "
                f"{found[bad]} non-zero cells of type {celltype!r}, ingest counted {expected[bad]}"
            )
        return block


@lru_cache(maxsize=4)
def opened(path: Location, fingerprint: str) -> MultiomeStore:
    """A store as this process saw it first: labels are read once, not once a chunk.

    Raises
    ------
    StoreError
        If the store is not the one of this fingerprint.
    """
    store = MultiomeStore(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: was replaced while the run was going on")
    return store


def _span(rows: Iterable[int]) -> str:
    rows = list(rows)
    return f"{rows[0]}..{rows[-1]}" if rows else "none"
