"""Influence of single cells on the interaction of an enhancer pair: Cook's distances, and the fit without one cell.

Cook's distance of cell i in the regression with four states and c covariates, as R's ``cooks.distance`` [1]_ has it,

    D_i = r_i^2 h_i / (p (1 - h_i)^2),    p = 4 + c,

r the Pearson residual and h the leverage of the last weighted least squares, says how far the cell moves *all*
coefficients; it is the same for ``enhancer_1 * enhancer_2``. GLiMMIRS [2]_ puts an interaction aside if the largest
distance of a cell is more than five times the mean over the doubly open cells; among thousands of cells a largest one
is easily that (24 of 30 real pairs in 2,597 monocytes). What matters to the interaction I is how far I moves without
the cell. With Y_s the counts of its state s and a_s = 1 for 00 and 11, -1 for 10 and 01,

    dI_i = a_s log((1 - y_i / Y_s) / (1 - mu_i / Y_s)) - v'd_i (y_i - mu_i) / (1 - h_i).

The first term is the level of the state, which at given slopes of the covariates follows from the counts; a step of
Newton would move it too little where y is large and too much where it is 0. The second is such a step in the slopes,
``a_s / Y_s + v'd_i`` being what a unit of residual moves I by. The cell of the largest absolute dI is left out and the
regression fitted again.

References
----------
.. [1] Williams (1987), Generalized linear model diagnostics using the deviance and single case deletions.
   Applied Statistics 36, 181-191.
.. [2] Zhou et al. (2024), Analysis of single-cell CRISPR perturbations indicates that enhancers predominantly act
   multiplicatively. Cell Genomics 4, 100672.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from enhancer_dask.stats.compiled import FASTMATH, compiled
from enhancer_dask.stats.exponential import exp_into
from enhancer_dask.stats.grams import cholesky, dot, invert, solve, total
from enhancer_dask.stats.logarithm import log1p_into
from enhancer_dask.stats.poisson import FIT_TOLERANCE
from enhancer_dask.stats.state_fits import sort_by_state
from enhancer_dask.stats.states import (
    CONTRAST,
    INTERACTION,
    Floats,
    Ints,
    StateFits,
    StatePairs,
    cells_left,
    fit_states_plainly,
    robust_sd,
    some_cells,
)

LEVEL = 0.05  # of the tests that say whether one cell carries an interaction
# A cell of this leverage or more is fitted whatever its count; R says NaN from 1 - 2e-15, where rounding still reigns.
FULL_LEVERAGE = 1.0 - 1e-10
TIE = 1e-9  # relative; of cells that move I alike the first one is taken, whatever rounding says
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])  # of the levels of the states, give I

_MAX_STEPS, _LONGEST_STEP = 20, 5.0
_FITTED, _LIMIT, _UNUSUAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Influence:
    """The cell without which the interaction moves most, of L pairs, and the fit without it."""

    cell: Ints
    """Place among the n cells, shape (L,); -1 where I has no finite estimate. A cell that alone has counts in its state
    comes before all others, since I is not finite without it."""
    cook: Floats
    """Its Cook's distance, shape (L,); NaN where the cell has the full leverage (alone in its state)."""
    ratio: Floats
    """Largest distance of a cell by the mean over the doubly open cells, shape (L,); NaN if these have none."""
    beta_dropped: Floats
    """I without the cell, natural log, shape (L,); -inf or +inf where its state has no counts left, NaN where it has no
    cells left or the fit failed."""
    se_dropped: Floats
    """Its standard error by the sandwich, which holds whatever the variance of the counts, shape (L,)."""
    p_dropped: Floats
    """Two-sided normal p-value of the two, shape (L,)."""
    one_cell: NDArray[np.bool_]
    """Whether one cell carries the interaction: significant with it, and without it not, or of another sign; shape
    (L,)."""


def influence_plainly(pairs: StatePairs, fits: StateFits) -> Influence:
    """:func:`influence_of_pairs`, pair after pair from the definitions: the reference."""
    found = _empty(len(pairs.gene))
    _fill_plainly(found, pairs, fits, np.flatnonzero(_fitted(fits)))
    return _judged(found, fits)


def influence_of_pairs(
    pairs: StatePairs, fits: StateFits, p: Floats | None = None, *, alpha: float = LEVEL
) -> Influence:
    """Drop from every pair the cell that moves its interaction most.

    Parameters
    ----------
    pairs : StatePairs
        L of them; L may be 0.
    fits : StateFits
        Their Poisson fits. Where I is not finite, nothing is computed.
    p : float64 array, shape (L,), optional
        P-value of I with all cells, by default that of the sandwich.
    alpha : float
        Below, an interaction is significant.

    Returns
    -------
    Influence
        The numbers of a pair do not depend on the others.

    Notes
    -----
    About 0.08 ms a pair at 2,600 cells and one covariate. With cells in order of state, at slopes g of the covariates
    the level of a state is ``log(Y_s / M_s)``, Y its counts and M the sum of ``exp(offset + z'g)``. So Newton moves g
    alone, and with m_s the mean of z in the state under these weights, V the inverse information on g and
    d_i = z_i - m_s,

        h_i = mu_i (1 / Y_s + d_i' V d_i),    v = -V sum_s a_s m_s.

    Examples
    --------
    >>> from enhancer_dask.stats.poisson import make_nuisance
    >>> counts = np.array([[2.0, 2.0, 3.0, 3.0, 1.0, 1.0, 40.0, 2.0, 1.0]])
    >>> peaks = np.array([[0, 0, 1, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1]], dtype=np.uint8)
    >>> row = np.array([0])
    >>> pairs = StatePairs(counts, peaks, row, row, row + 1, make_nuisance(np.empty((9, 0))))
    >>> fits = fit_states_plainly(pairs)
    >>> found = influence_of_pairs(pairs, fits)
    >>> int(found.cell[0]), np.exp([fits.beta[0, 3], found.beta_dropped[0]]).round(3).tolist()
    (6, [9.556, 1.0])
    """
    found, done = _empty(len(pairs.gene)), _fitted(fits)
    regular = np.flatnonzero(done & np.isfinite(fits.joint).all(axis=1))
    some, outcome = pairs.some(regular), np.full(len(regular), _UNUSUAL, dtype=np.int64)
    columns = tuple(values[regular] for values in found)
    _influence_of_pairs(
        np.ascontiguousarray(pairs.nuisance.z.T), pairs.nuisance.offset, some.counts, some.peaks, some.gene,
        some.first, some.second, fits.joint[regular][:, 1:-3].copy(), outcome, *columns,
    )  # fmt: skip
    for whole, part in zip(found, columns, strict=True):
        whole[regular] = part
    done[regular[outcome != _UNUSUAL]] = False
    _fill_plainly(found, pairs, fits, np.flatnonzero(done))
    return _judged(found, fits, p, alpha)


Columns = tuple[Ints, Floats, Floats, Floats, Floats]


def _empty(n_pairs: int) -> Columns:
    """Cell, distance, ratio, I and its standard error."""
    cell = np.full(n_pairs, -1, dtype=np.int64)
    return cell, *(np.full(n_pairs, np.nan) for _ in range(4))  # type: ignore[return-value]


def _fitted(fits: StateFits) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(fits.beta[:, INTERACTION])
    return finite


def _judged(found: Columns, fits: StateFits, p_before: Floats | None = None, alpha: float = LEVEL) -> Influence:
    """Add p-values and say which interactions one cell carries."""
    cell, cook, ratio, beta, se = found
    before = fits.beta[:, INTERACTION]
    with np.errstate(invalid="ignore", divide="ignore"):
        robust, p = (2.0 * ndtr(-np.abs(b / s)) for b, s in ((before, robust_sd(fits)), (beta, se)))
        turned = before * beta < 0.0
    counted, counts = (robust if p_before is None else p_before) < alpha, p < alpha  # NaN is neither
    one_cell = (cell >= 0) & counted & (~counts | turned)
    return Influence(cell, cook, ratio, beta, se, p, one_cell)


def _fill_plainly(found: Columns, pairs: StatePairs, fits: StateFits, rows: Ints) -> None:
    cell, cook, ratio, beta, se = found
    for row in rows:
        distances, changes = _distances_and_changes(pairs, fits, row)
        cell[row] = np.flatnonzero(changes >= changes.max() * (1.0 - TIE))[0]
        cook[row] = distances[cell[row]]
        both = distances[pairs.states(row) == 3]
        if np.isfinite(both).any():
            ratio[row] = np.nanmax(distances) / np.nanmean(both)
        beta[row], se[row] = _without(pairs, row, cell[row])


def _distances_and_changes(pairs: StatePairs, fits: StateFits, row: int) -> tuple[Floats, Floats]:
    """Cook's distance and absolute dI of every cell, shape (n,); NaN and 0 for cells outside of the fit."""
    y, state, nuisance = pairs.counts[pairs.gene[row]], pairs.states(row), pairs.nuisance
    x = nuisance.design(state[:, None] == np.arange(1, 4))
    joint = fits.joint[row]
    finite, used = np.isfinite(joint), cells_left(x, joint)
    x = x[finite][:, used]
    mean = np.exp(joint[finite] @ x + nuisance.offset[used])
    pulls = np.linalg.inv((x * mean) @ x.T) @ x  # A^-1 x_i
    leverage, resid = mean * (x * pulls).sum(axis=0), y[used] - mean
    free = leverage < FULL_LEVERAGE
    room = np.where(free, 1.0 - leverage, 1.0)
    distances, changes = np.full(y.size, np.nan), np.zeros(y.size)
    distances[used] = np.where(free, resid**2 / mean * leverage / (len(x) * room**2), np.nan)
    counts, sign = np.bincount(state, y, minlength=4)[state[used]], SIGNS[state[used]]
    alone = y[used] == counts
    most = np.where(alone, 0.0, np.maximum(y[used], mean))
    level = -np.sign(resid) * np.log1p(np.abs(resid) / (counts - most))
    slopes = -(CONTRAST @ pulls[-3:] - sign / counts) * resid / room
    changes[used] = np.where(alone, np.inf, np.where(free, np.abs(sign * level + slopes), 0.0))
    return distances, changes


def _without(pairs: StatePairs, row: int, cell: int) -> tuple[float, float]:
    """I and its standard error by the sandwich, the cell left out."""
    rest = np.delete(np.arange(pairs.counts.shape[1]), cell)
    first = np.zeros(1, dtype=np.int64)
    peaks = pairs.peaks[[pairs.first[row], pairs.second[row]]][:, rest]
    one = StatePairs(
        pairs.counts[[pairs.gene[row]]][:, rest], peaks, first, first, first + 1, some_cells(pairs.nuisance, rest)
    )
    fits = fit_states_plainly(one)
    return fits.beta[0, INTERACTION], np.sqrt(CONTRAST @ fits.sandwich[0, -3:, -3:] @ CONTRAST)


@compiled(fastmath=FASTMATH)
def _linear_predictor(z, offset, slopes, eta):
    eta[:] = offset
    for j in range(slopes.size):
        slope, row = slopes[j], z[j]
        for i in range(eta.size):
            eta[i] += slope * row[i]


@compiled(fastmath=FASTMATH)
def _product(x, y, out):
    for i in range(out.size):
        out[i] = x[i] * y[i]


@compiled(fastmath=FASTMATH)
def _less(x, value, out):
    for i in range(out.size):
        out[i] = x[i] - value


@compiled
def _moments(z, bounds, totals, rate, scratch, level, mean, beyond, info):
    """Levels, means of z by state under ``rate``, z less these (``beyond``), and the information on the slopes."""
    info[:] = 0.0
    for s in range(4):
        part = slice(bounds[s], bounds[s + 1])
        weight = total(rate[part])
        level[s] = totals[s] / weight
        for j in range(z.shape[0]):
            mean[s, j] = dot(z[j, part], rate[part]) / weight
            _less(z[j, part], mean[s, j], beyond[j, part])
            _product(beyond[j, part], rate[part], scratch[part])
            for m in range(j + 1):
                info[j, m] += level[s] * dot(beyond[m, part], scratch[part])


@compiled
def _without_cell(z, offset, bounds, dropped, totals, sums, slopes, work, level, mean, beyond, chol, info):
    """Newton in the slopes, in place, one cell left out; False if it does not settle.

    ``totals`` and ``sums`` are the counts by state and ``z' counts``, without the cell. The rates in ``work`` and what
    follows from them are those before the last step, which is below ``FIT_TOLERANCE``; ``level`` is put right.
    """
    eta, rate, scratch, step = work[0], work[1], work[2], np.empty(slopes.size)
    for _ in range(_MAX_STEPS):
        _linear_predictor(z, offset, slopes, eta)
        exp_into(eta, rate, scratch)
        rate[dropped] = 0.0
        _moments(z, bounds, totals, rate, scratch, level, mean, beyond, info)
        if not cholesky(info, chol):
            return False
        for j in range(step.size):
            step[j] = sums[j]
            for s in range(4):
                step[j] -= totals[s] * mean[s, j]
        solve(chol, step)
        size = 0.0
        for j in range(step.size):
            size = max(size, abs(step[j]))
        if not size < _LONGEST_STEP:
            return False
        slopes += step
        if size < FIT_TOLERANCE:
            for s in range(4):
                for j in range(step.size):
                    level[s] *= 1.0 - mean[s, j] * step[j]
            return True
    return False


@compiled(fastmath=FASTMATH)
def _forms(bounds, totals, mean, beyond, inverse, work):
    """Write ``h / mu`` and ``v'd`` of every cell to rows 3 and 4 of ``work``."""
    form, pull = work[3], work[4]
    for s in range(4):
        for i in range(bounds[s], bounds[s + 1]):
            form[i], pull[i] = 1.0 / totals[s], 0.0
    for j in range(beyond.shape[0]):
        v = 0.0
        for m in range(beyond.shape[0]):
            for s in range(4):
                v -= inverse[j, m] * SIGNS[s] * mean[s, m]
        row, own = beyond[j], inverse[j, j]
        for i in range(row.size):
            pull[i] += v * row[i]
            form[i] += own * row[i] * row[i]
        for m in range(j):
            other, twice = beyond[m], 2.0 * inverse[j, m]
            for i in range(row.size):
                form[i] += twice * row[i] * other[i]


@compiled(fastmath=FASTMATH)
def _residuals(counts, bounds, totals, level, work):
    """Turn rows 3 and 4 of ``work`` into p times Cook's distances, -1 at full leverage, and the slopes' part of dI.

    Row 0 receives that whose log(1 + x) is the level's part but for its sign.
    """
    apart, rate, distance, change = work[0], work[1], work[3], work[4]
    for s in range(4):
        for i in range(bounds[s], bounds[s + 1]):
            mean = rate[i] * level[s]
            resid, leverage = counts[i] - mean, mean * distance[i]
            free = leverage < FULL_LEVERAGE
            step = resid / (1.0 - leverage) if free else 0.0
            rest = totals[s] - max(counts[i], mean)
            distance[i] = step * step * distance[i] if free else -1.0
            change[i] = -change[i] * step
            apart[i] = abs(resid) / rest if free and rest > 0.0 else 0.0


@compiled(fastmath=FASTMATH)
def _changes(counts, bounds, totals, level, work):
    """Turn row 4 of ``work`` into the absolute dI; the logarithms are in row 5."""
    rate, change, logs = work[1], work[4], work[5]
    for s in range(4):
        for i in range(bounds[s], bounds[s + 1]):
            part = -SIGNS[s] * logs[i] if counts[i] > rate[i] * level[s] else SIGNS[s] * logs[i]
            change[i] = np.inf if counts[i] == totals[s] else abs(part + change[i])


@compiled
def _first_of_largest(change, order):
    """Place, in order of state, of the first cell in the order of the sample among those that move I most."""
    bound, best = change.max() * (1.0 - TIE), -1
    for i in range(change.size):
        if change[i] >= bound and (best < 0 or order[i] < order[best]):
            best = i
    return best


@compiled
def _ratio(distance, start):
    """Largest distance by the mean of those from ``start`` on; NaN if none of these is defined."""
    largest, sum_, n = -1.0, 0.0, 0
    for i in range(distance.size):
        largest = max(largest, distance[i])
        if i >= start and distance[i] >= 0.0:
            sum_ += distance[i]
            n += 1
    return largest / (sum_ / n) if n > 0 else np.nan


@compiled(fastmath=FASTMATH)
def _variance(counts, bounds, totals, level, work):
    """Sandwich variance of I."""
    rate, pull, out = work[1], work[4], 0.0
    for s in range(4):
        for i in range(bounds[s], bounds[s + 1]):
            part = (SIGNS[s] / totals[s] + pull[i]) * (counts[i] - rate[i] * level[s])
            out += part * part
    return out


@compiled
def _influence_of_pairs(z, offset, rna, peaks, gene, first, second, all_slopes, outcome, cells, cook, ratio, beta, se):
    """Fill the results pair by pair; ``all_slopes`` are those of the joint fits, changed to those without the cell."""
    c, n = z.shape
    order, bounds, work = np.empty(n, np.int64), np.zeros(5, np.int64), np.empty((6, n))
    zs, beyond, shift, counts = np.empty((c, n)), np.empty((c, n)), np.empty(n), np.empty(n)
    totals, level, mean, sums = np.empty(4), np.empty(4), np.empty((4, c)), np.empty(c)
    info, chol, inverse, step = np.zeros((c, c)), np.zeros((c, c)), np.zeros((c, c)), np.empty(c)
    for pair in range(gene.size):
        sort_by_state(peaks[first[pair]], peaks[second[pair]], bounds, order)
        y, slopes = rna[gene[pair]], all_slopes[pair]
        for i in range(n):
            counts[i], shift[i] = y[order[i]], offset[order[i]]
        for j in range(c):
            for i in range(n):
                zs[j, i] = z[j, order[i]]
            sums[j] = dot(zs[j], counts)
        for s in range(4):
            totals[s] = total(counts[bounds[s] : bounds[s + 1]])
        _linear_predictor(zs, shift, slopes, work[0])
        exp_into(work[0], work[1], work[2])
        _moments(zs, bounds, totals, work[1], work[2], level, mean, beyond, info)
        if not cholesky(info, chol):
            continue
        invert(chol, inverse)
        _forms(bounds, totals, mean, beyond, inverse, work)
        _residuals(counts, bounds, totals, level, work)
        log1p_into(work[0], work[5], work[2])
        _changes(counts, bounds, totals, level, work)
        drop = _first_of_largest(work[4], order)
        cells[pair] = order[drop]
        cook[pair] = work[3][drop] / (4 + c) if work[3][drop] >= 0.0 else np.nan
        ratio[pair] = _ratio(work[3], bounds[3])
        state = 0
        while drop >= bounds[state + 1]:
            state += 1
        if work[4][drop] == np.inf:
            outcome[pair] = _LIMIT
            beta[pair] = -SIGNS[state] * np.inf if bounds[state + 1] - bounds[state] > 1 else np.nan
            continue
        resid = counts[drop] - work[1][drop] * level[state]
        for j in range(c):
            step[j] = beyond[j, drop] * resid
            sums[j] -= zs[j, drop] * counts[drop]
        solve(chol, step)
        slopes -= step
        totals[state] -= counts[drop]
        counts[drop] = 0.0
        if _without_cell(zs, shift, bounds, drop, totals, sums, slopes, work, level, mean, beyond, chol, info):
            outcome[pair] = _FITTED
            invert(chol, inverse)
            _forms(bounds, totals, mean, beyond, inverse, work)
            beta[pair] = np.log(level[0] * level[3] / (level[1] * level[2]))
            se[pair] = np.sqrt(_variance(counts, bounds, totals, level, work))
