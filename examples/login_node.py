"""What ``enhancer-dask run run.yaml --profile slurm`` does, in Python: from files to enhancer pairs on a cluster.

    nohup python login_node.py filtered_feature_bc_matrix.h5 --cells cells.tsv --gtf genes.gtf.gz --profile slurm &

Start it on the login node, in a folder that all nodes see. The profiles are those of ``cluster.yaml`` there. Stop it in
any way and start it again with the same arguments: it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import enhancer_dask as ed


def main() -> None:
    """Ingest and pair on this machine, test on the cluster."""
    options = parse()
    out: Path = options.out
    store = out / "multiome.zarr"
    ed.ingest(options.inputs, store, cells=options.cells, gtf=options.gtf)
    pairs = ed.candidates(store, out / "pairs.parquet")

    # Jobs are submitted here and cancelled at the end of the block, however it ends. With adapt=(0, 50) instead of the
    # profile's own number there are as many as the work can use.
    with ed.cluster(options.profile, adapt=options.adapt and tuple(options.adapt), config=options.cluster) as client:
        print("dashboard:", client.dashboard_link, flush=True)
        links = ed.scent(
            store, pairs, celltype=options.celltype, covariates=options.covariates, out=out / "links.parquet",
            client=client,
        )  # fmt: skip
        found = ed.enhancer_pairs(links, fdr=0.1)
        if len(found):
            table = ed.epistasis(store, found, options.celltype, out=out / "epistasis.parquet", client=client)
            print(table["verdict"].value_counts().to_string())
    print(f"{(links['fdr'] < 0.1).sum()} links of {len(links)}, {len(found)} enhancer pairs: {out}")


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="10x multiome .h5 or .h5mu; name=path for samples")
    parser.add_argument("--cells", help="table with columns barcode, celltype, ...")
    parser.add_argument("--gtf", help="gene coordinates, plain or .gz")
    parser.add_argument("--celltype", action="append", help="may be repeated [default: all]")
    parser.add_argument("--covariates", default="log(nUMI),percent.mito", help="comma-separated terms")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results")
    parser.add_argument("--profile", default="local", help="of cluster.yaml")
    parser.add_argument("--adapt", nargs=2, type=int, metavar=("MIN", "MAX"), help="jobs, as the work needs them")
    parser.add_argument("--cluster", help="file of profiles [default: ./cluster.yaml if there]")
    return parser.parse_args()


if __name__ == "__main__":  # workers import this file, too
    main()
