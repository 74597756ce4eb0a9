"""A whole study for latency on real lanes: each shape measured once, alone on the machine, and all that is told of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from whole_study import DRIVER, environment

from search.study.output import StudyResult, open_record, open_study
from spaces.trial import TrialState

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, list[str], str]:
    """The study, what the lanes did, and what its run said."""
    folder = tmp_path_factory.mktemp("latency")
    path = tiny.write_study(
        folder,
        objectives={"accuracy": "maximize", "latency_ms": "minimize"},
        bounds={"peak_memory_bytes": {"max": 10**9}, "latency_ms": {"max": "400%"}},
        deployment={"runtime": "onnx", "length": 16},
        budget={"trials": 4},
        search={"first": [{"depth": 1, "family": "bert"}, {"depth": 3}], "sampler": "random"},
        space={"depth": [1, 3], "learning_rate": {"float": [1e-3, 5e-3]}, "batch_size": 16},
        confirm={"seeds": 1, "without_distillation": "none"},
    )
    command = [sys.executable, "-c", DRIVER, "run", str(path)]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert "nothing was left to do" in again.stderr
    log = Path(environment(folder)["TOYS_LOG"]).read_text().splitlines()
    return open_study(folder / "run"), log, done.stdout


def test_each_shape_is_measured_once(ran: Any) -> None:
    result, log, _ = ran
    kinds = Counter(line.split()[0] for line in log)
    assert kinds["measure"] == 2 + 1  # two shapes and the teacher
    done = [outcome for outcome in result.outcomes if outcome.state is TrialState.DONE]
    assert len(done) == 4
    by_depth: dict[int, set[float]] = {}
    for outcome in done:
        values = outcome.values()
        by_depth.setdefault(outcome.config.shape.depth, set()).add(values["latency_ms"])
        assert 0 < values["latency_ms"] <= values["latency_ms_p95"]
        assert values["quiet"] == 1
        assert 10**7 < values["peak_memory_bytes"] < 10**9
        assert 0 <= values["latency_noise"] < 10
    assert {depth: len(found) for depth, found in by_depth.items()} == {1: 1, 3: 1}
    (shallow,), (deep,) = by_depth[1], by_depth[3]
    assert shallow < deep


def test_the_teacher_stands_beside_them(ran: Any) -> None:
    result, _, _ = ran
    teacher = result.references[0]
    assert teacher.name == "teacher"
    assert teacher.value("latency_ms") > 0
    assert result.front.reference["latency_ms"] == teacher.value("latency_ms")
    fact = open_record(result.spec)[0].fact("costs")
    assert len(fact["shapes"]) == 2
    assert len(fact["processors"]) == 1
    assert fact["yardstick_ms"] > 0
    assert "yardsticks" not in fact["teacher"]  # milliseconds from here on


def test_what_is_left_says_so(ran: Any) -> None:
    result, _, out = ran
    assert "Latency: the median over batches, 1 text of 16 pieces at a time, on 1 thread by ONNX Runtime" in " ".join(
        out.split()
    )
    with open(result.spec.output / "front.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines
    for line, row in zip(lines, result.rows, strict=False):
        assert float(line["deployed/latency_ms"]) == row.deployed["latency_ms"]
    order = [row.deployed["latency_ms"] for row in result.rows]
    assert order == sorted(order)
