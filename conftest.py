"""Doctests of modules that need an optional extra are left out where that is missing."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch_geometric") else ["enhancer_dask/models/*"]
