"""Starting Ray and ending it: what it consists of, who tells it to end, what stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    deadline = (
        time.monotonic() + 120
    )  # Ray's agents take 14 to 78 s to believe that their head is gone, whatever it is told
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


# One driver's life, since each Ray takes seconds to start: what runs is printed, a process is left behind, and it is told to end.
LIFE = """
import json, os, signal, subprocess, sys, time
import ray
from search.lanes.quiet import start_ray, stop_ray

start_ray(num_cpus=1)
processes = sorted({name for name, _ in ray._private.worker._global_node.live_processes()})
pid = os.path.join(sys.argv[1], "pid")

@ray.remote
def leave() -> None:
    subprocess.Popen(["sh", "-c", f"setsid sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"])
    while not os.path.exists(pid):
        time.sleep(0.1)

ray.get(leave.remote())
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except KeyboardInterrupt:
    stop_ray()
    print(json.dumps(processes))
"""


@dataclass(frozen=True)
class Life:
    exit_status: int
    stdout: str
    stderr: str
    left: int  # the process id of what one of Ray's workers started and left


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("life")
    done = subprocess.run([sys.executable, "-c", LIFE, str(folder)], capture_output=True, text=True, timeout=600)
    assert (folder / "pid").exists(), done.stderr
    return Life(done.returncode, done.stdout, done.stderr, int((folder / "pid").read_text()))


@pytest.mark.ray
def test_a_local_ray_is_what_runs_work_and_no_more(life: Life) -> None:
    assert set(json.loads(life.stdout)) - {"reaper"} == {"gcs_server", "raylet"}


@pytest.mark.ray
def test_nothing_that_ray_started_outlives_it(life: Life) -> None:
    """Ray itself ends its workers and their children, but no children of those, and no worker that hangs as it exits."""
    deadline = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        while os.kill(life.left, 0) is None:  # one that was killed is there until its parent looks
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.ray
def test_told_to_end_a_driver_ends_as_by_ctrl_c(life: Life) -> None:
    assert (life.exit_status, life.stdout.count("\n")) == (0, 1), life.stderr
    assert "SIGTERM" not in life.stderr  # Ray's stack


TOLD_WHILE_IT_STARTS = """
import os, signal, time
from search.lanes import quiet

theirs = quiet._start_here

def told(*counts):
    theirs(*counts)
    os.kill(os.getpid(), signal.SIGTERM)

quiet._start_here = told
try:
    quiet.start_ray(num_cpus=1)
except KeyboardInterrupt:
    time.sleep(3.5)  # Ray's handler, which heard it first, aborts after 3 s
    print("ended")
"""


@pytest.mark.ray
def test_told_to_end_while_ray_starts_too() -> None:
    done = subprocess.run([sys.executable, "-c", TOLD_WHILE_IT_STARTS], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "ended\n")
