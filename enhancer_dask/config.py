"""run.yaml: one file that says what goes in, which cell types, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from enhancer_dask.clusters import first_error
from enhancer_dask.errors import InputError
from enhancer_dask.io.files import is_url


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)  # a misspelt key is an error


class IngestConfig(_Block):
    """The ``ingest`` block."""

    inputs: tuple[str, ...] = Field(min_length=1, description="10x multiome .h5 or .h5mu; name=path for samples")
    cells: Path | None = Field(None, description="table with columns barcode, celltype, covariates")
    gtf: Path | None = Field(None, description="gene coordinates, plain or .gz")
    assembly: str = ""

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class CandidatesConfig(_Block):
    """The ``candidates`` block."""

    window: int = Field(500_000, ge=0, description="extension of the gene body on each side, bp")
    anchor: Literal["overlap", "centre", "tss"] = "overlap"
    min_fraction: float = Field(0.05, ge=0, le=1, description="least share of all cells in which a feature is non-zero")
    genes: tuple[str, ...] | None = Field(None, description="only these genes")


class ScentConfig(_Block):
    """The ``scent`` block."""

    celltypes: tuple[str, ...] | Literal["all"] = "all"
    covariates: tuple[str, ...] = ("log(nUMI)", "percent.mito")
    offset: str | None = None
    regression: Literal["poisson", "negbin"] = "poisson"
    p: Literal["saddle", "ladder", "both"] = Field("both", description="p-values: saddlepoint, SCENT's ladder, or both")
    engine: str = Field("moments", description="refit engine of the ladder; exact is the reference")
    seed: int = Field(0, ge=0)
    binarise: bool = True
    min_fraction: float = Field(0.05, ge=0, lt=1, description="share of cells of the type to be exceeded")
    max_resamples: int = Field(50_000, ge=100, description="rungs of the ladder beyond this are left out")
    certify: int = Field(0, ge=0, description="certify so many smallest p_saddle and as many random ones by resampling")
    certify_below: float = Field(0.0, ge=0, description="certify every p_saddle below this")
    chunk_pairs: int | None = Field(None, ge=1, description="pairs per chunk; by default chosen from the data")


class EnhancerPairsConfig(_Block):
    """The ``enhancer_pairs`` block."""

    fdr: float = Field(0.1, gt=0, le=1, description="pair the links whose adjusted p-value is below")
    by: Literal["auto", "p_saddle", "boot_basic_p", "p"] = Field(
        "auto", description="column of p-values; auto: p_saddle if computed, else boot_basic_p"
    )
    min_double: int = Field(0, ge=0, description="least number of cells in which both enhancers are open")


class EpistasisConfig(_Block):
    """The ``epistasis`` block."""

    coding: Literal["fixed", "legacy"] = Field("fixed", description="predictor of 11 against 00: 0/1, or 0/2")
    covariates: tuple[str, ...] = ("percent.mito",)
    offset: str | None = "log(nUMI)"
    regression: Literal["poisson", "negbin"] = "poisson"
    p: Literal["saddle", "ladder", "both"] = Field("both", description="p-values: saddlepoint, ladder, or both")
    engine: Literal["moments", "exact"] = Field("moments", description="refit engine; exact is the reference")
    ladder: Literal["published", "scent"] = Field("published", description="100, then 5,000 if p < 0.1; or SCENT's")
    seed: int = Field(0, ge=0)
    margin: float = Field(
        1.25, gt=1, allow_inf_nan=False, description="fold change within which a departure counts as none"
    )
    level: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    expected: int = Field(0, ge=0, description="resamples for the expected counts by state, GLiMMIRS: 100")
    chunk_pairs: int | None = Field(None, ge=1, description="pairs per chunk; by default chosen from the data")


def _no_url(path: Path) -> Path:
    if is_url(path):
        raise ValueError("results are written to a file system, want a path")
    return path


class RunConfig(_Block):
    """A whole run. Relative paths are relative to the folder of the file."""

    out: Annotated[Path, AfterValidator(_no_url)] = Field(description="folder of all results")
    ingest: IngestConfig
    candidates: CandidatesConfig = CandidatesConfig()
    pairs: Path | None = Field(None, description="table of gene-peak pairs to test instead of the candidates")
    scent: ScentConfig = ScentConfig()
    enhancer_pairs: EnhancerPairsConfig = EnhancerPairsConfig()
    epistasis: EpistasisConfig | None = Field(EpistasisConfig(), description="null: stop after the links")
    figures: bool = Field(True, description="draw figures of the links and the enhancer pairs")
    tsv: bool = Field(False, description="write links and epistasis also as .tsv.gz")


def load_config(path: str | Path) -> RunConfig:
    """Read a run.yaml.

    Raises
    ------
    InputError
        If the file is missing, is not YAML, a key is unknown or a value is bad; names file and key.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(err).split())})") from err
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as err:
        raise InputError(f"{path}: {first_error(err)}") from err
    return _relative_to(config, path.resolve().parent)


def _relative_to(config: RunConfig, folder: Path) -> RunConfig:
    def there(value: Path | None) -> Path | None:
        return None if value is None else folder / value

    def there_named(value: str) -> str:
        name, equals, path = value.partition("=")
        return f"{name}={folder / path}" if equals and not (folder / value).exists() else str(folder / value)

    ingest = config.ingest.model_copy(
        update={
            "inputs": tuple(there_named(value) for value in config.ingest.inputs),
            "cells": there(config.ingest.cells),
            "gtf": there(config.ingest.gtf),
        }
    )
    return config.model_copy(update={"ingest": ingest, "out": folder / config.out, "pairs": there(config.pairs)})
