"""Tracking: what an offline run holds, what is masked, and that nothing of it can hurt the search."""

from __future__ import annotations

import json
import struct
import sys
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, a_study

from search.results.front import ParetoFront
from search.results.students import student_rows
from search.study import tracking
from search.study.tracking import NullTracker, Tracker, WandbTracker, chosen_mode, make_tracker
from spaces.secrets import mask_secrets
from spaces.study import StudySpec, WandbSpec

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no settings and no home of the machine that runs the tests."""
    for name in ("API_KEY", "MODE", "DIR", "PROJECT", "ENTITY", "RUN_ID", "NAME", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def offline_spec(**changes: Any) -> StudySpec:
    return a_spec(storage=f"postgresql://me:{SECRET}@db/studies", tracking={"wandb": {"mode": "offline"}}, **changes)


def drive(tracker: Tracker, folder: Path) -> None:
    """What a driver does with a tracker."""
    spec, outcomes, confirmations, delivered = a_study()
    for outcome in outcomes:
        for measurement in outcome.measurements:
            tracker.measured(outcome, measurement)
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, confirmations, delivered, REFERENCES)
    (folder / "best").mkdir(parents=True, exist_ok=True)
    (folder / "best" / "trial-2.yaml").write_text("trial: 2\n")
    (folder / "report.html").write_text("<!doctype html>")
    tracker.finished(spec, front, rows, REFERENCES, folder / "best", folder / "report.html")
    tracker.close()
    tracker.close()  # twice does no harm


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format (32 KiB blocks; crc, length, type before each piece) after a
    seven-byte header. wandb 0.31 ships no reader in Python."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_back(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[str], str]:
    """Config, history rows, artifact names and run id of the offline run in an output."""
    config: dict[str, Any] = {}
    rows, artifacts, run_id = [], [], ""
    (file,) = output.glob("wandb/offline-run-*/*.wandb")
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run_id = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
        elif kind == "artifact":
            artifacts.append(record.artifact.name)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            artifacts.append(record.request.log_artifact.artifact.name)
    return config, rows, artifacts, run_id


def test_an_offline_run_is_read_back(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = make_tracker(offline_spec(), output)
        assert isinstance(tracker, WandbTracker)
        drive(tracker, output)
    assert [str(warning.message) for warning in caught if warning.category is RuntimeWarning] == []
    config, rows, artifacts, run_id = read_back(output)
    assert config["name"] == "small"
    assert config["storage"] == "postgresql://me:***@db/studies"
    measured = [row for row in rows if "trial" in row]
    assert [row["trial"] for row in measured] == [0, 1, 2, 3, 4]
    assert measured[2]["validation/accuracy"] == 0.89
    assert measured[2]["config/depth"] == 2
    assert measured[2]["cost/train_seconds"] == 12.0
    assert measured[2]["state"] == "done"
    assert any("front" in row for row in rows)
    assert "small-best" in artifacts
    assert run_id == (output / "wandb" / "run-id.txt").read_text().strip()
    assert not any(SECRET.encode() in file.read_bytes() for file in output.rglob("*") if file.is_file())


def test_a_continued_study_continues_its_run(tmp_path: Path) -> None:
    assert tracking._kept_run_id(tmp_path) == tracking._kept_run_id(tmp_path)
    assert tracking._kept_run_id(tmp_path) != tracking._kept_run_id(tmp_path / "other")


def a_backend(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """A wandb that does what the test says."""
    settings = types.SimpleNamespace(api_key=None, base_url="https://api.wandb.ai")
    fake = types.SimpleNamespace(
        Settings=dict,
        setup=lambda: types.SimpleNamespace(settings=settings),
        Table=dict,
        Plotly=str,
        Artifact=dict,
        teardown=lambda: None,
    )
    fake.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "_has_key", lambda wandb: False)


def raises(*_: Any, **__: Any) -> Any:
    raise RuntimeError(f"no connection to https://me:{SECRET}@server")


@pytest.mark.parametrize(
    "init", [raises, lambda **_: types.SimpleNamespace(log=raises, finish=raises), lambda **_: sys.exit(1)]
)
def test_a_failing_backend_is_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, init: Any) -> None:
    a_backend(monkeypatch, init=init)
    with pytest.warns(RuntimeWarning, match="Weights & Biases stopped") as caught:
        drive(WandbTracker(offline_spec(), tmp_path, "abc"), tmp_path)
    assert len(caught) == 1
    assert SECRET not in str(caught[0].message)


def test_a_hanging_backend_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a_backend(monkeypatch, init=lambda **_: time.sleep(120))
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"no end within 0\.2 s") as caught:
        drive(WandbTracker(offline_spec(), tmp_path, "abc"), tmp_path)
    assert len(caught) == 1
    assert time.monotonic() - began < 60  # it never waits for the 120 s


def test_absence_is_an_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(make_tracker(a_spec(tracking={"wandb": "none"}), tmp_path), NullTracker)
    assert isinstance(make_tracker(a_spec(tracking={"wandb": {"mode": "disabled"}}), tmp_path), NullTracker)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = make_tracker(offline_spec(), tmp_path)
    assert isinstance(tracker, NullTracker)
    drive(tracker, tmp_path)
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(
    ("asked", "environment", "has_key", "mode"),
    [
        ("auto", "", True, "online"),
        ("auto", "", False, "offline"),
        ("auto", "offline", True, "offline"),
        ("auto", "online", False, "offline"),
        ("online", "", False, "offline"),
        ("offline", "online", True, "offline"),
        ("online", "disabled", True, "disabled"),
        ("disabled", "online", True, "disabled"),
    ],
)
def test_what_sends_less_decides(
    monkeypatch: pytest.MonkeyPatch, asked: Any, environment: str, has_key: bool, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    assert chosen_mode(WandbSpec(mode=asked), has_key) == mode


@pytest.mark.parametrize(
    ("plain", "masked"),
    [
        ("mysql+pymysql://me:p@ss@host:3306/db", "mysql+pymysql://me:***@host:3306/db"),
        ("postgresql://host/db?user=me&password=x#y", "postgresql://host/db?user=me&password=***#y"),
        ("redis://:pw@host", "redis://:***@host"),
        ("https://host:8080/a", "https://host:8080/a"),
        ({"api_key": "k", "tokens": 5, "num_tokens": "7"}, {"api_key": "***", "tokens": 5, "num_tokens": "7"}),
        ({"a": [("sqlite:///x.db", {"hf_token": "t"})]}, {"a": [["sqlite:///x.db", {"hf_token": "***"}]]}),
    ],
)
def test_secrets_are_masked(plain: Any, masked: Any) -> None:
    assert mask_secrets(plain) == masked
