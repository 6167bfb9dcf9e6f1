"""SCENT: Poisson regression of a gene's counts on an open peak, with bootstrap p-values, per cell type [1]_.

References
----------
.. [1] Sakaue et al. (2024), Tissue-specific enhancer-gene maps from multimodal single-cell data identify causal
   disease alleles. Nature Genetics 56, 615-626.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pandas as pd

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError
from enhancer_dask.io.files import remove_at_once, remove_leftovers
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import check_pairs, check_params, output_table, read_meta, read_pairs
from enhancer_dask.links.certificate import agreement
from enhancer_dask.links.covariates import check_covariates, parse_terms
from enhancer_dask.links.pair_tests import P_VALUES, REGRESSIONS, Options, PValues, Regression
from enhancer_dask.links.regressions import TRUSTED
from enhancer_dask.links.work import Certify, Request, certificate_parts, make_request, plan, result_params, run_request
from enhancer_dask.stats.bootstrap import ENGINES, SCENT_LADDER, Rung
from enhancer_dask.stores import MultiomeStore, located

if TYPE_CHECKING:
    from mudata import MuData

DEFAULT_COVARIATES = ("log(nUMI)", "percent.mito")
# A chunk draws its resamples once for all its pairs, so large ones are cheaper; small ones spread over workers.
LEAST_CHUNK, LARGEST_CHUNK = 1_024, 8_192
CHUNKS_WANTED = 24
CHUNK_COUNTS = 64_000_000  # pairs x cells of a chunk at most: a worker holds several bytes for each


def scent(
    store: str | Path | MuData,
    pairs: str | Path | pd.DataFrame,
    *,
    celltype: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] = DEFAULT_COVARIATES,
    offset: str | None = None,
    regression: Regression = "poisson",
    p: PValues = "both",
    engine: str = "moments",
    seed: int = 0,
    binarise: bool = True,
    min_fraction: float = 0.05,
    ladder: Sequence[Rung] = SCENT_LADDER,
    certify: int = 0,
    certify_below: float = 0.0,
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
    store : path, URL or MuData
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
    regression, p, engine, seed, binarise, min_fraction, ladder
        See :class:`~enhancer_dask.links.pair_tests.Options`.
    certify, certify_below : int, float
        Compute p_saddle again by importance resampling for so many of the smallest values and as many random pairs, and
        for all below a threshold: columns p_tilted and se_p_tilted. See
        :func:`~enhancer_dask.links.certificate.agreement`.
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
        (Benjamini-Hochberg within the cell type), distance_bp (TSS to peak centre, positive downstream), and the
        others of :func:`~enhancer_dask.links.pair_tests.scent_block`. Every pair is there, by cell type, then along the
        genome.

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
                store, pairs, celltype=celltype, covariates=covariates, offset=offset, regression=regression, p=p,
                engine=engine, seed=seed, binarise=binarise, min_fraction=min_fraction, ladder=ladder, certify=certify,
                certify_below=certify_below, out=out or Path(scratch) / "links.parquet",
                client=client, chunk_pairs=chunk_pairs, progress=progress, overwrite=overwrite, warn=warn,
            )  # fmt: skip
    data, out = MultiomeStore(located(store)), output_table(out)
    terms = tuple(term for term, _, _ in parse_terms(covariates))
    types = data.chosen_types(celltype)
    options = Options(regression, p, engine, seed, binarise, min_fraction, tuple(ladder))
    certificate = Certify(certify, certify_below)
    _check_options(options, certificate, chunk_pairs)
    check_covariates(data, types, terms, offset, warn or _python_warning)
    table = read_pairs(pairs) if isinstance(pairs, str | Path) else check_pairs(pairs, "pairs")
    unique = table.drop_duplicates()
    if len(unique) < len(table):
        (warn or _python_warning)(f"pairs: {len(table) - len(unique)} duplicate rows count once")
    request = make_request(data, unique, types, covariates=terms, offset=offset, options=options)
    size = chunk_pairs or _chunk_pairs(data, types, len(unique))
    return _finish(request, out, size, certificate, client=client, progress=progress, overwrite=overwrite)


def _finish(
    request: Request,
    out: Path,
    chunk_pairs: int,
    certify: Certify,
    *,
    client: ClientSource | None,
    progress: bool,
    overwrite: bool,
) -> pd.DataFrame:
    """Compute what is missing of a run, merge, and return the table."""
    params = result_params(request, certify)
    if overwrite:
        chunks.discard(plan(request, out.with_name(f"{out.name}.parts"), chunk_pairs), out, params)
    certificate = certificate_parts(out)
    if out.exists():
        remove_at_once(certificate)
        check_params(out, read_meta(out).get("params", {}), params)
        return pd.read_parquet(out)
    remove_leftovers(out)
    with client_or_threads(client) as running:
        run_request(request, out, chunk_pairs, certify, running, progress=progress)
    remove_at_once(certificate)
    return pd.read_parquet(out)


def n_below(fdr: pd.Series, level: float = 0.1) -> int | None:
    """Discoveries at an FDR level; None if that p-value was not computed."""
    return int((fdr < level).sum()) if fdr.notna().any() else None


def summary(links: pd.DataFrame) -> dict[str, Any]:
    """What a table of links holds, as JSON values: discoveries at FDR < 0.1, refits, agreement with the certificate."""
    status = {str(name): int(n) for name, n in links["status"].value_counts().items()}
    doubtful = links.loc[~links["saddle_status"].isin(["", TRUSTED]), "saddle_status"].value_counts()
    values: dict[str, Any] = {
        "n_pairs": len(links),
        "n_fdr_10": n_below(links["fdr"]),
        "n_fdr_saddle_10": n_below(links["fdr_saddle"]),
        "n_refits": int(links["n_refits"].sum()),
        "n_exact": int(links["n_exact"].sum()),
        "status": status,
        "saddle_doubtful": {str(name): int(n) for name, n in doubtful.items()},
    }
    found = agreement(links)
    return values | ({} if found is None else {"certificate": found.asdict()})


def _chunk_pairs(store: MultiomeStore, types: Sequence[str], n_pairs: int) -> int:
    """Pairs per chunk, a function of the data alone: a run goes on with the same chunks on another cluster."""
    cells = [store.cells_of(celltype) for celltype in types]
    most_cells = max(int(part.stop - part.start) for part in cells)
    wanted = min(LARGEST_CHUNK, max(LEAST_CHUNK, n_pairs * len(types) // CHUNKS_WANTED))
    return max(1, min(wanted, CHUNK_COUNTS // max(1, most_cells)))


def _python_warning(message: str) -> None:
    import warnings

    warnings.warn(message, UserWarning, stacklevel=3)


def _check_options(options: Options, certify: Certify, chunk_pairs: int | None) -> None:
    known = (("engine", ENGINES), ("p", P_VALUES), ("regression", REGRESSIONS))
    for name, choices in known:
        if getattr(options, name) not in choices:
            raise InputError(f"{name} {getattr(options, name)!r} is unknown; choose from {', '.join(choices)}")
    if not 0 <= options.min_fraction < 1:
        raise InputError(f"min_fraction is {options.min_fraction}; want a share from 0 to below 1")
    if chunk_pairs is not None and chunk_pairs < 1:
        raise InputError(f"chunk_pairs is {chunk_pairs}; want 1 or more")
    if not options.ladder:
        raise InputError("the ladder has no rung; want at least one")
    if certify.n < 0 or certify.below < 0.0:
        raise InputError(f"certify is {certify.n} and {certify.below:g}; want 0 or more")
    if certify.wanted and (options.p == "ladder" or options.regression != "poisson"):
        raise InputError("certify checks p_saddle of the Poisson model; want p saddle or both, and regression poisson")
