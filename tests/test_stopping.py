"""Ctrl-C: once, what runs may end; twice, now; told to end, now. And a real study that is stopped so."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import study_toys
import tiny
from whole_study import DRIVER, environment, record_of, states

from search.lanes.ledger import Ledger
from search.study.output import open_record, open_study, spec_of
from search.study.stopping import Stopping, ended_in_order
from spaces.trial import Measurement, TrialState, WorkItem, WorkKind, WorkResult


@pytest.fixture(autouse=True)
def _hears_ctrl_c() -> Iterator[None]:
    """Whoever runs the tests in the background of a shell has SIGINT ignored, and so has all that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Lanes:
    """A pool whose one lane ends after so many seconds, and whose result is recorded a moment later."""

    def __init__(self, seconds: float) -> None:
        self._ends, self.held = time.monotonic() + seconds, False

    def hold(self) -> None:
        self.held = True

    def status(self) -> dict[str, Any]:
        over = time.monotonic() - self._ends
        busy = int(over < 0)
        return {"lanes": {0: {"key": "trial:7" * busy}}, "held": busy, "unrecorded": int(0 <= over < 0.2)}


def stopped_after(lanes: Lanes, said: list[str], presses: tuple[float, ...], grace: float = 9) -> float:
    """Seconds until the main thread is interrupted, with Ctrl-C pressed at these times."""
    begun = time.monotonic()
    timers = [
        threading.Timer(at, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)) for at in presses
    ]
    for timer in timers:
        timer.start()
    with pytest.raises(KeyboardInterrupt), ended_in_order(), Stopping(lanes, said.append, grace):
        time.sleep(8)
    for timer in timers:
        timer.cancel()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return time.monotonic() - begun


def test_once_lets_what_runs_end_and_be_recorded() -> None:
    lanes, said = Lanes(0.8), list[str]()
    seconds = stopped_after(lanes, said, (0.1,))
    assert 1.0 <= seconds < 4
    assert lanes.held
    assert said == ["stopping: trial 7 may end within 9 s; Ctrl-C again stops now"]


def test_once_with_idle_lanes_stops_at_once() -> None:
    said: list[str] = []
    assert stopped_after(Lanes(-1), said, (0.1,)) < 2
    assert said == []


def test_twice_stops_now() -> None:
    assert stopped_after(Lanes(7), [], (0.1, 0.5)) < 3


def test_told_to_end_twice_is_told_once() -> None:
    """As start_ray leaves it, SIGTERM is a Ctrl-C; what is closed afterwards hears no second one."""
    closed: list[bool] = []

    def study() -> None:
        try:
            with Stopping(Lanes(7), print):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            closed.append(True)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), ended_in_order():
            study()
        assert closed
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_grace_is_an_end() -> None:
    said: list[str] = []
    assert stopped_after(Lanes(7), said, (0.1,), grace=0.5) < 3
    assert said[-1] == "stopping: 1 did not end within 0 s, and begin again next time"


def test_a_pool_that_is_gone_stops_at_once() -> None:
    lanes = Lanes(7)
    lanes.status = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    assert stopped_after(lanes, [], (0.1,)) < 2


def test_a_handler_of_the_callers_is_left_alone() -> None:
    def mine(*_: Any) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    try:
        with Stopping(Lanes(1), print):
            assert signal.getsignal(signal.SIGINT) is mine
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_ledger_on_hold_hands_nothing_out_and_takes_what_ends() -> None:
    ledger = Ledger(clock=time.time)
    incarnation = ledger.lane_started(0)
    for key in ("a", "b"):
        ledger.submit(WorkItem(key=key, kind=WorkKind.TRAIN, trial=1))
    assert getattr(ledger.next_answer(0, incarnation, 0), "key", "") == "a"
    ledger.hold()
    measurement = Measurement(trial=1, attempt=1, step=1, share=1.0, metrics={})
    assert ledger.post(WorkResult(key="a", kind=WorkKind.TRAIN, trial=1, attempt=1, lane=0, measurement=measurement))
    status = ledger.status()
    assert (status["held"], status["unrecorded"], status["queued"]) == (0, 1, 1)
    ledger.acknowledge("a")
    assert ledger.status()["unrecorded"] == 0
    assert ledger.next_answer(0, incarnation, 1) is None


def test_what_a_lane_holds_when_the_ledger_closes_may_be_dropped() -> None:
    ledger = Ledger(clock=time.time)
    incarnation = ledger.lane_started(0)
    ledger.submit(WorkItem(key="a", kind=WorkKind.TRAIN, trial=1))
    assert getattr(ledger.next_answer(0, incarnation, 0), "key", "") == "a"
    assert ledger.heartbeat(0, incarnation, 1, 9)
    ledger.hold()
    assert ledger.heartbeat(0, incarnation, 2, 9)  # it may still end
    ledger.close()
    assert not ledger.heartbeat(0, incarnation, 3, 9)
    assert ledger.next_answer(0, incarnation, 1) == "stop"


# a real study


def processes_of(session: int) -> list[str]:
    """Command lines of whatever lives in this session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdigit() else ""
            if stat and int(stat.rsplit(")", 1)[1].split()[3]) == session and stat.rsplit(")", 1)[1].split()[0] != "Z":
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_of_rungs_is_stopped_by_ctrl_c_and_goes_on_to_its_end(tmp_path: Path, teacher: Path) -> None:
    """As a terminal does it: the signal goes to the whole group. What runs ends, nothing else begins, no process is left; and the
    same command does the rest, as if it had never been stopped."""
    path = tiny.write_study(
        tmp_path,
        teacher=str(teacher),
        data={**tiny.write_data(tmp_path / "data"), "max_length": 32},
        budget={"trials": 9},
        search={"halving": {"rungs": ["1/9", "1/3", 1]}, "startup_trials": 4, "first": [{"temperature": study_toys.FAILS_AT}]},
        resources={"lanes": 1},
        confirm={"seeds": 1, "without_distillation": "none"},
        space={
            "depth": [1, 2, 3], "learning_rate": {"float": [1e-3, 5e-3]}, "batch_size": 16, "temperature": {"float": [1, 4]},
        },
    )  # fmt: skip
    output, command, told = tmp_path / "run", [sys.executable, "-c", DRIVER, "run", str(path)], tmp_path / "err.txt"
    with open(told, "w") as file:
        driver = subprocess.Popen(command, env=environment(tmp_path), stdout=file, stderr=file, start_new_session=True)
    begun = time.monotonic()
    while not (states(output)["promoted"] and states(output)["waiting"]):
        assert driver.poll() is None, told.read_text()
        assert time.monotonic() - begun < 600, told.read_text()
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(90) == 130, told.read_text()
    assert f"run the same command again to continue: distilsearch run {path}" in told.read_text()
    assert "Traceback" not in told.read_text()
    before, _ = record_of(output)
    assert len(before) < 9 or any(outcome.state is TrialState.PROMOTED for outcome in before.values())  # not at its end
    record, _ = open_record(spec_of(output))
    assert record.fact("lease") is None
    record.close()
    ran = Counter(int(line.split()[1]) for line in (tmp_path / "log.txt").read_text().splitlines() if "trial" in line)
    ended = {n: len(outcome.measurements) + (outcome.state is TrialState.FAILED) for n, outcome in before.items()}
    assert {
        number: count for number, count in ended.items() if count
    } == ran  # whatever was begun was ended, and recorded
    assert not (output / ".ray").exists()
    deadline = time.monotonic() + 30
    while processes_of(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(driver.pid) == []

    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    after, attempts = record_of(output)
    assert Counter(outcome.state.value for outcome in after.values()) == {"failed": 1, "ended": 7, "done": 1}
    reached = Counter(len(outcome.measurements) for outcome in after.values())
    assert reached == {0: 1, 1: 5, 2: 2, 3: 1}  # of eight three went on, and of these one
    for number, outcome in after.items():
        shares = [measurement.share for measurement in outcome.measurements]
        assert shares == pytest.approx([1 / 9, 1 / 3, 1][: len(shares)])
        steps = [measurement.cost["optimizer_steps"] for measurement in outcome.measurements]
        assert [measurement.step for measurement in outcome.measurements] == list(itertools.accumulate(map(int, steps)))
        if number in before:  # nothing that was measured was lost or trained again
            kept = before[number].measurements
            assert outcome.measurements[: len(kept)] == kept
    assert set(attempts.values()) <= {1, 2}  # what was queued at the lane was begun twice, if by name alone
    (student,) = open_study(output).rows
    assert (output / "best" / f"trial-{student.trial}" / "model.safetensors").is_file()
    assert os.listdir(output / "trials") == [str(student.trial)]
