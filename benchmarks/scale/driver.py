"""The driver alone at scale: the real searcher, sampler, ladder, budget and record over simulated lanes in virtual time.

    python benchmarks/scale/driver.py run FOLDER [--trials 20000] [--lanes 64] [--sampler forest] [--halving] [--budgeted]
    python benchmarks/scale/driver.py grow FOLDER [--trials 20000]     a record that was run, over and over until it is that large
    python benchmarks/scale/driver.py ask FOLDER --sampler tpe         what 60 trials cost on top of such a record; nothing is kept
    python benchmarks/scale/driver.py open FOLDER                      time to open it, to continue it, of `front` and of `report`

A lane takes what the searcher suggests and gives back plausible scores after a simulated time, so that all that takes time here is
the driver's. Seconds are the processor's, of the driver's thread. `run` goes on where it was cut off. Every line of JSON is
printed, and added to the file that `--record` names.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import math
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parent.parent / "speed"))
from search.study.gpu_hours import GpuHours
from simulated import REFERENCES, TEACHER

from search.results.front import ParetoFront
from search.study import searcher as searcher_module
from search.study.budget import Budget
from search.study.output import claim_output, open_record
from search.study.progress import Progress
from search.study.searcher import StudySearcher
from search.study.standing import Standings
from search.suggest.first import first_points
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, WorkItem, WorkResult
from spaces.yaml_io import parse_study

VOCABULARIES = {"full": 30522, "used": 12000}
SIZES = (100, 1_000, 5_000, 10_000, 20_000)  # trials at which the cost of one is told
WINDOW = 100  # trials up to each of them that it is taken over
TRIAL_SECONDS = 600.0  # of a whole training of the teacher's own size, on a lane
TOKENS = 1e6  # that a whole trial is trained on
MODULES = ("search", "spaces", "optuna", "sklearn", "scipy", "numpy", "sqlalchemy")


def the_study(folder: Path, args: argparse.Namespace) -> StudySpec:
    raw: dict[str, Any] = {
        "name": "many", "data": {"builtin": "docstrings"}, "teacher": "x/y", "output": str(folder), "budget": {"trials": 10**6},
        "search": {"sampler": args.sampler},
    }  # fmt: skip
    if args.halving:
        raw["search"]["halving"] = {"rungs": ["1/9", "1/3", 1]}
    if args.budgeted:
        raw["budget"] |= {"minutes": 10**6, "training_tokens": 1e17, "flat": {"trials": 100_000, "growth": 0.01}}
    return parse_study(raw, "the benchmark", folder)


class Parts:
    """Seconds of this thread's processor time by part; of calls within calls the inner ones' own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            begun = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                spent = time.thread_time() - begun
                self.seconds[name] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed

    def watch(self, name: str, owner: Any, *methods: str) -> None:
        for method in methods:
            setattr(owner, method, self.of(name, getattr(owner, method)))


class Simulation:
    """A study on so many simulated lanes. `now` is the virtual time, a day after the epoch at first."""

    def __init__(self, spec: StudySpec, num_lanes: int) -> None:
        self.spec, self.num_lanes, self.now = spec, num_lanes, 86_400.0
        self.parts, self.num_measured, self._flying = Parts(), 0, list[tuple[float, int, WorkItem]]()
        claim_output(spec)
        begun = time.perf_counter()
        self.record, _ = open_record(spec)
        if self.record.fact("references") is None:
            self.record.keep("references", [reference.model_dump() for reference in REFERENCES])
            self.record.keep("num_rows", {"train": 67_349, "validation": 872, "test": 1_821})
        first = first_points(spec, TEACHER, VOCABULARIES, {})
        scores = {"accuracy": REFERENCES[0].value("accuracy")}
        self.sampling = Sampling(spec, TEACHER, VOCABULARIES, {}, scores, {"accuracy": 0.5}, first=first)
        minutes = spec.budget.minutes
        self.budget = Budget(
            spec, num_lanes=num_lanes, tokens_per_text=12, deadline=None if minutes is None else 1e12,
            front_size=lambda: len(self.searcher.front.points), trial_tokens=lambda config: TOKENS, references=REFERENCES,
            clock=lambda: self.now,
        )  # fmt: skip
        self.ladder = Ladder(spec, {})
        self.searcher = StudySearcher(
            spec, self.record, self.sampling, self.budget, self.ladder, references=REFERENCES, teacher_depth=TEACHER.depth,
            payload={}, told=self.told,
        )  # fmt: skip
        self.opened_seconds = time.perf_counter() - begun
        self.now = max([self.now, *(m.cost["finished_at"] for o in self.searcher.ordered for m in o.measurements)])
        hours = GpuHours(spec, self.record, num_lanes=num_lanes, begun=time.monotonic())
        self.standings = Standings(spec, hours, num_lanes, REFERENCES, time.monotonic())
        self.display = Progress(Console(file=io.StringIO()), spec.quality)
        for name, owner, methods in (
            ("sampler", self.sampling, ("suggest", "is_beaten", "recipe_of")),
            ("record", self.record, ("start", "measured", "set_state", "promote", "set_attempt", "next_number")),
            ("budget", self.budget, ("spent", "refuses")),
            ("halving", self.ladder, ("due", "measured", "settle", "hopeless", "promote")),
            ("searcher", self.searcher, ("next_item", "finished")),
            ("display", self.display, ("told",)),
        ):
            self.parts.watch(name, owner, *methods)
        timed_front = self.parts.of("front", ParetoFront.of)
        searcher_module.ParetoFront = type("Front", (), {"of": staticmethod(timed_front)})  # type: ignore[misc]

    def told(self, outcome: TrialOutcome) -> None:
        self.display.told(outcome)

    def fill(self) -> bool:
        """Lanes are given work, and one item more; whether anything runs."""
        while len(self._flying) <= self.num_lanes:
            item = self.searcher.next_item("any")
            if not isinstance(item, WorkItem):
                break
            lasts = seconds_of(item)
            heapq.heappush(self._flying, (self.now + lasts, len(self.searcher.outcomes) * 10 + item.attempt, item))
        return bool(self._flying)

    def step(self) -> None:
        """The next lane is through."""
        self.now, _, item = heapq.heappop(self._flying)
        self.searcher.finished(item.key, measured(item, self.now))
        self.num_measured += 1

    def mean_trial_seconds(self) -> float:
        latest = self.searcher.ordered[-1000:]
        return float(np.mean([outcome.train_seconds for outcome in latest if outcome.measurements] or [0.0]))


def relative_size(shape: StudentShape) -> float:
    return shape.flops(12) / TEACHER.as_student().flops(12)


def seconds_of(item: WorkItem) -> float:
    assert item.config is not None
    luck = float(np.random.default_rng((item.trial or 0, 1)).lognormal(0, 0.1))
    return TRIAL_SECONDS * (item.end_share - item.start_share) * (0.05 + relative_size(item.config.shape)) * luck


def measured(item: WorkItem, now: float) -> WorkResult:
    """Better when larger, at a temperature of 3 and a rate of 2e-4, and with noise: a front of tens of students."""
    config, trial = item.config, item.trial
    assert config is not None
    assert trial is not None
    noise = np.random.default_rng((trial, round(1000 * item.end_share))).normal(0, 0.006)
    accuracy = 0.5 + 0.1 * math.log10(config.shape.num_parameters / 1e4) + noise - 0.05 * (1 - item.end_share)
    accuracy -= 0.02 * math.log(config.temperature / 3) ** 2 + 0.02 * math.log(config.learning_rate / 2e-4) ** 2
    accuracy = round(872 * min(0.93, max(0.5, accuracy))) / 872
    cost = {"train_seconds": seconds_of(item), "tokens": TOKENS * (item.end_share - item.start_share)}
    found = Measurement(
        trial=trial, attempt=item.attempt, step=round(1000 * item.end_share), share=item.end_share,
        metrics={"validation/accuracy": accuracy, "validation/loss": 1 - accuracy}, cost=cost,
    )  # fmt: skip
    timing = {
        "received_at": now - cost["train_seconds"],
        "first_step_at": now - cost["train_seconds"],
        "finished_at": now,
    }
    return WorkResult(
        key=item.key, kind=item.kind, trial=trial, attempt=item.attempt, lane=0, measurement=found, timing=timing
    )


def megabytes() -> float:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def record_megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("study.db*")) / 1e6


def standing_seconds(simulation: Simulation) -> float:
    """Of what a display shows, made once more: a thread of its own does it, in a twentieth of the time at most."""
    simulation.standings.made(simulation.searcher, simulation.budget)
    begun = time.thread_time()
    simulation.standings.made(simulation.searcher, simulation.budget)
    return time.thread_time() - begun


def run(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    simulation = Simulation(the_study(args.folder, args), args.lanes)
    before, since, wall, measured_before = dict(simulation.parts.seconds), 0.0, 0.0, 0
    sizes = [size for size in SIZES if size <= args.trials and size > len(simulation.searcher.outcomes)]
    while sizes:
        num_trials = len(simulation.searcher.outcomes)
        if num_trials <= sizes[0] - WINDOW:
            before, since, wall = dict(simulation.parts.seconds), num_trials, time.perf_counter()
            measured_before = simulation.num_measured
        if not simulation.fill():
            raise SystemExit(f"it ended by itself: {simulation.searcher.ended}")
        if len(simulation.searcher.outcomes) >= sizes[0]:
            counted = max(1, len(simulation.searcher.outcomes) - since)
            spent = {
                name: (seconds - before.get(name, 0.0)) / counted for name, seconds in simulation.parts.seconds.items()
            }
            mean = simulation.mean_trial_seconds()
            say(
                {
                    "what": "driver", "sampler": args.sampler, "lanes": args.lanes, "halving": args.halving,
                    "budgeted": args.budgeted, "trials": sizes.pop(0),
                    "ms_a_trial": {name: round(1e3 * seconds, 2) for name, seconds in sorted(spent.items())},
                    "ms_in_all": round(1e3 * sum(spent.values()), 2),
                    "wall_ms_a_trial": round(1e3 * (time.perf_counter() - wall) / counted, 2),
                    "segments": (simulation.num_measured - measured_before) / counted,
                    "standing_ms": round(1e3 * standing_seconds(simulation), 2),
                    "front": len(simulation.searcher.front.points), "driver_mb": round(megabytes()),
                    "record_mb": round(record_megabytes(args.folder), 1), "virtual_days": round(simulation.now / 86_400 - 1, 2),
                    "mean_trial_s": round(mean, 1),
                }
            )  # fmt: skip
        simulation.step()


def grow(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """Makes a record as large as is wanted of one that was run: its finished trials over and over, each time with rates, seeds and
    scores that are a little different. What runs in it is dropped."""
    chance = np.random.default_rng(0)
    with sqlite3.connect(args.folder / "study.db") as database:

        def rows(table: str) -> dict[int, list[list[Any]]]:
            found: dict[int, list[list[Any]]] = defaultdict(list)
            for row in database.execute(f"SELECT * FROM {table}"):
                found[row[1]].append(list(row))
            return found

        trials = [list(row) for row in database.execute("SELECT * FROM trials WHERE study_id = 1 ORDER BY number")]
        kept = [trial for trial in trials if trial[3] == "COMPLETE"]
        tables = {name: rows(name) for name in ("trial_params", "trial_values", "trial_user_attributes")}
        for table in ("trials", *tables):
            database.execute(f"DELETE FROM {table}")
        made: dict[str, list[list[Any]]] = defaultdict(list)
        for number in range(args.trials):
            like, new = kept[number % len(kept)], number + 1
            factor, better = 1 - 1e-6 * (number // len(kept)), chance.normal(0, 0.003)
            made["trials"].append([new, number, *like[2:]])
            for name, known in tables.items():
                for row in known[like[0]]:
                    copy = [None, new, *row[2:]]
                    if name == "trial_params" and copy[2] == "learning_rate":
                        copy[3] *= factor
                    elif name == "trial_user_attributes":
                        copy[3] = json.dumps(changed(copy[2], json.loads(copy[3]), number, factor, better))
                    made[name].append(copy)
        for name, all_rows in made.items():
            database.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(all_rows[0]))})", all_rows)
    say({"what": "grow", "trials": args.trials, "of": len(kept), "record_mb": round(record_megabytes(args.folder), 1)})


def changed(name: str, value: Any, number: int, factor: float, better: float) -> Any:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    plain = json.loads(value)
    if "learning_rate" in plain:
        plain["learning_rate"] *= factor
    if "seed" in plain:
        plain["seed"] = (plain["seed"] + number) % 2**31
    if name.startswith("measurement"):
        plain["trial"] = number
        plain["cost"]["finished_at"] += 3_000_000.0 * (1 - factor) * 1e3
        plain["metrics"]["validation/accuracy"] = min(0.93, plain["metrics"]["validation/accuracy"] + better)
    return json.dumps(plain)


def ask(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """What a trial costs with another sampler, on a copy of a record that is there."""
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as copy:
        spec = the_study(Path(copy) / "study", args)
        claim_output(spec)
        shutil.copy(args.folder / "study.db", spec.output / "study.db")
        simulation = Simulation(spec, args.lanes)
        simulation.fill()  # with the first ask of all, which reads the record's trials
        first = sum(simulation.parts.seconds.values())
        simulation.parts.seconds.clear()
        begun, before = time.perf_counter(), len(simulation.searcher.outcomes)
        while len(simulation.searcher.outcomes) < before + 60:
            simulation.step()
            simulation.fill()
        spent = {name: seconds / 60 for name, seconds in simulation.parts.seconds.items()}
        say(
            {
                "what": "ask", "sampler": args.sampler, "lanes": args.lanes, "halving": args.halving, "budgeted": args.budgeted,
                "trials": before, "first_asks_s": round(first, 2),
                "ms_a_trial": {name: round(1e3 * seconds, 2) for name, seconds in sorted(spent.items())},
                "ms_in_all": round(1e3 * sum(spent.values()), 2),
                "wall_ms_a_trial": round(1e3 * (time.perf_counter() - begun) / 60, 2), "driver_mb": round(megabytes()),
            }
        )  # fmt: skip


def open_again(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """What it takes to continue a large study, and to look at it."""
    found: dict[str, Any] = {
        "what": "open",
        "sampler": args.sampler,
        "record_mb": round(record_megabytes(args.folder), 1),
    }
    for command in ("front", "show", "report"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "search.cli", command, str(args.folder)], check=True, stdout=subprocess.DEVNULL
        )
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        found[f"{command}_s"] = round(time.perf_counter() - begun, 2)
        found[f"{command}_cpu_s"] = round(spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime, 2)
        found["most_mb_of_a_command"] = round(spent.ru_maxrss / 1024)
    found["report_mb"] = round((args.folder / "report.html").stat().st_size / 1e6, 2)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as copy:
        spec = the_study(Path(copy) / "study", args)
        claim_output(spec)
        shutil.copy(args.folder / "study.db", spec.output / "study.db")
        simulation = Simulation(spec, args.lanes)
        begun = time.perf_counter()
        simulation.fill()
        found |= {
            "trials": len(simulation.searcher.outcomes), "opened_s": round(simulation.opened_seconds, 2),
            "lanes_busy_after_s": round(time.perf_counter() - begun, 2), "lanes": args.lanes, "driver_mb": round(megabytes()),
        }  # fmt: skip
    say(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "grow", "ask", "open"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--sampler", default="forest")
    parser.add_argument("--halving", action="store_true")
    parser.add_argument(
        "--budgeted", action="store_true", help="minutes, training tokens and a flat front, all far away"
    )
    parser.add_argument("--record", type=Path, help="a file that each line is added to")
    parser.add_argument("--note", default="", help="kept with each line, such as `before`")
    args = parser.parse_args()
    args.folder = args.folder.resolve()

    def say(line: dict[str, Any]) -> None:
        text = json.dumps({**({"note": args.note} if args.note else {}), **line})
        print(text, flush=True)
        if args.record:
            with args.record.open("a") as file:
                file.write(text + "\n")

    {"run": run, "grow": grow, "ask": ask, "open": open_again}[args.what](args, say)


if __name__ == "__main__":
    main()
