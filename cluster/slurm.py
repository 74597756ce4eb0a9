"""`slurm`: a batch job that starts Ray over its allocation, from a login node. `python -m cluster.slurm` waits for its nodes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.bundle import check_output, contents
from cluster.collect import copy_output
from cluster.job import Job, JobHandle, JobState, JobStatus
from cluster.profile import SlurmProfile
from cluster.sbatch import batch_script
from spaces.errors import InputError, StudyError
from spaces.remote import is_url

COMMAND_SECONDS = 60.0  # that Slurm's commands may take: a controller that is busy answers late
STOP_SECONDS = 90.0  # a driver that was told to end closes its lanes first
ASK_SECONDS = 2.0  # between two questions: the controller is everybody's
LOOK_SECONDS = 0.3
TOLD_TO_END = (130, 143)

STATES = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        JobState.PENDING,
    ),
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), JobState.RUNNING
    ),
    "COMPLETED": JobState.SUCCEEDED,
    "CANCELLED": JobState.STOPPED,
    **dict.fromkeys(
        ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED"),
        JobState.FAILED,
    ),
}
REFUSED = {  # a word of sbatch's -> the keys that it may be about
    "account": ("account", "partition"),
    "partition": ("partition",),
    "qos": ("qos",),
    "time": ("time",),
    "feature": ("constraint",),
    "memory": ("memory_per_node",),
    "processors": ("nodes", "cpus_per_node"),
    "node": ("nodes", "cpus_per_node", "gpus_per_node", "memory_per_node"),
}


class Row(NamedTuple):
    """What Slurm says of a job. Unix times."""

    word: str
    reason: str
    started_at: float | None
    ended_at: float | None


class SlurmLauncher:
    """The job's files lie beside its output, in OUTPUT/../.jobs/JOB: the nodes have to see the output's folder anyway, of a home or
    a state folder nobody knows. Slurm keeps the script itself, and says how the job stands."""

    sees_our_files = True

    def __init__(self, profile: SlurmProfile) -> None:
        self._profile = profile

    def preview(self, job: Job) -> str:
        folder = _folder(job)
        files = "".join(
            f"--- {folder}/{name}\n{content.decode()}\n"
            for name, content in contents(job)
            if isinstance(content, bytes)
        )
        return f"{files}--- {folder}/job.sh, for sbatch\n{batch_script(job, self._profile, folder)}"

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        from spaces.yaml_io import write_whole

        folder = _folder(job)
        there = _asked("squeue", "--noheader", f"--name={job.id}", "--format=%i %u").split()
        if there:
            raise InputError.of(
                "JOB",
                f"{job.id} is in Slurm's queue already, as job {there[0]} of {there[1]}: two would write one record",
            )
        check_output(job)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents(job):
                assert isinstance(content, bytes), "nothing is sent to where it is already"
                write_whole(folder / name, content)
            write_whole(folder / "job.sh", batch_script(job, self._profile, folder))
            done = _run("sbatch", "--parsable", str(folder / "job.sh"))
            if done.returncode:
                raise InputError.of("sbatch", f"{_words(done)}{self._asked_for(_words(done))}")
        except BaseException as error:
            if folder in made:  # of the attempts before there is more in it
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else's are in it by now
                for path in made[1:]:
                    path.rmdir()
            if isinstance(error, OSError):
                raise InputError.of(
                    "output",
                    f"{error.filename or job.output}: {error.strerror}; name a folder that can be written here and on the nodes",
                ) from None
            raise
        number = re.search(r"^\d+", done.stdout, re.MULTILINE)
        if number is None:
            raise StudyError(f"sbatch says no job number, but {done.stdout.strip()!r}; see `squeue --name={job.id}`")
        return {"job": number[0], "folder": str(folder)}

    def status(self, handle: JobHandle) -> JobStatus:
        """squeue's word, else the accounts', else what the job itself has written down."""
        status = _exit_status(handle)
        row = _queued(handle) or _accounted(handle)
        if row is None and status is None:
            return JobStatus(state=JobState.LOST, message=f"Slurm knows no job {handle.reference['job']} any more")
        if row is None:
            row = Row("FAILED" if status else "COMPLETED", "", None, _ended_at(handle))
        state = STATES.get(row.word, JobState.UNKNOWN)
        if row.word == "FAILED" and status in TOLD_TO_END:
            state = JobState.STOPPED
        if state is JobState.PENDING:
            return JobStatus(state=state, message=row.reason)  # its start is a guess yet
        why = f"exit status {status}" if status else row.word
        message = "" if row.word in ("RUNNING", "COMPLETED") else why if state.over else row.word
        return JobStatus(
            state=state, message=message, started_at=row.started_at, ended_at=row.ended_at if state.over else None
        )

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        """Of all times that Slurm began this job; what Ray said as it started lies beside it."""
        path, told, asked, over = _beside(handle, "log", "txt"), 0, 0.0, not follow
        while True:
            if not over and time.monotonic() - asked >= ASK_SECONDS:  # asked before reading: what it says last is read
                over, asked = self.status(handle).state.over, time.monotonic()
            if path.is_file():
                with open(path, encoding="utf-8", errors="replace") as file:
                    file.seek(told)
                    while text := file.read(1 << 16):
                        yield text
                    told = file.tell()
            if over:
                return
            time.sleep(LOOK_SECONDS)

    def stop(self, handle: JobHandle) -> None:
        """A TERM to the script alone, and the driver ends in order; a job that does not is cancelled. Neither is queued again."""
        job = handle.reference["job"]
        state = self.status(handle).state
        if state.over:
            return
        if state is JobState.RUNNING:
            _asked("scontrol", "update", f"JobId={job}", "Requeue=0")
            _run("scancel", "--batch", "--signal=TERM", job)
            if self._is_over(handle, STOP_SECONDS):
                return
        _run("scancel", job)
        if not self._is_over(handle, STOP_SECONDS):
            raise StudyError(f"{handle.id} was cancelled and still is in Slurm's queue; see `squeue --jobs={job}`")

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        copy_output(Path(handle.output), folder)

    def _is_over(self, handle: JobHandle, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.status(handle).state.over:
            if time.monotonic() > deadline:
                return False
            time.sleep(ASK_SECONDS)
        return True

    def _asked_for(self, words: str) -> str:
        """What the profile says where Slurm refuses it, and which partitions there are."""
        keys = next((keys for word, keys in REFUSED.items() if word in words.lower()), ())
        if not keys:
            return ""
        said = [f"{key}: {'none' if (value := getattr(self._profile, key)) is None else value}" for key in keys]
        there = set(_run("sinfo", "--noheader", "--format=%R").stdout.split()) if "partition" in keys else set[str]()
        listed = f"; there are {', '.join(sorted(there))}" if there else ""
        return f" (the profile's {', '.join(said)}{listed})"


def _folder(job: Job) -> Path:
    if is_url(job.output):
        return Path("~/.cache/distilsearch/.jobs").expanduser() / job.id  # a home is shared where slurm is
    output = Path(job.output)
    if not output.is_absolute():
        raise InputError.of(
            "output", f"{output} is relative; write the whole path, from /, of a folder that all nodes see"
        )
    return output.parent / ".jobs" / job.id


def _beside(handle: JobHandle, what: str, ending: str) -> Path:
    return Path(handle.reference["folder"]) / f"{what}-{handle.reference['job']}.{ending}"


def _written(handle: JobHandle) -> dict[str, Any]:
    try:
        told = json.loads(_beside(handle, "ended", "json").read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _exit_status(handle: JobHandle) -> int | None:
    return _written(handle).get("status")


def _ended_at(handle: JobHandle) -> float | None:
    return _written(handle).get("at")


def _queued(handle: JobHandle) -> Row | None:
    """Of the queue, in which jobs stay for some minutes after their end. A number may have been given to another job since."""
    done = _run(
        "squeue", "--noheader", "--states=all", f"--jobs={handle.reference['job']}", f"--name={handle.id}",
        "--format=%T|%r|%S|%e",
    )  # fmt: skip
    if done.returncode and "Invalid job id" not in done.stderr:
        raise StudyError(f"squeue: {_words(done)}")
    return _row(done.stdout)


def _accounted(handle: JobHandle) -> Row | None:
    """Of the accounts, which not every cluster keeps."""
    try:
        done = _run(
            "sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={handle.reference['job']}",
            f"--name={handle.id}", "--format=State,Reason,Start,End",
        )  # fmt: skip
    except InputError:
        return None
    return None if done.returncode else _row(done.stdout)


def _row(text: str) -> Row | None:
    lines = text.strip().splitlines()
    if not lines:
        return None
    word, reason, started, ended = lines[-1].split("|")
    return Row(word.split()[0], reason, _time(started), _time(ended))  # CANCELLED by 1000


def _time(text: str) -> float | None:
    return float(text) if text.strip().isdigit() else None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands. Raises InputError where there is none of that name."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS,
            env={**os.environ, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"},
        )  # fmt: skip
    except (FileNotFoundError, PermissionError):
        raise InputError.of(
            command[0], "is no command here; a slurm profile is for a login node of the cluster: submit from there"
        ) from None
    except subprocess.TimeoutExpired:
        raise StudyError(
            f"{command[0]} did not answer within {COMMAND_SECONDS:.0f} s; is Slurm's controller up?"
        ) from None


def _asked(*command: str) -> str:
    """What one of Slurm's commands says. Raises StudyError where it fails."""
    done = _run(*command)
    if done.returncode:
        raise StudyError(f"{command[0]}: {_words(done)}")
    return done.stdout


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What it complains of, in a line, without its own name."""
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in done.stderr.splitlines() if line.strip()]
    return "; ".join(lines) or f"exit status {done.returncode}"


def main() -> None:
    """ADDRESS NODES SECONDS: waits until so many nodes are in Ray."""
    import logging

    import ray

    address, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    deadline, there = time.monotonic() + seconds, 0
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    while (found := sum(node["Alive"] for node in ray.nodes())) < wanted:
        if found != there:
            print(f"{found} of {wanted} nodes are in Ray", flush=True)
            there = found
        if time.monotonic() > deadline:
            sys.exit(
                f"{found} of {wanted} nodes came to Ray at {address} within {seconds:.0f} s; can the others reach that address?"
            )
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
