"""The tables of Bell's report once more: every model on both sets of synthetic chromosomes, beside the published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from enhancer_dask import chunks
from enhancer_dask.chunks.parts import claim
from enhancer_dask.clusters import ClientSource, client_or_threads
from enhancer_dask.errors import InputError, StoreError
from enhancer_dask.io.files import remove_at_once, staged
from enhancer_dask.io.tables import check_params, read_meta, read_table, write_parquet
from enhancer_dask.shard_store import ShardStore
from enhancer_dask.simulate.chromosomes import PRESETS, irreducible_error, preset_design, simulate_chromosomes

if TYPE_CHECKING:
    from enhancer_dask.models.runs import Run

DATASETS = tuple(PRESETS)
MODELS = (
    "epi-cnn", "epi-graphreg", "gcn", "gat", "gatv2", "mean", "sum", "ridge", "nnls", "two-way-windows",
)  # fmt: skip
POOL = "two-way-windows-pool"
"""The same model trained on many simulated chromosomes instead of 20."""
PUBLISHED = {
    ("enhancers", "epi-cnn"): (1.105, 0.373),
    ("enhancers", "epi-graphreg"): (0.199, 0.045),
    ("silencers", "epi-cnn"): (0.524, 0.189),
    ("silencers", "epi-graphreg"): (0.140, 0.062),
}
"""Data set and model -> test MSE and MSE over regions of interest, of five test chromosomes."""
N_TRAIN, N_VALIDATION = 20, 5
POOL_SEED = 1_000_000  # chromosomes that no table is judged by
# trained in batches of many chromosomes: (epochs, batch size) of a pool
POOL_TRAINING = {"epochs": 15, "batch_size": 50, "check_every": 5, "loss": "mse", "lr": 1e-2, "weight_decay": 0.0,
                 "gradient_clip": 0.05}  # fmt: skip
POOL_OPTIONS = {"rounds": 4, "replicas": 2, "kept": 1}
COLUMNS = ("dataset", "model", "seed", "parameters", "test_mse", "roi_mse", "roi_window_mse", "floor_mse", "train_s",
           "best_epoch", "epochs", "published_mse", "published_roi_mse")  # fmt: skip
CAVEAT = (
    "A plain ridge regression on linked windows solves the data set 'enhancers': there a model shows no more than that "
    "it reads the edges. 'silencers' is the test."
)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What one call of :func:`reproduce_bell` made."""

    table: pd.DataFrame
    """One row per data set, model and seed."""
    summary: pd.DataFrame
    """Means over seeds, beside the published numbers."""
    files: list[Path]


def reproduce_bell(
    out: str | Path,
    *,
    seeds: int = 3,
    seed_offset: int = 0,
    test_chromosomes: int = 5,
    models: Sequence[str] | None = None,
    epochs: int | None = None,
    patience: int | None = 200,
    pool: int = 0,
    client: ClientSource | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Reproduction:
    """Train every model on both data sets of Bell's report [1]_ with several seeds, and compare.

    Parameters
    ----------
    out : path
        Folder of ``table.csv``, ``summary.csv``, the figure, and below it ``data`` (shards) and ``runs``. The same call
        again does what is missing.
    seeds : int
        Data sets of each kind; a seed draws the chromosomes and the first weights.
    seed_offset : int
        Number of the first seed.
    test_chromosomes : int
        Per data set. Five, as published, swing too much to judge by; 200 are better.
    models : sequence of str, optional
        By default ``MODELS``.
    epochs : int, optional
        At most, for every model; by default what each was published with.
    patience : int, optional
        Epochs without a better validation before a training stops; the best epoch counts in any case.
    pool : int
        If above 0, train ``two-way-windows`` on so many simulated chromosomes, too.
    client : distributed.Client or function, optional
        Where the trainings run; by default in this process.
    progress, overwrite : bool

    Returns
    -------
    Reproduction

    Raises
    ------
    InputError
        If a number makes no sense or a model is unknown.
    ResumeError
        If ``out`` was made with other parameters.
    ChunkError
        If a training failed; the others are kept.

    Notes
    -----
    ``roi_mse`` is the published definition, ``roi_window_mse`` the mean over the bins up to 5 from a gene; see
    :mod:`enhancer_dask.models.metrics`. ``floor_mse`` is the variance of the noise in the test chromosomes.

    References
    ----------
    .. [1] Bell, Predicting Gene Regulation and Expression with Graph Neural Networks.
    """
    out, names = Path(out), _models(models)
    for label, value, least in (
        ("seeds", seeds, 1), ("seed_offset", seed_offset, 0), ("test_chromosomes", test_chromosomes, 1),
        ("pool", pool, 0), ("epochs", epochs, 1), ("patience", patience, 1),
    ):  # fmt: skip
        if value is not None and value < least:
            raise InputError(f"{label} is {value}, want at least {least}")
    names += [POOL] if pool else []
    trials = [
        (dataset, seed, name)
        for dataset in DATASETS for seed in range(seed_offset, seed_offset + seeds) for name in names
    ]  # fmt: skip
    settings = {"test_chromosomes": test_chromosomes, "epochs": epochs, "patience": patience, "pool": pool}
    asked = {"stage": "reproduce bell", "seeds": [seed_offset, seeds], "models": names, **settings}
    work = chunks.Work(
        "reproduce", reproduce_chunk, lambda i: (out.absolute(), *trials[i], {**settings, "overwrite": overwrite}),
        len(trials), asked, {}, out.absolute().with_name(f"{out.absolute().name}.parts"),
    )  # fmt: skip
    file = out / "table.parquet"
    if overwrite:
        chunks.discard(work, file)
    if not file.exists():
        claim(work)  # before data of other parameters are replaced
        write_chromosomes(out / "data", {(d, s) for d, s, _ in trials}, test_chromosomes, pool)
        with client_or_threads(client) as running:
            chunks.run(work, running, progress=progress)
        rows = pd.concat([part.to_pandas() for part in chunks.tables(work)], ignore_index=True)
        write_parquet(rows, file, meta={"params": asked})
        remove_at_once(work.folder)
    check_params(out, read_meta(file).get("params", {}), asked)
    table = read_table(file)
    return Reproduction(table, summarise(table), _write(table, out))


def _models(asked: Sequence[str] | None) -> list[str]:
    """Names of models, each once, all known and able to read these chromosomes."""
    from enhancer_dask.models.registry import spec

    names = list(dict.fromkeys(asked or MODELS))
    for name in names:
        known = spec(name).known_options()
        if "in_channels" not in known:
            raise InputError(
                f"model {name!r} reads other features than signal per bin, which is all that there is here"
            )
    return names


def write_chromosomes(folder: Path, wanted: set[tuple[str, int]], n_test: int, pool: int = 0) -> None:
    """Shards ``DATASET-SEED`` of some data sets and, with ``pool`` chromosomes to train on, ``DATASET-SEED-pool``.

    Those that are there are kept.
    """
    for dataset, seed in sorted(wanted):
        _simulated(folder / f"{dataset}-{seed}", dataset, (N_TRAIN, N_VALIDATION, n_test), seed)
        if pool:
            _simulated(folder / f"{dataset}-{seed}-pool", dataset, (pool, max(20, pool // 100), 1), POOL_SEED + seed)


def _simulated(path: Path, dataset: str, sizes: tuple[int, int, int], seed: int) -> None:
    design = preset_design(dataset)
    n_train, n_validation, n_test = sizes
    asked = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test, "seed": seed}
    with suppress(StoreError):
        if {**asdict(design), **asked}.items() <= ShardStore(path).params.items():
            return
    simulate_chromosomes(path, design, **asked, overwrite=path.exists())


def reproduce_chunk(out: Path, dataset: str, seed: int, name: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Train one model on one data set; a row of the table."""
    from enhancer_dask.models.predictions import predict

    run = train_one(out, dataset, seed, name, settings)
    tested = out / "data" / f"{dataset}-{seed}"
    found = predict(run.path, tested, split="test", batch_size=20, accelerator="cpu")
    mse, roi = PUBLISHED.get((dataset, name), (np.nan, np.nan))
    row = {
        "dataset": dataset, "model": name, "seed": seed, "parameters": run.description["parameters"],
        **_errors(found), "floor_mse": _floor(tested),
        **{key: run.result[key] for key in ("train_s", "best_epoch", "epochs")},
        "published_mse": mse, "published_roi_mse": roi,
    }  # fmt: skip
    return pd.DataFrame([row])[list(COLUMNS)]


def train_one(out: Path, dataset: str, seed: int, name: str, settings: Mapping[str, Any]) -> Run:
    """The training behind a row of the table, unless it is there."""
    from enhancer_dask.models.training import train

    model, shards = ("two-way-windows", f"{dataset}-{seed}-pool") if name == POOL else (name, f"{dataset}-{seed}")
    return train(out / "data" / shards, model, out / "runs" / f"{dataset}-{seed}-{name}",
                 options=POOL_OPTIONS if name == POOL else {}, training=training_of(name, seed, settings),
                 overwrite=settings.get("overwrite", False), progress=False)  # fmt: skip


def training_of(name: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a training has besides the preset of its model."""
    from enhancer_dask.models.registry import spec

    preset = spec("two-way-windows" if name == POOL else name).training
    given: dict[str, Any] = {"seed": seed, "accelerator": "cpu"}
    if name == POOL:
        given |= POOL_TRAINING
    elif "check_every" not in preset:
        given |= {"patience": settings["patience"]}
    passes = given.get("epochs", preset.get("epochs"))
    if settings["epochs"] is not None and passes is not None:
        given |= {"epochs": min(passes, settings["epochs"])}
    return given


def _errors(found: pd.DataFrame) -> dict[str, float]:
    from enhancer_dask.models import metrics

    y, p = found["y"].to_numpy(), found["prediction"].to_numpy()
    places = found["graph"].to_numpy(), found["node"].to_numpy(), found["is_gene"].to_numpy()
    return {
        "test_mse": metrics.mse(y, p),
        "roi_mse": metrics.roi_masked_mse(y, p, metrics.near_genes(*places, metrics.PUBLISHED_MASK)),
        "roi_window_mse": metrics.roi_window_mse(y, p, metrics.near_genes(*places, metrics.WINDOW)),
    }


def _floor(shards: Path) -> float:
    """Irreducible error of the test chromosomes."""
    store = ShardStore(shards)
    tests = store.index.loc[store.index["split"] == "test", "shard"].unique()
    return float(np.mean([irreducible_error(graph) for shard in tests for graph in store.read_shard(str(shard))]))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, models in the order of the table.

    Returns
    -------
    DataFrame
        Columns dataset, model, parameters, seeds, test_mse, test_mse_sd, roi_mse, floor_mse, train_s, published_mse,
        published_roi_mse.
    """
    grouped = table.groupby(["dataset", "model"], sort=False)
    means = grouped[["parameters", "test_mse", "roi_mse", "floor_mse", "train_s", "published_mse",
                     "published_roi_mse"]].mean()  # fmt: skip
    means.insert(1, "seeds", grouped.size())
    means.insert(3, "test_mse_sd", grouped["test_mse"].std(ddof=1))
    return means.reset_index().astype({"parameters": int})


def _write(table: pd.DataFrame, out: Path) -> list[Path]:
    from enhancer_dask.report.figures import model_bars
    from enhancer_dask.report.save import save
    from enhancer_dask.report.style import new_figure

    summary = summarise(table)
    texts = {
        "table.csv": table.to_csv(index=False),
        "summary.csv": summary.to_csv(index=False),
        "tables.md": as_markdown(summary),
    }
    for name, text in texts.items():
        with staged(out / name) as work:
            work.write_text(text)
    return [out / name for name in texts] + save(model_bars(table, new_figure()), out / "models")


def as_markdown(summary: pd.DataFrame) -> str:
    """The two tables of the report for people: ours, and in brackets what was published."""
    lines = [CAVEAT, ""]
    for dataset, rows in summary.groupby("dataset", sort=False):
        lines += [
            f"## {dataset} (irreducible error {rows['floor_mse'].iloc[0]:.3f})", "",
            "| model | parameters | test MSE (published) | spread of seeds | ROI MSE (published) | train s |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]  # fmt: skip
        lines += [
            f"| {row.model} | {row.parameters:,} | {_beside(row.test_mse, row.published_mse)} "
            f"| {_digits(row.test_mse_sd)} | {_beside(row.roi_mse, row.published_roi_mse)} | {row.train_s:.1f} |"
            for row in rows.itertuples()
        ]
        lines.append("")
    return "\n".join(lines)


def _beside(ours: float, published: float) -> str:
    return _digits(ours) if np.isnan(published) else f"{_digits(ours)} ({published:.3f})"


def _digits(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"
