"""A whole run in order: ingest, candidates, SCENT. A stage whose output is there and valid is skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask.clusters import ClientSource
from enhancer_dask.config import RunConfig, load_config
from enhancer_dask.io.ingest import ingest
from enhancer_dask.io.tables import write_tsv
from enhancer_dask.links.candidates import candidates
from enhancer_dask.links.scent import n_below, scent
from enhancer_dask.stats.bootstrap import up_to

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """Where a run left its tables, and how many links it found."""

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
    out, wanted = config.out, config.ingest
    store, links_path = out / "multiome.zarr", out / "links.parquet"
    say(f"ingest: {', '.join(wanted.inputs)} -> {store}")
    data = ingest(
        list(wanted.inputs), store, cells=wanted.cells, gtf=wanted.gtf, assembly=wanted.assembly, overwrite=overwrite
    )
    for warning in data.attrs["report"]["warnings"]:
        say(f"warning: {warning}")
    if config.pairs is None:
        pairs_path = out / "pairs.parquet"
        say(f"candidates: {store} -> {pairs_path}")
        n_pairs = len(candidates(store, pairs_path, **config.candidates.model_dump(), overwrite=overwrite))
    else:
        pairs_path = config.pairs
        n_pairs = -1
    wanted_types = None if config.scent.celltypes == "all" else config.scent.celltypes
    settings = config.scent.model_dump(exclude={"celltypes", "max_resamples"})
    say(f"scent: {'all cell types' if wanted_types is None else ', '.join(wanted_types)} -> {links_path}")
    links = scent(
        store,
        pairs_path,
        celltype=wanted_types,
        ladder=up_to(config.scent.max_resamples),
        **settings,
        out=links_path,
        client=client,
        progress=progress,
        overwrite=overwrite,
        warn=lambda message: say(f"warning: {message}"),
    )
    if config.tsv:
        write_tsv(links, links_path.with_suffix(".tsv.gz"))
    return summarise(store, pairs_path, links_path, n_pairs, links)


def summarise(store: Path, pairs: Path, links_path: Path, n_pairs: int, links: pd.DataFrame) -> PipelineResult:
    """Count what was found."""
    n_types = max(1, links["celltype"].nunique())
    return PipelineResult(
        str(store),
        str(pairs),
        str(links_path),
        n_pairs if n_pairs >= 0 else len(links) // n_types,
        int((links["status"] == "tested").sum()),
        n_below(links["fdr"]),
        n_below(links["fdr_saddle"]),
    )
