"""What graph shards are made from and how: checked once, then sent to every task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.graphs.edges import EXTRA, WEIGHT_COLUMNS
from enhancer_dask.graphs.rules import parse_rule
from enhancer_dask.graphs.tracks import Track
from enhancer_dask.stores import Location

OF_EDGES = ("degree", "strength")
NODES = ("bins", "genes")
METHODS = ("ice", "kr", "vc", "vc_sqrt", "none")
CARRIED = "file:"
READ = 1 << 24


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the graphs depend on, small enough to travel with each task."""

    store: Path
    """Contact store."""
    fingerprint: str
    """Of the store."""
    resolution: int
    """Size of the bins, bp."""
    chromosomes: tuple[str, ...]
    """Whose bins are nodes."""
    cells: bool
    """One graph per cell."""
    rule: str
    """Which contacts are edges."""
    balance: str
    """One of ``METHODS``, or ``file:NAME`` for a vector that the file carried."""
    min_distance: int
    """Least separation of an edge, bins."""
    inter: bool
    """Also contacts between the chromosomes."""
    edge_weights: tuple[str, ...]
    """Names of :func:`enhancer_dask.graphs.edges.edge_weights`."""
    nodes: str = "bins"
    """One of ``NODES``."""
    window: int | None = None
    """Bins."""
    step: int | None = None
    """Bins."""
    only_with_genes: bool = False
    """Leave out windows in whose loss mask no gene starts."""
    features: tuple[str, ...] = OF_EDGES
    """Features made of the edges: some of ``OF_EDGES``."""
    tracks: tuple[Track, ...] = ()
    """bigWig features."""
    fasta: Path | None = None
    """Reference sequence."""
    multiome: Location | None = None
    """Store whose peaks are accessibility."""
    celltype: str | None = None
    """Of the multiome store."""
    cage: Track | None = None
    """Target signal."""
    genes: Path | None = None
    """Table or GTF of genes."""
    gene_values: bool = False
    """Whether the other columns of that table are the target (bulk expression)."""
    expression: Location | None = None
    """Table, or multiome store, of expression per cell."""

    @property
    def balances_cells(self) -> bool:
        """Whether each cell gets weights of its own."""
        return self.cells and self.balance in METHODS[:-1]

    @property
    def extra(self) -> tuple[str, ...]:
        """Columns of the edges that the weights need beyond count and oe."""
        return tuple(name for name in EXTRA if name in {WEIGHT_COLUMNS[kind] for kind in self.edge_weights})

    @property
    def files(self) -> dict[str, Path]:
        """Files that graphs are made from, by what they are."""
        named = {f"track {track.name}": track.path for track in self.tracks}
        more = {"fasta": self.fasta, "cage": None if self.cage is None else self.cage.path, "genes": self.genes}
        named |= {name: path for name, path in more.items() if path is not None}
        if isinstance(self.expression, Path) and self.expression.is_file():
            named["expression"] = self.expression
        return named


def check_edges(recipe: Recipe, vectors: Iterable[str]) -> None:
    """Refuse rules, weights and balances that are unknown before anything is read.

    Raises
    ------
    InputError
        Naming what is known.
    """
    parse_rule(recipe.rule)
    for what, names, known in (
        ("edge weight", recipe.edge_weights, tuple(WEIGHT_COLUMNS)), ("feature", recipe.features, OF_EDGES)
    ):  # fmt: skip
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f"{what} {unknown[0]!r} is unknown; choose from {', '.join(known)}")
        if len(set(names)) < len(names):
            raise InputError(f"{what} given twice: {', '.join(names)}")
    if recipe.balance.startswith(CARRIED):
        name = recipe.balance.removeprefix(CARRIED)
        if name not in vectors:
            raise InputError(
                f"{recipe.store}: carries no vector {name!r} at {recipe.resolution} bp; "
                f"it carries {', '.join(vectors) or 'none'}"
            )
    elif recipe.balance not in METHODS:
        raise InputError(f"balance {recipe.balance!r} is unknown; choose from {', '.join(METHODS)}, {CARRIED}NAME")
    if recipe.nodes not in NODES:
        raise InputError(f"nodes {recipe.nodes!r} are unknown; choose from {', '.join(NODES)}")
    if recipe.min_distance < 0:
        raise InputError(f"min_distance is {recipe.min_distance}; want 0 or more bins")


def digest(path: Path) -> str:
    """Hash of a file's content.

    Raises
    ------
    InputError
        If there is no such file.
    """
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(READ):
                found.update(block)
    except (FileNotFoundError, IsADirectoryError) as err:
        raise InputError(f"{path}: no such file") from err
    return found.hexdigest()


@lru_cache(maxsize=2)
def contacts_of(path: Path, fingerprint: str) -> ContactStore:
    """A contact store as this process saw it first.

    Raises
    ------
    StoreError
        If the store is not the one of this fingerprint.
    """
    store = ContactStore(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{path}: was replaced while the run was going on")
    return store


def params_of(recipe: Recipe, more: dict[str, Any]) -> dict[str, Any]:
    """What the graphs depend on, as JSON values: names of files do not matter, their content does."""
    tracks = [
        {"name": t.name, "summary": t.summary, "log2": t.log2, "bp": t.bp}
        for t in (*recipe.tracks, *([] if recipe.cage is None else [recipe.cage]))
    ]
    return {
        "stage": "graphs",
        "contacts": recipe.fingerprint,
        "resolution": recipe.resolution,
        "chromosomes": list(recipe.chromosomes),
        "rule": recipe.rule,
        "balance": recipe.balance,
        "min_distance": recipe.min_distance,
        "inter": recipe.inter,
        "nodes": recipe.nodes,
        "edge_weights": list(recipe.edge_weights),
        "window": recipe.window,
        "step": recipe.step,
        "only_with_genes": recipe.only_with_genes,
        "features": list(recipe.features),
        "tracks": tracks,
        "celltype": recipe.celltype,
        "files": {name: digest(path) for name, path in recipe.files.items()},
        **more,
    }
