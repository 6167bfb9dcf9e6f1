from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from enhancer_dask.clusters.profiles import LocalProfile, SchedulerProfile, SlurmProfile, read_profile
from enhancer_dask.clusters.slurm import job_options
from enhancer_dask.errors import InputError

SHIPPED = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def slurm_profile(tmp_path):
    """Read a profile of kind slurm with some keys."""

    def read(**keys):
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump({"slurm": {"kind": "slurm", "memory": "8GB", **keys}}))
        return read_profile("slurm", path)

    return read


def test_read_profile__all_that_we_ship():
    names = [*yaml.safe_load(SHIPPED.read_text())]
    found = {name: read_profile(name, SHIPPED) for name in names}
    assert [type(profile) for profile in found.values()] == [LocalProfile, SlurmProfile, SlurmProfile]
    assert found["slurm-gpu"].gpus == 1
    assert found["slurm"].walltime_s == 4 * 3600


def test_cluster_yaml__has_every_key_and_says_what_it_is():
    """Every line has a comment, and what the comments call a default is one."""
    lines = [line for line in SHIPPED.read_text().splitlines() if line and not line.lstrip().startswith("kind:")]
    assert [line for line in lines if "#" not in line] == []
    text = SHIPPED.read_text()
    missing = [key for kind in (LocalProfile, SlurmProfile) for key in kind.model_fields if f"  {key}:" not in text]
    assert missing in ([], ["python"])  # it stands in a comment: "# python: ..."
    shipped = read_profile("slurm", SHIPPED).model_dump()
    default = SlurmProfile(memory="1GB").model_dump()
    stated = {key for key in shipped if shipped[key] != default[key]}
    assert stated == {"cores", "memory", "processes", "walltime", "jobs"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"walltime": "1h"}, "key 'walltime': want minutes, MM:SS, .* .found '1h'"),
        ({"walltime": "00:00"}, "key 'walltime': want more than nothing"),
        ({"memory": "lots"}, "key 'memory': want a size like 4GB or 800MiB .found 'lots'"),
        ({"cpus": 4}, "key 'cpus': unknown key .found 4.$"),
        ({"memory": None}, "key 'memory': input should be a valid string .found None"),
        ({"kind": "pbs"}, "key 'kind': want local, slurm, scheduler .found 'pbs'.$"),
        ({"idle_timeout": "soon"}, "key 'idle_timeout': want a time like '90 s'"),
        ({"cores": 2, "processes": 3}, "processes . threads_per_worker is 3, more than the 2 cores"),
        ({"adapt": [3, 1]}, "adapt: want .fewest, most. jobs, found .3, 1."),
        ({"adapt": "many"}, "key 'adapt'"),
        (
            {"walltime": "10", "lifetime_margin": "11 minutes"},
            "lifetime_margin 11 minutes is not below the wall",
        ),
        ({"partition": "${NO_SUCH_VARIABLE}"}, "key 'partition': the environment variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_read_profile__names_profile_and_key(slurm_profile, keys, message):
    with pytest.raises(InputError, match=f"cluster.yaml: profile 'slurm': {message}"):
        slurm_profile(**keys)


def test_read_profile__interpolates_the_environment(slurm_profile, monkeypatch):
    monkeypatch.setenv("PARTITION", "fast")
    monkeypatch.setenv("N", "3")
    found = slurm_profile(
        partition="${PARTITION}-x",
        cores="${N}",
        jobs="${NO_SUCH_VARIABLE:-7}",
        adapt=["${NO_SUCH_VARIABLE:-0}", "${N}"],
        prologue=["echo ${PARTITION}"],
        local_directory="${SLURM_TMPDIR}/x",
    )
    assert (found.partition, found.cores, found.jobs, found.adapt) == ("fast-x", 3, 7, (0, 3))
    assert found.prologue == ("echo ${PARTITION}",)  # the job's shell expands these
    assert found.local_directory == "${SLURM_TMPDIR}/x"


def test_read_profile__a_walltime_without_quotes_is_no_number_of_base_60(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("slurm:\n  kind: slurm\n  memory: 1GB\n  walltime: 1:30:00\nother:\n  n_workers: 0x2\n")
    assert read_profile("slurm", path).walltime_s == 5400


@pytest.mark.parametrize(
    ("walltime", "margin_s"), [("1:00", 20), ("10:00", 60), ("1:00:00", 360), ("1-00:00:00", 8640)]
)
def test_margin__has_room_for_a_chunk(slurm_profile, walltime, margin_s):
    profile = slurm_profile(walltime=walltime)
    assert profile.margin_s == margin_s
    lifetime, stagger = _lifetime(profile)
    assert lifetime + stagger + margin_s <= profile.walltime_s + 1  # rounded to seconds
    assert lifetime - stagger > 0


def _lifetime(profile):
    words = job_options(profile)["worker_extra_args"]
    return [float(words[words.index(word) + 1].removesuffix("s")) for word in ("--lifetime", "--lifetime-stagger")]


@pytest.mark.parametrize(
    ("keys", "threads"),
    [({"cores": 8}, 1), ({"cores": 8, "processes": 1}, 8), ({"cores": 8, "processes": 1, "threads_per_worker": 4}, 2)],
)
def test_job_options__libraries_share_the_cores(slurm_profile, keys, threads):
    options = job_options(slurm_profile(**keys))
    assert f"export OMP_NUM_THREADS={threads}" in options["job_script_prologue"]
    assert options["job_cpu"] == 8


def test_job_options__directives(slurm_profile):
    options = job_options(slurm_profile(gpus=2, constraint="avx2", directives=["--qos=long"]))
    assert options["job_extra_directives"] == ["--no-requeue", "--gres=gpu:2", "--constraint=avx2", "--qos=long"]
    assert "--lifetime" not in options["worker_extra_args"]  # no walltime


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slurm:\n  kind: slurm\n  cores: 4\n", "key 'memory' is missing$"),
        ("slurm: debug\n", "want keys with values, found 'debug'"),
        (
            "slurm:\n  partition: debug\n",
            "key 'partition': unknown key .*; without a key 'kind' it is one of kind local",
        ),
    ],
)
def test_read_profile__what_is_left_out_is_said(tmp_path, text, message):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"cluster.yaml: profile 'slurm': {message}"):
        read_profile("slurm", path)


def test_read_profile__a_scheduler_needs_no_kind(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("there:\n  scheduler: tcp://node:8786\n")
    assert read_profile("there", path) == SchedulerProfile(scheduler="tcp://node:8786")
