"""Kills parts of a real study at random moments, runs the same command again, and looks whether anything was lost.

Everything comes from a seed: the study's kind, whom each blow strikes and when. Linux: processes are found below /proc by an
environment variable that all of a study's have.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny

from search.results.front import ParetoFront, Reference
from search.study.output import open_record, spec_of
from spaces.trial import TrialOutcome, TrialState

TESTS = Path(__file__).parent.parent
# Whom a blow may strike: words of a process's command line. The driver, all at once and crash points are apart.
VICTIMS = {
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "trainable": "ray::ResourceTrainable",
    "broker": "ray::Broker",
    "raylet": "raylet/raylet",
    "gcs": "gcs/gcs_server",
}
BLOWS = ("driver", "all", "lane write", "driver write", "terminate", *VICTIMS)
HANG_SECONDS = 420.0  # without a line from the lanes or the driver
GONE_SECONDS = 30.0  # that Ray's processes may take to see that their driver is gone
OVER = {TrialState.DONE, TrialState.ENDED, TrialState.FAILED}


@dataclass(frozen=True)
class Blow:
    """What strikes, and how long after the driver's start; `nth` is the write that a crash point waits for."""

    kind: str
    seconds: float
    nth: int = 0


@dataclass
class Struck:
    """What came of one blow."""

    blow: Blow
    landed: bool  # its victim was there
    exit_status: int
    seconds: float
    first_step: float | None  # seconds from the start to the first training item of this run
    lane_back: float | None  # seconds from a worker's death to the next item on any lane
    faults: list[str] = field(default_factory=list)


class Study:
    """A tiny study in a folder, run by `run` as often as it takes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self._random = folder, random.Random(seed)
        choice = self._random.choice
        halving: Any = choice(["none", {"rungs": ["1/3", 1], "reduction": 2}])
        self.path = tiny.write_study(
            folder,
            budget={"trials": choice([4, 6])},
            search={"halving": halving, "startup_trials": 2},
            confirm={"seeds": choice([1, 2]), "without_distillation": choice(["none", "best"])},
            resources={"lanes": choice([1, 2])},
            tracking="none",
            seed=seed,
        )
        self.output = folder / "run"
        self.measured: dict[tuple[str, int, float], tuple[int, dict[str, float]]] = {}

    def next_blow(self, typical_seconds: float) -> Blow:
        kind = self._random.choice(BLOWS)
        return Blow(kind, self._random.uniform(2.0, typical_seconds), self._random.randint(1, 60))

    def run(self, blow: Blow | None = None) -> Struck:
        """One run of the command, with the blow in it; what is wrong afterwards is in `faults`."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "FAULTS_FOLDER": str(self.folder),
            "HOME": str(self.folder / "home"),
            "COLUMNS": "160",
        }
        if blow is not None and blow.kind.endswith(" write"):
            (self.folder / "crashed").unlink(missing_ok=True)
            environment["FAULTS_CRASH"] = f"{blow.kind.split()[0]}:{blow.nth}"
        mark, begun, printed = len(self._lines()), time.time(), self.folder / "driver.txt"
        with open(printed, "a") as file:
            driver = subprocess.Popen(
                [sys.executable, "-m", "faults.driver", "run", str(self.path)],
                env=environment, stdout=file, stderr=file, start_new_session=True, preexec_fn=_interruptible,
            )  # fmt: skip
        landed, hung, struck_at = blow is None, False, None
        heard, said = time.time(), -1
        while driver.poll() is None:
            time.sleep(0.1)
            if blow is not None and not landed and time.time() - begun >= blow.seconds:
                landed = self._strike(blow, driver.pid)
                struck_at = time.time() if landed else None
            size = printed.stat().st_size + len(self._lines())
            if size != said:
                said, heard = size, time.time()
            if time.time() - heard > HANG_SECONDS:
                hung = True
                os.killpg(driver.pid, signal.SIGKILL)
        status = driver.wait()
        if blow is not None and blow.kind.endswith(" write"):
            landed = (self.folder / "crashed").exists()
        left = self._left_behind()
        lines = self._lines()[mark:]
        found = Struck(
            blow=blow or Blow("none", 0.0),
            landed=landed,
            exit_status=status,
            seconds=time.time() - begun,
            first_step=next((at - begun for at, word, key, _ in lines if word == "begins" and _trains(key)), None),
            lane_back=None
            if struck_at is None or blow is None or blow.kind != "worker"
            else next((at - struck_at for at, word, _, _ in lines if word == "begins" and at > struck_at), None),
        )
        found.faults += ["it hung"] if hung else []
        found.faults += [f"left behind: {line}" for line in left]
        found.faults += self._faults(lines, status)
        return found

    def _strike(self, blow: Blow, driver: int) -> bool:
        if blow.kind == "terminate":
            os.kill(driver, signal.SIGTERM)
            return True
        there = processes_of(self.folder)
        if blow.kind == "driver":
            victims = [driver]
        elif blow.kind == "all":
            victims = list(there)
        else:
            victims = [pid for pid, words in there.items() if VICTIMS.get(blow.kind, "\0") in words][:1]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def _left_behind(self) -> list[str]:
        """What still runs some time after the driver's end; it is ended, for the next run's sake."""
        deadline = time.monotonic() + GONE_SECONDS
        while (there := processes_of(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.5)
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [words[:100] for words in there.values()]

    def _lines(self) -> list[tuple[float, str, str, int]]:
        path = self.folder / "lanes.log"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [(float(at), word, key, int(attempt)) for at, word, key, attempt in map(str.split, lines)]

    def _faults(self, lines: list[tuple[float, str, str, int]], status: int) -> list[str]:
        """What is not as it should be, after a run that wrote these lines."""
        if not (self.output / "study.db").is_file():
            return [] if status else ["it ended well and left no record"]
        spec = spec_of(self.output)
        record, again = open_record(spec)
        try:
            outcomes, confirmations = record.outcomes(), again.outcomes()
            faults = _doubled(outcomes) + _doubled(confirmations)
            begun_again = {key for _, word, key, _ in lines if word == "begins"}
            for name, part in (("trial", outcomes), ("confirm", confirmations)):
                now = {
                    (name, outcome.number, each.share): (each.attempt, each.metrics)
                    for outcome in part
                    for each in outcome.measurements
                }
                for place, before in self.measured.items():
                    if place[0] == name and now.get(place) != before:
                        faults.append(f"lost or changed: {place} was {before}, is {now.get(place)}")
                    if place[0] == name and _key(*place) in begun_again:
                        faults.append(f"run again though it was measured: {place}")
                self.measured |= now
            if status == 0:
                faults += self._faults_at_the_end(spec, record, outcomes, confirmations)
            elif status not in (1, 130, -signal.SIGKILL):
                faults.append(f"exit status {status}")
            return faults
        finally:
            record.close()

    def _faults_at_the_end(
        self, spec: Any, record: Any, outcomes: list[TrialOutcome], confirmations: list[TrialOutcome]
    ) -> list[str]:
        faults = [
            f"{each.number} is left {each.state}" for each in (*outcomes, *confirmations) if each.state not in OVER
        ]
        if record.fact("finished") is None:
            faults.append("it ended well and is not finished")
        references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
        front = ParetoFront.of(outcomes, spec, references).trials
        delivered = {path.name for path in (self.output / "best").iterdir() if path.is_dir()}
        if delivered != {f"trial-{number}" for number in front}:
            faults.append(f"the front is {front}, and delivered are {sorted(delivered)}")
        temporary = [str(path) for path in self.output.rglob("*") if path.name.endswith((".writing", ".old"))]
        temporary += [str(self.output / ".ray")] if (self.output / ".ray").exists() else []
        return faults + [f"left behind: {path}" for path in temporary]


def processes_of(folder: Path) -> dict[int, str]:
    """Process id -> command line, of all that have the folder in their environment."""
    mark, found = f"FAULTS_FOLDER={folder}\0".encode(), {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (
                    mark in (entry / "environ").read_bytes() + b"\0"
                    and "State:\tZ" not in (entry / "status").read_text()
                ):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def _doubled(outcomes: list[TrialOutcome]) -> list[str]:
    counted = Counter((outcome.number, each.share) for outcome in outcomes for each in outcome.measurements)
    return [f"measured {count} times: {place}" for place, count in counted.items() if count > 1]


def _key(name: str, number: int, share: float) -> str:
    """The item whose measurement it was."""
    return f"{name}:{number}" + (f"@{share:.3g}" if share < 1 else "")


def _trains(key: str) -> bool:
    return key.startswith(("trial:", "confirm:"))


def _interruptible() -> None:
    """A shell's background job ignores Ctrl-C, and all its children do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
