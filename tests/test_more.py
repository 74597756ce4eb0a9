"""`run --more`: what it adds, what the record keeps of it, and that nothing of it is lost or undone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_search import a_point, a_spec, reopened
from whole_study import DRIVER, NUM_TRIALS, Ran, environment, record_of

from search.record.record import Record
from search.study.extension import Extension, is_finished, wish
from search.study.output import spec_of
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.trial import TrialState


def with_trials(folder: Path, count: int) -> Record:
    record = reopened(folder)
    while record.next_number() < count:
        config, parameters = a_point(0)
        record.start(config, parameters, a_spec().space)
    return record


def extended(spec: StudySpec, record: Record, more: int | None = None) -> StudySpec:
    """As a run does it: what is asked for is kept."""
    extension = Extension.of_study(spec, record, more)
    if extension.more:
        record.keep("more", extension.model_dump())
    return extension.applied(spec)


def test_a_finished_study_is_extended_and_extended_again(tmp_path: Path) -> None:
    spec, record = a_spec(tmp_path, budget={"trials": 4, "minutes": 9}), with_trials(tmp_path, 4)
    record.keep("finished", wish(spec))
    assert is_finished(extended(spec, record), record)
    longer = extended(spec, record, more=3)
    assert longer.budget.trials == 7
    assert longer.budget.minutes == 9
    assert not is_finished(longer, record)
    assert Extension.of_study(spec, record).begun == 4
    record = with_trials(tmp_path, 7)
    record.keep("finished", wish(longer))
    assert extended(spec, record) == longer  # the plain command goes as far, and is done
    assert is_finished(extended(spec, record), record)
    assert extended(spec, record, more=3).budget.trials == 10


def test_cut_off_the_same_command_goes_on_and_so_does_the_plain_one(tmp_path: Path) -> None:
    spec, record = a_spec(tmp_path, budget={"trials": 4}), with_trials(tmp_path, 4)
    record.keep("finished", wish(spec))
    extended(spec, record, more=3)
    record = with_trials(tmp_path, 6)  # and killed
    assert extended(spec, record, more=3).budget.trials == 7
    assert extended(spec, record).budget.trials == 7
    assert not is_finished(extended(spec, record), record)
    assert extended(spec, record, more=5).budget.trials == 11  # another number is another wish


def test_without_a_trial_there_is_nothing_to_extend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no trial to go on from; run the study without --more first"):
        Extension.of_study(a_spec(tmp_path), reopened(tmp_path), 5)


def test_an_unfinished_study_loses_nothing_by_it(tmp_path: Path) -> None:
    spec, record = a_spec(tmp_path, budget={"trials": 9}), with_trials(tmp_path, 2)
    assert extended(spec, record, more=3).budget.trials == 9  # 2 and 3 are fewer than the file asks for
    assert extended(spec, record, more=20).budget.trials == 22


def test_another_number_in_the_file_is_meant(tmp_path: Path) -> None:
    spec, record = a_spec(tmp_path, budget={"trials": 4}), with_trials(tmp_path, 4)
    record.keep("finished", wish(spec))
    extended(spec, record, more=3)
    assert extended(a_spec(tmp_path, budget={"trials": 5}), record).budget.trials == 5
    assert extended(spec, record).budget.trials == 7


def test_a_study_that_an_older_version_finished_is_finished(tmp_path: Path) -> None:
    spec, record = a_spec(tmp_path, budget={"trials": 4}), with_trials(tmp_path, 4)
    assert not is_finished(spec, record)
    record.keep("finished", '[{"trials": 4, "minutes": null}, {"seeds": 3, "without_distillation": "all"}]')
    assert is_finished(spec, record)
    assert not is_finished(a_spec(tmp_path, budget={"trials": 4, "flat": {"trials": 3}}), record)


# on real lanes


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_finished_study_goes_on_where_it_stood(ran: Ran, tmp_path: Path) -> None:
    """A copy of it, in another place."""
    output, path = tmp_path / "run", tmp_path / "study.yaml"
    shutil.copytree(ran.output, output)
    path.write_text(json.dumps({**json.loads(ran.path.read_text()), "output": str(output), "tracking": "none"}))

    def run(*more: str) -> str:
        command = [sys.executable, "-c", DRIVER, "run", str(path), *more]
        done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def trained() -> list[str]:
        lines = (tmp_path / "log.txt").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("trial ")]

    told = run("--more", "2")
    assert f"continuing: {NUM_TRIALS - 1} of {NUM_TRIALS + 2} trials are done" in told
    assert f"no more trials: all {NUM_TRIALS + 2} trials were begun" in told
    after, attempts = record_of(output)
    new = [NUM_TRIALS, NUM_TRIALS + 1]
    assert list(after) == [*ran.after, *new]
    assert {number: after[number] for number in ran.after} == ran.after
    assert all(after[number].state is TrialState.DONE and after[number].train_tokens for number in new)
    assert attempts == {**ran.attempts, **dict.fromkeys(new, 1)}
    assert trained() == list(map(str, new))
    best = sorted(path.name for path in (output / "best").iterdir())
    assert "This study is done" in run()
    assert record_of(output)[0] == after
    assert trained() == list(map(str, new))
    assert sorted(path.name for path in (output / "best").iterdir()) == best
    assert spec_of(output).budget.trials == NUM_TRIALS + 2
    assert os.listdir(output / "trials")
