"""Named profiles of cluster.yaml, checked."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from dask.utils import parse_bytes, parse_timedelta
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from enhancer_dask.errors import InputError

CONFIG_NAME = "cluster.yaml"
KINDS = ("local", "slurm", "scheduler")
# what these hold is expanded by the shell of the job, on the node
SHELL_KEYS = frozenset({"local_directory", "prologue", "directives"})
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
# days-hours, days-hours:minutes, days-hours:minutes:seconds
DAYS = re.compile(r"(?P<d>\d+)-(?P<h>\d+)(?::(?P<m>\d+)(?::(?P<s>\d+))?)?")
# minutes, minutes:seconds, hours:minutes:seconds
HOURS = re.compile(r"(?:(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+))|(?P<minutes>\d+)")


def walltime_seconds(text: str) -> int:
    """Seconds of one of SLURM's formats of time.

    Examples
    --------
    >>> [walltime_seconds(t) for t in ("90", "2:30", "01:00:00", "1-12", "1-00:30", "2-00:00:05")]
    [5400, 150, 3600, 129600, 88200, 172805]
    """
    match = DAYS.fullmatch(text) or HOURS.fullmatch(text)
    if match is None:
        raise ValueError("want minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS")
    parts = {name: int(value) for name, value in match.groupdict().items() if value}
    minutes = parts.get("m", 0) + parts.get("minutes", 0)
    seconds = 86400 * parts.get("d", 0) + 3600 * parts.get("h", 0) + 60 * minutes + parts.get("s", 0)
    if seconds == 0:
        raise ValueError("want more than nothing")
    return seconds


def _walltime(text: str) -> str:
    walltime_seconds(text)
    return text


def _memory(text: str) -> str:
    try:
        nbytes = parse_bytes(text)
    except ValueError as err:
        raise ValueError("want a size like 4GB or 800MiB") from err
    if nbytes <= 0:
        raise ValueError("want more than nothing")
    return text


def _duration(text: str) -> str:
    try:
        parse_timedelta(text)
    except (ValueError, KeyError) as err:
        raise ValueError("want a time like '90 s' or '5 minutes'") from err
    return text


def _text_of_number(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Number = BeforeValidator(_text_of_number)  # YAML reads 30 as a number, and here it is a text
Walltime = Annotated[str, Number, AfterValidator(_walltime)]
Memory = Annotated[str, Number, AfterValidator(_memory)]
Duration = Annotated[str, Number, AfterValidator(_duration)]


class _Profile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalProfile(_Profile):
    """Workers as processes on this machine."""

    kind: Literal["local"] = "local"
    n_workers: int | None = Field(None, ge=1, description="worker processes; auto: one per core")
    threads_per_worker: int = Field(1, ge=1, description="chunks that one worker computes at a time")
    blas_threads: int = Field(1, ge=1, description="threads of BLAS and Numba inside a chunk")
    memory_limit: str = Field("auto", description="per worker, for instance 4GB; auto: an equal share")
    dashboard_address: str = Field(":0", description="for instance :8787; by default any free port")

    @field_validator("n_workers", mode="before")
    @classmethod
    def _auto_is_none(cls, value: object) -> object:
        return None if value == "auto" else value

    @field_validator("memory_limit")
    @classmethod
    def _auto_or_memory(cls, value: str) -> str:
        return value if value == "auto" else _memory(value)


class SlurmProfile(_Profile):
    """Workers as jobs of SLURM."""

    kind: Literal["slurm"] = "slurm"
    partition: str | None = Field(None, description="of the jobs; by default SLURM's own")
    account: str | None = Field(None, description="that pays")
    cores: int = Field(1, ge=1, description="of a job")
    memory: Memory = Field(description="of a job, all its processes together")
    processes: int | None = Field(None, ge=1, description="of a job; by default as many as its cores allow")
    threads_per_worker: int = Field(1, ge=1, description="chunks that one process computes at a time")
    walltime: Walltime | None = Field(None, description="of a job, as SLURM writes it")
    jobs: int = Field(1, ge=0, description="jobs to start with")
    adapt: tuple[int, int] | None = Field(None, description="fewest and most jobs, as there is work")
    idle_timeout: Duration = Field("5 minutes", description="idle jobs are kept so long under adapt")
    interface: str | None = Field(None, description="network interface that nodes and driver share, such as ib0")
    gpus: int = Field(0, ge=0, description="of a job")
    constraint: str | None = Field(None, description="features that the node must have")
    directives: tuple[str, ...] = Field((), description="more #SBATCH lines, without the #SBATCH")
    prologue: tuple[str, ...] = Field((), description="lines of shell before the worker starts")
    python: str = Field(sys.executable, description="on the nodes")
    local_directory: str = Field("${TMPDIR:-/tmp}", description="scratch on the node, where workers spill")
    log_directory: Path = Field(Path("slurm-logs"), description="what the jobs print")
    job_name: str = Field("enhancer-dask", description="in squeue")
    death_timeout: Duration = Field("60 s", description="a worker that finds no driver so long ends")
    lifetime_margin: Duration | None = Field(None, description="before the wall time, no new chunk")
    scheduler_port: int = Field(0, ge=0, lt=65536, description="of the driver; 0: any free one")
    dashboard_address: str = Field(":0", description="for instance :8787; by default any free port")
    max_failed_jobs: int = Field(3, ge=1, description="that end in a row without a worker, before giving up")

    @property
    def n_processes(self) -> int:
        """Worker processes of a job."""
        return self.processes or max(1, self.cores // self.threads_per_worker)

    @property
    def walltime_s(self) -> int | None:
        """Wall time, seconds."""
        return None if self.walltime is None else walltime_seconds(self.walltime)

    @property
    def margin_s(self) -> float:
        """Seconds before the wall time from which a worker takes no new chunk.

        A chunk takes less than a tenth of the wall time, so what runs then is finished. A minute at least, as
        SLURM looks at the time only now and then, and a third of the wall time at most.
        """
        wall = self.walltime_s or 0
        if self.lifetime_margin is not None:
            return float(parse_timedelta(self.lifetime_margin))
        return min(max(wall / 10, 60.0), wall / 3)

    @model_validator(mode="after")
    def _fits_together(self) -> SlurmProfile:
        if self.n_processes * self.threads_per_worker > self.cores:
            raise ValueError(
                f"processes * threads_per_worker is {self.n_processes * self.threads_per_worker}, "
                f"more than the {self.cores} cores of a job"
            )
        if self.adapt is not None and not 0 <= self.adapt[0] <= self.adapt[1] != 0:
            raise ValueError(f"adapt: want [fewest, most] jobs, found {list(self.adapt)}")
        if self.walltime_s is not None and self.margin_s >= self.walltime_s:
            raise ValueError(f"lifetime_margin {self.lifetime_margin} is not below the walltime {self.walltime}")
        return self


class SchedulerProfile(_Profile):
    """A Dask scheduler that is already running."""

    kind: Literal["scheduler"] = "scheduler"
    scheduler: str = Field(description="its address, for instance tcp://node:8786")


Profile = LocalProfile | SlurmProfile | SchedulerProfile
_PROFILE: TypeAdapter[Profile] = TypeAdapter(Annotated[Profile, Field(discriminator="kind")])


def read_profile(name: str = "local", config: str | Path | None = None) -> Profile:
    """One profile of a cluster.yaml.

    ``${NAME}`` and ``${NAME:-default}`` in it stand for variables of the environment, but for the keys that the shell
    of the job expands (``local_directory``, ``prologue``, ``directives``).

    Parameters
    ----------
    name : str
        Key in the file.
    config : path, optional
        By default ``cluster.yaml`` of the current folder, and without one the built-in profile ``local``.

    Raises
    ------
    InputError
        If the file or profile is missing, a key is unknown or a value is bad; names file, profile and key.
    """
    path = Path(CONFIG_NAME) if config is None else Path(config)
    if not path.exists():
        if config is None and name == "local":
            return LocalProfile()
        raise InputError(f"{path}: no such file; it should hold the profile {name!r}")
    profiles = _read_yaml(path)
    if not isinstance(profiles, dict) or name not in profiles:
        known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else "none"
        raise InputError(f"{path}: no profile {name!r}; profiles are: {known}")
    where, values = f"{path}: profile {name!r}", profiles[name] or {}
    if not isinstance(values, dict):
        raise InputError(f"{where}: want keys with values, found {values!r}")
    found = {key: _interpolated(key, value, where) for key, value in values.items()}
    found.setdefault("kind", "scheduler" if "scheduler" in found else "local")
    if found["kind"] not in KINDS:
        raise InputError(f"{where}: key 'kind': want {', '.join(KINDS)} (found {found['kind']!r})")
    try:
        return _PROFILE.validate_python(found)
    except ValidationError as err:
        assumed = "" if "kind" in values else f"; without a key 'kind' it is one of kind {found['kind']}"
        raise InputError(f"{where}: {first_error(err, skip=1)}{assumed}") from err


class _Loader(yaml.SafeLoader):
    """YAML in which 1:30:00 is a text: YAML 1.1 makes a number of base 60 of it."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), Loader=_Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: not readable as YAML ({str(err).splitlines()[0]})") from err


def _interpolated(key: str, value: Any, where: str) -> Any:
    if key in SHELL_KEYS:
        return value
    if isinstance(value, list):
        return [_interpolated(key, one, where) for one in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise InputError(f"{where}: key {key!r}: the environment variable {match['name']} is not set")
        return found

    return VARIABLE.sub(replace, value)


def first_error(err: ValidationError, *, skip: int = 0) -> str:
    """First problem pydantic found, in one line: key, what is wrong, what was given."""
    problem = err.errors()[0]
    ours = problem["type"] == "value_error"
    message = problem["msg"].removeprefix("Value error, ") if ours else problem["msg"].lower().replace("tuple", "list")
    if ours and len(problem["loc"]) <= skip:  # of several keys, which the message names
        return message
    key = ".".join(str(part) for part in problem["loc"][skip:]) or "top level"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] == "extra_forbidden":
        message = "unknown key"
    return f"key {key!r}: {message} (found {problem['input']!r})"
