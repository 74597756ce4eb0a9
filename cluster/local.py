"""`local`: a process of its own on this machine, which goes on when the terminal is closed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.book import state_folder
from cluster.bundle import check_output, contents
from cluster.collect import copy_output
from cluster.job import Job, JobHandle, JobState, JobStatus
from cluster.profile import LocalProfile
from spaces.errors import StudyError

STOP_SECONDS = 90.0  # a driver that was told to end closes its lanes first
LOOK_SECONDS = 0.2
BY_SIGNAL = (130, 143)  # exit statuses of a driver that was told to end
ENDED = 'echo "{\\"status\\": $?, \\"at\\": $(date +%s)}" > ended.json'


class LocalLauncher:
    """A shell waits for the driver in a session of its own and writes down how it ended: nobody else could say, later."""

    sees_our_files = True

    def __init__(self, profile: LocalProfile) -> None:
        self._profile = profile

    def preview(self, job: Job) -> str:
        told = [f"--- {name}\n{content.decode()}" for name, content in contents(job) if isinstance(content, bytes)]
        folder = self._folder(job.id)
        return "\n".join([*told, f"--- runs here, in {folder}", shlex.join(self._command(folder))])

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        from spaces.yaml_io import write_whole

        check_output(job)
        folder = self._folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents(job):
            assert isinstance(content, bytes), "nothing is sent to where it is already"
            write_whole(folder / name, content)
        for name in ("ended.json", "told-to-stop"):  # of the attempt before
            (folder / name).unlink(missing_ok=True)
        inner = f"{shlex.join(self._command(folder))} > log.txt 2>&1; {ENDED}"
        process = subprocess.Popen(
            ["sh", "-c", inner], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        return {"folder": str(folder), "pid": str(process.pid), "began": _began(process.pid), "at": str(time.time())}

    def status(self, handle: JobHandle) -> JobStatus:
        folder, started = Path(handle.reference["folder"]), float(handle.reference["at"])
        ended = folder / "ended.json"
        if self._lives(handle):
            return JobStatus(state=JobState.RUNNING, started_at=started)
        if not ended.is_file():
            gone = JobState.LOST if not folder.is_dir() else JobState.FAILED
            return JobStatus(state=gone, message="it was killed, or this machine was restarted", started_at=started)
        told = json.loads(ended.read_text())
        stopped = (folder / "told-to-stop").exists() or told["status"] in BY_SIGNAL
        state = JobState.SUCCEEDED if told["status"] == 0 else JobState.STOPPED if stopped else JobState.FAILED
        message = "" if state is JobState.SUCCEEDED else f"exit status {told['status']}"
        return JobStatus(state=state, message=message, started_at=started, ended_at=told["at"])

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        path = Path(handle.reference["folder"]) / "log.txt"
        if not path.is_file():
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            while True:
                lives = follow and self._lives(handle)  # asked before reading: what it says last is read
                while text := file.read(1 << 16):
                    yield text
                if not lives:
                    return
                time.sleep(LOOK_SECONDS)

    def stop(self, handle: JobHandle) -> None:
        """SIGTERM, to the driver alone, which ends Ray and its lanes. Of a shell's background it would not hear SIGINT."""
        if not self._lives(handle):
            return
        (Path(handle.reference["folder"]) / "told-to-stop").touch()
        for child in _children(int(handle.reference["pid"])):
            os.kill(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._lives(handle):
            if time.monotonic() > deadline:
                raise StudyError(f"{handle.id} was told to stop and did not within {STOP_SECONDS:.0f} s; see its logs")
            time.sleep(LOOK_SECONDS)

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        copy_output(Path(handle.output), folder)

    def _folder(self, job_id: str) -> Path:
        return state_folder() / "local" / job_id

    def _command(self, folder: Path) -> list[str]:
        return [self._profile.python or sys.executable, "-m", "cluster.arrive", str(folder)]

    def _lives(self, handle: JobHandle) -> bool:
        """The process of that number, unless the number has been given to another one since."""
        return _began(int(handle.reference["pid"])) == handle.reference["began"] != ""


def _began(pid: int) -> str:
    """When the process began, in the machine's own count; empty where there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
