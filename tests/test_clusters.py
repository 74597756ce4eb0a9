"""Every kind of place keeps the same promises: a job is submitted, looked at, stopped, continued and fetched. Real places."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run
from places import ROOT, TOKEN

from cluster import book, bundle
from cluster.arrive import SOURCE
from cluster.job import JobState
from cluster.launcher import LAUNCHERS, launcher_of
from cluster.profile import KINDS
from spaces.errors import InputError

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Place:
    """A profile's file, and the folder that takes outputs there."""

    profile: Path
    outputs: Path


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind that docs/clusters/adding-a-kind.md adds, and an `ssh` that goes nowhere."""
    page = (ROOT / "docs" / "clusters" / "adding-a-kind.md").read_text()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text('#!/bin/sh\nexec sh -c "$2"\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    module = types.ModuleType("ssh_of_the_page")
    exec(next(code for code in page.split("```python\n")[1:]).partition("```")[0], module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(KINDS, "ssh", module.SshProfile)
    monkeypatch.setitem(LAUNCHERS, "ssh", f"{module.__name__}:SshLauncher")


@pytest.fixture(params=["local", "ssh", pytest.param("ray-jobs", marks=pytest.mark.ray)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profile: dict[str, Any] = {"kind": request.param, "python": sys.executable, "output": str(tmp_path / "outputs")}
    if request.param == "ssh":
        request.getfixturevalue("ssh")
        profile["host"] = "there"
    if request.param == "ray-jobs":
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        profile |= {"address": request.getfixturevalue("one_node").address, "token_file": str(tmp_path / "token")}
    path = tmp_path / "profiles" / "there.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(profile))
    return Place(path, tmp_path / "outputs")


def told(distilsearch: Run, *arguments: object) -> dict[str, Any]:
    status, out, err = distilsearch(*arguments, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def state_after(distilsearch: Run, job: str, *over: str, seconds: float = 300) -> dict[str, Any]:
    """How it stands once it stands so."""
    deadline = time.monotonic() + seconds
    while (found := told(distilsearch, "status", job))["state"] not in over:
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
    return found


def test_a_dry_run_prints_all_that_would_be_sent_and_sends_nothing(
    place: Place, study: Callable[..., Path], distilsearch: Run
) -> None:
    status, out, _ = distilsearch("submit", study(), "--to", "there", "--dry-run", "--set", "training.epochs=7")
    assert status == 0
    for words in (
        "name: tiny",
        "epochs: 7",
        f"output: {place.outputs / 'tiny'}",
        '"policy": "refuse"',
        "cluster.arrive",
    ):
        assert words in out
    assert all(line.startswith("--- ") for line in out.splitlines() if "--- " in line)
    assert distilsearch("jobs")[2].startswith("No job was submitted from here")
    assert not place.outputs.exists()


def test_another_version_there_is_told_before_anything_runs(
    place: Place, study: Callable[..., Path], distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = bundle.versions()
    monkeypatch.setattr(bundle, "versions", lambda: {**ours, "ray": "1.0.0"})
    job = distilsearch("submit", study(), "--to", "there")[1].strip()
    assert job.startswith("tiny-")
    found = state_after(distilsearch, job, "failed")
    assert found["attempt"] == 1
    said = distilsearch("logs", job)[1]
    assert f"ray is {ours['ray']} here and 1.0.0 where the job was submitted" in said
    assert "nothing was run" in said
    assert not (place.outputs / "tiny" / "study.yaml").exists()
    status, _, err = distilsearch("stop", job)
    assert (status, "is over already: failed" in err) == (0, True)
    status, _, err = distilsearch("fetch", job, "--into", place.outputs.parent / "fetched")
    assert status == 1
    assert "holds no study yet" in err
    # again: the same job, its next attempt
    assert distilsearch("submit", study(), "--to", "there")[1].strip() == job
    assert state_after(distilsearch, job, "failed")["attempt"] == 2
    (listed,) = json.loads(distilsearch("jobs", "--json")[1])
    assert (listed["id"], listed["state"]) == (job, "failed")


@pytest.mark.parametrize(
    "place",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("local", "ssh")),
        pytest.param("ray-jobs", marks=pytest.mark.ray),
    ],
    indirect=True,
)
def test_a_job_is_stopped_and_two_do_not_write_one_output(
    place: Place, study: Callable[..., Path], distilsearch: Run
) -> None:
    path = study(training={"steps": 3000}, budget={"trials": 40}, resources={"lanes": 1})
    job = distilsearch("submit", path, "--to", "there")[1].strip()
    state_after(distilsearch, job, "running")
    status, _, err = distilsearch("submit", path, "--to", "there")
    assert status == 2
    assert f"{job} is running already, into {place.outputs / 'tiny'}" in err
    deadline = time.monotonic() + 300
    while "starting Ray" not in distilsearch("logs", job)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert distilsearch("stop", job)[0] == 0
    assert told(distilsearch, "status", job)["state"] == "stopped"
    handle = book.find(job)
    said = "".join(launcher_of(handle.profile).logs(handle, follow=True))  # which ends, since the job has
    assert "reading the data and the teacher" in said


def test_a_job_that_nobody_knows(
    place: Place, study: Callable[..., Path], distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = distilsearch("status", "tiny-000000")
    assert status == 2
    assert "there is no job 'tiny-000000'; none was submitted from here" in err
    monkeypatch.setattr(bundle, "versions", lambda: {"ray": "1.0.0"})
    job = distilsearch("submit", study(), "--to", "there")[1].strip()
    state_after(distilsearch, job, "failed")
    handle = book.find(job[:-2])
    elsewhere = {"submission": "nobodys-1", "folder": str(place.outputs / "gone"), "pid": "1", "began": "x"}
    forgotten = handle.model_copy(update={"reference": {**handle.reference, **elsewhere}})
    assert launcher_of(handle.profile).status(forgotten).state is JobState.LOST


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_is_stopped_continued_and_fetched(
    place: Place, study: Callable[..., Path], base_teacher: Path, distilsearch: Run
) -> None:
    """The teacher is trained: a study whose students are all better than theirs ends at once."""
    path = study(
        budget={"trials": 6}, training={"steps": 900}, resources={"lanes": 1}, confirm={"seeds": 1},
        teacher={"model": str(base_teacher), "fine_tune": {"epochs": 12, "learning_rate": 3e-3}},
    )  # fmt: skip
    job = distilsearch("submit", path, "--to", "there")[1].strip()
    deadline = time.monotonic() + 400
    while not ((found := told(distilsearch, "status", job))["standing"] or {}).get("done"):
        assert found["state"] in ("pending", "running"), distilsearch("logs", job)[1]
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    distilsearch("stop", job)
    before = told(distilsearch, "status", job)
    assert before["state"] == "stopped"
    assert distilsearch("submit", path, "--to", "there")[1].strip() == job
    after = state_after(distilsearch, job, "succeeded", "failed")
    assert after["state"] == "succeeded", distilsearch("logs", job)[1]
    assert after["standing"]["state"] == "finished"
    assert after["standing"]["done"] > before["standing"]["done"] >= 1
    fetched = path.parent / "fetched"
    assert distilsearch("fetch", job, "--into", fetched)[0] == 0
    assert (fetched / "report.html").is_file()
    assert not (fetched / "trials").exists()
    front = json.loads(distilsearch("front", fetched, "--json")[1])
    there = json.loads(distilsearch("front", place.outputs / "tiny", "--json")[1])
    assert front["rows"] == there["rows"]
    on_front = [row for row in front["rows"] if row["standing"] == "front"]
    assert on_front
    for row in on_front:
        assert (fetched / "best" / f"trial-{row['trial']}" / "model.safetensors").is_file()


# what is wrong, before anything is sent


def test_a_wrong_profile_says_what_its_kind_takes(
    tmp_path: Path, study: Callable[..., Path], distilsearch: Run
) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "lab.yaml").write_text("kind: ray-jobs\nadress: http://x:1\n")
    status, _, err = distilsearch("submit", study(), "--to", "lab")
    assert status == 2
    assert 'adress: unknown key; did you mean "address"?' in err
    assert "address: http://127.0.0.1:8265" in err  # with its default
    (profiles / "lab.yaml").write_text("kind: rayjobs\n")
    assert (
        "'rayjobs' is no kind of profile; did you mean \"ray-jobs\"?"
        in distilsearch("submit", study(), "--to", "lab")[2]
    )
    status, _, err = distilsearch("submit", study(), "--to", "labs")
    assert status == 2
    assert "there is no profile 'labs'; did you mean \"lab\"?" in err


def test_nobody_answers(tmp_path: Path, study: Callable[..., Path], distilsearch: Run) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "lab.yaml").write_text("kind: ray-jobs\naddress: http://127.0.0.1:9\noutput: /mnt/x\n")
    status, _, err = distilsearch("submit", study(), "--to", "lab")
    assert status == 2
    assert "address: http://127.0.0.1:9: nothing answers there" in err


def test_what_is_too_large_or_cannot_get_there_is_told_at_once(
    tmp_path: Path, study: Callable[..., Path], distilsearch: Run
) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "lab.yaml").write_text("kind: ray-jobs\noutput: /mnt/x\nupload_limit_mb: 0.01\n")
    path = study(search={"from": str(tmp_path)})
    status, _, err = distilsearch("submit", path, "--to", "lab", "--dry-run")
    assert status == 2
    assert "would be sent (inputs/teacher/model.safetensors" in err
    assert "search.from" in err  # both at once
    (profiles / "lab.yaml").write_text(f"kind: ray-jobs\noutput: /mnt/x\nshared: [{tmp_path.parent}]\n")
    status, out, err = distilsearch("submit", path, "--to", "lab", "--dry-run")
    assert status == 0, err
    assert "inputs/" not in out  # nothing is sent that the cluster sees
    (profiles / "lab.yaml").write_text("kind: ray-jobs\n")
    assert (
        "the cluster does not see this machine's folders" in distilsearch("submit", path, "--to", "lab", "--dry-run")[2]
    )


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "ray-jobs", "shared": ["/mnt/only-there"]},
        {"kind": "slurm", "shared": ["/mnt/only-there"]},
        {"kind": "kuberay", "image": "i", "volumes": [{"claim": "runs", "mount": "/mnt"}]},
    ],
    ids=lambda keys: keys["kind"],
)
def test_what_only_the_place_has_need_not_be_here(
    keys: dict[str, Any], tmp_path: Path, study: Callable[..., Path], distilsearch: Run
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "lab.yaml").write_text(yaml.safe_dump({"output": "/mnt/runs", **keys}))
    raw = yaml.safe_load(study().read_text())
    raw["data"] |= {split: f"/mnt/only-there/{split}.tsv" for split in bundle.SPLITS}
    raw["teacher"] = {"model": "/mnt/only-there/teacher"}
    path = tmp_path / "there.yaml"
    path.write_text(yaml.safe_dump(raw))
    status, out, err = distilsearch("submit", path, "--to", "lab", "--dry-run")
    assert status == 0, err
    assert out.count("/mnt/only-there/") == len(bundle.SPLITS) + 1
    assert "inputs/" not in out
    raw["data"]["test"] = "/elsewhere/test.tsv"  # which nobody said that the place has
    path.write_text(yaml.safe_dump(raw))
    status, _, err = distilsearch("submit", path, "--to", "lab", "--dry-run")
    assert status == 2
    assert "data.test: there is no file /elsewhere/test.tsv" in err
    assert "only-there" not in err


def test_the_same_bundle_is_the_same_bytes(tmp_path: Path, study_of: Callable[..., Any]) -> None:
    from cluster.profile import parse_profile

    spec = study_of()
    profile = parse_profile({"kind": "ray-jobs", "output": "/mnt/x"}, "lab")
    packed = []
    for name in ("a.zip", "b.zip"):
        job = bundle.make_job(spec, profile, sees_our_files=False)
        bundle.write_zip(tmp_path / name, bundle.contents(job))
        packed.append((tmp_path / name).read_bytes())
        for file in (Path(spec.data.train), Path(spec.teacher.model) / "config.json"):
            file.touch()  # another time, the same content
    assert packed[0] == packed[1]
    assert {file.name for file in job.files} >= {"inputs/train.tsv", "inputs/teacher/model.safetensors"}
    assert job.study["data"]["train"] == "inputs/train.tsv"
    again = yaml.safe_load(dict(bundle.contents(job))["study.yaml"])  # type: ignore[arg-type]
    assert again["output"] == "/mnt/x/tiny"


@pytest.mark.slow
def test_what_arrives_in_parts_is_kept_together_and_runs_from_there(tmp_path: Path) -> None:
    """As Ray lays it out: the study where the job begins, each other part where Python finds it."""
    job, data, code, kept = (tmp_path / name for name in ("job", "data", "code", "outputs/.jobs/tiny-1"))
    (data / "inputs").mkdir(parents=True)
    (code / "distilsearch-0.1.0+sent.dist-info").mkdir(parents=True)
    (code / "distilsearch-0.1.0+sent.dist-info" / "METADATA").write_text("Name: distilsearch\nVersion: 0.1.0+sent\n")
    for name in SOURCE:
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    job.mkdir()
    (job / "study.yaml").write_text("name: none\n")
    told = {"versions": {"distilsearch": "0.1.0"}, "policy": "refuse", "environment": {}, "secrets": {}}
    told |= {"keep_in": str(kept), "inputs": ["inputs/train.tsv"], "code_is_sent": True}
    (job / "job.json").write_text(json.dumps(told))

    def arrived(text: str) -> None:
        (data / "inputs" / "train.tsv").write_text(text)
        environment = {**os.environ, "PYTHONPATH": f"{data}{os.pathsep}{code}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "cluster.arrive", "."], cwd=job, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2  # the study is none
        assert "teacher: is missing" in done.stderr
        assert (kept / "inputs" / "train.tsv").read_text() == text

    arrived("one")
    (kept / "code" / "search" / "stale.py").write_text("")
    arrived("two")
    assert not (kept / "code" / "search" / "stale.py").exists()
    assert (kept / "code" / "search" / "cli" / "__init__.py").is_file()
    shutil.rmtree(kept)
    (code / "search" / "cli" / "__main__.py").write_text("import search; raise SystemExit(search.__file__)\n")
    done = subprocess.run(
        [sys.executable, "-m", "cluster.arrive", "."], cwd=job, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{data}{os.pathsep}{code}"},
    )  # fmt: skip
    assert done.stderr == f"{kept / 'code' / 'search' / '__init__.py'}\n"  # what runs is what was kept


def test_own_code_is_sent_a_file_once(tmp_path: Path, study_of: Callable[..., Any]) -> None:
    from cluster.profile import parse_profile

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "costs.py").write_text(
            "def one(outputs, labels): return 1\ndef two(outputs, labels): return 2\n"
        )
    metrics = {
        "one": "a/costs.py:one",
        "two": "a/costs.py:two",
        "other": "b/costs.py:one",
        "there": "/mnt/x/costs.py:one",
    }
    spec = study_of(metrics={name: str(tmp_path / path) for name, path in metrics.items()})
    profile = parse_profile({"kind": "ray-jobs", "output": "/mnt/x", "shared": ["/mnt/x"]}, "lab")
    job = bundle.make_job(spec, profile, sees_our_files=False)
    assert job.study["metrics"] == {
        "one": "inputs/code-1/costs.py:one",
        "two": "inputs/code-1/costs.py:two",
        "other": "inputs/code-2/costs.py:one",
        "there": "/mnt/x/costs.py:one",
    }
    names = [file.name for file in job.files]
    assert len(names) == len(set(names))
    assert {"inputs/code-1/costs.py", "inputs/code-2/costs.py"} <= set(names)


def test_nothing_is_launched_that_nobody_would_find_again_or_that_could_write_nothing(
    tmp_path: Path, study: Callable[..., Path], distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    status, _, err = distilsearch("submit", study())
    assert status == 2
    assert (
        f"{tmp_path / 'file' / 'distilsearch' / 'jobs'}: cannot be made: Not a directory; XDG_STATE_HOME names" in err
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    status, _, err = distilsearch("submit", study(output=str(tmp_path / "file" / "out")))
    assert status == 2
    assert f"output: {tmp_path / 'file'} is no folder that you may write to" in err
    assert book.known() == []
    assert not (tmp_path / "state" / "distilsearch" / "local").exists()


def test_a_secret_in_the_study_is_not_sent(study_of: Callable[..., Any]) -> None:
    from cluster.profile import LocalProfile

    spec = study_of(storage="postgresql://me:hunter2hunter2@db/studies")
    with pytest.raises(InputError, match="holds a secret") as refused:
        bundle.make_job(spec, LocalProfile(), sees_our_files=True)
    assert "hunter2" not in str(refused.value)
