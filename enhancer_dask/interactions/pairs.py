"""Enhancer pairs: two significant peaks of one gene."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.errors import InputError
from enhancer_dask.io.tables import (
    ENHANCER_PAIR,
    check_names,
    check_params,
    output_table,
    read_meta,
    read_table,
    write_parquet,
)
from enhancer_dask.links.work import benjamini_hochberg

AUTO = "auto"
P_COLUMNS = ("p_saddle", "boot_basic_p")  # the first that has values


def enhancer_pairs(links: str | Path | pd.DataFrame, fdr: float | None = 0.1, *, by: str = AUTO) -> pd.DataFrame:
    """All unordered pairs of the significant peaks of each gene.

    Parameters
    ----------
    links : path or DataFrame
        Columns gene, peak and a p-value, for instance from :func:`enhancer_dask.scent`. With a column celltype, every
        cell type is a family of tests and has pairs of its own.
    fdr : float, optional
        A link is significant if its Benjamini-Hochberg adjusted p-value is below. None pairs all links, each once, for
        instance candidates, without p-values.
    by : str
        Column of p-values; ``auto`` takes p_saddle if it has values, else boot_basic_p. Rows without a p-value are no
        tests.

    Returns
    -------
    DataFrame
        Columns celltype (if the links have it), gene, enhancer_1, enhancer_2, in the order of the links: genes as they
        first come, enhancer_1 above enhancer_2 in the table, which makes it the upstream one where links are sorted
        along the genome. Empty if no gene has two significant peaks.

    Raises
    ------
    InputError
        If a column is missing, a name is empty, a p-value is not one, or ``fdr`` is not between 0 and 1.

    Notes
    -----
    O(L log L + pairs). The adjustment is over all rows given, as published. A link that is significant in two rows
    makes a pair of its peak with itself, as published too (a gene name that the annotation has twice).

    Examples
    --------
    >>> links = pd.DataFrame({"gene": list("AABA"), "peak": list("pqpr"), "boot_basic_p": [0.01, 0.02, 0.01, 0.9]})
    >>> enhancer_pairs(links)
      gene enhancer_1 enhancer_2
    0    A          p          q
    """
    return pair_up(significant_links(links, fdr, by=by))


def significant_links(links: str | Path | pd.DataFrame, fdr: float | None = 0.1, *, by: str = AUTO) -> pd.DataFrame:
    """Rows of a table of links below an FDR, columns celltype (if there), gene, peak.

    Parameters, errors and the meaning of ``fdr=None`` are those of :func:`enhancer_pairs`.
    """
    label = str(links) if isinstance(links, str | Path) else "links"
    if isinstance(links, str | Path):
        links = read_table(links, required=("gene", "peak"), text=("gene", "peak", "celltype"))
    columns = ("celltype", "gene", "peak") if "celltype" in links.columns else ("gene", "peak")
    names = check_names(links, label, columns)
    if fdr is None:
        return names.drop_duplicates(ignore_index=True)
    if not 0 < fdr <= 1:
        raise InputError(f"fdr is {fdr}; want a level above 0, up to 1")
    p = _p_values(links, label, by)
    family = pd.factorize(names["celltype"])[0] if "celltype" in names else np.zeros(len(p), dtype=np.int64)
    adjusted = np.full(len(p), np.nan)
    for one in range(family.max() + 1):
        adjusted[family == one] = benjamini_hochberg(p[family == one])
    return names[adjusted < fdr].reset_index(drop=True)


def _p_values(links: pd.DataFrame, label: str, by: str) -> NDArray[np.float64]:
    with_values = [name for name in P_COLUMNS if name in links.columns and links[name].notna().any()]
    column = (with_values or list(P_COLUMNS[-1:]))[0] if by == AUTO else by
    if column not in links.columns:
        wanted = " or ".join(map(repr, P_COLUMNS)) if by == AUTO else repr(by)
        raise InputError(
            f"{label}: p-value column {wanted} is missing; columns found: {', '.join(map(str, links.columns))}"
        )
    try:
        p: NDArray[np.float64] = links[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as err:
        raise InputError(f"{label}: column {column!r} holds no numbers ({err})") from err
    bad = (p < 0) | (p > 1)
    if bad.any():
        raise InputError(f"{label}: column {column!r} has {p[bad][0]:g} in row {bad.argmax() + 1}; want p-values")
    return p


def pair_up(links: pd.DataFrame) -> pd.DataFrame:
    """Pair the peaks of each gene (and cell type) of a table with columns [celltype,] gene, peak."""
    family = ["celltype", "gene"] if "celltype" in links.columns else ["gene"]
    names = [*family, "peak"]
    first = ~links.duplicated(names).to_numpy()
    again = links.duplicated(names, keep=False).to_numpy()[first]
    links = links[first]
    group = links.groupby(family, sort=False).ngroup().to_numpy()
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], group[order], side="right")  # where the group of each row ends
    start = np.arange(len(order)) + np.where(again[order], 0, 1)
    n_partners = ends - start
    left = np.repeat(np.arange(len(order)), n_partners)
    nth = np.arange(len(left)) - np.repeat(np.cumsum(n_partners) - n_partners, n_partners)
    right = start[left] + nth
    columns = {name: links[name].to_numpy()[order] for name in names}
    pairs = {name: columns[name][left] for name in family}
    return pd.DataFrame({**pairs, "enhancer_1": columns["peak"][left], "enhancer_2": columns["peak"][right]})


def write_enhancer_pairs(
    pairs: pd.DataFrame, out: str | Path, *, settings: dict[str, Any], overwrite: bool = False
) -> None:
    """Write enhancer pairs as Parquet with the settings they were chosen by.

    Raises
    ------
    ResumeError
        If ``out`` holds other pairs, or these by other settings, and ``overwrite`` is not set.
    """
    out = output_table(out)
    params = {"stage": "pairs", **settings, "pairs": digest(pairs)}
    if out.exists() and not overwrite:
        check_params(out, read_meta(out).get("params", {}), params)
        return
    write_parquet(pairs, out, meta={"params": params})


def digest(pairs: pd.DataFrame) -> str:
    """Hash of the names in a table of enhancer pairs."""
    names = [name for name in ("celltype", *ENHANCER_PAIR) if name in pairs.columns]
    rows = pd.util.hash_pandas_object(pairs[names], index=False).to_numpy()
    return hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
