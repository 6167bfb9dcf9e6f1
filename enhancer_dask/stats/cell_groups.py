"""Cells grouped by their values of dummies and indicators: within a group the likelihood has one level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats.compiled import compiled
from enhancer_dask.stats.exact import Batch, Floats, Ints

MAX_GROUPS = 32


class Groups(NamedTuple):
    """Cells by their values of indicators and dummies, for each distinct set of indicators in the batch."""

    of_test: Ints
    """Layout of each test, shape (T,)."""
    first: Ints
    """Groups ``first[l]`` to ``first[l + 1]`` belong to layout l; the largest comes first. Empty: too many groups."""
    values: Floats
    """Intercept, dummies, indicators of each group; shape (groups, p)."""
    bounds: Ints
    """Cells ``bounds[g]`` to ``bounds[g + 1]`` belong to group g; the largest group of a layout has none listed."""
    cells: NDArray[np.uint32]
    """Cells, ascending within a group."""


@compiled
def _classify(base, base_values, indicators, rows, code, values):
    """Number the groups of one layout; returns how many, or more than fit ``values`` (then the rest is void)."""
    n_groups = 0
    origin = np.empty(values.shape[0], dtype=np.int64)
    p0 = base_values.shape[1]
    for i in range(base.size):
        found = -1
        for g in range(n_groups):
            same = origin[g] == base[i]
            for j in range(rows.size):
                same = same and values[g, p0 + j] == indicators[rows[j], i]
            if same:
                found = g
                break
        if found < 0:
            if n_groups == values.shape[0]:
                return n_groups + 1
            found = n_groups
            origin[found] = base[i]
            values[found, :p0] = base_values[base[i]]
            for j in range(rows.size):
                values[found, p0 + j] = indicators[rows[j], i]
            n_groups += 1
        code[i] = found
    return n_groups


@compiled
def _layouts(base, base_values, indicators, layouts, max_groups):
    """Groups of every layout; see :class:`Groups`."""
    n, p = base.size, base_values.shape[1] + layouts.shape[1]
    first = np.zeros(layouts.shape[0] + 1, dtype=np.int64)
    all_values = np.empty((layouts.shape[0] * max_groups, p))
    bounds = np.zeros(layouts.shape[0] * max_groups + 1, dtype=np.int64)
    cells = np.empty(n, dtype=np.uint32)
    code, values = np.empty(n, dtype=np.int64), np.empty((max_groups, p))
    for layout in range(layouts.shape[0]):
        g0 = first[layout]
        n_groups = _classify(base, base_values, indicators, layouts[layout], code, values)
        if n_groups > max_groups:
            first[layout + 1] = g0
            continue
        size = np.zeros(n_groups, dtype=np.int64)
        for i in range(n):
            size[code[i]] += 1
        largest = np.argmax(size)
        end = bounds[g0]
        if end + n > cells.size:
            grown = np.empty(2 * cells.size + n, dtype=np.uint32)
            grown[:end] = cells[:end]
            cells = grown
        g = g0
        all_values[g] = values[largest]
        bounds[g + 1] = end
        for group in range(n_groups):
            if group == largest:
                continue
            g += 1
            all_values[g] = values[group]
            for i in range(n):
                if code[i] == group:
                    cells[end] = i
                    end += 1
            bounds[g + 1] = end
        first[layout + 1] = g + 1
    total = first[-1]
    return first, all_values[:total].copy(), bounds[: total + 1].copy(), cells[: bounds[total]].copy()


def groups_of(batch: Batch) -> Groups:
    """Groups of cells for every test of a batch."""
    z, two_valued = batch.nuisance.z, batch.nuisance.two_valued
    dummies, base = np.unique(z[:, two_valued], axis=0, return_inverse=True)
    layouts, of_test = np.unique(batch.peak, axis=0, return_inverse=True)
    base_values = np.column_stack([np.ones(len(dummies)), dummies])
    made = _layouts(base.reshape(-1), base_values, batch.indicators, layouts, MAX_GROUPS)
    return Groups(of_test.reshape(-1), *made)
