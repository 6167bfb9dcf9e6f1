"""The chunks of a SCENT run: cut, computed, certified, joined."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from distributed import Client
from numpy.typing import NDArray

from enhancer_dask import chunks
from enhancer_dask.links.candidates import signed_distance
from enhancer_dask.links.certificate import certify_block, choose
from enhancer_dask.links.covariates import read_covariates, read_offset
from enhancer_dask.links.memory import cells_of, certificate_bytes, scent_bytes
from enhancer_dask.links.pair_tests import Options, indicators_of, scent_block
from enhancer_dask.links.regressions import TRUSTED
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stores import Location, MultiomeStore, opened

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS = (
    *("celltype", "gene", "peak", "beta", "se", "z", "p", "p_saddle", "fdr_saddle", "boot_basic_p", "fdr"),
    *("boot_se", "boot_bias", "theta", "distance_bp", "n_cells", "fraction_expressed", "fraction_open"),
    *("n_resamples", "n_refits", "n_exact", "saddle_status", "status"),
)
CERTIFICATE_COLUMNS = ("p_tilted", "se_p_tilted")
ADJUSTED = {"fdr": "boot_basic_p", "fdr_saddle": "p_saddle"}
CERTIFY_CHUNK = 8  # pairs of some 0.3 s each


@dataclass(frozen=True, slots=True)
class Certify:
    """Which pairs to certify by importance resampling."""

    n: int = 0
    """The n smallest p_saddle and n random pairs."""
    below: float = 0.0
    """And all below this."""
    n_resamples: int = 5_000
    """Tilted resamples per pair."""

    @property
    def wanted(self) -> bool:
        """Whether anything is to be certified."""
        return self.n > 0 or self.below > 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """Pairs to test in some cell types: row ``t * n_pairs + i`` of the result is pair i in type t."""

    store: Location
    """See :func:`~enhancer_dask.stores.located`."""
    fingerprint: str
    """Of the store."""
    celltypes: tuple[str, ...]
    """In the order of the result."""
    gene: Ints
    """Row of the store of each pair, ascending."""
    peak: Ints
    """Row of the store of each pair, ascending within a gene."""
    covariates: tuple[str, ...]
    """Terms."""
    offset: str | None
    """Term."""
    options: Options
    """Everything else about the test."""

    @property
    def params(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        pairs = hashlib.blake2b(np.stack([self.gene, self.peak]).tobytes(), digest_size=16).hexdigest()
        params: dict[str, Any] = {
            "stage": "scent",
            "store": self.fingerprint,
            "pairs": pairs,
            "celltypes": list(self.celltypes),
        }
        params |= {"covariates": list(self.covariates), "offset": self.offset, **asdict(self.options)}
        params["ladder"] = [list(rung) for rung in self.options.ladder]
        return params


@dataclass(frozen=True, slots=True)
class Block:
    """Some pairs in one cell type: what a task gets."""

    store: Location
    fingerprint: str
    celltype: str
    gene: Ints
    peak: Ints
    covariates: tuple[str, ...]
    offset: str | None
    options: Options

    @classmethod
    def of(cls, request: Request, celltype: str, part: slice | Ints) -> Block:
        """Pairs ``part`` of a request."""
        return cls(
            request.store, request.fingerprint, celltype, request.gene[part], request.peak[part],
            request.covariates, request.offset, request.options,
        )  # fmt: skip

    def some(self, rows: Ints) -> Block:
        """Some of the pairs."""
        return replace(self, gene=self.gene[rows], peak=self.peak[rows])


def make_request(
    store: MultiomeStore,
    pairs: pd.DataFrame,
    celltypes: Sequence[str],
    *,
    covariates: tuple[str, ...],
    offset: str | None,
    options: Options,
) -> Request:
    """Look the pairs up in the store.

    Raises
    ------
    InputError
        If a gene or peak is not in the store.
    """
    gene, peak = store.rows_of("gene", pairs["gene"]), store.rows_of("peak", pairs["peak"])
    order = np.lexsort((peak, gene))
    return Request(
        store.path, store.fingerprint, tuple(celltypes), gene[order], peak[order], covariates, offset, options
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Arrays of a block: its genes, its peaks, which rows each pair is, covariates and offset of the cells."""

    rna: NDArray[np.integer]
    atac: NDArray[np.integer]
    gene: Ints
    peak: Ints
    covariates: Floats
    offset: Floats | None


def _load(store: MultiomeStore, block: Block) -> _Loaded:
    genes, gene = np.unique(block.gene, return_inverse=True)
    peaks, peak = np.unique(block.peak, return_inverse=True)
    return _Loaded(
        store.counts("rna", genes, block.celltype),
        store.counts("atac", peaks, block.celltype),
        gene,
        peak,
        read_covariates(store, block.celltype, block.covariates).values,
        None if block.offset is None else read_offset(store, block.celltype, block.offset),
    )


def scent_chunk(block: Block) -> pd.DataFrame:
    """One chunk on a worker: rows of genes and peaks in, table out."""
    store = opened(block.store, block.fingerprint)
    data = _load(store, block)
    table = scent_block(
        data.rna, data.atac, data.gene, data.peak, data.covariates,
        offset=data.offset, celltype=block.celltype, options=block.options,
    )  # fmt: skip
    genes, peaks = store.features("gene", block.gene), store.features("peak", block.peak)
    table.insert(0, "celltype", block.celltype)
    table.insert(1, "gene", genes["name"])
    table.insert(2, "peak", peaks["name"])
    table["distance_bp"] = signed_distance(genes, peaks)
    return table


def certify_chunk(block: Block, row: Ints, n_resamples: int) -> pd.DataFrame:
    """Certify some pairs on a worker; ``row`` is their place in the result."""
    store = opened(block.store, block.fingerprint)
    data, options = _load(store, block), block.options
    genes, peaks = store.features("gene", block.gene)["name"], store.features("peak", block.peak)["name"]
    table = certify_block(
        data.rna, indicators_of(data.atac, options), data.gene, data.peak, make_nuisance(data.covariates, data.offset),
        names=[(block.celltype, g, p) for g, p in zip(genes, peaks, strict=True)],
        n_resamples=n_resamples, seed=options.seed,
    )  # fmt: skip
    table.insert(0, "row", row)
    return table


def plan(request: Request, folder: Path, chunk_pairs: int) -> chunks.Work:
    """Cut the pairs into chunks: cell type after cell type, blocks of neighbouring genes with their peaks."""
    bounds = block_bounds(request.gene, chunk_pairs)
    n_blocks = len(bounds) - 1

    def arguments(index: int) -> tuple[Block]:
        part = slice(bounds[index % n_blocks], bounds[index % n_blocks + 1])
        return (Block.of(request, request.celltypes[index // n_blocks], part),)

    def split(args: tuple[Any, ...], n_pieces: int) -> list[tuple[Any, ...]]:
        (block,) = args
        return [(block.some(rows),) for rows in consecutive(len(block.gene), n_pieces)]

    def nbytes(args: tuple[Any, ...]) -> int:
        (block,) = args
        cells = cells_of(block.store, block.fingerprint, block.celltype, block.covariates)
        return scent_bytes(block.gene, block.peak, cells, block.options)

    n_chunks = len(request.celltypes) * n_blocks
    return chunks.Work(
        "scent", scent_chunk, arguments, n_chunks, request.params, {"chunk_pairs": chunk_pairs}, folder, split, nbytes
    )


def plan_certificate(request: Request, rows: Ints, certify: Certify, folder: Path) -> chunks.Work:
    """Chunks of a few rows of the result each, of one cell type."""
    n_pairs = len(request.gene)
    of_type = [rows[rows // n_pairs == t] for t in range(len(request.celltypes))]
    cut = [
        (t, mine[start : start + CERTIFY_CHUNK])
        for t, mine in enumerate(of_type)
        for start in range(0, len(mine), CERTIFY_CHUNK)
    ]

    def arguments(index: int) -> tuple[Block, Ints, int]:
        t, mine = cut[index]
        return Block.of(request, request.celltypes[t], mine % n_pairs), mine, certify.n_resamples

    def split(args: tuple[Any, ...], n_pieces: int) -> list[tuple[Any, ...]]:
        block, mine, n_resamples = args
        return [(block.some(some), mine[some], n_resamples) for some in consecutive(len(mine), n_pieces)]

    def nbytes(args: tuple[Any, ...]) -> int:
        block, _, n_resamples = args
        cells = cells_of(block.store, block.fingerprint, block.celltype, block.covariates)
        return certificate_bytes(block.gene, block.peak, cells, n_resamples)

    params = {**request.params, "stage": "certify", "certify": asdict(certify)}
    return chunks.Work("certify", certify_chunk, arguments, len(cut), params, {}, folder, split, nbytes)


def consecutive(n_rows: int, n_pieces: int) -> list[Ints]:
    """Cut rows into up to so many pieces of consecutive ones, each of one or more.

    Examples
    --------
    >>> [rows.tolist() for rows in consecutive(5, 2)]
    [[0, 1, 2], [3, 4]]
    """
    return np.array_split(np.arange(n_rows), max(1, min(n_rows, n_pieces)))


def block_bounds(gene: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """Cut sorted pairs into blocks of whole genes with up to ``size`` pairs; a larger gene is cut by itself.

    Examples
    --------
    >>> block_bounds(np.array([0, 0, 1, 2, 2, 2, 2, 3]), 3)
    array([0, 3, 6, 8])
    """
    ends = np.append(np.flatnonzero(np.diff(gene)) + 1, len(gene))
    bounds = [0]
    for end in ends:
        if end - bounds[-1] <= size:
            continue
        start = ends[np.searchsorted(ends, end) - 1] if end > ends[0] else 0  # where this gene starts
        if start > bounds[-1]:
            bounds.append(int(start))
        bounds.extend(range(bounds[-1] + size, int(end), size))
    return np.unique([*bounds, len(gene)]).astype(np.int64)


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini-Hochberg adjusted p-values; NaN stays NaN and does not count as a test.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    array([0.02,  nan, 0.04])
    """
    from scipy.stats import false_discovery_control  # slow to import, and no worker needs it

    p = np.asarray(p, dtype=np.float64)
    out = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        out[tested] = false_discovery_control(p[tested], method="bh")
    return out


def certificate_parts(out: Path) -> Path:
    """Where the parts of a table's certificate are."""
    return out.with_name(f"{out.name}.certificate.parts")


def run_request(
    request: Request, out: Path, chunk_pairs: int, certify: Certify, client: Client, *, progress: bool
) -> None:
    """Compute what is missing and write the table."""
    work = plan(request, out.with_name(f"{out.name}.parts"), chunk_pairs)
    chunks.run(work, client, progress=progress)
    more = adjusted_per_celltype(work)
    if request.options.p == "saddle":  # the ladder's p-values of the doubtful pairs alone are no family of tests
        more["fdr"] = np.full(len(more["fdr"]), np.nan)
    if certify.wanted:
        p_saddle = _trusted_p(work)
        rows = choose(p_saddle, n=certify.n, below=certify.below, seed=request.options.seed)
        certificate = plan_certificate(request, rows, certify, certificate_parts(out))
        chunks.discard_parts(certificate)  # those of another choice of pairs
        chunks.run(certificate, client, progress=progress)
        more |= _certified(certificate, len(p_saddle))

    def finish(table: pa.Table, row: int) -> pa.Table:
        for name, values in more.items():
            table = table.append_column(name, pa.array(values[row : row + len(table)]))
        return table.select([*COLUMNS, *(CERTIFICATE_COLUMNS if certify.wanted else ())])

    chunks.merge(work, out, finish, params=result_params(request, certify))


def _trusted_p(work: chunks.Work) -> Floats:
    """p_saddle of all rows in order, NaN where it is not the saddlepoint's."""
    parts = [part.to_pandas() for part in chunks.tables(work, ["p_saddle", "saddle_status"])]
    return np.concatenate([part["p_saddle"].where(part["saddle_status"] == TRUSTED).to_numpy() for part in parts])


def result_params(request: Request, certify: Certify) -> dict[str, Any]:
    """What the finished table depends on."""
    return {**request.params, "certify": asdict(certify) if certify.wanted else None}


def _certified(work: chunks.Work, n_rows: int) -> dict[str, Floats]:
    columns = {name: np.full(n_rows, np.nan) for name in CERTIFICATE_COLUMNS}
    for part in chunks.tables(work):
        for name, values in columns.items():
            values[part["row"].to_numpy()] = part[name].to_numpy()
    return columns


def adjusted_per_celltype(work: chunks.Work) -> dict[str, Floats]:
    """Adjusted p-values of all rows in order; a part holds one cell type, and those of a type follow each other."""
    p: dict[str, dict[str, list[Floats]]] = {name: {} for name in ADJUSTED}
    for part in chunks.tables(work, ["celltype", *ADJUSTED.values()]):
        for name, source in ADJUSTED.items():
            p[name].setdefault(part["celltype"][0].as_py(), []).append(part[source].to_numpy())
    return {
        name: np.concatenate([benjamini_hochberg(np.concatenate(values)) for values in of_types.values()])
        for name, of_types in p.items()
    }
