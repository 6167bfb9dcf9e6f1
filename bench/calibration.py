"""Are the p-values uniform where nothing is there, and what do they find where something is?

    python bench/calibration.py [--quick] [--skip-power] [--shared DIR] [--figure FILE]

**Null.** Real genes' counts, with their cells' covariates, against real peaks whose cells are permuted, a fresh
permutation for each of 5,000 pairs: nothing is linked, and depth is not shared. Two sets of cells:

* ``monocytes``: 2,597 CD14+ monocytes, the two genes above SCENT's 5%, covariates log(nUMI) and percent.mito;
* ``k562``: 500 cells with many genes above 5%, drawn at random, one a pair; nUMI and the mitochondrial share from the
  counts. No peaks of these cells are at hand, so the peaks are those of the monocytes, cut to 500 cells.

For p_saddle, SCENT's ladder, and Wald: ``ks`` and ``ks_p`` (Kolmogorov-Smirnov against uniform; for the ladder, whose
p-values are multiples of 0.02 on its first rung, against simulated climbs of perfect tests), and ``below``: the shares
at or below 0.1, 0.05, 0.01 and 0.001 beside the 99% binomial ``bounds`` of as many uniform draws. ``saddle`` holds the
ladder's p-value where the saddlepoint is not to be trusted (its ties make ``ks_p`` too small), ``trusted`` only the
others. ``status`` counts the pairs that cannot be tested.

**Power.** ``simulate_multiome``, 250 genes and one cell type, log fold changes 0.5 (sd 0.25, at least 0.2, 84%
positive), over several seeds; covariates log(nUMI) and log(nATAC), all candidates within 500 kb; three scenarios of
cells and links per gene. Discoveries at FDR 0.1 (Benjamini-Hochberg), ``true`` ones among them, ``power``, their share
of the tested true links, and ``false_share``, the realised false discovery share, pooled over seeds, with its standard
error from them: for p_saddle, for SCENT's ladder, for the ladder cut at 2,500, and for Wald.

The last line printed is one JSON object; the figure, docs/calibration.svg, is drawn where matplotlib is installed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import monocytes  # beside this file; keeps BLAS to one thread, so it comes before numpy

# isort: split
import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from enhancer_dask.links.pair_tests import Options, scent_block
from enhancer_dask.links.scent import benjamini_hochberg
from enhancer_dask.simulate.multiome import WINDOW, SimulatedMultiome, simulate_multiome
from enhancer_dask.stats.bootstrap import SCENT_LADDER, up_to

Floats = NDArray[np.float64]
LEVELS = (0.1, 0.05, 0.01, 0.001)
METHODS = {"saddle": "p_saddle", "ladder": "boot_basic_p", "wald": "p"}
FDR = 0.1
BLOCK = 500
SCENARIOS = ((500, 1.0), (2_000, 1.0), (2_000, 0.2))  # cells, links per gene


# -- null --------------------------------------------------------------------------------------------------


def frequent(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows that are non-zero in more than 5% of the cells."""
    return rows[np.count_nonzero(rows, axis=1) > 0.05 * rows.shape[1]]


def null_cells(shared: Path, name: str) -> tuple[NDArray[np.int64], Floats]:
    """Counts of the genes above 5%, shape (G, n), and covariates, shape (n, 2)."""
    if name == "monocytes":
        cells = monocytes.read_monocytes(shared)
        return frequent(cells.rna), cells.covariates
    data = anndata.read_h5ad(shared / "data" / "multiome_chr22_rna.h5ad")
    counts = data.X.toarray().T.astype(np.int64)
    n_umi = counts.sum(axis=0)
    mito = counts[data.var_names.str.startswith("MT-")].sum(axis=0) / n_umi
    return frequent(counts), np.column_stack([np.log(n_umi), mito])


def null_pairs(shared: Path, name: str, n_pairs: int, rng: np.random.Generator) -> pd.DataFrame:
    """p-values of real genes on permuted peaks."""
    rna, covariates = null_cells(shared, name)
    peaks, n = monocytes.open_peaks(shared), rna.shape[1]
    gene, source = rng.integers(len(rna), size=n_pairs), rng.integers(len(peaks), size=n_pairs)
    parts = []
    for start in range(0, n_pairs, BLOCK):
        here = slice(start, min(start + BLOCK, n_pairs))
        atac = np.array([rng.permutation(peaks[k])[:n] for k in source[here]])
        genes, row = np.unique(gene[here], return_inverse=True)
        order = np.argsort(row, kind="stable")
        parts.append(scent_block(rna[genes], atac, row[order], order, covariates, celltype=f"{name} {start}"))
    return pd.concat(parts, ignore_index=True)


def uniformity(p: pd.Series) -> dict[str, Any]:
    """Kolmogorov-Smirnov test, and shares at the levels with their bounds."""
    n, test = len(p), stats.kstest(p, "uniform")
    bounds = [[round(float(k) / n, 4) for k in stats.binom.interval(0.99, n, level)] for level in LEVELS]
    below = [round(float((p <= level).mean()), 4) for level in LEVELS]
    return {
        "n": n, "ks": round(float(test.statistic), 4), "ks_p": float(f"{test.pvalue:.2g}"), "below": below,
        "bounds": bounds,
    }  # fmt: skip


def ladder_of_perfect_tests(n: int, rng: np.random.Generator) -> Floats:
    """What the ladder makes of n bootstrap tails that are uniform."""
    tail, p, active = rng.random(n), np.empty(n), np.arange(n)
    for size, climb_below in SCENT_LADDER:
        k = rng.binomial(size, tail[active])
        p[active] = np.maximum(2.0 * np.minimum(k, size - k), 2.0) / size
        active = active[p[active] < climb_below]
    return p


def ladder_ks_p(ks: float, n: int, simulations: int = 400) -> float:
    """Chance of a Kolmogorov-Smirnov distance as large if the tests are perfect."""
    rng = np.random.default_rng(1)
    larger = [stats.kstest(ladder_of_perfect_tests(n, rng), "uniform").statistic >= ks for _ in range(simulations)]
    return (1 + sum(larger)) / (1 + simulations)


def calibration_of(table: pd.DataFrame) -> dict[str, Any]:
    """By method, and for p_saddle where it is to be trusted."""
    tested = table[table["status"] == "tested"]
    out: dict[str, Any] = {"status": table["status"].value_counts().to_dict()}
    out |= {name: uniformity(tested[column]) for name, column in METHODS.items()}
    out["ladder"]["ks_p"] = round(ladder_ks_p(out["ladder"]["ks"], len(tested)), 4)
    return out | {"trusted": uniformity(tested.loc[tested["saddle_status"] == "trusted", "p_saddle"])}


# -- power -------------------------------------------------------------------------------------------------


def candidates(sim: SimulatedMultiome) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genes and peaks within ``WINDOW`` of each other, by gene."""
    same = sim.genes["chrom"].to_numpy()[:, None] == sim.peaks["chrom"].to_numpy()
    begin, end = (sim.genes[name].to_numpy()[:, None] for name in ("start", "end"))
    near = (sim.peaks["start"].to_numpy() < end + WINDOW) & (sim.peaks["end"].to_numpy() > begin - WINDOW)
    gene, peak = np.nonzero(same & near)
    return gene, peak


def simulated_links(n_cells: int, links_per_gene: float, n_genes: int, seed: int) -> pd.DataFrame:
    """p-values of all candidates of one simulation, and whether they are true links."""
    sim = simulate_multiome(
        n_cells={"A": n_cells}, n_genes=n_genes, links_per_gene=links_per_gene, effect_mean=0.5, seed=seed
    )
    covariates = np.log(np.column_stack([sim.rna.sum(axis=0), sim.atac.sum(axis=0)]))
    gene, peak = candidates(sim)
    options = Options(seed=seed)
    table = scent_block(sim.rna, sim.atac, gene, peak, covariates, celltype="A", options=options)
    cut = replace(options, p="ladder", ladder=up_to(2_500))
    table["cut"] = scent_block(sim.rna, sim.atac, gene, peak, covariates, celltype="A", options=cut)["boot_basic_p"]
    links = pd.MultiIndex.from_frame(sim.truth[["gene", "peak"]])
    named = pd.MultiIndex.from_arrays([sim.genes["name"].to_numpy()[gene], sim.peaks["name"].to_numpy()[peak]])
    return table.assign(true=named.isin(links))[table["status"] == "tested"]


def power_of(tables: list[pd.DataFrame]) -> dict[str, Any]:
    """Discoveries at ``FDR`` within each simulation, pooled."""
    true = sum(int(table["true"].sum()) for table in tables)
    out: dict[str, Any] = {"tested": sum(map(len, tables)), "true_links": true}
    for name, column in (METHODS | {"ladder_2500": "cut"}).items():
        found = [table["true"][benjamini_hochberg(table[column].to_numpy()) < FDR] for table in tables]
        n, right = sum(map(len, found)), sum(int(hits.sum()) for hits in found)
        shares = [1.0 - float(hits.mean()) if len(hits) else 0.0 for hits in found]
        out[name] = {
            "found": n,
            "true": right,
            "power": round(right / true, 4),
            "false_share": round((n - right) / max(1, n), 4),
            "false_share_se": round(float(np.std(shares, ddof=1) / np.sqrt(len(shares))), 4),
        }
    return out


# -- figure ------------------------------------------------------------------------------------------------


def draw(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Observed against expected p-values, with the pointwise 99% band of uniform ones."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "calibration", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(tables), figsize=(4.2 * len(tables), 3.6), constrained_layout=True)
    for panel, (title, table) in zip(np.atleast_1d(panels), tables.items(), strict=True):
        table = table[table["status"] == "tested"]
        n = len(table)
        ranks = np.unique(np.geomspace(1, n, 60).astype(int))
        expected = -np.log10(ranks / (n + 1))
        low, high = (-np.log10(stats.beta.ppf(q, ranks, n + 1 - ranks)) for q in (0.995, 0.005))
        panel.fill_between(expected, low, high, color="0.85", linewidth=0, label="uniform, 99%")
        panel.plot(expected, expected, color="0.5", linewidth=0.8)
        for (name, column), style in zip(METHODS.items(), ("-", "--", ":"), strict=True):
            observed = -np.log10(np.sort(table[column].to_numpy())[ranks - 1])
            panel.plot(expected, observed, style, linewidth=1.5, label=name)
        panel.set(title=title, xlabel="expected -log10 p", ylabel="observed -log10 p", ylim=(0, 8))
        panel.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = monocytes.parser_of(__doc__.splitlines()[0])
    parser.add_argument("--skip-power", action="store_true", help="only the null")
    parser.add_argument("--figure", type=Path, help="where to draw the QQ figure (default: nowhere)")
    args = parser.parse_args()
    n_pairs, n_genes, seeds = (500, 40, 2) if args.quick else (5_000, 250, 4)
    rng, began = np.random.default_rng(0), time.perf_counter()
    nulls = {name: null_pairs(args.shared, name, n_pairs, rng) for name in ("monocytes", "k562")}
    print(f"null done after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    result: dict[str, Any] = {"bench": "calibration", "pairs": n_pairs, "quick": args.quick}
    result |= {"levels": LEVELS, "simulations": seeds, "fdr": FDR}
    result["null"] = {name: calibration_of(table) for name, table in nulls.items()}
    result["power"] = {
        f"{n_cells} cells, {links} links a gene": power_of(
            [simulated_links(n_cells, links, n_genes, seed) for seed in range(seeds)]
        )
        for n_cells, links in (() if args.skip_power else SCENARIOS)
    }
    result["seconds"] = round(time.perf_counter() - began)
    if args.figure:
        draw({"2,597 monocytes, 2 genes": nulls["monocytes"], "500 K562 cells, many genes": nulls["k562"]}, args.figure)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
