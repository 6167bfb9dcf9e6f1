"""Models by name: every name builds, and what is wrong is said in one line."""

import inspect

import pytest

from enhancer_dask.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from enhancer_dask.models.options import TrainingOptions  # noqa: E402
from enhancer_dask.models.registry import SPECS, Expression, ModelSpec, build, n_parameters, register  # noqa: E402

TRAINING = set(TrainingOptions.model_fields)
NAMES = (
    "epi-cnn", "epi-graphreg", "gcn", "gat", "gatv2", "mean", "sum", "graphreg-epi-cnn", "graphreg-epi", "seq-tracks",
    "seq-cnn", "seq-graphreg",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_build__every_published_name(name):
    spec = SPECS[name]
    torch.manual_seed(1)
    model = build(name)
    assert isinstance(model, Expression)
    assert not model.closed_form
    assert n_parameters(model) == sum(p.numel() for p in model.parameters())
    torch.manual_seed(1)
    again = build(name)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert spec.summary
    assert inspect.getdoc(spec.load())
    assert set(spec.options) <= set(spec.known_options())
    assert set(spec.training) <= TRAINING


def test_build__options_of_the_name_and_of_the_caller():
    assert SPECS["gat"].known_options()["graph"] == "gat"
    assert type(build("gat", width=4, depth=1).layers[0]).__name__ == "Gat"
    assert type(build("gat", width=4, depth=1, graph="sum").layers[0]).__name__ == "Aggregate"


def test_build__what_is_unknown():
    with pytest.raises(InputError, match="model is 'epi-gnn', want one of epi-cnn, epi-graphreg, gcn"):
        build("epi-gnn")
    with pytest.raises(InputError, match="model 'epi-cnn': no option 'heads', it has in_channels, columns, width"):
        build("epi-cnn", heads=2)
    with pytest.raises(InputError, match="model 'epi-cnn': a convolution has 'wide' channels, want a whole number"):
        build("epi-cnn", width="wide")
    with pytest.raises(InputError, match="model 'epi-cnn' cannot be built with dropout=2: "):
        build("epi-cnn", dropout=2)


def test_register__a_name_twice():
    with pytest.raises(ValueError, match="model 'gcn' is there twice"):
        register(ModelSpec("gcn", "epigenome:EpiGraphReg", "again"))
