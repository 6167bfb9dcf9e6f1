from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from enhancer_dask.stats import influence, poisson
from enhancer_dask.stats.influence import influence_of_pairs, influence_plainly
from enhancer_dask.stats.states import INTERACTION, StatePairs, fit_states_plainly

BOTH = pytest.mark.parametrize("form", [influence_plainly, influence_of_pairs], ids=["plain", "compiled"])


def one_pair(counts, first, second, covariates=None, offset=None):
    n, row = len(counts), np.array([0])
    nuisance = poisson.make_nuisance(np.empty((n, 0)) if covariates is None else covariates, offset)
    peaks = np.array([first, second]).astype(np.uint8)
    return StatePairs(np.array([counts], dtype=float), peaks, row, row, row + 1, nuisance)


@pytest.fixture
def few_cells():
    counts = [2, 0, 1, 3, 4, 1, 2, 0, 5, 2, 9, 1, 3, 0]
    state = np.repeat([0, 1, 2, 3], [4, 3, 3, 4])
    mito = np.array([0.1, 0.4, 0.2, 0.3, 0.5, 0.2, 0.1, 0.3, 0.3, 0.6, 0.2, 0.4, 0.1, 0.5])
    offset = np.array([0, 0.2, -0.1, 0.3, 0.1, 0, -0.2, 0.4, 0, 0.1, -0.3, 0.2, 0.1, 0])
    return one_pair(counts, state % 2, state // 2, mito[:, None], offset)


@BOTH
def test_influence_of_pairs__matches_r(form, few_cells):
    # oracle, R 4.2.2, the data of few_cells as d:
    # f <- glm(y ~ e1*e2 + m + offset(o), family=poisson, data=d, control=glm.control(epsilon=1e-14, maxit=100))
    # D <- cooks.distance(f); max(D) / mean(D[11:14]);
    # g <- update(f, data=d[-9,]); coef(g)["e1:e2"]
    found = form(few_cells, fit_states_plainly(few_cells))
    assert found.cell[0] == 8
    # R takes leverages from the weights of its last iteration but one: 1.4e-8 was seen
    np.testing.assert_allclose(found.cook[0], 0.503263209, rtol=1e-7)
    np.testing.assert_allclose(found.ratio[0], 2.49037610444, rtol=1e-7)
    np.testing.assert_allclose(found.beta_dropped[0], 0.63002916122901, rtol=1e-11)


def test_distances_and_changes__are_cooks_distances_of_r(few_cells):
    # oracle, R: cooks.distance(f) of the test above
    want = [0.003608509, 0.109275204, 0.006486924, 0.124130708, 0.811853229, 0.218192165, 0.051821895]
    want += [1.334663218, 0.503263209, 0.038317021, 1.059458141, 0.212495119, 0.536188419, 0.335571820]
    fits = fit_states_plainly(few_cells)
    distances, changes = influence._distances_and_changes(few_cells, fits, 0)
    np.testing.assert_allclose(distances, want, rtol=2e-7)
    # oracle, R: coef(update(f, data=d[-i,]))["e1:e2"] - coef(f)["e1:e2"], of which the change is an approximation
    exact = [0.0456307, 0.2807069, 0.0681078, 0.3962790, 0.5210986, 0.3434385, 0.1889808]
    exact += [0.7379929, 0.9133510, 0.1037109, 0.8635891, 0.2764648, 0.2387325, 0.3291273]
    np.testing.assert_allclose(changes, exact, rtol=0, atol=0.13)


@BOTH
def test_influence_of_pairs__standard_error_is_the_sandwich_of_the_fit_without_the_cell(form, few_cells):
    found = form(few_cells, fit_states_plainly(few_cells))
    rest = np.delete(np.arange(14), found.cell[0])
    e1, e2 = few_cells.peaks[:, rest].astype(float)
    covariates = few_cells.nuisance.z[rest]
    counts, offset = few_cells.counts[0, rest], few_cells.nuisance.offset[rest]
    indicators = np.column_stack([e1, e2, e1 * e2])
    fit = poisson.fit_poisson(counts, indicators, covariates, offset=offset)
    x = np.column_stack([np.ones(13), covariates, indicators])
    mean = np.exp(x @ fit.coefficients + offset)
    bread = np.linalg.inv(x.T @ (mean[:, None] * x))
    variance = bread @ (x.T @ ((counts - mean)[:, None] ** 2 * x)) @ bread
    np.testing.assert_allclose(found.beta_dropped[0], fit.coefficients[-1], rtol=1e-9)
    np.testing.assert_allclose(found.se_dropped[0], np.sqrt(variance[-1, -1]), rtol=1e-7)


def assert_same(found, want):
    for field in fields(want):
        a, b = getattr(found, field.name), getattr(want, field.name)
        # Newton ends below 1e-8, so coefficients are good to rounding and the errors to 1e-8
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=field.name)


def many(seed, n, n_pairs=40):
    """Pairs of all kinds: genes without counts or with few, states without cells or with one, dummies, ..."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n, seed % 4)) ** (3 if seed % 3 == 0 else 1)
    if seed % 2:  # a level that is rare, so that some genes have no counts there
        covariates = np.column_stack([covariates, rng.random(n) < 0.1])
    offset = rng.normal(size=n) if seed % 5 else None
    rate = rng.choice([0.0, 0.02, 0.3, 2.0, 40.0], (7, 1)) * np.exp(rng.normal(size=n))
    peaks = rng.random((8, n)) < rng.choice([0.0, 0.04, 0.2, 0.6], (8, 1))
    peaks[-1] = ~peaks[0]
    gene, first, second = rng.integers(0, 7, n_pairs), rng.integers(0, 8, n_pairs), rng.integers(0, 8, n_pairs)
    nuisance = poisson.make_nuisance(covariates.astype(float), offset)
    return StatePairs(rng.poisson(rate).astype(float), peaks.astype(np.uint8), gene, first, second, nuisance)


@pytest.mark.parametrize("n", [12, 60, 400])
@pytest.mark.parametrize("seed", range(12))
def test_influence_of_pairs__equals_the_plain_form(seed, n):
    pairs = many(seed, n)
    fits = fit_states_plainly(pairs)
    found = influence_of_pairs(pairs, fits)
    assert_same(found, influence_plainly(pairs, fits))
    np.testing.assert_array_equal(found.cell >= 0, np.isfinite(fits.beta[:, INTERACTION]))


@BOTH
def test_influence_of_pairs__swapping_the_enhancers_changes_nothing(form):
    pairs = many(3, 150)
    swapped = replace(pairs, first=pairs.second, second=pairs.first)
    assert_same(form(swapped, fit_states_plainly(swapped)), form(pairs, fit_states_plainly(pairs)))


@BOTH
def test_influence_of_pairs__a_pair_does_not_depend_on_the_others(form):
    pairs = many(2, 100)
    fits = fit_states_plainly(pairs)
    whole, rows = form(pairs, fits), np.array([31, 4, 4, 17])
    some = form(pairs.some(rows), fits.some(rows))
    for field in fields(some):
        np.testing.assert_array_equal(getattr(some, field.name), getattr(whole, field.name)[rows])


@BOTH
def test_influence_of_pairs__one_outlier_is_found_and_flagged(form):
    rng = np.random.default_rng(5)
    n = 800
    first, second = rng.random((2, n)) < 0.3
    z, counts = rng.normal(size=(n, 1)), rng.poisson(1.0, n)
    outlier = np.flatnonzero(first & second)[7]
    counts[outlier] = 60
    sharp = rng.poisson(np.exp(1.5 * (first & second)))  # an interaction that all cells carry
    peaks = np.array([first, second]).astype(np.uint8)
    gene, row = np.array([0, 1]), np.array([0, 0])
    pairs = StatePairs(
        np.array([counts, sharp], dtype=float), peaks, gene, row, row + 1, poisson.make_nuisance(z, None)
    )
    fits = fit_states_plainly(pairs)
    found = form(pairs, fits)
    assert found.cell[0] == outlier
    assert found.ratio[0] > 5
    # the sandwich takes the outlier for spread, and I without it is what is left: two of its standard errors
    assert abs(found.beta_dropped[0]) < 2 * found.se_dropped[0] < abs(fits.beta[0, INTERACTION])
    assert not found.one_cell[1]
    assert found.p_dropped[1] < 1e-6


def significant_but_one(counts_11):
    """States of 20 cells with one count each, but for the doubly open cells."""
    n_11 = len(counts_11)
    state = np.repeat([0, 1, 2, 3], [20, 20, 20, n_11])
    return one_pair(np.concatenate([np.ones(60), counts_11]), state % 2, state // 2)


@BOTH
@pytest.mark.parametrize(
    ("counts_11", "beta", "one_cell"),
    [
        ([0.0] * 39 + [1.0], -np.inf, True),  # without that cell the state has no counts
        ([30.0], np.nan, True),  # without it the state has no cells
        ([5.0] * 20, np.log(5), False),
        ([0.0] * 30 + [1.0] * 10, np.log(9 / 39), False),
    ],
)
def test_influence_of_pairs__says_what_is_left_without_the_cell(form, counts_11, beta, one_cell):
    pairs = significant_but_one(counts_11)
    fits = fit_states_plainly(pairs)
    found = form(pairs, fits)
    np.testing.assert_allclose(found.beta_dropped, beta, rtol=1e-9)
    assert found.one_cell[0] == one_cell
    assert np.isnan(found.p_dropped[0]) == (not np.isfinite(beta))
    if len(counts_11) == 1:
        assert np.isnan([found.cook[0], found.ratio[0]]).all()


@BOTH
@pytest.mark.parametrize("side", [-np.inf, np.inf])
def test_influence_of_pairs__leaves_out_the_cells_of_an_infinite_dummy(form, side):
    rng = np.random.default_rng(8)
    n = 200
    batch, open_ = np.arange(n) < 60, rng.random((2, n)) < 0.4
    idle = batch if side < 0 else ~batch
    counts = np.where(idle, 0, rng.poisson(2.0, n))
    z = rng.normal(size=(n, 1))
    pairs = one_pair(counts, *open_, np.column_stack([z, batch]).astype(float))
    fits = fit_states_plainly(pairs)
    assert fits.joint[0, 2] == side
    rest = np.flatnonzero(~idle)
    alone = one_pair(counts[rest], *open_[:, rest], z[rest])
    alone_fits = fit_states_plainly(alone)
    np.testing.assert_allclose(fits.se[0], alone_fits.se[0], rtol=1e-7)
    found, want = form(pairs, fits), influence_plainly(alone, alone_fits)
    assert found.cell[0] == rest[want.cell[0]]
    for name in ("cook", "ratio", "beta_dropped", "se_dropped", "p_dropped", "one_cell"):
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=1e-7)


@BOTH
def test_influence_of_pairs__no_pairs(form):
    pairs = many(0, 12).some(np.empty(0, dtype=np.int64))
    assert len(form(pairs, fit_states_plainly(pairs)).cell) == 0
