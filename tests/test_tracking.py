"""Tracking: what a run holds, that it holds it once, and that nothing of it can hurt the search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import results_written
from test_results import REFERENCES, a_spec, a_study, an_outcome
from wandb_server import WandbServer

from search.record.lease import Lease
from search.results.course import course
from search.results.front import ParetoFront
from search.study.output import StudyResult, claim_output, open_record, result_of
from search.study.tracking import NullTracker, Tracker, make_tracker, study_log, wandb_tracker
from search.study.tracking.again import track_study
from search.study.tracking.rows import History, replay
from search.study.tracking.segments import Segment, records, segments
from search.study.tracking.session import chosen_mode, kept_run_id
from spaces.errors import InputError, StudyError
from spaces.secrets import mask_secrets
from spaces.study import StudySpec, WandbSpec
from spaces.trial import Measurement, TrialOutcome, TrialState

PASSWORD, KEY, TOKEN = "hunter2hunter2", "0123456789abcdef" * 2 + "01234567", "hf_" + "Qx7" * 11
PROVENANCE = {
    "teacher": {"model": "some/teacher", "fingerprint": "feed" * 8},
    "data_fingerprint": "beef" * 8,
    "versions": {"distilsearch": "0"},
}


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No key, no settings and no home of the machine that runs the tests; no session of an earlier test."""
    import wandb

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
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


# -- rows


def halved(number: int, accuracy: float, depth: int, at: float) -> TrialOutcome:
    """A trial that was measured after a third and, if it was good enough, at its end."""
    whole = an_outcome(number, accuracy, layers=tuple(range(depth)))
    assert whole.last is not None
    shares = (1 / 3, 1.0) if accuracy > 0.6 else (1 / 3,)
    measured = tuple(
        Measurement(
            trial=number, attempt=1, step=int(900 * share), share=share,
            metrics={"validation/accuracy": accuracy - 0.1 * (1 - share)},
            cost={"train_seconds": 4.0 + place, "tokens": 100.0, "finished_at": at + 5 * place},
        )
        for place, share in enumerate(shares)
    )  # fmt: skip
    state = TrialState.DONE if len(shares) == 2 else TrialState.ENDED
    return whole.model_copy(update={"measurements": measured, "state": state})


def a_search() -> list[TrialOutcome]:
    return [
        *(halved(n, 0.5 + (7 * n % 13) / 30, depth=1 + n * 5 % 6, at=100.0 + 3 * n) for n in range(20)),
        an_outcome(20, 0.0, state=TrialState.FAILED, error="broke"),
    ]


@pytest.mark.parametrize("bounds", [{}, {"accuracy": {"min": 0.7}, "parameters": {"max": "30%"}}])
def test_the_curves_are_what_counting_from_scratch_gives(bounds: dict[str, Any]) -> None:
    spec, outcomes = a_spec(bounds=bounds), a_search()
    history, so_far, volumes = History(spec, REFERENCES), dict[int, TrialOutcome](), set[float]()
    for stood in replay(outcomes):
        row = history.told(stood)
        assert row is not None
        so_far[stood.number] = stood
        values = row.values
        front = ParetoFront.of(list(so_far.values()), spec, REFERENCES)
        assert values["front/hypervolume"] == pytest.approx(front.hypervolume)
        assert values["front/size"] == len(front.points)
        best = max((point.values["accuracy"] for point in front.points), default=None)
        assert values.get("front/best_accuracy") == best
        assert values["spent/train_seconds"] == pytest.approx(sum(each.train_seconds for each in so_far.values()))
        assert values["spent/trainings"] == pytest.approx(sum(each.share for each in so_far.values()))
        assert values["trials/finished"] == sum(each.state is TrialState.DONE for each in so_far.values())
        volumes.add(round(values["front/hypervolume"], 12))
    assert values["trials/failed"] == 1
    assert len(volumes) > 3
    went = course(outcomes, spec, REFERENCES)
    assert went[-1].hypervolume == pytest.approx(values["front/hypervolume"])
    assert went[-1].train_seconds == values["spent/train_seconds"]


def test_each_thing_that_befalls_a_trial_is_one_row() -> None:
    history = History(a_spec(), REFERENCES)
    told = [history.told(outcome) for outcome in replay(a_search())]
    keys = [row.key for row in told if row is not None]
    assert len(keys) == len(set(keys)) == sum(len(outcome.measurements) for outcome in a_search()) + 1
    assert {"0@0.333333", "1@1.000000", "20 failed"} <= set(keys)
    assert [history.told(outcome) for outcome in a_search()] == [None] * 21
    begun = halved(30, 0.9, 1, 500.0).model_copy(update={"measurements": (), "state": TrialState.RUNNING})
    assert history.told(begun) is None


def test_a_continued_search_goes_on_where_its_curves_stood() -> None:
    events = replay(a_search())
    whole = History(a_spec(), REFERENCES)
    expected = [row for event in events if (row := whole.told(event))]
    again = History(a_spec(), REFERENCES)
    known = {event.number: event for event in events[:15]}  # what the record holds after fifteen of them
    for event in replay(known.values()):
        again.told(event)
    assert [again.told(event) for event in events[15:]] == expected[15:]


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
from test_tracking import only_warning, tracked_spec, wandb_tracker
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


# -- track: from the record alone


def recorded(folder: Path, **changes: Any) -> StudySpec:
    """A study that ran to its end untracked: its record and its files."""
    spec = a_spec(**{"output": folder, "tracking": {"wandb": "none"}, **changes})
    claim_output(spec)
    record, again = open_record(spec)
    _, outcomes, confirmations, delivered = a_study()
    for outcome in outcomes:
        if outcome.error:
            begun = record.start(outcome.config, outcome.parameters, spec.space)
            record.set_state(begun.number, outcome.state, error=outcome.error)
        else:
            record.adopt(outcome, spec.space)
    for number, outcome in enumerate(confirmations):
        measured = tuple(each.model_copy(update={"trial": number}) for each in outcome.measurements)
        again.adopt(outcome.model_copy(update={"measurements": measured}), spec.space)
    record.keep("references", [reference.model_dump() for reference in REFERENCES])
    record.keep("delivered", {trial: {"metrics": metrics} for trial, metrics in delivered.items()})
    record.keep("provenance", PROVENANCE)
    record.close()
    found_by(spec)
    return spec


def test_track_sends_what_the_run_misses_and_nothing_twice(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spec = recorded(out, storage=f"sqlite:///file:{out}/kept.db?uri=true&password={PASSWORD}")
    results_written(spec)
    here = track_study(spec.output, "offline")
    assert (here.mode, here.rows, here.held) == ("offline", 11, 0)  # six trials, four confirmations, the results
    again = track_study(spec.output, "offline")
    assert (again.rows, again.held) == (0, 11)
    assert server.histories == {}
    sent = track_study(spec.output)
    assert (sent.mode, sent.rows, sent.held) == ("online", 11, 0)
    assert sent.run_id == here.run_id
    rows = server.histories[here.run_id]
    assert len(rows) == len({row["row"] for row in rows}) == 11
    made, uses = [one["artifactCollectionName"] for one in server.artifacts], len(server.uses)
    assert made.count("small-student") == 3
    assert uses == 2  # teacher and data
    assert [part.is_synced for part in segments(spec.output / "wandb", here.run_id) if part.is_offline] == [True]
    server.histories[here.run_id] = rows[:4]  # as if the rest had been lost on the way
    assert (track_study(spec.output).rows, track_study(spec.output).rows) == (7, 0)
    assert len({row["row"] for row in server.histories[here.run_id]}) == len(server.histories[here.run_id]) == 11
    files = [
        path.read_bytes() for path in out.rglob("*") if path.is_file()
    ]  # study.yaml, best-configs and the report among them
    for secret in (KEY, PASSWORD):
        assert not any(secret.encode() in content for content in (*files, *server.bodies))


def test_track_adds_a_run_a_trial_where_they_are_asked_for(server: WandbServer, tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out", tracking={"wandb": {"runs": "trials", "models": False}})
    run_id = track_study(spec.output).run_id
    assert {run for run in server.histories if run != run_id} == {f"{run_id}-{number}" for number in range(6)}
    assert set(server.groups.values()) == {f"small-{run_id}"}
    assert "small-student" not in {one["artifactCollectionName"] for one in server.artifacts}
    track_study(spec.output)
    assert [len(server.histories[f"{run_id}-{number}"]) for number in range(6)] == [1] * 6


def test_track_waits_for_the_driver(tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out")
    with Lease(open_record(spec)[0]), pytest.raises(InputError, match="is being run by process"):
        track_study(spec.output, "offline")


def test_track_says_what_is_wrong(server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out")
    server.refuses = True
    with pytest.raises(StudyError, match="401") as failed:
        track_study(spec.output)
    assert "The record has it all" in str(failed.value)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(InputError, match="leaves nothing to do"):
        track_study(spec.output)
    with pytest.raises(InputError, match=r"holds no study\.yaml"):
        track_study(tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from search.cli import app

    spec = recorded(tmp_path / "out")
    app(["track", str(spec.output), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["rows"]) == ("offline", 11)
    app(["track", str(spec.output)], standalone_mode=False)
    said = capsys.readouterr()
    assert f"run {told['run_id']}, offline: 0 new rows, 11 it had" in said.out
    assert "wandb sync" in said.err


# -- what decides the mode, and what is masked


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
