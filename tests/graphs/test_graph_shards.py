"""Contacts -> shards: the oracles' graphs, the same bytes however it is run, and what is wrong is named."""

import shutil

import cooler
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from enhancer_dask import chunks, contact_store, graph_shards
from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import ChunkError, InputError, ResumeError, StoreError
from enhancer_dask.graphs import shard_tasks
from enhancer_dask.graphs.contact_matrix import as_matrix
from enhancer_dask.graphs.edges import contact_graph
from enhancer_dask.graphs.normalise import balance
from enhancer_dask.graphs.windows import windows
from enhancer_dask.io import contact_writer
from enhancer_dask.io.contact_ingest import ingest_contacts
from enhancer_dask.io.contact_writer import write_contacts
from enhancer_dask.io.pixels import PixelSum, make_bins

SIZE = 1_000
LENGTHS = {"chr1": 40_500, "chr2": 20_000, "chrX": 8_000}


def contacts_with(pixels, bins):
    pixels.attrs["bins"] = bins
    return pixels


def random_contacts(rng, n=3_000):
    bins = make_bins(LENGTHS, SIZE)
    total = PixelSum(len(bins))
    first = rng.integers(0, len(bins), n)
    near = np.minimum(first + rng.geometric(0.2, n) - 1, len(bins) - 1)
    total.add(first, np.where(rng.random(n) < 0.8, near, rng.integers(0, len(bins), n)))
    return contacts_with(total.table(), bins)


@pytest.fixture(scope="module")
def contacts():
    return random_contacts(np.random.default_rng(2))


@pytest.fixture(scope="module")
def bulk(contacts, tmp_path_factory):
    out = tmp_path_factory.mktemp("bulk") / "bulk.contacts"
    weights = np.random.default_rng(3).uniform(0.5, 2, len(contacts.attrs["bins"]))
    weights[[3, 50]] = np.nan
    write_contacts(out, contacts, vectors={"KR": weights})
    return out


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    rng = np.random.default_rng(4)
    out = tmp_path_factory.mktemp("cells") / "cells.contacts"
    frames = {f"cell{i}": random_contacts(rng, 20 + 40 * i) for i in range(9)}
    write_contacts(out, frames, cells=pd.DataFrame({"celltype": [f"t{i % 2}" for i in range(9)], "batch": range(9)}))
    return out


def make(store, out, **options):
    return graph_shards(store, out, progress=False, **options)


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def adjacency(graph, name):
    shape = (graph.n_nodes, graph.n_nodes)
    return sparse.coo_array((graph.edges[name], (graph.source, graph.target)), shape=shape).toarray()


def symmetric(contacts, value="count"):
    n = len(contacts.attrs["bins"])
    upper = sparse.coo_array((contacts[value], (contacts["bin1_id"], contacts["bin2_id"])), shape=(n, n)).toarray()
    np.fill_diagonal(upper, 0)
    return upper + upper.T


# -- what is in the graphs -------------------------------------------------------------------------------------


def test_graphs__one_per_chromosome(bulk, contacts, tmp_path):
    shards = make(bulk, tmp_path / "g", balance="none", rule="count>0", edge_weights=["count", "oe"])
    dense, bins = symmetric(contacts), contacts.attrs["bins"]
    graphs = list(shards.graphs())
    assert [g.name for g in graphs] == list(LENGTHS)
    assert shards.params["x"] == ["degree", "strength"]
    for graph in graphs:
        rows = np.flatnonzero(bins["chrom"] == graph.name)
        want = dense[np.ix_(rows, rows)]
        np.testing.assert_array_equal(adjacency(graph, "count"), want)
        np.testing.assert_array_equal(graph.nodes["bin"], rows)
        np.testing.assert_array_equal(graph.nodes["x"][:, 0], (want > 0).sum(axis=1))
        np.testing.assert_allclose(graph.nodes["x"][:, 1], adjacency(graph, "oe").sum(axis=1), rtol=1e-5)
        assert graph.nodes["loss_mask"].all()
        assert graph.labels == {"chrom": graph.name, "start": 0, "end": LENGTHS[graph.name]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]


def test_graphs__of_a_block_of_chromosomes_in_the_order_given(bulk, contacts, tmp_path):
    shards = make(
        bulk, tmp_path / "g", balance="none", rule="count>=2", chromosomes=["chrX", "chr1"], inter=True,
        min_distance=3, edge_weights=["count"],
    )  # fmt: skip
    (graph,) = shards.graphs()
    bins = contacts.attrs["bins"]
    rows = np.concatenate([np.flatnonzero(bins["chrom"] == chrom) for chrom in ("chrX", "chr1")])
    chrom, place = bins["chrom"].to_numpy()[rows], rows
    allowed = (chrom[:, None] != chrom) | (abs(place[:, None] - place) >= 3)
    want = symmetric(contacts)[np.ix_(rows, rows)] * allowed
    np.testing.assert_array_equal(adjacency(graph, "count"), np.where(want >= 2, want, 0))
    assert (graph.name, graph.labels) == ("chrX+chr1", {"chrom": "chrX+chr1"})


def test_graphs__weights_of_the_file_leave_bins_out(bulk, contacts, tmp_path):
    shards = make(bulk, tmp_path / "g", balance="file:KR", rule="oe>0", edge_weights=["balanced", "binary"])
    assert shards.params["dropped"] == {"file": 2}
    weights = ContactStore(bulk).vectors(SIZE)["KR"]
    graph = next(shards.graphs())
    assert np.flatnonzero(~graph.nodes["valid"]).tolist() == [3]
    assert graph.nodes["x"][3, 0] == 0
    n = graph.n_nodes
    want = np.nan_to_num(symmetric(contacts)[:n, :n] * np.outer(weights[:n], weights[:n]))
    np.testing.assert_allclose(adjacency(graph, "balanced"), want, rtol=1e-6)
    np.testing.assert_array_equal(adjacency(graph, "binary"), want > 0)


def test_graphs__windows_are_cut_from_the_chromosome(bulk, tmp_path):
    whole = {g.name: g for g in make(bulk, tmp_path / "whole", balance="none", edge_weights=["oe"]).graphs()}
    shards = make(
        bulk, tmp_path / "g", balance="none", edge_weights=["oe"], window=12_000, step=4_000, shard_mb=0.01
    )  # fmt: skip
    assert len(shards.shards) > 2
    found = {(g.labels["chrom"], g.labels["start"] // SIZE): g for g in shards.graphs()}
    want = {(chrom, w.start): w for chrom, g in whole.items() for w in windows(g.n_nodes, 12, 4)}
    assert list(found) == list(want)
    for (chrom, start), w in want.items():
        graph = found[chrom, start]
        np.testing.assert_array_equal(
            adjacency(graph, "oe"), adjacency(whole[chrom], "oe")[w.start : w.stop, w.start : w.stop]
        )
        np.testing.assert_array_equal(graph.nodes["bin"], whole[chrom].nodes["bin"][w.start : w.stop])
        assert np.flatnonzero(graph.nodes["loss_mask"]).tolist() == list(
            range(w.loss_start - w.start, w.loss_stop - w.start)
        )


def test_graphs__one_per_cell_with_what_is_known_of_it(cells, tmp_path):
    genes = pd.DataFrame({"cell": [f"cell{i}" for i in reversed(range(9))], "Smo": np.arange(9.0)})
    genes.to_parquet(tmp_path / "rna.parquet")
    shards = make(cells, tmp_path / "g", inter=True, expression=tmp_path / "rna.parquet", shard_mb=0.02)
    assert len(shards.shards) > 2
    assert shards.params["expressed"] == ["Smo"]
    index = shards.index
    assert index["name"].tolist() == index["cell"].tolist() == [f"cell{i}" for i in range(9)]
    assert index["celltype"].tolist() == [f"t{i % 2}" for i in range(9)]
    assert index["cell_batch"].tolist() == list(range(9))  # PyG has another use for "batch"
    for i, graph in enumerate(shards.graphs()):
        want = symmetric(ContactStore(cells).contacts(SIZE, cell=graph.name))
        np.testing.assert_allclose(adjacency(graph, "log_count"), np.log2(want + 1), rtol=1e-6)
        np.testing.assert_array_equal(graph.nodes["x"], np.stack([(want > 0).sum(1), want.sum(1)], axis=1))
        np.testing.assert_array_equal(graph.values["expression"], [8.0 - i])


@pytest.mark.parametrize("method", ["ice", "kr"])
def test_graphs__each_cell_is_balanced_by_itself(cells, tmp_path, method):
    shards = make(cells, tmp_path / "g", balance=method, rule="count>0", edge_weights=["balanced", "oe"], warn=print)
    store, n_valid = ContactStore(cells), []
    for graph in shards.graphs():
        contacts = store.contacts(SIZE, cell=graph.name)
        codes = pd.factorize(contacts.attrs["bins"]["chrom"])[0]
        weights = balance(as_matrix(contacts), method, chromosomes=codes).weights
        np.testing.assert_array_equal(graph.nodes["valid"], ~np.isnan(weights))
        n_valid.append(int(graph.nodes["valid"].sum()))
        n_edges = 0 if np.isnan(weights).all() else len(contact_graph(contacts, weights, "count>0"))
        assert len(graph.source) == 2 * n_edges
    assert min(n_valid) <= 1 < 5 < max(n_valid)
    assert shards.params["dropped"] == {}


def test_graphs__of_genes_are_linked_where_their_bins_are(bulk, tmp_path):
    genes = pd.DataFrame(
        {"gene": list("dcbae"), "chrom": ["1", "1", "2", "1", "1"],
         "start": [7_100, 300, 900, 7_900, 20_000],
         "end": [9_000, 800, 1_500, 8_800, 22_500], "strand": ["+", "+", "+", "+", "-"], "level": [1.0, 2, 3, 4, 5]}
    )  # fmt: skip
    genes.to_csv(tmp_path / "genes.csv", index=False)
    options = {"balance": "none", "rule": "count>0", "edge_weights": ["count"], "expression": tmp_path / "genes.csv"}
    of_bins = {g.name: adjacency(g, "count") for g in make(bulk, tmp_path / "bins", **options).graphs()}
    shards = make(bulk, tmp_path / "genes", nodes="genes", chromosomes=["1", "chr2", "X"], **options)
    one, two, none = shards.graphs()
    assert [shards.params["genes"][i] for i in one.nodes["gene"]] == ["c", "d", "a", "e"]
    assert (two.n_nodes, none.n_nodes, len(two.source)) == (1, 0, 0)
    place = np.array([0, 7, 7, 22])
    np.testing.assert_array_equal(one.nodes["bin"], place)
    np.testing.assert_array_equal(one.nodes["y"], [2, 1, 4, 5])
    np.testing.assert_array_equal(adjacency(one, "count"), of_bins["chr1"][np.ix_(place, place)])
    assert adjacency(one, "count").any()
    np.testing.assert_array_equal(one.nodes["x"][:, 0], (adjacency(one, "count") > 0).sum(axis=1))
    cut = make(bulk, tmp_path / "cut", nodes="genes", chromosomes=["chr1"], window=10_000, step=5_000, **options)
    assert [g.nodes["bin"].tolist() for g in cut.graphs()][:2] == [[0, 7, 7], [7, 7]]
    assert [g.nodes["loss_mask"].tolist() for g in cut.graphs()][:2] == [[True, False, False], [True, True]]
    with pytest.raises(InputError, match="nodes 'genes': give genes"):
        make(bulk, tmp_path / "more", nodes="genes")


def test_graphs__targets_and_features_in_their_places(bulk, tmp_path):
    import pybigtools

    sizes = {name.removeprefix("chr"): size for name, size in LENGTHS.items()}
    pybigtools.open(str(tmp_path / "a.bw"), "w").write(sizes, iter([("1", 500, 1_500, 1.0), ("2", 0, 10, 3.0)]))
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{'ACGT' * (size // 4)}\n" for name, size in sizes.items()))
    genes = tmp_path / "genes.tsv"
    genes.write_text("gene\tchrom\tstart\tend\ttpm\na\tchr1\t30100\t30200\t7\nb\t2\t100\t9000\t5\n")
    common = {"balance": "none", "window": 10_000, "step": 5_000, "only_with_genes": True, "fasta": tmp_path / "g.fa"}
    shards = make(
        bulk, tmp_path / "g", tracks=[f"k27={tmp_path}/a.bw,sum", f"fine={tmp_path}/a.bw,250bp"], expression=genes,
        features=["degree"], **common,
    )  # fmt: skip
    assert shards.params["x"] == ["degree", "k27"]
    assert shards.params["y"] == ["tpm"]
    graphs = {g.name: g for g in shards.graphs()}
    assert list(graphs) == ["chr1:25000-35000", "chr2:0-10000"]
    first, second = graphs.values()
    assert np.flatnonzero(first.nodes["gene_mask"]).tolist() == [5]
    assert first.nodes["y"][5] == 7
    assert second.nodes["y"].tolist() == [5] + [0] * 9
    assert second.nodes["x"][:2, 1].tolist() == [30, 0]
    assert second.nodes["fine"].shape == (10, 4)
    assert second.nodes["fine"][0].tolist() == [np.float32(30 / 250), 0, 0, 0]
    assert second.nodes["sequence"][1, :5].tolist() == [0, 1, 2, 3, 0]
    gtf = tmp_path / "genes.gtf"
    gtf.write_text('2\tx\tgene\t101\t9000\t.\t+\t.\tgene_id "b";\n')
    chr1, chr2, _ = make(bulk, tmp_path / "cage", cage=tmp_path / "a.bw", genes=gtf, balance="none").graphs()
    assert chr1.nodes["y"][:3].tolist() == [500, 500, 0]
    assert np.flatnonzero(chr2.nodes["gene_mask"]).tolist() == [0]


# -- however it is run -----------------------------------------------------------------------------------------


def test_shards__same_bytes_for_any_workers_and_any_chunks_of_the_store(contacts, bulk, client, tmp_path, monkeypatch):
    options = {"window": 10_000, "step": 5_000, "shard_mb": 0.01, "balance": "vc", "edge_weights": ["oe", "count"]}
    make(bulk, tmp_path / "threads", **options)
    make(bulk, tmp_path / "processes", client=client, **options)
    monkeypatch.setattr(contact_writer, "PIXELS_PER_CHUNK", 100)
    monkeypatch.setattr(contact_store, "PIXELS_PER_CHUNK", 100)
    write_contacts(tmp_path / "other.contacts", contacts, vectors=ContactStore(bulk).vectors(SIZE))
    make(tmp_path / "other.contacts", tmp_path / "chunked", **options)
    want = files_of(tmp_path / "threads")
    assert len([p for p in want if p.name == "zarr.json"]) > 20
    assert files_of(tmp_path / "processes") == want
    assert files_of(tmp_path / "chunked") == want


class _Stop(Exception):
    pass


def test_shards__an_interrupted_run_goes_on(cells, tmp_path, monkeypatch):
    options = {"shard_mb": 0.01}
    make(cells, tmp_path / "want", **options)
    made, write = [], shard_tasks.write_shard

    def stop_after_two(path, graphs):
        if len(made) == 2:
            raise _Stop("no more today")
        made.append(path.name)
        return write(path, graphs)

    with monkeypatch.context() as patch:
        patch.setattr(shard_tasks, "write_shard", stop_after_two)
        with pytest.raises(ChunkError):
            make(cells, tmp_path / "g", **options)
    assert not (tmp_path / "g").exists()
    with pytest.raises(ResumeError, match="'rule' is 'count>0' there, 'count>1' asked for"):
        make(cells, tmp_path / "g", rule="count>1", **options)
    again = []
    monkeypatch.setattr(shard_tasks, "write_shard", lambda path, graphs: again.append(path.name) or write(path, graphs))
    finished = {p.stem.replace("part", "shard") + ".zarr" for p in (tmp_path / "g.parts").glob("part-*.parquet")}
    (tmp_path / "g.parts" / "shards" / ".shard-00000001.zarr.0123456789ab").mkdir()  # of a worker that was killed
    shards = make(cells, tmp_path / "g", **options)
    assert finished  # whatever was written without its part when the run stopped is written again
    assert sorted([*finished, *again]) == shards.shards
    assert files_of(tmp_path / "g") == files_of(tmp_path / "want")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g", "want"]


def test_shards__a_shard_that_is_gone_is_made_again(cells, tmp_path, monkeypatch):
    make(cells, tmp_path / "want", shard_mb=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "tables", lambda *_: (_ for _ in ()).throw(_Stop))
        with pytest.raises(_Stop):
            make(cells, tmp_path / "g", shard_mb=0.01)
    shutil.rmtree(tmp_path / "g.parts" / "shards" / "shard-00000001.zarr")
    make(cells, tmp_path / "g", shard_mb=0.01)
    assert files_of(tmp_path / "g") == files_of(tmp_path / "want")


def test_shards__finished_ones_are_returned_or_replaced(cells, tmp_path):
    first = make(cells, tmp_path / "g")
    assert make(cells, tmp_path / "g").index.equals(first.index)
    with pytest.raises(ResumeError, match="'min_distance' is 1 there, 2 asked for"):
        make(cells, tmp_path / "g", min_distance=2)
    again = make(cells, tmp_path / "g", min_distance=2, overwrite=True)
    assert again.params["min_distance"] == 2
    assert again.index["n_edges"].sum() < first.index["n_edges"].sum()


def test_shards__the_content_of_a_track_counts(bulk, tmp_path):
    import pybigtools

    for value in (1.0, 2.0):
        pybigtools.open(str(tmp_path / "a.bw"), "w").write(LENGTHS, iter([("chr1", 0, 10, value)]))
        options = {"balance": "none", "tracks": [f"a={tmp_path}/a.bw"]}
        if value == 1:
            make(bulk, tmp_path / "g", **options)
    with pytest.raises(ResumeError, match="'files'"):
        make(bulk, tmp_path / "g", **options)


# -- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 500}, "no contacts at 500 bp; resolutions are: 1000"),
        ({"chromosomes": ["chr1", "chr9"]}, "no chromosome 'chr9'; it has chr1, chr2, chrX"),
        ({"chromosomes": ["chr1", "chr1"]}, "chromosomes 'chr1,chr1': one is there twice"),
        ({"balance": "file:SCALE"}, "carries no vector 'SCALE' at 1000 bp; it carries KR"),
        ({"balance": "best"}, "balance 'best' is unknown; choose from ice, kr"),
        ({"rule": "oe~1"}, "rule 'oe~1'"),
        ({"nodes": "cells"}, "nodes 'cells' are unknown; choose from bins, genes"),
        ({"chromosomes": ["chr1", "1"]}, "'chr1' and '1' both mean chromosome 'chr1'"),
        ({"edge_weights": ["heavy"]}, "edge weight 'heavy' is unknown"),
        ({"features": ["age"]}, "feature 'age' is unknown; choose from degree, strength"),
        ({"window": 1_500, "step": 1_000}, "window is 1500 bp; want a multiple of the resolution, 1000 bp"),
        ({"window": 4_000}, "give window and step both"),
        ({"window": 4_000, "step": 5_000}, "want 1 <= step <= size"),
        ({"window": 4_000, "step": 2_000, "inter": True}, "windows are cut from single chromosomes"),
        ({"only_with_genes": True}, "only windows with genes"),
        ({"multiome": "m.zarr"}, "give multiome and celltype both"),
        ({"tracks": ["x=a.bw"]}, "track 'x': this name is taken"),
        ({"genes": "a.csv", "expression": "b.csv"}, "give genes or expression, not both"),
        ({"cage": "none.bw"}, r"none\.bw: no such file"),
        ({"fasta": "none.fa"}, r"none\.fa: no such file"),
        ({"shard_mb": 0}, "shard_mb is 0; want more than 0"),
        ({"min_distance": -1}, "min_distance is -1"),
    ],
)
def test_graph_shards__what_is_wrong_is_named(bulk, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        make(bulk, tmp_path / "g", **options)
    assert not list(tmp_path.iterdir())


def test_graph_shards__without_edges_says_so_and_takes_an_empty_folder(bulk, tmp_path):
    (tmp_path / "g").mkdir()
    heard = []
    shards = make(bulk, tmp_path / "g", balance="none", rule="distance<=20", chromosomes="1", warn=heard.append)
    assert shards.index["n_edges"].tolist() == [0]
    assert heard == ["no contact satisfies the rule 'distance<=20' (distance is in bp): the graphs have no edges"]


def test_graph_shards__filters_that_leave_no_bin_are_named(tmp_path):
    write_contacts(tmp_path / "few", random_contacts(np.random.default_rng(1), 10))
    with pytest.raises(ChunkError, match="'ice' leaves out all bins, its filters want more contacts at 1000 bp"):
        make(tmp_path / "few", tmp_path / "g")


def test_graph_shards__genes_mark_bins_whatever_else_their_table_has(bulk, tmp_path):
    table = pd.DataFrame({"gene": ["a"], "chrom": ["1"], "start": [2_500], "end": [4_000], "tpm": [np.nan]})
    table.to_csv(tmp_path / "genes.csv", index=False)
    shards = make(bulk, tmp_path / "g", balance="none", chromosomes=["chr1"], genes=tmp_path / "genes.csv")
    (graph,) = shards.graphs()
    assert "y" not in graph.nodes
    assert np.flatnonzero(graph.nodes["gene_mask"]).tolist() == [2]


def test_graph_shards__places_are_kept(bulk, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="mine: exists and is no folder of graph shards"):
        make(bulk, tmp_path / "mine")
    with pytest.raises(InputError, match="want a path"):
        make(bulk, "s3://bucket/g")
    with pytest.raises(StoreError, match="no such store"):
        make(tmp_path / "none", tmp_path / "g")


# -- real contacts against the oracles -------------------------------------------------------------------------


def read_cool(path, **where):
    clr = cooler.Cooler(str(path))
    bins = clr.bins()[:][["chrom", "start", "end"]].astype({"chrom": str})
    return contacts_with(clr.pixels()[:].astype({"count": "int64"}), bins)


@pytest.fixture(scope="module")
def gm12878(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("gm12878") / "gm12878.contacts"
    write_contacts(out, read_cool(shared / "data" / "hic" / "gm12878.hg19.2000kb.cool"))
    return out


def test_gm12878__degrees_and_strengths_of_the_oracle(gm12878, oracle, tmp_path):
    want = oracle("hic/gm12878_2mb_node_degree")
    for rule, distance, column in (("oe>2", 1, "t2_d1"), ("oe>1", 2, "t1_d2")):
        shards = make(gm12878, tmp_path / column, rule=rule, min_distance=distance)
        x = np.concatenate([graph.nodes["x"] for graph in shards.graphs()])
        np.testing.assert_array_equal(x[:, 0], want[f"degree_{column}"])
        np.testing.assert_allclose(x[:, 1], want[f"strength_oe_{column}"], rtol=1e-6)  # x is float32
        valid = np.concatenate([graph.nodes["valid"] for graph in shards.graphs()])
        np.testing.assert_array_equal(~valid, want["masked"].astype(bool))
        assert sum(shards.params["dropped"].values()) == want["masked"].sum()


def test_gm12878__block_of_the_oracle(gm12878, oracle, tmp_path):
    table = oracle("hic/gm12878_2mb_block_chr2_11_17")
    chromosomes = ["chr2", "chr11", "chr17"]
    for rule, column in (("oe>1", "kept_oe_gt1"), ("oe>2", "kept_oe_gt2")):
        shards = make(
            gm12878, tmp_path / column, rule=rule, chromosomes=chromosomes, inter=True, edge_weights=["oe", "count"]
        )
        (graph,) = shards.graphs()
        want = table[table[column].astype(bool)].sort_values(["node1", "node2"])
        upper = graph.source > graph.target
        order = np.lexsort((graph.source[upper], graph.target[upper]))
        np.testing.assert_array_equal(graph.target[upper][order], want["node1"])
        np.testing.assert_array_equal(graph.source[upper][order], want["node2"])
        np.testing.assert_array_equal(graph.edges["count"][upper][order], want["count"])
        np.testing.assert_allclose(graph.edges["oe"][upper][order], want["oe"], rtol=1e-6)  # stored as float32


def test_nagano__degrees_of_the_oracle(shared, tmp_path):
    want = np.load(shared / "oracles" / "hic" / "nagano_20cells_pooled_and_degree.npz")
    path = shared / "data" / "hic" / "nagano_20cells.mm9.1mb.scool"
    ingest_contacts(path, tmp_path / "cells.contacts", resolution=1_000_000, progress=False)
    shards = make(tmp_path / "cells.contacts", tmp_path / "g", inter=True, shard_mb=2)
    assert len(shards.shards) > 2
    degree = {g.name: g.nodes["x"][:, 0] for g in shards.graphs()}
    cells = [str(name).rpartition("/")[2] for name in want["cells"]]
    assert sorted(degree) == sorted(cells)
    for cell, expected in zip(cells, want["degree"], strict=True):
        np.testing.assert_array_equal(degree[cell], expected)


def test_gageseq__forty_cells_of_the_oracle(shared, oracle, tmp_path):
    folder = shared / "data" / "hic" / "gageseq_mbc_chr1"
    ingest_contacts(
        sorted(folder.glob("*.pairs.gz")), tmp_path / "cells.contacts", resolution=1_000_000,
        chromsizes={"chr1": 195_471_971}, cells=folder / "cells.csv", single_cell=True, progress=False,
    )  # fmt: skip
    shards = make(tmp_path / "cells.contacts", tmp_path / "g", edge_weights=["count"])
    assert len(shards.index) == 40
    assert shards.index["cell_type_from_rna"].nunique() == 11
    assert shards.index["file"].tolist() == sorted(path.name for path in folder.glob("*.pairs.gz"))
    degree = {str(g.labels["file"]): g.nodes["x"][:, 0] for g in shards.graphs()}
    table, coo = (
        oracle("hic/gageseq_mbc_chr1_cells_1mb"),
        dict(np.load(shared / "oracles" / "hic" / "gageseq_mbc_chr1_1mb_coo.npz")),
    )
    for k, (file, n_edges) in enumerate(zip(table["file"], table["edges_no_self"], strict=True)):
        assert file == f"{coo['cell'][k]}.pairs.gz"
        bin1, bin2 = (coo[name][coo["ptr"][k] : coo["ptr"][k + 1]] for name in ("bin1", "bin2"))
        ends = np.concatenate([bin1[bin1 != bin2], bin2[bin1 != bin2]])
        np.testing.assert_array_equal(degree[file], np.bincount(ends, minlength=196))
        assert degree[file].sum() == 2 * n_edges
