"""What the intervals and tests of the interaction promise, kept: bench/interaction_study.py says more."""

from __future__ import annotations

import numpy as np
import pytest

import enhancer_dask as ed
from enhancer_dask.stats.bootstrap import Rung

N_PAIRS = 2_000  # standard error of a coverage 0.5%


@pytest.fixture(scope="module", params=["multiplicative", "additive", "synergistic"])
def studied(request):
    """Truth and table of simulated pairs, counts over-dispersed."""
    made = ed.simulate_enhancer_pairs(n_pairs=N_PAIRS, truth=request.param, dispersion=0.5, mean_count=0.8, seed=7)
    table = ed.epistasis(
        made.to_mudata(), made.pairs, p="saddle", ladder=(Rung(200, 0.0),), progress=False, warn=lambda _: None
    )
    return request.param, made.truth, table


def test_epistasis__intervals_hold_the_truth(studied):
    kind, truth, table = studied
    tested = (table["status_interaction"] == "tested").to_numpy()
    assert tested.sum() > 1_950
    within = (table["low_interaction"] <= truth["interaction"]) & (truth["interaction"] <= table["high_interaction"])
    assert 0.93 < within[tested].mean() < 0.97
    wald = np.abs(table["beta_interaction"] - truth["interaction"]) <= 1.96 * table["se_interaction"]
    assert wald[tested].mean() < 0.9  # what it would be without the bootstrap
    if kind == "additive":
        departure = (table["departure_additive_low"] <= 0) & (table["departure_additive_high"] >= 0)
        assert 0.93 < departure[tested & table["departure_additive"].notna()].mean() < 0.97


def test_epistasis__finds_interactions_and_not_too_many(studied):
    truth, _, table = studied
    tested = table["status_interaction"] == "tested"
    below = (table.loc[tested, "p_saddle_interaction"] < 0.05).mean()
    if truth == "multiplicative":
        assert 0.04 < below < 0.06
        assert (table.loc[tested, "p_interaction"] < 0.05).mean() > 0.1  # Wald
        assert not table["verdict"].str.startswith(("super", "sub")).mean() > 0.07
    if truth == "synergistic":
        assert below > 0.5
        assert (table["verdict"] == "super-multiplicative").mean() > 0.5
        assert not (table["verdict"] == "sub-multiplicative").any()
