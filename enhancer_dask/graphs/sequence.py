"""Reference sequence of bins as codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import ChromosomeNames, check_same_assembly

BASES, UNKNOWN = "ACGT", 4
_CODE = np.full(256, UNKNOWN, dtype=np.uint8)
for _i, _base in enumerate(BASES):
    _CODE[[ord(_base), ord(_base.lower())]] = _i


def check_fasta(path: Path, lengths: dict[str, int]) -> None:
    """Refuse a FASTA that cannot be read or is not of this genome; writes its index, so that no task has to.

    Parameters
    ----------
    path : path
    lengths : mapping
        Length of each chromosome wanted, bp.

    Raises
    ------
    InputError
        If it is no FASTA, lacks a chromosome or has another length of one.
    """
    fasta = _opened(path)
    there = {str(name): len(fasta[name]) for name in fasta.keys()}  # noqa: SIM118  # pyfaidx iterates over records
    names = ChromosomeNames(there, "contacts")
    missing = [chrom for chrom in lengths if names.code(chrom) < 0]
    if missing:
        raise InputError(f"{path}: has no chromosome {missing[0]!r}; it has {', '.join(list(there)[:5])} ...")
    check_same_assembly(lengths, there, "the contacts", str(path))


def sequence_codes(path: Path, bins: pd.DataFrame, resolution: int) -> NDArray[np.uint8]:
    """Bases of bins.

    Parameters
    ----------
    path : path
        FASTA, plain or of bgzip.
    bins : DataFrame
        Columns chrom, start, end.
    resolution : int
        Size of the bins, bp.

    Returns
    -------
    uint8 array, shape (N, resolution)
        0 to 3 for A, C, G, T of either case, 4 for any other letter and beyond the end of a chromosome.
    """
    fasta = _opened(path)
    there = list(fasta.keys())
    names = ChromosomeNames(dict.fromkeys(there, 0), str(path))
    codes = np.full((len(bins), resolution), UNKNOWN, dtype=np.uint8)
    for row, (chrom, start, end) in enumerate(zip(bins["chrom"], bins["start"], bins["end"], strict=True)):
        bases = str(fasta[there[names.code(str(chrom))]][int(start) : int(end)])
        codes[row, : len(bases)] = _CODE[np.frombuffer(bases.encode("ascii"), dtype=np.uint8)]
    return codes


def _opened(path: Path) -> Any:
    import pyfaidx

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return pyfaidx.Fasta(str(path), as_raw=True)
    except Exception as err:  # of its own kinds, of bgzip, or the index cannot be written
        raise InputError(f"{path}: not readable as FASTA ({type(err).__name__}: {str(err).splitlines()[0]})") from err
