"""The command line in tests: `distilsearch` runs it here, `told` in a process of its own; `study` writes study files, `finished`
is a study that ran."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.record.record import Record, open_storage
from spaces.student import TeacherShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialState

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def distilsearch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: (exit status, stdout, stderr)."""
    from search import cli

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distilsearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., str]:
    """The command in a process of its own, with a home of its own; what it printed, once it ended well."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "HOME": str(tmp_path / "home")}

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def study(study_of: Callable[..., StudySpec], tmp_path: Path) -> Callable[..., Path]:
    """A maker of study files on the tiny task."""

    def write(file: str = "study.yaml", **changes: Any) -> Path:
        path = tmp_path / file
        path.write_text(yaml.safe_dump(study_of(**changes).resolved()))
        return path

    return write


TEACHER = TeacherShape(
    model_type="bert", depth=3, hidden_size=32, num_heads=4, intermediate_size=64, vocabulary_size=140,
    max_positions=48, type_vocabulary_size=2, num_labels=3, num_parameters=50_000,
)  # fmt: skip


@pytest.fixture
def finished(study_of: Callable[..., StudySpec]) -> StudySpec:
    """A study with three trials in its record, as a run leaves it; the third is dominated."""
    return finish(study_of(search=THREE))


THREE = {"first": [{"family": "bert", "depth": depth} for depth in (1, 2, 3)]}


def finish(spec: StudySpec) -> StudySpec:
    from search.study.output import claim_output, open_record
    from search.study.searcher import trial_config
    from search.suggest.sampling import Sampling

    claim_output(spec)
    record, _ = open_record(spec)
    sampling = Sampling(spec, TEACHER, {"full": 140, "used": 120}, {})
    for number, accuracy in enumerate((0.5, 0.8, 0.4)):
        parameters, shape = sampling.suggest([], number)
        outcome = record.start(trial_config(spec, parameters, shape, 3, number), parameters, spec.space)
        metrics = {"validation/accuracy": accuracy, "validation/macro_f1": accuracy}
        record.measured(Measurement(trial=number, attempt=1, step=3, share=1.0, metrics=metrics))
        record.set_state(number, TrialState.DONE, [accuracy, float(outcome.config.shape.num_parameters)])
    scores = {"validation/accuracy": 0.9, "test/accuracy": 0.9}
    teacher = {"name": "teacher", "label": "teacher", "num_parameters": 50_000, "num_bytes": 200_000, "metrics": scores}
    record.keep("references", [teacher])
    return spec


def record_of(spec: StudySpec) -> Record:
    return Record(open_storage(spec.storage, spec.output), spec.name, spec.objectives)


def results_written(spec: StudySpec) -> Any:
    """The results of a study with that record, with all the files that a run writes at its end."""
    from search.study.output import from_record, records_of, write_results

    record, again = records_of(spec, spec.output)
    result = from_record(spec, record, again)
    write_results(result, record, again.outcomes())
    return result
