"""LanePool: long-lived worker groups, each a TorchTrainer that the driver keeps running in a thread of its own."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group

from search.lanes.broker import POLL_SECONDS, ask, first_line, start_broker
from search.lanes.network import LaneTorchConfig, backend_of
from search.lanes.placement import needs_of
from search.trial.worker import serve
from spaces.errors import InputError, StudyError
from spaces.study import ResourcesSpec
from spaces.trial import WorkItem, WorkResult

DEATHS_IN_A_ROW = 3  # a lane that dies this often without a result in between will not get better
GROW_SECONDS = 5.0  # between two looks for room for another lane
CLOSE_SECONDS = 5.0  # what a worker may take to drop its item once the pool closes
KILL_SECONDS = 20.0  # and what its lane may take to end after it was killed


class LanePool:
    """The lanes of one study, and the way to hand them work: `submit`, `wait`, `acknowledge`; or the broker itself.

    A lane whose workers die is restarted, at first by Train's controller, which replaces the workers alone: a new run
    takes twice as long. `context` is what every item needs (see WorkerContext.data); put large arrays into the object
    store and their references here. When a lane cannot be kept alive, `error` says why, and so does whoever waits.
    With `room`, which says how many lanes there is room for now, lanes are added as the cluster grows, and `grown` is told how
    many there are. Where it shrinks, a lane that lost its place waits for another one.
    """

    def __init__(
        self,
        resources: ResourcesSpec,
        num_lanes: int,
        context: dict[str, Any],
        storage: Path,
        silence_seconds: float = 120,
        perform: str = "search.trial.work:perform",
        room: Callable[[], int] | None = None,
        grown: Callable[[int], None] = lambda num_lanes: None,
    ) -> None:
        self.num_lanes = num_lanes
        self._room, self._grown = room, grown
        self.error: StudyError | None = None
        self.on_hold = False
        self._resources = resources
        self._context = context
        self._perform = perform
        self._folder = storage.resolve() / f"lanes-{uuid.uuid4().hex[:8]}"
        self.broker_name = f"distilsearch-{uuid.uuid4().hex[:8]}"
        self.broker: ActorHandle = start_broker(
            self.broker_name,
            recycle_after=resources.recycle_after,
            recycle_above_gb=_most_memory(resources, num_lanes),
            silence_seconds=silence_seconds,
        )
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for lane in range(self.num_lanes):
            self._start_lane(lane)
        if self._room is not None:
            self._start(self._grow, "growth")
        return self

    def _start_lane(self, lane: int) -> None:
        self._start(partial(self._keep, lane), f"lane-{lane}")

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _grow(self) -> None:
        assert self._room is not None
        while not self._closing.wait(GROW_SECONDS):
            try:
                num_lanes = self._room()
            except (
                RayError,
                InputError,
            ):  # nobody answers, or the last node has gone: the lanes wait, and so does this
                continue
            while self.num_lanes < num_lanes and not self._closing.is_set():
                self._start_lane(self.num_lanes)
                self.num_lanes += 1
                self._grown(self.num_lanes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, item: WorkItem) -> None:
        """Queue an item; nothing happens if one of its key is there already."""
        ray.get(self.broker.submit.remote(item))

    def wait(self, key: str) -> WorkResult:
        """What came of the item; a failed item is a result too (`error`). Raises StudyError if there will be none."""
        return self.wait_any([key])

    def wait_any(self, keys: Sequence[str]) -> WorkResult:
        """What came of whichever item is done first."""
        while True:
            result = ask(self.broker.wait_any.remote(list(keys), POLL_SECONDS))
            if result is not None:
                return result

    def acknowledge(self, key: str) -> None:
        """Its result is recorded: the broker may forget it."""
        ray.get(self.broker.acknowledge.remote(key))

    def hold(self) -> None:
        """Hand nothing more to the lanes: what they have they may end."""
        self.on_hold = True
        ray.get(self.broker.hold.remote())

    def status(self) -> dict[str, Any]:
        return ray.get(self.broker.status.remote())

    def close(self) -> None:
        """Let the lanes drop what they hold and end, and end those that do not within a few seconds. May be called twice."""
        self._closing.set()
        try:
            ray.get(self.broker.close.remote())
            if not self._join(CLOSE_SECONDS):
                ray.get(self.broker.kill_lanes.remote())
            if self._join(KILL_SECONDS):
                ray.kill(self.broker)  # else it stays, to say "stop" to a lane that is still starting
        except RayError:  # it is gone, or all of Ray is, which the threads will see too
            # Ray, shut down while one of them is starting an actor, ends the process by SIGSEGV.
            self._join(KILL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _join(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        threads = list(self._threads)
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _keep(self, lane: int) -> None:
        """Run the lane until the pool closes: a fresh run when it recycles, when Train has given up on it, and when Train's own
        controller died, which Train does not replace."""
        deaths = 0  # of runs, in a row without a result; Train gives up on workers that died that often
        try:
            ray.get(self.broker.lane_expected.remote(lane))
            while not self._closing.is_set() and self.error is None:
                posted = ray.get(self.broker.num_posted.remote(lane))
                try:
                    self._trainer(lane).fit()
                except Exception as error:
                    if self._closing.is_set():
                        return
                    self._vacate(lane)
                    ray.get(self.broker.lane_lost.remote(lane, first_line(_cause(error))))
                    deaths = 0 if ray.get(self.broker.num_posted.remote(lane)) > posted else deaths + 1
                    if deaths == DEATHS_IN_A_ROW or (deaths and not isinstance(error, RayActorError)):
                        self._give_up(lane, error)
                    else:
                        time.sleep(1)
                else:
                    deaths = 0
        except RayError as error:  # the broker or all of Ray is gone
            if not self._closing.is_set():
                self.error = StudyError(f"lane {lane}: Ray failed: {first_line(error)}")

    def _vacate(self, lane: int) -> None:
        """What a controller that died had reserved for its workers, and would keep until the driver ends."""
        with contextlib.suppress(ValueError):  # there is none
            remove_placement_group(get_placement_group(self._reserved(lane)))

    def _reserved(self, lane: int) -> str:
        return f"{self.broker_name}-lane-{lane}"

    def _give_up(self, lane: int, error: Exception) -> None:
        reason = (
            f"lane {lane} died {DEATHS_IN_A_ROW} times in a row without finishing anything. "
            f"The last error: {first_line(_cause(error))}"
        )
        self.error = StudyError(reason)
        ray.get(self.broker.give_up.remote(reason))

    def _trainer(self, lane: int) -> LaneTrainer:
        resources = self._resources
        return LaneTrainer(
            serve,
            train_loop_config={
                "broker": self.broker,
                "lane": lane,
                "threads": max(1, math.floor(resources.cpus_per_worker)),
                "gpus": resources.gpus_per_worker,
                "context": self._context,
                "perform": self._perform,
            },
            torch_config=LaneTorchConfig(backend=backend_of(resources)),
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_lane,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=needs_of(resources),
                placement_strategy=resources.placement.upper().replace("-", "_"),
            ),
            run_config=RunConfig(
                name=f"lane-{lane}",
                storage_path=str(self._folder),
                failure_config=FailureConfig(max_failures=DEATHS_IN_A_ROW - 1),
                logging_config=LoggingConfig(log_level="ERROR"),
                callbacks=[Announced(self.broker, lane, self._reserved(lane))],
            ),
        )


class Announced(ControllerCallback):
    """In Train's controller: tells the broker of it, so that a closing pool can end a lane whose workers are still starting, and
    gives what it reserves for them a name by which the pool can let go of it."""

    def __init__(self, broker: ActorHandle, lane: int, reserved: str) -> None:
        self._broker, self._lane, self._reserved = broker, lane, reserved

    def after_controller_start(self, train_run_context: Any) -> None:
        worker_group.placement_group = partial(placement_group, name=self._reserved)
        ray.get(self._broker.controller_started.remote(self._lane, ray.get_runtime_context().current_actor))


class LaneTrainer(TorchTrainer):
    """TorchTrainer without three actors that have nothing to do here, and for which each lane's start would wait.

    One serves Ray datasets. One removes the placement group of a controller that died: it asks Ray's dashboard, every
    second, which a local Ray of ours does not have, and knows no group whose workers are still starting; the pool does it. One
    asks an autoscaler for nodes.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unneeded = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in unneeded]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        if not os.environ.get("RAY_ADDRESS"):
            kwargs["scaling_policy"] = LocalScaling(self.scaling_config)
        return super()._initialize_and_run_controller(**kwargs)


class LocalScaling(FixedScalingPolicy):
    """Of a local Ray, which no autoscaler enlarges: nobody is asked for resources."""

    def after_controller_start(self, train_run_context: Any) -> None:
        return None

    def _maybe_send_resource_request(self) -> None:
        return None


def _most_memory(resources: ResourcesSpec, num_lanes: int) -> float:
    """GB that a worker may hold before its lane is recycled: what the study says, or its share of what Ray has for workers."""
    if resources.recycle_above_gb != "auto":
        return resources.recycle_above_gb
    return ray.cluster_resources().get("memory", math.inf) / 1e9 / (num_lanes * resources.workers_per_lane)


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, from under what Train and Ray wrap around it."""
    if isinstance(error, ControllerError):
        error = error.controller_failure
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        error = error.worker_failures[min(error.worker_failures)]
    if isinstance(error, UserExceptionWithTraceback):
        error = error._base_exc
    return error.cause if isinstance(error, RayTaskError) else error
