"""Parts -> one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enhancer_dask.chunks.failures import unwritable
from enhancer_dask.chunks.parts import MANIFEST, claim, find
from enhancer_dask.chunks.work import Work
from enhancer_dask.errors import ResumeError, StoreError
from enhancer_dask.io.files import remove_at_once, staged
from enhancer_dask.io.tables import check_params, read_meta, with_meta

ROW_GROUP = 100_000  # rows of a row group of the merged table


def tables(work: Work, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The tables of the chunks in order, one at a time, however many pieces they were computed in.

    Raises
    ------
    StoreError
        If a part is missing, damaged or made with other parameters.
    """
    signature, n_pieces = work.signature, find(work, check=False).n_pieces
    for index in range(work.n_chunks):
        of = int(n_pieces[index])
        if of == 0:
            raise StoreError(f"{work.part(index)}: this part is missing; run the same command again")
        pieces = [_read(work.part(index, piece + 1, of), signature, columns) for piece in range(of)]
        yield pieces[0] if of == 1 else pa.concat_tables(pieces, promote_options="permissive")


def _read(part: Path, signature: str, columns: list[str] | None) -> pa.Table:
    if read_meta(part).get("signature") != signature:
        raise StoreError(f"{part}: made with other parameters than {MANIFEST} says; run the same command again")
    try:
        return pq.read_table(part, columns=columns)
    except (OSError, pa.ArrowException) as err:
        if getattr(err, "errno", None) is None:  # its content, not the disk: the next run must not find it
            part.unlink()
        raise StoreError(f"{part}: damaged ({str(err).splitlines()[0]}); run the same command again") from err


def merge(
    work: Work,
    out: Path,
    finish: Callable[[pa.Table, int], pa.Table],
    *,
    params: Mapping[str, Any] | None = None,
    order: NDArray[np.int64] | None = None,
) -> None:
    """Join all parts into one table and remove them; ``finish`` sees some rows at a time and the first one's number.

    The table carries ``params``, by default those of the work. With ``order``, row i of the table is row ``order[i]``
    of the parts, and ``finish`` sees them all at once.

    Raises
    ------
    StoreError
        See :func:`tables`.
    ChunkError
        If the table cannot be written, for instance on a full disk; the parts are kept.
    """
    try:
        with staged(out) as file:
            _write(work, file, finish, dict(params or work.params), order)
    except OSError as err:
        raise unwritable(err) from err
    remove_at_once(work.folder)


def _write(
    work: Work,
    file: Path,
    finish: Callable[[pa.Table, int], pa.Table],
    params: dict[str, Any],
    order: NDArray[np.int64] | None,
) -> None:
    groups = _grouped(tables(work)) if order is None else iter([pa.concat_tables(tables(work))])
    row, writer = 0, None
    try:
        for group in groups:
            done = finish(group, row) if order is None else finish(group, row).take(order)
            done = with_meta(done, {"params": params})
            if writer is None:
                writer = pq.ParquetWriter(file, done.schema, compression="zstd")
            writer.write_table(done, row_group_size=ROW_GROUP)
            row += len(group)
    finally:
        if writer is not None:
            writer.close()


def _grouped(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables, so that the merged file has row groups of a useful size."""
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def discard(work: Work, out: Path, params: Mapping[str, Any] | None = None) -> None:
    """Delete a result and parts that are damaged or made with other parameters; finished work of this run stays."""
    try:
        if out.exists():
            check_params(out, read_meta(out).get("params", {}), dict(params or work.params))
    except (ResumeError, StoreError):
        out.unlink()
    discard_parts(work)


def discard_parts(work: Work) -> None:
    """Delete parts that are damaged or made with other parameters."""
    try:
        if work.folder.exists():
            claim(work)
    except (ResumeError, StoreError):
        remove_at_once(work.folder)
