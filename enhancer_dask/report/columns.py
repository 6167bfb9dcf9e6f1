"""Columns that figures need, of our tables and of the published ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from enhancer_dask.errors import InputError
from enhancer_dask.interactions.layouts import CODINGS, PUBLISHED, Coding
from enhancer_dask.links.work import benjamini_hochberg

CONTRASTS = ("10", "01", "11")
_OURS = {theirs: ours for ours, theirs in PUBLISHED.items()}
FDR_OF = {"p_saddle": "fdr_saddle", "boot_p": "fdr"}


def our_names(table: pd.DataFrame) -> pd.DataFrame:
    """An epistasis table under our column names; ``beta_11`` of a published one stays half the log ratio."""
    return table.rename(columns=_OURS)


def coding_of(table: pd.DataFrame, table_coding: Coding | None) -> Coding:
    """Coding of 11 that a table was made with: as told, else as its column says, else by whose names it has.

    Raises
    ------
    InputError
        If the coding told is unknown.
    """
    if table_coding is None and "coding" in table.columns and len(table):
        return known_coding(str(table["coding"].iloc[0]))
    if table_coding is None:
        return "legacy" if "beta_estimate_11" in table.columns else "fixed"
    return known_coding(table_coding)


def known_coding(coding: str) -> Coding:
    """Either coding, or an error that names both."""
    if coding not in CODINGS:
        raise InputError(f"coding {coding!r} is unknown; choose from {', '.join(CODINGS)}")
    return coding  # type: ignore[return-value]


def need(table: pd.DataFrame, columns: Sequence[str], label: str) -> None:
    """Check that columns are there.

    Raises
    ------
    InputError
        Naming the first missing column and those found.
    """
    for name in columns:
        if name not in table.columns:
            raise InputError(f"{label}: column {name!r} is missing; columns found: {_names(table)}")


def p_column(table: pd.DataFrame, candidates: Sequence[str], label: str) -> str:
    """The first of some columns of p-values that has values, else the first that is there.

    Raises
    ------
    InputError
        If none is there.
    """
    there = [name for name in candidates if name in table.columns]
    if not there:
        raise InputError(
            f"{label}: no column of p-values, want {' or '.join(map(repr, candidates))}; columns found: {_names(table)}"
        )
    return next((name for name in there if table[name].notna().any()), there[0])


def numbers(table: pd.DataFrame, column: str, *, p: bool = False) -> pd.Series:
    """A column as float64; with ``p``, as p-values.

    Raises
    ------
    InputError
        If it holds text, or a p-value is not between 0 and 1.
    """
    try:
        values = table[column].astype(np.float64)
    except (TypeError, ValueError) as err:
        raise InputError(f"column {column!r} holds no numbers ({err})") from err
    bad = (values < 0.0) | (values > 1.0)
    if p and bad.any():
        raise InputError(f"column {column!r} has {values[bad].iloc[0]:g}; want p-values")
    return values


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns)) or "none"


def effect(table: pd.DataFrame, test: str, table_coding: Coding) -> pd.Series:
    """Log ratio of a test; that of 11 is doubled back if it was halved by the coding, shape (L,)."""
    beta = numbers(table, f"beta_{test}")
    return beta * 2.0 if test == "11" and table_coding == "legacy" else beta


def adjusted(table: pd.DataFrame, p: str) -> pd.Series:
    """Benjamini-Hochberg adjusted p-values of a column ``<p>_<test>``: the table's, else computed by cell type."""
    kind, test = p.rsplit("_", 1)
    name = f"{FDR_OF.get(kind, '')}_{test}"
    if name in table.columns:
        return numbers(table, name, p=True)
    types = table["celltype"].astype(str) if "celltype" in table.columns else pd.Series("", index=table.index)
    return numbers(table, p, p=True).groupby(types).transform(benjamini_hochberg)
