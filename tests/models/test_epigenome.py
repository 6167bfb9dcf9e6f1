"""Models of expression from epigenomic signal: per bin (Bell's form) and in bins of 100 bp (GraphReg's)."""

import math

import pytest

from enhancer_dask.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_geometric.data import Batch, Data  # noqa: E402

from enhancer_dask.models.blocks import InstanceNorm, along_fine, names_of, run_along  # noqa: E402
from enhancer_dask.models.layers import KINDS  # noqa: E402
from enhancer_dask.models.registry import SPECS, build, n_parameters  # noqa: E402

GRAPHS = ("epi-graphreg", "gcn", "gat", "gatv2", "mean", "sum")
BELL = ("epi-cnn", *GRAPHS)
FINE = ("graphreg-epi", "graphreg-epi-cnn")
SMALL = {"width": 8, "depth": 2}
SMALL_FINE = {"width": 8, "pools": (2, 3), "kernels": (5, 3), "head_width": 2, "heads": 2, "hidden": 4, "dropout": 0.2}
SIZES = (9, 1, 14, 9)


def make_graph(n_bins, seed=0, columns=1, fine=6):
    generator = torch.Generator().manual_seed(100 * seed + n_bins)
    edges = torch.randint(0, n_bins, (2, 2 * n_bins if n_bins > 1 else 0), generator=generator)
    edges = edges[:, edges[1].argsort()]
    tracks = {name: torch.rand(n_bins, fine, generator=generator) for name in ("h3k4me3", "h3k27ac", "dnase")}
    return Data(
        num_nodes=n_bins,
        x=torch.randn(n_bins, columns, generator=generator),
        y=torch.rand(n_bins, generator=generator),
        edge_index=edges,
        edge_attr=torch.rand(edges.shape[1], 2, generator=generator),
        edge_attr_names=("count", "oe"),
        **tracks,
    )


def small(name, **options):
    torch.manual_seed(0)
    dilated = {"dilated": 2} if name == "graphreg-epi-cnn" else {}
    return build(name, **{**(SMALL_FINE if name in FINE else SMALL), **dilated, **options})


@pytest.mark.parametrize("name", BELL)
def test_build__bells_presets_stay_below_100_000_parameters(name):
    assert n_parameters(build(name)) < 100_000
    assert n_parameters(build(name)) > 60_000  # nothing is left out either


def test_build__counts_of_the_published_forms():
    conv, first, last = 64 * 64 * 3 + 64, 64 * 3 + 64, 64 * 3 + 1
    assert n_parameters(build("epi-cnn")) == first + 5 * conv + last
    assert n_parameters(build("gat")) == first + 7 * conv + last + 3 * (64 * 64 + 3 * 64)
    convolution, layer = 64 * 64 * 3 + 64, 64 * 64 + 64 + 64
    assert n_parameters(build("epi-graphreg")) == 256 + 7 * convolution + 193 + 3 * layer
    attention = 2 * 4 * (128 * 32 + 32) * 2
    trunk = (3 * 25 * 128 + 128) + 2 * (128 * 128 * 3 + 128) + 3 * 2 * 128
    assert n_parameters(build("graphreg-epi")) == trunk + attention + 2 * 2 * 128 + (128 * 64 + 64 + 2 * 64) + 65
    dilated = (128 * 64 * 3 + 64) + 8 * (64 * 64 * 3 + 64) + 9 * 2 * 64
    assert n_parameters(build("graphreg-epi-cnn")) == trunk + dilated + 65


def test_epi_cnn__is_its_sequence_of_torch_layers():
    model, graph = small("epi-cnn"), make_graph(21)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    steps = [convs[0]]
    for convolve in convs[1:-1]:
        steps += [nn.InstanceNorm1d(8), convolve, nn.ReLU()]
    want = nn.Sequential(*steps, convs[-1])(graph.x.T[None])[0, 0]
    torch.testing.assert_close(model(graph), want)


@pytest.mark.parametrize("graph", KINDS)
def test_epi_graphreg__is_its_sequence_of_torch_layers(graph):
    model, data = small("epi-graphreg", graph=graph, output="linear"), make_graph(21)
    norm = nn.InstanceNorm1d(8)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    hidden = convs[0](data.x.T[None])
    for convolve in convs[1:3]:
        hidden = convolve(norm(hidden)).relu()
    for layer in model.layers:
        hidden = layer(norm(hidden)[0].T, data.edge_index)[0].relu().T[None]
    for convolve in convs[3:5]:
        hidden = convolve(norm(hidden)).relu()
    torch.testing.assert_close(model(data), convs[5](hidden)[0, 0])


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", [*BELL, *FINE])
def test_models__a_batch_is_its_graphs_one_by_one(name, norm):
    graphs = [make_graph(n, seed) for seed, n in enumerate(SIZES)]
    model = small(name, **({} if name in FINE else {"norm": norm}))
    model(Batch.from_data_list([graphs[0], graphs[2]]))  # norms that remember have something to remember
    model.eval()
    found = model(Batch.from_data_list(graphs))
    assert found.shape == (sum(SIZES),)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.cat([model(graph) for graph in graphs]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*BELL, *FINE])
def test_models__gradients_reach_every_parameter(name):
    options = {} if name in ("epi-cnn", "graphreg-epi-cnn") else {"edge_weight": "count"}
    if name in FINE:
        options["dropout"] = 0.0
    elif name == "epi-graphreg":
        options["output"] = "softplus"  # the published ReLU is dead where its input is negative
    model = small(name, **options)
    ((model(make_graph(25)) - 3.0) ** 2).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", [*BELL, *FINE])
def test_models__graphs_without_edges(name):
    graph = make_graph(11)
    graph.edge_index, graph.edge_attr = graph.edge_index[:, :0], graph.edge_attr[:0]
    model = small(name).eval()
    assert model(graph).isfinite().all()
    gates = model.edge_gates(graph)
    assert gates is None or gates.shape[0] == 0


@pytest.mark.parametrize("name", [*GRAPHS, "graphreg-epi"])
def test_models__the_weighted_form_looks_at_the_weight_and_the_binary_one_does_not(name):
    graph, other = make_graph(12), make_graph(12)
    other.edge_attr = other.edge_attr * torch.tensor([1.0, 3.0])
    binary, weighted = small(name, output="linear") if name in GRAPHS else small(name), None
    weighted = small(name, edge_weight="oe", **({"output": "linear"} if name in GRAPHS else {})).eval()
    for part_name, part in weighted.named_parameters():
        if part_name.endswith(".edge"):  # begins as the binary form
            nn.init.ones_(part)
    torch.testing.assert_close(binary.eval()(graph), binary(other))
    assert not torch.allclose(weighted(graph), weighted(other), rtol=1e-3)
    with pytest.raises(InputError, match="edge_weight is 'fdr', but the edges have count, oe"):
        small(name, edge_weight="fdr")(graph)


@pytest.mark.parametrize("name", [*BELL, *FINE])
def test_edge_gates__one_column_per_layer_and_head(name):
    graph, heads = make_graph(12), 1 if name in ("gcn", "mean", "sum") else 2
    model = small(name, **({} if name == "epi-cnn" else {"heads": heads})).eval()
    gates = model.edge_gates(graph)
    if name.endswith("cnn"):
        assert gates is None
        return
    layers = len((model.head if name in FINE else model).layers)
    assert gates.shape == (graph.edge_index.shape[1], layers * heads)
    assert (gates > 0).all()


def test_epi_graphreg__outputs():
    graph = make_graph(30)
    values = {kind: small("epi-graphreg", output=kind).eval()(graph) for kind in ("linear", "relu", "softplus", "exp")}
    line = values["linear"]
    assert line.min() < 0
    for kind, function in (("relu", torch.relu), ("softplus", functional.softplus), ("exp", torch.exp)):
        torch.testing.assert_close(values[kind], function(line))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("epi-cnn", {"norm": "layer"}, "norm is 'layer', want one of instance, batch, none"),
        ("epi-graphreg", {"output": "elu"}, "output is 'elu', want one of relu, softplus, linear, exp"),
        ("epi-graphreg", {"graph": "gin"}, "graph is 'gin', want one of graphreg"),
        ("epi-graphreg", {"heads": 7}, "heads is 7, want a divisor of the 64"),
        ("epi-cnn", {"kernel": 4}, "kernel is 4, want an odd number"),
        ("epi-cnn", {"width": 0}, "a convolution has 0 channels, want a whole number"),
        ("epi-cnn", {"width": "x"}, "a convolution has 'x' channels, want a whole number"),
        ("epi-cnn", {"depth": -1}, "depth is -1, want at least 0"),
        ("graphreg-epi", {"head": "none"}, "head is 'none', want one of contacts, dilated"),
        ("graphreg-epi", {"pools": (2, 5)}, r"kernels is \(25, 3, 3\), pools \(2, 5\); want as many"),
        ("graphreg-epi", {"pools": (2, 5, 0)}, "pools is .*, want numbers of fine bins"),
        ("graphreg-epi", {"tracks": "dnase,dnase"}, "tracks is 'dnase,dnase', want different names"),
        ("graphreg-epi-cnn", {"edge_weight": "oe"}, "edge_weight is given, but the model does not look at contacts"),
    ],
)
def test_build__wrong_options(name, options, message):
    with pytest.raises(InputError, match=f"model '{name}': {message}"):
        build(name, **options)


def test_models__inputs_that_are_not_there():
    graph = make_graph(5, columns=2)
    with pytest.raises(InputError, match=r"x is wanted with 1 columns \(in_channels\), found shape \(5, 2\)"):
        small("epi-cnn")(graph)
    assert small("epi-cnn", in_channels=2)(graph).shape == (5,)
    with pytest.raises(InputError, match=r"pools is \(2, 5\), so 2 x 5 = 10 fine bins per bin are wanted; there are 6"):
        small("graphreg-epi", pools=(2, 5))(graph)
    with pytest.raises(InputError, match="tracks atac are not in the graphs, which have dnase, .*epi-graphreg"):
        small("graphreg-epi", tracks="dnase,atac")(graph)
    graph.dnase = graph.dnase[:, :3]
    with pytest.raises(InputError, match=r"track 'dnase' has shape \(5, 3\), want"):
        small("graphreg-epi")(graph)
    del graph.x
    with pytest.raises(InputError, match="found none"):
        small("epi-cnn")(graph)


@pytest.mark.parametrize("name", FINE)
def test_fine_epigenome__is_its_sequence_of_torch_layers(name):
    model, graph = small(name, tracks=("dnase", "h3k4me3")), make_graph(10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # fresh statistics would hide the order of norms
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    model.eval()
    rows = torch.stack([graph.dnase.flatten(), graph.h3k4me3.flatten()])[None]
    for convolve, norm, pool in zip(model.trunk.convs, model.trunk.norms, (2, 3), strict=True):
        rows = functional.max_pool1d(norm(convolve(rows).relu()), pool)
    head = model.head
    if name == "graphreg-epi":
        values = rows[0].T
        for layer, norm in zip(head.layers, head.norms, strict=True):
            values = norm(functional.elu(layer(values, graph.edge_index)[0]))
        values = head.hidden_norm(head.hidden(values).relu())
    else:
        rows = head.norm(head.conv(rows).relu())
        for dilation, convolve, norm in zip((2, 4), head.stack.convs, head.stack.norms, strict=True):
            weight, bias = convolve.weight, convolve.bias
            rows = norm(functional.conv1d(rows, weight, bias, padding=dilation, dilation=dilation).relu() + rows)
        values = rows[0].T
    torch.testing.assert_close(model(graph), head.out(values)[:, 0].exp())


def test_fine_epigenome__gradients_of_its_inputs():
    graph = make_graph(10)
    model = small("graphreg-epi").eval()
    inputs = model.inputs(graph)
    assert set(inputs) == {"h3k4me3", "h3k27ac", "dnase"}
    for name, values in inputs.items():
        graph[name] = values.clone().requires_grad_()
    model(graph).sum().backward()
    assert all(graph[name].grad.abs().max() > 0 for name in inputs)


def test_instance_norm__of_one_bin_is_zero():
    rows = torch.randn(2, 3, 5)
    torch.testing.assert_close(InstanceNorm()(rows), nn.InstanceNorm1d(3)(rows))
    assert InstanceNorm()(rows[..., :1]).abs().max() == 0


def test_run_along__batch_norm_sees_all_graphs_of_a_batch():
    values = torch.randn(12, 4)
    norm, same = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    found = run_along([norm, nn.ReLU()], values, [3, 9])
    torch.testing.assert_close(found, same(values).relu())
    torch.testing.assert_close(norm.running_var, same.running_var)


@pytest.mark.parametrize("sizes", [[4, 4], [5, 3]])
def test_along_fine__convolutions_see_the_fine_bins_of_their_graph_in_order(sizes):
    values, convolve = torch.randn(8, 2, 5), nn.Conv1d(2, 3, 7, padding=3)
    found = along_fine(values, sizes, convolve)
    parts = []
    for part in values.split(sizes):
        row = torch.stack([part[:, channel].flatten() for channel in range(2)])
        parts.append(convolve(row[None])[0].reshape(3, -1, 5).permute(1, 0, 2))
    torch.testing.assert_close(found, torch.cat(parts))


def test_names_of__from_text_and_lists():
    assert names_of("a, b", "tracks") == names_of(["a", "b"], "tracks") == ("a", "b")
    with pytest.raises(InputError, match="tracks is '', want different names"):
        names_of("", "tracks")


def test_training__presets_are_published_numbers():
    bell = {"loss": "mse", "lr": 1e-3, "batch_size": 1, "epochs": 1000, "threads": 1}
    assert SPECS["epi-graphreg"].training == bell
    fine = SPECS["graphreg-epi"].training
    assert (fine["loss"], fine["lr"], fine["epochs"]) == ("poisson", 2e-4, 200)
    assert SPECS["graphreg-epi-cnn"].training["epochs"] == 100
    assert math.prod(SPECS["graphreg-epi"].known_options()["pools"]) == 50


@pytest.mark.parametrize("name", [*BELL, *FINE])
def test_models__mixed_precision_ends_in_full(name):
    graph = make_graph(30)
    options = {"norm": "none"} if name in BELL else {"dropout": 0.0}  # a norm of few bins blows rounding up
    model = small(name, **options).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(graph)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(graph), rtol=0.1, atol=0.02)
