"""The command line: one message and an exit status for everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run

from search import cli
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


def test_a_dashboard_that_is_not_installed_is_2(
    distilsearch: Run, finished: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    status, out, err = distilsearch("dashboard", finished.output)
    assert (status, out) == (2, "")
    assert "pip install 'distilsearch[dashboard]'" in err


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
