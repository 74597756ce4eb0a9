"""The command line: one message and an exit status for everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run

from search import cli
from search.record.record import Record, open_storage
from search.study.disk import leftovers
from search.study.extension import Extension, wish
from search.study.output import claim_output, spec_of
from spaces.errors import InputError, StudyError
from spaces.study import StudySpec

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
)
# help and schema


def test_every_command_explains_itself(distilsearch: Run) -> None:
    assert {
        "run",
        "plan",
        "front",
        "analyse",
        "report",
        "export",
        "schema",
        "list",
        "show",
        "clean",
        "track",
        "dashboard",
    } <= set(COMMANDS)
    status, everything, _ = distilsearch("--help")
    assert status == 0
    for command in COMMANDS:
        assert command in everything
        status, out, err = distilsearch(command, "--help")
        assert (status, err) == (0, "")
        assert f"$ distilsearch {command}" in out  # an example


def test_the_schema_is_one(distilsearch: Run, study: Callable[..., Path]) -> None:
    import jsonschema

    status, out, _ = distilsearch("schema")
    schema = json.loads(out)
    assert status == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"name": "a", "data": {"builtin": "docstrings"}, "teacher": "some/model"}, schema)
    jsonschema.validate(yaml.safe_load(study().read_text()) | {"tracking": {"wandb": "none"}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="teacher"):
        jsonschema.validate({"name": "a", "data": {"builtin": "docstrings"}}, schema)


# bad input


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        ("", "is no study"),
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b\n", "key 'name' stands there twice"),
        ("nam: a\ndata: {builtin: docstrings}\nteacher: x/y\n", 'unknown key; did you mean "name"?'),
        ("name: a\ndata: {train: none.tsv}\nteacher: x/y\n", "data.train: there is no file"),
        ("kind: distilsearch/best-config\nschema_version: 9\n", "schema_version"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_bad_file_is_2_and_one_message(
    distilsearch: Run, tmp_path: Path, command: str, content: str | None, words: str
) -> None:
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    status, out, err = distilsearch(command, path)
    assert (status, out) == (2, "")
    assert words in err
    assert all(line.startswith(str(path)) for line in err.strip().splitlines())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == (["study.yaml"] if content is not None else [])


def test_a_command_line_that_makes_no_sense_is_2(distilsearch: Run, study: Callable[..., Path], tmp_path: Path) -> None:
    for arguments in (["run"], ["run", study(), "--trails", "3"], ["rnu"], ["run", study(), "--trials", "0"]):
        status, out, err = distilsearch(*arguments)
        assert (status, out) == (2, "")
        assert "Usage: " in err
    for minutes in ("0", "nan", "-1"):
        status, _, err = distilsearch("run", study(), "--minutes", minutes)
        assert status == 2
        assert "is not allowed; write a number above 0" in err
    status, _, err = distilsearch("plan", study(), "--data", tmp_path / "none")
    assert status == 2
    assert "holds no train file" in err


def test_more_goes_with_no_other_number_and_not_without_a_study(
    distilsearch: Run, study: Callable[..., Path], tmp_path: Path
) -> None:
    for option in (["--trials", "9"], ["--minutes", "2"]):
        status, out, err = distilsearch("run", study(), "--more", "5", *option)
        assert (status, out) == (2, "")
        assert err.startswith("--more: goes with neither --trials nor --minutes")
    assert distilsearch("run", study(), "--more", "0")[0] == 2
    status, out, err = distilsearch("run", study(), "--more", "5")
    assert (status, out) == (2, "")
    assert "holds no trial to go on from; run the study without --more first" in err
    assert not (tmp_path / "run").exists()


def test_a_budget_that_pays_for_no_trial_is_2(distilsearch: Run, study: Callable[..., Path]) -> None:
    path = study(budget={"training_tokens": 100})
    for command in ("run", "plan"):
        status, out, err = distilsearch(command, path)
        assert (status, out) == (2, "")
        assert "budget: training_tokens: 100 do not pay for one trial, which takes " in err


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


def test_bad_data_and_teacher_are_2_and_told_together(distilsearch: Run, study: Callable[..., Path]) -> None:
    path = study()
    raw = yaml.safe_load(path.read_text())
    (path.parent / "one.tsv").write_text("text\tlabel\na\t0\n\t0\n")
    raw |= {"data": {"train": "one.tsv"}, "teacher": {"model": "/no/such/teacher"}}
    path.write_text(yaml.safe_dump(raw))
    status, out, err = distilsearch("plan", path)
    assert (status, out) == (2, "")
    assert "data.train: row 2 (after the header) has an empty text" in err
    assert "teacher.model: there is no folder /no/such/teacher" in err


def test_a_folder_to_begin_from_that_holds_no_study_is_2(
    distilsearch: Run, study: Callable[..., Path], study_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """And the output is not claimed, so that the right folder may follow."""
    for command in ("run", "plan"):
        status, out, err = distilsearch(command, study(), "--from", tmp_path / "none")
        assert (status, out) == (2, "")
        assert err.strip().splitlines()[-1].startswith("search.from: no study can be taken over from ")
        assert "holds no study.yaml" in err
    status, _, err = distilsearch("run", study(), "--from", study_of().output)
    assert status == 2
    assert "is this study's own output" in err
    assert not study_of().output.exists()


def test_more_than_the_cluster_can_ever_give_is_2(distilsearch: Run, study: Callable[..., Path]) -> None:
    status, out, err = distilsearch("plan", study(resources={"workers_per_lane": 999}))
    assert (status, out) == (2, "")
    assert "resources" in err
    assert "999" in err


def test_a_space_without_a_student_is_2(distilsearch: Run, study: Callable[..., Path]) -> None:
    status, _, err = distilsearch("run", study(bounds={"parameters": {"max": 10}}))
    assert status == 2
    assert "no student is within the bounds" in err


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


# what guards the command


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError.of("study.yaml", "is [bold]wrong[/bold]", "a.b"), 2, "study.yaml: a.b: is [bold]wrong[/bold]"),
        (StudyError("no lane lives"), 1, "no lane lives"),
        (KeyboardInterrupt(), 130, "run the same command again to continue: distilsearch run 'my study.yaml'"),
        (
            OSError(28, "No space left on device", "front.csv"),
            1,
            "front.csv: cannot be written: No space left on device.",
        ),
    ],
)
def test_errors_become_one_message_and_a_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["distilsearch", "run", "my study.yaml"])

    def command() -> None:
        raise error

    assert cli.guarded(command) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().replace("\n", "").count(words) == 1


def test_our_own_bugs_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.guarded(lambda: 1 / 0)
    assert cli.guarded(lambda: None) == 0


def test_a_closed_pipe_is_no_failure() -> None:
    code = "from search.cli import main; import sys; sys.argv = ['distilsearch', 'schema']; main()"
    shell = f'{sys.executable} -c "{code}" | head -c 10; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("0")
    assert done.stderr == ""


# what needs no training


def test_a_plan_says_what_would_be_done(distilsearch: Run, study: Callable[..., Path], tmp_path: Path) -> None:
    path = study(storage="postgresql://me:geheim@host/db", budget={"trials": 5, "minutes": 2})
    status, out, _ = distilsearch("plan", path, "--json")
    made = json.loads(out)
    assert status == 0
    assert made["parameters"]["smallest"] < made["parameters"]["largest"] < 2 * made["parameters"]["teacher"]
    assert made["shapes"] > 10
    assert made["lanes"] >= 1
    assert all(seconds >= 0 for seconds in made["estimated_seconds"].values())
    assert "geheim" not in out
    status, out, _ = distilsearch("plan", path)
    assert status == 0
    assert "search of 5 trials" in out
    assert "of the budget of 2 minutes" in out
    assert "geheim" not in out
    assert not (tmp_path / "run").exists()


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


def test_a_dashboard_that_is_not_installed_is_2(
    distilsearch: Run, finished: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    status, out, err = distilsearch("dashboard", finished.output)
    assert (status, out) == (2, "")
    assert "pip install 'distilsearch[dashboard]'" in err


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


# Ctrl-C, help, completion


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Typer turns it into an exit of its own, without a word."""

    def interrupted(**settings: Any) -> None:
        raise SystemExit(130)

    monkeypatch.setattr("search.cli.app", interrupted)
    monkeypatch.setattr(
        sys, "argv", ["distilsearch", "run", "docstrings", "--set", "storage=postgresql://me:geheim@h/d"]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    told = capsys.readouterr().err
    assert "run the same command again to continue" in told
    assert "geheim" not in told


def test_help_begins_with_the_three_commands_that_matter(distilsearch: Run) -> None:
    out = distilsearch("--help")[1]
    first = [
        out.index(f"distilsearch {command}")
        for command in ("plan docstrings", "run docstrings", "front runs/docstrings")
    ]
    assert first == sorted(first)
    assert first[-1] < out.index("Options")
    for heading in cli.COMMANDS:
        assert f"─ {heading} ─" in out


BASH = """
eval "$(_DISTILSEARCH_COMPLETE=source_bash distilsearch)"
complete -p distilsearch
complete_words() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _distilsearch_completion distilsearch; echo "${{COMPREPLY[@]}}"; }}
{}
"""
COMPLETED = {
    "run ss": "sst2 sst2-quick",
    "run st": "stsb stsb-embeddings study.yaml",
    "plan runs/one/best/t": "runs/one/best/trial-7.yaml",
    "front runs/": "runs/one/",  # the output, and not the folder of other things beside it
    "run study.yaml --ou": "--output",
}


def test_bash_completes_commands_studies_and_outputs(tmp_path: Path) -> None:
    for name in ("runs/one/study.yaml", "runs/one/best/trial-7.yaml", "runs/other/notes.txt", "study.yaml", "data.tsv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    command = tmp_path / "bin" / "distilsearch"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom search.cli import main\nmain()\n")
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(cli.__file__).parent.parent.parent),
    }
    script = BASH.format("\n".join(f"complete_words distilsearch {words}" for words in COMPLETED))
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    registered, *found = done.stdout.splitlines()
    assert registered == "complete -o default -F _distilsearch_completion distilsearch"
    assert dict(zip(COMPLETED, found, strict=True)) == COMPLETED, done.stderr
