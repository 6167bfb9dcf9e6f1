"""What the benchmarks share: the tested pairs of the real CD14+ monocytes, and R's boot::boot on some of them.

Not a benchmark itself. Import it before numpy: it keeps BLAS to one thread, R's too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import mudata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enhancer_dask.stats.poisson import Nuisance, make_nuisance

CELLTYPE = "CD14+ Monocytes"
PAIRS_FOR_R = (  # strong, moderate, no effect (z = 7.1, 4.0, 0.7)
    ("HLA-DQB1", "chr6-32637000-32637500"),
    ("HLA-DQB1", "chr6-32589500-32590000"),
    ("ZEB2", "chr2-144661000-144661500"),
)
R_SCRIPT = Path(__file__).with_name("bootstrap_vs_r.R")
R_VERSIONS = 'cat(as.character(getRversion()), as.character(packageVersion("boot")))'


@dataclass(frozen=True, slots=True)
class Monocytes:
    """Counts of the cells of one type, and the pairs that pass SCENT's 5% rule."""

    rna: NDArray[np.int64]
    """Counts, shape (G, n)."""
    atac: NDArray[np.uint8]
    """Open or closed, shape (P, n)."""
    gene: NDArray[np.int64]
    """Row of ``rna`` of each pair, ascending, shape (L,)."""
    peak: NDArray[np.int64]
    """Row of ``atac`` of each pair, shape (L,)."""
    names: list[tuple[str, str]]
    """Gene and peak of each pair."""
    cells: pd.DataFrame
    """nUMI and percent.mito."""

    @property
    def covariates(self) -> NDArray[np.float64]:
        """log(nUMI) and percent.mito, shape (n, 2)."""
        return np.column_stack([np.log(self.cells["nUMI"].to_numpy(float)), self.cells["percent.mito"].to_numpy(float)])

    @property
    def nuisance(self) -> Nuisance:
        """The same, prepared for fits."""
        return make_nuisance(self.covariates)


def _cells_of(shared: Path) -> Any:
    mudata.set_options(pull_on_update=False)  # what it will do anyway, as a warning says
    data = mudata.read_h5mu(shared / "data" / "pbmc_multiome_tiles.h5mu")
    return data[data.obs["celltype"] == CELLTYPE]


def open_peaks(shared: Path) -> NDArray[np.uint8]:
    """All peaks that are open in more than 5% of the cells, 0/1, shape (P, n)."""
    atac: NDArray[np.bool_] = _cells_of(shared)["atac"].X.toarray().T > 0
    return atac[atac.mean(axis=1) > 0.05].astype(np.uint8)


def read_monocytes(shared: Path) -> Monocytes:
    """Read the cells of ``data`` and the 110 pairs of ``oracles/poisson_glm``."""
    table = pd.read_csv(shared / "oracles" / "poisson_glm.csv.gz")
    table = table[table["celltype"] == CELLTYPE].sort_values(["gene", "peak"])
    data = _cells_of(shared)
    (genes, gene), (peaks, peak) = (np.unique(table[dim], return_inverse=True) for dim in ("gene", "peak"))
    rna, atac = (data[part][:, list(names)].X.toarray().T for part, names in (("rna", genes), ("atac", peaks)))
    names = list(zip(table["gene"], table["peak"], strict=True))
    cells = data.obs[["nUMI", "percent.mito"]].reset_index(drop=True)
    return Monocytes(rna.astype(np.int64), (atac > 0).astype(np.uint8), gene, peak, names, cells)


def fail(message: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def parser_of(description: str) -> argparse.ArgumentParser:
    """With the options that all have: where the data are, and the short form."""
    parser = argparse.ArgumentParser(description=description)
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=beside, metavar="DIR", help="folder of data (default: beside)")
    parser.add_argument("--quick", action="store_true", help="a short form that shows that it runs")
    return parser


# -- R -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RTiming:
    """Refits of one pair by R."""

    beta: float
    """Coefficient of the peak on the original sample."""
    refits: int
    seconds: float
    """User CPU seconds."""
    boot_sd: float
    """Standard deviation of the resampled coefficients."""


def write_for_r(cells: Monocytes, pair: int, csv: Path) -> Path:
    counts, is_open = cells.rna[cells.gene[pair]], cells.atac[cells.peak[pair]]
    cells.cells.assign(exprs=counts, atac=is_open).to_csv(csv, index=False)
    return csv


def refit_r(csv: Path, n_resamples: int, seed: int) -> RTiming:
    return RTiming(**json.loads(run_r(str(R_SCRIPT), str(csv), str(n_resamples), str(seed))))


def run_r(*args: str) -> str:
    """Standard output of Rscript; ends the benchmark with R's first complaint if R fails."""
    done = subprocess.run(["Rscript", *args], capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode != 0:
        fail(f"Rscript failed: {' '.join(done.stderr.split('Execution halted')[0].split()) or 'no message'}")
    return done.stdout


def r_versions() -> dict[str, Any]:
    if shutil.which("Rscript") is None:
        fail("Rscript is not on the PATH; install R and its package boot")
    return dict(zip(("r", "boot"), run_r("-e", R_VERSIONS).split(), strict=True))
