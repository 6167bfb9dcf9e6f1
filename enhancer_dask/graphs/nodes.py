"""Features, targets and masks of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.genes import gene_nodes, read_genes
from enhancer_dask.graphs.recipe import Recipe
from enhancer_dask.graphs.sequence import sequence_codes
from enhancer_dask.graphs.tracks import track_values
from enhancer_dask.io.chromosomes import ChromosomeNames
from enhancer_dask.io.pixels import chromosome_codes, chromosome_lengths
from enhancer_dask.stores import MultiomeStore

Arrays = Mapping[str, NDArray[Any]]
ACCESSIBILITY = "accessibility"
OWN_NAMES = ("bin", "valid", "loss_mask", "x", "y", "gene", "gene_mask", "sequence", ACCESSIBILITY)
PEAKS_AT_ONCE = 1024


def feature_names(recipe: Recipe) -> list[str]:
    """Columns of ``x``, in order."""
    others = [ACCESSIBILITY] if recipe.multiome is not None else []
    return [*recipe.features, *others, *(track.name for track in recipe.tracks if track.bp is None)]


def check_names(recipe: Recipe) -> None:
    """Refuse tracks that are named like another feature or variable.

    Raises
    ------
    InputError
        Naming the first.
    """
    taken = {*OWN_NAMES, *recipe.features}
    for track in recipe.tracks:
        if track.name in taken:
            raise InputError(f"track {track.name!r}: this name is taken; choose another")
        taken.add(track.name)


def node_arrays(recipe: Recipe, bins: pd.DataFrame, ids: NDArray[np.int64]) -> tuple[Arrays, Arrays]:
    """What is known of nodes without their edges.

    Parameters
    ----------
    recipe : Recipe
    bins : DataFrame
        All bins of the store: columns chrom, start, end.
    ids : int array, shape (N,)
        Bin ids of the nodes, ascending.

    Returns
    -------
    features : dict of float32 arrays, shape (N,)
        Columns of ``x`` that need no edges.
    variables : dict of arrays, first axis N
        Tracks with bins of their own, ``sequence`` (uint8 codes, shape (N, resolution)), ``y`` and ``gene_mask``.
    """
    here = bins.iloc[ids].reset_index(drop=True)
    features: dict[str, NDArray[Any]] = {}
    variables: dict[str, NDArray[Any]] = {"bin": ids.astype(np.int32)}
    if recipe.multiome is not None:
        features[ACCESSIBILITY] = accessibility(MultiomeStore(recipe.multiome), str(recipe.celltype), here)
    for track in recipe.tracks:
        (features if track.bp is None else variables)[track.name] = track_values(track, here, recipe.resolution)
    if recipe.fasta is not None:
        variables["sequence"] = sequence_codes(recipe.fasta, here, recipe.resolution)
    if recipe.cage is not None:
        variables["y"] = track_values(recipe.cage, here, recipe.resolution)
    if recipe.genes is not None:
        genes = read_genes(recipe.genes, bins, values=recipe.gene_values)
        values, mask = gene_nodes(genes, len(bins))
        variables["gene_mask"] = mask[ids]
        if genes.columns:
            variables["y"] = values[ids, 0] if len(genes.columns) == 1 else values[ids]
    return features, variables


def accessibility(store: MultiomeStore, celltype: str, bins: pd.DataFrame) -> NDArray[np.float32]:
    """ATAC counts in bins, mean per cell of a type.

    Parameters
    ----------
    store : MultiomeStore
    celltype : str
    bins : DataFrame
        Columns chrom, start, end; those of a chromosome ascend.

    Returns
    -------
    float32 array, shape (N,)
        Counts of the peaks whose centre is in the bin, summed, per cell.

    Raises
    ------
    InputError
        If no peak is on a chromosome of the bins, or the cell type is not in the store.
    """
    peaks = store.features("peak")
    centre = ((peaks["start"] + peaks["end"]) // 2).to_numpy(np.int64)
    names = ChromosomeNames(chromosome_lengths(bins), str(store.path))
    code = peaks["chrom"].map({name: names.code(str(name)) for name in peaks["chrom"].unique()}).to_numpy(np.int64)
    if (code < 0).all():
        chroms = ", ".join(map(str, peaks["chrom"].unique()[:5]))
        raise InputError(f"{store.path}: no peak is on a chromosome of the contacts; its peaks are on {chroms} ...")
    place = np.full(len(peaks), -1, dtype=np.int64)
    of_bin, start, end = chromosome_codes(bins), bins["start"].to_numpy(np.int64), bins["end"].to_numpy(np.int64)
    for c in np.unique(of_bin):
        rows, mine = np.flatnonzero(code == c), np.flatnonzero(of_bin == c)
        nearest = mine[np.maximum(np.searchsorted(start[mine], centre[rows], side="right") - 1, 0)]
        within = (centre[rows] >= start[nearest]) & (centre[rows] < end[nearest])
        place[rows[within]] = nearest[within]
    total = np.zeros(len(bins))
    chosen = np.flatnonzero(place >= 0)
    for rows in np.split(chosen, range(PEAKS_AT_ONCE, len(chosen), PEAKS_AT_ONCE)):
        np.add.at(total, place[rows], store.counts("atac", rows, celltype).mean(axis=1, dtype=np.float64))
    return total.astype(np.float32)
