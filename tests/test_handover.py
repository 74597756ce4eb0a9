"""Tune hears of one segment's end at a time, and of none while an actor starts."""

from __future__ import annotations

import asyncio

import pytest
from test_ledger import item, result, take

from search.lanes.broker import Broker
from search.lanes.handover import START_SECONDS, TAKEN_SECONDS, Handover


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handover(clock: Clock) -> Handover:
    return Handover(clock)


def test_none_passes_while_an_actor_starts(handover: Handover, clock: Clock) -> None:
    handover.given("a")
    handover.given("b")
    handover.awaited("a")
    assert not handover.passes()
    handover.awaited("b")
    assert handover.passes()


def test_the_next_passes_when_the_first_ones_actor_waits_again(handover: Handover, clock: Clock) -> None:
    assert handover.passes()
    assert not handover.passes()
    handover.given("c")
    clock.now += TAKEN_SECONDS + 1  # the kept actor was gone, and another starts
    assert not handover.passes()
    handover.awaited("c")
    assert handover.passes()


def test_the_next_passes_too_where_nothing_follows(handover: Handover, clock: Clock) -> None:
    assert handover.passes()
    clock.now += TAKEN_SECONDS - 0.01
    assert not handover.passes()
    clock.now += 0.02
    assert handover.passes()


def test_an_actor_that_asks_again_changes_nothing(handover: Handover, clock: Clock) -> None:
    handover.given("a")
    handover.awaited("a")
    assert handover.passes()
    handover.awaited("a")
    assert not handover.passes()


def test_a_result_is_recorded_whose_actor_died_as_it_started() -> None:
    """The broker holds nobody back for it then."""

    async def told() -> bool:
        broker = Broker()
        lane = broker._ledger.lane_started(0)
        for number, key in enumerate("ab"):
            await broker.submit_segment(item(key))
            await broker.post(result(take(broker._ledger, 0, lane, number), 0))
        assert await broker.wait("a", 0) is not None  # by the driver
        await broker.acknowledge("a")
        return await asyncio.wait_for(broker.settled("b", 5), 5)

    assert asyncio.run(told())


def test_an_actor_that_never_comes_is_not_waited_for(handover: Handover, clock: Clock) -> None:
    handover.given("a")
    clock.now += START_SECONDS - 1
    assert not handover.passes()
    clock.now += 2
    assert handover.passes()
