"""Signal of bigWig files in bins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import ChromosomeNames, check_same_assembly
from enhancer_dask.io.pixels import chromosome_codes

Floats = NDArray[np.float64]
Summary = Literal["mean", "sum", "max"]
SUMMARIES = ("mean", "sum", "max")
_FORM = "want NAME=PATH and perhaps, after commas, mean, sum or max, log2, and a bin size such as 100bp"


@dataclass(frozen=True, slots=True)
class Track:
    """A bigWig file and how it becomes a feature of the nodes."""

    name: str
    """Of the feature."""
    path: Path
    """bigWig."""
    summary: Summary = "mean"
    """Over the bases of a bin; those without a value, or with NaN, count as 0."""
    log2: bool = False
    """Take log2(x + 1)."""
    bp: int | None = None
    """Cut each node's bin into bins of this size: a variable of its own, shape (N, resolution / bp)."""


def parse_track(text: str) -> Track:
    """A track as it is written on the command line.

    Examples
    --------
    >>> parse_track("dnase=k562.bigWig,sum,log2,100bp")
    Track(name='dnase', path=PosixPath('k562.bigWig'), summary='sum', log2=True, bp=100)
    """
    name, _, rest = text.partition("=")
    path, *words = rest.split(",")
    found: dict[str, Any] = {}
    for word in words:
        if word in SUMMARIES:
            found["summary"] = word
        elif word == "log2":
            found["log2"] = True
        elif word.endswith("bp") and word[:-2].isdigit():
            found["bp"] = int(word[:-2])
        else:
            raise InputError(f"track {text!r}: cannot read {word!r}; {_FORM}")
    if not name.isidentifier() or not path:
        raise InputError(f"track {text!r}: cannot read it; {_FORM}")
    return Track(name, Path(path), **found)


def check_track(track: Track, lengths: dict[str, int], resolution: int) -> None:
    """Refuse a track that cannot be read or is not of this genome.

    Parameters
    ----------
    track : Track
    lengths : mapping
        Length of each chromosome of the contacts, bp.
    resolution : int
        Size of the bins, bp.

    Raises
    ------
    InputError
        If the file is no bigWig, has none of the chromosomes, or another length of one; if ``bp`` does not divide the
        resolution.
    """
    if track.bp is not None and not (0 < track.bp < resolution and resolution % track.bp == 0):
        raise InputError(f"track {track.name!r}: {track.bp} bp is not a part of the resolution, {resolution} bp")
    if track.summary not in SUMMARIES:
        raise InputError(f"track {track.name!r}: unknown summary {track.summary!r}, want one of {', '.join(SUMMARIES)}")
    there = _chroms(_opened(track.path))
    names = ChromosomeNames(lengths, str(track.path))
    if all(names.code(name) < 0 for name in there):
        found, wanted = (", ".join(list(some)[:5]) or "none" for some in (there, lengths))
        raise InputError(f"{track.path}: its chromosomes are {found} ...; want those of the contacts, {wanted} ...")
    check_same_assembly(lengths, there, "the contacts", str(track.path))


def track_values(track: Track, bins: pd.DataFrame, resolution: int) -> NDArray[np.float32]:
    """A track in bins.

    Parameters
    ----------
    track : Track
    bins : DataFrame
        Columns chrom, start, end; those of a chromosome ascend.
    resolution : int
        Size of the bins, bp; the last of a chromosome may be shorter.

    Returns
    -------
    float32 array, shape (N,), or (N, resolution / bp) if the track has its own bin size
        A chromosome that the file does not have is zero: writers leave out those without signal.

    Raises
    ------
    InputError
        If the track takes a logarithm that a bin does not have.
    """
    reader = _opened(track.path)
    there, values = _chroms(reader), []
    for chrom, rows in _runs(bins):
        start, end = rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64)
        if track.bp is not None:
            start = (start[:, None] + np.arange(0, resolution, track.bp)).ravel()
            end = start + track.bp
        name = _called(chrom, there, str(track.path))
        records = np.empty((0, 3)) if name is None else _records(reader, name, start[0], min(end[-1], there[name]))
        values.append(_summed(records, start, end, track.summary))
    found = np.concatenate(values)
    if track.log2:
        _check_log(track, found, bins)
        found = np.log2(found + 1)
    return found.reshape((len(bins), -1) if track.bp is not None else len(bins)).astype(np.float32)


def _check_log(track: Track, values: Floats, bins: pd.DataFrame) -> None:
    wrong = np.flatnonzero(values <= -1)
    if wrong.size:
        bad = bins.iloc[wrong[0] * len(bins) // len(values)]
        where = f"{bad['chrom']}:{bad['start']}-{bad['end']}"
        raise InputError(
            f"{track.path}: track {track.name!r} is {values[wrong[0]]:g} in {where}, which has no log2(x + 1)"
        )


def _summed(records: Floats, start: NDArray[np.int64], end: NDArray[np.int64], summary: Summary) -> Floats:
    """Records (start, end, value) in bins that follow each other; each is cut at the bounds of the bins."""
    begin, stop, value = records[:, 0].astype(np.int64), records[:, 1].astype(np.int64), records[:, 2]
    first = np.searchsorted(start, begin, side="right") - 1
    n_touched = np.searchsorted(start, stop - 1, side="right") - first
    record = np.repeat(np.arange(len(records)), n_touched)
    place = first[record] + np.arange(len(record)) - np.repeat(np.cumsum(n_touched) - n_touched, n_touched)
    overlap = np.minimum(stop[record], end[place]) - np.maximum(begin[record], start[place])
    if summary == "max":
        whole = np.bincount(place, weights=overlap, minlength=len(start)) >= end - start
        highest = np.where(whole, -np.inf, 0.0)
        np.maximum.at(highest, place, value[record])
        return highest
    total = np.bincount(place, weights=value[record] * overlap, minlength=len(start)).astype(np.float64)
    return total if summary == "sum" else total / (end - start)


def _runs(bins: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Bins that follow each other on one chromosome."""
    start, end = bins["start"].to_numpy(), bins["end"].to_numpy()
    breaks = (np.diff(chromosome_codes(bins)) != 0) | (start[1:] != end[:-1])
    for run in np.split(np.arange(len(bins)), np.flatnonzero(breaks) + 1):
        yield str(bins["chrom"].iloc[run[0]]), bins.iloc[run]


def _called(chrom: str, there: dict[str, int], label: str) -> str | None:
    """How a file calls a chromosome."""
    code = ChromosomeNames(there, label).code(chrom)
    return None if code < 0 else list(there)[code]


def _opened(path: Path) -> Any:
    import pybigtools

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        reader = pybigtools.open(str(path))
    except Exception as err:  # whatever it finds wrong
        raise InputError(f"{path}: not readable as bigWig ({str(err).splitlines()[0]})") from err
    if not reader.is_bigwig:
        raise InputError(f"{path}: is a bigBed, want a bigWig")
    return reader


def _chroms(reader: Any) -> dict[str, int]:
    return {str(name): int(size) for name, size in reader.chroms().items()}


def _records(reader: Any, chrom: str, start: int, end: int) -> Floats:
    flat = np.fromiter((x for record in reader.records(chrom, int(start), int(end)) for x in record), dtype=np.float64)
    records = flat.reshape(-1, 3)
    return records[~np.isnan(records[:, 2])]
