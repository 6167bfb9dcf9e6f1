"""Units of a model: against sums done by hand, and what they are there for."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data  # noqa: E402

from enhancer_dask.models.scales import FEW, Scales  # noqa: E402

REACH = 2
NAMES = ("signal", "weight", "linked", "crowd", "audience", "base", "spread", "floor")


def graph(n, n_edges, seed, *, masked=False):
    rng = np.random.default_rng(seed)
    edges = torch.from_numpy(rng.integers(0, n, (2, n_edges)))
    data = Data(
        x=torch.from_numpy(rng.gamma(1.0, [3.0, 0.2], (n, 2)).astype(np.float32)), edge_index=edges, num_nodes=n,
        y=torch.from_numpy(rng.gamma(2.0, 5.0, n).astype(np.float32)), edge_attr_names=("oe",),
        edge_attr=torch.from_numpy(rng.random((n_edges, 1)).astype(np.float32)),
    )  # fmt: skip
    if masked:
        data.loss_mask = torch.from_numpy(rng.random(n) < 0.7)
        data.y[~data.loss_mask] = torch.nan
    return data


def learnt(graphs, edge_weight="oe"):
    scales = Scales(2)
    scales.learn(graphs, lambda batch: batch.x, REACH, edge_weight)
    return {name: getattr(scales, name).numpy().astype(float) for name in NAMES}


def by_hand(graphs):
    """The definitions, edge by edge; duplicate edges count twice."""
    x = np.concatenate([g.x.numpy() for g in graphs]).astype(float)
    weight = np.concatenate([g.edge_attr.numpy() for g in graphs]).astype(float)
    unit = np.sqrt((x**2).mean(0))
    brought, y, crowd, audience = [], [], [], []
    for g in graphs:
        there, (source, target), n = np.zeros(g.num_nodes), g.edge_index.numpy(), g.num_nodes
        for r, t in zip(source, target, strict=True):
            crowd.append((target == t).sum())
            audience.append((source == r).sum())
            for o in range(-REACH, REACH + 1):
                if 0 <= r + o < n and 0 <= t + o < n:
                    there[t + o] += (g.x.numpy()[r + o] / unit).sum()
        mask = g.loss_mask.numpy() if "loss_mask" in g else np.ones(n, bool)
        brought.append(there[mask])
        y.append(g.y.numpy().astype(float)[mask])
    y, brought = np.concatenate(y), np.concatenate(brought)
    return {
        "signal": unit, "weight": np.sqrt((weight**2).mean()), "linked": np.sqrt((brought**2).mean()),
        "crowd": np.mean(crowd) / FEW, "audience": np.mean(audience) / FEW, "base": y.mean(), "spread": y.std(),
        "floor": max(-1.0, (y.min() - y.mean()) / y.std()),
    }  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_learn__is_its_definitions_however_graphs_are_batched(masked):
    graphs = [graph(12, 30, 1, masked=masked), graph(7, 9, 2, masked=masked), graph(3, 0, 3, masked=masked)]
    want = by_hand(graphs)
    for batches in (graphs, [Batch.from_data_list(graphs)], [Batch.from_data_list(graphs[:2]), graphs[2]]):
        found = learnt(batches)
        for name in NAMES:
            np.testing.assert_allclose(found[name], want[name], rtol=1e-6, err_msg=name)


def test_learn__units_follow_what_is_measured():
    graphs = [graph(12, 30, 1), graph(7, 9, 2)]
    before = learnt(graphs)
    for g in graphs:
        g.x, g.y, g.edge_attr = g.x * 100, g.y * 10 - 3, g.edge_attr * 7
    after = learnt(graphs)
    want = {"signal": before["signal"] * 100, "weight": before["weight"] * 7, "base": before["base"] * 10 - 3,
            "spread": before["spread"] * 10}  # fmt: skip
    for name in NAMES:
        np.testing.assert_allclose(after[name], want.get(name, before[name]), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("what", ["no edges", "all zero", "constant", "not finite"])
def test_learn__what_cannot_be_a_unit_stays_one(what):
    data = graph(9, 0 if what == "no edges" else 12, 4)
    if what == "all zero":
        data.x, data.y, data.edge_attr = data.x * 0, data.y * 0, data.edge_attr * 0
    if what == "constant":
        data.y = torch.full_like(data.y, 2.0)
    if what == "not finite":
        data.x[2, 1], data.y[3] = torch.nan, torch.inf
    found = learnt([data])
    assert all(
        np.isfinite(value).all() and (value != 0).all()
        for name, value in found.items()
        if name not in ("base", "floor")
    )
    ones = {
        "no edges": ("weight", "linked", "crowd", "audience"), "all zero": ("signal", "weight", "linked", "spread"),
        "constant": ("spread",), "not finite": ("linked", "spread"),
    }[what]  # fmt: skip
    assert all(found[name].tolist() == np.ones_like(found[name]).tolist() for name in ones)
