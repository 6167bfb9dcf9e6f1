from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from enhancer_dask.cli import app
from enhancer_dask.errors import InputError
from enhancer_dask.shard_store import ShardStore
from enhancer_dask.simulate.chromosomes import (
    PRESETS,
    ChromosomeDesign,
    chromosome,
    irreducible_error,
    preset_design,
    simulate_chromosomes,
)

SMALL = ChromosomeDesign(bins=120, genes=4, enhancers=6, silencers=4, silencers_per_gene=2)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("preset", "published"), [("enhancers", 0.030), ("silencers", 0.021)])
def test_chromosome__its_irreducible_error_is_the_published_one(preset, published):
    # standard error of a mean over 300 chromosomes: 3%, here and there. Seen: 0.0316 and 0.0211;
    # over 1,000 chromosomes 0.0310 and 0.0212
    errors = [irreducible_error(chromosome(PRESETS[preset], "train", i)) for i in range(300)]
    assert np.mean(errors) == pytest.approx(published, rel=0.1)


def test_chromosome__expression_is_what_its_edges_say():
    graph = chromosome(SMALL, seed=4)
    x, want = graph.nodes["x"][:, 0].astype(float), np.zeros(120)
    for source, target, sign in zip(graph.source, graph.target, graph.edges["sign"], strict=True):
        for offset in range(-5, 6):
            want[target + offset] += sign * x[source + offset]
    want = np.maximum(want, 0)
    np.testing.assert_allclose(graph.nodes["y_noiseless"], want, atol=1e-5)
    noise = graph.nodes["y"] - graph.nodes["y_noiseless"]
    assert (noise >= 0).all()
    assert 0 < noise.max() <= 0.15 * want.max() + 1e-6
    assert 1 <= (noise > 0).sum() <= 12


def test_chromosome__sites_and_edges_are_as_designed():
    graph = chromosome(PRESETS["silencers"], "validation", 3, seed=1)
    is_gene, is_enhancer, is_silencer = (graph.nodes[f"is_{k}"] for k in ("gene", "enhancer", "silencer"))
    assert (is_gene.sum(), is_enhancer.sum(), is_silencer.sum()) == (20, 10, 10)
    assert not (is_gene & is_enhancer).any()
    sites = np.flatnonzero(is_gene | is_enhancer | is_silencer)
    assert len(sites) == 40
    assert sites.min() >= 5
    assert sites.max() < 995
    assert is_gene[graph.target].all()
    enhances = graph.edges["sign"] > 0
    assert is_enhancer[graph.source[enhances]].all()
    assert is_silencer[graph.source[~enhances]].all()
    for kind, n in ((enhances, 3), (~enhances, 2)):
        assert (np.bincount(graph.target[kind], minlength=1000)[is_gene] == n).all()
    assert len(set(zip(graph.source.tolist(), graph.target.tolist(), strict=True))) == 100
    x = graph.nodes["x"][:, 0]
    assert x[is_gene | is_enhancer].min() >= 0.2  # 1 over a moving average of five bins
    assert x[is_silencer].mean() < 0.5 * x[is_enhancer].mean()
    assert graph.labels == {"split": "validation", "number": 3}


def test_simulate_chromosomes__more_test_chromosomes_leave_the_others_as_they_are(tmp_path):
    one = simulate_chromosomes(tmp_path / "one", SMALL, n_train=3, n_validation=1, n_test=1, seed=2)
    same = simulate_chromosomes(tmp_path / "same", SMALL, n_train=3, n_validation=1, n_test=1, seed=2)
    more = simulate_chromosomes(tmp_path / "more", SMALL, n_train=3, n_validation=1, n_test=4, seed=2)
    other = simulate_chromosomes(tmp_path / "other", SMALL, n_train=3, n_validation=1, n_test=1, seed=3)
    assert files(one.path) == files(same.path)
    for shard in one.shards[:2]:
        assert files(one.path / shard) == files(more.path / shard)
        assert files(one.path / shard) != files(other.path / shard)
    assert more.index["split"].tolist() == ["train"] * 3 + ["validation"] + ["test"] * 4
    np.testing.assert_array_equal(list(one.graphs())[4].nodes["y"], list(more.graphs())[4].nodes["y"])


def test_simulate_chromosomes__what_is_there_is_not_replaced_by_accident(tmp_path):
    simulate_chromosomes(tmp_path / "out", SMALL, n_train=1)
    with pytest.raises(InputError, match="out: exists; choose another name or overwrite it"):
        simulate_chromosomes(tmp_path / "out", SMALL, n_train=2)
    assert len(simulate_chromosomes(tmp_path / "out", SMALL, n_train=2, overwrite=True).index) == 12
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"bins": 40, "genes": 20, "enhancers": 20}, "bins is 40: 30 between the margins of 5, want 40 for genes"),
        ({"enhancers": 2}, "enhancers_per_gene is 3, but there are only 2 enhancers"),
        ({"margin": 2}, "margin is 2, want at least 5"),
        ({"site_width": 4}, "site_width is 4, want an odd number"),
        ({"noisy_share": 1.5}, "noisy_share is 1.5, want at most 1"),
        ({"expression_noise": float("nan")}, "expression_noise is nan, want at least 0"),
        ({"genes": 0}, "genes is 0, want at least 1"),
    ],
)
def test_chromosome_design__impossible_numbers_are_named(numbers, message):
    with pytest.raises(InputError, match=message):
        preset_design("enhancers", **numbers)


def test_command__writes_shards_and_says_what(tmp_path):
    out = tmp_path / "shards"
    args = ["simulate", "chromosomes", "--preset", "silencers", "--bins", "400", "--n-train", "3", "--out", str(out)]
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert '"n_graphs": 13, "n_train": 3, "n_validation": 5, "n_test": 5, "n_nodes": 5200' in done.stdout
    params = ShardStore(out).params
    assert (params["bins"], params["genes"], params["enhancers"], params["silencers"]) == (400, 8, 4, 4)
    assert params["x"] == ["accessibility"]


def test_command__an_error_names_the_option(tmp_path):
    args = ["simulate", "chromosomes", "--enhancers-per-gene", "30", "--out", str(tmp_path / "shards")]
    with pytest.raises(InputError, match="^--enhancers-per-gene is 30, but there are only 20 enhancers"):
        CliRunner().invoke(app, args, catch_exceptions=False)
    assert not list(tmp_path.iterdir())
