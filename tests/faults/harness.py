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
from collections.abc import Sequence
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
KILLS = ("driver", "all", *VICTIMS)
CRASHES = ("lane write", "driver write")
TOLD = {
    "terminate": [signal.SIGTERM],
    "interrupt": [signal.SIGINT],
    "interrupt twice": [signal.SIGINT] * 2,
}  # the driver
REFUSED = "refused"  # by the storage: one write in fifty, from the start on
HANG_SECONDS = 420.0  # without a line from the lanes or the driver
GONE_SECONDS = 90.0  # that Ray's processes may take to see that their driver is gone; how long it was is told
OVER = {TrialState.DONE, TrialState.ENDED, TrialState.FAILED}


@dataclass
class Blow:
    """What strikes, how long after the one before (at first: after the start), and what came of it: a SIGKILL for one of KILLS or
    at a crash point (`nth` is the write that it waits for, from the start on), a signal of TOLD, or a storage that refuses writes.
    """

    kind: str
    seconds: float = 0.0
    nth: int = 0
    landed: bool = False  # its victim was there
    back: float | None = None  # seconds from the death to the next item that any lane begins, in the same run


@dataclass
class Run:
    """What came of one run of the command."""

    blows: list[Blow]
    exit_status: int
    seconds: float
    first_step: float | None  # seconds from the start to the first training item
    gone: float  # seconds from the driver's end until none of its processes was left
    faults: list[str] = field(default_factory=list)


class Study:
    """A tiny study in a folder, run by `run` as often as it takes."""

    def __init__(self, folder: Path, seed: int, **changes: Any) -> None:
        self.folder, self._random = folder, random.Random(seed)
        choice = self._random.choice
        halving: Any = choice(["none", {"rungs": ["1/3", 1], "reduction": 2}])
        plain: dict[str, Any] = {
            "budget": {"trials": choice([4, 6])},
            "search": {"halving": halving, "startup_trials": 2},
            "confirm": {"seeds": choice([1, 2]), "without_distillation": choice(["none", "best"])},
            "resources": {"lanes": choice([1, 2])},
            "data": {**tiny.study(folder)["data"], "augmentation": choice(["none", {"copies": 1}])},
            "seed": seed,
        }
        self.path = tiny.write_study(folder, **{**plain, **changes})
        self.output = folder / "run"
        self.measured: dict[tuple[str, int, float], tuple[int, dict[str, float]]] = {}

    def blows(self, most: int) -> list[Blow]:
        """Of one run, at random: a crash point in every third, and up to `most` in all; most runs do not last for all of them."""
        draw = self._random
        if draw.random() < 1 / 10:
            return [Blow(REFUSED)]
        found = [Blow(draw.choice(CRASHES), nth=draw.randint(1, 60))] if draw.random() < 1 / 3 else []
        found += [Blow(draw.choice(KILLS), draw.uniform(1.0, 25.0)) for _ in range(most - len(found))]
        if draw.random() < 1 / 6:
            found.insert(draw.randrange(3), Blow(draw.choice(list(TOLD)), draw.uniform(1.0, 25.0)))
        return found

    def run(self, blows: Sequence[Blow] = ()) -> Run:
        """One run of the command, with the blows in it; what is wrong afterwards is in `faults`."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "FAULTS_FOLDER": str(self.folder),
            "HOME": str(self.folder / "home"),
            "COLUMNS": "160",
        }
        crashed = self.folder / "crashed"
        within = (*CRASHES, REFUSED)
        crashes, strikes = ([each for each in blows if (each.kind in within) == inside] for inside in (True, False))
        for each in crashes:
            if each.kind == REFUSED:
                environment["FAULTS_REFUSE"] = "50"
            else:
                crashed.unlink(missing_ok=True)
                environment["FAULTS_CRASH"] = f"{each.kind.split()[0]}:{each.nth}"
        mark, begun, printed = len(self._lines()), time.time(), self.folder / "driver.txt"
        with open(printed, "a") as file:
            file.write(f"\n--- {blows}\n")
            file.flush()
            driver = subprocess.Popen(
                [sys.executable, "-m", "faults.driver", "run", str(self.path)],
                env=environment, stdout=file, stderr=file, start_new_session=True, preexec_fn=_interruptible,
            )  # fmt: skip
        struck, last = dict[int, float](), begun
        heard, said, hung = begun, -1, False
        while driver.poll() is None:
            time.sleep(0.1)
            now = time.time()
            if len(struck) < len(strikes) and now - last >= strikes[len(struck)].seconds:
                blow, last = (
                    strikes[len(struck)],
                    max(last, now - strikes[len(struck)].seconds + 0.5),
                )  # again soon, if nobody is there
                if self._strike(blow.kind, driver.pid):
                    blow.landed = True
                    last = struck[len(struck)] = now
            size = printed.stat().st_size + len(self._lines())
            if size != said:
                said, heard = size, now
            if now - heard > HANG_SECONDS:
                hung = True
                os.killpg(driver.pid, signal.SIGKILL)
        status, ended = driver.wait(), time.time()
        for each in crashes:
            each.landed = each.kind == REFUSED or crashed.exists()
        left, gone = self._left_behind()
        lines = self._lines()[mark:]
        for index, at in struck.items():
            strikes[index].back = next(
                (then - at for then, word, _, _ in lines if word == "begins" and then > at), None
            )
        found = Run(
            blows=[*crashes, *(each for index, each in enumerate(strikes) if index in struck)],
            exit_status=status,
            seconds=ended - begun,
            first_step=next((at - begun for at, word, key, _ in lines if word == "begins" and _trains(key)), None),
            gone=gone,
        )
        found.faults += ["it hung"] if hung else []
        found.faults += [f"left behind: {line}" for line in left]
        found.faults += self.faults_after(lines, status)
        return found

    def _strike(self, kind: str, driver: int) -> bool:
        there = processes_of(self.folder)
        if kind in TOLD:
            for number in TOLD[kind]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(driver, number)
                time.sleep(1)
            return True
        if kind == "driver":
            victims = [driver]
        elif kind == "all":
            victims = list(there)
        else:
            victims = [pid for pid, words in there.items() if VICTIMS[kind] in words][:1]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def _left_behind(self) -> tuple[list[str], float]:
        """What still runs some time after the driver's end, and how long it took; it is ended, for the next run's sake."""
        begun = time.monotonic()
        while (there := processes_of(self.folder)) and time.monotonic() - begun < GONE_SECONDS:
            time.sleep(0.5)
        gone = time.monotonic() - begun
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [words[-150:] for words in there.values()], gone

    def _lines(self) -> list[tuple[float, str, str, int]]:
        path = self.folder / "lanes.log"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [(float(at), word, key, int(attempt)) for at, word, key, attempt in map(str.split, lines)]

    def faults_after(self, lines: list[tuple[float, str, str, int]], exit_status: int) -> list[str]:
        """What is not as it should be, after a run that wrote these lines."""
        unknown = exit_status not in (0, 1, 130, -signal.SIGINT, -signal.SIGKILL)  # 130 and -SIGINT are one to a shell
        wrong = [f"exit status {exit_status}"] if unknown else []
        if not (self.output / "study.db").is_file():
            return wrong if exit_status else ["it ended well and left no record"]
        spec = spec_of(self.output)
        record, again = open_record(spec)
        try:
            outcomes, confirmations = record.outcomes(), again.outcomes()
            faults = _doubled(outcomes) + _doubled(confirmations)
            begun = {key: attempt for _, word, key, attempt in lines if word == "begins"}
            for name, part in (("trial", outcomes), ("confirm", confirmations)):
                now = {
                    (name, outcome.number, each.share): (each.attempt, each.metrics)
                    for outcome in part
                    for each in outcome.measurements
                }
                for place, before in self.measured.items():
                    if place[0] == name and now.get(place) != before:
                        faults.append(f"lost or changed: {place} was {before}, is {now.get(place)}")
                faults += [
                    f"run again though it was measured: {place}"
                    for place, (attempt, _) in now.items()
                    if begun.get(_key(*place), attempt) != attempt or (place in self.measured and _key(*place) in begun)
                ]
                self.measured |= now
            if exit_status == 0:
                faults += self._faults_at_the_end(spec, record, outcomes, confirmations)
            return faults + wrong
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
