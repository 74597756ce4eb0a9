"""The harness sees what it looks for; the blows themselves are `make faults`, and a short pass is below."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faults.harness import Blow, Study, processes_of
from spaces.study import StudySpec


def test_what_is_lost_changed_or_done_again_is_seen(finished: StudySpec, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", seed=1)
    study.output = finished.output
    assert study.faults_after([], 1) == []
    assert len(study.measured) == 3
    assert study.faults_after([(0.0, "begins", "trial:9", 1)], 1) == []
    for attempt in (1, 2):
        (again,) = study.faults_after([(0.0, "begins", "trial:1", attempt)], -signal.SIGKILL)
        assert again == "run again though it was measured: ('trial', 1, 1.0)"
    study.measured.clear()
    assert study.faults_after([(0.0, "begins", "trial:1", 1)], 1) == []  # in this very run
    attempt, metrics = study.measured["trial", 2, 1.0]
    study.measured["trial", 2, 1.0] = (attempt, {**metrics, "validation/accuracy": 0.99})
    study.measured["trial", 7, 1.0] = (1, {})
    assert sorted(fault.split(" was")[0] for fault in study.faults_after([], 1)) == [
        "lost or changed: ('trial', 2, 1.0)",
        "lost or changed: ('trial', 7, 1.0)",
    ]
    assert study.faults_after([], 77)[-1] == "exit status 77"


def test_processes_are_found_by_their_environment(tmp_path: Path) -> None:
    environment = {**os.environ, "FAULTS_FOLDER": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as child:
        try:
            assert list(processes_of(tmp_path)) == [child.pid]
            assert processes_of(tmp_path / "other") == {}
        finally:
            child.kill()


def test_a_process_ends_at_its_nth_write(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; import faults.crashes as crashes; folder = Path(sys.argv[1])\n"
        "crashes.armed('lane', folder)\n"
        "for name in 'abcd': (folder / name).write_text('x'); os.replace(folder / name, folder / (name + name))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    for crash, status, left in (("driver:3", 0, "dd"), ("lane:3", -signal.SIGKILL, "c"), ("lane:3", 0, "dd")):
        environment = {**os.environ, "PYTHONPATH": paths, "FAULTS_CRASH": crash}
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
        assert done.returncode == status
        assert (tmp_path / left).exists()
        for path in tmp_path.glob("?*"):
            if path.name != "crashed":
                path.unlink()


def test_a_storage_that_refuses_writes(tmp_path: Path) -> None:
    code = (
        "import sys; import faults.crashes as crashes; crashes.refusing(5)\n"
        "import sqlalchemy as sa\n"
        "engine, refused = sa.create_engine('sqlite:///' + sys.argv[1]), 0\n"
        "with engine.begin() as link: link.exec_driver_sql('CREATE TABLE t (n INT)')\n"
        "for n in range(200):\n"
        "    try:\n"
        "        with engine.begin() as link: link.exec_driver_sql('INSERT INTO t VALUES (1)')\n"
        "    except sa.exc.OperationalError: refused += 1\n"
        "with engine.begin() as link: kept = link.exec_driver_sql('SELECT count(*) FROM t').scalar()\n"
        "print(refused, kept)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.db")], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True,
    )  # fmt: skip
    refused, kept = map(int, done.stdout.split())
    assert refused + kept == 200
    assert 10 < refused < 90


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_that_is_struck_again_and_again_loses_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path, seed=5)
    for blows in (
        [Blow("lane write", nth=6), Blow("driver", 45)],
        [Blow("worker", 30), Blow("controller", 10), Blow("trainable", 10), Blow("broker", 10), Blow("all", 10)],
    ):
        found = study.run(blows)
        assert found.faults == [], (blows, (tmp_path / "driver.txt").read_text())
    assert study.run().exit_status == 0
