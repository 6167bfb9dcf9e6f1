"""``python -m enhancer_dask.cli``."""

from enhancer_dask.cli import main

main()
