"""Covariates from a formula-like list: ``log(nUMI)``, ``percent.mito``, ``batch``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.cells import STORE_NAMES
from enhancer_dask.stats.poisson import make_nuisance
from enhancer_dask.stores import MultiomeStore

Floats = NDArray[np.float64]

TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
}
LARGEST_OFFSET = 100.0  # on the log scale: beyond, somebody has forgotten the logarithm
_CALL = re.compile(r"^(?P<function>\w+)\((?P<column>.+)\)$")


@dataclass(frozen=True, slots=True)
class Covariates:
    """Covariates of the cells of one type."""

    values: Floats
    """Shape (cells, columns); no intercept."""
    names: tuple[str, ...]
    """One per column; a categorical column gives ``column=level`` for each level but the most frequent."""
    constant: tuple[str, ...]
    """Terms left out because they are constant in these cells, so that the intercept holds them already."""


def parse_terms(terms: str | Sequence[str]) -> list[tuple[str, str | None, str]]:
    """Split ``"log(nUMI),percent.mito"`` into (term, transform or None, column).

    Raises
    ------
    InputError
        If a transform is unknown.

    Examples
    --------
    >>> parse_terms("log(nUMI), batch")
    [('log(nUMI)', 'log', 'nUMI'), ('batch', None, 'batch')]
    """
    texts = terms.split(",") if isinstance(terms, str) else list(terms)
    parsed = []
    for term in (text.strip() for text in texts):
        if not term:
            continue
        call = _CALL.match(term)
        function, column = (call["function"], call["column"].strip()) if call else (None, term)
        if function is not None and function not in TRANSFORMS:
            raise InputError(
                f"covariate {term!r}: transform {function!r} is unknown; choose from {', '.join(TRANSFORMS)}"
            )
        parsed.append((term, function, column))
    return parsed


def read_covariates(store: MultiomeStore, celltype: str, terms: str | Sequence[str]) -> Covariates:
    """Covariates of the cells of one type, in store order.

    Text columns become dummies against the most frequent level among these cells.

    Raises
    ------
    InputError
        If a column is unknown, is text inside a transform, or a value is not finite; the message names the
        covariate, the cell type and a cell.
    """
    cells = store.cells_of(celltype)
    values: list[Floats] = []
    names: list[str] = []
    constant: list[str] = []
    for term, function, column in parse_terms(terms):
        key = _known_column(store, column)
        raw = store.column(f"cell_{key}")[cells]
        if raw.dtype.kind == "O" and function is None:
            if (raw == "").any():
                raise InputError(_bad_cells(store, celltype, term, raw == "", "empty"))
            levels = _levels(raw)
            values.extend((raw == level).astype(np.float64) for level in levels)
            names.extend(f"{term}={level}" for level in levels)
            constant.extend([term] * (not levels))
            continue
        numbers = _numbers(store, celltype, term, function, raw)
        if np.ptp(numbers) == 0:
            constant.append(term)
            continue
        values.append(numbers)
        names.append(term)
    n_cells = cells.stop - cells.start
    matrix = np.column_stack(values) if values else np.empty((n_cells, 0))
    return Covariates(matrix, tuple(names), tuple(constant))


def _levels(raw: NDArray[Any]) -> list[str]:
    """Levels that get a dummy: all but the most frequent one, which is least likely to be without counts."""
    levels, n = np.unique(raw.astype(str), return_counts=True)
    return [str(level) for level in np.delete(levels, np.argmax(n))]


def read_offset(store: MultiomeStore, celltype: str, term: str) -> Floats:
    """Offset of the cells of one type, for instance ``log(nUMI)``, shape (cells,); errors as for covariates."""
    parsed = parse_terms([term])
    if not parsed:
        raise InputError("offset is empty; want a term such as log(nUMI)")
    ((term, function, column),) = parsed
    raw = store.column(f"cell_{_known_column(store, column)}")[store.cells_of(celltype)]
    values = _numbers(store, celltype, term, function, raw)
    if np.abs(values).max(initial=0.0) > LARGEST_OFFSET:
        raise InputError(
            f"offset {term!r} reaches {np.abs(values).max():g} in {celltype!r}; want a logarithm, such as log(nUMI)"
        )
    return values


def _known_column(store: MultiomeStore, column: str) -> str:
    key = STORE_NAMES.get(column, column)
    if key not in store.cell_columns:
        known = sorted({v: k for k, v in STORE_NAMES.items()}.get(c, c) for c in store.cell_columns)
        raise InputError(
            f"{store.path}: covariate {column!r} is not a column of the cells; columns are: {', '.join(known)}"
        )
    return key


def _numbers(store: MultiomeStore, celltype: str, term: str, function: str | None, raw: NDArray[Any]) -> Floats:
    """Values of one numeric term; refuses text and what is not finite."""
    if raw.dtype.kind == "O":
        raise InputError(f"covariate {term!r}: the column holds text (first: {raw[0]!r}), want numbers")
    numbers = raw.astype(np.float64)
    if function is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = TRANSFORMS[function](numbers)
    bad = ~np.isfinite(numbers)
    if bad.any():
        raise InputError(_bad_cells(store, celltype, term, bad, "not a finite number"))
    return numbers


def _bad_cells(store: MultiomeStore, celltype: str, term: str, bad: NDArray[np.bool_], what: str) -> str:
    first = store.column("cell")[store.cells_of(celltype)][int(np.argmax(bad))]
    return f"{store.path}: covariate {term!r} is {what} in {bad.sum()} cells of type {celltype!r} (first: {first!r})"


def check_covariates(
    store: MultiomeStore,
    types: Sequence[str],
    terms: tuple[str, ...],
    offset: str | None,
    warn: Callable[[str], None],
) -> None:
    """Find before the run what would fail in every chunk."""
    for celltype in types:
        read = read_covariates(store, celltype, terms)
        for term in read.constant:
            warn(f"covariate {term!r} is constant in {celltype!r} and left out there")
        if offset is not None:
            read_offset(store, celltype, offset)
        z = make_nuisance(read.values).z
        if np.linalg.matrix_rank(np.column_stack([np.ones(len(z)), z])) < 1 + z.shape[1]:
            warn(f"covariates are collinear in {celltype!r}, nothing is tested there: {', '.join(read.names)}")
