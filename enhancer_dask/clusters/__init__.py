"""Where chunks run: named profiles of cluster.yaml -> a Dask client."""

from enhancer_dask.clusters.profiles import CONFIG_NAME as CONFIG_NAME
from enhancer_dask.clusters.profiles import first_error as first_error
from enhancer_dask.clusters.profiles import read_profile as read_profile
from enhancer_dask.clusters.start import ClientSource as ClientSource
from enhancer_dask.clusters.start import client_or_threads as client_or_threads
from enhancer_dask.clusters.start import cluster as cluster
from enhancer_dask.clusters.start import kept_open as kept_open
