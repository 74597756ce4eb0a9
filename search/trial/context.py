"""WorkerContext: what a worker knows besides the item in its hands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any


class Dropped(Exception):
    """Nobody waits for this item any more."""


def _nothing(*_: int) -> None:
    return None


def _not_alone() -> AbstractContextManager[bool]:
    return nullcontext(False)


@dataclass(frozen=True)
class WorkerContext:
    """One rank of a lane. `heartbeat(done, total)` is cheap and to be called every step: a lane that does not for
    `silence_seconds` is killed. `mark_first_step()` ends the set-up time of an item. `alone()` has the machine to itself, as far as
    its lanes go, and says whether that was so. `data` holds what all items of a study share, with object references resolved:
    large arrays in it are read-only views of shared memory."""

    rank: int = 0
    world_size: int = 1
    lane: int = 0
    threads: int = 1
    heartbeat: Callable[[int, int], None] = _nothing
    mark_first_step: Callable[[], None] = _nothing
    alone: Callable[[], AbstractContextManager[bool]] = _not_alone
    data: dict[str, Any] = field(default_factory=dict)
