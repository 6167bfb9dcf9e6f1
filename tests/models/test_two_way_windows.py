"""Two-way windows against their equations, written out edge by edge; what must not matter, and what must."""

import numpy as np
import pytest

from enhancer_dask.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data  # noqa: E402

from enhancer_dask.models.registry import build, n_parameters  # noqa: E402
from enhancer_dask.models.two_way_windows import TwoWayWindows  # noqa: E402
from enhancer_dask.models.windows import places, put_down, windows  # noqa: E402

# bin 8 regulates two genes, gene 3 has an edge twice, windows of genes 3 and 5 overlap, bins 0 and 12 are at the ends
EDGES = torch.tensor([[8, 8, 9, 9, 0, 12], [3, 5, 3, 3, 5, 1]])
N, F, REACH, R = 13, 2, 2, 3


def graph(n=N, edges=EDGES, seed=0):
    x = torch.rand(n, F, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Data(x=x, edge_index=edges, edge_attr=torch.rand(edges.shape[1], 1).double(), edge_attr_names=("oe",),
                num_nodes=n)  # fmt: skip


def model(edge_weight=None, **options):
    torch.manual_seed(5)
    made = TwoWayWindows(F, REACH, 4, 3, replicas=R, kept=2, edge_weight=edge_weight, **options).double()
    for parameter in made.parameters():  # those that start at 0 would hide mistakes
        torch.nn.init.normal_(parameter, std=0.4)
    for unit in made.scales.buffers():  # those that are 1 would, too
        torch.nn.init.uniform_(unit, 0.5, 2.0)
    return made


def silu(v):
    return v / (1 + np.exp(-v))


def by_hand(made, data, r):
    """The equations of the docstring for replica r: prediction, gates."""
    p = {name: q.detach().numpy() for name, q in made.named_parameters()}
    unit = {name: q.numpy() for name, q in made.scales.named_buffers()}
    width, x = 2 * REACH + 1, data.x.numpy() / unit["signal"]
    weight = data.edge_attr[:, 0].numpy() / unit["weight"] if made.edge_weight else np.zeros(data.num_edges)
    shift, stretch = (p["shift"][r], p["stretch"][r]) if made.edge_weight else (0.0, 0.0)
    padded = np.pad(x, ((REACH, REACH), (0, 0)))
    window = np.stack([padded[i : i + width].T for i in range(len(x))])  # (N, F, W)
    source, target = data.edge_index.numpy()

    def own_state(i):
        both = [window[i].ravel(), window[i][:, ::-1].ravel()]
        degree = np.log((source == i).sum()) * p["encoder_degree"][:, r]
        hidden = np.mean([silu(w @ p["encoder"][:, :, r] + degree + p["encoder_bias"][:, r]) for w in both], axis=0)
        return hidden @ p["state"][:, r] + p["state_bias"][r]

    first = {i: own_state(i) for i in set(source)}
    state, told = dict(first), np.zeros(len(source))
    for _ in range(made.rounds):
        gate = np.tanh([state[i] + shift * w - m for i, w, m in zip(source, weight, told, strict=True)])
        new, told = dict(first), np.zeros(len(source))
        for e, (i, g) in enumerate(zip(source, target, strict=True)):
            others = np.array([gate[k] for k in range(len(source)) if target[k] == g and k != e])
            said, doubt = others.sum() / unit["crowd"], (1 - others**2).sum() / unit["crowd"]
            heard = np.array([said, gate[e], doubt, np.log((target == g).sum())])
            reply = silu(heard @ p["message"][r] + p["message_bias"][r]) @ p["reply"][r] + p["reply_bias"][r]
            told[e] = reply / unit["audience"]
            new[i] += told[e]
        state = new
    gate = np.tanh([state[i] + shift * w for i, w in zip(source, weight, strict=True)])
    signal = np.array([w.ravel() @ p["own"][:, r] + p["own_bias"][r] for w in window])
    for e, (i, g) in enumerate(zip(source, target, strict=True)):
        scale = (1 + stretch * weight[e]) / unit["linked"]
        a, b = (p[name][:, r].reshape(F, width) for name in ("gated", "ungated"))
        for o in range(-REACH, REACH + 1):
            if 0 <= g + o < len(x):
                k = o + REACH
                signal[g + o] += scale * sum(window[i, f, k] * (gate[e] * a[f, k] + b[f, k]) for f in range(F))
    risen = (signal + np.sqrt(signal**2 + made.softness**2)) / 2 + p["offset"][r]
    return risen * unit["spread"] + unit["base"], gate


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("weight", [None, "oe"])
def test_predictions__are_the_equations(weight, rounds):
    made, data = model(weight, rounds=rounds), graph()
    found = made.predictions(data).detach().numpy()
    gates = made._gates(made._view(data)).detach().numpy()
    for r in range(R):
        want, gate = by_hand(made, data, r)
        np.testing.assert_allclose(found[r], want, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(gates[:, r], gate, rtol=1e-10, atol=1e-12)


def test_forward__is_the_mean_of_the_best_replicas():
    made, data = model(), graph()
    made.choose(torch.tensor([2.0, float("nan"), 1.0]))
    every = made.predictions(data)
    torch.testing.assert_close(made(data), (every[0] + every[2]) / 2)
    assert int(made.chosen) == 2


def test_forward__ignores_the_order_of_edges_and_takes_equal_edges_as_several():
    made, data = model(), graph()
    shuffled = Data(x=data.x, edge_index=EDGES[:, torch.tensor([4, 2, 0, 5, 3, 1])], num_nodes=N)
    torch.testing.assert_close(made(shuffled), made(data))
    once = Data(x=data.x, edge_index=EDGES[:, [0, 1, 2, 4, 5]], num_nodes=N)
    assert not torch.allclose(made(once), made(data))


def test_forward__batch_equals_graph_by_graph():
    made = model()
    graphs = [graph(13, seed=1), graph(7, torch.empty(2, 0, dtype=torch.int64), seed=2), graph(20, seed=3)]
    alone = torch.cat([made(data) for data in graphs])
    torch.testing.assert_close(made(Batch.from_data_list(graphs)), alone)


def test_forward__without_edges_is_the_own_path():
    made, data = model(), graph(9, torch.empty(2, 0, dtype=torch.int64))
    units = made.scales
    own = windows(data.x / units.signal, places(data, REACH), REACH).flatten(1) @ made.own + made.own_bias
    want = ((own + torch.sqrt(own**2 + made.softness**2)) / 2 + made.offset) * units.spread + units.base
    torch.testing.assert_close(made.predictions(data), want.T)
    assert made.edge_gates(data).shape == (0, 1)


def test_forward__bins_without_edges_do_not_hear_of_distant_ones():
    made, data = model(), graph(60)
    other = data.clone()
    other.x[8] += 1.0
    changed = (made(other) != made(data)).nonzero()[:, 0].tolist()
    near = {*range(6, 11), *range(1, 8)}  # its own window, and those of the genes 3 and 5 that hear of it
    # gates travel on: gene 3 tells bin 9, gene 5 tells bin 0; both regulate these two genes only
    assert set(changed) <= near
    assert {3, 5, 8} <= set(changed)


def of_replicas(name, gradient):
    """Size of the gradient of each replica; most parameters have replicas as the last axis."""
    rows = gradient if name.startswith(("message", "reply")) else gradient.movedim(-1, 0)
    return rows.reshape(R, -1).abs().sum(1)


@pytest.mark.parametrize("weight", [None, "oe"])
def test_gradients__reach_every_parameter(weight):
    made = model(weight)
    made.predictions(graph()).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert (of_replicas(name, parameter.grad) > 0).all(), name


def test_replicas__do_not_meet():
    made = model()
    made.predictions(graph())[1].sum().backward()
    for name, parameter in made.named_parameters():
        assert of_replicas(name, parameter.grad)[[0, 2]].tolist() == [0.0, 0.0], name


@pytest.mark.parametrize("total_steps", [1, 2, 4, 5, 6, 10])
def test_schedule__of_few_steps_ends_at_nothing(total_steps):
    made = model()
    optimiser = torch.optim.AdamW(made.parameters(), lr=0.02)
    schedule, rates = made.schedule(optimiser, total_steps), []
    for _ in range(total_steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(rates) < total_steps:
            schedule.step()
    assert rates[-1] < 1e-6
    assert max(rates) <= 0.02


def test_edge_gates__signs_do_not_depend_on_which_way_a_replica_learnt_them():
    made, data = model(rounds=0), graph()
    before = made.edge_gates(data)
    with torch.no_grad():  # the same function, the other way round
        made.state.neg_()
        made.state_bias.neg_()
        made.gated.neg_()
    torch.testing.assert_close(made.edge_gates(data), before)


def test_build__is_small_and_refuses_nonsense():
    assert n_parameters(build("two-way-windows")) < 300
    with pytest.raises(InputError, match="kept is 9, want 1 to the 6 replicas"):
        build("two-way-windows", kept=9)
    with pytest.raises(InputError, match="reach and rounds want at least 0"):
        build("two-way-windows", reach=-1)
    with pytest.raises(InputError, match="edge_weight is 'fdr', but the edges have oe"):
        model("fdr")(graph())


def test_put_down__is_the_transpose_of_windows():
    data = Batch.from_data_list([graph(6, EDGES[:, :0]), graph(4, EDGES[:, :0], seed=1)])
    at = places(data, REACH)
    values, nodes = torch.rand(3, 2 * REACH + 1, 1).double(), torch.tensor([0, 5, 6])
    x = torch.rand(10, 1).double()
    lhs = (windows(x, at, REACH)[nodes, 0] * values[..., 0]).sum()
    torch.testing.assert_close(lhs, (x[:, 0] * put_down(values, nodes, at, REACH)[:, 0]).sum())
