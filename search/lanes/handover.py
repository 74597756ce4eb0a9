"""When Tune may hear that a segment is back: so that the actor which waited for it waits for the next one."""

from __future__ import annotations

import math
from collections.abc import Callable

TAKEN_SECONDS = 0.3  # for Tune to hand the next segment over, if there is one
START_SECONDS = 60.0  # for an actor to start; longer, and nobody waits for it any more


class Handover:
    """One segment's end at a time, and none while an actor starts.

    Tune keeps the actor of a trial that ended for the next trial, but of several that end in one of its steps one alone, and where
    one is starting it takes the kept actor instead and kills the one that starts. With trials shorter than an actor's start (some
    2 s of a processor) or with many lanes, each trial would start one.

    `clock` gives seconds; it need not start anywhere in particular.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._starting: dict[str, float] = {}  # given to Tune, whose actor has not asked yet: since when
        self._free_at = -math.inf

    def given(self, key: str) -> None:
        """Tune has the segment, and finds an actor for it."""
        self._starting[key] = self._clock()

    def awaited(self, key: str) -> None:
        """An actor waits for it, or none will."""
        if self._starting.pop(key, None) is not None:
            self._free_at = -math.inf

    def passes(self) -> bool:
        """Whether one that is back may be told; if so, that is the one."""
        now = self._clock()
        if now < self._free_at or any(now - since < START_SECONDS for since in self._starting.values()):
            return False
        self._free_at = now + TAKEN_SECONDS
        return True
