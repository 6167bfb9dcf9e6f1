"""The work of graph shards: planned, computed where it is missing, moved to its place when whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client

from enhancer_dask import chunks
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import InputError, ResumeError, StoreError
from enhancer_dask.graphs.recipe import METHODS, Recipe, params_of
from enhancer_dask.graphs.shard_tasks import Unit, read_weights, shard_chunk, weights_chunk
from enhancer_dask.graphs.units import contacts_read, pack, unit_bytes, units_of
from enhancer_dask.io.files import remove_at_once, remove_leftovers
from enhancer_dask.io.tables import check_params
from enhancer_dask.shard_store import ShardStore, finish_shards

MB = 1_000_000
CONTACT = 170  # bytes of a contact at the peak of making edges of it: its row, weights, O/E, sorting
BALANCED = 150  # of one that is balanced: its row, both triangles, what the solver holds


@dataclass(frozen=True, slots=True)
class Stages:
    """The work that makes a folder of shards."""

    balance: chunks.Work | None
    shards: chunks.Work

    @property
    def weights(self) -> Path | None:
        """File of the weights, once they are there."""
        return None if self.balance is None else self.balance.part(0)


def plan_shards(
    recipe: Recipe, store: ContactStore, bins: pd.DataFrame, more: Mapping[str, Any], out: Path, shard_mb: float
) -> Stages:
    """Weights of all bins, if they are to be found, and the shards.

    Parameters
    ----------
    recipe : Recipe
    store : ContactStore
    bins : DataFrame
        Its bins.
    more : mapping
        What the shards depend on beyond the recipe, as JSON values.
    out : path
        Folder of shards.
    shard_mb : float
        Size of a shard, at most.

    Raises
    ------
    InputError
        If no graph is left, or ``shard_mb`` makes no sense.
    """
    if not shard_mb > 0:
        raise InputError(f"shard_mb is {shard_mb}; want more than 0")
    balance = None
    if recipe.balance in METHODS[:-1] and not recipe.cells:
        n_pixels = int(store.n_pixels(recipe.resolution)[0])
        params = {"stage": "balance", "contacts": recipe.fingerprint, "resolution": recipe.resolution}
        balance = chunks.Work(
            "balance", weights_chunk, lambda _: (recipe,), 1, {**params, "balance": recipe.balance}, {},
            out.with_name(f"{out.name}.balance.parts"), nbytes=lambda _: n_pixels * BALANCED,
        )  # fmt: skip
    weights = None if balance is None else balance.part(0)
    folder = out.with_name(f"{out.name}.parts")
    units = units_of(recipe, store, bins)
    n_contacts = contacts_read(recipe, store, units)
    sizes = unit_bytes(recipe, units, n_contacts, bins)
    blocks = pack(sizes, int(shard_mb * MB))

    def arguments(index: int) -> tuple[Recipe, list[Unit], Path, Path | None]:
        mine = [units[i] for i in blocks[index]]
        return recipe, mine, folder / "shards" / f"shard-{index:08d}.zarr", weights

    def nbytes(args: tuple[Any, ...]) -> int:
        mine = blocks[int(args[2].stem.split("-")[1])]
        return CONTACT * max(n_contacts[i] for i in mine) + sum(sizes[i] for i in mine)

    params = params_of(recipe, dict(more))
    shards = chunks.Work(
        "graphs", shard_chunk, arguments, len(blocks), params, {"shard_mb": float(shard_mb)}, folder, nbytes=nbytes
    )
    return Stages(balance, shards)


def make_shards(
    stages: Stages,
    recipe: Recipe,
    out: Path,
    client: ClientSource | None,
    *,
    progress: bool,
    overwrite: bool,
    warn: Callable[[str], None],
) -> ShardStore:
    """Compute what is missing and move the shards to their place; finished ones are returned at once."""
    work, asked = stages.shards, {**stages.shards.params, **stages.shards.layout}
    if overwrite:
        _discard(stages, out, asked)
    if out.exists() and not any(out.iterdir()):
        out.rmdir()
    if not out.exists():
        remove_leftovers(out)
        with client_or_threads(client) as running:
            dropped = _balance(stages, recipe, running, progress, warn)
            _run(work, running, progress)
        _collect(work, {**asked, "dropped": dropped})
        (work.folder / "shards").rename(out)
        if not ShardStore(out).index["n_edges"].any():
            warn(f"no contact satisfies the rule {recipe.rule!r} (distance is in bp): the graphs have no edges")
    found = ShardStore(out)
    check_params(out, found.params, asked)
    for stage in (work, stages.balance):
        if stage is not None:
            remove_at_once(stage.folder)
    return found


def _discard(stages: Stages, out: Path, asked: Mapping[str, Any]) -> None:
    """Delete shards and parts made with other parameters."""
    try:
        if out.exists():
            check_params(out, ShardStore(out).params, dict(asked))
    except (ResumeError, StoreError):
        remove_at_once(out)
    for work in (stages.balance, stages.shards):
        if work is not None:
            chunks.discard_parts(work)


def _balance(
    stages: Stages, recipe: Recipe, client: Client, progress: bool, warn: Callable[[str], None]
) -> dict[str, int]:
    """Weights, if they are to be found; returns how many bins have none, by reason."""
    if stages.balance is None:
        carried = None if recipe.balances_cells else read_weights(recipe, None)
        return {} if carried is None else {"file": int(np.isnan(carried).sum())}
    chunks.run(stages.balance, client, progress=progress)
    table = next(iter(chunks.tables(stages.balance, ["dropped", "message"]))).to_pandas()
    if table["message"].iloc[0]:
        warn(str(table["message"].iloc[0]))
    reasons = table.loc[table["dropped"] != "", "dropped"].value_counts()
    return {str(reason): int(n) for reason, n in sorted(reasons.items())}


def _run(work: chunks.Work, client: Client, progress: bool) -> None:
    """Make the shards that are missing."""
    (work.folder / "shards").mkdir(parents=True, exist_ok=True)
    for index in range(work.n_chunks):
        if work.part(index).exists() and not work.arguments(index)[2].exists():
            work.part(index).unlink()
    chunks.run(work, client, progress=progress)


def _collect(work: chunks.Work, params: Mapping[str, Any]) -> None:
    """Index and description beside the shards."""
    index = pd.concat([part.to_pandas() for part in chunks.tables(work)], ignore_index=True)
    for path in (work.folder / "shards").glob(".*"):  # left by workers that were killed
        remove_at_once(path)
    finish_shards(work.folder / "shards", index, params)
