"""The lanes: the ledger's promises as properties, and the real thing on a local Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from search.lanes.ledger import Ledger
from search.lanes.pool import LanePool, plan_lanes
from search.lanes.quiet import start_ray
from search.lanes.trainable import SegmentSearcher, run_segments
from spaces.errors import InputError, StudyError
from spaces.study import ResourcesSpec
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


# the ledger


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


# planning


def test_plan_lanes() -> None:
    cluster = {"CPU": 8.0, "GPU": 2.0}
    assert plan_lanes(ResourcesSpec(), cluster) == 8
    assert plan_lanes(ResourcesSpec(workers_per_lane=3), cluster) == 2
    assert plan_lanes(ResourcesSpec(gpus_per_worker=0.5), cluster) == 4
    assert plan_lanes(ResourcesSpec(lanes=20), cluster) == 20, "what could fit one after another waits"
    assert plan_lanes(ResourcesSpec(cpus_per_worker=0.1), {"CPU": 1.0}) == 10
    with pytest.raises(InputError, match=r"one lane needs 4 GPUs \(4 x 1\), but the cluster has 2"):
        plan_lanes(ResourcesSpec(workers_per_lane=4, gpus_per_worker=1), cluster)
    with pytest.raises(InputError, match=r"lower resources\.cpus_per_worker"):
        plan_lanes(ResourcesSpec(cpus_per_worker=9, lanes=1), cluster)


# on a real Ray

TOY = "lane_toys:perform"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        # For the workers to import lane_toys.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        resources = start_ray(num_cpus=2)
    yield resources
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(cluster: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanePool]:
    context = {"array": ray.put(np.ones(1000))}
    resources = ResourcesSpec(cpus_per_worker=0.5)
    storage = tmp_path_factory.mktemp("lanes")
    with LanePool(resources, 2, context, storage, silence_seconds=60, perform=TOY) as pool:
        yield pool
    assert list(storage.iterdir()) == []


def until_idle(pool: LanePool, seconds: float = 900) -> dict[str, Any]:
    """The status once every lane is there and has nothing to do."""
    deadline = time.monotonic() + seconds
    while True:
        status = pool.status()
        lanes = status["lanes"]
        if len(lanes) == pool.num_lanes and all(lane["state"] == "idle" for lane in lanes.values()):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


@pytest.mark.ray
def test_items_run_on_two_lanes(pool: LanePool) -> None:
    until_idle(pool)
    for number in range(4):
        pool.submit(item(f"two-{number}", trial=number, seconds=0.5))
    results = [pool.wait(f"two-{number}") for number in range(4)]
    assert {outcome.lane for outcome in results} == {0, 1}
    assert len({outcome.output["pid"] for outcome in results}) == 2
    for number, outcome in enumerate(results):
        assert outcome.error == ""
        assert outcome.measurement is not None
        assert outcome.measurement.trial == number
        timing = outcome.timing
        assert timing["received_at"] <= timing["first_step_at"] <= timing["finished_at"]
        pool.acknowledge(outcome.key)


@pytest.mark.ray
def test_what_all_items_share_is_there(pool: LanePool) -> None:
    pool.submit(item("share", do="share", refs={"more": ray.put(np.full(10, 2.0))}))
    output = pool.wait("share").output
    assert (output["sum"], output["more"], output["writeable"]) == (1000.0, 20.0, False)


@pytest.mark.ray
def test_an_exception_fails_its_item_alone(pool: LanePool) -> None:
    before = until_idle(pool)
    for key, word in (("bad", "raise"), ("nan", "raise a trial error"), ("good", "sleep")):
        pool.submit(item(key, do=word))
    assert pool.wait("bad").error == "ValueError: not today"
    assert pool.wait("nan").error == "the loss became NaN at step 3"
    assert pool.wait("good").error == ""
    after = until_idle(pool)
    assert [lane["pid"] for lane in after["lanes"].values()] == [lane["pid"] for lane in before["lanes"].values()]


class ToySearcher(SegmentSearcher):
    """Twice four items, the second four only when the first are back; holds what cannot be pickled."""

    def __init__(self, count: int, fail_at: int = -1) -> None:
        super().__init__()
        self.unpicklable = open(os.devnull)  # noqa: SIM115
        self.count, self.fail_at = count, fail_at
        self.suggested = 0
        self.results: dict[str, WorkResult] = {}

    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        if self.suggested == self.count:
            return "finished"
        if self.suggested == self.fail_at:
            raise StudyError("the disk is full")
        if self.suggested >= self.count // 2 > len(self.results):
            return None
        self.suggested += 1
        number = self.suggested
        return item(f"segment-{id(self)}-{number}", trial=number, seconds=0.2, do="raise" if number == 3 else "sleep")

    def finished(self, key: str, result: WorkResult) -> None:
        self.results[key] = result


@pytest.mark.ray
def test_segments(pool: LanePool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    until_idle(pool)
    searcher = ToySearcher(8)
    here = Path.cwd()
    run_segments(searcher, pool.broker, pool.broker_name, max_concurrent=3, storage=tmp_path)
    assert sorted(outcome.trial or 0 for outcome in searcher.results.values()) == list(range(1, 9))
    assert [outcome.trial for outcome in searcher.results.values() if outcome.error] == [3]
    assert Path.cwd() == here
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert out + err == "", "nobody but the command line prints"


@pytest.mark.ray
def test_what_the_searcher_raises_comes_out(pool: LanePool, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the disk is full"):
        run_segments(ToySearcher(8, fail_at=2), pool.broker, pool.broker_name, max_concurrent=3, storage=tmp_path)


@pytest.mark.ray
def test_a_killed_worker_hands_its_item_on_and_its_lane_comes_back(
    pool: LanePool, capfd: pytest.CaptureFixture[str]
) -> None:
    before = until_idle(pool)
    pool.submit(item("once", do="die"))
    outcome = pool.wait("once")
    assert outcome.error == ""
    assert outcome.output["attempt"] == outcome.attempt == 2
    after = until_idle(pool)
    changed = [lane for lane in (0, 1) if after["lanes"][lane]["pid"] != before["lanes"][lane]["pid"]]
    assert len(changed) == 1
    out, err = capfd.readouterr()
    assert out + err == ""


@pytest.mark.ray
@pytest.mark.slow
def test_a_hanging_item_is_killed(pool: LanePool) -> None:
    until_idle(pool)
    pool.submit(item("hang", do="hang"))
    outcome = pool.wait("hang")
    assert (outcome.error, outcome.attempt) == ("", 2)


@pytest.mark.ray
@pytest.mark.slow
def test_two_deaths_fail_an_item_and_the_lanes_come_back(pool: LanePool) -> None:
    until_idle(pool)
    pool.submit(item("twice", do="die", attempts=9))
    assert pool.wait("twice").error.startswith("two lanes died under it: lane ")
    until_idle(pool)
    pool.submit(item("after"))
    assert pool.wait("after").error == ""


@pytest.mark.ray
@pytest.mark.slow
def test_a_lane_of_two_workers_reduces_restarts_and_recycles(cluster: dict[str, Any], tmp_path: Path) -> None:
    resources = ResourcesSpec(cpus_per_worker=0.5, workers_per_lane=2, recycle_after=2)
    with LanePool(resources, 1, {}, tmp_path, silence_seconds=20, perform=TOY) as pool:
        for number, word in enumerate(("sleep", "raise on rank 1", "sleep", "sleep", "sleep")):
            pool.submit(item(f"gang-{number}", do=word))
        results = [pool.wait(f"gang-{number}") for number in range(5)]
        assert [outcome.error for outcome in results] == ["", "ValueError: rank 1 has had it", "", "", ""]
        assert {outcome.output["all_reduced"] for outcome in results if not outcome.error} == {3.0}
        pids = [outcome.output.get("pid") for outcome in results]
        assert len({pids[0], pids[2], pids[4]}) == 3
        assert pids[2] == pids[3]
        assert pool.status()["lanes"][0]["incarnation"] == 3
        started = time.monotonic()
    assert time.monotonic() - started < 10


@pytest.mark.ray
@pytest.mark.slow
def test_a_lane_that_never_gets_anywhere_ends_the_study(cluster: dict[str, Any], tmp_path: Path) -> None:
    with LanePool(ResourcesSpec(cpus_per_worker=0.5), 1, {}, tmp_path, perform="no_such_module:perform") as pool:
        pool.submit(item("never"))
        with pytest.raises(StudyError, match=r"lane 0 died 3 times in a row[\s\S]*no_such_module"):
            pool.wait("never")
        assert isinstance(pool.error, StudyError)


DRIVER = """
import sys, time
from pathlib import Path
from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray
from spaces.study import ResourcesSpec
start_ray(num_cpus=1)
with LanePool(ResourcesSpec(), 1, {}, Path(sys.argv[1]), perform="lane_toys:perform") as pool:
    while not any(lane["state"] == "idle" for lane in pool.status()["lanes"].values()):
        time.sleep(0.1)
    print("ready", flush=True)
    time.sleep(600)
"""


def processes_with(mark: str) -> list[int]:
    """Process ids that inherited the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended, or is not ours
            continue
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    mark = f"DISTILSEARCH_TEST_MARK={os.urandom(8).hex()}"
    name, value = mark.split("=")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, name: value, "PYTHONPATH": path}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    assert len(processes_with(mark)) > 3, "the mark finds Ray's processes"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 60
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
