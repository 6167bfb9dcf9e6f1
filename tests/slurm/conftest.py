"""A real SLURM with three virtual nodes on this host, started once for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from user import User, Workload
from waiting import wait_until

import enhancer_dask as ed
from enhancer_dask.simulate.multiome import write_simulation
from enhancer_dask.stats.bootstrap import up_to

NODES = ("n1", "n2", "n3")
COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "scancel", "squeue", "sinfo", "scontrol")
CONFIGURATION = """\
ClusterName=ci
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=10
KillWait=2
InactiveLimit=0
MinJobAge=300
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost Port={ports[0]} CPUs=2 RealMemory=6000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost Port={ports[1]} CPUs=2 RealMemory=6000 State=UNKNOWN
NodeName=n3 NodeHostname=localhost Port={ports[2]} CPUs=2 RealMemory=6000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes=n1 MaxTime=INFINITE State=UP
"""


class Slurm:
    """Daemons, jobs and faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"

    def start(self) -> None:
        _start_munge()
        (self.folder / "state").mkdir(parents=True)
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
        controller, *ports = _free_ports(4)
        self.conf.write_text(CONFIGURATION.format(folder=self.folder, controller=controller, ports=ports))
        os.environ["SLURM_CONF"] = str(self.conf)  # every command of the tests and of what they start reads it
        subprocess.run(["slurmctld", "-c"], check=True, timeout=30)
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes("idle", 3)

    def stop(self) -> None:
        self.run("scancel", "--user", str(os.getuid()))
        self.wait_for_jobs(0, timeout=60)
        for node in NODES:
            self.kill_node(node)
        self._kill(self.folder / "slurmctld.pid")

    def run(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, first time or after :meth:`kill_node`."""
        subprocess.run(["slurmd", "-N", node], check=True, timeout=30)

    def kill_node(self, node: str) -> None:
        """Kill -9 the daemon of a node (its jobs' processes go on, as when a node loses its network)."""
        self._kill(self.folder / f"slurmd-{node}.pid")

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs that are pending, running or completing; of the given states only, if any."""
        command = ["squeue", "--noheader", "--format", "%i", "--states", ",".join(states) or "PD,R,CG"]
        return self.run(*command).split()

    def node_of(self, job: str) -> str:
        return self.run("squeue", "--noheader", "--job", job, "--format", "%N").strip()

    def pids_of(self, job: str) -> list[int]:
        """Processes of a job on this host, the batch script first; other SLURMs here have jobs of that number, too."""
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_CONF={self.conf}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if wanted.issubset(environment):
                    found.append(int(entry.name))
        return sorted(found)

    def wait_for_jobs(self, n: int, *states: str, timeout: float = 120) -> list[str]:
        """Wait until exactly so many jobs are there; returns their ids."""
        return wait_until(lambda: len(found := self.jobs(*states)) == n and (found or True), timeout, f"{n} jobs")

    def wait_for_nodes(self, state: str, n: int, timeout: float = 120) -> None:
        def enough() -> bool:
            return (
                self.run("sinfo", "--noheader", "--Node", "--partition=debug", "--format", "%T").split().count(state)
                == n
            )

        wait_until(enough, timeout, f"{n} nodes {state}")

    @staticmethod
    def _kill(pid_file: Path) -> None:
        try:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        except (OSError, ValueError):  # not running
            return


def _start_munge() -> None:
    if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0:
        return
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(folder).mkdir(exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True, timeout=30, capture_output=True)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """SLURM with three nodes of two cores; partitions ``debug`` (all) and ``small`` (n1 alone)."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    why = f"no {missing[0]}: install slurm-wlm and munge" if missing else "" if os.getuid() == 0 else "needs root"
    if why:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    before = os.environ.get("SLURM_CONF")
    running = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def profiles(slurm, tmp_path):
    """A cluster.yaml for this SLURM: one core and 1 GB a job, three jobs, on the loopback interface."""
    path = tmp_path / "cluster.yaml"
    path.write_text(
        "slurm:\n  kind: slurm\n  partition: debug\n  cores: 1\n  memory: 1GB\n  walltime: '00:10:00'\n  jobs: 3\n"
        f"  interface: lo\n  local_directory: {tmp_path / 'scratch'}\n  log_directory: {tmp_path / 'logs'}\n"
        f"  python: {sys.executable}\n"
    )
    return path


@pytest.fixture(scope="session")
def workload(tmp_path_factory):
    """Some 400 chunks of real work, and the table they make on a LocalCluster that nobody disturbs."""
    folder = tmp_path_factory.mktemp("workload")
    cells = {"A": 400, "B": 300}
    simulation = ed.simulate_multiome(n_cells=cells, n_genes=40, n_background_genes=60, seed=5)
    files = write_simulation(simulation, folder)
    store, pairs, reference = folder / "multiome.zarr", folder / "pairs.parquet", folder / "reference.parquet"
    ed.ingest(files["multiome"], store, cells=files["cells"], gtf=files["gtf"])
    ed.candidates(store, pairs)
    settings = {"engine": "exact", "ladder": up_to(500), "chunk_pairs": 5, "seed": 1}
    with ed.cluster("local") as client:
        ed.scent(store, pairs, **settings, out=reference, client=client, progress=False)
    arguments = "--all --engine exact --max-resamples 500 --chunk-pairs 5 --seed 1"
    return Workload(store, pairs, tuple(arguments.split()), reference)


@pytest.fixture
def user(slurm, workload, tmp_path):
    """Someone at the login node of this SLURM; nothing of theirs is left for the next test."""
    someone = User(tmp_path, workload)
    yield someone
    someone.stop()
    slurm.run("scancel", "--user", str(os.getuid()))
    slurm.wait_for_jobs(0)


@pytest.fixture
def profile(profiles):
    """The profile with some keys changed."""

    def write(**keys):
        values = yaml.safe_load(profiles.read_text())["slurm"] | keys
        profiles.write_text(yaml.safe_dump({"slurm": values}))
        return profiles

    return write
