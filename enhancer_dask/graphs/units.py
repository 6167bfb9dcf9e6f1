"""Which graphs are made, and how they are packed into shards: a function of the store and the recipe alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import InputError
from enhancer_dask.graphs.bins import bin_spans
from enhancer_dask.graphs.genes import gene_nodes, read_genes
from enhancer_dask.graphs.nodes import feature_names
from enhancer_dask.graphs.recipe import Recipe
from enhancer_dask.graphs.shard_tasks import Labels, Unit
from enhancer_dask.graphs.windows import windows
from enhancer_dask.shard_store import INDEX_COLUMNS

EDGE = 8  # bytes of source and target
BIN = 6  # of bin id and two masks
# PyG has another use for some
NOT_LABELS = {*INDEX_COLUMNS, "cell", "batch", "ptr", "x", "y", "edge_index", "edge_attr", "num_nodes"}


def units_of(recipe: Recipe, store: ContactStore, bins: pd.DataFrame) -> list[Unit]:
    """The graphs to make, in order.

    Raises
    ------
    InputError
        If none is left.
    """
    if recipe.cells:
        return [Unit(cell, recipe.chromosomes, labels, cell=cell) for cell, labels in _cells(store)]
    if recipe.inter:
        name = "+".join(recipe.chromosomes)
        return [Unit(name, recipe.chromosomes, {"chrom": name})]
    found = list(_of_chromosomes(recipe, bins))
    if not found:
        raise InputError(f"{recipe.genes}: no gene starts in the loss mask of any window; no graph is left")
    return found


def _cells(store: ContactStore) -> Iterator[tuple[str, Labels]]:
    columns = {
        f"cell_{name}" if name in NOT_LABELS else name: store.cell_column(name).tolist() for name in store.cell_columns
    }
    for i, cell in enumerate(store.cells):
        yield cell, {"cell": cell, **{name: values[i] for name, values in columns.items()}}


def _of_chromosomes(recipe: Recipe, bins: pd.DataFrame) -> Iterator[Unit]:
    start, end, spans = bins["start"].to_numpy(), bins["end"].to_numpy(), bin_spans(bins)
    has_gene = np.ones(len(bins), dtype=bool)
    if recipe.only_with_genes and recipe.genes is not None:
        has_gene = gene_nodes(read_genes(recipe.genes, bins, values=recipe.gene_values), len(bins))[1]
    for chrom in recipe.chromosomes:
        first, stop = spans[chrom]
        if recipe.window is None or recipe.step is None:
            yield Unit(chrom, (chrom,), {"chrom": chrom, "start": 0, "end": int(end[stop - 1])})
            continue
        for window in windows(stop - first, recipe.window, recipe.step):
            if has_gene[first + window.loss_start : first + window.loss_stop].any():
                begin, last = int(start[first + window.start]), int(end[first + window.stop - 1])
                labels: Labels = {"chrom": chrom, "start": begin, "end": last}
                yield Unit(f"{chrom}:{begin}-{last}", (chrom,), labels, window)


def contacts_read(recipe: Recipe, store: ContactStore, units: Sequence[Unit]) -> list[int]:
    """Contacts that each graph is made from; windows are cut from those of their whole chromosome."""

    def count(chromosomes: tuple[str, ...]) -> list[int]:
        return [int(n) for n in store.n_pixels(recipe.resolution, chromosomes, inter=recipe.inter)]

    if recipe.cells:
        of_cells = dict(zip(store.cells, count(recipe.chromosomes), strict=True))
        return [of_cells[str(unit.cell)] for unit in units]
    of_blocks = {
        chromosomes: count(chromosomes)[0] for chromosomes in dict.fromkeys(unit.chromosomes for unit in units)
    }
    return [of_blocks[unit.chromosomes] for unit in units]


def unit_bytes(recipe: Recipe, units: Sequence[Unit], n_contacts: Sequence[int], bins: pd.DataFrame) -> list[int]:
    """Size of each graph if every contact were an edge: an upper bound."""
    n_bins = {chrom: stop - start for chrom, (start, stop) in bin_spans(bins).items()}
    node, edge = _node_bytes(recipe), 2 * (EDGE + 4 * len(recipe.edge_weights))
    sizes = []
    for unit, n_edges in zip(units, n_contacts, strict=True):
        n_nodes = sum(n_bins[chrom] for chrom in unit.chromosomes)
        share = 1.0 if unit.window is None else (unit.window.stop - unit.window.start) / n_nodes
        sizes.append(int(share * (n_nodes * node + n_edges * edge)))
    return sizes


def _node_bytes(recipe: Recipe) -> int:
    fine = sum(4 * recipe.resolution // track.bp for track in recipe.tracks if track.bp is not None)
    sequence = 0 if recipe.fasta is None else recipe.resolution
    return BIN + 4 * len(feature_names(recipe)) + fine + sequence


def pack(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut a sequence into runs whose sizes add up to at most a limit, or of one.

    Examples
    --------
    >>> pack([3, 4, 9, 1, 1], 8)
    [range(0, 2), range(2, 3), range(3, 5)]
    """
    starts, held = [0], 0
    for i, size in enumerate(sizes):
        if held and held + size > limit:
            starts.append(i)
            held = 0
        held += size
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True)]
