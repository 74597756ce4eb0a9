"""Broker: the actor between the driver and the lanes. It holds queued work and the results not yet acknowledged."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.lanes.handover import Handover
from search.lanes.ledger import Answer, Ledger
from spaces.errors import StudyError
from spaces.trial import WorkItem, WorkResult

T = TypeVar("T")

LANES = ""  # what lanes ask about; others ask about an item's key
POLL_SECONDS = 30.0  # the longest a question stays open: who asked may be dead, and is asked to ask again
PING_SECONDS = 1.0
HANDOVER_SECONDS = 0.02  # between two looks whether the next segment may be told


class Broker:
    """The Ledger, made reachable: questions stay open until there is an answer, silent lanes are killed.

    Every call may be retried. Create it with `start_broker`.
    """

    def __init__(
        self, recycle_after: int = 50, silence_seconds: float = 120, recycle_above_gb: float = math.inf
    ) -> None:
        self._ledger = Ledger(
            clock=time.time,
            recycle_after=recycle_after,
            recycle_above_gb=recycle_above_gb,
            silence_seconds=silence_seconds,
        )
        self._silence_seconds = silence_seconds
        self._handover, self._next_told = Handover(time.monotonic), asyncio.Lock()
        # Who asks, by what about: of a thousand who wait for a segment each, one is woken when it is back.
        self._asking: dict[str, set[asyncio.Event]] = {}
        self._workers: dict[int, ActorHandle] = {}  # rank 0 of each lane
        self._controllers: dict[int, ActorHandle] = {}  # Train's, of each lane
        self._closed = False
        self._places: dict[int, dict[str, Any]] = {}
        self._watching = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: WorkItem) -> None:
        self._ledger.submit(item)
        self._notify(LANES)

    async def submit_segment(self, item: WorkItem) -> None:
        """One that a Tune actor will wait for, by `settled`."""
        if self._ledger.submit(item):
            self._handover.given(item.key)
        self._notify(LANES)

    async def wait(self, key: str, timeout: float = POLL_SECONDS) -> WorkResult | None:
        """The result, or None after `timeout` seconds. Raises StudyError if there will be none."""
        return await self.wait_any([key], timeout)

    async def wait_any(self, keys: list[str], timeout: float = POLL_SECONDS) -> WorkResult | None:
        """Whichever result is there first, or None after `timeout` seconds."""
        return await self._until(lambda: next(filter(None, map(self._ledger.result, keys)), None), timeout, keys)

    async def settled(self, key: str, timeout: float = POLL_SECONDS) -> bool:
        """Whether there is a result, for a Tune actor, which ends its trial then: told to one after the other."""
        self._handover.awaited(key)
        if await self.wait(key, timeout) is None:
            return False
        async with self._next_told:
            while not self._handover.passes():
                await asyncio.sleep(HANDOVER_SECONDS)
        return True

    async def acknowledge(self, key: str) -> None:
        self._ledger.acknowledge(key)
        self._handover.awaited(key)  # by the driver: its actor may have died as it started

    async def next_item(self, lane: int, incarnation: int, sequence: int, rank: int = 0) -> Answer | None:
        """What the lane is to do as its `sequence`-th thing: an item, "stop" or "recycle". None: ask again."""
        answer: Answer | None = await self._until(
            lambda: self._ledger.next_answer(lane, incarnation, sequence, rank), POLL_SECONDS, [LANES]
        )
        if rank == 0 and answer is not None:
            self._notify(LANES)  # the other ranks may have asked already
        return answer

    async def heartbeat(self, lane: int, incarnation: int, done: int, total: int) -> bool:
        return self._ledger.heartbeat(lane, incarnation, done, total)

    async def post(self, result: WorkResult) -> bool:
        accepted = self._ledger.post(result)
        self._notify(result.key)
        return accepted

    async def lane_expected(self, lane: int) -> None:
        self._ledger.lane_expected(lane)

    async def controller_started(self, lane: int, controller: ActorHandle) -> None:
        """Train's controller of the lane is there, and starts its workers; which it need not where the pool has closed."""
        self._controllers[lane] = controller
        if self._closed:
            ray.kill(controller)

    async def lane_started(self, lane: int, pid: int, node: str, worker: ActorHandle) -> int:
        """A fresh group serves the lane; returns its incarnation. `worker` is rank 0: killing it ends the group."""
        incarnation = self._ledger.lane_started(lane)
        self._workers[lane] = worker
        self._places[lane] = {"pid": pid, "node": node}
        self._attend(self._watch_for_death(lane, incarnation, worker))
        if not self._watching:
            self._watching = True
            self._attend(self._watch_for_silence())
        self._notify()
        return incarnation

    async def lane_lost(self, lane: int, reason: str, incarnation: int | None = None) -> None:
        self._ledger.lane_lost(lane, reason, incarnation)
        self._notify()

    async def num_posted(self, lane: int) -> int:
        return self._ledger.num_posted(lane)

    async def status(self) -> dict[str, Any]:
        """Plain data for the display (see Ledger.status; the clock is Unix time), with each lane's pid and node."""
        status = self._ledger.status()
        for lane, entry in status["lanes"].items():
            entry.update(self._places.get(lane, {"pid": 0, "node": ""}))
        return status

    async def give_up(self, reason: str) -> None:
        self._ledger.give_up(reason)
        self._notify()

    async def hold(self) -> None:
        self._ledger.hold()

    async def close(self) -> None:
        self._closed = True
        self._ledger.close()
        self._notify()

    async def kill_lanes(self) -> None:
        """End what did not end by itself after `close`: the controllers too, which would start killed workers again, and with whom
        those end that are still starting."""
        for actor in (*self._controllers.values(), *self._workers.values()):
            ray.kill(actor)

    def _notify(self, *about: str) -> None:
        """Whoever asks about one of these asks again; of nothing named, everybody."""
        for name in about or tuple(self._asking):
            for woken in self._asking.get(name, ()):
                woken.set()

    async def _until(self, question: Callable[[], T | None], timeout: float, about: Sequence[str]) -> T | None:
        deadline, woken = time.monotonic() + timeout, asyncio.Event()
        for name in about:
            self._asking.setdefault(name, set()).add(woken)
        try:
            while (answer := question()) is None:
                woken.clear()
                await asyncio.wait_for(woken.wait(), deadline - time.monotonic())
            return answer
        except TimeoutError:
            return None
        finally:
            for name in about:
                self._asking[name].discard(woken)
                if not self._asking[name]:
                    del self._asking[name]

    def _attend(self, watch: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(watch)
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _watch_for_silence(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._silence_seconds / 4))
            for lane in self._ledger.silent():
                ray.kill(self._workers[lane])

    async def _watch_for_death(self, lane: int, incarnation: int, worker: ActorHandle) -> None:
        """Hand the work of a dead lane to another at once, not when its own replacement is up."""
        while True:
            try:
                await worker.__ray_ready__.remote()
            except RayActorError as error:
                return await self.lane_lost(lane, first_line(error), incarnation)
            await asyncio.sleep(PING_SECONDS)


def ask(question: ray.ObjectRef) -> Any:
    """ray.get, with the StudyError that the broker raised as it was and not in Ray's wrapping of remote tracebacks."""
    try:
        return ray.get(question)
    except RayTaskError as error:
        if isinstance(error.cause, StudyError):
            raise error.cause from None
        raise


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message: what fits in a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def start_broker(
    name: str, *, recycle_after: int = 50, silence_seconds: float = 120, recycle_above_gb: float = math.inf
) -> ActorHandle:
    """A broker on this node, found by `name` within this job; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Every rank of every lane and every Tune trainable may have a question open: the limit is out of reach on purpose.
    options = {"name": name, "num_cpus": 0, "max_concurrency": 100_000, "scheduling_strategy": here}
    return ray.remote(Broker).options(**options).remote(recycle_after, silence_seconds, recycle_above_gb)
