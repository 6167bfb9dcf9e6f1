"""Graph layers against their equations, written out bin by bin or with dense matrices."""

import numpy as np
import pytest

from enhancer_dask.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data  # noqa: E402
from torch_geometric.nn import GeneralConv  # noqa: E402

from enhancer_dask.models.layers import KINDS, edge_weight, graph_layer  # noqa: E402

N, C_IN, C_OUT = 7, 5, 6
# an edge twice, a bin to itself, bin 5 hears of no other, bin 6 is alone
EDGES = torch.tensor([[1, 2, 2, 3, 0, 4, 3, 5], [0, 0, 0, 1, 2, 3, 3, 4]])
ATTENTION = ("graphreg", "general", "gat", "gatv2")


@pytest.fixture
def x():
    return torch.randn(N, C_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights():
    return torch.rand(EDGES.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1


def make(kind, **options):
    torch.manual_seed(4)
    layer = graph_layer(kind, C_IN, C_OUT, **options).double()
    for parameter in layer.parameters():  # biases that start at zero would hide mistakes
        torch.nn.init.normal_(parameter)
    return layer.eval()


def dense(values, edges=EDGES, n=N):
    """Matrix (target, source); edges that are listed twice add up."""
    matrix = np.zeros((n, n))
    np.add.at(matrix, (edges[1].numpy(), edges[0].numpy()), values.numpy())
    return matrix


def leaky(values):
    return np.where(values > 0, values, 0.2 * values)


def arrays(layer):
    return {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}


def close(found, want):
    np.testing.assert_allclose(found.detach().numpy(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("heads", "shared"), [(1, False), (3, False), (2, True)])
def test_graphreg__is_its_masked_dense_formula(x, weights, heads, shared, weighted):
    layer = make("graphreg", heads=heads, shared_kernel=shared)
    out, gates = layer(x, EDGES, weights if weighted else None)
    adjacency = dense(weights if weighted else torch.ones_like(weights))
    p, features, attentions = arrays(layer), [], []
    for head in range(heads):
        own = x.numpy() @ p["kernel_self"][head]
        other = own if shared else x.numpy() @ p["kernel_neighbour"][head]
        score = (own @ p["score_self"][head])[:, None] + (other @ p["score_neighbour"][head])[None, :]
        e = adjacency / (1 + np.exp(-leaky(score)))
        total = 1 + e.sum(1, keepdims=True)
        features.append(own / total + (e / total) @ other)
        attentions.append(e / total)
    close(out, np.concatenate(features, axis=1))
    close(out[6], np.concatenate([x.numpy()[6] @ kernel for kernel in p["kernel_self"]]))  # alone: all for itself
    for head, want in enumerate(attentions):
        np.testing.assert_allclose(dense(gates.detach()[:, head]), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [C_IN, C_OUT])
def test_general__is_general_conv_of_pyg(width, weighted):
    x = torch.randn(N, C_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.linspace(-1, 1, EDGES.shape[1], dtype=torch.float64)[:, None] if weighted else None
    torch.manual_seed(3)
    layer = graph_layer("general", C_IN, width, edge_dim=1 if weighted else None).double()
    theirs = GeneralConv(C_IN, width, in_edge_channels=1 if weighted else None, attention=True).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        theirs.lin_msg.weight.copy_(layer.message.weight)
        theirs.lin_msg.bias.copy_(layer.message.bias)
        theirs.att_msg.copy_(layer.score[None])
        if weighted:
            theirs.lin_edge.weight.copy_(layer.edge[:, None])
            theirs.lin_edge.bias.zero_()
        if width != C_IN:
            theirs.lin_self.weight.copy_(layer.keep.weight)
            theirs.lin_self.bias.zero_()
    out, attention = layer(x, EDGES, None if weight is None else weight[:, 0])
    close(out, theirs(x, EDGES, edge_attr=weight).detach().numpy())
    np.testing.assert_allclose(dense(attention.detach()[:, 0]).sum(1), [1, 1, 1, 1, 1, 0, 0], rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gcn__is_its_dense_formula(x, weights, weighted):
    layer = make("gcn")
    w = weights if weighted else torch.ones_like(weights)
    out, gates = layer(x, EDGES, w if weighted else None)
    matrix = dense(w)
    matrix[np.arange(N), np.arange(N)] = np.where(np.diag(matrix) > 0, np.diag(matrix), 1.0)
    root = np.sqrt(matrix.sum(1))
    want = matrix / root[:, None] / root[None, :]
    p = arrays(layer)
    close(out, want @ x.numpy() @ p["conv.lin.weight"].T + p["conv.bias"])
    source, target = EDGES.numpy()
    close(gates[:, 0], w.numpy() / root[target] / root[source])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_aggregate__is_its_dense_formula(x, weights, kind, shared, weighted):
    layer = make(kind, shared_kernel=shared)
    weights = weights * torch.tensor([1, -1] * 4)
    w = weights if weighted else torch.ones_like(weights)
    out, gates = layer(x, EDGES, w if weighted else None)
    matrix = dense(w)
    if kind == "mean":
        matrix /= np.maximum(dense(torch.ones_like(w)).sum(1, keepdims=True), 1)
    p = arrays(layer)
    if shared:
        want = (x.numpy() + matrix @ x.numpy()) @ p["linear.weight"].T + p["linear.bias"]
    else:
        want = matrix @ x.numpy() @ p["conv.lin_rel.weight"].T + p["conv.lin_rel.bias"]
        want += x.numpy() @ p["conv.lin_root.weight"].T
    close(out, want)
    np.testing.assert_allclose(dense(gates.detach()[:, 0]), matrix, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "shared"), [("gat", True), ("gatv2", True), ("gatv2", False)])
def test_gat__is_a_softmax_over_contacts_and_self(x, weights, kind, shared, weighted):
    heads, width = 2, C_OUT // 2
    layer = make(kind, heads=heads, shared_kernel=shared, edge_dim=1 if weighted else None)
    out, gates = layer(x, EDGES, weights if weighted else None)
    p = {name.removeprefix("conv."): values for name, values in arrays(layer).items()}

    def project(name, bias=None):
        values = x.numpy() @ p[name].T + (0 if bias is None else p[bias])
        return values.reshape(N, heads, width)

    if kind == "gat":
        of_source = of_target = project("lin.weight")
    else:
        of_source = project("lin_l.weight", "lin_l.bias")
        of_target = of_source if shared else project("lin_r.weight", "lin_r.bias")

    def score(i, j, weight):
        of_edge = (weight * p["lin_edge.weight"][:, 0]).reshape(heads, width) if weighted else np.zeros((heads, width))
        if kind == "gatv2":
            return (p["att"][0] * leaky(of_target[i] + of_source[j] + of_edge)).sum(-1)
        total = (p["att_dst"][0] * of_target[i]).sum(-1) + (p["att_src"][0] * of_source[j]).sum(-1)
        return leaky(total + ((p["att_edge"][0] * of_edge).sum(-1) if weighted else 0))

    edges = list(zip(*EDGES.tolist(), weights.tolist(), strict=True))
    for i in range(N):
        mine = [(k, s, w) for k, (s, t, w) in enumerate(edges) if t == i and s != t]
        own = [k for k, (s, t, _) in enumerate(edges) if s == t == i]
        to_self = np.mean([w for *_, w in mine]) if mine else 0.0
        scores = np.array([score(i, s, w) for _, s, w in mine] + [score(i, i, to_self)])
        share = np.exp(scores) / np.exp(scores).sum(0)
        values = np.stack([of_source[s] for _, s, _ in mine] + [of_source[i]])
        close(out[i], (share[..., None] * values).sum(0).reshape(-1) + p["bias"])
        for (k, *_), want in zip(mine, share, strict=False):
            close(gates[k], want)
        for k in own:
            close(gates[k], share[-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_graph_layer__does_not_depend_on_the_order_of_edges_and_bins(x, weights, kind, weighted):
    layer = make(kind, heads=2 if kind in ATTENTION else 1, edge_dim=1 if weighted else None)
    w = weights if weighted else None
    out, gates = layer(x, EDGES, w)
    generator = torch.Generator().manual_seed(0)
    order, bins = torch.randperm(EDGES.shape[1], generator=generator), torch.randperm(N, generator=generator)
    again, gates_again = layer(x, EDGES[:, order], None if w is None else w[order])
    close(again, out.detach())
    close(gates_again, gates.detach()[order])
    place = torch.argsort(bins)  # where each bin has gone
    moved, gates_moved = layer(x[bins], place[EDGES], w)
    close(moved, out.detach()[bins])
    close(gates_moved, gates.detach())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_graph_layer__gradients_reach_every_parameter(x, weights, kind, shared):
    layer = make(kind, edge_dim=1, shared_kernel=shared, heads=2 if kind in ATTENTION else 1).train()
    out, _ = layer(x, EDGES, weights)
    (out**2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_graph_layer__without_edges_each_bin_is_by_itself(x, kind):
    layer = make(kind)
    none = torch.empty(2, 0, dtype=torch.int64)
    out, gates = layer(x, none)
    assert tuple(gates.shape) == (0, 1)
    alone = torch.cat([layer(x[i : i + 1], none)[0] for i in range(N)])
    close(out, alone.detach())
    close(layer(x, EDGES)[0][6], out[6].detach())  # a bin without contacts beside others with some


@pytest.mark.parametrize("kind", ["graphreg", "gcn", "sum"])
def test_graph_layer__an_edge_twice_is_one_of_twice_the_weight(x, kind):
    layer = make(kind)
    twice = layer(x, torch.tensor([[1, 1], [0, 0]]))[0]
    close(twice, layer(x, torch.tensor([[1], [0]]), torch.tensor([2.0], dtype=torch.float64))[0].detach())


@pytest.mark.parametrize("kind", ["graphreg", "gcn", "mean", "sum"])
def test_graph_layer__weights_of_one_are_the_binary_form(x, kind):
    layer = make(kind)
    ones = torch.ones(EDGES.shape[1], dtype=torch.float64)
    close(layer(x, EDGES, ones)[0], layer(x, EDGES)[0].detach())


@pytest.mark.parametrize("kind", KINDS)
def test_graph_layer__dropout_acts_in_training_only(x, kind):
    layer, without = make(kind, dropout=0.5), make(kind)
    close(layer(x, EDGES)[0], without(x, EDGES)[0].detach())
    torch.manual_seed(0)
    assert not torch.allclose(layer.train()(x, EDGES)[0], without(x, EDGES)[0])


def test_graphreg__half_precision_sums_in_full(x):
    layer = make("graphreg").float()
    source = torch.randint(0, N, (5000,), generator=torch.Generator().manual_seed(0))
    edges = torch.stack([source, torch.zeros_like(source)])
    with torch.autocast("cpu", torch.bfloat16):
        _, gates = layer(x.float(), edges)
    assert gates.dtype == torch.float32
    full = layer(x.float(), edges)[1]
    assert abs(gates.sum().item() - full.sum().item()) < 1e-2  # bfloat16 stops counting at 256


@pytest.mark.parametrize("kind", ["graphreg", "gcn"])
def test_graph_layer__negative_weights(x, weights, kind):
    with pytest.raises(InputError, match=f"edge weights go down to -1; graph '{kind}' wants none below 0"):
        make(kind)(x, EDGES, torch.full_like(weights, -1))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gin", {}, "graph is 'gin', want one of graphreg, general, gcn, gat, gatv2, mean, sum"),
        ("gat", {"heads": 4}, "heads is 4, want a divisor of the 6 channels"),
        ("gat", {"heads": 0}, "heads is 0, want a divisor"),
        ("sum", {"heads": 2}, "heads is 2, but graph 'sum' has no attention"),
        ("gat", {"edge_dim": 3}, "edge_dim is 3, want 1"),
    ],
)
def test_graph_layer__wrong_options(kind, options, message):
    with pytest.raises(InputError, match=message):
        graph_layer(kind, C_IN, C_OUT, **options)


def test_edge_weight__is_looked_up_by_name():
    data = Data(edge_index=EDGES, num_nodes=N, edge_attr=torch.rand(8, 2), edge_attr_names=("count", "oe"))
    for batch in (data, Batch.from_data_list([data, data])):
        assert torch.equal(edge_weight(batch, "oe"), batch.edge_attr[:, 1])
        assert edge_weight(batch, None) is None
        with pytest.raises(InputError, match="edge_weight is 'fdr', but the edges have count, oe"):
            edge_weight(batch, "fdr")
    with pytest.raises(InputError, match="edge_weight is 'oe', but the edges have no weights"):
        edge_weight(Data(edge_index=EDGES, num_nodes=N), "oe")
