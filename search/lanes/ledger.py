"""Who holds which item, and what came back: the broker's bookkeeping, without Ray and with the time injected."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from spaces.errors import StudyError
from spaces.secrets import mask_secrets
from spaces.trial import WorkItem, WorkKind, WorkResult

Answer = WorkItem | Literal["stop", "recycle"]

SERVED_AT_LEAST = 10  # items before a lane is recycled for its memory: a fresh one takes seconds
GROWN = 1.5  # times what it held after its first item
DEATHS_ALLOWED = 1  # an item that one lane died under is handed out again; the second death fails it


class LaneState(StrEnum):
    STARTING = "starting"  # its workers are not there yet, or not there again
    IDLE = "idle"  # waiting for work
    BUSY = "busy"  # holds an item
    RECYCLING = "recycling"  # told to make room for fresh processes
    ENDED = "ended"  # told to stop


@dataclass
class Entry:
    """One item from `submit` to `acknowledge`. `lane` holds it, or has posted its result."""

    item: WorkItem
    lane: int | None = None
    begun: bool = False  # its lane has been heard of since it was handed out
    deaths: list[str] = field(default_factory=list)
    result: WorkResult | None = None


@dataclass
class Lane:
    """One lane as the ledger sees it. `seconds` is the time spent in each state that has ended."""

    since: float
    heard_at: float
    state: LaneState = LaneState.STARTING
    incarnation: int = 0
    alive: bool = False
    key: str = ""
    done: int = 0
    total: int = 0
    num_served: int = 0  # by this incarnation
    num_posted: int = 0  # by all of them
    memory_gb: float = 0.0  # as of its last result
    first_memory_gb: float = 0.0  # as of its first
    short: bool = False  # this incarnation ran out of memory: what is left free lies scattered
    reason: str = ""  # why it was killed, if we did it
    answers: dict[int, Answer] = field(default_factory=dict)  # by sequence number, until every rank is past it
    asked: dict[int, int] = field(default_factory=dict)  # by rank, the sequence number it asked for last
    seconds: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Hands every item to one lane at a time, and takes one result for it. Each method may be retried.

    An item's `attempt` grows whenever it is taken from a lane, so that what the dead lane may still say is told from
    what the item's present holder says. `clock` gives seconds; it need not start anywhere in particular.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        recycle_after: int = 50,
        recycle_above_gb: float = math.inf,
        silence_seconds: float = 120,
    ) -> None:
        self._clock = clock
        self._recycle_after, self._recycle_above_gb = recycle_after, recycle_above_gb
        self._silence_seconds = silence_seconds
        self._entries: dict[str, Entry] = {}
        self._queue: deque[str] = deque()
        self._lanes: dict[int, Lane] = {}
        self._num_again = self._num_finished = self._num_failed = 0
        self._closed = self._on_hold = False
        self.error = ""

    # the driver's side

    def submit(self, item: WorkItem) -> bool:
        """Queue the item; False if one of this key is here already."""
        if item.key in self._entries:
            return False
        self._entries[item.key] = Entry(item)
        self._queue.append(item.key)
        return True

    def result(self, key: str) -> WorkResult | None:
        """What came back, or None as long as nothing did. Raises StudyError if nothing ever will."""
        entry = self._entries.get(key)
        if entry is not None and entry.result is not None:
            return entry.result
        if self.error:
            raise StudyError(self.error)
        if entry is None:
            raise StudyError(f"no work {key!r} is known to the lanes: it was never submitted, or is acknowledged")
        return None

    def acknowledge(self, key: str) -> None:
        """Forget an item whose result is recorded. What has no result yet is kept."""
        entry = self._entries.get(key)
        if entry is not None and entry.result is not None:
            del self._entries[key]

    def give_up(self, reason: str) -> None:
        """Nothing more will be done: who waits for a result hears `reason`, the lanes hear "stop"."""
        self.error = self.error or reason

    def hold(self) -> None:
        """From now on nothing queued is handed out; what the lanes hold they may end."""
        self._on_hold = True

    def close(self) -> None:
        """From now on the lanes hear "stop"; what they hold they may still post."""
        self._closed = True

    # the lanes' side

    def lane_expected(self, lane: int) -> None:
        """The lane is being started: its time counts from here."""
        if lane not in self._lanes:
            now = self._clock()
            self._lanes[lane] = Lane(since=now, heard_at=now)

    def lane_started(self, lane: int) -> int:
        """A fresh worker group serves this lane; whatever its earlier incarnation held goes back.

        Returns the number of the new incarnation, which the group says from now on: 1, 2, 3 ...
        """
        self.lane_expected(lane)
        book = self._lanes[lane]
        self._take_back(lane, book, book.reason or "its workers were replaced")
        book.incarnation += 1
        book.alive, book.reason, book.num_served, book.short = True, "", 0, False
        book.memory_gb = book.first_memory_gb = 0.0
        book.answers, book.asked = {}, {}
        self._enter(book, LaneState.IDLE)
        return book.incarnation

    def lane_lost(self, lane: int, reason: str, incarnation: int | None = None) -> None:
        """The lane's workers are gone; what they held goes back. Without `incarnation`, whichever was the last."""
        book = self._lanes.get(lane)
        if book is None or not book.alive or incarnation not in (None, book.incarnation):
            return
        self._take_back(lane, book, book.reason or reason)
        book.alive, book.reason = False, ""
        if book.state not in (LaneState.RECYCLING, LaneState.ENDED):
            self._enter(book, LaneState.STARTING)

    def next_answer(self, lane: int, incarnation: int, sequence: int, rank: int = 0) -> Answer | None:
        """The `sequence`-th thing this incarnation is to do (0, 1, 2 ...), or None if that is not known yet.

        Every rank asks for itself and hears the same; only rank 0's question takes an item from the queue.
        """
        book = self._lanes.get(lane)
        if book is None or incarnation != book.incarnation or not book.alive:
            return "stop"
        book.asked[rank] = sequence
        for past in [number for number in book.answers if number < min(book.asked.values())]:
            del book.answers[past]
        if sequence not in book.answers and rank == 0:
            answer = self._decide(lane, book)
            if answer is None:
                return None
            book.answers[sequence] = answer
        return book.answers.get(sequence)

    def heartbeat(self, lane: int, incarnation: int, done: int, total: int) -> bool:
        """The lane is at work on what it holds: `done` units of `total`; 0 of 0 says only that it has begun. False: it may drop it,
        as nobody waits for it any more."""
        book = self._lanes.get(lane)
        if book is None or incarnation != book.incarnation or not book.key:
            return True
        book.heard_at, book.done, book.total = self._clock(), done, total
        self._entries[book.key].begun = True
        return not self._closed

    def post(self, result: WorkResult) -> bool:
        """Take a result from the lane that holds the item; False if it does not hold it (any more)."""
        entry = self._entries.get(result.key)
        if entry is None or entry.lane != result.lane or entry.item.attempt != result.attempt:
            return False
        if entry.result is None:
            book = self._lanes[result.lane]
            book.key = ""
            if result.out_of_memory:
                book.short = True
                self._again(entry, accumulation_steps=2 * entry.item.accumulation_steps)
            else:
                self._settle(entry, result)
            book.num_served += 1
            book.memory_gb = result.memory_gb
            book.first_memory_gb = book.first_memory_gb or result.memory_gb
            book.num_posted += 1
            self._enter(book, LaneState.IDLE)
        return True

    # the watcher and the display

    def silent(self) -> list[int]:
        """Lanes that hold an item and were not heard of for `silence_seconds`. Each is named once: kill it."""
        now, found = self._clock(), []
        for lane, book in self._lanes.items():
            if book.key and book.alive and not book.reason and now - book.heard_at > self._silence_seconds:
                book.reason = f"silent for {now - book.heard_at:.0f} s, killed"
                found.append(lane)
        return found

    def num_posted(self, lane: int) -> int:
        """How many results the lane has ever posted: does it get anywhere between two deaths?"""
        return self._lanes[lane].num_posted if lane in self._lanes else 0

    def status(self) -> dict[str, Any]:
        """Plain data for the display; `since` and `seconds` are by this ledger's clock, `seconds` up to now."""
        now = self._clock()
        lanes = {}
        for lane, book in sorted(self._lanes.items()):
            seconds = dict(book.seconds)
            seconds[book.state.value] = seconds.get(book.state.value, 0.0) + now - book.since
            trial = self._entries[book.key].item.trial if book.key else None
            lanes[lane] = {
                "state": book.state.value,
                "incarnation": book.incarnation,
                "key": book.key,
                "trial": trial,
                "done": book.done,
                "total": book.total,
                "since": book.since,
                "posted": book.num_posted,
                "memory_gb": book.memory_gb,
                "seconds": seconds,
            }
        settled = [entry.item for entry in self._entries.values() if entry.result is not None]
        return {
            "lanes": lanes,
            "now": now,
            "queued": len(self._queue),
            "held": len(self._entries) - len(self._queue) - len(settled),
            "unacknowledged": len(settled),
            "unrecorded": sum(item.kind is WorkKind.TRAIN for item in settled),
            "finished": self._num_finished,
            "failed": self._num_failed,
            "handed_out_again": self._num_again,
            "error": self.error,
        }

    def _decide(self, lane: int, book: Lane) -> Answer | None:
        if self._closed or self.error:
            self._enter(book, LaneState.ENDED)
            return "stop"
        assert not book.key, f"lane {lane} asks for more while it holds {book.key}"
        if self._is_to_make_room(book):
            self._enter(book, LaneState.RECYCLING)
            return "recycle"
        if not self._queue or self._on_hold:
            return None
        key = self._queue.popleft()
        entry = self._entries[key]
        entry.lane, entry.begun = lane, False
        book.key, book.done, book.total, book.heard_at = key, 0, 0, self._clock()
        self._enter(book, LaneState.BUSY)
        return entry.item

    def _is_to_make_room(self, book: Lane) -> bool:
        # A lane that was as large from the start would be no smaller afterwards.
        too_large = book.memory_gb > max(self._recycle_above_gb, GROWN * book.first_memory_gb)
        if book.short or (too_large and book.num_served >= SERVED_AT_LEAST):
            return True
        # Lanes of like work come to this together, and go one after the other, lest nobody works; none waits for ever.
        others = any(each.state in (LaneState.RECYCLING, LaneState.STARTING) for each in self._lanes.values())
        return book.num_served >= self._recycle_after * (2 if others else 1)

    def _take_back(self, lane: int, book: Lane, reason: str) -> None:
        if not book.key:
            return
        entry = self._entries[book.key]
        book.key = ""
        entry.lane = None
        if entry.begun:  # a lane that died before the item reached it says nothing about the item
            entry.deaths.append(f"lane {lane}, attempt {entry.item.attempt}: {reason}")
        if len(entry.deaths) > DEATHS_ALLOWED:
            error = mask_secrets(f"two lanes died under it: {'; '.join(entry.deaths)}")
            item = entry.item
            failure = WorkResult(
                key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=lane, error=error
            )
            self._settle(entry, failure)
        else:
            self._again(entry)

    def _again(self, entry: Entry, **changes: Any) -> None:
        """The item goes back to the head of the queue, as another attempt."""
        entry.lane = None
        entry.item = entry.item.model_copy(update={"attempt": entry.item.attempt + 1, **changes})
        self._queue.appendleft(entry.item.key)
        self._num_again += 1

    def _settle(self, entry: Entry, result: WorkResult) -> None:
        entry.result = result
        self._num_finished += not result.error
        self._num_failed += bool(result.error)

    def _enter(self, book: Lane, state: LaneState) -> None:
        now = self._clock()
        book.seconds[book.state.value] = book.seconds.get(book.state.value, 0.0) + now - book.since
        book.state, book.since = state, now
