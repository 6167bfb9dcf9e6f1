"""All figures that some tables allow, as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from enhancer_dask.errors import InputError
from enhancer_dask.interactions.cells import cells_of_pair
from enhancer_dask.interactions.layouts import Coding
from enhancer_dask.io.files import is_url
from enhancer_dask.io.tables import ENHANCER_PAIR, read_table
from enhancer_dask.links.regressions import TRUSTED
from enhancer_dask.report.columns import CONTRASTS, coding_of, need, our_names, p_column
from enhancer_dask.report.combination import sum_box, sums_against_both, verdicts
from enhancer_dask.report.expression import SCALES, expression_by_state
from enhancer_dask.report.p_values import QQ_SERIES, legend_below, qq, volcano, volcanoes
from enhancer_dask.report.save import save
from enhancer_dask.report.style import house_style, new_axes, new_figure
from enhancer_dask.stores import MultiomeStore, located

Pair = tuple[str, str, str]
Drawn = Iterator[tuple[str, Figure]]


def draw_all(
    out: str | Path,
    *,
    links: pd.DataFrame | str | Path | None = None,
    epistasis: pd.DataFrame | str | Path | None = None,
    store: str | Path | None = None,
    pair: Pair | None = None,
    celltype: str | None = None,
    table_coding: Coding | None = None,
) -> list[Path]:
    """Draw and write all figures that the given tables allow.

    Parameters
    ----------
    out : path
        Folder to write to; files there of the same names are replaced.
    links : DataFrame or path, optional
        Gives ``qq_<cell type>``.
    epistasis : DataFrame or path, optional
        Gives ``volcano_``, ``sum_against_both_`` and ``sum_box_<cell type>``, and where its columns are there
        ``volcano_interaction_`` and ``verdicts_<cell type>``. Published column names will do.
    store : path or URL, optional
        Multiome store: gives ``expression_<cell type>_<pair>``.
    pair : (gene, enhancer_1, enhancer_2), optional
        By default, in each cell type, the pair of ``epistasis`` with the smallest trusted p_saddle of the interaction,
        if there is one.
    celltype : str, optional
        Only this one; names the cell type of tables without a column ``celltype``.
    table_coding : {"fixed", "legacy"}, optional
        Coding that ``epistasis`` was made with, by default as its column ``coding`` says, "legacy" for published
        names, else "fixed".

    Returns
    -------
    list of Path
        PNG and SVG of each figure.

    Raises
    ------
    InputError
        If there is nothing to draw, a column is missing, or a cell type or pair unknown; nothing is written then.
    """
    if is_url(out):
        raise InputError(f"{out}: figures are written to a file system, want a path")
    drawn: list[tuple[str, Figure]] = []
    if links is not None:
        drawn += _of_links(*_read(links, "links"), celltype)
    if epistasis is not None:
        table, label = _read(epistasis, "epistasis")
        coding = coding_of(table, table_coding)
        epistasis = our_names(table)
        drawn += _of_epistasis(epistasis, label, celltype, coding)
    if store is not None:
        drawn += _of_cells(MultiomeStore(located(store)), epistasis, pair, celltype)
    elif pair is not None:
        raise InputError(f"pair {','.join(pair)}: its cells are in a store; give one")
    if links is None and epistasis is None and store is None:
        raise InputError("nothing to draw; give links, an epistasis table, or a store with a pair")
    names = unique_names([name for name, _ in drawn])
    return [file for name, (_, figure) in zip(names, drawn, strict=True) for file in save(figure, Path(out) / name)]


def parse_pair(text: str) -> Pair:
    """``GENE,ENHANCER_1,ENHANCER_2``.

    Raises
    ------
    InputError
        If there are not three names.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 3 or not all(names):
        raise InputError(f"pair {text!r}: want GENE,ENHANCER_1,ENHANCER_2")
    return names[0], names[1], names[2]


def unique_names(names: Sequence[str]) -> list[str]:
    """Names fit for files on any system, told apart by a number where they would be the same.

    Examples
    --------
    >>> unique_names(["qq_CD14+ Mono", "qq_B/T", "qq_B T"])
    ['qq_CD14+_Mono', 'qq_B_T', 'qq_B_T_2']
    """
    made: list[str] = []
    for name in names:
        safe = re.sub(r"[^\w+.-]+", "_", name, flags=re.ASCII).strip("_.")
        taken = {other.lower() for other in made}
        tries = (safe if k == 1 else f"{safe}_{k}" for k in range(1, len(made) + 2))
        made.append(next(one for one in tries if one.lower() not in taken))
    return made


def _read(table: pd.DataFrame | str | Path, label: str) -> tuple[pd.DataFrame, str]:
    return (table, label) if isinstance(table, pd.DataFrame) else (read_table(table), str(table))


def _by_celltype(table: pd.DataFrame, label: str, celltype: str | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cell type and its rows; "" where it is not known."""
    if "celltype" not in table.columns or table.empty:
        yield celltype or "", table
        return
    named = table["celltype"].astype(str)
    types = sorted(named.unique())
    if celltype is not None and celltype not in types:
        raise InputError(f"{label}: no row is of cell type {celltype!r}; types are: {', '.join(types)}")
    for one in types if celltype is None else [celltype]:
        yield one, table[named == one]


def _titled(ax: Axes, title: str) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return _with_title(figure, title)


@house_style
def _with_title(figure: Figure, title: str) -> Figure:
    if title:
        figure.suptitle(title, fontsize=9, fontweight="bold")
    return figure


def _of_links(links: pd.DataFrame, label: str, celltype: str | None) -> Drawn:
    p_column(links, tuple(QQ_SERIES), label)
    for name, mine in _by_celltype(links, label, celltype):
        yield f"qq_{name}", _titled(qq(mine, new_axes(3.6, 3.8)), name)


def _of_epistasis(table: pd.DataFrame, label: str, celltype: str | None, coding: Coding) -> Drawn:
    interaction = ["interaction"] if "beta_interaction" in table.columns else []
    for test in [*CONTRASTS, *interaction]:
        need(table, [f"beta_{test}"], label)
        p_column(table, [f"p_saddle_{test}", f"boot_p_{test}"], label)
    for name, mine in _by_celltype(table, label, celltype):
        yield f"volcano_{name}", _with_title(volcanoes(mine, new_figure(7.2, 3.0), table_coding=coding), name)
        sums = sums_against_both(mine, new_figure(6.4, 3.4), table_coding=coding)
        yield f"sum_against_both_{name}", _with_title(sums, name)
        yield f"sum_box_{name}", _titled(sum_box(mine, new_axes(), table_coding=coding), name)
        if interaction:
            ax = volcano(mine, new_axes(3.6, 3.6), test="interaction", table_coding=coding)
            figure = _titled(ax, name)
            legend_below(figure, ax)
            yield f"volcano_interaction_{name}", figure
        if "verdict" in mine.columns:
            yield f"verdicts_{name}", _titled(verdicts(mine, new_axes(4.2, 2.4)), name)


def _of_cells(store: MultiomeStore, table: pd.DataFrame | None, pair: Pair | None, celltype: str | None) -> Drawn:
    for name, chosen, row in _chosen_pairs(store, table, pair, celltype):
        cells = cells_of_pair(store, *chosen, name)
        yield f"expression_{name}_{'_'.join(chosen)}", _with_title(_cells(cells, chosen, row), name)


def _chosen_pairs(
    store: MultiomeStore, table: pd.DataFrame | None, pair: Pair | None, celltype: str | None
) -> Iterator[tuple[str, Pair, pd.Series[Any] | None]]:
    """Cell type, pair, and its row of the table if there is one."""
    if table is None:
        if pair is None:
            raise InputError("which cells to draw? give a pair, or an epistasis table to choose one from")
        yield celltype or _only_type(store), pair, None
        return
    need(table, ENHANCER_PAIR, "epistasis table")
    n_found = 0
    for name, mine in _by_celltype(table, "epistasis table", celltype):
        rows = _best(mine) if pair is None else mine[_is_pair(mine, pair)]
        for _, row in rows.head(1).iterrows():
            n_found += 1
            yield name or _only_type(store), (row["gene"], row["enhancer_1"], row["enhancer_2"]), row
    if pair is not None and not n_found:
        raise InputError(f"pair {','.join(pair)} is not in the epistasis table")


def _is_pair(table: pd.DataFrame, pair: Pair) -> pd.Series:
    """Rows of a pair, in whichever order its enhancers are."""
    gene, one, two = pair
    named = pd.Series(False, index=table.index)
    for first, second in ((one, two), (two, one)):
        named |= (table["enhancer_1"] == first) & (table["enhancer_2"] == second)
    return named & (table["gene"] == gene)


def _only_type(store: MultiomeStore) -> str:
    if len(store.celltypes) != 1:
        raise InputError(f"{store.path}: which cell type? types are: {', '.join(store.celltypes)}")
    return store.celltypes[0]


def _best(table: pd.DataFrame) -> pd.DataFrame:
    """The row with the smallest trusted p_saddle of the interaction, or none."""
    if not {"p_saddle_interaction", "saddle_status_interaction"} <= set(table.columns):
        return table.head(0)
    trusted = table[(table["saddle_status_interaction"] == TRUSTED) & table["p_saddle_interaction"].notna()]
    return trusted.nsmallest(1, "p_saddle_interaction")


@house_style
def _cells(cells: pd.DataFrame, pair: Pair, row: pd.Series[Any] | None) -> Figure:
    figure = new_figure(7.2, 3.6)
    for ax, scale in zip(figure.subplots(1, len(SCALES)), SCALES, strict=True):
        expression_by_state(cells, ax, scale=scale)  # type: ignore[arg-type]
    gene, first, second = pair
    figure.supxlabel(f"{gene};  first enhancer {first},  second {second}{_interaction(row)}", fontsize=7.5)
    return figure


def _interaction(row: pd.Series[Any] | None) -> str:
    """The interaction of a row of the table, in words."""
    if row is None or not np.isfinite(row.get("beta_interaction", np.nan)):
        return ""
    low, high, p = (row.get(name, np.nan) for name in ("low_interaction", "high_interaction", "p_saddle_interaction"))
    text = f"\ninteraction I = {row['beta_interaction']:+.3f}"
    text += f" ({low:+.3f} to {high:+.3f})" if np.isfinite([low, high]).all() else ""
    return (text + (f", p = {p:.2g}" if np.isfinite(p) else "")).replace("-", "−")
