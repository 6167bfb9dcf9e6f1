"""What a training has seen: no model is judged by the graphs that it, or the one that it stands on, learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.models.crossing import Split, rows_of
from enhancer_dask.models.runs import lineage, shards_hash
from enhancer_dask.shard_store import ShardStore

PARTS = ("train", "validation")


def seen_of(
    description: Mapping[str, Any], index: pd.DataFrame, store: ShardStore, parts: Sequence[str] = PARTS
) -> str:
    """What a model has seen of some graphs: it was trained on them, or chosen by them.

    Parameters
    ----------
    description : mapping
        Content of its ``run.json``.
    index : DataFrame
        Rows of the graphs.
    store : ShardStore
        Where they are.
    parts : sequence of str
        Of the training, that count.

    Returns
    -------
    str
        The chromosomes, or graphs, and the part of the training that they are of; empty if it has seen none.

    Notes
    -----
    A run says in ``splits`` what it took for training and validation: a condition on the index, or a mapping with
    some of ``where`` (that condition), ``chroms``, ``names`` (of the graphs) and ``names_digest``. Chromosomes count
    whatever shards they are in; other graphs within the same shards only, since all simulations call theirs alike. A
    run that says nothing of a part is taken to have seen none of it. What the run that it stands on (``base``) has
    seen, it has seen, too.
    """
    splits, same = description.get("splits"), _same_shards(description, store)
    for part in parts:
        said = splits.get(part) if isinstance(splits, Mapping) else None
        chroms, names = _seen(said, index, store, same=same)
        both = sorted(chroms & _chroms(index)) or sorted(names & set(index["name"].astype(str)))
        if both:
            what = "chromosome" if chroms & _chroms(index) else "graph"
            return f"{what} {', '.join(both[:5])} in {part}"
    base = (description.get("options") or {}).get("base")
    found = seen_of(lineage(base), index, store, parts) if base else ""
    return f"{found} of its base" if found else ""


def check_base(store: ShardStore, options: Mapping[str, Any], split: Split) -> None:
    """Refuse to train on top of a run that has learned from what shall validate or test now, or was chosen by the test.

    Raises
    ------
    InputError
        Naming the chromosomes or graphs, and both sets that they are in.
    """
    base = options.get("base")
    if not base:
        return
    for name, where, parts in (("test", split.test, PARTS), ("validation", split.validation, PARTS[:1])):
        seen = seen_of(lineage(base), rows_of(store, where), store, parts)
        if seen:
            raise InputError(f"base {str(base)!r} saw {seen}, which is in {name} here; want a base of the same split")


def _seen(said: Any, index: pd.DataFrame, store: ShardStore, *, same: bool) -> tuple[set[str], set[str]]:
    """Chromosomes and names of graphs of one part of a training, as far as the run says."""
    said = {"where": said} if isinstance(said, str) else said
    if not isinstance(said, Mapping):
        return set(), set()
    chroms, names = {str(c) for c in said.get("chroms") or ()}, {str(n) for n in said.get("names") or ()}
    if said.get("names_digest") == names_digest(index["name"]):
        names |= set(index["name"].astype(str))
    condition = said.get("where")
    if isinstance(condition, str) and (same or "chrom" in condition):
        with suppress(Exception):  # a condition on columns that these shards do not have
            rows = (store.index if same else index).query(condition)
            chroms, names = chroms | _chroms(rows), names | set(rows["name"].astype(str))
    return chroms, names if same else set()


def _chroms(index: pd.DataFrame) -> set[str]:
    """Chromosomes of graphs; a graph of several is called ``chr2+chr11``."""
    return {part for c in index["chrom"].unique() for part in str(c).split("+")} if "chrom" in index else set()


def names_digest(names: Iterable[str]) -> str:
    """By which a set of graphs is known again: a hash of their sorted names."""
    return hashlib.blake2b("\n".join(sorted(map(str, names))).encode(), digest_size=16).hexdigest()


def _same_shards(description: Mapping[str, Any], store: ShardStore) -> bool:
    """Whether a run was trained on these shards: as their hash, or their parameters, tell; without both it may be."""
    if "shards_hash" in description:
        return bool(description["shards_hash"] == shards_hash(store))
    shards = description.get("shards")
    recorded = shards.get("params") if isinstance(shards, Mapping) else None
    return recorded is None or recorded == store.params
