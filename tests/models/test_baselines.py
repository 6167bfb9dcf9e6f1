"""Ridge and non-negative regression against scikit-like references on dense designs."""

import numpy as np
import pytest

from enhancer_dask.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from scipy import optimize  # noqa: E402
from torch_geometric.data import Batch, Data  # noqa: E402

from enhancer_dask.models.data import to_data  # noqa: E402
from enhancer_dask.models.registry import build, n_parameters  # noqa: E402
from enhancer_dask.simulate.chromosomes import chromosome, preset_design  # noqa: E402

REACH, WIDTH = 1, 3


def graphs():
    rng = np.random.default_rng(0)
    edges = (torch.tensor([[5, 6, 6, 0], [1, 1, 2, 7]]), torch.tensor([[0, 4], [3, 3]]))
    return [
        Data(x=torch.from_numpy(rng.random((n, 2)).astype(np.float32)), edge_index=e, num_nodes=n,
             y=torch.from_numpy(rng.normal(size=n).astype(np.float32)))
        for n, e in zip((8, 30), edges, strict=True)
    ]  # fmt: skip


def design(data):
    """Columns of one graph, bin by bin: own window, then for each offset the sum of windows that reach bin - offset."""
    x = np.pad(data.x.numpy().astype(float), ((REACH, REACH), (0, 0)))
    window = np.stack([x[i : i + WIDTH].T.ravel() for i in range(data.num_nodes)])
    heard = np.zeros_like(window)
    for source, target in data.edge_index.T.tolist():
        heard[target] += window[source]
    rows = []
    for i in range(data.num_nodes):
        at = [heard[i - o] if 0 <= i - o < len(heard) else np.zeros(window.shape[1]) for o in range(-REACH, REACH + 1)]
        rows.append(np.concatenate([window[i], *at]))
    return np.array(rows)


def whole_design(parts):
    return np.concatenate([design(data) for data in parts]), np.concatenate([data.y.numpy() for data in parts])


@pytest.mark.parametrize("batched", [False, True])
def test_ridge__minimises_its_objective(batched):
    parts, alpha = graphs(), 0.01
    model = build("ridge", in_channels=2, reach=REACH, alpha=alpha)
    model.fit([Batch.from_data_list(parts)] if batched else parts)
    x, y = whole_design(parts)
    centred = x - x.mean(0)
    want = np.linalg.solve(
        centred.T @ centred / len(y) + alpha * np.eye(x.shape[1]), centred.T @ (y - y.mean()) / len(y)
    )
    found = np.concatenate([model.own.detach().numpy(), model.linked.detach().numpy().ravel()])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)  # weights are single precision
    predicted = torch.cat([model(data) for data in parts]).detach().numpy()
    np.testing.assert_allclose(predicted, y.mean() + centred @ want, rtol=1e-4, atol=1e-5)
    assert n_parameters(model) == x.shape[1] + 1


def test_nnls__is_scipys_on_the_design():
    parts = graphs()
    model = build("nnls", in_channels=2, reach=REACH)
    model.fit(parts)
    x, y = whole_design(parts)
    want, _ = optimize.nnls(x - x.mean(0), y - y.mean())
    found = np.concatenate([model.own.detach().numpy(), model.linked.detach().numpy().ravel()])
    assert (found >= 0).all()
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_fit__counts_bins_of_the_loss_mask_only():
    parts = graphs()
    masked = [data.clone() for data in parts]
    for data in masked:
        data.loss_mask = torch.arange(data.num_nodes) < 6
        data.y[6:] = 1e6
    one, other = build("ridge", in_channels=2, reach=REACH), build("ridge", in_channels=2, reach=REACH)
    one.fit(masked)
    for data in masked:
        data.y[6:] = -3.0
    other.fit(masked)
    torch.testing.assert_close(one.own, other.own)


def test_fit__nasty_input():
    flat = Data(x=torch.ones(5, 1), edge_index=torch.empty(2, 0, dtype=torch.int64), y=torch.full((5,), 2.0))
    for name in ("ridge", "nnls"):
        model = build(name, reach=0)
        model.fit([flat])  # nothing varies
        torch.testing.assert_close(model(flat), flat.y)
    with pytest.raises(InputError, match="no bin to learn from"):
        build("ridge").fit([])


def test_ridge__recovers_the_process_with_enhancers_only():
    design = preset_design("enhancers", expression_noise=0.0)
    parts = [to_data(chromosome(design, number=i)) for i in range(6)]
    model = build("ridge", alpha=1e-9)
    model.fit(parts[:5])
    # the fit is exact but where a window reaches over the sum's ReLU, which never acts without silencers
    torch.testing.assert_close(model(parts[5]), parts[5].y, rtol=0, atol=1e-3)
