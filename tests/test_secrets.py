"""Secrets are in nothing that leaves the process: resolved studies, errors, reports, job descriptions. What W&B is sent and what a
database says are tests/test_tracking.py's and tests/test_postgres.py's; a whole run's output is tests/test_study.py's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run

from cluster.job import JobHandle
from cluster.profile import LocalProfile, parse_profile
from search.cli import guarded
from search.results.report import report_page
from search.study.live import LiveReport
from search.study.output import claim_output, open_study, records_of, reported, spec_of
from spaces.errors import InputError, StudyError
from spaces.study import StudySpec

PASSWORD, TOKEN, KEY = "hunter2/hunter2@", "hf_" + "Qx7" * 11, "0123456789abcdef" * 2
URL = f"postgresql://me:{PASSWORD}@db/studies"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def has_secret(text: str) -> bool:
    return any(secret in text for secret in (PASSWORD, "hunter2", TOKEN, KEY))


def test_a_resolved_study_and_who_looks_at_it(
    study_of: Callable[..., StudySpec], distilsearch: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = study_of(storage=URL, teacher=f"owner/{TOKEN}")
    claim_output(spec)
    text = (spec.output / "study.yaml").read_text()
    assert "postgresql://me:***@db/studies" in text
    assert not has_secret(text)
    told = yaml.safe_load(text)["study"]
    assert told["teacher"]["model"] == "owner/***"
    status, out, err = distilsearch("list", spec.output.parent, "--json")
    assert status == 0
    assert not has_secret(out + err)
    with pytest.raises(InputError, match="another study") as refused:
        claim_output(study_of(storage=URL, teacher=f"owner/{TOKEN}", seed=5))
    assert not has_secret(str(refused.value))


@pytest.mark.parametrize(
    "error",
    [
        StudyError(f"no answer from {URL}"),
        InputError.of("storage", f"{TOKEN} and {KEY} are refused"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_command_line_says_of_an_error(
    error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["distilsearch", "run", "x.yaml", "--set", f"storage={URL}"])

    def command() -> None:
        raise error

    assert guarded(command) in (1, 2, 130)
    said = capsys.readouterr().err
    assert "***" in said
    assert not has_secret(said)


def test_the_report_and_its_server(finished: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    record, again = records_of(spec_of(finished.output), finished.output)
    told = reported(open_study(finished.output), record, again.outcomes())
    assert not has_secret(report_page(**{**told, "spec": told["spec"].model_copy(update={"storage": URL})}))
    served = LiveReport(finished.output)

    def refuses() -> Any:
        raise StudyError(f"{URL} <does not answer>")

    monkeypatch.setattr(served, "_look", refuses)
    assert "postgresql://me:***@db/studies &lt;does not answer&gt;" in served.page()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"kind": "local", "environment": {"WANDB_API_KEY": "x"}}, "secrets: {WANDB_API_KEY: FILE}"),
        ({"kind": "slurm", "environment": {"DATABASE": URL}}, "DATABASE looks like a secret"),
        ({"kind": "ray-jobs", "environment": {"MORE": f"a {TOKEN}"}}, "MORE looks like a secret"),
        ({"kind": "ray-jobs", "headers": {"Authorization": f"Bearer {KEY}"}}, "write it as $NAME"),
        ({"kind": "ray-jobs", "address": "https://me:hunter2@ray"}, "it holds a password"),
    ],
    ids=str,
)
def test_a_profile_with_a_secret_is_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_profile(raw, "lab.yaml")
    assert words in str(refused.value)
    assert not has_secret(str(refused.value))


def test_what_is_kept_of_a_job_names_secrets_alone(tmp_path: Path) -> None:
    profile = parse_profile(
        {"kind": "ray-jobs", "headers": {"Authorization": "Bearer $WANDB_API_KEY"}, "secrets": {"HF_TOKEN": "/run/hf"}},
        "x",
    )
    kept = JobHandle(
        id="a-1",
        study="a",
        output="/o",
        profile_name="x",
        profile=profile,
        submitted_at=time.time(),
        reference={},  # type: ignore[arg-type]
    ).model_dump_json()
    assert "$WANDB_API_KEY" in kept
    assert "/run/hf" in kept
    assert not has_secret(kept)
    assert LocalProfile(
        environment={"HF_HOME": "/a b", "NCCL_DEBUG": "INFO", "TOKENIZERS_PARALLELISM": "false"}
    ).environment
