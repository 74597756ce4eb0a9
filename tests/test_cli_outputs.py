"""Commands on a study's output: whose it is, what is read from it when it is finished, running or cut off, and what is tidied."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commands import Run

from search.record.record import Record, open_storage
from search.study.disk import leftovers
from search.study.extension import Extension, wish
from search.study.output import claim_output, spec_of
from spaces.errors import InputError
from spaces.study import StudySpec


def test_a_folder_that_holds_no_study_is_2(distilsearch: Run, tmp_path: Path) -> None:
    for command in ("front", "analyse", "report", "dashboard"):
        status, out, err = distilsearch(command, tmp_path)
        assert (status, out) == (2, "")
        assert "holds no study.yaml, so it is no study's output" in err
    assert list(tmp_path.iterdir()) == []


def test_the_output_of_another_study_is_refused(
    distilsearch: Run, study: Callable[..., Path], study_of: Callable[..., StudySpec]
) -> None:
    spec = study_of(name="other")
    claim_output(spec)
    before = (spec.output / "study.yaml").read_bytes()
    status, out, err = distilsearch("run", study())
    assert (status, out) == (2, "")
    assert "holds another study ('other')" in err
    assert (spec.output / "study.yaml").read_bytes() == before
    # what the search does not depend on may change
    claim_output(study_of(name="other", budget={"trials": 99}, resources={"lanes": 7}))
    with pytest.raises(InputError, match="holds another study"):
        claim_output(study_of(name="other", seed=1))


@pytest.mark.parametrize("text", ["[1, 2]", "study: 3", "fingerprint: x"])
def test_a_study_yaml_that_no_run_left_is_refused(text: str, study_of: Callable[..., StudySpec]) -> None:
    spec = study_of()
    spec.output.mkdir(parents=True)
    (spec.output / "study.yaml").write_text(text)
    with pytest.raises(InputError, match="holds no resolved study"):
        claim_output(spec)


def test_a_folder_of_other_things_is_not_written_into(
    distilsearch: Run, study: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    status, _, err = distilsearch("run", study(), "--output", tmp_path / "home")
    assert status == 2
    assert "is not empty and holds no study" in err
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_who_was_killed_while_claiming_an_output_claims_it_again(
    study_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """Before the first study.yaml had its name."""
    spec = study_of()
    code = (
        "import os, signal, sys; from spaces.yaml_io import write_whole\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(sys.argv[1], 'x')"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(spec.output / "study.yaml")])
    assert killed.returncode == -signal.SIGKILL
    (half,) = spec.output.iterdir()
    claim_output(spec)
    assert {path.name for path in spec.output.iterdir()} == {"study.yaml", half.name}
    assert [each.path for each in leftovers(spec.output)] == [half]


def test_a_study_that_is_being_run_is_refused(
    distilsearch: Run, study: Callable[..., Path], study_of: Callable[..., StudySpec]
) -> None:
    spec = study_of()
    claim_output(spec)
    record = Record(open_storage("sqlite", spec.output), spec.name, spec.objectives)
    record.keep("lease", {"host": "elsewhere", "pid": 12, "started": "1", "expires": 1e12})
    status, out, err = distilsearch("run", study())
    assert (status, out) == (2, "")
    assert "this study is being run by process 12 on elsewhere" in err


def front_of(spec: StudySpec) -> list[int]:
    from search.study.output import open_study

    return list(open_study(spec.output).front.trials)


def test_the_front_is_read_from_the_record(distilsearch: Run, finished: StudySpec) -> None:
    expected = front_of(finished)
    assert 1 in expected
    status, out, err = distilsearch("front", finished.output, "--json")
    assert (status, err) == (0, "")
    told = json.dumps(json.loads(out))
    assert all(f'"trial": {number}' in told for number in expected)
    status, out, err = distilsearch("front", finished.output)
    assert (status, err) == (0, "")
    assert "80" in out


def test_a_study_is_analysed_from_its_record(distilsearch: Run, finished: StudySpec) -> None:
    status, out, err = distilsearch("analyse", finished.output, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["knee"] in front_of(finished)
    assert [point["finished"] for point in found["course"]] == sorted(point["finished"] for point in found["course"])
    assert found["course"][-1]["finished"] == 3
    assert found["course"][-1]["hypervolume"] > 0
    status, out, err = distilsearch("analyse", finished.output)
    assert (status, err) == (0, "")
    assert "3 trials finished, and it takes 10." in out


def test_the_report_of_a_study_that_runs_or_was_cut_off_touches_nothing_else(
    distilsearch: Run, finished: StudySpec
) -> None:
    output = finished.output
    (output / "best" / "trial-99").mkdir(parents=True)  # the driver's, just being written
    status, out, _ = distilsearch("report", output)
    assert status == 0
    assert out.splitlines() == [str(output / name) for name in ("report.html", "front.csv")]
    assert "Trial 1" in (output / "report.html").read_text()
    assert [entry.name for entry in (output / "best").iterdir()] == ["trial-99"]
    record = Record(open_storage("sqlite", output), finished.name, finished.objectives)
    record.keep("finished", wish(finished))
    record.keep("lease", {"host": "elsewhere", "pid": 12, "started": "1", "expires": 1e12})
    assert distilsearch("report", output)[1] == out  # finished once, and extended now


def test_the_report_of_a_finished_study_writes_all_of_it_again(distilsearch: Run, finished: StudySpec) -> None:
    output = finished.output
    record = Record(open_storage("sqlite", output), finished.name, finished.objectives)
    record.keep("finished", wish(finished))
    (output / "best" / "trial-99").mkdir(parents=True)  # left by a front of yesterday
    status, out, _ = distilsearch("report", output)
    assert status == 0
    names = [f"best/trial-{number}.yaml" for number in front_of(finished)]
    assert out.splitlines() == [str(output / name) for name in ("report.html", "front.csv", *names)]
    assert all((output / name).is_file() for name in ("front.csv", "report.html", "best/knee.yaml", *names))
    assert not (output / "best" / "trial-99").exists()
    status, out, _ = distilsearch("plan", output / "best" / "trial-1.yaml", "--json")
    plan = json.loads(out)
    assert (status, plan["shapes"]) == (0, 1)
    assert plan["study"]["budget"]["trials"] == 1


def test_a_report_before_any_front_shows_the_trials_so_far(
    distilsearch: Run, study_of: Callable[..., StudySpec], finished: StudySpec
) -> None:
    spec = study_of(bounds={"accuracy": {"min": 0.99}}, search=finished.search.model_dump(mode="json", by_alias=True))
    for path in (finished.output / "study.yaml",):
        raw = yaml.safe_load(path.read_text())
        raw["study"]["bounds"] = spec.resolved()["bounds"]
        path.write_text(yaml.safe_dump(raw))
    status, _, _ = distilsearch("report", finished.output)
    text = (finished.output / "report.html").read_text()
    assert status == 0
    assert "there is no front to choose from" in text
    assert '"number":[0,1,2]' in text


def test_a_port_goes_with_watching_and_a_taken_one_is_2(distilsearch: Run, finished: StudySpec) -> None:
    status, out, err = distilsearch("report", finished.output, "--port", "8000")
    assert (status, out) == (2, "")
    assert "--port: goes with --watch" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for command in (["report", finished.output, "--watch"], ["dashboard", finished.output]):
            status, out, err = distilsearch(*command, "--port", taken.getsockname()[1])
            assert (status, out) == (2, "")
            assert "cannot be used: Address already in use" in err


def test_what_was_extended_is_done(distilsearch: Run, finished: StudySpec, tmp_path: Path) -> None:
    """For the plain command too, with the study file as it was: it asks for two trials, and there are three."""
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump({**finished.resolved(), "budget": {"trials": 2}}))
    extension = Extension(of=2, trials=3, begun=2, more=1)
    record = Record(open_storage("sqlite", finished.output), finished.name, finished.objectives)
    record.keep("more", extension.model_dump())
    record.keep("finished", wish(extension.applied(finished)))
    for number in front_of(finished):
        (finished.output / "best" / f"trial-{number}").mkdir(parents=True)
    status, out, err = distilsearch("run", path, "--json")
    assert status == 0
    assert "This study is done: nothing was left to do. `--more 50` extends it by 50 trials." in err
    assert json.loads(out)
    assert spec_of(finished.output).budget.trials == 3


@pytest.mark.parametrize("runs", [False, True])
def test_who_was_killed_between_the_end_and_tidying_is_tidied_after(
    distilsearch: Run, finished: StudySpec, tmp_path: Path, runs: bool
) -> None:
    path, left = tmp_path / "file.yaml", finished.output / ".ray"
    path.write_text(yaml.safe_dump(finished.resolved()))
    record = Record(open_storage("sqlite", finished.output), finished.name, finished.objectives)
    record.keep("finished", wish(finished))
    if runs:
        record.keep("lease", {"host": "elsewhere", "pid": 12, "started": "1", "expires": 1e12})
    for number in front_of(finished):
        (finished.output / "best" / f"trial-{number}").mkdir(parents=True)
    left.mkdir()
    status, _, err = distilsearch("run", path)
    assert (status, "nothing was left to do" in err) == (0, True)
    assert left.exists() == runs


def test_a_study_that_measured_nothing_yet_is_1(distilsearch: Run, study_of: Callable[..., StudySpec]) -> None:
    spec = study_of()
    claim_output(spec)
    status, _, err = distilsearch("front", spec.output)
    assert status == 1
    assert "holds no study yet" in err
    Record(open_storage("sqlite", spec.output), spec.name, spec.objectives)
    status, _, err = distilsearch("front", spec.output)
    assert status == 1
    assert "has measured nothing yet" in err
    status, _, err = distilsearch("report", spec.output)
    assert status == 1
    assert "has measured nothing yet" in err
    assert not (spec.output / "report.html").exists()
