"""Tracking: what a run holds, that it holds it once, and that nothing of it can hurt the search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, a_study, an_outcome
from tracking_toys import (  # noqa: F401
    KEY,
    PASSWORD,
    PROVENANCE,
    TOKEN,
    _alone,
    _server,
    alone,
    drive,
    found_by,
    only_warning,
    tracked_spec,
)
from wandb_server import WandbServer

from search.study.tracking import NullTracker, make_tracker, study_log, wandb_tracker
from search.study.tracking.segments import Segment, records, segments
from search.study.tracking.session import chosen_mode, kept_run_id
from spaces.secrets import mask_secrets
from spaces.study import StudySpec, WandbSpec

# -- an offline run, continued, with a run a trial


@dataclass(frozen=True)
class Offline:
    spec: StudySpec
    run_id: str
    warned: list[str]

    @property
    def parts(self) -> list[Segment]:
        return segments(self.spec.output / "wandb", self.run_id)


NEW = an_outcome(6, 0.895, layers=(1, 3))  # a trial of the second run


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    """A study with secrets all around it, tracked offline in two runs of one trial more each."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        alone(patch, folder)
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(study_log, "CHART_SECONDS", 0)
        spec = tracked_spec(folder / "out", runs="trials")
        drive(make_tracker(spec, PROVENANCE), spec)
        time.sleep(1.1)  # segments are named by the second
        _, outcomes, confirmations, _ = a_study()
        tracker = make_tracker(spec, PROVENANCE)
        tracker.begun(outcomes, confirmations, REFERENCES)
        tracker.told(NEW)
        tracker.finished(found_by(spec, [*outcomes, NEW]))
        tracker.close()
    warned = [str(each.message) for each in caught if each.category is RuntimeWarning]
    return Offline(spec, kept_run_id(spec.output), warned)


def read_back(segment: Segment) -> dict[str, Any]:
    """Config, rows, summary, axes, group, and artifacts by their names of a .wandb file."""
    back: dict[str, Any] = {"config": {}, "rows": [], "summary": {}, "axes": {}, "artifacts": [], "group": ""}
    for record in records(segment.file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            back["group"], back["job"] = record.run.run_group, record.run.job_type
            back["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            back["rows"].append(items)
        elif kind == "summary":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
            back["summary"] |= items
        elif kind == "metric":
            back["axes"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            back["artifacts"].append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            back["artifacts"].append(record.request.log_artifact.artifact)
    return back


def test_an_offline_run_is_read_back(offline: Offline) -> None:
    assert offline.warned == []
    back = read_back(offline.parts[0])
    assert back["config"]["name"] == "small"
    assert back["config"]["storage"] == "postgresql://me:***@db/studies"
    assert back["config"]["provenance"]["teacher"]["fingerprint"] == "feed" * 8
    assert back["config"]["provenance"]["versions"]
    measured = [row for row in back["rows"] if row.get("kind") == "search"]
    assert [row["trial"] for row in measured] == [0, 1, 2, 3, 4, 5]
    assert measured[2]["validation/accuracy"] == 0.89
    assert measured[2]["config/depth"] == 2
    assert measured[2]["cost/train_seconds"] == 12.0
    assert measured[2]["state"] == "done"
    assert measured[5]["state"] == "failed"
    assert measured[5]["error"].startswith("TrialError: the loss became NaN")
    assert [row["trials/finished"] for row in measured] == [1, 2, 3, 4, 5, 5]
    assert [row["front/size"] for row in measured] == [1, 1, 2, 3, 3, 3]
    assert measured[-1]["front/best_accuracy"] == 0.90
    confirmed = [row for row in back["rows"] if row.get("kind") in ("confirm", "without_distillation")]
    assert [row["trial"] for row in confirmed] == [2, 2, 2, 2]
    assert confirmed[0]["confirmed/test/accuracy"] == 0.88
    drawn = [row["trial"] for row in measured if any(key.startswith("front_chart") for key in row)]
    assert drawn == [0, 2, 3]  # each time that the front grew
    assert back["axes"]["front/*"] == "trials/finished"
    assert back["axes"]["validation/*"] == "spent/train_seconds"


def test_what_was_found_is_in_tables_a_chart_and_artifacts(offline: Offline) -> None:
    first = offline.parts[0]
    back = read_back(first)
    (results,) = [row for row in back["rows"] if row["row"].startswith("results ")]
    assert {"front_table", "trials_table", "front_chart"} <= {key.split("/")[0] for key in results}
    assert back["summary"]["students_on_front"] == 3
    tables = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in first.folder.rglob("*.table.json")}
    trials = tables["trials_table"]
    lines = [dict(zip(trials["columns"], line, strict=True)) for line in trials["data"]]
    assert [line["trial"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert [line["on_front"] for line in lines] == [True, False, True, True, False, False]
    assert (lines[2]["depth"], lines[2]["validation/accuracy"], lines[2]["cost/train_seconds"]) == (2, 0.89, 12.0)
    assert (lines[5]["state"], lines[5]["error"][:10]) == ("failed", "TrialError")
    assert [line[0] for line in tables["front_table"]["data"]] == [0, 2, 3]
    made = {(one.type, one.name): one for one in back["artifacts"]}
    assert {("best-config", "small-best-configs"), ("report", "small-report")} <= made.keys()
    models = [one for one in back["artifacts"] if one.type == "model"]
    aliases = {json.loads(one.metadata)["trial"]: {*one.aliases} - {"latest"} for one in models}
    assert aliases == {0: {"trial-0", "smallest"}, 2: {"trial-2", "knee"}, 3: {"trial-3", "best"}}
    assert {one.name for one in models} == {"small-student"}
    assert json.loads(models[0].metadata)["teacher"]["fingerprint"] == "feed" * 8
    files = {entry.path: entry.local_path for entry in models[0].manifest.contents}
    assert files["model.safetensors"] == str(offline.spec.output / "best" / "trial-0" / "model.safetensors")  # no copy
    for name in (f"teacher-{'feed' * 4}", f"data-{'beef' * 4}"):
        (one,) = [one for one in back["artifacts"] if one.name == name]
        assert one.use_after_commit  # an input of the run, which made the students
        assert [entry.path for entry in one.manifest.contents] == [f"{one.type}.json"]


def test_a_continued_study_adds_to_its_run_what_is_new(offline: Offline) -> None:
    first, second = offline.parts
    keys = second.row_keys()
    assert keys[0] == "6@1.000000"
    assert len(keys) == 2  # and the results anew
    assert not set(keys) & set(first.row_keys())
    (row,) = [row for row in read_back(second)["rows"] if row["row"] == "6@1.000000"]
    assert row["trials/finished"] == 6
    assert row["spent/train_seconds"] == 72.0


def test_each_trial_has_a_run_of_its_own_in_the_group(offline: Offline) -> None:
    study = read_back(offline.parts[0])
    for number in range(7):
        (part,) = segments(offline.spec.output / "wandb", f"{offline.run_id}-{number}")  # none is written twice
        back = read_back(part)
        assert (back["group"], back["job"]) == (study["group"], "trial")
        assert back["config"]["trial"]["seed"] == number
        assert len(back["rows"]) == 1
    assert study["group"] == f"small-{offline.run_id}"


def test_no_secret_is_in_any_file(offline: Offline) -> None:
    files = [path for path in offline.spec.output.parent.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".wandb"]) == 9
    for secret in (PASSWORD, KEY, TOKEN):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_offline_parts_sync_to_one_run(offline: Offline, server: WandbServer) -> None:
    """As the user would: wandb's own command, on all of them at once."""
    command = [sys.executable, "-m", "wandb", "sync", *(str(part.folder) for part in offline.parts)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    rows = server.histories[offline.run_id]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert [row["row"] for row in rows] == [key for part in offline.parts for key in part.row_keys()]
    for part in offline.parts:  # for the tests beside this one
        for left in part.folder.glob("*.sync*"):
            left.unlink()


# -- failures: one warning, and the search goes on


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    warned, seconds = only_warning(tracked_spec(tmp_path / "out", "online"))
    assert "refused" in warned
    assert seconds < 1


def test_a_key_that_is_refused(server: WandbServer, tmp_path: Path) -> None:
    server.refuses = True
    warned, seconds = only_warning(tracked_spec(tmp_path / "out", "online"))
    assert "401" in warned
    assert seconds < 1


def test_a_server_that_goes_away(server: WandbServer, tmp_path: Path) -> None:
    server.drops = True
    spec = tracked_spec(tmp_path / "out", "online")
    warned, _ = only_warning(spec)
    assert "filestream" in warned
    assert server.histories.get(kept_run_id(spec.output), []) == []


@pytest.mark.slow
def test_a_server_that_never_answers_keeps_no_process_alive(server: WandbServer, tmp_path: Path) -> None:
    server.hangs = True
    program = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from search.study.tracking import wandb_tracker
from tracking_toys import only_warning, tracked_spec
wandb_tracker.CLOSE_SECONDS = 8
warned, seconds = only_warning(tracked_spec(Path({str(tmp_path / "out")!r}), "online"))
print(warned, time.time())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert "no end within 8 s" in done.stdout, done.stderr
    assert time.time() - float(done.stdout.split()[-1]) < 5  # wandb's own exit hook would try for half a minute
    assert done.stderr == ""


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    warned, _ = only_warning(tracked_spec(tmp_path / "out"))
    assert "file/below" in warned


@pytest.mark.parametrize("kilobytes", [4, 32])  # full at the first table; when the run's own file is closed
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if os.name != "posix" or os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system takes root")
    try:
        monkeypatch.setenv("WANDB_DIR", str(disk))
        warned, seconds = only_warning(tracked_spec(tmp_path / "out"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert "no space left" in warned.lower()
    assert seconds < 1


def test_online_without_a_key_stays_offline_and_says_so(tmp_path: Path) -> None:
    spec = tracked_spec(tmp_path / "out", "online")
    warned, _ = only_warning(spec)
    assert "no key is set" in warned
    (part,) = segments(spec.output / "wandb", kept_run_id(spec.output))
    assert part.is_offline
    assert len(part.row_keys()) == 11


def test_a_backend_that_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: sys.exit(1))
    warned, _ = only_warning(tracked_spec(tmp_path))
    assert "SystemExit" in warned


def test_a_hanging_backend_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: time.sleep(120))
    monkeypatch.setattr(wandb_tracker, "CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    warned, seconds = only_warning(tracked_spec(tmp_path))
    assert "no end within 0.2 s" in warned
    assert seconds < 1
    assert time.monotonic() - began < 60  # it never waits for the 120 s


def test_absence_is_an_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(make_tracker(a_spec(tracking={"wandb": "none"}), {}), NullTracker)
    assert isinstance(make_tracker(a_spec(tracking={"wandb": {"mode": "disabled"}}), {}), NullTracker)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    spec = tracked_spec(tmp_path)
    tracker = make_tracker(spec, {})
    assert isinstance(tracker, NullTracker)
    drive(tracker, spec)
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
        ("postgresql://me:pa/ss@db/x", "postgresql://me:***@db/x"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("https://host:8080/a", "https://host:8080/a"),
        ({"api_key": "k", "tokens": 5, "num_tokens": "7"}, {"api_key": "***", "tokens": 5, "num_tokens": "7"}),
        (f"Error: 401 for {'hf_' + 'a1' * 17}", "Error: 401 for ***"),
        ({"a": [("sqlite:///x.db", {"hf_token": "t"})]}, {"a": [["sqlite:///x.db", {"hf_token": "***"}]]}),
    ],
)
def test_secrets_are_masked(plain: Any, masked: Any) -> None:
    assert mask_secrets(plain) == masked


def test_secrets_of_the_environment_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("OLDPWD", "/some/folder")
    told = mask_secrets({"error": f"refused {KEY} of {PASSWORD}", "folder": "/some/folder/abc"})
    assert told == {"error": "refused *** of ***", "folder": "/some/folder/abc"}
