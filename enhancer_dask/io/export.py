"""Tables of ours to formats of others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from enhancer_dask.io.files import staged


def write_bed(features: pd.DataFrame, path: str | Path) -> None:
    """Write chrom, start (0-based), end, name and, where there is one, score 0 and strand as BED.

    Sorted by chromosome name and start, as ``bedtools -sorted`` wants it.
    """
    table = features[["chrom", "start", "end", "name"]].copy()
    if "strand" in features:
        table["score"] = 0
        table["strand"] = features["strand"]
    table = table.sort_values(["chrom", "start", "end"], kind="stable")
    with staged(Path(path)) as work:
        table.to_csv(work, sep="\t", header=False, index=False)
