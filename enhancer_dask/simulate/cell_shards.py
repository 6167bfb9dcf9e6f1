"""Simulated single cells to graph shards, and to the files that a user would start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io.files import check_free, staged
from enhancer_dask.io.tables import write_parquet
from enhancer_dask.shard_store import DESCRIPTION, ShardStore, finish_shards, write_shard
from enhancer_dask.simulate.cell_contacts import SPLITS, CellDesign, CellExperiment, SimulatedCell

CONTACTS_PER_SHARD = 1_000_000
RAW_CONTACTS = "contacts.scool"


def simulate_cells(
    out: str | Path,
    design: CellDesign | None = None,
    *,
    n_train: int = 210,
    n_validation: int = 35,
    n_test: int = 35,
    seed: int = 0,
    raw: str | Path | None = None,
    overwrite: bool = False,
) -> ShardStore:
    """Write single cells with contacts, expression and known drivers as graph shards.

    Parameters
    ----------
    out : path
        Folder of shards; it appears when all of them are there. Beside the shards it holds ``genes.parquet`` (order of
        the genes in ``expression``) and ``drivers.parquet``, the truth: see :class:`.CellExperiment`.
    design : CellDesign, optional
    n_train, n_validation, n_test : int
        Cells in each split, of all stages in turn.
    seed : int
        A cell depends on the design, the seed, its split and its number only.
    raw : path, optional
        Folder for the same cells as input of ``contacts`` and ``graphs``: ``contacts.scool``, ``expression.parquet``
        (cell and one column per gene), ``cells.parquet`` (cell, stage, split), ``genes.parquet``, ``drivers.parquet``.
        All contacts are in memory meanwhile.
    overwrite : bool
        Replace ``out`` and ``raw``; never a folder that holds something else.

    Returns
    -------
    ShardStore
        One graph per cell as :meth:`.CellExperiment.graph` makes them; a shard holds one split only. As of
        :func:`enhancer_dask.graph_shards`, ``params["x"]`` and ``params["expressed"]`` name the columns.

    Raises
    ------
    InputError
        If there is no cell to make, a folder exists and ``overwrite`` is not set, or ``raw`` would replace ``out``.
    """
    design, out = design or CellDesign(), Path(out)
    sizes = dict(zip(SPLITS, (n_train, n_validation, n_test), strict=True))
    for split, n in sizes.items():
        if n < 0:
            raise InputError(f"n_{split} is {n}, want at least 0")
    if not sum(sizes.values()):
        raise InputError("n_train, n_validation and n_test are 0: no cell to make")
    check_free(out, DESCRIPTION, overwrite=overwrite)
    if raw is not None:
        check_free(Path(raw), RAW_CONTACTS, overwrite=overwrite)
    if raw is not None and Path(raw).absolute() in (out.absolute(), *out.absolute().parents):
        raise InputError(f"{raw}: would replace the shards; choose another folder for raw")
    experiment = CellExperiment(design, seed)
    with staged(out) as work:
        work.mkdir()
        index = []
        for i, cells in enumerate(_batches(experiment, sizes)):
            index.append(write_shard(work / f"shard-{i:08d}.zarr", [experiment.graph(cell) for cell in cells]))
        _write_truth(work, experiment)
        params = {"simulation": "cells", **asdict(design), **{f"n_{s}": n for s, n in sizes.items()}, "seed": seed}
        params |= {"x": ["degree"], "expressed": experiment.genes["gene"].tolist()}
        finish_shards(work, pd.concat(index, ignore_index=True), params)
    if raw is not None:
        cells = [experiment.cell(split, i) for split, n in sizes.items() for i in range(n)]
        _write_raw(Path(raw), experiment, cells)
    return ShardStore(out)


def _batches(experiment: CellExperiment, sizes: dict[str, int]) -> Iterator[list[SimulatedCell]]:
    """Cells of one shard at a time."""
    step = max(1, int(CONTACTS_PER_SHARD / max(experiment.design.contacts, 1.0)))
    for split, n in sizes.items():
        for start in range(0, n, step):
            yield [experiment.cell(split, i) for i in range(start, min(start + step, n))]


def _write_truth(folder: Path, experiment: CellExperiment) -> None:
    write_parquet(experiment.genes, folder / "genes.parquet", make_parent=False)
    write_parquet(experiment.drivers, folder / "drivers.parquet", make_parent=False)


def _write_raw(raw: Path, experiment: CellExperiment, cells: Sequence[SimulatedCell]) -> None:
    import cooler

    with staged(raw) as work:
        work.mkdir()
        pixels = {cell.name: cell.contacts for cell in cells}
        cooler.create_scool(str(work / RAW_CONTACTS), experiment.bins, pixels, ordered=True)
        counts = pd.DataFrame([cell.expression for cell in cells], columns=experiment.genes["gene"].tolist())
        counts.insert(0, "cell", [cell.name for cell in cells])
        write_parquet(counts, work / "expression.parquet", make_parent=False)
        table = pd.DataFrame([(c.name, c.stage, c.split) for c in cells], columns=["cell", "stage", "split"])
        write_parquet(table, work / "cells.parquet", make_parent=False)
        _write_truth(work, experiment)
