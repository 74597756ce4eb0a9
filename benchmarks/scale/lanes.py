"""The broker and Tune at scale: a real Ray, a real broker, and lanes that only speak to it, many to a process.

    python benchmarks/scale/lanes.py ledger LANES       the broker's own work for a segment, without Ray
    python benchmarks/scale/lanes.py broker LANES [--item-seconds 30] [--seconds 60]   latency, the broker's share of a core
    python benchmarks/scale/lanes.py tune LANES [--item-seconds 30] [--seconds 60]     what a segment costs through Tune

Every lane asks for its next item, says each second that it lives, and posts, as a worker does; it holds no model. Each
segment in flight has somebody who waits for it, as Tune's trainables do. Every line of JSON is printed, and added to the file that
`--record` names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import ray

sys.path.append(str(Path(__file__).resolve().parent.parent / "speed"))
from memory import command_of, family, held

from search.lanes.broker import POLL_SECONDS, Broker, start_broker
from search.lanes.quiet import start_ray
from search.lanes.trainable import SegmentSearcher, run_segments
from spaces.trial import WorkItem, WorkKind, WorkResult

PROCESSES = 4  # that speak for the lanes
TICKS = os.sysconf("SC_CLK_TCK")


class Lanes:
    """Some of the lanes, in a process of their own."""

    def __init__(self, broker: Any, numbers: list[int], item_seconds: float) -> None:
        self._broker, self._numbers, self._item_seconds = broker, numbers, item_seconds
        self.times: dict[str, list[float]] = {"next_item": [], "heartbeat": [], "post": []}
        self._ended = False

    async def serve(self, stands: list[Any]) -> None:
        await asyncio.gather(*(self._serve(number, stands[number % len(stands)]) for number in self._numbers))

    async def forget(self) -> None:
        """What was measured so far was the start."""
        for times in self.times.values():
            times.clear()

    async def measured(self) -> dict[str, list[float]]:
        return self.times

    async def end(self) -> None:
        self._ended = True

    async def _serve(self, lane: int, stand: Any) -> None:
        chance = random.Random(lane)
        incarnation = await self._broker.lane_started.remote(lane, 0, "node", stand)
        sequence = 0
        while not self._ended:
            begun = time.monotonic()
            item = await self._broker.next_item.remote(lane, incarnation, sequence, 0)
            if item == "stop":
                return
            if item is None:
                continue
            self.times["next_item"].append(time.monotonic() - begun)
            sequence += 1
            until = time.monotonic() + self._item_seconds * chance.uniform(0.5, 1.5)
            while (left := until - time.monotonic()) > 0 and not self._ended:
                await asyncio.sleep(min(1.0, left))
                begun = time.monotonic()
                await self._broker.heartbeat.remote(lane, incarnation, 1, 4)
                self.times["heartbeat"].append(time.monotonic() - begun)
            result = WorkResult(
                key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=lane,
                timing={"finished_at": time.time()},
            )  # fmt: skip
            begun = time.monotonic()
            await self._broker.post.remote(result)
            self.times["post"].append(time.monotonic() - begun)


class Stand:
    """In the place of lanes' workers, for the broker's watch."""


class Waiting:
    """In the place of Tune's trainables, each of which waits for a segment of its own."""

    async def wait(self, broker: Any, key: str) -> str:
        while not await broker.settled.remote(key, POLL_SECONDS):
            pass
        return key


def start(num_lanes: int, item_seconds: float) -> tuple[Any, list[Any], list[Any]]:
    """A broker, and the processes that speak for the lanes."""
    start_ray(num_cpus=2)
    broker = start_broker("scale", recycle_after=10**9)
    many = {"num_cpus": 0, "max_concurrency": 10_000}
    stands = [ray.remote(Stand).options(num_cpus=0).remote() for _ in range(2)]
    shares = [list(range(first, num_lanes, PROCESSES)) for first in range(PROCESSES)]
    lanes = [ray.remote(Lanes).options(**many).remote(broker, share, item_seconds) for share in shares]
    serving = [each.serve.remote(stands) for each in lanes]
    return broker, lanes, serving


def pid_of(name: str) -> int:
    """Of the worker process that Ray names after its actor."""
    return next(pid for pid in family() if command_of(pid).startswith(f"ray::{name}"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def quantiles(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(times)
    if not ordered:
        return {"n": 0}
    ms = {"median": statistics.median(ordered), "p95": ordered[int(0.95 * len(ordered))], "most": ordered[-1]}
    return {"n": len(ordered), **{name: round(1e3 * value, 1) for name, value in ms.items()}}


def collected(lanes: list[Any]) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    for each in ray.get([lane.measured.remote() for lane in lanes]):
        for name, times in each.items():
            found.setdefault(name, []).extend(times)
    return {f"{name}_ms": quantiles(times) for name, times in found.items()}


def item_of(number: int) -> WorkItem:
    return WorkItem(key=f"trial:{number}", kind=WorkKind.TRAIN, trial=number, payload={"teacher": "a folder"})


def broker_alone(args: argparse.Namespace) -> dict[str, Any]:
    broker, lanes, _ = start(args.lanes, args.item_seconds)
    waiting = [ray.remote(Waiting).options(num_cpus=0, max_concurrency=10_000).remote() for _ in range(PROCESSES)]
    flying: dict[Any, int] = {}
    number = 0
    begun = warm = time.monotonic()
    before = late = 0.0
    count, pid = 0, 0
    told: list[float] = []
    while time.monotonic() - warm < args.seconds:
        while len(flying) <= args.lanes:
            ray.get(broker.submit.remote(item_of(number)))
            flying[waiting[number % PROCESSES].wait.remote(broker, f"trial:{number}")] = number
            number += 1
        ready, _ = ray.wait(list(flying), timeout=1.0)
        for reference in ready:
            key = f"trial:{flying.pop(reference)}"
            result = ray.get(broker.wait.remote(key, 0))
            told.append(time.time() - result.timing["finished_at"])
            broker.acknowledge.remote(key)
            count += 1
        if not pid and time.monotonic() - begun > args.item_seconds * 1.5 + 5:  # all lanes had their first item
            pid, warm, count = pid_of("Broker"), time.monotonic(), 0
            before = cpu_seconds(pid)
            told.clear()
            ray.get([lane.forget.remote() for lane in lanes])
        elif not pid:
            warm = time.monotonic()
    late = time.monotonic() - warm
    share = (cpu_seconds(pid) - before) / late
    found = {
        "what": "broker", "lanes": args.lanes, "item_seconds": args.item_seconds, "seconds": round(late, 1), "items": count,
        "broker_share_of_a_core": round(share, 3), "broker_mb": round(held(pid).get("Pss", 0)),
        "from_posting_to_the_driver_ms": quantiles(told), **collected(lanes),
    }  # fmt: skip
    ray.get([lane.end.remote() for lane in lanes])
    ray.get(broker.close.remote())
    return found


def broker_without_ray(args: argparse.Namespace) -> dict[str, Any]:
    """The broker's own work for a segment, while all lanes are busy and each segment is waited for: no process but this one."""
    segments = 300

    async def everybody() -> float:
        broker = Broker(recycle_after=10**9)
        taken, sequences = dict[int, WorkItem](), dict[int, int]()
        waiting: dict[str, asyncio.Task[bool]] = {}

        async def submit(number: int) -> None:
            await broker.submit(item_of(number))
            waiting[f"trial:{number}"] = asyncio.create_task(broker.settled(f"trial:{number}", POLL_SECONDS))

        async def take(lane: int) -> None:
            sequences[lane] = sequences.get(lane, -1) + 1
            answer = await broker.next_item(lane, 1, sequences[lane])
            assert isinstance(answer, WorkItem)
            taken[lane] = answer

        for lane in range(args.lanes):
            broker._ledger.lane_started(lane)
            await submit(lane)
        await submit(args.lanes)
        for lane in range(args.lanes):
            await take(lane)
        begun = 0.0
        for number in range(2 * segments):
            if number == segments:  # from here on it is warm
                begun = time.process_time()
            lane = number % args.lanes
            item = taken[lane]
            await broker.post(
                WorkResult(key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=lane)
            )
            await waiting.pop(item.key)
            await broker.acknowledge(item.key)
            await submit(args.lanes + 1 + number)
            await take(lane)
            await asyncio.sleep(0)
        return (time.process_time() - begun) / segments

    return {"what": "ledger", "lanes": args.lanes, "ms_a_segment": round(1e3 * asyncio.run(everybody()), 3)}


class Endless(SegmentSearcher):
    """As many segments as there is time for, and what the driver spends between them."""

    def __init__(self, seconds: float, warm: float) -> None:
        super().__init__()
        self._begun, self._seconds, self._warm = time.monotonic(), seconds, warm
        self.number = self.count = 0
        self.told: list[float] = []
        self.measuring: float | None = None
        self.before = self.broker_before = 0.0
        self.found: dict[str, Any] = {}

    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        if self.measuring is not None and time.monotonic() - self.measuring > self._seconds:
            self._look()
            return "finished"
        self.number += 1
        return item_of(self.number)

    def finished(self, key: str, result: WorkResult) -> None:
        self.told.append(time.time() - result.timing["finished_at"])
        self.count += 1
        if self.measuring is None and time.monotonic() - self._begun > self._warm:
            self.told.clear()
            self.measuring, self.before, self.count = time.monotonic(), time.process_time(), 0
            self.broker_before = cpu_seconds(pid_of("Broker"))

    def _look(self) -> None:
        if self.found or self.measuring is None:
            return
        seconds, spent = time.monotonic() - self.measuring, time.process_time() - self.before
        commands = {pid: command_of(pid) for pid in family()}
        memory = [held(pid) for pid, command in commands.items() if "Segment" in command]
        here = held(os.getpid())
        self.found = {
            "seconds": round(seconds, 1), "items": self.count,
            "driver_cpu_ms_a_segment": round(1e3 * spent / max(1, self.count), 1),
            "driver_share_of_a_core": round(spent / seconds, 3),
            "broker_share_of_a_core": round((cpu_seconds(pid_of("Broker")) - self.broker_before) / seconds, 3),
            "trainables": len(memory),
            "trainable_pss_mb": round(statistics.mean(each.get("Pss", 0) for each in memory)) if memory else 0,
            "trainable_own_mb": round(statistics.mean(each.get("Anonymous", 0) for each in memory)) if memory else 0,
            "driver_pss_mb": round(here.get("Pss", 0)),
            "from_posting_to_the_driver_ms": quantiles(self.told),
        }  # fmt: skip


def with_tune(args: argparse.Namespace) -> dict[str, Any]:
    begun = time.monotonic()
    broker, lanes, _ = start(args.lanes, args.item_seconds)
    searcher = Endless(args.seconds, warm=args.warm)
    with tempfile.TemporaryDirectory() as folder:
        run_segments(searcher, broker, "scale", max_concurrent=lambda: args.lanes + 1, storage=Path(folder))
    found = {
        "what": "tune", "lanes": args.lanes, "item_seconds": args.item_seconds, **searcher.found,
        "segments_in_all": searcher.number, "wall_seconds": round(time.monotonic() - begun), **collected(lanes),
    }  # fmt: skip
    ray.get([lane.end.remote() for lane in lanes])
    ray.get(broker.close.remote())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ledger", "broker", "tune"])
    parser.add_argument("lanes", type=int)
    parser.add_argument("--item-seconds", type=float, default=30.0, help="half to one and a half of it")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--warm", type=float, default=60.0, help="seconds that Tune has to start, before anything counts"
    )
    parser.add_argument("--record", type=Path)
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    found = {"ledger": broker_without_ray, "broker": broker_alone, "tune": with_tune}[args.what](args)
    text = json.dumps({**({"note": args.note} if args.note else {}), **found})
    print(text, flush=True)
    if args.record:
        with args.record.open("a") as file:
            file.write(text + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
