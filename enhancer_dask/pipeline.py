"""A whole run in order, from files to figures. A stage whose output is there and valid is skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask.clusters import ClientSource, kept_open
from enhancer_dask.config import RunConfig, load_config
from enhancer_dask.errors import ResumeError
from enhancer_dask.interactions.census import census
from enhancer_dask.interactions.contrasts import LADDERS
from enhancer_dask.interactions.epistasis import epistasis, summary
from enhancer_dask.interactions.pairs import enhancer_pairs, write_enhancer_pairs
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import write_tsv
from enhancer_dask.links.candidates import candidates
from enhancer_dask.links.covariates import check_covariates, parse_terms
from enhancer_dask.links.scent import n_below, scent
from enhancer_dask.stats.bootstrap import up_to
from enhancer_dask.stores import MultiomeStore

Say = Callable[[str], None]
EPISTASIS = "epistasis.parquet"
FIGURES = ("qq_", "volcano_", "sum_", "verdicts_", "expression_")  # what their names begin with


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """Where a run left its tables, and what it found."""

    store: str
    """Multiome store."""
    pairs: str
    """Table of candidate pairs."""
    links: str
    """Table of links: every pair in every cell type."""
    n_pairs: int
    """Candidate pairs."""
    n_tested: int
    """Rows of the links that were tested."""
    n_links: int | None
    """Rows with fdr < 0.1, on the ladder's p-values; None if it was not climbed."""
    n_links_saddle: int | None
    """Rows with fdr_saddle < 0.1, on the saddlepoint's; None if not computed."""
    epistasis: str | None = None
    """Table of contrasts and interactions of enhancer pairs; None if not asked for, or if there are no pairs."""
    n_enhancer_pairs: int = 0
    """Its rows."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """How many of them add up, multiply, interact or are undecided."""
    figures: list[str] = field(default_factory=list)
    """Files."""

    def asdict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def to_stderr(message: str) -> None:
    """Default of ``say``."""
    print(message, file=sys.stderr)


def run(
    config: RunConfig | str | Path,
    *,
    client: ClientSource | None = None,
    progress: bool = True,
    overwrite: bool = False,
    say: Say = to_stderr,
) -> PipelineResult:
    """Do what a run.yaml says.

    Parameters
    ----------
    config : RunConfig or path of a run.yaml
    client : distributed.Client or function that opens one, optional
        Asked for only if there is work to do.
    progress, overwrite
        As in the stages.
    say : function of str
        Receives one line per stage, and warnings.

    Raises
    ------
    InputError, StoreError, ResumeError, ChunkError
        See :mod:`enhancer_dask.errors`.
    """
    if not isinstance(config, RunConfig):
        config = load_config(config)
    with kept_open(client) as source:
        stages = _Stages(config, source, progress, overwrite, say)
        store = stages.ingest()
        pairs, n_pairs = stages.candidates(store)
        links = stages.scent(store, pairs)
        epistasis = stages.epistasis(store, links)
    figures = stages.figures(store, links, epistasis)
    return _summarise(store, pairs, stages.links, n_pairs, links, stages.out / EPISTASIS, epistasis, figures)


class _Stages:
    """The stages of one run; each says what it does and finds what an earlier call has left."""

    def __init__(
        self, config: RunConfig, client: ClientSource | None, progress: bool, overwrite: bool, say: Say
    ) -> None:
        self.config, self.out, self.say = config, config.out, say
        self.links = config.out / "links.parquet"
        self.overwrite = overwrite
        self.chunked: dict[str, Any] = {
            "client": client,
            "progress": progress,
            "warn": self._warn,
            "overwrite": overwrite,
        }

    def _warn(self, message: str) -> None:
        self.say(f"warning: {message}")

    def ingest(self) -> Path:
        wanted, store = self.config.ingest, self.out / "multiome.zarr"
        self.say(f"ingest: {', '.join(wanted.inputs)} -> {store}")
        data = ingest(
            list(wanted.inputs), store, cells=wanted.cells, gtf=wanted.gtf, assembly=wanted.assembly,
            overwrite=self.overwrite,
        )  # fmt: skip
        for warning in data.attrs["report"]["warnings"]:
            self._warn(warning)
        self._check_epistasis(MultiomeStore(store))
        return store

    def _check_epistasis(self, store: MultiomeStore) -> None:
        """Find now what would stop the run after SCENT."""
        if self.config.epistasis is not None:
            wanted = self.config.scent.celltypes
            types = store.chosen_types(None if wanted == "all" else wanted)
            terms = tuple(term for term, _, _ in parse_terms(self.config.epistasis.covariates))
            check_covariates(store, types, terms, self.config.epistasis.offset, lambda _: None)

    def candidates(self, store: Path) -> tuple[Path, int | None]:
        if self.config.pairs is not None:
            return self.config.pairs, None
        pairs = self.out / "pairs.parquet"
        self.say(f"candidates: {store} -> {pairs}")
        settings = self.config.candidates.model_dump()
        return pairs, len(candidates(store, pairs, **settings, overwrite=self.overwrite))

    def scent(self, store: Path, pairs: Path) -> pd.DataFrame:
        wanted = self.config.scent
        types = None if wanted.celltypes == "all" else wanted.celltypes
        self.say(f"scent: {'all cell types' if types is None else ', '.join(types)} -> {self.links}")
        settings = wanted.model_dump(exclude={"celltypes", "max_resamples"})
        links = scent(
            store, pairs, celltype=types, ladder=up_to(wanted.max_resamples), **settings, out=self.links, **self.chunked
        )
        self._tsv(links, self.links)
        return links

    def epistasis(self, store: Path, links: pd.DataFrame) -> pd.DataFrame | None:
        """Pairs of the significant peaks of each gene and cell type, tested in that cell type."""
        wanted, chosen = self.config.epistasis, self.config.enhancer_pairs
        if wanted is None:
            return None
        path, out = self.out / "enhancer_pairs.parquet", self.out / EPISTASIS
        self.say(f"pairs: {self.links} -> {path}")
        pairs = enhancer_pairs(links, chosen.fdr, by=chosen.by)
        if chosen.min_double and len(pairs):
            how = chosen.model_dump(exclude={"min_double"})
            pairs = census(store, pairs, min_double=chosen.min_double, settings=how, out=path, **self.chunked)
        else:
            write_enhancer_pairs(pairs, path, settings=chosen.model_dump(), overwrite=self.overwrite)
        if not len(pairs):
            filtered = f" with {chosen.min_double} doubly open cells" if chosen.min_double else ""
            self._warn(f"no gene has two links at FDR < {chosen.fdr:g}{filtered}, so there are no enhancer pairs")
            self._without(out)
            return None
        self.say(f"epistasis: {len(pairs)} enhancer pairs -> {out}")
        settings = wanted.model_dump(exclude={"ladder"})
        table = epistasis(
            store, pairs, pairs["celltype"].unique().tolist(), ladder=LADDERS[wanted.ladder], **settings, out=out,
            **self.chunked,
        )  # fmt: skip
        self._tsv(table, out)
        return table

    def _without(self, out: Path) -> None:
        """There is no such table in this run; one of an earlier run must not pass for it."""
        if not out.exists():
            return
        if not self.overwrite:
            raise ResumeError(
                f"{out}: is of an earlier run; now there are no enhancer pairs: remove it or overwrite it"
            )
        for path in (out, out.with_suffix(".tsv.gz")):
            path.unlink(missing_ok=True)

    def figures(self, store: Path, links: pd.DataFrame, table: pd.DataFrame | None) -> list[Path]:
        if not self.config.figures:
            return []
        from enhancer_dask.report.gallery import draw_all

        folder = self.out / "figures"
        self.say(f"figures: {folder}")
        drawn = draw_all(folder, links=links, epistasis=table, store=None if table is None else store)
        for path in set(folder.iterdir()) - set(drawn):
            if path.name.startswith(FIGURES):  # of an earlier run
                path.unlink()
        return drawn

    def _tsv(self, table: pd.DataFrame, path: Path) -> None:
        if self.config.tsv:
            write_tsv(table, path.with_suffix(".tsv.gz"))


def _summarise(
    store: Path,
    pairs: Path,
    links_path: Path,
    n_pairs: int | None,
    links: pd.DataFrame,
    epistasis_path: Path,
    table: pd.DataFrame | None,
    figures: list[Path],
) -> PipelineResult:
    """Count what was found."""
    n_types = max(1, links["celltype"].nunique())
    return PipelineResult(
        str(store),
        str(pairs),
        str(links_path),
        len(links) // n_types if n_pairs is None else n_pairs,
        int((links["status"] == "tested").sum()),
        n_below(links["fdr"]),
        n_below(links["fdr_saddle"]),
        None if table is None else str(epistasis_path),
        0 if table is None else len(table),
        {} if table is None else summary(table)["verdicts"],
        [str(file) for file in figures],
    )
