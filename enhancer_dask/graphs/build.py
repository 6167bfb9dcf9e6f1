"""Contacts -> graph shards, one Dask task each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from enhancer_dask.clusters import ClientSource
from enhancer_dask.contact_store import ContactStore
from enhancer_dask.errors import InputError
from enhancer_dask.graphs.expression import expressed_genes, is_multiome
from enhancer_dask.graphs.genes import read_genes
from enhancer_dask.graphs.nodes import check_names, feature_names
from enhancer_dask.graphs.recipe import OF_EDGES, Recipe, check_edges
from enhancer_dask.graphs.sequence import check_fasta
from enhancer_dask.graphs.shard_work import make_shards, plan_shards
from enhancer_dask.graphs.tracks import Track, check_track, parse_track
from enhancer_dask.graphs.windows import in_bins
from enhancer_dask.io.chromosomes import named_chromosomes
from enhancer_dask.io.files import is_url
from enhancer_dask.io.pixels import chromosome_lengths
from enhancer_dask.shard_store import ShardStore
from enhancer_dask.stores import MultiomeStore, located


def graph_shards(
    store: str | Path,
    out: str | Path,
    *,
    resolution: int | None = None,
    rule: str | None = None,
    balance: str | None = None,
    min_distance: int = 1,
    chromosomes: str | Sequence[str] | None = None,
    inter: bool = False,
    nodes: str = "bins",
    edge_weights: str | Sequence[str] | None = None,
    window: int | None = None,
    step: int | None = None,
    only_with_genes: bool = False,
    features: Sequence[str] = OF_EDGES,
    tracks: Sequence[Track | str] = (),
    fasta: str | Path | None = None,
    multiome: str | Path | None = None,
    celltype: str | None = None,
    cage: str | Path | None = None,
    genes: str | Path | None = None,
    expression: str | Path | None = None,
    shard_mb: float = 32,
    client: ClientSource | None = None,
    progress: bool = True,
    overwrite: bool = False,
    warn: Callable[[str], None] | None = None,
) -> ShardStore:
    """Make graphs of contacts, with features and targets of their nodes, as shards for training.

    Bulk contacts become one graph per chromosome or window, or, with ``inter``, one of all the chromosomes chosen;
    contacts of single cells one graph per cell. Nodes are bins or genes, also those without edges.

    Parameters
    ----------
    store : path
        Contact store of :func:`enhancer_dask.ingest_contacts`.
    out : path
        Folder of shards to write; its parts lie in ``<out>.parts`` meanwhile, and the same call after an interruption
        goes on where it stopped.
    resolution : int, optional
        Size of the bins, bp; may be left out if the store has one only.
    rule : str, optional
        Which contacts are edges, see :func:`enhancer_dask.graphs.rules.parse_rule`; by default ``oe>1``, of single
        cells ``count>0``.
    balance : str, optional
        ``ice`` (default for bulk), ``kr``, ``vc``, ``vc_sqrt`` of the whole genome, ``none`` (default for cells), or
        ``file:NAME`` for a vector that the contact file carried. Cells are balanced one by one; one with too few
        contacts for it has no edges and no ``valid`` node.
    min_distance : int
        Least separation of an edge within a chromosome, bins.
    chromosomes : sequence of str, optional
        All if not given.
    inter : bool
        Also contacts between the chromosomes.
    nodes : str
        ``bins``, or ``genes`` of ``genes`` or ``expression``: two genes are linked where the bins of their start sites
        are, genes of one bin are not; everything known of a bin is known of its genes. Variable ``gene`` is the
        position in ``params["genes"]``.
    edge_weights : sequence of str, optional
        Variables of the edges, see :func:`enhancer_dask.graphs.edges.edge_weights`; by default log_count and oe, of
        single cells log_count.
    window, step : int, optional
        Cut chromosomes into windows of ``window`` bp every ``step`` bp, see
        :func:`enhancer_dask.graphs.windows.windows`; Epi-GraphReg [1]_ has 6 Mb and 2 Mb.
    only_with_genes : bool
        Leave out windows in whose loss mask no gene of ``genes`` or ``expression`` starts.
    features : sequence of str
        Of ``degree`` (neighbours in the graph) and ``strength`` (sum of O/E over the edges, of single cells of
        counts).
    tracks : sequence of Track or str
        bigWig files, see :class:`~enhancer_dask.graphs.tracks.Track`; as text ``NAME=PATH,mean,log2,100bp``.
    fasta : path, optional
        Reference sequence: variable ``sequence``, uint8, shape (N, resolution).
    multiome, celltype : path and str, optional
        Multiome store and a type of its cells: feature ``accessibility``.
    cage : path, optional
        bigWig whose sum in each bin is the target ``y``.
    genes : path, optional
        Table or GTF of genes: variable ``gene_mask``, where they start; see
        :func:`enhancer_dask.graphs.genes.read_genes`.
    expression : path, optional
        Bulk: table of genes with values, the target ``y`` at the bin where each gene starts, and ``gene_mask``. Single
        cells: table with a column ``cell`` and one per gene, or a multiome store with the same cells: ``expression``,
        shape (genes,) of each graph.
    shard_mb : float
        Graphs of a shard, at most, uncompressed; a larger graph is a shard by itself.
    client, progress, overwrite, warn
        As in :func:`enhancer_dask.scent`.

    Returns
    -------
    ShardStore
        Nodes have ``bin`` (id), ``valid`` (has a weight), ``loss_mask``, ``x`` (N, features) and what was asked for;
        ``params["x"]`` names the columns of ``x``, ``params["expressed"]`` the genes. Index columns chrom, start, end
        (bp), or cell and what the contact store knows of cells.

    Raises
    ------
    InputError
        On unknown names, files of another assembly, or options that do not go together.
    StoreError, ResumeError, ChunkError
        See :mod:`enhancer_dask.errors`.

    Notes
    -----
    The shards are the same to the byte for any number of workers. A task opens its inputs itself; its memory is linear
    in the contacts of its graphs, no dense adjacency is made.

    References
    ----------
    .. [1] Karbalayghareh et al. (2022), Genome Research 32, 930-944.
    """
    out = _output(out)
    chromosomes = [chromosomes] if isinstance(chromosomes, str) else chromosomes
    edge_weights = [edge_weights] if isinstance(edge_weights, str) else edge_weights
    contacts = ContactStore(Path(store).absolute())
    size = _resolution(contacts, resolution)
    cells = bool(contacts.cells)
    recipe = Recipe(
        contacts.path, contacts.fingerprint, size, named_chromosomes(chromosomes or contacts.chroms, contacts.chroms),
        cells,
        rule=rule or ("count>0" if cells else "oe>1"), balance=balance or ("none" if cells else "ice"),
        min_distance=min_distance, inter=inter, nodes=nodes,
        edge_weights=tuple(("log_count",) if cells else ("log_count", "oe")) if edge_weights is None
        else tuple(edge_weights),
        window=None if window is None else in_bins(window, size, "window"),
        step=None if step is None else in_bins(step, size, "step"),
        only_with_genes=only_with_genes, features=tuple(features),
        tracks=tuple(_absolute(parse_track(track) if isinstance(track, str) else track) for track in tracks),
        fasta=_path(fasta), multiome=None if multiome is None else located(multiome), celltype=celltype,
        cage=None if cage is None else Track("cage", Path(cage).absolute(), "sum"),
        genes=_path(genes) if cells else _genes(genes, expression),
        gene_values=not cells and expression is not None,
        expression=located(expression) if cells and expression is not None else None,
    )  # fmt: skip
    bins = contacts.bins(size)
    _check_options(recipe, contacts)
    more = _check_inputs(recipe, contacts, bins)
    stages = plan_shards(recipe, contacts, bins, more, out, shard_mb)
    return make_shards(
        stages, recipe, out, client, progress=progress, overwrite=overwrite, warn=warn or _python_warning
    )


def _output(out: str | Path) -> Path:
    if is_url(out):
        raise InputError(f"{out}: shards are written to a file system, want a path; copy the finished folder there")
    out = Path(out).absolute()
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty and not (out / "shards.json").exists():
        raise InputError(f"{out}: exists and is no folder of graph shards; choose another name")
    return out


def _resolution(store: ContactStore, resolution: int | None) -> int:
    if resolution is not None:
        return store.check(resolution)
    if len(store.resolutions) != 1:
        known = ", ".join(map(str, store.resolutions))
        raise InputError(f"{store.path}: has several resolutions, name one: {known}")
    return store.resolutions[0]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).absolute()


def _absolute(track: Track) -> Track:
    return Track(track.name, Path(track.path).absolute(), track.summary, track.log2, track.bp)


def _genes(genes: str | Path | None, expression: str | Path | None) -> Path | None:
    if genes is not None and expression is not None:
        raise InputError("bulk contacts: the table of expression has the genes; give genes or expression, not both")
    return _path(genes if expression is None else expression)


def _check_options(recipe: Recipe, store: ContactStore) -> None:
    """Refuse options that do not go together or with the contacts."""
    unknown = [name for name in recipe.chromosomes if name not in store.chroms]
    if unknown:
        raise InputError(f"{store.path}: no chromosome {unknown[0]!r}; it has {', '.join(store.chroms)}")
    if len(set(recipe.chromosomes)) < len(recipe.chromosomes):
        raise InputError(f"chromosomes {','.join(recipe.chromosomes)!r}: one is there twice")
    check_edges(recipe, list(store.vectors(recipe.resolution)))
    check_names(recipe)
    if recipe.nodes == "genes" and recipe.genes is None:
        raise InputError(
            "nodes 'genes': give genes, or of bulk contacts expression, with the genes and where they start"
        )
    if (recipe.window is None) != (recipe.step is None):
        raise InputError("give window and step both, or neither")
    if recipe.window is not None and (recipe.inter or recipe.cells):
        raise InputError("windows are cut from single chromosomes of bulk contacts; leave out inter or window")
    if recipe.only_with_genes and (recipe.genes is None or recipe.window is None):
        raise InputError("only windows with genes: give window and step, and genes or expression")
    if (recipe.multiome is None) != (recipe.celltype is None):
        raise InputError("accessibility: give multiome and celltype both, or neither")


def _check_inputs(recipe: Recipe, store: ContactStore, bins: pd.DataFrame) -> dict[str, Any]:
    """Look at all other inputs before the first task; returns what else the shards depend on."""
    lengths = chromosome_lengths(bins)
    for track in (*recipe.tracks, *([] if recipe.cage is None else [recipe.cage])):
        check_track(track, lengths, recipe.resolution)
    if recipe.fasta is not None:
        check_fasta(recipe.fasta, {chrom: lengths[chrom] for chrom in recipe.chromosomes})
    more: dict[str, Any] = {}
    if recipe.multiome is not None:
        multiome = MultiomeStore(recipe.multiome)
        multiome.cells_of(str(recipe.celltype))
        more["multiome"] = multiome.fingerprint
    if recipe.genes is not None:
        genes = read_genes(recipe.genes, bins, values=recipe.gene_values)
        columns = genes.columns
        if recipe.nodes == "genes":
            more["genes"] = list(genes.names)
        if recipe.cage is not None and columns:
            raise InputError(
                f"{recipe.genes}: has values ({', '.join(columns)}) and cage is given, too: y would be both"
            )
        more["y"] = list(columns)
    if recipe.expression is not None:
        more["expressed"] = expressed_genes(recipe.expression, store.cells)
        if is_multiome(recipe.expression):
            more["expression"] = MultiomeStore(recipe.expression).fingerprint
    return {**more, "x": feature_names(recipe)}


def summary(shards: ShardStore) -> dict[str, Any]:
    """What a folder of graph shards holds, as JSON values."""
    index = shards.index
    return {
        "n_shards": len(shards.shards),
        "n_graphs": len(index),
        "n_nodes": int(index["n_nodes"].sum()),
        "n_edges": int(index["n_edges"].sum()),
        "bytes": int(index["nbytes"].sum()),
        "dropped": shards.params.get("dropped", {}),
    }


def _python_warning(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
