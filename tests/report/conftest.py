"""Chromosomes, and tables of trainings, for figures of models."""

import numpy as np
import pandas as pd
import pytest
from drawn import N

from enhancer_dask.report.figures import new_axes
from enhancer_dask.simulate.chromosomes import chromosome, preset_design


@pytest.fixture(scope="module")
def graphs():
    design = preset_design("silencers", bins=N, genes=6, enhancers=5, silencers=4)
    return [chromosome(design, "test", number) for number in range(2)]


@pytest.fixture
def predictions(graphs):
    """Two chromosomes, predicted by two models: one that is nearly right, one that is not."""
    rng, parts = np.random.default_rng(3), []
    for graph in graphs:
        y = graph.nodes["y"].astype(float)
        part = pd.DataFrame({"graph": graph.name, "node": np.arange(N), "y": y, "loss_mask": True})
        for kind in ("gene", "enhancer", "silencer"):
            part[f"is_{kind}"] = graph.nodes[f"is_{kind}"]
        part["track_accessibility"] = graph.nodes["x"][:, 0]
        part["prediction_two-way"] = y + rng.normal(0, 0.05, N)
        part["prediction_cnn"] = rng.normal(0.2, 0.1, N)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def edges(graphs):
    return pd.concat(
        [pd.DataFrame({"graph": g.name, "source": g.source, "target": g.target, **g.edges}) for g in graphs],
        ignore_index=True,
    )


@pytest.fixture
def gene(edges):
    return int(edges["target"].iloc[0])


@pytest.fixture
def gates(edges):
    rng = np.random.default_rng(4)
    return edges.assign(**{f"gate_{h}": edges["sign"] * rng.uniform(0.1, 1, len(edges)) for h in (1, 2)})


@pytest.fixture
def ax():
    return new_axes()


@pytest.fixture
def bins():
    return pd.DataFrame({"node": np.arange(2_000)})


@pytest.fixture
def many():
    """20,000 symmetric contacts with weights."""
    rng = np.random.default_rng(5)
    pairs = np.unique(np.sort(rng.integers(0, 2_000, (20_000, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    weight = rng.gamma(1, 1, len(pairs))
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return pd.DataFrame({"source": both[:, 0], "target": both[:, 1], "oe": np.tile(weight, 2)})


@pytest.fixture
def metrics():
    """As a logger writes them: training and validation in lines of their own, validation every second epoch."""
    epoch = np.arange(20)
    train = pd.DataFrame({"epoch": epoch, "step": epoch * 5, "train_loss": 2 * 0.8**epoch + 0.05})
    val = pd.DataFrame({"epoch": epoch[::2], "step": epoch[::2] * 5, "val_loss": (epoch[::2] - 12) ** 2 / 50 + 0.1})
    return pd.concat([train, val], ignore_index=True).sort_values("epoch", kind="stable")


@pytest.fixture
def table():
    """As ``reproduce bell`` writes it, three seeds."""
    means = {
        "cnn": (60_000, 0.7, 0.47, 1.105),
        "ridge": (133, 0.031, 0.154, np.nan),
        "two-way": (2_017, 0.032, 0.08, np.nan),
    }
    rows = [
        {"dataset": d, "model": model, "seed": seed, "parameters": n, "test_mse": value * (1 + seed / 50),
         "roi_mse": value / 3, "floor_mse": floor, "train_s": 3.0, "published_mse": published}
        for model, (n, one, two, published) in means.items()
        for d, value, floor in (("enhancers", one, 0.03), ("silencers", two, 0.021))
        for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def attributions(gene):
    scores = np.random.default_rng(6).normal(size=N)
    return pd.DataFrame({"graph": "test-000000", "gene": gene, "node": np.arange(N), "score": scores})
