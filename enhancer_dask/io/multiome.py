"""Multiome files (10x .h5, .h5mu) and MuData objects as a stream of blocks of cells.

A block is a CSR matrix of some consecutive cells by all features of one modality, so a file of any size passes
through bounded memory.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from enhancer_dask.errors import InputError

if TYPE_CHECKING:
    from mudata import MuData

BLOCK_ENTRIES = 20_000_000  # stored counts per block, about 240 MB
BLOCK_CELLS = 2_000
MODALITIES = {"rna": "Gene Expression", "atac": "Peaks"}
FEATURE_COLUMNS = ("id", "name", "chrom", "start", "end", "strand")

_STRANDS = {"+": "+", "-": "-", "1": "+", "-1": "-", "1.0": "+", "-1.0": "-"}
_INTERVAL = re.compile(r"^(?P<chrom>.+?)[:_-](?P<start>\d+)[_-](?P<end>\d+)$")


class Block(NamedTuple):
    """Counts of some consecutive cells of one modality."""

    modality: str
    """``rna`` or ``atac``."""
    start: int
    """Position of the first cell among the modality's barcodes."""
    counts: sparse.csr_array
    """Shape (cells of the block, features of the modality)."""


@dataclass(frozen=True, slots=True)
class MultiomeSource:
    """A multiome experiment that can be read block by block."""

    label: str
    """File name, for messages."""
    features: dict[str, pd.DataFrame]
    """Per modality: id, name, chrom, start (0-based), end, strand; chrom empty and start -1 where unknown."""
    barcodes: dict[str, np.ndarray]
    """Per modality, text in the order of the blocks."""
    obs: pd.DataFrame
    """Columns known per cell, indexed by barcode; may have no columns."""
    blocks: Callable[[], Iterator[Block]]
    """Reads the counts once from start to end."""
    close: Callable[[], None] = lambda: None
    """Closes the files."""


def parse_intervals(names: Iterable[str]) -> pd.DataFrame:
    """chrom, start, end from names like ``chr1:100-200``, ``chr1-100-200`` or ``chr1_100_200``, as written.

    Names of another form get chrom "" and start, end -1.
    """
    parts = pd.Series(list(names), dtype=object).astype(str).str.extract(_INTERVAL)
    known = parts["chrom"].notna()
    return pd.DataFrame(
        {
            "chrom": parts["chrom"].where(known, ""),
            "start": parts["start"].where(known, -1).astype(np.int64),
            "end": parts["end"].where(known, -1).astype(np.int64),
        }
    )


def open_multiome(source: str | Path | MuData) -> MultiomeSource:
    """Open a 10x multiome .h5, a .h5mu or a MuData object.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another kind, or a modality is missing.
    """
    if not isinstance(source, str | Path):
        return _from_mudata(source, "MuData")
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".h5mu":
        return _from_h5mu(path)
    if path.suffix in {".h5", ".hdf5"}:
        return _from_10x(path)
    raise InputError(f"{path}: unknown kind of multiome file; want a 10x .h5 or a .h5mu")


# -- 10x ---------------------------------------------------------------------------------------------------


def _open_hdf5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as err:
        raise InputError(f"{path}: not a readable HDF5 file, perhaps truncated ({err})") from err


def _from_10x(path: Path) -> MultiomeSource:
    with _open_hdf5(path) as file:
        try:
            group = file["matrix"]
            table = group["features"]
            kinds, ids, names = (table[key].asstr()[:] for key in ("feature_type", "id", "name"))
            intervals = table["interval"].asstr()[:] if "interval" in table else np.full(len(ids), "")
            barcodes = group["barcodes"].asstr()[:].astype(object)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise InputError(f"{path}: not a 10x feature-barcode matrix (Cell Ranger 3 or later): {err}") from err
        except OSError as err:
            raise InputError(f"{path}: damaged ({err})") from err
    columns = {}
    features = {}
    for modality, kind in MODALITIES.items():
        columns[modality] = np.flatnonzero(kinds == kind)
        if not len(columns[modality]):
            found = ", ".join(sorted(set(kinds)))
            raise InputError(f"{path}: no features of type {kind!r}; types found: {found}")
        chosen = columns[modality]
        where = intervals[chosen]
        if modality == "atac":
            where = np.where(where == "", names[chosen], where)
        features[modality] = _feature_table(ids[chosen], names[chosen], parse_intervals(where))

    def blocks() -> Iterator[Block]:
        for start, counts in _read_10x_cells(path):
            for modality, chosen in columns.items():
                yield Block(modality, start, counts[:, chosen])

    obs = pd.DataFrame(index=pd.Index(barcodes, name="barcode"))
    return MultiomeSource(str(path), features, dict.fromkeys(MODALITIES, barcodes), obs, blocks)


def _read_10x_cells(path: Path) -> Iterator[tuple[int, sparse.csr_array]]:
    """10x stores the matrix cell after cell, so consecutive cells are one slice of the file."""
    with _open_hdf5(path) as file:
        group = file["matrix"]
        try:
            n_features, n_cells = len(group["features/id"]), len(group["barcodes"])
            indptr = group["indptr"][:].astype(np.int64)
            _check_pointers(group, indptr, n_features, n_cells)
            start = 0
            while start < n_cells:
                stop = int(np.searchsorted(indptr, indptr[start] + BLOCK_ENTRIES, side="right")) - 1
                stop = min(max(stop, start + 1), n_cells)
                part = slice(indptr[start], indptr[stop])
                data, indices = group["data"][part], group["indices"][part]
                if len(indices) and not 0 <= indices.min() <= indices.max() < n_features:
                    raise ValueError(f"indices go from {indices.min()} to {indices.max()}, of {n_features} features")
                entries = (data, indices, indptr[start : stop + 1] - indptr[start])
                yield start, sparse.csr_array(entries, shape=(stop - start, n_features))
                start = stop
        except (OSError, KeyError, ValueError, TypeError, IndexError) as err:
            raise InputError(f"{path}: damaged, the counts cannot be read ({err})") from err


def _check_pointers(group: h5py.Group, indptr: np.ndarray, n_features: int, n_cells: int) -> None:
    """What scipy would take on trust and then read beyond its arrays."""
    shape = tuple(map(int, group["shape"][:]))
    if shape != (n_features, n_cells):
        raise ValueError(f"shape is {shape}, with {n_features} features and {n_cells} barcodes")
    if len(indptr) != n_cells + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise ValueError(f"indptr is not {n_cells + 1} ascending numbers from 0")
    if not indptr[-1] == len(group["data"]) == len(group["indices"]):
        raise ValueError(f"indptr ends at {indptr[-1]}, with {len(group['data'])} data")


# -- MuData ------------------------------------------------------------------------------------------------


def _from_h5mu(path: Path) -> MultiomeSource:
    import mudata

    with _open_hdf5(path):
        pass  # a clearer message for a truncated file than the one of mudata
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files of older library versions are read with a warning each
            data = mudata.read_h5mu(path, backed="r")
            source = _from_mudata(data, str(path))
    except InputError:
        raise
    except Exception as err:  # anndata wraps whatever HDF5 raises in types of its own
        raise InputError(f"{path}: not readable as .h5mu ({str(err).splitlines()[0]})") from err
    return replace(source, close=data.file.close)


def _from_mudata(data: MuData, label: str) -> MultiomeSource:
    missing = [m for m in MODALITIES if m not in data.mod]
    if missing:
        raise InputError(f"{label}: modality {missing[0]!r} is missing; modalities found: {', '.join(data.mod)}")
    features, barcodes = {}, {}
    for modality in MODALITIES:
        part = data.mod[modality]
        barcodes[modality] = part.obs_names.astype(str).to_numpy(dtype=object)
        features[modality] = _mudata_features(part.var, modality)

    def blocks() -> Iterator[Block]:
        for modality in MODALITIES:
            matrix, n = data.mod[modality].X, data.mod[modality].n_obs
            if isinstance(matrix, sparse.csc_matrix | sparse.csc_array):
                matrix = matrix.tocsr()  # once, rather than once a block
            for start in range(0, n, BLOCK_CELLS):
                try:
                    part = matrix[start : min(start + BLOCK_CELLS, n)]
                except (OSError, ValueError) as err:
                    raise InputError(f"{label}: damaged, mod/{modality}/X cannot be read ({err})") from err
                yield Block(modality, start, sparse.csr_array(part))

    obs = data.mod["rna"].obs.copy()
    for name in data.obs.columns:
        if ":" not in str(name):  # modality:column is a copy that mudata makes
            obs[name] = data.obs[name].reindex(obs.index)
    obs.index = obs.index.astype(str)
    return MultiomeSource(label, features, barcodes, obs, blocks)


def _mudata_features(var: pd.DataFrame, modality: str) -> pd.DataFrame:
    """Coordinates from columns chrom/start/end, else from ``interval``, else (peaks) from the names."""
    names = var.index.to_numpy(dtype=object).astype(str)
    ids = var["gene_ids"].to_numpy(dtype=object).astype(str) if "gene_ids" in var else names
    if {"chrom", "start", "end"} <= set(var.columns):
        where = var[["chrom", "start", "end"]].reset_index(drop=True)
    elif "interval" in var:
        where = parse_intervals(var["interval"])
    else:
        where = parse_intervals(names if modality == "atac" else [""] * len(names))
    table = _feature_table(ids, names, where)
    if "strand" in var:
        table["strand"] = var["strand"].astype(str).map(_STRANDS).fillna(".").to_numpy()
    return table


def _feature_table(ids: Any, names: Any, where: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"id": ids, "name": names, "strand": "."})
    known = where[["chrom", "start", "end"]].notna().all(axis=1).to_numpy()
    table["chrom"] = np.where(known, where["chrom"].astype(str), "")
    for column in ("start", "end"):
        table[column] = pd.to_numeric(where[column]).fillna(-1).where(known, -1).astype(np.int64).to_numpy()
    return table[list(FEATURE_COLUMNS)]


# -- several inputs ----------------------------------------------------------------------------------------


def concatenate(sources: Sequence[MultiomeSource], samples: Sequence[str | None]) -> MultiomeSource:
    """Put the cells of several sources with the same features one after the other.

    A sample name is put before its barcodes (``name_BARCODE``) and becomes the column ``sample``.
    """
    sources = [_named(source, sample) for source, sample in zip(sources, samples, strict=True)]
    first = sources[0]
    if len(sources) == 1:
        return first
    for other in sources[1:]:
        for modality in MODALITIES:
            if not first.features[modality].equals(other.features[modality]):
                raise InputError(
                    f"{other.label}: the {modality} features differ from those of {first.label}; "
                    "count all samples on the same genes and peaks first (cellranger-arc aggr)"
                )

    def blocks() -> Iterator[Block]:
        shift = dict.fromkeys(MODALITIES, 0)
        for source in sources:
            for block in source.blocks():
                yield block._replace(start=block.start + shift[block.modality])
            for modality in MODALITIES:
                shift[modality] += len(source.barcodes[modality])

    barcodes = {m: np.concatenate([s.barcodes[m] for s in sources]) for m in MODALITIES}
    label = ", ".join(source.label for source in sources)
    obs = pd.concat([source.obs for source in sources])

    def close() -> None:
        for source in sources:
            source.close()

    return MultiomeSource(label, first.features, barcodes, obs, blocks, close)


def _named(source: MultiomeSource, sample: str | None) -> MultiomeSource:
    if sample is None:
        return source
    barcodes = {m: np.array([f"{sample}_{b}" for b in source.barcodes[m]], dtype=object) for m in MODALITIES}
    obs = source.obs.set_axis([f"{sample}_{b}" for b in source.obs.index]).assign(sample=sample)
    return replace(source, barcodes=barcodes, obs=obs)
