"""Data that tests share: the folder ../shared, simulated experiments, stores, a cluster."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Numba's cache looks at the file of a kernel, not at the files of the kernels it calls, so after an edit it may serve
# old code. Here its folder is named by all of them, and by Numba's version, since two versions overwrite each other's
# index; set before numba is imported, and inherited by every process.
KERNELS = sorted((Path(__file__).resolve().parents[1] / "enhancer_dask" / "stats").glob("*.py"))
DIGEST = hashlib.blake2b(b"".join(path.read_bytes() for path in KERNELS), digest_size=8).hexdigest()
CACHE = f"enhancer-dask-numba-{version('numba')}-{DIGEST}"
os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / CACHE)

import mudata
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from enhancer_dask.io.ingest import ingest
from enhancer_dask.links.candidates import candidates
from enhancer_dask.simulate.multiome import simulate_multiome, write_simulation

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Folder of real data and oracles; absent on a user's machine, a must in CI."""
    if not SHARED.is_dir():
        reason = f"no folder {SHARED.name!r} beside the project: real data and oracles are not here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


@pytest.fixture(scope="session")
def oracle(shared):
    """Read one oracle table by name."""
    return lambda name: pd.read_csv(shared / "oracles" / f"{name}.csv.gz")


@pytest.fixture(scope="session")
def tiles(shared):
    """9,460 real PBMC: counts of three genes and 3,325 tiles."""
    return mudata.read_h5mu(shared / "data" / "pbmc_multiome_tiles.h5mu")


@pytest.fixture(scope="session")
def tiles_store(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiles") / "tiles.zarr"
    ingest(shared / "data" / "pbmc_multiome_tiles.h5mu", out)
    return out


@pytest.fixture(scope="session")
def celltype_arrays(tiles):
    """(counts of a gene, counts of a tile, covariates) in the cells of a type, in the order of the file."""

    def get(celltype, gene, peak):
        cells = tiles[tiles.obs["celltype"] == celltype]
        covariates = np.column_stack([np.log(cells.obs["nUMI"].to_numpy(float)), cells.obs["percent.mito"].to_numpy()])
        one = [np.asarray(cells[m][:, n].X.todense()).ravel() for m, n in (("rna", gene), ("atac", peak))]
        return one[0], one[1], covariates

    return get


@pytest.fixture(scope="session")
def simulation():
    """A small experiment with known links: 8 genes, two cell types."""
    return simulate_multiome(n_cells={"A": 150, "B": 110}, n_genes=8, n_background_genes=40, links_per_gene=2.0, seed=3)


@pytest.fixture(scope="session")
def simulated(simulation, tmp_path_factory):
    """Its files, by name."""
    return write_simulation(simulation, tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="session")
def store(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "multiome.zarr"
    ingest(simulated["multiome"], out, cells=simulated["cells"], gtf=simulated["gtf"])
    return out


@pytest.fixture(scope="session")
def pairs(store, tmp_path_factory):
    """Candidate pairs of the simulated store, as a file."""
    out = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    candidates(store, out)
    return out


@pytest.fixture(scope="session")
def client():
    """Two worker processes, found only by who asks for them."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as connected,  # a test that wants it names it
    ):
        yield connected


@pytest.fixture
def workplace(tmp_path, store, pairs, simulated):
    """A folder with everything good in it, to spoil one thing at a time."""
    shutil.copytree(store, tmp_path / "good.zarr")
    shutil.copy(pairs, tmp_path / "pairs.parquet")
    for path in simulated.values():
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture
def one_worker(workplace):
    """Make the profile ``local`` mean one worker: where two are not needed, the second takes longest to start."""
    (workplace / "cluster.yaml").write_text("local: {kind: local, n_workers: 1}\n")
