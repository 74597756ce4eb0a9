"""Ctrl-C: once, what runs may end; twice, now; told to end, now. And a real study that is stopped so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.lanes.ledger import Ledger
from search.record.record import existing_record
from search.study.output import open_record, spec_of
from search.study.stopping import Stopping, ended_in_order
from spaces.trial import Measurement, TrialState, WorkItem, WorkKind, WorkResult


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


def states(output: Path) -> list[str]:
    try:
        directions = {"accuracy": "maximize", "parameters": "minimize"}
        record = existing_record("sqlite", output, "tiny", directions, unchecked=True)
        found = [outcome.state.value for outcome in record.outcomes()]
        record.close()
        return found
    except Exception:  # not there yet
        return []


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
@pytest.mark.timeout(600)
def test_a_study_is_stopped_by_ctrl_c_without_losing_what_runs(study_of: Callable[..., Any], tmp_path: Path) -> None:
    """As a terminal does it: the signal goes to the whole group. The trial that runs ends, the one queued behind it does not
    begin, and no process is left."""
    spec = study_of(
        space={"family": "bert", "depth": {"int": [1, 3]}, "learning_rate": {"float": [1e-3, 5e-3], "log": True}},
        training={"steps": 600},  # a second or more
        budget={"trials": 30},
        resources={"lanes": 1},
    )
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(spec.resolved()))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "160"}
    command = [sys.executable, "-m", "search.cli", "run", str(path)]
    with open(tmp_path / "err.txt", "w") as file:
        driver = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    told = tmp_path / "err.txt"
    begun = time.monotonic()
    while states(spec.output).count("done") < 1:
        assert driver.poll() is None, told.read_text()
        assert time.monotonic() - begun < 400, told.read_text()
        time.sleep(0.2)
    time.sleep(0.3)  # the next one runs
    before = states(spec.output)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(90) == 130, told.read_text()
    text = told.read_text()
    assert f"run the same command again to continue: distilsearch run {path}" in text
    assert "Traceback" not in text
    after = states(spec.output)
    assert after.count("done") > before.count("done")  # what ran ended,
    assert after.count("done") >= len(after) - 1  # and at most what was queued behind it is left
    assert len(after) < 30
    record, _ = open_record(spec_of(spec.output))
    assert record.fact("lease") is None
    for outcome in record.outcomes():
        assert (outcome.state is TrialState.DONE) == (outcome.share == 1)
    assert not (spec.output / ".ray").exists()
    deadline = time.monotonic() + 30
    while processes_of(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(driver.pid) == []
