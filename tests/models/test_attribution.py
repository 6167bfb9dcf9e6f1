"""Contributions against what a model is known to do: linear ones exactly, others by completeness and by rerunning."""

import numpy as np
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import Graph, sorted_edges

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch  # noqa: E402

from enhancer_dask.models.attribution import (  # noqa: E402
    GRADIENT_METHODS,
    attribute,
    attribute_channels,
    path_points,
)
from enhancer_dask.models.data import one_hot, to_data  # noqa: E402
from enhancer_dask.models.deletion import deletion, knock_out, mutagenesis  # noqa: E402
from enhancer_dask.models.registry import Expression  # noqa: E402

N, F = 12, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # single precision


class Linked(Expression):
    """Sum of what stands in linked bins, after a function."""

    def __init__(self, after=lambda values: values):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(F, generator=torch.Generator().manual_seed(0)))
        self.after = after

    def forward(self, batch):
        source, target = batch.edge_index
        message = (batch.x @ self.weight)[source]
        return self.after(torch.zeros(len(batch.x)).index_add(0, target, message))


class Nonlinear(Expression):
    """Linked and own bins, in products, with dropout that must be off."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.hidden = torch.nn.Linear(2 * F, 8)
        self.out = torch.nn.Linear(8, 1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, batch):
        source, target = batch.edge_index
        far = torch.zeros_like(batch.x).index_add(0, target, batch.x[source])
        hidden = torch.tanh(self.hidden(torch.cat([batch.x, far], dim=1)))
        return torch.exp(self.out(self.dropout(hidden)).squeeze(1))


class Tracks(Expression):
    """Two tracks in finer bins."""

    def inputs(self, batch):
        return {"dnase": batch.dnase, "h3k27ac": batch.h3k27ac}

    def forward(self, batch):
        return batch.dnase.sum(dim=1) + 2 * batch.h3k27ac[:, 0]


class Motif(Expression):
    """Counts letters, and AC where it stands, of linked bins."""

    def __init__(self, letters=(1.0, 2.0, -1.0, 0.5), pair=3.0):
        super().__init__()
        self.letters, self.pair = torch.tensor(letters), pair

    def inputs(self, batch):
        sequence = batch.sequence
        return {"sequence": sequence if sequence.is_floating_point() else one_hot(sequence)}

    def forward(self, batch):
        sequence = self.inputs(batch)["sequence"]
        value = torch.einsum("ncl,c->n", sequence, self.letters)
        value = value + self.pair * (sequence[:, 0, :-1] * sequence[:, 1, 1:]).sum(dim=1)
        source, target = batch.edge_index
        return torch.zeros(len(value)).index_add(0, target, value[source])


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(5)
    linked = rng.choice(N * N, 30, replace=False)
    source, target, edges = sorted_edges(linked // N, linked % N, {"oe": rng.random(30)})
    nodes = {
        "x": rng.normal(size=(N, F)).astype(np.float32),
        "dnase": rng.random((N, 5)).astype(np.float32),
        "h3k27ac": rng.random((N, 5)).astype(np.float32),
        "sequence": rng.integers(0, 5, (N, 9)).astype(np.uint8),
    }
    return Graph("g", N, source, target, nodes, edges)


@pytest.fixture(scope="module")
def data(graph):
    return to_data(graph)


def predicted(model, data, genes, reach=1):
    """Expression of genes, one forward pass of one graph."""
    with torch.no_grad():
        output = model.eval()(data).double().numpy()
    return np.array([output[max(0, g - reach) : g + reach + 1].sum() for g in genes])


# -- gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_attribute__of_a_linear_model_is_weight_times_input(graph, data, method, reach):
    model, genes = Linked(), [0, 4, N - 1]
    adjacency = np.zeros((N, N))
    np.add.at(adjacency, (graph.target, graph.source), 1.0)
    value = graph.nodes["x"].astype(float) @ model.weight.detach().double().numpy()
    want = [adjacency[max(0, g - reach) : g + reach + 1].sum(axis=0) * value for g in genes]
    np.testing.assert_allclose(attribute(model, data, genes, method=method, reach=reach), want, **CLOSE)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_attribute__is_zero_at_bins_without_an_edge_to_the_gene(graph, data, method):
    model = Linked(after=torch.nn.functional.softplus)
    found = attribute(model, data, np.arange(N), method=method, reach=0, n_steps=5, n_samples=5)
    linked = np.zeros((N, N), dtype=bool)
    linked[graph.target, graph.source] = True
    assert (found[~linked] == 0).all()
    assert (found[linked] != 0).all()


@pytest.mark.parametrize("baseline", ["zero", "median"])
def test_attribute__integrated_gradients_are_complete(data, baseline):
    model, genes = Nonlinear(), [2, 7]
    found = attribute(model, data, genes, method="integrated-gradients", baseline=baseline)
    empty = data.clone()
    empty.x = torch.zeros_like(data.x) if baseline == "zero" else data.x.median(dim=0).values.expand_as(data.x)
    want = predicted(model, data, genes) - predicted(model, empty, genes)
    assert np.abs(want).min() > 0.01
    np.testing.assert_allclose(found.sum(axis=1), want, **CLOSE)


def test_attribute__equals_captum(data):
    captum = pytest.importorskip("captum.attr")
    model = Nonlinear().eval()

    def forward(x, gene):  # x: (copies, N, F)
        copies = Batch.from_data_list([data] * len(x))
        copies.x = x.flatten(0, 1)
        return model(copies).view(len(x), -1)[:, gene - 1 : gene + 2].sum(dim=1)

    genes = [3, 9]
    for method, tool in (
        ("integrated-gradients", captum.IntegratedGradients(forward)),
        ("gradient-x-input", captum.InputXGradient(forward)),
    ):
        found = attribute_channels(model, data, genes, method=method)["x"]
        for row, gene in enumerate(genes):
            want = (
                tool.attribute(data.x[None].clone().requires_grad_(), additional_forward_args=gene).detach().numpy()[0]
            )
            np.testing.assert_allclose(found[row], want, **CLOSE)


def test_attribute__shap_is_the_mean_over_its_points_and_near_the_integral(data):
    model, genes = Nonlinear(), [2, 7]
    found = attribute(model, data, genes, method="shap", n_samples=400, seed=3)
    points, weights = path_points("shap", 1, 400, 3)
    want = np.zeros((2, N))
    for point, weight in zip(points, weights, strict=True):
        x = (float(point) * data.x).requires_grad_()
        here = data.clone()
        here.x = x
        output = model.eval()(here)
        for row, gene in enumerate(genes):
            (gradient,) = torch.autograd.grad(output[gene - 1 : gene + 2].sum(), x, retain_graph=True)
            want[row] += weight * (gradient * data.x).sum(dim=1).numpy()
    np.testing.assert_allclose(found, want, **CLOSE)
    whole = attribute(model, data, genes, method="integrated-gradients")
    # a mean of 400 uniform draws: 3 standard errors of what varies by its own size are 15%
    np.testing.assert_allclose(found, whole, rtol=0, atol=0.15 * np.abs(whole).max())
    np.testing.assert_array_equal(found, attribute(model, data, genes, method="shap", n_samples=400, seed=3))
    assert not np.array_equal(found, attribute(model, data, genes, method="shap", n_samples=400, seed=4))


@pytest.mark.parametrize("method", GRADIENT_METHODS[1:])
def test_attribute__does_not_depend_on_how_many_copies_go_together(data, method):
    found = [attribute(Nonlinear(), data, [5], method=method, n_steps=7, n_samples=7, copies=c) for c in (1, 3, 50)]
    np.testing.assert_allclose(found[0], found[1], **CLOSE)
    np.testing.assert_allclose(found[0], found[2], **CLOSE)


def test_attribute__leaves_model_and_graph_as_they_were(data):
    model = Nonlinear().train()
    model.dropout.eval()
    before = data.x.clone()
    attribute(model, data, [5])
    deletion(model, data, [5])
    assert (model.training, model.dropout.training, model.hidden.training) == (True, False, True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(data.x, before)
    assert not data.x.requires_grad


def test_attribute__of_a_constant_is_zero(data):
    class Constant(Expression):
        def forward(self, batch):
            return torch.ones(batch.num_nodes)

    assert (attribute(Constant(), data, [1, 2]) == 0).all()
    assert attribute(Linked(), data, np.zeros(0, dtype=int)).shape == (0, N)


def test_attribute_channels__sum_to_those_of_bins(data):
    model, genes = Tracks(), [0, 6]
    channels = attribute_channels(model, data, genes)
    assert {name: values.shape for name, values in channels.items()} == {"dnase": (2, N, 5), "h3k27ac": (2, N, 5)}
    whole = attribute(model, data, genes)
    np.testing.assert_allclose(sum(values.sum(axis=2) for values in channels.values()), whole, **CLOSE)
    fine = sum(channels.values())
    want = data.dnase.numpy().copy()
    want[:, 0] += 2 * data.h3k27ac.numpy()[:, 0]
    np.testing.assert_allclose(fine[1, 5:8], want[5:8], **CLOSE)
    assert (fine[1, :5] == 0).all()


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_path_points__weights_sum_to_one(method):
    points, weights = path_points(method, 20, 30, 0)
    assert weights.sum() == pytest.approx(1)
    assert ((points >= 0) & (points <= 1)).all()


# -- deletion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize("mode", ["features", "edges", "both"])
@pytest.mark.parametrize("baseline", ["zero", "median"])
def test_deletion__equals_a_rerun_on_changed_data(data, mode, width, baseline):
    model, genes, bins = Nonlinear(), [0, 3, 8], [0, 5, N - 1, 5]
    found = deletion(model, data, genes, bins, mode=mode, width=width, baseline=baseline, copies=3)
    fill = 0.0 if baseline == "zero" else data.x.median(dim=0).values
    for column, bin_ in enumerate(bins):
        changed, gone = data.clone(), list(range(max(0, bin_ - width), min(N, bin_ + width + 1)))
        if mode != "edges":
            changed.x[gone] = fill
        if mode != "features":
            kept = [e for e, (s, t) in enumerate(data.edge_index.T.tolist()) if s not in gone and t not in gone]
            assert 0 < len(kept) < data.edge_index.shape[1]
            changed.edge_index, changed.edge_attr = data.edge_index[:, kept], data.edge_attr[kept]
        want = predicted(model, changed, genes) - predicted(model, data, genes)
        np.testing.assert_allclose(found[:, column], want, rtol=1e-4, atol=1e-5)
    assert np.abs(found).max() > 0.1


def test_deletion__of_every_bin_of_a_linear_model_is_minus_its_contributions(data):
    model, genes = Linked(), [1, 6]
    np.testing.assert_allclose(-deletion(model, data, genes), attribute(model, data, genes), rtol=1e-4, atol=1e-5)


# -- sequence --------------------------------------------------------------------------------------------------


def test_mutagenesis__equals_a_rerun_for_each_letter(data):
    model, node, (start, stop) = Motif(), int(data.edge_index[0, 4]), (2, 7)
    genes = [int(data.edge_index[1, 4]), 0]
    found = mutagenesis(model, data, node, (start, stop), genes, copies=4)
    assert found.shape == (2, 5, 4)
    for place in range(start, stop):
        for letter in range(4):
            changed = data.clone()
            changed.sequence[node, place] = letter
            want = predicted(model, changed, genes) - predicted(model, data, genes)
            np.testing.assert_allclose(found[:, place - start, letter], want, **CLOSE)
    assert np.abs(found[0]).max() > 0.4
    there = data.sequence[node, start:stop].numpy()
    known = there < 4
    assert (found[:, np.flatnonzero(known), there[known]] == 0).all()


def test_knock_out__equals_a_rerun_and_shuffles_keep_the_letters(data):
    node, genes, windows = int(data.edge_index[0, 4]), [int(data.edge_index[1, 4])], [(0, 3), (2, 9)]
    found = knock_out(Motif(), data, node, windows, genes)
    for column, (start, stop) in enumerate(windows):
        changed = data.clone()
        changed.sequence[node, start:stop] = 4
        want = predicted(Motif(), changed, genes) - predicted(Motif(), data, genes)
        np.testing.assert_allclose(found[:, column], want, **CLOSE)
    composition = Motif(pair=0.0)
    assert np.abs(knock_out(composition, data, node, windows, genes)).max() > 0.4
    np.testing.assert_allclose(knock_out(composition, data, node, windows, genes, fill="shuffle"), 0, atol=1e-5)
    ordered = Motif(letters=(0.0, 0.0, 0.0, 0.0))
    acac = data.clone()
    acac.sequence[node] = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 4], dtype=torch.uint8)
    n_links = int(((data.edge_index[0] == node) & ((data.edge_index[1] - genes[0]).abs() <= 1)).sum())
    lost = knock_out(ordered, acac, node, [(0, 8)], genes, fill="shuffle", n_shuffles=200)
    # of 8 letters, half A, half C: 7 places, each AC with chance 4/8 * 4/7, so 2 of 4 remain; standard error 0.2
    assert lost[0, 0] == pytest.approx(-3.0 * 2 * n_links, abs=0.6 * n_links)


# -- what is wrong is named ------------------------------------------------------------------------------------


def test_attribution__errors_name_what_is_wrong(data):
    model = Linked()
    with pytest.raises(InputError, match="gene node 12 is not in the graph of 12 nodes"):
        attribute(model, data, [12])
    with pytest.raises(InputError, match="gene nodes are float64, want whole numbers"):
        attribute(model, data, [0.5])
    with pytest.raises(InputError, match="2 graphs in one batch"):
        attribute(model, Batch.from_data_list([data, data]), [0])
    with pytest.raises(InputError, match="method is 'saliency', want one of gradient-x-input"):
        attribute(model, data, [0], method="saliency")
    with pytest.raises(InputError, match="baseline is 'mean', want one of zero, median"):
        attribute(model, data, [0], method="shap", baseline="mean")
    with pytest.raises(InputError, match="n_steps is 0"):
        attribute(model, data, [0], method="integrated-gradients", n_steps=0)
    with pytest.raises(InputError, match="mode is 'nodes', want one of features"):
        deletion(model, data, [0], mode="nodes")
    with pytest.raises(InputError, match="deleted node -1 is not in the graph"):
        deletion(model, data, [0], [-1])
    with pytest.raises(InputError, match=r"reads no sequence, .* it has x \(12, 3\)"):
        mutagenesis(model, data, 0, (0, 3), [0])
    with pytest.raises(InputError, match="window is 5:10, want one within 0:9"):
        mutagenesis(Motif(), data, 0, (5, 10), [0])
    with pytest.raises(InputError, match="fill is 'N'"):
        knock_out(Motif(), data, 0, [(0, 2)], [0], fill="N")
    without = data.clone()
    del without.dnase
    with pytest.raises(InputError, match="graph 'g': the model reads what is not there"):
        attribute(Tracks(), without, [0])
    other = data.clone()
    other.x = other.x[:, :2]
    with pytest.raises(InputError, match="graph 'g' does not fit the model"):
        attribute(model, other, [0])
