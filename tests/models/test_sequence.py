"""Models of expression from sequence, in pieces and in two stages."""

import json
import math

import pytest

from enhancer_dask.errors import InputError, StoreError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_geometric.data import Batch, Data  # noqa: E402

from enhancer_dask.models import runs, sequence  # noqa: E402
from enhancer_dask.models.attribution import attribute  # noqa: E402
from enhancer_dask.models.data import one_hot  # noqa: E402
from enhancer_dask.models.losses import mean_loss  # noqa: E402
from enhancer_dask.models.registry import build, n_parameters  # noqa: E402

BP, FINE = 24, 6
TRACKS = ("h3k4me3", "dnase")
STAGE = {"tracks": TRACKS, "widths": (8, 6, 6), "pools": (2, 2), "kernel": 5, "dilated": 2, "piece": 3, "at_once": 2}
JOINT = {
    "tracks": TRACKS, "base_widths": (8, 6, 6), "base_pools": (2, 2), "base_dilated": 2, "piece": 3, "at_once": 2,
    "width": 8, "pools": (2, 3), "heads": 2, "head_width": 2, "hidden": 6, "dilated": 2,
}  # fmt: skip
OF_BASE = ("tracks", "base_widths", "base_pools", "base_dilated", "piece", "at_once")
SEPARATE = {name: value for name, value in JOINT.items() if name not in OF_BASE}
SIZES = (7, 12, 2)


def make_graph(n_bins, seed=0):
    generator = torch.Generator().manual_seed(100 * seed + n_bins)
    edges = torch.randint(0, n_bins, (2, 2 * n_bins), generator=generator)
    return Data(
        num_nodes=n_bins,
        sequence=torch.randint(0, 5, (n_bins, BP), generator=generator, dtype=torch.uint8),
        y=torch.rand(n_bins, generator=generator) * 4,
        loss_mask=torch.arange(n_bins) % 3 > 0,
        edge_index=edges,
        edge_attr=torch.rand(2 * n_bins, 1, generator=generator),
        edge_attr_names=("oe",),
        **{name: torch.rand(n_bins, FINE, generator=generator) for name in TRACKS},
    )


def small(name, **options):
    torch.manual_seed(0)
    usual = STAGE if name == "seq-tracks" else SEPARATE if options.get("form") == "separate" else JOINT
    return build(name, **{**usual, **options})


def mse(predicted, truth, mask):
    assert predicted.shape == truth.shape
    assert mask is None or predicted.shape == mask.shape
    return ((predicted - truth) ** 2)[mask].mean() if mask is not None else ((predicted - truth) ** 2).mean()


def unsettle(model):
    """Batch norms that remember the data and move it, as after training."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 0.5
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.3)
    for seed in range(4):
        model.train().training_loss(make_graph(12, seed), mse, 0)
    return model.eval()


@pytest.fixture
def base_run(tmp_path):
    """A run folder of seq-tracks, as training leaves it."""
    model = unsettle(small("seq-tracks"))
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in STAGE.items()}
    description = {"schema": runs.SCHEMA, "schema_version": runs.SCHEMA_VERSION, "model": "seq-tracks"}
    folder = tmp_path / "base"
    (folder / runs.BEST).parent.mkdir(parents=True)
    (folder / runs.DESCRIPTION).write_text(json.dumps({**description, "options": options}))
    torch.save({"state_dict": {f"model.{n}": v for n, v in model.state_dict().items()}}, folder / runs.BEST)
    return folder, model


def test_seq_tracks__is_its_sequence_of_torch_layers_in_each_piece():
    model, graph = unsettle(small("seq-tracks")), make_graph(7)
    want_latents, want_tracks = [], []
    for codes in graph.sequence.split(3):  # pieces of three bins, the last of one
        rows = one_hot(codes.flatten())[None]
        for step, pool in zip(model.base, (2, 2, 1), strict=True):
            rows = functional.max_pool1d(step.norm(step.conv(rows).relu()), pool)
        want_latents.append(rows[0].reshape(6, -1, FINE).permute(1, 0, 2))
        for dilation, convolve, norm in zip((2, 4), model.stack.convs, model.stack.norms, strict=True):
            more = functional.conv1d(rows, convolve.weight, convolve.bias, padding=dilation, dilation=dilation)
            rows = norm(more.relu() + rows)
        want_tracks.append(model.heads(rows).exp()[0].reshape(2, -1, FINE).permute(1, 0, 2))
    latents, tracks = model.latents_and_tracks(graph)
    torch.testing.assert_close(latents, torch.cat(want_latents))
    torch.testing.assert_close(tracks, torch.cat(want_tracks))
    torch.testing.assert_close(model.latents(graph), latents)
    torch.testing.assert_close(model.predict_tracks(graph), tracks)
    torch.testing.assert_close(model(graph), tracks.sum((1, 2)))


@pytest.mark.parametrize("name", ["seq-tracks", "seq-graphreg", "seq-cnn"])
def test_models__a_batch_is_its_graphs_one_by_one_however_many_pieces_at_once(name):
    graphs = [make_graph(n) for n in SIZES]
    model, wide = unsettle(small(name)), unsettle(small(name, at_once=50))
    wide.load_state_dict(model.state_dict())
    batch = Batch.from_data_list(graphs)
    found = model(batch)
    assert found.shape == (sum(SIZES),)
    torch.testing.assert_close(found, torch.cat([model(graph) for graph in graphs]))
    torch.testing.assert_close(found, wide(batch))


@pytest.mark.parametrize("name", ["seq-tracks", "seq-graphreg", "seq-cnn"])
def test_models__one_hot_is_as_good_as_codes_and_has_gradients(name):
    model, graph = unsettle(small(name)), make_graph(7)
    want = model(graph)
    inputs = model.inputs(graph)
    assert {key: tuple(value.shape) for key, value in inputs.items()} == {"sequence": (7, 4, BP)}
    graph.sequence = inputs["sequence"].requires_grad_()
    found = model(graph)
    torch.testing.assert_close(found, want)
    found.sum().backward()
    assert graph.sequence.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["seq-tracks", "seq-graphreg", "seq-cnn"])
def test_training_loss__gradients_reach_every_parameter(name):
    model = small(name, dropout=0.0)
    model.training_loss(make_graph(12), mse, 9).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_pieces__are_computed_again_with_the_same_result(monkeypatch):
    graph = make_graph(12)

    def state(run):
        monkeypatch.setattr(sequence, "checkpoint", run)
        model = small("seq-tracks", dropout=0.3)
        torch.manual_seed(5)
        model.training_loss(graph, mse, 0).backward()
        return {n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())

    calls = []

    def again(function, *inputs, **options):
        calls.append(1)
        return torch.utils.checkpoint.checkpoint(function, *inputs, **options)

    kept_gradients, kept_statistics = state(lambda function, *inputs, **_: function(*inputs))
    gradients, statistics = state(again)
    assert len(calls) == 2  # four pieces, two at once
    for name, gradient in kept_gradients.items():
        torch.testing.assert_close(gradients[name], gradient)
    for name, values in kept_statistics.items():
        if "running" in name:  # seen twice, remembered once
            torch.testing.assert_close(statistics[name], values)


def test_pieces__are_computed_again_for_each_gene():
    model, graph = small("seq-graphreg").eval(), make_graph(7)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    both = attribute(model, graph, [1, 5])
    alone = [attribute(model, graph, gene)[0] for gene in (1, 5)]
    torch.testing.assert_close(torch.from_numpy(both), torch.tensor([one.tolist() for one in alone]))
    assert abs(both).sum() > 0
    assert [norm.momentum for norm in norms] == momenta


def test_seq_tracks__loss_is_the_mean_over_tracks_in_the_masked_bins():
    model, graph = unsettle(small("seq-tracks")), make_graph(7)
    predicted = model.predict_tracks(graph)
    rest = graph.loss_mask
    want = torch.stack([((predicted[rest, t] - graph[name][rest]) ** 2).mean() for t, name in enumerate(TRACKS)]).mean()
    torch.testing.assert_close(model.training_loss(graph, mse, 3), want)
    torch.testing.assert_close(model.validation_loss(graph, mse), want)
    graph.loss_mask = torch.zeros(7, dtype=torch.bool)
    assert model.validation_loss(graph, mean_loss("mse")).item() == 0
    del graph.loss_mask
    everywhere = torch.stack([((predicted[:, t] - graph[n]) ** 2).mean() for t, n in enumerate(TRACKS)]).mean()
    torch.testing.assert_close(model.validation_loss(graph, mse), everywhere)


def test_seq_tracks__does_not_read_pieces_without_bins_that_count():
    model, graph = unsettle(small("seq-tracks")), make_graph(21)  # seven pieces of three bins, two at once
    graph.loss_mask = torch.arange(21) == 8
    predicted = model.predict_tracks(graph)
    want = torch.stack([((predicted[8, t] - graph[n][8]) ** 2).mean() for t, n in enumerate(TRACKS)]).mean()
    read, run = [], model._run
    model._run = lambda apply, part, bins: read.append(part) or run(apply, part, bins)
    torch.testing.assert_close(model.training_loss(graph, mse, 0), want)
    assert [len(part) for part in read] == [6]
    assert torch.equal(read[0], graph.sequence[6:12])


@pytest.mark.parametrize("epoch", [0, 9, 40])
@pytest.mark.parametrize("name", ["seq-graphreg", "seq-cnn"])
def test_training_loss__end_to_end_goes_from_tracks_to_expression(name, epoch):
    model, graph = unsettle(small(name)), make_graph(7)
    tracks = model.predict_tracks(graph)
    share = max(0.01, 1 / (1 + math.exp(-(epoch + 1 - 10))))
    want = share * mse(model(graph), graph.y, graph.loss_mask)
    want = want + (1 - share) * sum(((tracks[:, t] - graph[n]) ** 2).mean() for t, n in enumerate(TRACKS))
    torch.testing.assert_close(model.training_loss(graph, mse, epoch), want)


@pytest.mark.parametrize("name", ["seq-graphreg", "seq-cnn"])
def test_separate__stands_on_the_latents_of_a_run(name, base_run):
    folder, trained = base_run
    model, graph = small(name, form="separate", base=str(folder), dropout=0.0), make_graph(12)
    latents = trained.latents(graph)
    torch.testing.assert_close(model.base.latents(graph), latents)
    model.train()
    assert model.trunk.training
    assert not model.base.training
    before = {n: v.clone() for n, v in model.base.state_dict().items()}
    loss = model.training_loss(graph, mse, 0)
    torch.testing.assert_close(loss, mse(model(graph), graph.y, graph.loss_mask))
    loss.backward()
    assert all(p.grad is None for p in model.base.parameters())
    own = {n: p for n, p in model.named_parameters() if not n.startswith("base.")}
    assert [n for n, p in own.items() if p.grad is None or not p.grad.abs().max() > 0] == []
    assert n_parameters(model) == sum(p.numel() for p in own.values())
    for key, values in model.base.state_dict().items():
        assert torch.equal(values, before[key])
    assert not any(p.requires_grad for p in model.base.parameters())


def test_separate__edge_gates_and_weights(base_run):
    model = small("seq-graphreg", form="separate", base=str(base_run[0]), edge_weight="oe").eval()
    assert model.edge_gates(make_graph(7)).shape == (14, 3 * 2)
    assert small("seq-cnn").eval().edge_gates(make_graph(7)) is None


def test_separate__what_is_wrong_with_the_base(base_run, tmp_path):
    folder, _ = base_run
    for options, message in (
        ({"form": "joint"}, "form is 'joint', want one of separate, end-to-end"),
        ({"form": "separate"}, "form is 'separate': want base, the folder of a run of the model seq-tracks"),
        ({"base": "run"}, "base is 'run', but form is 'end-to-end'"),
        ({"form": "separate", "base": str(folder), "piece": 5}, "piece is 5, but form is 'separate': its base is tr"),
        ({"form": "separate", "base": {"model": "epi-cnn", "options": {}}}, "base 'epi-cnn' is a run of another mod"),
    ):
        with pytest.raises(InputError, match=message):
            small("seq-graphreg", **options)
    with pytest.raises(StoreError, match="none.*no weights there yet"):
        small("seq-graphreg", form="separate", base=str(tmp_path / "none"))
    description = json.loads((folder / runs.DESCRIPTION).read_text())
    other = build("epi-cnn", width=4, depth=1)
    description.update(model="epi-cnn", options={"width": 4, "depth": 1})
    (folder / runs.DESCRIPTION).write_text(json.dumps(description))
    torch.save({"state_dict": {f"model.{n}": v for n, v in other.state_dict().items()}}, folder / runs.BEST)
    with pytest.raises(InputError, match="is a run of another model, want one of seq-tracks"):
        small("seq-graphreg", form="separate", base=str(folder))


def test_models__inputs_that_are_not_there():
    graph = make_graph(4)
    with pytest.raises(InputError, match=r"pools is \(2, 5\); their product must divide the 24 bp"):
        small("seq-tracks", pools=(2, 5))(graph)
    with pytest.raises(InputError, match="tracks have 6 fine bins per bin; sequence and pools .* make 12"):
        small("seq-tracks", pools=(2, 1)).validation_loss(graph, mse)
    with pytest.raises(InputError, match=r"widths is \(8, 6, 6\), pools \(2,\); want one more width"):
        small("seq-tracks", pools=(2,))
    with pytest.raises(InputError, match="piece is 0, at_once 2; want at least 1"):
        small("seq-tracks", piece=0)
    with pytest.raises(InputError, match="pools is .* 5 = 10 fine bins per bin are wanted; there are 6"):
        small("seq-graphreg", pools=(2, 5))(graph)
    del graph.sequence
    with pytest.raises(InputError, match="sequence is wanted as codes .* found none"):
        small("seq-tracks")(graph)
