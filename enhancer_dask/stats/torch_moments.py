"""The moments engine on torch tensors, for a GPU: the same expansion, Newton and bound for all lanes at once.

Equations and certificate are those of :mod:`enhancer_dask.stats.moments`; :func:`~enhancer_dask.stats.moments.prepare`
settles centres, groups and degrees. A lane is one refit, a test in a resample. Features of cells times resample counts
are two dense products in double precision, one of all cells for each gene and one for the listed groups of each test,
in which the features of other cells are zero: more arithmetic than gathering cells, but in the form that a GPU is fast
at. Moments then are a matrix (groups x terms) per lane, and so is all that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import factorial

from enhancer_dask.stats import poisson
from enhancer_dask.stats.exact import Batch, Floats, Ints, Refitter, refit_exactly
from enhancer_dask.stats.exponential import LARGEST
from enhancer_dask.stats.lanes import CONVERGED_STEP, MAX_STEPS
from enhancer_dask.stats.moments import EXACT, TOLERANCE, Plan, prepare
from enhancer_dask.stats.monomials import monomials
from enhancer_dask.stats.tensors import MEMORY, Tensor, factor, find_device, import_torch, send, solve

LONGEST_STEP = 30.0


class Terms(NamedTuple):
    """Terms of a polynomial of one degree D in the c slopes, M of them, on a device."""

    degree: int
    exponents: Tensor
    """Shape (M, c)."""
    factorials: Tensor
    """Products of the exponents' factorials, shape (M,)."""
    lowered: Tensor
    """Term whose power goes with moment m in the value, in its part of the highest even degree, in the c first and the
    c * c second derivatives, shape (2 + c + c * c, M); M where there is none."""
    largest_z: Tensor
    """Shape (c,)."""


class Lanes(NamedTuple):
    """B refits: what their likelihoods are made of; p levels, c slopes, G groups."""

    moments: Tensor
    """Sums of ``w mu z^a`` over the cells of each group, shape (B, G, M)."""
    y: Tensor
    """Counts of each group, shape (B, G)."""
    y_z: Tensor
    """Sums of counts times each slope's covariate, shape (B, c)."""
    values: Tensor
    """Intercept, dummies, indicators of each group, shape (B, G, p)."""


@lru_cache(maxsize=32)
def lowered(n_variables: int, degree: int) -> Ints:
    """See :class:`Terms`.

    Examples
    --------
    >>> lowered(1, 3)  # terms 1, d, d^2/2, d^3/6; 4 stands for none
    array([[0, 1, 2, 3],
           [4, 4, 2, 4],
           [4, 0, 1, 2],
           [4, 4, 0, 1]])
    """
    table = monomials(n_variables, degree)
    n_terms = len(table.exponents)
    every = np.arange(n_terms)
    once = np.full((n_variables, n_terms + 1), n_terms)
    for j in range(n_variables):
        once[j, table.raised[:, j]] = np.arange(len(table.raised))
    highest_even = np.where(table.exponents.sum(axis=1) == degree - degree % 2, every, n_terms)
    twice = [once[k, once[j, :n_terms]] for j in range(n_variables) for k in range(n_variables)]
    return np.stack([every, highest_even, *once[:, :n_terms], *twice])


def powers(x: Tensor, terms: Terms) -> Tensor:
    """Products ``x_0^a_0 x_1^a_1 ...`` for the exponents a of each term, shape (..., M), of ``x``, shape (..., c)."""
    out = x.new_ones((*x.shape[:-1], len(terms.exponents)))
    each = x[..., None] ** import_torch().arange(terms.degree + 1, device=x.device)  # few, so that few are costly
    for j in range(x.shape[-1]):
        out = out * each[..., j, :][..., terms.exponents[:, j]]
    return out


# -- likelihood, Newton, bound --------------------------------------------------------------------------------


def evaluate(lanes: Lanes, theta: Tensor, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
    """Score (B, p + c) and information (B, p + c, p + c) at ``theta``, and each group's last terms (B, G)."""
    torch = import_torch()
    p, c = lanes.values.shape[2], lanes.y_z.shape[1]
    power = torch.nn.functional.pad(powers(theta[:, p:], terms) / terms.factorials, (0, 1))  # none: zero
    parts = lanes.moments @ power[:, terms.lowered].mT  # (B, G, rows of `lowered`)
    eta = (lanes.values @ theta[:, :p, None]).squeeze(2)
    parts = parts * eta.clamp(-LARGEST, LARGEST).exp()[:, :, None]
    mean, last, slopes, curvature = parts.split([1, 1, c, c * c], dim=2)
    on_levels = (lanes.values.mT @ (lanes.y[:, :, None] - mean)).squeeze(2)
    score = torch.cat([on_levels, lanes.y_z - slopes.sum(dim=1)], dim=1)
    crossed = lanes.values.mT @ slopes
    above = torch.cat([lanes.values.mT @ (mean * lanes.values), crossed], dim=2)
    below = torch.cat([crossed.mT, curvature.sum(dim=1).view(len(theta), c, c)], dim=2)
    return score, torch.cat([above, below], dim=1), last.squeeze(2)


def newton(lanes: Lanes, theta: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Coefficients from ``theta`` on, shape (B, p + c), and which lanes have converged, shape (B,)."""
    good = theta.isfinite().all(dim=1)
    moving = good.clone()
    for _ in range(MAX_STEPS):
        score, information, _ = evaluate(lanes, theta, terms)
        lower, factored = factor(information, poisson.ALIAS_TOLERANCE)
        step = solve(lower, score)
        largest = step.abs().amax(dim=1)
        good = good & (~moving | (factored & (largest < LONGEST_STEP)))  # false for NaN, too
        moving = moving & good
        theta = theta + step.where(moving[:, None], step.new_zeros(()))
        moving = moving & ~(largest < CONVERGED_STEP)
        if not moving.any():
            break
    return theta, good & ~moving


def certified(lanes: Lanes, theta: Tensor, terms: Terms, first: int) -> Tensor:
    """Lanes where the neglected terms move no indicator's coefficient by more than ``TOLERANCE``, shape (B,)."""
    p, degree = lanes.values.shape[2], terms.degree
    _, information, last = evaluate(lanes, theta, terms)
    lower, good = factor(information, poisson.ALIAS_TOLERANCE)
    reach = (theta[:, p:].abs() * terms.largest_z).sum(dim=1, keepdim=True)
    within = 1.0 - reach / (degree + 1.0)
    top = last.abs() * (1.0 if degree % 2 == 0 else reach / degree)
    tail = (top / within).where(within > 0.1, top.new_full((), np.inf))
    for a in range(first, p):
        right = theta.new_zeros(theta.shape)
        right[:, a] = 1.0
        right = solve(lower, right)
        on_slopes = (right[:, p:].abs() * terms.largest_z).sum(dim=1, keepdim=True)
        on_level = (right[:, None, :p] * lanes.values).abs().sum(dim=2)
        error = (tail * (on_slopes + on_level * reach / (degree + 1.0))).sum(dim=1)
        good = good & (error <= TOLERANCE)
    return good


# -- blocks of tests and resamples ----------------------------------------------------------------------------


class Layout(NamedTuple):
    """Sizes of tests that share a block: those of one degree and one number of groups."""

    degree: int
    n_groups: int
    n_terms: int
    n_levels: int
    n_slopes: int
    n_cells: int

    @property
    def bytes_of_test(self) -> int:
        """Features of its gene and of its groups, with a copy in the making."""
        return 16 * self.n_cells * self.n_groups * (self.n_terms + 1 + self.n_slopes)

    @property
    def bytes_of_lane(self) -> int:
        """Moments (of the product, listed, joined, and as they are computed with), powers, derivatives, systems."""
        rows, size = 2 + self.n_slopes + self.n_slopes**2, self.n_levels + self.n_slopes
        moments = 5 * self.n_groups * (self.n_terms + 1 + self.n_slopes)
        parts = 2 * self.n_groups * rows + 3 * self.n_groups * self.n_levels
        return 8 * (moments + (rows + 3) * self.n_terms + parts + 6 * size**2)

    def block(self, n_tests: int, n_resamples: int, memory: int) -> tuple[int, int]:
        """Tests and resamples of a block: as many resamples as half the memory allows with one test, then tests."""
        of_resample = 8 * self.n_cells + self.bytes_of_lane
        resamples = max(1, min(n_resamples, memory // 2 // of_resample))
        tests = memory // 2 // (self.bytes_of_test + resamples * self.bytes_of_lane)
        return max(1, min(n_tests, tests)), resamples


def _layouts(batch: Batch, plan: Plan, which: Ints) -> Iterator[tuple[Layout, Ints]]:
    """Positions in ``which`` of the tests that the expansion serves, by layout."""
    n_groups = np.diff(plan.groups.first)[plan.groups.of_test[which]]
    kinds = np.column_stack([plan.degree[which], n_groups])
    for degree, groups in np.unique(kinds, axis=0):
        if degree != EXACT:
            sizes = int(plan.monomials.n_terms[degree]), plan.groups.values.shape[1], *plan.z.shape
            yield Layout(int(degree), int(groups), *sizes), np.flatnonzero((kinds == (degree, groups)).all(axis=1))


def _pieces(size: int, n_each: int) -> Iterator[slice]:
    for start in range(0, size, n_each):
        yield slice(start, min(start + n_each, size))


def _terms(plan: Plan, degree: int, device: Any) -> Terms:
    c, torch = len(plan.z), import_torch()
    exponents = monomials(c, degree).exponents
    places = [torch.tensor(array, device=device) for array in (exponents, lowered(c, degree))]
    factorials = send(factorial(exponents).prod(axis=1), device)
    return Terms(degree, places[0], factorials, places[1], send(plan.largest_z, device))


def _features(batch: Batch, plan: Plan, genes: Ints, terms: Terms, z: Tensor) -> Tensor:
    """``mu z^a`` of all terms, counts, and counts times z, of some genes, shape (U, M + 1 + c, n)."""
    counts = send(batch.counts[genes], z.device)[:, None]
    mean = send(plan.centres.mean[genes], z.device)[:, None]
    return import_torch().cat([mean * powers(z.T, terms).T, counts, counts * z], dim=1)


def _listed_cells(plan: Plan, tests: Ints, n_groups: int) -> NDArray[np.uint8]:
    """Whether a cell belongs to each group but the first, shape (T, G - 1, n)."""
    out = np.zeros((len(tests), n_groups - 1, plan.z.shape[1]), dtype=np.uint8)
    for inside, layout in zip(out, plan.groups.of_test[tests], strict=True):
        for g, group in enumerate(range(plan.groups.first[layout] + 1, plan.groups.first[layout + 1])):
            inside[g, plan.groups.cells[plan.groups.bounds[group] : plan.groups.bounds[group + 1]]] = 1
    return out


def _lanes(batch: Batch, plan: Plan, tests: Ints, layout: Layout, terms: Terms, z: Tensor, weights: Tensor) -> Lanes:
    """Refits of the tests in the resamples ``weights``, shape (R, n); a resample's tests lie together."""
    torch, n_resamples, m = import_torch(), len(weights), layout.n_terms + 1
    genes, of_gene = np.unique(batch.gene[tests], return_inverse=True)
    features = _features(batch, plan, genes, terms, z)
    gene_of = torch.tensor(of_gene.reshape(-1), device=z.device)
    whole = (weights @ features.flatten(0, 1).T).view(n_resamples, len(genes), -1)[:, gene_of]
    inside = send(_listed_cells(plan, tests, layout.n_groups), z.device)
    of_groups = features[gene_of, None, :m] * inside[:, :, None]  # (T, G - 1, M + 1, n)
    listed = (weights @ of_groups.flatten(0, 2).T).view(n_resamples, len(tests), layout.n_groups - 1, m)
    first = whole[:, :, None, :m] - listed.sum(dim=2, keepdim=True)
    sums = torch.cat([first, listed], dim=2).flatten(0, 1)
    first_group = plan.groups.first[plan.groups.of_test[tests]]
    values = send(plan.groups.values[first_group[:, None] + np.arange(layout.n_groups)], z.device)
    return Lanes(
        sums[..., :-1].contiguous(), sums[..., -1], whole[..., m:].flatten(0, 1), values.repeat(n_resamples, 1, 1)
    )


def moments_engine_torch(batch: Batch, *, device: str = "cpu", memory: int = MEMORY) -> Refitter:
    """:func:`~enhancer_dask.stats.moments.moments_engine` on a GPU, or on torch's CPU threads.

    Parameters
    ----------
    batch : Batch
        Tests in the same cells.
    device : str
        Name of a torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    memory : int
        Bytes that a block of tests and resamples may take on the device; at least one test in one resample is taken.

    Returns
    -------
    Refitter
        Coefficients within 1e-6 of the exact engine's; refits without a certificate run over all cells, on the CPU, and
        are counted.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If there is no such device.

    Notes
    -----
    The same bits each time for the same calls on the same device. Unlike the compiled engine's, the last bits of a
    coefficient depend on the sizes of the products it is part of, hence on the tests and resamples beside it and on
    ``memory``: libraries choose the order of their sums by the size.

    Examples
    --------
    >>> import pytest; torch = pytest.importorskip("torch")
    >>> from enhancer_dask.stats.exact import make_batch
    >>> from enhancer_dask.stats.poisson import make_nuisance
    >>> counts, peak = np.array([[2, 0, 1, 4, 3, 5]]), np.array([[0, 0, 0, 1, 1, 1]])
    >>> start = np.array([[0.0, np.log(4)]])
    >>> batch = make_batch(counts, peak, np.array([0]), np.array([0]), make_nuisance(np.empty((6, 0))), start)
    >>> drawn = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 0, 0, 3]])
    >>> coefficients, n_exact = moments_engine_torch(batch)(drawn, np.array([0]))
    >>> np.exp(coefficients[0, :, 0]).round(6).tolist(), n_exact.tolist()
    ([4.0, 3.0], [0])
    """
    torch, there = import_torch(), find_device(device)
    plan = prepare(batch)
    z, start = send(plan.z, there), send(plan.start, there)
    q = batch.peak.shape[1]

    def refit_block(tests: Ints, layout: Layout, terms: Terms, weights: Tensor) -> tuple[Floats, NDArray[np.bool_]]:
        """Coefficients (A, R, q) and which of them hold (A, R)."""
        lanes = _lanes(batch, plan, tests, layout, terms, z, weights)
        theta, good = newton(lanes, start[torch.tensor(tests, device=there)].repeat(len(weights), 1), terms)
        good = good & certified(lanes, theta, terms, plan.first)
        coefficients = theta[:, plan.first : layout.n_levels].view(len(weights), len(tests), q)
        return coefficients.transpose(0, 1).cpu().numpy(), good.view(len(weights), -1).T.cpu().numpy()

    def refitter(resamples: NDArray[np.integer], which: Ints) -> tuple[Floats, Ints]:
        shape = len(which), len(resamples)
        out, good = np.empty((*shape, q)), np.zeros(shape, dtype=np.bool_)
        for layout, places in _layouts(batch, plan, which):
            terms = _terms(plan, layout.degree, there)
            n_tests, n_resamples = layout.block(len(places), len(resamples), memory)
            for rows in _pieces(len(resamples), n_resamples):
                weights = send(resamples[rows], there)
                for piece in _pieces(len(places), n_tests):
                    at = places[piece]
                    out[at, rows], good[at, rows] = refit_block(which[at], layout, terms, weights)
        refit_exactly(batch, resamples, which, ~good, out)
        return out, np.count_nonzero(~good, axis=1)

    return refitter
