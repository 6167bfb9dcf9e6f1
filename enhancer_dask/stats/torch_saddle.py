"""The saddlepoint p-value on torch tensors, for a GPU: the pairs of a block side by side.

Equations, steps and bounds of trust are those of :mod:`enhancer_dask.stats.saddlepoint`, in double precision and with
dense designs: a peak is a row like the covariates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.stats import poisson
from enhancer_dask.stats.exponential import LARGEST
from enhancer_dask.stats.pairfits import PairFits
from enhancer_dask.stats.saddlepoint import (
    LONGEST_STEP,
    MAX_STEPS,
    NEAREST,
    PIECES,
    STEP_TOLERANCE,
    Floats,
    SaddleTable,
    table_of,
)
from enhancer_dask.stats.tails import SMALL_ROOT
from enhancer_dask.stats.tensors import MEMORY, Tensor, factor, find_device, import_torch, send, solve

_PIVOT_TOLERANCE = 1e-12  # as grams.cholesky


class Pairs(NamedTuple):
    """B pairs of a gene and a peak in n cells, p coefficients each, the peak's last."""

    design: Tensor
    """Shape (B, p, n)."""
    counts: Tensor
    """Shape (B, n)."""
    offset: Tensor
    """Shape (n,)."""

    def take(self, lanes: Tensor) -> Pairs:
        """Some of the pairs, by index or mask."""
        return Pairs(self.design[lanes], self.counts[lanes], self.offset)


class Cumulants(NamedTuple):
    """K and its derivatives at (tau, gamma), and the cells' numbers that they are sums of; the cut-off is fixed."""

    k_value: Tensor
    """Shape (B,)."""
    d_tau: Tensor
    """Shape (B, p)."""
    d_coef: Tensor
    """By gamma and the cut-off, shape (B, p)."""
    d_tautau: Tensor
    d_taucoef: Tensor
    d_coefcoef: Tensor
    """Shape (B, p, p)."""
    tilt: Tensor
    """Weights under the tilt, which sum to n, shape (B, n)."""
    mean: Tensor
    lean: Tensor
    """Expected counts and ``tau' x``, shape (B, n)."""


class Step(NamedTuple):
    """Newton's step towards the saddle, and the factors that it was solved with."""

    tau: Tensor
    """Shape (B, p)."""
    gamma: Tensor
    """Shape (B, p - 1)."""
    fine: Tensor
    """K is convex in tau and concave in gamma, shape (B,)."""
    lower_tau: Tensor
    """Cholesky factor of K_tautau."""
    lower_gamma: Tensor
    """Cholesky factor of minus the second derivative of max_tau K in gamma."""


def _combine(rows: Tensor, coef: Tensor) -> Tensor:
    """``coef' x`` of every cell, shape (B, n)."""
    return (coef[:, None] @ rows).squeeze(1)


def _total(rows: Tensor, weights: Tensor) -> Tensor:
    """Sums of ``weights x``, shape (B, p)."""
    return (rows @ weights[:, :, None]).squeeze(2)


def _gram(rows: Tensor, weights: Tensor) -> Tensor:
    """Sums of ``weights x x'``, shape (B, p, p)."""
    return (rows * weights[:, None]) @ rows.mT


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return x[:, :, None] * y[:, None, :]


def _half_log_det(lower: Tensor) -> Tensor:
    return lower.diagonal(dim1=1, dim2=2).log().sum(dim=1)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(dim=1)


def cumulants(pairs: Pairs, coef: Tensor, tau: Tensor) -> Cumulants:
    """K at (tau, coef), ``coef`` being gamma and the cut-off, with its derivatives."""
    x, n = pairs.design, pairs.counts.shape[1]
    mean = (_combine(x, coef) + pairs.offset).clamp(-LARGEST, LARGEST).exp()
    lean = _combine(x, tau)
    resid = pairs.counts - mean
    tilt = (lean * resid).clamp(-LARGEST, LARGEST).exp()
    total = tilt.sum(dim=1)
    tilt = tilt * (n / total)[:, None]
    pull = mean * lean
    leant = tilt * pull
    d_tau, d_coef = _total(x, tilt * resid), -_total(x, leant)
    d_tautau = _gram(x, tilt * resid**2) - _outer(d_tau, d_tau) / n
    d_taucoef = -_gram(x, tilt * mean + leant * resid) - _outer(d_tau, d_coef) / n
    d_coefcoef = _gram(x, leant * (pull - 1.0)) - _outer(d_coef, d_coef) / n
    return Cumulants(n * (total / n).log(), d_tau, d_coef, d_tautau, d_taucoef, d_coefcoef, tilt, mean, lean)


def newton_step(d: Cumulants) -> Step:
    """Step towards dK/dtau = 0, dK/dgamma = 0."""
    torch, k = import_torch(), d.d_tau.shape[1] - 1
    lower, convex = factor(d.d_tautau, _PIVOT_TOLERANCE)
    right = torch.cat([d.d_taucoef[:, :, :k], d.d_tau[:, :, None]], dim=2)
    half = torch.linalg.solve_triangular(lower, right, upper=False)
    on_gamma, on_tau = half[:, :, :k], half[:, :, k:]
    lower_gamma, concave = factor(on_gamma.mT @ on_gamma - d.d_coefcoef[:, :k, :k], _PIVOT_TOLERANCE)
    gamma = solve(lower_gamma, d.d_coef[:, :k] - (on_gamma.mT @ on_tau).squeeze(2))
    tau = solve(lower, -d.d_tau - (d.d_taucoef[:, :, :k] @ gamma[:, :, None]).squeeze(2))
    return Step(tau, gamma, convex & concave, lower, lower_gamma)


def find_saddles(pairs: Pairs, coef: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Newton with the cut-offs ``coef[:, -1]`` held: coef, tau and which pairs have settled, shape (B,).

    Pairs leave the computation as they settle or fail.
    """
    torch, k = import_torch(), coef.shape[1] - 1
    found, out_coef, out_tau = torch.zeros_like(coef[:, 0], dtype=torch.bool), coef.clone(), tau.clone()
    lanes, settled = torch.arange(len(coef), device=coef.device), found.clone()
    for _ in range(MAX_STEPS):
        d = cumulants(pairs, coef, tau)
        step = newton_step(d)
        done = settled & step.fine
        there = lanes[done]
        found[there], out_coef[there], out_tau[there] = d.k_value[done].isfinite(), coef[done], tau[done]
        size, length = _largest(step.tau), coef.new_zeros(len(coef))
        length = _largest(step.gamma) if k else length
        keep = step.fine & ~settled & (length < LONGEST_STEP) & (size < np.inf)
        if not keep.any():
            break
        tau = (tau + step.tau)[keep]
        coef = torch.cat([coef[:, :k] + step.gamma, coef[:, k:]], dim=1)[keep]
        settled = (size[keep] < STEP_TOLERANCE * _largest(tau)) & (length[keep] < STEP_TOLERANCE)
        pairs, lanes = pairs if keep.all() else pairs.take(keep), lanes[keep]
    return out_coef, out_tau, found


def _walk(pairs: Pairs, fit: Tensor, slope: Step, distance: Tensor, pieces: int) -> tuple[Tensor, Tensor, Tensor]:
    """From the fit to the cut-off ``distance`` away in a number of pieces, each a search from the saddle before."""
    k = fit.shape[1] - 1
    stride = distance[:, None] / pieces
    coef, tau = fit.clone(), slope.tau * stride
    coef[:, :k] += slope.gamma * stride
    found = fit.isfinite().all(dim=1)
    for piece in range(1, pieces + 1):
        coef[:, k] = fit[:, k] + distance * (piece / pieces)
        coef, tau, there = find_saddles(pairs, coef, tau)
        found = found & there
    return coef, tau, found


def _leverage(x: Tensor, weights: Tensor, lower: Tensor) -> Tensor:
    """Largest of ``weights x' A^-1 x`` over cells, A being ``lower lower'``, shape (B,)."""
    rows = import_torch().linalg.solve_triangular(lower, x, upper=False)
    return (weights * (rows**2).sum(dim=1)).amax(dim=1)


def _roots(k_value: Tensor, n: int, m1: Tensor, m2: Tensor, m3: Tensor, m4: Tensor) -> Tensor:
    """:func:`enhancer_dask.stats.tails.root`."""
    plain = (-2.0 * k_value).clamp(min=0.0).sqrt()
    k2, k3, k4 = m2 - m1 * m1 / n, m3, m4 - 3.0 * m2 * m2 / n
    summed = (k2 - k3 / 3.0 + k4 / 12.0 - 2.0 * m1).clamp(min=0.0).sqrt()
    return plain.where(plain > SMALL_ROOT, summed)


def tails(pairs: Pairs, coef: Tensor, tau: Tensor) -> Tensor:
    """r, u, effective number of cells, leverage at the saddles, shape (B, 4); NaN where the information fails."""
    torch, x, n = import_torch(), pairs.design, pairs.counts.shape[1]
    d = cumulants(pairs, coef, tau)
    step = newton_step(d)
    fisher, resid = d.tilt * d.mean, pairs.counts - d.mean
    lower, good = factor(_gram(x, fisher), _PIVOT_TOLERANCE)
    information = _half_log_det(lower) - lower[:, -1, -1].log()  # the peak is last, so that leaves gamma's
    log_ratio = 2.0 * information - _half_log_det(step.lower_tau) - _half_log_det(step.lower_gamma)
    leverage = torch.maximum(_leverage(x, fisher, lower), _leverage(x, d.tilt * resid**2, step.lower_tau))
    v = d.lean * resid
    m1, m2, m3, m4 = ((d.tilt * v**power).sum(dim=1) for power in (1, 2, 3, 4))
    r = _roots(d.k_value, n, m1, m2, m3, m4).copysign(tau[:, -1])
    out = torch.stack([r, tau[:, -1] * (-log_ratio).exp(), m2 * m2 / m4, leverage], dim=1)
    return out.where((good & step.fine)[:, None], out.new_full((), np.nan))


def biases(pairs: Pairs, d: Cumulants, slope: Step) -> Tensor:
    """Second-order bias of the peak's coefficient; ``d`` is that of the full fit, where tau = 0."""
    x, direction = pairs.design, slope.tau / slope.tau[:, -1:]
    lower, good = factor(-d.d_taucoef, _PIVOT_TOLERANCE)
    inverse = import_torch().cholesky_inverse(lower)
    efficient = _combine(x, direction)
    plain = d.mean * efficient
    crossed = plain * (pairs.counts - d.mean)
    sandwich = inverse @ d.d_tautau @ inverse
    trace = (inverse * _gram(x, crossed)).sum(dim=(1, 2)) + 0.5 * (sandwich * _gram(x, plain)).sum(dim=(1, 2))
    return (-trace / (plain * efficient).sum(dim=1)).where(good, trace.new_full((), np.nan))


def saddles(pairs: Pairs, fit: Tensor) -> tuple[Tensor, Tensor]:
    """r, u, effective cells, sd, bias, leverage, shape (B, 6), and which pairs have a saddle at twice the fit."""
    torch, k = import_torch(), fit.shape[1] - 1
    d = cumulants(pairs, fit, torch.zeros_like(fit))
    towards = d.d_taucoef[:, :, k]  # K_tau moves so when the cut-off leaves beta
    slope = newton_step(d._replace(d_tau=towards))
    sd = (-(slope.tau * towards).sum(dim=1)) ** -0.5
    nearest = (NEAREST * sd).copysign(fit[:, k])
    distance = fit[:, k].where(fit[:, k].abs() >= NEAREST * sd, nearest)
    out = fit.new_full((len(fit), 6), np.nan)
    out[:, 3], out[:, 4] = sd, biases(pairs, d, slope)
    todo = torch.nonzero(slope.fine).squeeze(1)
    for pieces in PIECES:
        if not len(todo):
            break
        some = pairs if len(todo) == len(fit) else pairs.take(todo)
        coef, tau, found = _walk(some, fit[todo], Step(*(part[todo] for part in slope)), distance[todo], pieces)
        if found.any():
            out[todo[found, None], out.new_tensor([0, 1, 2, 5]).long()] = tails(
                some.take(found), coef[found], tau[found]
            )
        todo = todo[~found]
    return out, out[:, 1].isfinite()


def saddle_pairs_torch(
    rna: NDArray[Any],
    atac: NDArray[Any],
    gene: NDArray[np.integer],
    peak: NDArray[np.integer],
    nuisance: poisson.Nuisance,
    fits: PairFits,
    *,
    device: str = "cpu",
    memory: int = MEMORY,
) -> SaddleTable:
    """:func:`~enhancer_dask.stats.saddlepoint.saddle_pairs` on a GPU, or on torch's CPU threads.

    Parameters
    ----------
    rna, atac, gene, peak, nuisance, fits
        As there.
    device : str
        Name of a torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    memory : int
        Bytes that a block of pairs may take on the device; at least one pair is taken.

    Returns
    -------
    SaddleTable
        The same trust codes; p within 1e-6 of its value, near p = 1 (a coefficient below 0.01 standard errors) 1e-3. A
        peak open in one cell, never trusted, may be NO_SADDLE in one form and FEW_CELLS in the other.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If there is no such device.

    Notes
    -----
    The same bits each time for the same call on the same device; the last bits of a pair depend on the size of its
    block.

    Examples
    --------
    >>> import pytest; torch = pytest.importorskip("torch")
    >>> from enhancer_dask.stats.pairfits import fit_pairs
    >>> rng = np.random.default_rng(0)
    >>> atac = (rng.random((1, 400)) < 0.3).astype(np.uint8)
    >>> rna = rng.poisson(np.exp(0.1 * atac))
    >>> data = rna, atac, np.array([0]), np.array([0]), poisson.make_nuisance(rng.normal(size=(400, 1)))
    >>> table = saddle_pairs_torch(*data, fit_pairs(*data))
    >>> int(table.trust[0]), 0.0 < float(table.p[0]) < 1.0
    (0, True)
    """
    there = find_device(device)
    gene, peak = np.asarray(gene, dtype=np.int64), np.asarray(peak, dtype=np.int64)
    rows = send(nuisance.design(np.empty((len(nuisance.z), 0))), there)
    offset = send(nuisance.offset, there)
    n, table = len(nuisance.z), np.full((len(gene), 6), np.nan)
    informative, found = np.zeros(len(gene), dtype=np.int64), np.zeros(len(gene), dtype=np.bool_)
    fitted = np.flatnonzero(np.isfinite(fits.coefficients).all(axis=1))
    n_pairs = max(1, memory // bytes_of_pair(len(rows) + 1, n))
    for start in range(0, len(fitted), n_pairs):
        block = fitted[start : start + n_pairs]
        pairs = _pairs(rna[gene[block]], atac[peak[block]], rows, offset)
        informative[block] = ((pairs.counts > 0) & (pairs.design[:, -1] != 0)).sum(dim=1).cpu().numpy()
        values, good = saddles(pairs, send(fits.coefficients[block], there))
        table[block], found[block] = values.cpu().numpy(), good.cpu().numpy()
    return table_of(table, informative, found, fits)


def bytes_of_pair(n_coefficients: int, n_cells: int) -> int:
    """Memory of one pair: design, its copy while it is moving, weighted design; about 20 rows of cells besides."""
    return 8 * n_cells * (3 * n_coefficients + 20)


def _pairs(rna: Floats, atac: NDArray[Any], rows: Tensor, offset: Tensor) -> Pairs:
    shared = rows.expand(len(rna), -1, -1)
    design = import_torch().cat([shared, send(np.asarray(atac), rows.device)[:, None]], dim=1)
    return Pairs(design, send(np.asarray(rna), rows.device), offset)
