"""How a study grows in trials and in lanes, which are simulated here: they take no time, and what is left is ours.

python benchmarks/speed/simulated.py trials [5000]    sampler, record and front on their own: seconds a trial, by hundreds
python benchmarks/speed/simulated.py lanes [200]      one broker, this many lanes that report every second
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import peak_megabytes

from search.lanes.quiet import start_ray
from search.record.record import Record, open_storage
from search.results.front import Reference
from search.study.budget import Budget
from search.study.searcher import StudySearcher
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.student import TeacherShape
from spaces.trial import Measurement, WorkItem, WorkKind, WorkResult
from spaces.yaml_io import parse_study

TEACHER = TeacherShape(
    model_type="bert", depth=12, hidden_size=768, num_heads=12, intermediate_size=3072, vocabulary_size=30522,
    max_positions=512, type_vocabulary_size=2, num_labels=2, num_parameters=109_483_778,
)  # fmt: skip
REFERENCES = [
    Reference(name="teacher", label="teacher", num_parameters=109_483_778, metrics={"validation/accuracy": 0.93})
]


def trials(count: int) -> None:
    """A study of the default space whose trials take no time: what is left is ours."""
    with tempfile.TemporaryDirectory() as folder:
        spec = parse_study(
            {
                "name": "many",
                "data": {"builtin": "docstrings"},
                "teacher": "x/y",
                "output": folder,
                "budget": {"trials": count},
                "search": {"sampler": "tpe"},
            },
            "the benchmark",
            Path(folder),
        )
        record = Record(open_storage("sqlite", Path(folder)), spec.name, spec.objectives)
        sampling = Sampling(spec, TEACHER, {"full": 30522, "used": 12000}, {})
        budget = Budget(
            spec, num_lanes=8, tokens_per_text=12, deadline=time.monotonic() + 1e6,
            front_size=lambda: len(searcher.front.points),
        )  # fmt: skip
        searcher = StudySearcher(
            spec,
            record,
            sampling,
            budget,
            Ladder(spec, {}),
            references=REFERENCES,
            teacher_depth=12,
            payload={},
            told=lambda outcome: None,
        )
        asking: list[float] = []
        telling: list[float] = []
        for number in range(count):
            begun = time.perf_counter()
            item = searcher.next_item("any")
            assert isinstance(item, WorkItem)
            asked = time.perf_counter()
            searcher.finished(item.key, simulated(item))
            asking.append(asked - begun)
            telling.append(time.perf_counter() - asked)
            if (number + 1) % 250 == 0:
                last = slice(-250, None)
                print(
                    f"trials {number - 248} to {number + 1}: ask {statistics.median(asking[last]) * 1e3:.0f} ms, "
                    f"tell {statistics.median(telling[last]) * 1e3:.0f} ms (medians), memory {peak_megabytes():.0f} MB",
                    flush=True,
                )
        print(f"{count} trials: {sum(asking) + sum(telling):.0f} s in all, front of {len(searcher.front.points)}")


def simulated(item: WorkItem) -> WorkResult:
    """Better when larger, and with noise: a front of some tens of points."""
    assert item.config is not None
    assert item.trial is not None
    noise = np.random.default_rng(item.trial).normal(0, 0.01)
    accuracy = min(0.99, 0.5 + 0.05 * math.log10(item.config.shape.num_parameters / 1e4) + noise)
    measurement = Measurement(
        trial=item.trial,
        attempt=1,
        step=100,
        share=1.0,
        metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 9.0},
    )
    return WorkResult(
        key=item.key,
        kind=item.kind,
        trial=item.trial,
        attempt=1,
        lane=0,
        measurement=measurement,
        timing={"finished_at": time.time()},
    )


def lanes(count: int, seconds: int = 60) -> None:
    """Lanes that speak to a real broker as workers do, in this process: a heartbeat a second, an item of two to four."""
    import ray

    from search.lanes.broker import start_broker

    start_ray(num_cpus=2)
    broker = start_broker("scale", recycle_after=10**9)
    until = time.monotonic() + seconds
    waits: list[float] = []
    beats: list[float] = []
    done = 0

    @ray.remote(num_cpus=0)
    class Stand:
        """In the place of a worker, for the broker's watch."""

    async def lane(number: int, stand: Any) -> None:
        nonlocal done
        incarnation = await broker.lane_started.remote(number, 0, "node", stand)
        sequence = 0
        while time.monotonic() < until:
            asked = time.monotonic()
            item = await broker.next_item.remote(number, incarnation, sequence, 0)
            if not isinstance(item, WorkItem):
                continue
            waits.append(time.monotonic() - asked)
            sequence += 1
            for _ in range(int(np.random.default_rng(number + sequence).integers(2, 5))):
                await asyncio.sleep(1)
                begun = time.monotonic()
                await broker.heartbeat.remote(number, incarnation, 1, 4)
                beats.append(time.monotonic() - begun)
            await broker.post.remote(
                WorkResult(key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=number, timing={})
            )
            done += 1

    async def driver() -> None:
        """Keeps one item more than lanes in flight, as the searcher does."""
        flying: set[str] = set()
        number = 0
        while time.monotonic() < until:
            while len(flying) <= count:
                item = WorkItem(key=f"trial:{number}", kind=WorkKind.TRAIN, trial=number)
                await broker.submit.remote(item)
                flying.add(item.key)
                number += 1
            result = await broker.wait_any.remote(list(flying), 1.0)
            if result is not None:
                flying.discard(result.key)
                await broker.acknowledge.remote(result.key)

    async def everybody() -> None:
        stands = [Stand.remote() for _ in range(2)]
        await asyncio.gather(driver(), *(lane(number, stands[number % 2]) for number in range(count)))

    asyncio.run(everybody())
    waits.sort()
    beats.sort()
    print(f"{count} lanes, {seconds} s: {done} items")
    for name, times in (("from asking to the next item", waits), ("a heartbeat's round trip", beats)):
        late = times[int(0.95 * len(times))]
        print(
            f"{name}: median {statistics.median(times) * 1e3:.1f} ms, 95th percentile {late * 1e3:.1f} ms (n = {len(times)})"
        )
    ray.shutdown()


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    chosen, default = {"trials": (trials, 5000), "lanes": (lanes, 200)}[what]
    chosen(int(float(more[0])) if more else int(default))
