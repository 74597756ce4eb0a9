"""What a driver does with a tracker, on a study that was never run."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, a_study
from wandb_server import WandbServer

from search.results.front import ParetoFront
from search.study.output import StudyResult, result_of
from search.study.tracking import Tracker, make_tracker
from search.study.tracking.rows import replay
from spaces.study import StudySpec
from spaces.trial import TrialOutcome

PASSWORD, KEY, TOKEN = "hunter2hunter2", "0123456789abcdef" * 2 + "01234567", "hf_" + "Qx7" * 11
PROVENANCE = {
    "teacher": {"model": "some/teacher", "fingerprint": "feed" * 8},
    "data_fingerprint": "beef" * 8,
    "versions": {"distilsearch": "0"},
}


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No key, no settings and no home of the machine that runs the tests; no session of an earlier test."""
    import wandb

    with contextlib.suppress(ConnectionError, SystemExit):  # of a session whose service was ended as one that hangs
        wandb.teardown()
    for name in ("API_KEY", "MODE", "DIR", "PROJECT", "ENTITY", "RUN_ID", "NAME", "IDENTITY_TOKEN_FILE", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("NETRC", str(folder / "no-netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone(monkeypatch, tmp_path)


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    made = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", made.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield made
    made.close()


def tracked_spec(output: Path, mode: str = "offline", **more: Any) -> StudySpec:
    url = f"postgresql://me:{PASSWORD}@db/studies"
    return a_spec(output=output, storage=url, tracking={"wandb": {"mode": mode, **more}})


def found_by(spec: StudySpec, outcomes: list[TrialOutcome] | None = None) -> StudyResult:
    """What the study of `a_study` found, with its files in the output."""
    _, known, confirmations, delivered = a_study()
    outcomes = known if outcomes is None else outcomes
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    best = spec.output / "best"
    for trial in front.trials:
        (best / f"trial-{trial}").mkdir(parents=True, exist_ok=True)
        (best / f"trial-{trial}" / "model.safetensors").write_bytes(b"weights %d" % trial)
        (best / f"trial-{trial}.yaml").write_text(f"trial: {trial}\n")
    (spec.output / "report.html").write_text("<!doctype html>")
    return result_of(spec, front, outcomes, confirmations, delivered, REFERENCES, {})


def drive(tracker: Tracker, spec: StudySpec) -> float:
    """What a driver does with a tracker; the seconds that its calls took but for the last."""
    _, outcomes, confirmations, _ = a_study()
    result = found_by(spec)
    began = time.perf_counter()
    tracker.begun([], [], REFERENCES)
    for outcome in (*replay(outcomes), *replay(confirmations)):
        tracker.told(outcome)
    tracker.finished(result)
    seconds = time.perf_counter() - began
    tracker.close()
    tracker.close()  # twice does no harm
    return seconds


def only_warning(spec: StudySpec) -> tuple[str, float]:
    """Drives a study that cannot be tracked: the one warning, and the seconds that the driver's calls took."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seconds = drive(make_tracker(spec, PROVENANCE), spec)
    (warned,) = [str(each.message) for each in caught if each.category is RuntimeWarning]
    assert "Weights & Biases" in warned
    assert "distilsearch track" in warned
    assert PASSWORD not in warned
    assert KEY not in warned
    return warned, seconds
