"""What tracking costs the driver: a finished study's trials, again and again, told to a tracker at a steady pace.

    python benchmarks/tracking.py runs/demo --trials 200 --pause 0.1

Offline, into a folder that is thrown away. Without tracking, for one run alone, and for a run a trial: the seconds that the
driver's own calls take, how much later the driver is for it, the processor's time of this process (what the tracker's thread may
take from the driver), and how long the end takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from search.results.front import ParetoFront
from search.study.output import open_study, result_of
from search.study.tracking import NullTracker, make_tracker
from search.study.tracking.rows import replay
from spaces.study import TrackingSpec
from spaces.trial import TrialOutcome


def many(outcomes: list[TrialOutcome], count: int) -> list[TrialOutcome]:
    """So many trials, each as one of these was, one after the other."""
    made = []
    for number in range(count):
        like = outcomes[number % len(outcomes)]
        measured = tuple(
            each.model_copy(update={"trial": number, "cost": {**each.cost, "finished_at": 1000.0 + number}})
            for each in like.measurements
        )
        made.append(like.model_copy(update={"number": number, "measurements": measured}))
    return made


def measure(folder: Path, runs: str, num_trials: int, pause: float) -> dict[str, float | str]:
    found = open_study(folder)
    outcomes = many(found.outcomes, num_trials)
    with tempfile.TemporaryDirectory() as output:
        plain = {"none": "none", "study": {"mode": "offline"}, "trials": {"mode": "offline", "runs": "trials"}}[runs]
        changes = {"tracking": TrackingSpec.model_validate({"wandb": plain}), "output": Path(output)}
        spec = found.spec.model_copy(update=changes)
        front = ParetoFront.of(outcomes, spec, found.references)
        result = result_of(spec, front, outcomes, [], {}, found.references, {})
        tracker = make_tracker(spec, {})
        time.sleep(0 if isinstance(tracker, NullTracker) else 8)  # wandb's import and start: beside Ray's, in a study
        tracker.begun([], [], found.references)
        calls = []
        busy, began = time.process_time(), time.perf_counter()
        for outcome in replay(outcomes):
            time.sleep(pause)
            at = time.perf_counter()
            tracker.told(outcome)
            calls.append(time.perf_counter() - at)
        late, busy = time.perf_counter() - began - len(calls) * pause, time.process_time() - busy
        at = time.perf_counter()
        tracker.finished(result)
        tracker.close()
        files = [path for path in Path(output).rglob("*") if path.is_file() and not path.is_symlink()]
        return {
            "runs": runs,
            "call_median_us": round(1e6 * statistics.median(calls), 1),
            "call_max_ms": round(1e3 * max(calls), 2),
            "late_ms_a_trial": round(1e3 * late / num_trials, 2),
            "processor_ms_a_trial": round(1e3 * busy / num_trials, 2),
            "end_seconds": round(time.perf_counter() - at, 2),
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two trials")
    asked = parser.parse_args()
    os.environ.pop("WANDB_MODE", None)
    for runs in ("none", "study", "trials"):
        print(json.dumps(measure(asked.folder, runs, asked.trials, asked.pause)))


if __name__ == "__main__":
    main()
