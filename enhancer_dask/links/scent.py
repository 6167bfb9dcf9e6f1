"""SCENT: Poisson regression of a gene's counts on an open peak, with bootstrap p-values, per cell type [1]_.

References
----------
.. [1] Sakaue et al. (2024), Tissue-specific enhancer-gene maps from multimodal single-cell data identify causal
   disease alleles. Nature Genetics 56, 615-626.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.files import remove_leftovers
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import check_pairs, check_params, output_table, read_meta, read_pairs
from enhancer_dask.links.candidates import signed_distance
from enhancer_dask.links.covariates import parse_terms, read_covariates, read_offset
from enhancer_dask.links.pair_tests import P_VALUES, Options, PValues, scent_block
from enhancer_dask.stats import poisson
from enhancer_dask.stats.bootstrap import ENGINES, SCENT_LADDER, Rung
from enhancer_dask.stores import MultiomeStore

if TYPE_CHECKING:
    from mudata import MuData

Floats = NDArray[np.float64]

DEFAULT_COVARIATES = ("log(nUMI)", "percent.mito")
# A chunk draws its resamples once for all its pairs, so large ones are cheaper; small ones spread over workers.
LEAST_CHUNK, LARGEST_CHUNK = 1_024, 8_192
CHUNKS_WANTED = 24
CHUNK_COUNTS = 64_000_000  # pairs x cells of a chunk at most: a worker holds several bytes for each
COLUMNS = (
    *("celltype", "gene", "peak", "beta", "se", "z", "p", "p_saddle", "fdr_saddle", "boot_basic_p", "fdr"),
    *("boot_se", "boot_bias"),
    *("distance_bp", "n_cells", "fraction_expressed", "fraction_open", "n_resamples", "n_refits", "n_exact"),
    *("saddle_status", "status"),
)
ADJUSTED = {"fdr": "boot_basic_p", "fdr_saddle": "p_saddle"}


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini-Hochberg adjusted p-values; NaN stays NaN and does not count as a test.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    array([0.02,  nan, 0.04])
    """
    p = np.asarray(p, dtype=np.float64)
    out = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        out[tested] = false_discovery_control(p[tested], method="bh")
    return out


# -- driver ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _opened(path: Path, fingerprint: str) -> MultiomeStore:
    """A store as this process saw it first: labels are read once, not once a chunk."""
    store = MultiomeStore(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: was replaced while the run was going on")
    return store


def _scent_chunk(
    path: Path,
    fingerprint: str,
    celltype: str,
    gene: NDArray[np.int64],
    peak: NDArray[np.int64],
    terms: tuple[str, ...],
    offset: str | None,
    options: Options,
) -> pd.DataFrame:
    """One chunk on a worker: rows of genes and peaks in, table out."""
    store = _opened(path, fingerprint)
    genes, gene_index = np.unique(gene, return_inverse=True)
    peaks, peak_index = np.unique(peak, return_inverse=True)
    table = scent_block(
        store.counts("rna", genes, celltype),
        store.counts("atac", peaks, celltype),
        gene_index,
        peak_index,
        read_covariates(store, celltype, terms).values,
        offset=None if offset is None else read_offset(store, celltype, offset),
        celltype=celltype,
        options=options,
    )
    gene_table, peak_table = store.features("gene", gene), store.features("peak", peak)
    table.insert(0, "celltype", celltype)
    table.insert(1, "gene", gene_table["name"])
    table.insert(2, "peak", peak_table["name"])
    table["distance_bp"] = signed_distance(gene_table, peak_table)
    return table


def plan(
    store: MultiomeStore,
    pairs: pd.DataFrame,
    celltypes: Sequence[str],
    folder: Path,
    *,
    covariates: tuple[str, ...],
    offset: str | None,
    chunk_pairs: int,
    options: Options,
) -> chunks.Work:
    """Cut the pairs into chunks: cell type after cell type, blocks of neighbouring genes with their peaks.

    Raises
    ------
    InputError
        If a gene or peak is not in the store, or there are no pairs.
    """
    gene, peak = _rows(store, pairs, "gene"), _rows(store, pairs, "peak")
    order = np.lexsort((peak, gene))
    gene, peak = gene[order], peak[order]
    bounds = block_bounds(gene, chunk_pairs)
    n_blocks = len(bounds) - 1
    digest = hashlib.blake2b(np.stack([gene, peak]).tobytes(), digest_size=16).hexdigest()

    def arguments(index: int) -> tuple[Any, ...]:
        celltype, block = celltypes[index // n_blocks], index % n_blocks
        part = slice(bounds[block], bounds[block + 1])
        return (store.path, store.fingerprint, celltype, gene[part], peak[part], covariates, offset, options)

    params: dict[str, Any] = {
        "stage": "scent",
        "store": store.fingerprint,
        "pairs": digest,
        "celltypes": list(celltypes),
    }
    params |= {"covariates": list(covariates), "offset": offset, **asdict(options)}
    params["ladder"] = [list(rung) for rung in options.ladder]
    return chunks.Work(
        "scent", _scent_chunk, arguments, len(celltypes) * n_blocks, params, {"chunk_pairs": chunk_pairs}, folder
    )


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


def _rows(store: MultiomeStore, pairs: pd.DataFrame, kind: str) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = pd.Index(store.column(kind)).get_indexer(pd.Index(pairs[kind], dtype=object))
    unknown = pairs[kind][rows < 0].unique()
    if len(unknown):
        raise InputError(f"pairs: {kind} {unknown[0]!r} is not in {store.path} ({len(unknown)} unknown in all)")
    return rows


def scent(
    store: str | Path | MuData,
    pairs: str | Path | pd.DataFrame,
    *,
    celltype: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] = DEFAULT_COVARIATES,
    offset: str | None = None,
    p: PValues = "both",
    engine: str = "moments",
    seed: int = 0,
    binarise: bool = True,
    min_fraction: float = 0.05,
    ladder: Sequence[Rung] = SCENT_LADDER,
    out: str | Path | None = None,
    client: ClientSource | None = None,
    chunk_pairs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    warn: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Links between genes and peaks in one or several cell types.

    Parameters
    ----------
    store : path or MuData
        Multiome store; a MuData is ingested to a temporary one first.
    pairs : path or DataFrame
        Columns gene and peak. Exact duplicates count once.
    celltype : str or sequence of str, optional
        All cell types if not given.
    covariates : str or sequence of str
        Terms such as ``log(nUMI)``, ``percent.mito`` or any column of the cells; text columns become dummies. A
        term that is constant in a cell type is left out there, with a warning.
    offset : str, optional
        Term added to the linear predictor with coefficient 1, for instance ``log(nUMI)``.
    p, engine, seed, binarise, min_fraction, ladder
        See :class:`~enhancer_dask.links.pair_tests.Options`.
    out : path, optional
        Parquet table to write. Its parts lie in ``<out>.parts`` meanwhile; the same call after an interruption
        goes on where it stopped, and returns the table at once if it is finished. Without it the work is done in
        Dask's ``temporary-directory``, which workers on other machines must share.
    client : distributed.Client or function that opens one, optional
        By default the current client, else threads of this process.
    chunk_pairs : int
        Pairs per chunk, about; by default as many as keep some tens of chunks, up to a few thousand pairs. Changes no
        result.
    overwrite : bool
        Discard a table or parts made with other parameters.
    warn : function of str, optional
        Receives warnings; by default they are Python warnings.

    Returns
    -------
    DataFrame
        Columns celltype, gene, peak, beta, se, z, p (Wald), p_saddle and fdr_saddle, boot_basic_p and fdr
        (Benjamini-Hochberg within the cell type), distance_bp (TSS to peak centre, positive downstream), and the others of
        :func:`~enhancer_dask.links.pair_tests.scent_block`. Every pair is there, by cell type, then along the genome.

    Raises
    ------
    InputError
        On unknown names, cell types, covariates or values that are not finite.
    StoreError, ResumeError, ChunkError
        See :mod:`enhancer_dask.errors`.
    """
    if not isinstance(store, str | Path) or out is None:
        folder = dask.config.get("temporary-directory", None)
        with tempfile.TemporaryDirectory(prefix="enhancer-dask-", dir=folder) as scratch:
            if not isinstance(store, str | Path):
                made = ingest(store, Path(scratch) / "multiome.zarr")
                for message in made.attrs["report"]["warnings"]:
                    (warn or _python_warning)(message)
                store = Path(scratch) / "multiome.zarr"
            return scent(
                store, pairs, celltype=celltype, covariates=covariates, offset=offset, p=p, engine=engine, seed=seed,
                binarise=binarise, min_fraction=min_fraction, ladder=ladder, out=out or Path(scratch) / "links.parquet",
                client=client, chunk_pairs=chunk_pairs, progress=progress, overwrite=overwrite, warn=warn,
            )  # fmt: skip
    # absolute, because workers may have another current folder
    data, out = MultiomeStore(Path(store).absolute()), output_table(out)
    terms = tuple(term for term, _, _ in parse_terms(covariates))
    asked = [celltype] if isinstance(celltype, str) else data.celltypes if celltype is None else celltype
    types = list(dict.fromkeys(asked))
    options = Options(p, engine, seed, binarise, min_fraction, tuple(ladder))
    if not 0 <= min_fraction < 1:
        raise InputError(f"min_fraction is {min_fraction}; want a share from 0 to below 1")
    _check_request(data, types, terms, offset, options, chunk_pairs, warn or _python_warning)
    table = read_pairs(pairs) if isinstance(pairs, str | Path) else check_pairs(pairs, "pairs")
    unique = table.drop_duplicates()
    if len(unique) < len(table):
        (warn or _python_warning)(f"pairs: {len(table) - len(unique)} duplicate rows count once")
    work = plan(
        data, unique, types, out.with_name(f"{out.name}.parts"),
        covariates=terms, offset=offset, options=options,
        chunk_pairs=chunk_pairs or _chunk_pairs(data, types, len(unique)),
    )  # fmt: skip
    return run_work(work, out, client=client, progress=progress, overwrite=overwrite)


def _chunk_pairs(store: MultiomeStore, types: Sequence[str], n_pairs: int) -> int:
    """Pairs per chunk, a function of the data alone: a run goes on with the same chunks on another cluster."""
    cells = [store.cells_of(celltype) for celltype in types]
    most_cells = max(part.stop - part.start for part in cells)
    wanted = min(LARGEST_CHUNK, CHUNK_COUNTS // max(1, most_cells), n_pairs * len(types) // CHUNKS_WANTED)
    return max(LEAST_CHUNK, wanted)


def _python_warning(message: str) -> None:
    import warnings

    warnings.warn(message, UserWarning, stacklevel=3)


def _check_request(
    store: MultiomeStore,
    types: Sequence[str],
    terms: tuple[str, ...],
    offset: str | None,
    options: Options,
    chunk_pairs: int | None,
    warn: Callable[[str], None],
) -> None:
    """Find before the run what would fail in every chunk."""
    if options.engine not in ENGINES:
        raise InputError(f"engine {options.engine!r} is unknown; choose from {', '.join(ENGINES)}")
    if options.p not in P_VALUES:
        raise InputError(f"p is {options.p!r}; choose from {', '.join(P_VALUES)}")
    if chunk_pairs is not None and chunk_pairs < 1:
        raise InputError(f"chunk_pairs is {chunk_pairs}; want 1 or more")
    if not types:
        raise InputError("no cell type given")
    for celltype in types:
        read = read_covariates(store, celltype, terms)
        for term in read.constant:
            warn(f"covariate {term!r} is constant in {celltype!r} and left out there")
        if offset is not None:
            read_offset(store, celltype, offset)
        z = poisson.make_nuisance(read.values).z
        if np.linalg.matrix_rank(np.column_stack([np.ones(len(z)), z])) < 1 + z.shape[1]:
            warn(f"covariates are collinear in {celltype!r}, nothing is tested there: {', '.join(read.names)}")


def run_work(
    work: chunks.Work, out: Path, *, client: ClientSource | None, progress: bool, overwrite: bool
) -> pd.DataFrame:
    """Compute what is missing of a planned run, merge, and return the table."""
    if overwrite:
        chunks.discard(work, out)
    if out.exists():
        check_params(out, read_meta(out).get("params", {}), dict(work.params))
        return pd.read_parquet(out)
    with client_or_threads(client) as running:
        chunks.run(work, running, progress=progress)
    adjusted = _adjusted_per_celltype(work)

    def finish(table: pa.Table, row: int) -> pa.Table:
        for name, values in adjusted.items():
            table = table.append_column(name, pa.array(values[row : row + len(table)]))
        return table.select(list(COLUMNS))

    remove_leftovers(out)
    chunks.merge(work, out, finish)
    return pd.read_parquet(out)


def _adjusted_per_celltype(work: chunks.Work) -> dict[str, Floats]:
    """Adjusted p-values of all rows in order; a part holds one cell type, and those of a type follow each other."""
    p: dict[str, dict[str, list[Floats]]] = {name: {} for name in ADJUSTED}
    for part in chunks.tables(work, ["celltype", *ADJUSTED.values()]):
        for name, source in ADJUSTED.items():
            p[name].setdefault(part["celltype"][0].as_py(), []).append(part[source].to_numpy())
    return {
        name: np.concatenate([benjamini_hochberg(np.concatenate(values)) for values in of_types.values()])
        for name, of_types in p.items()
    }
