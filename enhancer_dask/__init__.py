"""Enhancer-gene links from single-cell multiome data, computed chunk by chunk with Dask.

>>> import enhancer_dask as ed
>>> sorted(ed.__all__)
['candidate_pairs', 'candidates', 'census', 'cluster', 'contact_graph', 'enhancer_pairs', 'epistasis', 'evaluate',
 'explain', 'graph_shards', 'ingest', 'ingest_contacts', 'open_store', 'predict', 'read_contacts', 'read_vectors',
 'reproduce_bell', 'run', 'scent', 'simulate_cells', 'simulate_chromosomes', 'simulate_enhancer_pairs',
 'simulate_multiome', 'train', 'tune']

Graph models are built by ``ed.models.build``. They, ``train``, ``tune``, ``predict``, ``evaluate``, ``explain`` (the
command ``attribute``) and ``reproduce_bell`` need ``pip install 'enhancer-dask[gnn]'``. Names are loaded when first
used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from enhancer_dask._version import __version__ as __version__

if TYPE_CHECKING:
    from enhancer_dask import models as models
    from enhancer_dask.clusters import cluster as cluster
    from enhancer_dask.graphs.build import graph_shards as graph_shards
    from enhancer_dask.graphs.edges import contact_graph as contact_graph
    from enhancer_dask.interactions.census import census as census
    from enhancer_dask.interactions.epistasis import epistasis as epistasis
    from enhancer_dask.interactions.pairs import enhancer_pairs as enhancer_pairs
    from enhancer_dask.io.contact_ingest import ingest_contacts as ingest_contacts
    from enhancer_dask.io.contacts import read_contacts as read_contacts
    from enhancer_dask.io.contacts import read_vectors as read_vectors
    from enhancer_dask.io.ingest import ingest as ingest
    from enhancer_dask.links.candidates import candidate_pairs as candidate_pairs
    from enhancer_dask.links.candidates import candidates as candidates
    from enhancer_dask.links.scent import scent as scent
    from enhancer_dask.models.evaluation import evaluate as evaluate
    from enhancer_dask.models.explaining import explain as explain
    from enhancer_dask.models.predictions import predict as predict
    from enhancer_dask.models.training import train as train
    from enhancer_dask.models.tuning import tune as tune
    from enhancer_dask.pipeline import run as run
    from enhancer_dask.reproduction import reproduce_bell as reproduce_bell
    from enhancer_dask.simulate.cell_shards import simulate_cells as simulate_cells
    from enhancer_dask.simulate.chromosomes import simulate_chromosomes as simulate_chromosomes
    from enhancer_dask.simulate.enhancer_pairs import simulate_enhancer_pairs as simulate_enhancer_pairs
    from enhancer_dask.simulate.multiome import simulate_multiome as simulate_multiome
    from enhancer_dask.stores import open_store as open_store

_WHERE = {
    "candidate_pairs": "enhancer_dask.links.candidates",
    "candidates": "enhancer_dask.links.candidates",
    "census": "enhancer_dask.interactions.census",
    "cluster": "enhancer_dask.clusters",
    "contact_graph": "enhancer_dask.graphs.edges",
    "enhancer_pairs": "enhancer_dask.interactions.pairs",
    "epistasis": "enhancer_dask.interactions.epistasis",
    "evaluate": "enhancer_dask.models.evaluation",
    "explain": "enhancer_dask.models.explaining",
    "graph_shards": "enhancer_dask.graphs.build",
    "ingest": "enhancer_dask.io.ingest",
    "ingest_contacts": "enhancer_dask.io.contact_ingest",
    "open_store": "enhancer_dask.stores",
    "predict": "enhancer_dask.models.predictions",
    "read_contacts": "enhancer_dask.io.contacts",
    "read_vectors": "enhancer_dask.io.contacts",
    "reproduce_bell": "enhancer_dask.reproduction",
    "run": "enhancer_dask.pipeline",
    "scent": "enhancer_dask.links.scent",
    "simulate_cells": "enhancer_dask.simulate.cell_shards",
    "simulate_chromosomes": "enhancer_dask.simulate.chromosomes",
    "simulate_enhancer_pairs": "enhancer_dask.simulate.enhancer_pairs",
    "simulate_multiome": "enhancer_dask.simulate.multiome",
    "train": "enhancer_dask.models.training",
    "tune": "enhancer_dask.models.tuning",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name == "models":
        return import_module("enhancer_dask.models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__, "models"]
