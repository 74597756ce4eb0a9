"""Places for `slurm`: a real Slurm of this machine's packages (slurm-wlm, munge), and commands that say what its own say."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import free_ports

from cluster.bundle import versions
from cluster.job import Job, JobHandle, JobStatus
from cluster.profile import SlurmProfile
from cluster.slurm import SlurmLauncher

GOLDEN = Path(__file__).parent / "golden" / "slurm"


def job_of(output: Path | str, profile: SlurmProfile, **changes: Any) -> Job:
    study = {"name": "reviews", "data": {"train": "/shared/team/train.tsv"}, "output": str(output)}
    return Job(study=study, output=str(output), profile=profile, **{"versions": versions(), **changes})


RAY = """
    for word; do case $word in --temp-dir=*) temp=${word#*=} ;; esac; done
    mkdir -p "$temp" && echo "ray started $*" && sleep 0.2
    [[ "$*" != *--head* ]] || echo 10.0.0.1:6379 > "$temp/ray_current_cluster"
    exec sleep 100"""
PYTHON = """#!/bin/bash
case "$*" in
  *ray.scripts.scripts*) {ray} ;;
  *socket*) echo $((20000 + RANDOM)) ;;
  *cluster.slurm*) sleep 2; exit "${{WAITED:-0}}" ;;
  *cluster.arrive\ --compare*) {compare} ;;
  *cluster.arrive*) {driver} ;;
esac
"""


class Place:
    """A Slurm, real or not, and the jobs that a test has sent to it."""

    def __init__(self, folder: Path, fill: Callable[[bool], None]) -> None:
        self.folder, self.fill, self.handles = folder, fill, list[JobHandle]()

    def submit(
        self,
        driver: str,
        name: str = "runs/reviews",
        *,
        versions: dict[str, str] | None = None,
        ray: str = RAY,
        **profile: Any,
    ) -> JobHandle:
        """A job whose driver is a piece of shell, and whose Ray is another one, which only says that it is there."""
        python = self.folder / "python"
        python.write_text(PYTHON.format(ray=ray, driver=driver, compare=driver if driver == ARRIVE else "exit 0"))
        python.chmod(0o755)
        told = {"cpus_per_node": 1, "python": str(python), "time": "5", **profile}
        made = SlurmProfile(**told)
        job = job_of(self.folder / name, made, **({"versions": versions} if versions else {}))
        reference = SlurmLauncher(made).submit(job, 1)
        handle = JobHandle(
            id=job.id, study="reviews", output=job.output, profile_name="lab", profile=made, submitted_at=time.time(),
            reference=reference,
        )  # fmt: skip
        self.handles.append(handle)
        return handle


LONG = 'trap "echo ended in order; exit 130" TERM; echo begun; while :; do sleep 0.1; done'
QUICK = 'echo "$RAY_ADDRESS, token of ${#RAY_AUTH_TOKEN}, mode $RAY_AUTH_MODE"; exit 0'
ARRIVE = f'exec {sys.executable} "$@"'  # the real one, which becomes the real driver


def launcher(handle: JobHandle) -> SlurmLauncher:
    assert isinstance(handle.profile, SlurmProfile)
    return SlurmLauncher(handle.profile)


def status(handle: JobHandle) -> JobStatus:
    return launcher(handle).status(handle)


def said(handle: JobHandle) -> str:
    """Without Slurm's own words."""
    lines = "".join(launcher(handle).logs(handle, follow=False)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("slurmstepd"))


def until(handle: JobHandle, wanted: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < deadline, (status(handle), said(handle))
        time.sleep(0.2)


def over(handle: JobHandle) -> JobStatus:
    until(handle, lambda: status(handle).state.over)
    return status(handle)


def name_of(place: Place) -> str:
    return job_of(place.folder / "runs" / "reviews", SlurmProfile()).id


def fake_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    bin_folder, state = tmp_path / "bin", tmp_path / "slurm"
    bin_folder.mkdir()
    state.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun", "sinfo"):
        command = bin_folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {GOLDEN}/fake_commands.py {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    full = state / "full"
    return Place(tmp_path, lambda fill: full.touch() if fill else full.unlink(missing_ok=True))


def real_place(tmp_path: Path, slurm: Path) -> Place:
    blockers: list[str] = []

    def fill(fill: bool) -> None:
        if fill:
            wrap = ["--wrap=sleep 300", "--nodes=2", "--exclusive", "--output=/dev/null", "--job-name=blocker"]
            blockers.append(command("sbatch", "--parsable", *wrap).strip())
            while command("squeue", "--noheader", f"--jobs={blockers[-1]}", "--format=%T").strip() != "RUNNING":
                time.sleep(0.1)
        else:
            command("scancel", *blockers)

    return Place(tmp_path, fill)


def command(*words: str) -> str:
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """munged, slurmctld and two slurmd of our own, with ports and files of their own; SLURM_CONF leads Slurm's commands there."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=DAEMONS)]
    if missing or os.geteuid() != 0:
        reason = f"needs a Slurm of this machine's packages (slurm-wlm, munge), as root; missing: {missing or 'root'}"
        pytest.fail(reason) if os.environ.get("DISTILSEARCH_SLURM") == "required" else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    ports = free_ports(3)
    (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, host=socket.gethostname(), ports=ports))
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\nIgnoreSystemd=yes\n")
    (folder / "gres.conf").write_text("Name=gpu Type=a100 File=/dev/tty[1-2]\n")  # two files to count
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": DAEMONS}
    try:
        for words in daemons:
            path = shutil.which(words[0], path=DAEMONS)
            assert path is not None
            with open(folder / f"{words[0]}.out", "ab") as told:
                running.append(
                    subprocess.Popen(
                        [path, *words[1:]], stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=environment
                    )
                )
            if words[0] == "munged":
                _until(lambda: (folder / "munge.socket").exists(), folder)
        _until(lambda: _nodes() == {"n1": "idle", "n2": "idle"}, folder)
        yield folder
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


DAEMONS = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerNode=200
EnforcePartLimits=ANY
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
KillWait=15
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 Gres=gpu:a100:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 Gres=gpu:a100:2 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=spot Nodes=n1,n2 MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE State=UP
"""


def _nodes() -> dict[str, str]:
    found = subprocess.run(["sinfo", "-N", "-h", "-o", "%N %T", "-p", "debug"], capture_output=True, text=True)
    return dict(line.split() for line in found.stdout.splitlines())


def _until(wanted: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        if time.monotonic() > deadline:
            told = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.[lo][ou][gt]")))
            pytest.fail(f"Slurm did not start: {_nodes()}\n{told}")
        time.sleep(0.2)
