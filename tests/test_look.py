"""list, show and clean: on folders as runs leave them, whole or broken."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run, record_of, results_written
from test_cli_outputs import front_of
from test_loaded import COMMAND, HEAVY, loaded

from search.record.record import Record, open_storage
from search.study.disk import disk_use, leftovers
from search.study.extension import wish
from search.study.output import claim_output
from spaces.study import StudySpec
from spaces.trial import TrialState
from spaces.yaml_io import load_study

LEASE = {"host": "elsewhere", "pid": 12, "started": "1", "expires": 1e12}


def copy_of(spec: StudySpec, folder: Path) -> StudySpec:
    record_of(spec).close()  # folds the log into the file
    shutil.copytree(spec.output, folder)
    return spec.model_copy(update={"output": folder})


def kept(spec: StudySpec, name: str, value: Any) -> None:
    record = record_of(spec)
    record.keep(name, value)
    record.close()


# list


@pytest.fixture
def runs(finished: StudySpec, study_of: Callable[..., StudySpec], tmp_path: Path) -> Path:
    """A folder of studies in every state."""
    folder = tmp_path / "runs"
    copy_of(finished, folder / "interrupted")
    done = copy_of(finished, folder / "deep" / "down" / "finished")
    kept(done, "finished", wish(done))
    kept(copy_of(finished, folder / "running"), "lease", LEASE)
    torn = copy_of(finished, folder / "torn")
    (torn.output / "study.db").write_bytes(b"no database" * 99)
    (copy_of(finished, folder / "garbled").output / "study.yaml").write_text("fingerprint: [")
    claim_output(study_of(name="empty", output=str(folder / "empty")))
    claim_output(study_of(name="far", output=str(folder / "far"), storage="postgresql://me:geheim@127.0.0.1:1/db"))
    (folder / "mine").mkdir()
    (folder / "mine" / "study.yaml").write_text("name: mine\ndata: {builtin: docstrings}\nteacher: a/b\n")
    return folder


def test_every_study_below_a_folder_is_listed_with_its_state(distilsearch: Run, runs: Path) -> None:
    status, out, err = distilsearch("list", runs, "--json")
    assert (status, err) == (0, "")
    found = {Path(each["folder"]).name: each for each in json.loads(out)}
    assert {name: each["state"] for name, each in found.items()} == {
        "interrupted": "interrupted",
        "finished": "finished",
        "running": "running",
        "torn": "unreadable",
        "garbled": "unreadable",
        "empty": "nothing measured yet",
        "far": "storage not reached",
    }  # and `mine` is no output
    assert "geheim" not in out
    one = found["finished"]
    assert (one["done"], one["begun"], one["failed"]) == (3, 3, 0)
    assert (one["best"]["trial"], one["best"]["quality"]) == (1, 0.8)
    assert one["smallest"] is None  # none keeps 97 % of 0.9
    assert one["disk_bytes"] > 50_000
    assert time.time() - 600 < one["active_at"] <= time.time() + 1
    assert found["running"]["running_by"] == "process 12 on elsewhere"
    status, out, err = distilsearch("list", runs)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len([line for line in lines if "3 of 32" in line]) == 3
    assert "80.0 % accuracy (88.9 % of teacher)" in out
    assert "deep/down/finished" in out


def test_the_smallest_student_that_keeps_97_percent(distilsearch: Run, finished: StudySpec) -> None:
    record = record_of(finished)
    (teacher,) = record.fact("references")
    record.keep("references", [{**teacher, "metrics": {"validation/accuracy": 0.5}}])
    (one,) = json.loads(distilsearch("list", finished.output, "--json")[1])
    assert (one["best"]["trial"], one["smallest"]["trial"]) == (1, 0)
    assert one["smallest"]["share_of_teacher"] == 1


def test_listing_changes_no_file(distilsearch: Run, runs: Path) -> None:
    def content() -> dict[str, bytes]:
        files = (path for path in sorted(runs.rglob("*")) if path.is_file())
        return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-wal", "-shm"))}

    distilsearch("list", runs)
    gc.collect()  # who is the last to close a database folds SQLite's log into it
    before = content()
    assert distilsearch("list", runs)[0] == 0
    assert content() == before


def test_a_folder_without_studies_is_no_failure_and_none_is(distilsearch: Run, tmp_path: Path) -> None:
    status, out, err = distilsearch("list", tmp_path)
    assert (status, out) == (0, "")
    assert "no study lies below" in err
    assert distilsearch("list", tmp_path, "--json")[:2] == (0, "[]\n")
    status, out, err = distilsearch("list", tmp_path / "none")
    assert (status, out) == (2, "")
    assert "there is no such folder" in err


# show


def test_a_study_is_shown_as_resolved_and_where_it_stands(distilsearch: Run, finished: StudySpec) -> None:
    status, out, err = distilsearch("show", finished.output)
    assert (status, err) == (0, "")
    assert "epochs: 2.0" in out
    assert "trials: 3 of 32 done, 3 begun" in out
    assert "on disk: " in out
    made = json.loads(distilsearch("show", finished.output, "--json")[1])
    assert made["study"]["training"] == {"epochs": 2.0}
    assert made["state"] == "interrupted"
    assert sum(made["disk"].values()) == made["disk_bytes"]


def test_a_trial_is_shown_in_full(distilsearch: Run, finished: StudySpec) -> None:
    record = record_of(finished)
    again = Record(open_storage("sqlite", finished.output), f"{finished.name}.confirm", finished.objectives)
    first = record.outcomes()[1]
    labels = {"kind": "confirm", "of": "1", "seed": "99"}
    outcome = again.start(first.config, {}, finished.space, labels)
    again.measured(first.last.model_copy(update={"trial": outcome.number, "metrics": {"test/accuracy": 0.77}}))  # type: ignore[union-attr]
    again.set_state(outcome.number, TrialState.DONE, [0.7, 1.0])
    broken = record.start(first.config, first.parameters, finished.space)
    parted = {"trial": broken.number, "share": 0.5, "cost": {"accumulation_steps": 4.0}}
    record.measured(first.last.model_copy(update=parted))  # type: ignore[union-attr]
    record.set_state(broken.number, TrialState.FAILED, error="the loss is not finite")
    results_written(finished)

    status, out, err = distilsearch("show", finished.output, "--trial", 1)
    assert (status, err) == (0, "")
    for words in ("done, on the front", "88.9 % of the teacher", "validation/accuracy", "0.8", "seed", "99", "0.77"):
        assert words in out
    assert f"train it again: distilsearch run {finished.output}/best/trial-1.yaml" in out
    made = json.loads(distilsearch("show", finished.output, "--trial", 1, "--json")[1])
    assert (made["state"], made["standing"], made["objectives"]["accuracy"]) == ("done", "front", 0.8)
    assert made["again"][0]["metrics"] == {"test/accuracy": 0.77}
    assert made["measurements"][0]["share"] == 1
    _, out, _ = distilsearch("show", finished.output, "--trial", broken.number)
    assert "error: the loss is not finite" in out
    assert "its batches were trained in 4 parts" in out
    assert f"--trial {broken.number} --study > trial-{broken.number}.yaml" in out


def test_the_study_of_one_trial_is_one_that_runs(distilsearch: Run, finished: StudySpec, tmp_path: Path) -> None:
    status, out, err = distilsearch("show", finished.output, "--trial", 2, "--study")
    assert (status, err) == (0, "")
    (tmp_path / "two.yaml").write_text(out)
    spec = load_study(tmp_path / "two.yaml")
    assert spec.trial_seeds == (record_of(finished).outcomes()[2].config.seed,)
    assert spec.output == Path(f"{finished.output}.trial-2")
    assert distilsearch("show", finished.output, "--study")[0] == 2


def test_a_trial_that_is_not_there_is_2_with_the_range(distilsearch: Run, finished: StudySpec) -> None:
    status, out, err = distilsearch("show", finished.output, "--trial", 99)
    assert (status, out) == (2, "")
    assert f"--trial: {finished.output} has no trial 99; it has trials 0 to 2" in err


def test_what_is_no_study_is_one_message(distilsearch: Run, tmp_path: Path, finished: StudySpec) -> None:
    for command in ("show", "clean"):
        status, out, err = distilsearch(command, tmp_path / "none")
        assert (status, out) == (2, "")
        assert "holds no study.yaml, so it is no study's output" in err
    for content, words in (("name: a\n", "holds no resolved study"), ("[", "is not valid YAML"), ("\0", "YAML")):
        (finished.output / "study.yaml").write_text(content)
        for command in ("show", "clean", "front", "analyse", "export"):
            status, out, err = distilsearch(command, finished.output)
            assert (status, out) == (2, "")
            assert words in err
    shutil.rmtree(finished.output)
    claim_output(finished)
    for arguments in (["show", finished.output, "--trial", 0], ["clean", finished.output]):
        status, out, err = distilsearch(*arguments)
        assert (status, out) == (1, "")
        assert "holds no study yet" in err


# clean


def filled(spec: StudySpec) -> dict[str, Path]:
    """Files such as runs leave and forget, by what they are."""
    paths = {
        "front": spec.output / "trials" / "1" / "1.000" / "attempt-1" / "weights.safetensors",
        "delivered": spec.output / "trials" / "0" / "1.000" / "attempt-1" / "weights.safetensors",
        "beaten": spec.output / "trials" / "2" / "1.000" / "attempt-1" / "weights.safetensors",
        "unknown": spec.output / "trials" / "77" / "x",
        "waiting": spec.output / "trials" / "3" / "0.333" / "attempt-1" / "progress.pt",
        "ray": spec.output / ".ray" / "lanes-1" / "state.json",
        "half folder": spec.output / "best" / ".trial-1.123.writing" / "model.safetensors",
        "half file": spec.output / ".report.html.abcd_12x",
        "wandb cache": spec.output / "wandb" / "cache" / "artifacts" / "x",
        "wandb run": spec.output / "wandb" / "offline-run-1" / "run.wandb",
        "wandb data": spec.output / "wandb" / "data" / "staged",
        "model": spec.output / "best" / "trial-0" / "model.safetensors",
        "export": spec.output / "exports" / "trial-0" / "model.onnx",
        "teacher": spec.output / "teacher" / "model.safetensors",
    }
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    record = record_of(spec)
    record.keep("delivered", {"0": {"metrics": {}}, "1": {"metrics": {}}})
    first = record.outcomes()[0]
    waiting = record.start(first.config, first.parameters, spec.space, until=0.333)
    record.set_state(waiting.number, TrialState.WAITING)
    assert waiting.number == 3
    return paths


NEEDED = {"front", "waiting", "wandb run", "wandb data", "model", "export", "teacher"}


def test_clean_frees_what_nothing_needs_and_nothing_else(distilsearch: Run, finished: StudySpec) -> None:
    assert set(front_of(finished)) == {0, 1}
    paths = filled(finished)
    gc.collect()  # as above: the record that filled it is the last to close
    database = (finished.output / "study.db").read_bytes()
    status, out, err = distilsearch("clean", finished.output, "--dry-run")
    assert (status, err) == (0, "")
    assert all(path.is_file() for path in paths.values())
    assert "7.0 kB would be freed" in out
    status, out, _ = distilsearch("clean", finished.output, "--json")
    made = json.loads(out)
    assert (status, made["removed"], made["bytes"]) == (0, True, 7000)
    assert {name for name, path in paths.items() if path.is_file()} == NEEDED
    assert (finished.output / "study.db").read_bytes() == database
    status, out, _ = distilsearch("clean", finished.output)
    assert (status, out.startswith("0 B freed; what is left takes ")) == (0, True)


def test_clean_is_refused_while_the_study_runs(distilsearch: Run, finished: StudySpec) -> None:
    paths = filled(finished)
    record_of(finished).keep("lease", LEASE)
    for option in ([], ["--dry-run"]):
        status, out, err = distilsearch("clean", finished.output, *option)
        assert (status, out) == (2, "")
        assert "is being run by process 12 on elsewhere" in err
    assert all(path.is_file() for path in paths.values())


def test_what_lies_on_disk_is_told_by_part(finished: StudySpec) -> None:
    filled(finished)
    use = disk_use(finished.output)
    assert (use["checkpoints"], use["models"], use["tracking"], use["teacher"]) == (5000, 3000, 3000, 1000)
    assert {item.path.name for item in leftovers(finished.output)} == {
        ".ray", ".trial-1.123.writing", ".report.html.abcd_12x"
    }  # fmt: skip


# what they load, and disks that take no more


def test_looking_needs_neither_ray_nor_torch(finished: StudySpec) -> None:
    commands = (["list"], ["show"], ["show", "--trial", "1"], ["clean", "--dry-run"])
    code = "".join(COMMAND.format([name, str(finished.output), *options]) for name, *options in commands)
    assert loaded(code, HEAVY) == []


SMALL_DISK = """
import resource, sys
from search import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.argv = ["distilsearch", *{!r}]
cli.main()
"""


def test_a_disk_that_takes_no_more_is_one_message_and_no_half_file(finished: StudySpec) -> None:
    """A limit on the size of files, which fails a write in its midst as a full disk does."""
    results_written(finished)
    before = {
        path: path.read_bytes() for path in finished.output.rglob("*") if path.is_file() and "db" not in path.name
    }
    code = SMALL_DISK.format(["report", str(finished.output)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be" in done.stderr
    assert "File too large" in done.stderr or "study.db" in done.stderr
    assert "Traceback" not in done.stderr
    after = {path: path.read_bytes() for path in finished.output.rglob("*") if path.is_file() and "db" not in path.name}
    assert after == before


def test_a_folder_that_cannot_be_written_is_2(distilsearch: Run, study: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, out, err = distilsearch("run", study(), "--output", tmp_path / "file" / "run")
    assert (status, out) == (2, "")
    assert "cannot be written: " in err
    assert yaml.safe_load(study().read_text())
