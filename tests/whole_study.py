"""A whole study on real lanes, once for all tests: killed in the middle, and run again to its end."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import study_toys
import tiny

from search.study.output import open_record, spec_of
from spaces.trial import TrialOutcome, TrialState  # noqa

NUM_TRIALS = 5
SECRETS = ("0123456789abcdef" * 2 + "76543210", "hf_" + "Qx7" * 11)
DRIVER = """
import functools, study_toys, search.study.prepare as prepare, search.study.run as run
prepare.STEPS_A_PART = 45  # so that the teacher's 90 steps are two parts
run.LanePool = functools.partial(run.LanePool, perform="study_toys:perform")
study_toys.count_puts()
from search.cli import main
main()
"""


@dataclass(frozen=True)
class Ran:
    """A study that was killed and run again. `before` are the trials as the record held them after the killing, `log`
    what the lanes did: (kind, trial, attempt)."""

    path: Path
    output: Path
    before: dict[int, TrialOutcome]
    attempts_before: dict[int, int]
    after: dict[int, TrialOutcome]
    attempts: dict[int, int]
    log: list[tuple[str, str, str]]
    log_path: Path
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, str]]:
        with open(self.output / "front.csv", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def front(self) -> list[dict[str, str]]:
        return [line for line in self.lines if line["standing"] == "front"]

    def fact(self, name: str) -> Any:
        return open_record(spec_of(self.output))[0].fact(name)


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    secrets = {"WANDB_API_KEY": SECRETS[0], "HF_TOKEN": SECRETS[1], "HOME": str(folder / "home")}
    return {**os.environ, **secrets, "PYTHONPATH": paths, "TOYS_LOG": str(folder / "log.txt"), "COLUMNS": "160"}


def states(output: Path) -> Counter[str]:
    """What the record says while someone else writes it."""
    with contextlib.suppress(Exception):  # not there yet, or half made
        study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{output / 'study.db'}")
        return Counter(trial.user_attrs["state"] for trial in study.trials)
    return Counter()


def record_of(output: Path) -> tuple[dict[int, TrialOutcome], dict[int, int]]:
    record, _ = open_record(spec_of(output))
    return {outcome.number: outcome for outcome in record.outcomes()}, record.attempts()


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("study")
    first = [
        {"family": "bert", "depth": 1, "hidden_size": "50%", "hidden_share": 0.3, "hidden_loss": "mse"},
        {"temperature": study_toys.FAILS_AT},
        {"family": "bert", "depth": 3, "vocabulary": "full"},
    ]
    # One lane: each one more is another two processes that import torch, and the lanes' own tests have several.
    path = tiny.write_study(
        folder,
        budget={"trials": NUM_TRIALS},
        search={"first": first},
        resources={"lanes": 1},
        tracking={"wandb": {"runs": "trials"}},
    )
    output, command = folder / "run", [sys.executable, "-c", DRIVER, "run", str(path)]
    errors = folder / "killed.txt"
    with open(errors, "w") as file:
        driver = subprocess.Popen(command, env=environment(folder), stdout=file, stderr=file, start_new_session=True)
    try:
        begun = time.monotonic()
        while True:
            seen = states(output)
            if seen["done"] >= 2 and seen["running"]:
                break
            assert driver.poll() is None, errors.read_text()
            assert time.monotonic() - begun < 1500, (seen, errors.read_text())
            time.sleep(0.1)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        before, attempts_before = record_of(output)
        done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=1500)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what the killed driver may have left
            os.killpg(driver.pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    after, attempts = record_of(output)
    log_path = folder / "log.txt"
    log = [tuple(line.split()) for line in log_path.read_text().splitlines()]
    return Ran(
        path,
        output,
        before,
        attempts_before,
        after,
        attempts,
        log,
        log_path,
        done.stdout,
        done.stderr,  # type: ignore[arg-type]
    )
