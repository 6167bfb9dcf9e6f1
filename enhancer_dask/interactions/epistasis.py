"""Do two enhancers of a gene add up, multiply or interact? Contrasts and interaction per pair and cell type [1]_ [2]_.

References
----------
.. [1] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
   multiplicatively. Cell Genomics 4, 100672.
.. [2] Zheng et al. (2024), Machine Learning for Multiomics: Identifying Interacting DNA Elements through NYU HPC.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd

from enhancer_dask.clusters import ClientSource
from enhancer_dask.errors import InputError
from enhancer_dask.interactions.contrasts import PUBLISHED_LADDER, Options
from enhancer_dask.interactions.layouts import CODINGS, Coding
from enhancer_dask.interactions.regressions import ENGINES, MODELS
from enhancer_dask.interactions.rows import PairRows, distinct_pairs, finish, pair_rows
from enhancer_dask.interactions.work import Request, plan, write_result
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import output_table
from enhancer_dask.links.covariates import check_covariates, parse_terms, read_covariates
from enhancer_dask.links.pair_tests import P_VALUES, PValues, Regression
from enhancer_dask.links.scent import n_below
from enhancer_dask.stats.bootstrap import Rung
from enhancer_dask.stats.states import TESTS
from enhancer_dask.stores import MultiomeStore, located

if TYPE_CHECKING:
    from mudata import MuData

DEFAULT_COVARIATES, DEFAULT_OFFSET = ("percent.mito",), "log(nUMI)"
LEAST_CHUNK, LARGEST_CHUNK = 256, 2_048
CHUNKS_WANTED = 24
CHUNK_COUNTS = 16_000_000  # pairs x cells of a chunk at most


def epistasis(
    store: str | Path | MuData,
    pairs: str | Path | pd.DataFrame,
    celltype: str | Sequence[str] | None = None,
    *,
    coding: Coding = "fixed",
    covariates: str | Sequence[str] = DEFAULT_COVARIATES,
    offset: str | None = DEFAULT_OFFSET,
    regression: Regression = "poisson",
    p: PValues = "both",
    engine: str = "moments",
    seed: int = 0,
    ladder: Sequence[Rung] = PUBLISHED_LADDER,
    margin: float = 1.25,
    level: float = 0.95,
    expected: int = 0,
    out: str | Path | None = None,
    client: ClientSource | None = None,
    chunk_pairs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    warn: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Contrasts and interaction of enhancer pairs in one or several cell types.

    Parameters
    ----------
    store : path, URL or MuData
        Multiome store; a MuData is ingested to a temporary one first.
    pairs : path or DataFrame
        Columns gene, enhancer_1, enhancer_2, as :func:`enhancer_dask.enhancer_pairs` has them; with a column celltype,
        each pair is tested in its own cell type only. Exact duplicates count once.
    celltype : str or sequence of str, optional
        All cell types if not given.
    covariates, offset
        Terms, as in :func:`enhancer_dask.scent`.
    coding, regression, p, engine, seed, ladder, margin, level, expected
        See :class:`~enhancer_dask.interactions.contrasts.Options`.
    out, client, chunk_pairs, progress, overwrite, warn
        As in :func:`enhancer_dask.scent`.

    Returns
    -------
    DataFrame
        One row per cell type and pair, in the order given. A peak is open where it has a count; state 10 means that
        enhancer_1 is open and enhancer_2 closed.

        celltype, gene, enhancer_1, enhancer_2, coding
        n_s, zero_s, zero_share_s
            For each state s: cells, those without a count of the gene, and their share.
        beta_t, se_t, p_t
            For each test t: coefficient (natural log), its standard error and Wald p-value. Tests 10, 01 and 11
            compare a state with 00 in a regression on the cells of the two states alone; ``interaction`` is
            b_11 - b_10 - b_01 of the regression on all cells with four states, the product term of
            enhancer_1 * enhancer_2, zero if the enhancers multiply.
        p_saddle_t, boot_p_t
            Basic-bootstrap p-value by saddlepoint and by the ladder; ``saddle_status_t`` is ``trusted`` or says why
            p_saddle_t is the ladder's. ``boot_se_t``: standard deviation over resamples; ``n_resamples_t``,
            ``n_refits_t``, ``n_exact_t``: what the ladder did.
        fdr_saddle_t, fdr_t, fdr_saddle_gene_t, fdr_gene_t
            Benjamini-Hochberg on p_saddle_t and boot_p_t, over the cell type and over each gene in it.
        low_interaction, high_interaction, p_interval_interaction
            Confidence interval of the interaction (BCa), and the p-value of the test that it inverts.
        intercept_10, intercept_01, intercept_11
            Of the three contrasts.
        joint_x, se_joint_x
            Coefficients of the regression on all cells: intercept, covariates, states 10, 01 and 11.
        fold_s, additive_11, multiplicative_11, departure_additive, verdict
            Fold changes to state 00, what is expected of both if the enhancers add up or multiply, and how far they are
            from adding up (natural log), with ends of intervals _low and _high; see
            :func:`~enhancer_dask.stats.natural_scale.natural_scale`.
        cook_cell, cook, cook_ratio, beta_dropped, se_dropped, p_dropped, one_cell
            The cell that moves the interaction most, and the interaction without it; see
            :func:`~enhancer_dask.stats.influence.influence_of_pairs`.
        mean_x, q05_x, q95_x
            If ``expected`` is given, for x = 00, 10, 01, 11: expected count of an average cell in the state, mean and
            5% and 95% quantiles over so many resamples; and for both enhancers without interaction (multiplicative)
            and if they add up (additive).
        theta_t
            With the negative binomial regression.
        status_t
            ``tested``, or why not.

    Raises
    ------
    InputError
        On unknown names, cell types, covariates or values that are not finite.
    StoreError, ResumeError, ChunkError
        See :mod:`enhancer_dask.errors`.

    Notes
    -----
    Resamples are of all cells of a cell type. The published pipeline resamples the cells of the two states of a
    contrast; p_saddle_t of a contrast is that of the latter, and no difference was seen.
    """
    if not isinstance(store, str | Path) or out is None:
        folder = dask.config.get("temporary-directory", None)
        with tempfile.TemporaryDirectory(prefix="enhancer-dask-", dir=folder) as scratch:
            if not isinstance(store, str | Path):
                made = ingest(store, Path(scratch) / "multiome.zarr")
                for message in made.attrs["report"]["warnings"]:
                    (warn or warnings.warn)(message)
                store = Path(scratch) / "multiome.zarr"
            return epistasis(
                store, pairs, celltype, coding=coding, covariates=covariates, offset=offset, regression=regression, p=p,
                engine=engine, seed=seed, ladder=ladder, margin=margin, level=level, expected=expected,
                out=out or Path(scratch) / "epistasis.parquet", client=client, chunk_pairs=chunk_pairs,
                progress=progress, overwrite=overwrite, warn=warn,
            )  # fmt: skip
    data, out = MultiomeStore(located(store)), output_table(out)
    options = Options(regression, coding, p, engine, seed, tuple(ladder), margin, level, expected)
    _check_options(options, chunk_pairs)
    of_types = pair_rows(data, distinct_pairs(pairs, warn), celltype)
    terms = tuple(term for term, _, _ in parse_terms(covariates))
    names = _check_cells(data, of_types, terms, offset, warn or warnings.warn)
    request = Request(data.path, data.fingerprint, tuple(of_types), terms, names, offset, options)
    work = plan(request, out.with_name(f"{out.name}.parts"), chunk_pairs or _chunk_pairs(data, of_types))
    merge = partial(write_result, request, work, out)
    return finish(work, out, merge, client=client, progress=progress, overwrite=overwrite)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """What a table holds, as JSON values: tests, discoveries at FDR < 0.1, verdicts, interactions of one cell."""
    return {
        "n_pairs": len(table),
        "n_tested": {test: int((table[f"status_{test}"] == "tested").sum()) for test in TESTS},
        "n_fdr_10": {test: n_below(table[f"fdr_{test}"]) for test in TESTS},
        "n_fdr_saddle_10": {test: n_below(table[f"fdr_saddle_{test}"]) for test in TESTS},
        "verdicts": {str(name): int(n) for name, n in table["verdict"].value_counts().items() if name},
        "n_one_cell": int(table["one_cell"].sum()),
        "n_refits": int(sum(table[f"n_refits_{test}"].sum() for test in TESTS)),
        "n_exact": int(sum(table[f"n_exact_{test}"].sum() for test in TESTS)),
    }


def _chunk_pairs(store: MultiomeStore, of_types: Sequence[PairRows]) -> int:
    """Pairs per chunk, a function of the data alone: a run goes on with the same chunks on another cluster."""
    n_pairs = sum(len(rows.gene) for rows in of_types)
    most_cells = max(int(cells.stop - cells.start) for cells in (store.cells_of(rows.celltype) for rows in of_types))
    wanted = min(LARGEST_CHUNK, max(LEAST_CHUNK, n_pairs // CHUNKS_WANTED))
    return max(1, min(wanted, CHUNK_COUNTS // max(1, most_cells)))


def _check_options(options: Options, chunk_pairs: int | None) -> None:
    known = (("engine", ENGINES), ("p", P_VALUES), ("regression", MODELS), ("coding", CODINGS))
    for name, choices in known:
        if getattr(options, name) not in choices:
            raise InputError(f"{name} {getattr(options, name)!r} is unknown; choose from {', '.join(choices)}")
    if not 1.0 < options.margin < np.inf:
        raise InputError(f"margin is {options.margin}; want a fold change above 1")
    if not 0.0 < options.level < 1.0:
        raise InputError(f"level is {options.level}; want a confidence between 0 and 1")
    if chunk_pairs is not None and chunk_pairs < 1:
        raise InputError(f"chunk_pairs is {chunk_pairs}; want 1 or more")
    if options.expected < 0:
        raise InputError(f"expected is {options.expected}; want a number of resamples, 0 or more")
    if not options.ladder:
        raise InputError("the ladder has no rung; want at least one")


def _check_cells(
    store: MultiomeStore,
    of_types: Sequence[PairRows],
    terms: tuple[str, ...],
    offset: str | None,
    warn: Callable[[str], None],
) -> tuple[str, ...]:
    """Find before the run what would fail in every chunk; names of the covariates in any of the types."""
    types = [rows.celltype for rows in of_types]
    check_covariates(store, types, terms, offset, warn)
    names = (read_covariates(store, celltype, terms).names for celltype in types)
    return tuple(dict.fromkeys(name for of_type in names for name in of_type))
