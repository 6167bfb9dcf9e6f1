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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.files import remove_leftovers
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import check_pairs, check_params, output_table, read_meta, read_pairs
from enhancer_dask.links.candidates import signed_distance
from enhancer_dask.links.covariates import parse_terms, read_covariates, read_offset
from enhancer_dask.stats import poisson
from enhancer_dask.stats.bootstrap import ENGINES, SCENT_LADDER, Refitter, Rung, climb, fit_and_prepare
from enhancer_dask.stats.resampling import resample_counts
from enhancer_dask.stores import MultiomeStore

if TYPE_CHECKING:
    from mudata import MuData

Floats = NDArray[np.float64]

DEFAULT_COVARIATES = ("log(nUMI)", "percent.mito")
CHUNK_PAIRS = 64
COLUMNS = (
    *("celltype", "gene", "peak", "beta", "se", "z", "p", "boot_basic_p", "fdr", "distance_bp"),
    *("n_cells", "fraction_expressed", "fraction_open", "n_resamples", "status"),
)
_FIT_STATUS = {
    poisson.CONVERGED: "tested",
    poisson.NOT_CONVERGED: "not converged",
    poisson.SEPARATED: "separated",
    poisson.ALIASED: "collinear covariates",
    poisson.CONSTANT: "peak open in all cells",
}


def scent_block(
    rna: NDArray[np.integer],
    atac: NDArray[np.integer],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    covariates: Floats,
    *,
    celltype: str,
    offset: Floats | None = None,
    seed: int = 0,
    engine: str = "exact",
    binarise: bool = True,
    min_fraction: float = 0.05,
    ladder: Sequence[Rung] = SCENT_LADDER,
) -> pd.DataFrame:
    """Test pairs of genes and peaks in the cells of one type.

    Parameters
    ----------
    rna : integer array, shape (G, n)
        Raw counts of the genes.
    atac : integer array, shape (P, n)
        Raw counts of the peaks.
    gene, peak : integer arrays, shape (L,)
        Pair ``i`` is row ``gene[i]`` of ``rna`` and row ``peak[i]`` of ``atac``.
    covariates : float64 array, shape (n, c)
    celltype : str
        Names the random stream, with ``seed``.
    offset : float64 array, shape (n,), optional
        Added to the linear predictor, log scale.
    engine : str
        Refit engine of the bootstrap.
    binarise : bool
        Use open / closed instead of the peak's count.
    min_fraction : float
        Gene and peak must be non-zero in more than this share of the cells.
    ladder : sequence of Rung
        Resamples per rung and the p-value below which the next one follows.

    Returns
    -------
    DataFrame
        One row per pair in the given order: beta, se, z, p (Wald, two-sided), boot_basic_p, n_cells,
        fraction_expressed, fraction_open, n_resamples (with an estimate, on the last rung), status. A pair that was
        not tested has NaN (beta -inf or +inf if separated) and a status that says why.
    """
    n = rna.shape[1]
    expressed = np.count_nonzero(rna, axis=1)[gene] / n
    opened = np.count_nonzero(atac, axis=1)[peak] / n
    table = pd.DataFrame(dict.fromkeys(("beta", "se", "z", "p", "boot_basic_p"), np.full(len(gene), np.nan)))
    table["n_cells"] = n
    table["fraction_expressed"], table["fraction_open"] = expressed, opened
    table["n_resamples"] = 0
    table["status"] = _too_rare(expressed > min_fraction, opened > min_fraction, min_fraction)
    nuisance = poisson.make_nuisance(covariates, offset)
    tested: list[int] = []
    refitters: list[Refitter] = []
    beta, se, status = table["beta"].to_numpy(copy=True), table["se"].to_numpy(copy=True), table["status"].to_list()
    for i in np.flatnonzero(table["status"] == ""):
        accessibility = (atac[peak[i]] > 0).astype(np.uint8) if binarise else atac[peak[i]]
        fit, refitter = fit_and_prepare(rna[gene[i]], accessibility, nuisance, engine=engine)
        status[i], beta[i], se[i] = _FIT_STATUS[fit.status], fit.coefficients[-1], fit.standard_errors[-1]
        if fit.status == poisson.CONVERGED:
            tested.append(int(i))
            refitters.append(refitter)
    table["beta"], table["se"], table["status"] = beta, se, status
    table["z"] = table["beta"] / table["se"]
    table["p"] = 2.0 * ndtr(-np.abs(table["z"]))

    def draw(rung: int, start: int, stop: int) -> NDArray[np.integer]:
        return resample_counts(n, start, stop, seed=seed, celltype=celltype, rung=rung)

    p, n_resamples = climb(refitters, beta[tested], draw, n_cells=n, ladder=ladder)
    table.loc[tested, "boot_basic_p"] = p
    table.loc[tested, "n_resamples"] = n_resamples
    table.loc[table.index[tested][np.isnan(p)], "status"] = "no resample estimable"
    return table


def _too_rare(gene_ok: NDArray[np.bool_], peak_ok: NDArray[np.bool_], min_fraction: float) -> NDArray[Any]:
    below = f"below {100 * min_fraction:g}%"
    cases = [~gene_ok & ~peak_ok, ~gene_ok, ~peak_ok]
    return np.select(cases, [f"gene and peak {below}", f"gene {below}", f"peak {below}"], default="").astype(object)


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
    options: dict[str, Any],
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
        **options,
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
    options: dict[str, Any],
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
    params |= {"covariates": list(covariates), "offset": offset, **options}
    params["ladder"] = [list(rung) for rung in options["ladder"]]
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
    engine: str = "exact",
    seed: int = 0,
    binarise: bool = True,
    min_fraction: float = 0.05,
    ladder: Sequence[Rung] = SCENT_LADDER,
    out: str | Path | None = None,
    client: ClientSource | None = None,
    chunk_pairs: int = CHUNK_PAIRS,
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
    engine, seed, binarise, min_fraction, ladder
        See :func:`scent_block`.
    out : path, optional
        Parquet table to write. Its parts lie in ``<out>.parts`` meanwhile; the same call after an interruption
        goes on where it stopped, and returns the table at once if it is finished. Without it the work is done in
        Dask's ``temporary-directory``, which workers on other machines must share.
    client : distributed.Client or function that opens one, optional
        By default the current client, else threads of this process.
    chunk_pairs : int
        Pairs per chunk, about; changes no result.
    overwrite : bool
        Discard a table or parts made with other parameters.
    warn : function of str, optional
        Receives warnings; by default they are Python warnings.

    Returns
    -------
    DataFrame
        Columns celltype, gene, peak, beta, se, z, p, boot_basic_p, fdr (Benjamini-Hochberg on boot_basic_p within
        the cell type), distance_bp (TSS to peak centre, positive downstream), n_cells, fraction_expressed,
        fraction_open, n_resamples, status. Every pair is there, by cell type, then along the genome.

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
                store, pairs, celltype=celltype, covariates=covariates, offset=offset, engine=engine, seed=seed,
                binarise=binarise, min_fraction=min_fraction, ladder=ladder, out=out or Path(scratch) / "links.parquet",
                client=client, chunk_pairs=chunk_pairs, progress=progress, overwrite=overwrite, warn=warn,
            )  # fmt: skip
    # absolute, because workers may have another current folder
    data, out = MultiomeStore(Path(store).absolute()), output_table(out)
    terms = tuple(term for term, _, _ in parse_terms(covariates))
    asked = [celltype] if isinstance(celltype, str) else data.celltypes if celltype is None else celltype
    types = list(dict.fromkeys(asked))
    options = {
        "engine": engine,
        "seed": seed,
        "binarise": binarise,
        "min_fraction": min_fraction,
        "ladder": tuple(ladder),
    }
    if not 0 <= min_fraction < 1:
        raise InputError(f"min_fraction is {min_fraction}; want a share from 0 to below 1")
    _check_request(data, types, terms, offset, engine, chunk_pairs, warn or _python_warning)
    table = read_pairs(pairs) if isinstance(pairs, str | Path) else check_pairs(pairs, "pairs")
    unique = table.drop_duplicates()
    if len(unique) < len(table):
        (warn or _python_warning)(f"pairs: {len(table) - len(unique)} duplicate rows count once")
    work = plan(
        data, unique, types, out.with_name(f"{out.name}.parts"),
        covariates=terms, offset=offset, chunk_pairs=chunk_pairs, options=options,
    )  # fmt: skip
    return run_work(work, out, client=client, progress=progress, overwrite=overwrite)


def _python_warning(message: str) -> None:
    import warnings

    warnings.warn(message, UserWarning, stacklevel=3)


def _check_request(
    store: MultiomeStore,
    types: Sequence[str],
    terms: tuple[str, ...],
    offset: str | None,
    engine: str,
    chunk_pairs: int,
    warn: Callable[[str], None],
) -> None:
    """Find before the run what would fail in every chunk."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    if chunk_pairs < 1:
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
    fdr = _fdr_per_celltype(work)

    def finish(table: pa.Table, row: int) -> pa.Table:
        return table.append_column("fdr", pa.array(fdr[row : row + len(table)])).select(list(COLUMNS))

    remove_leftovers(out)
    chunks.merge(work, out, finish)
    return pd.read_parquet(out)


def _fdr_per_celltype(work: chunks.Work) -> Floats:
    """Adjusted p-values of all rows in order; a part holds one cell type, and those of a type follow each other."""
    p: dict[str, list[Floats]] = {}
    for part in chunks.tables(work, ["celltype", "boot_basic_p"]):
        p.setdefault(part["celltype"][0].as_py(), []).append(part["boot_basic_p"].to_numpy())
    return np.concatenate([benjamini_hochberg(np.concatenate(values)) for values in p.values()])
