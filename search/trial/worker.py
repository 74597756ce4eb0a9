"""What every worker of a lane runs: ask the broker, perform, post, again. It knows the broker by its handle only."""

from __future__ import annotations

import ctypes
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.train import get_context
from ray.train.collective import broadcast_from_rank_zero

from search.trial.context import Dropped, WorkerContext
from search.trial.device import keep_to_share
from search.trial.turnstile import Turnstile
from spaces.errors import OutOfMemory, TrialError
from spaces.named import function_named
from spaces.secrets import mask_secrets
from spaces.trial import Measurement, WorkItem, WorkKind, WorkResult

Perform = Callable[[WorkItem, WorkerContext], tuple[Measurement | None, dict[str, Any]]]

HEARTBEAT_SECONDS = 1.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
QUIET_LOGGERS = ("transformers", "datasets", "filelock", "urllib3", "fsspec", "torch.distributed", "ray.train", "httpx")


def serve(config: dict[str, Any]) -> None:
    """The training function of a lane's TorchTrainer. Returns when the broker says "stop" or "recycle".

    `config`: broker (a handle), lane, threads, gpus (a worker's), context (a dict; object references in it are resolved here,
    once), and perform ("module:function"; tests put theirs here). Raises what an item raised only where several workers share the
    lane: the others may be waiting in a collective for the one that failed, and only a fresh group gets them out.
    """
    quieten_worker()
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a lane without a GPU leaves the machine's to those who asked for one
    else:
        keep_to_share(config.get("gpus", 1))
    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    broker: ActorHandle = config["broker"]
    lane = config["lane"]
    rank, world_size = get_context().get_world_rank(), get_context().get_world_size()
    perform: Perform = function_named(config.get("perform", "search.trial.work:perform"))
    data = resolve(config.get("context", {}))
    known: dict[str, ray.ObjectRef] = {}

    incarnation = 0  # of this group; rank 0 tells the others
    if rank == 0:
        runtime = ray.get_runtime_context()
        started = broker.lane_started.remote(lane, os.getpid(), runtime.get_node_id(), runtime.current_actor)
        incarnation = ray.get(started)
    if world_size > 1:
        incarnation = broadcast_from_rank_zero(incarnation)

    # Of several workers the first one alone waits: the others wait for it, in their collective.
    turnstile = Turnstile() if rank == 0 else Turnstile.open()
    sequence = 0
    while True:
        # Each rank asks for itself: idle ranks wait for the broker, never in a collective that may time out.
        item = ray.get(broker.next_item.remote(lane, incarnation, sequence, rank))
        if item is None:
            continue
        if isinstance(item, str):
            return
        sequence += 1
        visit = Visit(broker, lane, incarnation, rank, turnstile, may_drop=world_size == 1)
        try:
            refs = item.payload.get("refs", {})
            new = {name: ref for name, ref in refs.items() if known.get(name) != ref}
            data.update(resolve(new))
            known.update(new)
            context = WorkerContext(
                rank=rank,
                world_size=world_size,
                lane=lane,
                threads=config["threads"],
                heartbeat=visit.heartbeat,
                mark_first_step=visit.mark_first_step,
                alone=turnstile.alone,
                data=data,
            )
            with turnstile.inside():
                measurement, output = perform(item, context)
        except Dropped:
            continue
        except Exception as error:
            short = isinstance(error, OutOfMemory)
            ray.get(broker.post.remote(visit.result(item, error=describe(error), out_of_memory=short)))
            if world_size > 1:
                raise
        else:
            if rank == 0:
                ray.get(broker.post.remote(visit.result(item, measurement=measurement, output=output)))
        if item.kind is not WorkKind.TRAIN:  # the next trial takes what the last one had
            give_back_memory()


class Visit:
    """One item's time on this worker: its heartbeats (rank 0's alone, or one rank could hide another's hanging), at which it
    makes way for whoever measures, and its times."""

    def __init__(
        self,
        broker: ActorHandle,
        lane: int,
        incarnation: int,
        rank: int,
        turnstile: Turnstile,
        may_drop: bool = False,
    ) -> None:
        self._broker, self._lane, self._incarnation, self._rank = broker, lane, incarnation, rank
        self._turnstile = turnstile
        self._sent_at = float("-inf")
        # With several workers the others would wait in the collective for the one that left.
        self._may_drop, self._reply = may_drop, None
        self._timing = {"received_at": time.time()}
        self.heartbeat(0, 0)  # from here on a death of the lane counts against the item

    def heartbeat(self, done: int, total: int) -> None:
        self._turnstile.step()
        now = time.monotonic()
        if self._rank == 0 and now - self._sent_at >= HEARTBEAT_SECONDS:
            self._sent_at = now
            if self._may_drop and self._reply is not None:  # of the last one, so that no step waits for the broker
                ready, _ = ray.wait([self._reply], timeout=0)
                if ready and not ray.get(self._reply):
                    raise Dropped
            self._reply = self._broker.heartbeat.remote(self._lane, self._incarnation, done, total)

    def mark_first_step(self) -> None:
        self._timing.setdefault("first_step_at", time.time())

    def result(self, item: WorkItem, **fields: Any) -> WorkResult:
        timing = {**self._timing, "finished_at": time.time()}
        return WorkResult(
            key=item.key,
            kind=item.kind,
            trial=item.trial,
            attempt=item.attempt,
            lane=self._lane,
            timing=timing,
            memory_gb=own_memory_gb(),
            **fields,
        )


def describe(error: Exception) -> str:
    """Type and message, or the message alone where we wrote it ourselves."""
    message = mask_secrets(str(error).strip())
    if isinstance(error, TrialError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def resolve(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with object references replaced by what they refer to."""
    return {name: ray.get(value) if isinstance(value, ray.ObjectRef) else value for name, value in values.items()}


def keep_freed_memory() -> None:
    """Large tensors come from the heap and freed ones stay there: glibc would hand them back to the system and fault them in
    again at every step (4 % of a step on short texts). Lanes are started with MALLOC_ARENA_MAX=1: in a thread that is not the
    first, as Ray Train's is, it would otherwise hold up to 64 MB only. Where there is no glibc nothing happens."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most an older one takes
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_memory() -> None:
    """What is free goes back to the system after all. Between two trials that would cost a tenth of a second."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def own_memory_gb() -> float:
    """What this process holds and shares with nobody; 0 where the system does not say (no Linux)."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        return 0.0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e9


def quieten_worker() -> None:
    """Nobody reads a worker's log until something breaks: keep what would matter then."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
