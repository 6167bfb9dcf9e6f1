"""What figures of a gene's links and of a model's layers draw, artist by artist."""

import numpy as np
import pandas as pd
import pytest
from drawn import CNN, N, drawn_texts, in_mb, legend, steps_of, texts
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from enhancer_dask.errors import InputError
from enhancer_dask.report.architecture import Block, blocks
from enhancer_dask.report.figures import architecture, attribution_track, gate_strip, gene_locus, new_axes, new_figure
from enhancer_dask.report.gene_links import around_gene, gates_of, linked_bins


def test_gates_of__are_the_edges_of_the_gene_the_greatest_first(gates, gene):
    one = gates[gates["graph"] == "test-000000"]
    mine = one[one["target"] == gene].sort_values("source")
    found = gates_of(one, gene)
    np.testing.assert_array_equal(found.source, mine["source"])
    np.testing.assert_array_equal(found.weight, mine[["gate_1", "gate_2"]].T)
    assert found.heads == ["1", "2"]
    two = gates_of(one, gene, most=2)
    size = mine[["gate_1", "gate_2"]].abs().mean(axis=1)
    assert set(two.source) == set(mine.loc[size.nlargest(2).index, "source"])
    assert (len(two.source), two.n_all) == (2, len(mine))
    with pytest.raises(InputError, match="gates: column 'gate' is missing"):
        gates_of(one[["source", "target"]], gene)


def test_gate_strip__cells_are_weights_tied_to_their_bins(predictions, gates, gene, ax):
    gate_strip(predictions, gates, ax, gene=gene)
    mine = gates[(gates["graph"] == "test-000000") & (gates["target"] == gene)].sort_values("source")
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array(), mine[["gate_1", "gate_2"]].T)
    top = mine[["gate_1", "gate_2"]].abs().max().max()
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-top, top)  # signs diverge from 0
    (ties,) = (c for c in ax.collections if c.get_label() == "linked bins")
    np.testing.assert_array_equal([line[0, 0] for line in ties.get_segments()], mine["source"])
    ends = np.array([line[-1, 0] for line in ties.get_segments()])
    np.testing.assert_allclose(np.diff(ends), np.ptp(ax.get_xlim()) / len(mine))
    (triangle,) = (line for line in ax.get_lines() if line.get_label() == "gene")
    assert triangle.get_xdata()[0] == gene
    assert [label.get_text() for label in ax.get_yticklabels()] == ["head 1", "head 2"]
    assert [inset.get_ylabel() for inset in ax.child_axes] == ["gate"]
    renamed = gates.rename(columns={"gate_1": "gate_layer 1", "gate_2": "gate_layer 2"})
    gate_strip(predictions, renamed, other := new_axes(), gene=gene)
    assert [label.get_text() for label in other.get_yticklabels()] == ["layer 1", "layer 2"]
    assert ax.get_ylabel() == f"{len(mine)}\nlinked bins"


def test_gate_strip__weights_of_one_sign_rise_from_zero_and_unknown_ones_are_left_out(predictions, gates, gene, ax):
    positive = gates.drop(columns=["gate_1", "gate_2"]).assign(gate=np.linspace(0.1, 1, len(gates)))
    positive.loc[positive.index[positive["target"] == gene][0], "gate"] = np.nan
    gate_strip(predictions, positive, ax, gene=gene, most=3)
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    assert mesh.norm.vmin == 0
    assert not np.ma.is_masked(mesh.get_array())  # the unknown one is the least
    assert ax.get_ylabel() == "3 of 5\nlinked bins"
    gate_strip(predictions, positive, other := new_axes(), gene=0)
    assert texts(other) == ["no bin in view is linked to the gene in bin 0"]


def test_attribution_track__parts_the_signs_and_marks_linked_bins(predictions, edges, attributions, gene, ax):
    attributions = pd.concat([attributions.drop(index=[4]), attributions.assign(gene=gene + 1)])
    attribution_track(predictions, attributions, ax, gene=gene, edges=edges)
    scores = attributions["score"].iloc[: N - 1].reindex(range(N)).to_numpy()
    for label, part in (("positive", np.maximum(scores, 0)), ("negative", np.minimum(scores, 0))):
        np.testing.assert_array_equal(steps_of(ax, label).values, part)
    marks = {line.get_label(): line.get_xdata() for line in ax.get_lines()}
    mine = edges[(edges["graph"] == "test-000000") & (edges["target"] == gene)]
    np.testing.assert_array_equal(np.sort(marks["linked bins"]), np.sort(mine["source"]))
    assert marks["gene"][0] == gene


def test_attribution_track__says_that_there_is_nothing_or_what_is_wrong(predictions, attributions, gene, ax):
    attribution_track(predictions, attributions, ax, gene=gene + 5)
    assert texts(ax) == [f"no score for the gene in bin {gene + 5}"]
    with pytest.raises(InputError, match="attributions: column 'shap' is missing"):
        attribution_track(predictions, attributions, ax, gene=gene, column="shap")
    twice = pd.concat([attributions, attributions]).drop(columns="gene")
    with pytest.raises(InputError, match="attributions: node 0 has two scores; name their genes in a column"):
        attribution_track(predictions, twice, ax, gene=gene)


def test_gene_locus__a_row_for_each_signal_method_and_the_gates(predictions, edges, gates, attributions, gene):
    attributions = attributions.rename(columns={"score": "gradient_x_input"}).assign(shap=0.5)
    figure = gene_locus(
        in_mb(predictions), new_figure(), gene=gene, gates=gates, attributions=attributions, edges=edges
    )
    assert [ax.get_ylabel().split("\n")[-1] for ax in figure.axes] == [
        "accessibility", "gradient x input", "shap", "linked bins",
    ]  # fmt: skip
    assert {ax.get_xlim() for ax in figure.axes} == {(2.0, 3.5)}
    assert figure.axes[-1].get_xlabel() == "chr7 (Mb)"
    assert legend(figure.axes[0]) == [f"gene at {2 + (gene + 0.5) * 0.005:,.3f} Mb", "linked bin"]
    (lines,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    at = [line[0, 0] for line in lines.get_segments()]
    np.testing.assert_allclose(at, 2 + (linked_bins(gates[gates["graph"] == "test-000000"], gene) + 0.5) * 0.005)
    with pytest.raises(InputError, match="shows gates or attributions"):
        gene_locus(predictions, new_figure(), gene=gene)
    with pytest.raises(InputError, match="attributions: column 'score' is missing"):
        gene_locus(predictions, new_figure(), gene=gene, attributions=attributions[["graph", "gene", "node"]])
    assert drawn_texts(gene_locus(predictions.head(0), new_figure(), gene=1, gates=gates)) == ["no bin to draw"]


def test_around_gene__holds_all_linked_bins_with_a_margin(predictions, edges):
    links = pd.DataFrame({"source": [150, 190, 7], "target": [160, 160, 8]})
    part = around_gene(predictions, links, 160, graph="test-000001")
    assert part["graph"].unique().tolist() == ["test-000001"]
    assert part["node"].tolist() == list(range(145, 196))


def test_blocks__repeats_are_one_block():
    assert blocks(CNN) == [
        Block(("conv",), (64, N), 256), Block(("norm", "conv", "ReLU"), (64, N), 500, 5), Block(("head",), (1, N), 65),
    ]  # fmt: skip
    assert [b.times for b in blocks([("pool", (100,), 0), ("pool", (50,), 0)])] == [1, 1]  # other shapes
    assert blocks([("a", (1,), 1), ("b", (1,), 1)] * 2) == [Block(("a", "b"), (1,), 4, 2)]
    assert blocks([]) == []


def test_architecture__a_box_for_each_block_with_shape_and_parameters():
    figure = architecture(CNN, new_figure(), title="epi-cnn")
    (ax,) = figure.axes
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert (len(boxes), len(arrows)) == (3, 2)
    assert np.all(np.diff([box.get_y() for box in boxes]) < 0)  # from above
    assert texts(ax)[:9] == [
        "conv", "64 × 300", "256", "norm · conv · ReLU  × 5", "64 × 300", "500", "head", "1 × 300", "65",
    ]  # fmt: skip
    assert ax.get_title() == "epi-cnn: 821 parameters"
    assert [box.get_label() for box in boxes] == ["convolution", "convolution", "other"]
    assert legend(figure) == ["convolution"]
    assert drawn_texts(architecture([], new_figure(), title="x")) == ["x: no layers"]


def test_architecture__messages_along_edges_count_more_than_what_is_around_them():
    figure = architecture([("GATConv", (5, 8), 9), ("norm", (5, 8), 1), ("ReLU", (5, 8), 0)] * 2, new_figure())
    (box,) = (p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch))
    assert box.get_label() == "messages along edges"
