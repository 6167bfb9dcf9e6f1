"""Graphs whose nodes are genes: two are linked where the bins of their start sites are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def between_genes(edges: pd.DataFrame, place: NDArray[np.integer], n_bins: int) -> pd.DataFrame:
    """Edges between bins as edges between the genes that start there.

    Parameters
    ----------
    edges : DataFrame
        node1, node2 (bins from 0, node1 < node2) and further columns.
    place : int array, shape (genes,)
        Bin in which each gene starts, ascending.
    n_bins : int

    Returns
    -------
    DataFrame
        The same columns, node1 and node2 being genes, node1 < node2, sorted. Every gene of one bin is linked to every
        gene of the other; genes of one bin are not linked to each other.

    Examples
    --------
    >>> edges = pd.DataFrame({"node1": [0, 1], "node2": [2, 2], "count": [5, 7]})
    >>> between_genes(edges, np.array([0, 0, 2]), n_bins=3)
       node1  node2  count
    0      0      2      5
    1      1      2      5
    """
    n_genes = np.bincount(place, minlength=n_bins)
    first = np.cumsum(n_genes) - n_genes
    bin1, bin2 = edges["node1"].to_numpy(), edges["node2"].to_numpy()
    n_pairs = n_genes[bin1] * n_genes[bin2]
    row = np.repeat(np.arange(len(edges)), n_pairs)
    pair = np.arange(len(row)) - np.repeat(np.cumsum(n_pairs) - n_pairs, n_pairs)
    width = n_genes[bin2][row]
    found = edges.iloc[row].assign(node1=first[bin1][row] + pair // width, node2=first[bin2][row] + pair % width)
    return found.sort_values(["node1", "node2"], ignore_index=True)
