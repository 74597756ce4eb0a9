"""The ledger: who has which work, without a Ray."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.lanes.ledger import SERVED_AT_LEAST, Ledger
from spaces.errors import StudyError
from spaces.trial import WorkItem, WorkKind, WorkResult


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def item(key: str, trial: int | None = None, **payload: Any) -> WorkItem:
    return WorkItem(key=key, kind=WorkKind.TRAIN, trial=trial, payload=payload)


def result(work: WorkItem, lane: int, error: str = "") -> WorkResult:
    return WorkResult(key=work.key, kind=work.kind, trial=work.trial, attempt=work.attempt, lane=lane, error=error)


def lane_in(ledger: Ledger, lane: int = 0) -> int:
    return ledger.lane_started(lane)


def take(ledger: Ledger, lane: int, incarnation: int, sequence: int) -> WorkItem:
    answer = ledger.next_answer(lane, incarnation, sequence)
    assert isinstance(answer, WorkItem)
    ledger.heartbeat(lane, incarnation, 0, 0)
    return answer


def test_an_item_goes_round() -> None:
    ledger = Ledger(clock=Clock())
    ledger.submit(item("a"))
    ledger.submit(item("a"))
    lane = lane_in(ledger)
    work = take(ledger, 0, lane, 0)
    assert ledger.next_answer(0, lane, 0) is work, "a retried question has the same answer"
    assert ledger.result("a") is None
    assert ledger.post(result(work, 0))
    assert ledger.post(result(work, 0)), "a retried post is no older attempt"
    assert ledger.next_answer(0, lane, 1) is None
    assert ledger.result("a") == result(work, 0)
    ledger.acknowledge("a")
    ledger.acknowledge("a")
    with pytest.raises(StudyError, match="acknowledged"):
        ledger.result("a")
    assert not ledger.post(result(work, 0))


def test_a_dead_lane_hands_back_to_the_front_and_a_second_death_fails_the_item() -> None:
    ledger = Ledger(clock=Clock())
    ledger.submit(item("a"))
    ledger.submit(item("b"))
    first = take(ledger, 0, lane_in(ledger), 0)
    ledger.lane_lost(0, "killed")
    assert not ledger.post(result(first, 0)), "the dead may not post"
    again = take(ledger, 1, lane_in(ledger, 1), 0)
    assert (again.key, again.attempt) == ("a", 2)
    assert lane_in(ledger, 1) == 2
    outcome = ledger.result("a")
    assert outcome is not None
    assert outcome.error == (
        "two lanes died under it: lane 0, attempt 1: killed; lane 1, attempt 2: its workers were replaced"
    )
    assert take(ledger, 1, 2, 0).key == "b"
    assert not ledger.post(result(again, 1))


def test_a_lane_that_died_before_the_item_reached_it_is_not_held_against_the_item() -> None:
    ledger = Ledger(clock=Clock())
    ledger.submit(item("a"))
    for attempt in range(1, 6):
        work = ledger.next_answer(0, lane_in(ledger), 0)
        assert isinstance(work, WorkItem)
        assert work.attempt == attempt
        ledger.lane_lost(0, "gone")
    assert ledger.result("a") is None


def test_an_earlier_incarnation_hears_stop_and_cannot_report_its_successor_lost() -> None:
    ledger = Ledger(clock=Clock())
    old, new = lane_in(ledger), lane_in(ledger)
    ledger.submit(item("a"))
    assert ledger.next_answer(0, old, 0) == "stop"
    work = take(ledger, 0, new, 0)
    ledger.lane_lost(0, "late news", old)
    assert ledger.post(result(work, 0))


def test_ranks_hear_the_same_and_only_rank_0_takes() -> None:
    ledger = Ledger(clock=Clock())
    for key in "ab":
        ledger.submit(item(key))
    lane = lane_in(ledger)
    assert ledger.next_answer(0, lane, 0, rank=1) is None
    first = take(ledger, 0, lane, 0)
    assert ledger.next_answer(0, lane, 0, rank=1) is first
    assert ledger.next_answer(0, lane, 1, rank=1) is None, "rank 1 has nothing to do in this item and is ahead"
    ledger.post(result(first, 0))
    second = take(ledger, 0, lane, 1)
    assert ledger.next_answer(0, lane, 1, rank=1) is second
    ledger.post(result(second, 0))
    ledger.submit(item("c"))
    third = take(ledger, 0, lane, 2)
    assert ledger.next_answer(0, lane, 2, rank=1) is third


def test_a_lane_that_grows_is_recycled_though_not_at_once() -> None:
    ledger = Ledger(clock=Clock(), recycle_above_gb=2.0)
    for number in range(SERVED_AT_LEAST + 2):
        ledger.submit(item(str(number)))
    lane = lane_in(ledger)
    for number in range(SERVED_AT_LEAST):
        held = 2.5 if number else 1.5
        ledger.post(result(take(ledger, 0, lane, number), 0).model_copy(update={"memory_gb": held}))
    assert ledger.status()["lanes"][0]["memory_gb"] == 2.5
    assert ledger.next_answer(0, lane, SERVED_AT_LEAST) == "recycle"
    fresh = lane_in(ledger)
    ledger.post(result(take(ledger, 0, fresh, 0), 0).model_copy(update={"memory_gb": 1.5}))
    take(ledger, 0, fresh, 1)


def test_out_of_memory_an_item_goes_on_in_smaller_parts_and_its_lane_is_recycled() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    first, second = lane_in(ledger, 0), lane_in(ledger, 1)
    ledger.submit(item("a"))
    ledger.submit(item("b"))
    work = take(ledger, 0, first, 0)
    assert ledger.post(result(work, 0, error="out of memory").model_copy(update={"out_of_memory": True}))
    assert ledger.next_answer(0, first, 1) == "recycle"
    again = take(ledger, 1, second, 0)  # before b
    assert (again.key, again.attempt, again.accumulation_steps) == ("a", 2, 2)
    assert ledger.result("a") is None
    assert not ledger.post(result(work, 0))  # the other ranks of the first lane
    assert ledger.post(result(again, 1, error="with one text at a time"))
    assert ledger.result("a").error == "with one text at a time"  # type: ignore[union-attr]
    assert lane_in(ledger, 0) == 2
    assert take(ledger, 0, 2, 0).key == "b"  # a fresh one


def test_lanes_that_are_due_together_are_recycled_one_after_the_other() -> None:
    ledger = Ledger(clock=Clock(), recycle_after=2)
    for number in range(20):
        ledger.submit(item(str(number)))
    lanes = [lane_in(ledger, lane) for lane in (0, 1)]
    for number in range(2):
        for lane in (0, 1):
            ledger.post(result(take(ledger, lane, lanes[lane], number), lane))
    assert ledger.next_answer(0, lanes[0], 2) == "recycle"
    ledger.post(result(take(ledger, 1, lanes[1], 2), 1))  # it works on
    fresh = lane_in(ledger, 0)
    take(ledger, 0, fresh, 0)
    assert ledger.next_answer(1, lanes[1], 3) == "recycle"
    # The other does not come back: due twice over, a lane waits no longer.
    ledger.post(result(ledger.next_answer(0, fresh, 0), 0))  # type: ignore[arg-type]
    for number in range(1, 4):
        ledger.post(result(take(ledger, 0, fresh, number), 0))
    assert ledger.next_answer(0, fresh, 4) == "recycle"


def test_a_lane_that_was_large_from_the_start_is_kept() -> None:
    ledger = Ledger(clock=Clock(), recycle_above_gb=2.0)
    for number in range(SERVED_AT_LEAST + 2):
        ledger.submit(item(str(number)))
    lane = lane_in(ledger)
    for number in range(SERVED_AT_LEAST + 1):
        ledger.post(result(take(ledger, 0, lane, number), 0).model_copy(update={"memory_gb": 2.5 + number / 100}))


def test_recycling_closing_and_giving_up() -> None:
    ledger = Ledger(clock=Clock(), recycle_after=1)
    ledger.submit(item("a"))
    ledger.submit(item("b"))
    lane = lane_in(ledger)
    ledger.post(result(take(ledger, 0, lane, 0), 0))
    assert ledger.next_answer(0, lane, 1) == "recycle"
    work = take(ledger, 0, lane_in(ledger), 0)
    ledger.close()
    assert ledger.post(result(work, 0)), "what is held at the end may still be posted"
    assert ledger.next_answer(0, 2, 1) == "stop"
    ledger.submit(item("c"))
    ledger.give_up("lane 0 died 3 times in a row")
    assert ledger.result("b") == result(work, 0)
    with pytest.raises(StudyError, match="3 times"):
        ledger.result("c")


def test_silence_and_times() -> None:
    clock = Clock()
    ledger = Ledger(clock=clock, silence_seconds=10)
    ledger.lane_expected(0)
    clock.now += 7
    lane = lane_in(ledger)
    clock.now += 100
    assert ledger.silent() == [], "an idle lane may be silent"
    ledger.submit(item("a"))
    take(ledger, 0, lane, 0)
    clock.now += 9
    ledger.heartbeat(0, lane, 3, 8)
    clock.now += 9
    assert ledger.silent() == []
    status = ledger.status()["lanes"][0]
    assert (status["state"], status["key"], status["done"], status["total"]) == ("busy", "a", 3, 8)
    clock.now += 2
    assert ledger.silent() == [0]
    assert ledger.silent() == [], "it is to be killed once"
    ledger.lane_lost(0, "its process ended")
    ledger.lane_lost(0, "its process ended")
    clock.now += 5
    assert ledger.status()["lanes"][0]["seconds"] == {"starting": 12.0, "idle": 100.0, "busy": 20.0}
    take(ledger, 0, lane_in(ledger), 0)
    ledger.lane_lost(0, "killed")
    outcome = ledger.result("a")
    assert outcome is not None
    assert "attempt 1: silent for 11 s, killed" in outcome.error


events = st.lists(
    st.tuples(
        st.sampled_from(["submit", "start", "lost", "ask", "beat", "post", "stale post", "acknowledge", "wait"]),
        st.integers(0, 2),
        st.integers(0, 4),
    ),
    max_size=80,
)


@given(events=events, recycle_after=st.integers(1, 3))
def test_nothing_is_lost_or_handed_out_twice_and_no_older_attempt_is_taken(
    events: list[tuple[str, int, int]], recycle_after: int
) -> None:
    """Against a model that knows only who may hold what."""
    clock = Clock()
    ledger = Ledger(clock=clock, recycle_after=recycle_after, silence_seconds=5)
    present: set[str] = set()  # submitted and not acknowledged
    holds: dict[int, WorkItem] = {}
    incarnations: dict[int, int] = {}
    sequences: dict[int, int] = {}
    old: list[tuple[int, WorkItem]] = []  # what lanes held and hold no more
    settled: dict[str, WorkResult] = {}
    latest: dict[str, int] = {}
    for event, lane, number in events:
        key = f"item {number}"
        clock.now += 1
        if event == "submit":
            ledger.submit(item(key))
            if key not in present:
                latest[key] = 0
            present.add(key)
        elif event in ("start", "lost"):
            if lane in holds:
                old.append((lane, holds.pop(lane)))
            if event == "start":
                incarnations[lane], sequences[lane] = ledger.lane_started(lane), 0
            else:
                ledger.lane_lost(lane, "test")
                incarnations.pop(lane, None)
        elif event == "ask" and lane in incarnations and lane not in holds:
            answer = ledger.next_answer(lane, incarnations[lane], sequences[lane])
            if isinstance(answer, WorkItem):
                assert answer.key in present
                assert answer.key not in settled
                assert answer.key not in {held.key for held in holds.values()}
                assert answer.attempt > latest[answer.key]
                latest[answer.key] = answer.attempt
                holds[lane] = answer
                assert ledger.next_answer(lane, incarnations[lane], sequences[lane]) is answer
                sequences[lane] += 1
        elif event == "beat" and lane in incarnations:
            ledger.heartbeat(lane, incarnations[lane], 1, 2)
        elif event == "post" and lane in holds:
            work = holds.pop(lane)
            assert ledger.post(result(work, lane))
            settled[work.key] = result(work, lane)
            assert ledger.post(result(work, lane))
        elif event == "stale post" and old:
            was, work = old[number % len(old)]
            assert not ledger.post(result(work, was))
        elif event == "acknowledge":
            gone = key in present and ledger.result(key) is not None
            ledger.acknowledge(key)
            if gone:
                present.discard(key)
                settled.pop(key, None)
                old = [(was, work) for was, work in old if work.key != key]
        elif event == "wait" and key in present:
            outcome = ledger.result(key)
            if key in settled:
                assert outcome == settled[key]
            elif outcome is not None:
                assert outcome.error.startswith("two lanes died under it")
        for known in present:
            outcome = ledger.result(known)
            if outcome is not None and known not in settled:
                assert outcome.error.count("attempt") == 2
                settled[known] = outcome
        status = ledger.status()
        assert status["held"] == len(holds)
        assert status["queued"] + status["held"] + status["unacknowledged"] == len(present)
    # Whatever is left, one good lane brings home.
    incarnation, sequence = ledger.lane_started(9), 0
    for lane in list(holds):
        ledger.lane_lost(lane, "the end")
    while (answer := ledger.next_answer(9, incarnation, sequence)) is not None:
        sequence += 1
        if isinstance(answer, WorkItem):
            assert ledger.post(result(answer, 9))
        else:
            assert answer == "recycle"
            incarnation, sequence = ledger.lane_started(9), 0
    assert all(ledger.result(key) is not None for key in present)
