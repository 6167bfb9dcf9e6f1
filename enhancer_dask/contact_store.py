"""The contact store: open, validate, read blocks. The schema is documented in stores/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from enhancer_dask.errors import InputError, StoreError

SCHEMA = "enhancer-dask contacts"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ContactStore:
    """Read-only access to a contact store from inside a task.

    Layout. Root: ``chrom_name``, ``chrom_length`` (chrom) and, for single cells, ``cell`` (cell). One group per
    resolution, named by its bin size in bp: ``bin_chrom`` (position in ``chrom_name``), ``bin_start``, ``bin_end``
    (bin); ``bin1``, ``bin2`` (int32, bin1 <= bin2), ``count`` (pixel), sorted by cell, then block of chromosomes, then
    bin1, bin2; ``block_chrom1``, ``block_chrom2`` (block; those that occur, sorted); ``offset`` (int64, cell x
    (block + 1); one row if bulk): pixels of cell c in block b are ``offset[c, b]:offset[c, b + 1]``;
    ``vector_<name>`` (float64, bin): **multiplicative** weights that the file carried, NaN where a bin is left out.
    """

    path: Path

    @cached_property
    def group(self) -> zarr.Group:
        """The open Zarr group."""
        if not Path(self.path).exists():
            raise StoreError(f"{self.path}: no such store")
        try:
            group = zarr.open_group(str(self.path), mode="r")
        except Exception as err:
            raise StoreError(f"{self.path}: not a Zarr store ({type(err).__name__})") from err
        if group.attrs.get("schema") != SCHEMA:
            raise StoreError(f"{self.path}: attribute 'schema' is {group.attrs.get('schema')!r}, want {SCHEMA!r}")
        return group

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the store."""
        return str(self.group.attrs["fingerprint"])

    @property
    def assembly(self) -> str:
        """For instance ``hg38``; empty if not known."""
        return str(self.group.attrs.get("assembly", ""))

    @cached_property
    def resolutions(self) -> list[int]:
        """Bin sizes in bp, ascending."""
        return sorted(int(name) for name in self.group.group_keys())

    @cached_property
    def chroms(self) -> list[str]:
        """Chromosomes in the order of the bins."""
        return [str(name) for name in self._array("chrom_name")]

    @cached_property
    def cells(self) -> list[str]:
        """Names of the cells; empty for bulk contacts."""
        return [str(name) for name in self._array("cell")] if "cell" in self.group else []

    def bins(self, resolution: int) -> pd.DataFrame:
        """Columns chrom, start, end (bp, 0-based, half-open), one row per bin; the row is the bin id."""
        names = np.asarray(self.chroms, dtype=object)
        code, start, end = (self._array(f"{self.check(resolution)}/bin_{n}") for n in ("chrom", "start", "end"))
        return pd.DataFrame({"chrom": names[code], "start": start, "end": end})

    def check(self, resolution: int) -> int:
        """The resolution, if the store has it.

        Raises
        ------
        InputError
            If not; names those that are there.
        """
        if resolution not in self.resolutions:
            known = ", ".join(map(str, self.resolutions))
            raise InputError(f"{self.path}: no contacts at {resolution} bp; resolutions are: {known}")
        return resolution

    def contacts(
        self, resolution: int, chromosomes: Sequence[str] | None = None, *, inter: bool = True, cell: str | None = None
    ) -> pd.DataFrame:
        """Contacts within and, with ``inter``, between some chromosomes.

        Returns
        -------
        DataFrame
            bin1_id, bin2_id (genome-wide, upper triangle), count, sorted by block and bins; ``attrs["bins"]`` has
            :meth:`bins`. The same form as :func:`enhancer_dask.read_contacts` gives.

        Raises
        ------
        InputError
            If a chromosome, the cell or the resolution is not in the store.
        StoreError
            If a chunk is damaged.
        """
        raise NotImplementedError  # builder A

    def vectors(self, resolution: int) -> dict[str, NDArray[np.float64]]:
        """Multiplicative weights that the file carried, by name (``ICE``, ``KR``, ``VC`` ...), shape (bins,)."""
        raise NotImplementedError  # builder A

    def _array(self, name: str) -> NDArray[Any]:
        try:
            array: Any = self.group[name]
            return np.asarray(array[...])
        except Exception as err:
            raise StoreError(f"{self.path}: {name!r} is missing or damaged ({type(err).__name__})") from err
