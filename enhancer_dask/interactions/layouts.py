"""Epistasis tables in the columns of the NYU report and of GLiMMIRS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtr

from enhancer_dask.errors import InputError
from enhancer_dask.io.tables import ENHANCER_PAIR

Coding = Literal["fixed", "legacy"]
CODINGS: tuple[str, ...] = get_args(Coding)

PUBLISHED = dict(zip(ENHANCER_PAIR, ENHANCER_PAIR, strict=True)) | {
    f"{ours}_{test}": f"{theirs}_{test}"
    for test in ("10", "01", "11")
    for ours, theirs in (
        ("intercept", "intercept"),
        ("beta", "beta_estimate"),
        ("p", "beta_pvalue"),
        ("boot_p", "bootstrap_pvalue"),
    )
}
"""Our columns -> those of the published epistasis table, in its order."""

_GLIMMIRS_PAIR = {"enhancer_1": "enhancer.1.list", "enhancer_2": "enhancer.2.list", "gene": "gene.list"}
_GLIMMIRS_TERMS = {
    "joint_intercept": "intercept",
    "joint_10": "enhancer.1",
    "joint_01": "enhancer.2",
    "beta_interaction": "interaction",
}


def as_published(table: pd.DataFrame) -> pd.DataFrame:
    """The columns and the coding of the published epistasis table: 11 is 0/2, whatever the coding of ours.

    Parameters
    ----------
    table : DataFrame
        From :func:`enhancer_dask.epistasis`, of one cell type, which the published table has no column for.

    Returns
    -------
    DataFrame
        gene, enhancer_1, enhancer_2, then intercept, beta_estimate, beta_pvalue, bootstrap_pvalue with suffixes
        _10, _01, _11.

    Raises
    ------
    InputError
        If a column is missing or there are several cell types.
    """
    _one_celltype(table)
    theirs = _renamed(table, PUBLISHED)
    fixed = _renamed(table, {"coding": "coding"})["coding"] == "fixed"
    return theirs.assign(beta_estimate_11=theirs["beta_estimate_11"] / np.where(fixed, 2.0, 1.0))


def as_glimmirs(table: pd.DataFrame) -> pd.DataFrame:
    """The four-state model in the columns of GLiMMIRS [1]_, whose product term ``e1 * e2`` is the interaction.

    Parameters
    ----------
    table : DataFrame
        From :func:`enhancer_dask.epistasis`.

    Returns
    -------
    DataFrame
        enhancer.1.list, enhancer.2.list, gene.list, then ``<term>.effects`` (natural log) and ``<term>.pvalues`` (Wald,
        two-sided) of intercept, enhancer.1, enhancer.2, interaction and the covariates.

    Raises
    ------
    InputError
        If a column is missing or there are several cell types.

    References
    ----------
    .. [1] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
       multiplicatively. Cell Genomics 4, 100672.
    """
    _one_celltype(table)
    known = {*_GLIMMIRS_TERMS, "joint_11"}
    covariates = {
        name: name.removeprefix("joint_") for name in table.columns if name.startswith("joint_") and name not in known
    }
    columns = _renamed(table, _GLIMMIRS_PAIR)
    for name, term in {**_GLIMMIRS_TERMS, **covariates}.items():
        se = f"se_{name.removeprefix('beta_')}"
        both = _renamed(table, {name: "effect", se: "se"}).to_numpy(dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[f"{term}.pvalues"] = 2.0 * ndtr(-np.abs(both[:, 0] / both[:, 1]))
        columns.insert(columns.columns.get_loc(f"{term}.pvalues"), f"{term}.effects", both[:, 0])
    return columns


LAYOUTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "ours": lambda table: table,
    "published": as_published,
    "glimmirs": as_glimmirs,
}


def _one_celltype(table: pd.DataFrame) -> None:
    types = table["celltype"].unique() if "celltype" in table.columns else []
    if len(types) > 1:
        raise InputError(f"epistasis table: {len(types)} cell types, and this layout has no column for them: {types}")


def _renamed(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    missing = [name for name in names if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        raise InputError(f"epistasis table: column {missing[0]!r} is missing; columns found: {found}")
    return table[list(names)].rename(columns=dict(names))
