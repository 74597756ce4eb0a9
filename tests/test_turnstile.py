"""The turnstile: who measures is alone, whoever works waits between two steps, and a dead process holds nobody up."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from search.trial.turnstile import Turnstile

SPAWNED = multiprocessing.get_context("spawn")


def work(folder: Path, steps: str, begun: Event, over: Event) -> None:
    """A lane: writes the time of each of its steps of 5 ms."""
    turnstile = Turnstile(folder)
    with open(steps, "w", buffering=1) as file, turnstile.inside():
        begun.set()
        while not over.is_set():
            print(time.monotonic(), file=file)
            time.sleep(0.005)
            turnstile.step()


@pytest.fixture
def lane(tmp_path: Path):
    begun, over = SPAWNED.Event(), SPAWNED.Event()
    process = SPAWNED.Process(target=work, args=(tmp_path, str(tmp_path / "steps"), begun, over), daemon=True)
    process.start()
    assert begun.wait(30)
    yield process
    over.set()
    process.join(10)
    process.kill()


def test_a_lane_waits_while_another_measures(tmp_path: Path, lane: object) -> None:
    steps = tmp_path / "steps"
    measuring = Turnstile(tmp_path)
    with measuring.inside():
        with measuring.alone() as quiet:
            begun = time.monotonic()
            time.sleep(0.3)
            ended = time.monotonic()
        assert quiet
        deadline = time.monotonic() + 10
        while float(steps.read_text().split()[-1]) < ended:  # it goes on afterwards
            assert time.monotonic() < deadline
            time.sleep(0.01)
    during = [at for at in map(float, steps.read_text().split()) if begun < at < ended]
    assert not during
    assert len([at for at in map(float, steps.read_text().split()) if at < begun])


def test_a_stopped_process_is_not_waited_for_for_ever_and_a_dead_one_not_at_all(tmp_path: Path, lane) -> None:
    os.kill(lane.pid, signal.SIGSTOP)
    measuring = Turnstile(tmp_path)
    with measuring.alone(patience_seconds=0.2) as quiet:
        assert not quiet
    os.kill(lane.pid, signal.SIGKILL)
    lane.join(10)
    with measuring.alone(patience_seconds=5) as quiet:
        assert quiet


def test_a_step_is_two_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turnstile, calls = Turnstile(tmp_path), list[int]()
    plain = fcntl.flock
    with turnstile.inside():
        monkeypatch.setattr(fcntl, "flock", lambda lock, how: (calls.append(how), plain(lock, how)))
        turnstile.step()
    assert len(calls) == 2 + 1  # and the one that leaves


def test_without_a_folder_of_its_own_nobody_waits(tmp_path: Path) -> None:
    turnstile = Turnstile(tmp_path / "not there")
    with turnstile.inside():
        turnstile.step()
        with turnstile.alone() as quiet:
            assert not quiet
