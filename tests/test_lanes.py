"""The lanes: the ledger's promises as properties, and the real thing on a local Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import ray
from ray import tune
from test_ledger import item

from search.lanes import trainable
from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray
from search.lanes.trainable import SegmentSearcher, run_segments
from spaces.errors import StudyError
from spaces.study import ResourcesSpec
from spaces.trial import WorkItem, WorkResult

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
def test_whichever_is_done_first_is_told_first(pool: LanePool) -> None:
    until_idle(pool)
    keys = {f"any-{number}": seconds for number, seconds in enumerate((6.0, 0.2, 0.2, 0.2))}
    for key, seconds in keys.items():
        pool.submit(item(key, seconds=seconds))
    left, order = list(keys), []
    while left:
        outcome = pool.wait_any(left)
        left.remove(outcome.key)
        order.append(outcome.key)
        pool.acknowledge(outcome.key)
    assert order == ["any-1", "any-2", "any-3", "any-0"]


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


@pytest.mark.ray
@pytest.mark.slow
def test_what_does_not_fit_in_memory_is_done_in_parts_by_a_fresh_lane(pool: LanePool) -> None:
    before = until_idle(pool)
    pool.submit(item("parts", do="fill the memory", enough=2))
    parts = pool.wait("parts")
    assert (parts.error, parts.output["accumulation_steps"], parts.attempt) == ("", 2, 2)
    after = until_idle(pool)
    incarnations = [sum(lane["incarnation"] for lane in status["lanes"].values()) for status in (before, after)]
    assert incarnations[1] - incarnations[0] == 1


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


def trainables(*states: str) -> list[int]:
    """The processes of Tune's actors, of those that ended too where no state is named."""
    actors = [a for a in ray._private.state.actors().values() if a["ActorClassName"].endswith("ResourceTrainable")]
    return [actor["Pid"] for actor in actors if not states or actor["State"] in states]


@pytest.mark.ray
def test_segments(
    pool: LanePool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actors that wait for them do for one after the other: left to itself Tune starts one for each segment, and kills it as
    soon as the segment before is back. Each segment comes once, whichever run of Tune it falls into."""
    monkeypatch.setattr(trainable, "SEGMENTS_A_RUN", 15)
    runs, fit = list[tune.Tuner](), tune.Tuner.fit
    monkeypatch.setattr(tune.Tuner, "fit", lambda tuner: (runs.append(tuner), fit(tuner))[1])
    until_idle(pool)
    before, searcher = len(trainables()), ToySearcher(30)
    here = Path.cwd()
    run_segments(searcher, pool.broker, pool.broker_name, max_concurrent=lambda: 3, storage=tmp_path)
    assert sorted(outcome.trial or 0 for outcome in searcher.results.values()) == list(range(1, 31))
    assert [outcome.trial for outcome in searcher.results.values() if outcome.error] == [3]
    assert len(runs) == 3, "the last has nothing left to do"
    assert 6 <= len(trainables()) - before <= 18
    assert Path.cwd() == here
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert out + err == "", "nobody but the command line prints"


@pytest.mark.slow
@pytest.mark.ray
def test_segments_outlive_a_tune_actor_killed_for_memory(
    pool: LanePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray answers so for an actor that its memory monitor killed, and Tune ends: what was in its hands goes to another."""
    from ray.air.execution._internal import event_manager

    killed: list[str] = []

    def get(future: Any) -> Any:
        found = ray.get(future)
        if isinstance(found, dict) and "key" in found and len(killed) < 2:
            killed.append(found["key"])
            raise ray.exceptions.OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
        return found

    monkeypatch.setattr(event_manager, "ray", SimpleNamespace(get=get, wait=ray.wait))
    until_idle(pool)
    searcher = ToySearcher(8)
    run_segments(searcher, pool.broker, pool.broker_name, max_concurrent=lambda: 3, storage=tmp_path)
    assert len(killed) == 2
    assert sorted(outcome.trial or 0 for outcome in searcher.results.values()) == list(range(1, 9))
    assert {outcome.attempt for outcome in searcher.results.values()} == {1}  # nothing was trained again


class LongLast(ToySearcher):
    """Its last segment takes seconds."""

    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        found = super().next_item(trial_id)
        return (
            item(found.key, trial=found.trial, seconds=6.0)
            if isinstance(found, WorkItem) and self.suggested == self.count
            else found
        )


@pytest.mark.ray
def test_the_last_segment_outlives_the_actor_that_waits_for_it(pool: LanePool, tmp_path: Path) -> None:
    """Told that there are no more, Tune asks for none in its place, and ends."""
    until_idle(pool)
    searcher, killed = LongLast(4), list[int]()

    def kill() -> None:
        while len(searcher.results) < 3 or not (there := trainables("ALIVE")):
            time.sleep(0.1)
        for pid in there:
            os.kill(pid, signal.SIGKILL)
        killed.extend(there)

    killer = threading.Thread(target=kill)
    killer.start()
    run_segments(searcher, pool.broker, pool.broker_name, max_concurrent=lambda: 3, storage=tmp_path)
    killer.join()
    assert killed
    assert sorted(outcome.trial or 0 for outcome in searcher.results.values()) == [1, 2, 3, 4]
    assert {outcome.attempt for outcome in searcher.results.values()} == {1}


@pytest.mark.ray
def test_what_the_searcher_raises_comes_out(pool: LanePool, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the disk is full"):
        run_segments(
            ToySearcher(8, fail_at=2), pool.broker, pool.broker_name, max_concurrent=lambda: 3, storage=tmp_path
        )


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
def test_a_lane_whose_controller_is_killed_comes_back_into_its_place(cluster: dict[str, Any], tmp_path: Path) -> None:
    """Under an item, and twice more with nothing done in between. The lane's room is all there is, and a controller that dies does
    not give it back."""
    with LanePool(ResourcesSpec(cpus_per_worker=2), 1, {}, tmp_path, perform=TOY) as pool:
        until_idle(pool)
        pool.submit(item("long", seconds=10.0))
        for number in range(3):
            before = pool.status()["lanes"][0]["pid"]
            (killed,) = controllers()
            os.kill(killed, signal.SIGKILL)
            deadline = time.monotonic() + 120
            while (lane := pool.status()["lanes"][0])["pid"] == before or lane["state"] == "starting":
                assert time.monotonic() < deadline, lane
                time.sleep(0.2)
            if number == 0:
                outcome = pool.wait("long")
                assert (outcome.error, outcome.attempt) == ("", 2)


@pytest.mark.ray
def test_a_pool_whose_broker_died_closes_behind_its_lanes(cluster: dict[str, Any], tmp_path: Path) -> None:
    """A thread that starts an actor while Ray is shut down takes the whole process with it."""
    others = set(controllers())
    with LanePool(ResourcesSpec(cpus_per_worker=0.5), 1, {}, tmp_path, perform=TOY) as pool:
        while set(controllers()) == others:
            time.sleep(0.02)
        ray.kill(pool.broker)
        pool.close()
        assert not [thread for thread in pool._threads if thread.is_alive()]
    assert list(tmp_path.iterdir()) == []


def controllers() -> list[int]:
    """Process ids of Train's controllers that the Ray of this process has."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            raylet = parent(int(entry.name))
            if b"TrainController" in (entry / "cmdline").read_bytes() and parent(raylet) == os.getpid():
                found.append(int(entry.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


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
