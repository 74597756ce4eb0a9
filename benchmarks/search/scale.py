"""What deciding costs with thousands of trials, and what the driver holds: synthetic trials with rungs, real searcher and record.

    python benchmarks/search/scale.py [trials 5000] [storage sqlite, or an Optuna storage URL]

The trials are drawn at random, as that is quick; then the forest and TPE are asked in view of them.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "speed"))
from memory import peak_megabytes
from simulated import REFERENCES, TEACHER

from search.record.record import Record, open_storage
from search.study.budget import Budget
from search.study.searcher import StudySearcher
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.study import StudySpec
from spaces.trial import Measurement, WorkItem, WorkResult
from spaces.yaml_io import parse_study

VOCABULARIES = {"full": 30522, "used": 12000}
ASKS = 40


def the_study(folder: str, **search: Any) -> StudySpec:
    raw = {
        "name": "many", "data": {"builtin": "docstrings"}, "teacher": "x/y", "output": folder, "budget": {"trials": 10**6},
        "search": {"halving": {"rungs": ["1/9", "1/3", 1]}, "recipes": False, **search},
    }  # fmt: skip
    return parse_study(raw, "the benchmark", Path(folder))


def result_of(item: WorkItem, now: float) -> WorkResult:
    assert item.config is not None
    assert item.trial is not None
    noise = np.random.default_rng(item.trial).normal(0, 0.01)
    accuracy = min(0.99, 0.4 + 0.05 * math.log10(item.config.shape.num_parameters / 1e4) + 0.1 * item.end_share + noise)
    measurement = Measurement(
        trial=item.trial, attempt=1, step=100, share=item.end_share, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 9.0, "finished_at": now},
    )  # fmt: skip
    return WorkResult(key=item.key, kind=item.kind, trial=item.trial, attempt=1, lane=0, measurement=measurement)


def main(trials: int = 5000, storage: str = "sqlite") -> None:
    folder = tempfile.mkdtemp()
    spec = the_study(folder, sampler="random")
    before = peak_megabytes()
    record = Record(open_storage(storage, Path(folder)), f"many-{time.time()}", spec.objectives)
    ladder, writes, decisions = Ladder(spec, {}), list[float](), list[float]()
    write, due = record.measured, ladder.due

    def timed(call: Any, times: list[float]) -> Any:
        def wrapped(*given: Any) -> Any:
            begun = time.perf_counter()
            answer = call(*given)
            times.append(time.perf_counter() - begun)
            return answer

        return wrapped

    record.measured, ladder.due = timed(write, writes), timed(due, decisions)  # type: ignore[method-assign]
    budget = Budget(spec, num_lanes=8, tokens_per_text=12, deadline=None, front_size=lambda: 5)
    searcher = StudySearcher(
        spec, record, Sampling(spec, TEACHER, VOCABULARIES, {}), budget, ladder,
        references=REFERENCES, teacher_depth=TEACHER.depth, payload={}, told=lambda outcome: None,
    )  # fmt: skip
    begun = time.monotonic()
    segments = 0
    while record.next_number() < trials:
        item = searcher.next_item("any")
        assert isinstance(item, WorkItem)
        searcher.finished(item.key, result_of(item, segments))
        segments += 1
        if segments % 1000 == 0:
            print(
                f"{record.next_number():,} trials, {segments:,} segments, {time.monotonic() - begun:.0f} s: "
                f"a decision {statistics.median(decisions[-500:]) * 1e3:.2f} ms, writing a measurement "
                f"{statistics.median(writes[-500:]) * 1e3:.2f} ms (medians of 500), memory {peak_megabytes():.0f} MB "
                f"({before:.0f} before)",
                flush=True,
            )
    late = sorted(decisions[-500:])[474] * 1e3
    print(
        f"the last 500 decisions: median {statistics.median(decisions[-500:]) * 1e3:.2f} ms, 95th percentile {late:.2f} ms"
    )
    for name in ("forest", "tpe"):
        sampling = Sampling(the_study(folder, sampler=name), TEACHER, VOCABULARIES, {})
        asks = []
        for number in range(trials, trials + ASKS):
            asking = time.perf_counter()
            sampling.suggest(searcher.ordered, number, searcher.front)
            asks.append(time.perf_counter() - asking)
        print(
            f"{name}: the first ask {asks[0]:.1f} s, then {statistics.median(asks[1:]) * 1e3:.0f} ms (median)",
            flush=True,
        )
    print(f"memory with both: {peak_megabytes():.0f} MB")


if __name__ == "__main__":
    main(*([int(float(sys.argv[1])), *sys.argv[2:]] if len(sys.argv) > 1 else []))
