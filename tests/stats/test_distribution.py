from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from enhancer_dask.stats import bootstrap, poisson
from enhancer_dask.stats.distribution import NoSaddleError, bootstrap_distribution, derivatives
from enhancer_dask.stats.exact import exact_engine, make_batch
from enhancer_dask.stats.resampling import resample_counts

R = 20_000


def pair(seed=0, n=300):
    rng = np.random.default_rng(seed)
    z = np.column_stack([rng.normal(size=n), rng.random(n) < 0.3])
    peak = rng.random(n) < 0.3
    counts = rng.poisson(np.exp(0.3 + 0.3 * z[:, 0] + 0.25 * peak))
    return counts, peak[:, None], poisson.make_nuisance(z)


def resampled(counts, indicators, nuisance, contrast, *, unit=None, prior=None):
    """Brute force: the contrast refitted on R multinomial resamples of the units."""
    n_units = len(counts) if unit is None else unit.max() + 1
    drawn = resample_counts(n_units, 0, R, seed=5, celltype="x", rung=0).astype(float)
    weights = drawn if unit is None else drawn[:, unit]
    weights = weights if prior is None else weights * prior
    q, only = indicators.shape[1], np.zeros(1, dtype=int)
    start = bootstrap.start_from(poisson.fit_prepared(counts, indicators, nuisance), counts, nuisance)
    batch = make_batch(counts[None], indicators.T, only, np.arange(q)[None], nuisance, start[None])
    return exact_engine(batch)(weights, only)[0][0] @ contrast


def assert_is_distribution_of(boot, values, n_sd=4.0):
    """Tails at several cut-offs, mean and spread agree with a sample of size R, within n_sd standard errors."""
    assert np.isfinite(values).all()
    for z in (-2.5, -1.5, -0.5, 0.0, 0.8, 1.6, 2.4):
        cutoff = boot.estimate + z * boot.first_order_sd
        p = boot.upper_tail(cutoff)
        error = np.sqrt(p * (1 - p) / R)
        assert abs((values >= cutoff).mean() - p) < n_sd * error + 0.03 * min(p, 1 - p), z
    bias, sd = boot.moments()
    assert abs(values.mean() - boot.estimate - bias) < n_sd * sd / np.sqrt(R)
    assert sd == pytest.approx(values.std(), rel=n_sd / np.sqrt(2 * R) + 0.005)


def test_bootstrap_distribution__is_that_of_resamples():
    counts, peak, nuisance = pair()
    boot = bootstrap_distribution(counts, peak, nuisance)
    assert_is_distribution_of(boot, resampled(counts, peak, nuisance, np.ones(1)))


def test_bootstrap_distribution__of_a_contrast_of_three_states():
    rng = np.random.default_rng(1)
    n = 800
    e1, e2, z = rng.random(n) < 0.4, rng.random(n) < 0.4, rng.normal(size=(n, 1))
    states = np.column_stack([e1 & ~e2, ~e1 & e2, e1 & e2])
    counts = rng.poisson(np.exp(0.5 + 0.3 * e1 + 0.2 * e2 + 0.2 * (e1 & e2) + 0.2 * z[:, 0]))
    nuisance, contrast = poisson.make_nuisance(z), np.array([-1.0, -1.0, 1.0])
    boot = bootstrap_distribution(counts, states, nuisance, contrast=contrast)
    fit = poisson.fit_prepared(counts, states, nuisance)
    assert boot.estimate == pytest.approx(contrast @ fit.coefficients[-3:], abs=1e-8)
    assert_is_distribution_of(boot, resampled(counts, states, nuisance, contrast))


def test_bootstrap_distribution__of_weighted_cells_with_an_offset():
    counts, peak, nuisance = pair(2)
    rng = np.random.default_rng(2)
    prior = rng.choice([0.0, 1.0, 2.0], len(counts))
    nuisance = poisson.make_nuisance(nuisance.z, 0.3 * rng.normal(size=len(counts)))
    boot = bootstrap_distribution(counts, peak, nuisance, weights=prior)
    assert_is_distribution_of(boot, resampled(counts, peak, nuisance, np.ones(1), prior=prior))


def test_bootstrap_distribution__of_clusters():
    rng = np.random.default_rng(3)
    n_donors, n = 40, 1_200
    donor = rng.integers(0, n_donors, n)
    z, peak = rng.normal(size=(n, 1)), rng.random(n) < 0.3
    slope = 0.3 + 0.4 * rng.normal(size=n_donors)  # the effect differs between donors: cells alone spread too little
    counts = rng.poisson(np.exp(0.3 + 0.3 * rng.normal(size=n_donors)[donor] + slope[donor] * peak))
    nuisance = poisson.make_nuisance(z)
    labels = np.array([f"donor {d}" for d in donor])
    boot = bootstrap_distribution(counts, peak[:, None], nuisance, clusters=labels)
    _, unit = np.unique(labels, return_inverse=True)
    assert_is_distribution_of(boot, resampled(counts, peak[:, None], nuisance, np.ones(1), unit=unit))
    cells = bootstrap_distribution(counts, peak[:, None], nuisance)
    assert boot.first_order_sd > 1.3 * cells.first_order_sd


def test_bootstrap_distribution__one_cell_per_cluster_is_the_same_as_none():
    counts, peak, nuisance = pair(4)
    one = bootstrap_distribution(counts, peak, nuisance)
    other = bootstrap_distribution(counts, peak, nuisance, clusters=np.random.default_rng(0).permutation(len(counts)))
    assert one.p_basic() == pytest.approx(other.p_basic(), rel=1e-9)


def test_quantile__inverts_the_tail():
    boot = bootstrap_distribution(*pair(5))
    for level in (1e-6, 0.025, 0.3, 0.5, 0.9, 1 - 1e-4):
        assert 1 - boot.upper_tail(boot.quantile(level)) == pytest.approx(level, rel=1e-7)


def test_interval__kinds_are_what_their_names_say():
    counts, peak, nuisance = pair(6)
    boot = bootstrap_distribution(counts, peak, nuisance)
    values = resampled(counts, peak, nuisance, np.ones(1))
    low, high = np.quantile(values, [0.025, 0.975])
    tolerance = 4 * np.sqrt(0.025 * 0.975 / R) / norm.pdf(1.96) * boot.first_order_sd  # of a sample quantile
    np.testing.assert_allclose(boot.interval(0.95, "percentile"), [low, high], atol=tolerance)
    np.testing.assert_allclose(
        boot.interval(0.95, "basic"), [2 * boot.estimate - high, 2 * boot.estimate - low], atol=tolerance
    )
    # BCa of Efron (1987) from the resamples and jackknife values, which differ from influence values by 1/n
    z0 = norm.ppf((values < boot.estimate).mean())
    jackknife = []
    for i in range(len(counts)):
        keep = np.arange(len(counts)) != i
        part = poisson.make_nuisance(nuisance.z[keep])
        jackknife.append(poisson.fit_prepared(counts[keep], peak[keep], part).coefficients[-1])
    away = np.mean(jackknife) - np.array(jackknife)
    a = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    ends = [z0 + (z0 + end) / (1 - a * (z0 + end)) for end in (-1.959964, 1.959964)]
    want = np.quantile(values, norm.cdf(ends))
    np.testing.assert_allclose(boot.interval(0.95, "bca"), want, atol=2.5 * tolerance)  # z0 has its own error


def test_p_basic__with_a_null_is_where_the_basic_interval_ends():
    boot = bootstrap_distribution(*pair(7))
    low, high = boot.interval(0.95, "basic")
    assert boot.p_basic(null=low) == pytest.approx(0.05, rel=1e-6)
    assert boot.p_basic(null=high) == pytest.approx(0.05, rel=1e-6)
    assert boot.p_basic(null=boot.estimate) > 0.9


def test_derivatives__are_those_of_k():
    counts, peak, nuisance = pair(8, n=60)
    sample = bootstrap_distribution(counts, peak, nuisance, clusters=np.arange(60) // 3).sample
    rng = np.random.default_rng(0)
    p = sample.design.shape[1]
    tau, theta = 0.02 * rng.normal(size=p), 0.2 * rng.normal(size=p)
    d = derivatives(sample, tau, theta)
    for j in range(p):
        h = 1e-5 * np.eye(p)[j]
        up, down = derivatives(sample, tau + h, theta), derivatives(sample, tau - h, theta)
        assert (up.k - down.k) / 2e-5 == pytest.approx(d.tau[j], rel=1e-5, abs=1e-6)
        np.testing.assert_allclose((up.tau - down.tau) / 2e-5, d.tau_tau[j], rtol=1e-4, atol=1e-5)
        up, down = derivatives(sample, tau, theta + h), derivatives(sample, tau, theta - h)
        assert (up.k - down.k) / 2e-5 == pytest.approx(d.theta[j], rel=1e-5, abs=1e-6)
        np.testing.assert_allclose((up.tau - down.tau) / 2e-5, d.tau_theta[:, j], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose((up.theta - down.theta) / 2e-5, d.theta_theta[j], rtol=1e-4, atol=1e-5)


def test_bootstrap_distribution__says_what_is_wrong():
    counts, peak, nuisance = pair()
    with pytest.raises(ValueError, match=r"contrast has shape \(2,\), want \(1,\) and not all zero"):
        bootstrap_distribution(counts, peak, nuisance, contrast=np.ones(2))
    with pytest.raises(NoSaddleError, match="3 units are too few"):
        bootstrap_distribution(counts, peak, nuisance, clusters=np.arange(300) % 3)
    boot = bootstrap_distribution(counts, peak, nuisance)
    with pytest.raises(NoSaddleError, match="no saddle at 50"):
        boot.saddle(50.0)
    assert repr(boot).startswith("BootstrapDistribution(estimate=")
