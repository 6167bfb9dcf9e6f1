"""Bin ids of chromosomes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def bin_spans(bins: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """First bin of each chromosome and the one after its last."""
    rows = pd.Series(np.arange(len(bins))).groupby(bins["chrom"].to_numpy(), sort=False)
    first, last = rows.min(), rows.max()
    return {str(chrom): (int(first[chrom]), int(last[chrom]) + 1) for chrom in first.index}


def bins_of(bins: pd.DataFrame, chromosomes: Iterable[str]) -> NDArray[np.int64]:
    """Bin ids of some chromosomes, in the order given."""
    spans = bin_spans(bins)
    return np.concatenate([np.arange(*spans[chrom], dtype=np.int64) for chrom in chromosomes])
