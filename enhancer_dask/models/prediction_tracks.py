"""Predictions as tracks along chromosomes. Checked before anything is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import Sizes, read_chromsizes
from enhancer_dask.io.files import check_free
from enhancer_dask.io.track_writer import check_bigwig, merged_lengths, write_bigwig, write_tracks
from enhancer_dask.models.predictions import chromosome_lengths
from enhancer_dask.shard_store import ShardStore

COLUMNS = {"prediction": "prediction", "target": "y"}


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """Which tracks are to be written."""

    lengths: Mapping[str, int]
    """Of the chromosomes, bp; empty if the shards know no positions."""
    bigwig: Path | None
    zarr: Path | None

    @property
    def target_bigwig(self) -> Path | None:
        """Name of the track of targets: ``a.target.bw`` beside ``a.bw``."""
        return None if self.bigwig is None else self.bigwig.with_suffix(f".target{self.bigwig.suffix}")


def plan_tracks(
    shards: str | Path,
    *,
    bigwig: str | Path | None = None,
    zarr: str | Path | None = None,
    chromsizes: Sizes | None = None,
    overwrite: bool = False,
) -> TrackPlan:
    """Look at everything that writing tracks needs.

    Parameters
    ----------
    shards : path
        Folder of the graphs to predict.
    bigwig : path, optional
        File of the prediction; the targets, if there are any, go beside it (``a.target.bw``).
    zarr : path, optional
        Store of both, see :func:`enhancer_dask.io.track_writer.write_tracks`.
    chromsizes : see :func:`enhancer_dask.io.chromosomes.read_chromsizes`, optional
        By default a chromosome is as long as the graphs reach, which is its length unless windows were left out.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    InputError
        If a bigWig is wanted of nodes without positions, or a name is taken, has the wrong ending or is a URL.
    """
    store = ShardStore(Path(shards))
    own = chromosome_lengths(store)
    lengths = merged_lengths(own, None if chromsizes is None else read_chromsizes(chromsizes), list(own))
    plan = TrackPlan(lengths, None if bigwig is None else Path(bigwig), None if zarr is None else Path(zarr))
    if plan.bigwig is not None:
        check_bigwig(plan.bigwig)
        if not own:
            raise InputError(
                f"{shards}: its nodes have no chrom, start and end, so no bigWig can be written; Zarr tracks can"
            )
        for path in (plan.bigwig, plan.target_bigwig):
            if path is not None and path.exists() and not overwrite:
                raise InputError(f"{path}: exists; choose another name or overwrite it")
    if plan.zarr is not None:
        check_free(plan.zarr, "zarr.json", overwrite=overwrite)
    return plan


def write_prediction_tracks(plan: TrackPlan, predictions: pd.DataFrame) -> dict[str, Any]:
    """Write the tracks of a table of predictions of one model.

    Only bins of the loss mask are written: of overlapping windows each bin is in exactly one. Where nodes have no
    positions, the Zarr store has the graphs in the place of chromosomes and positions in the graph as start and end.

    Returns
    -------
    dict
        What was written, as JSON values.

    Raises
    ------
    InputError
        If a bin is there twice.
    """
    bins = predictions[predictions["loss_mask"].to_numpy(bool)]
    written: dict[str, Any] = {}
    if plan.bigwig is not None:
        written |= {"bigwig": str(plan.bigwig), "n_bins": write_bigwig(bins, plan.bigwig, "prediction", plan.lengths)}
        if plan.target_bigwig is not None and bins["y"].notna().any():
            write_bigwig(bins, plan.target_bigwig, "y", plan.lengths)
            written["target_bigwig"] = str(plan.target_bigwig)
        elif plan.target_bigwig is not None:  # one that is there is of other predictions
            plan.target_bigwig.unlink(missing_ok=True)
    if plan.zarr is not None:
        lengths: Mapping[str, int] = plan.lengths
        if not lengths:
            n_nodes = predictions.groupby("graph", sort=False)["node"].max() + 1
            lengths = {str(name): int(n) for name, n in n_nodes.items()}
            node = bins["node"].to_numpy(np.int64)
            bins = bins.assign(chrom=bins["graph"], start=node, end=node + 1)
        attributes = {"unit": "bp" if plan.lengths else "bin"}
        written |= {"zarr": str(plan.zarr), "n_bins": write_tracks(bins, plan.zarr, COLUMNS, lengths,
                                                                  attributes=attributes)}  # fmt: skip
    return written
