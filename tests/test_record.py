"""What is kept and who may write it: the record and the lease."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState as OptunaState
from small_search import Clock, a_point, a_spec, reopened

from search.record.lease import Lease
from search.record.record import Record, distribution, existing_record, open_storage, storage_url
from spaces.errors import InputError, StudyError
from spaces.parameters import Choice, FloatRange, IntRange
from spaces.trial import Measurement, TrialState

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return reopened(tmp_path)


def measurement(trial: int, share: float = 1.0, accuracy: float = 0.75) -> Measurement:
    return Measurement(trial=trial, attempt=2, step=6, share=share, metrics={"validation/accuracy": accuracy})


def test_a_trial_comes_back_as_it_was(record: Record, tmp_path: Path) -> None:
    config, parameters = a_point()
    outcome = record.start(config, parameters, a_spec().space, {"kind": "confirm", "of": "3"})
    record.measured(measurement(0, share=1 / 3, accuracy=0.5))
    record.measured(measurement(0))
    record.set_attempt(0, 2)
    assert outcome.number == 0
    assert record.next_number() == 1
    again = reopened(tmp_path)
    (found,) = again.outcomes()
    assert found == outcome.model_copy(update={"measurements": (measurement(0, 1 / 3, 0.5), measurement(0))})
    assert found.config == config
    assert again.attempts() == {0: 2}
    assert again.next_number() == 1


def test_our_word_and_optunas_state_stand_side_by_side(record: Record, tmp_path: Path) -> None:
    expected = {
        TrialState.RUNNING: OptunaState.RUNNING,
        TrialState.WAITING: OptunaState.RUNNING,
        TrialState.PROMOTED: OptunaState.RUNNING,
        TrialState.ENDED: OptunaState.PRUNED,
        TrialState.FAILED: OptunaState.FAIL,
        TrialState.DONE: OptunaState.COMPLETE,
    }
    assert set(expected) == set(TrialState)
    for number, state in enumerate(expected):
        record.start(*a_point(number), a_spec().space)
        record.measured(measurement(number))
        values = [0.75, 1000.0] if state is TrialState.DONE else None
        record.set_state(number, state, values, error="no luck" if state is TrialState.FAILED else "")
    outcomes = reopened(tmp_path).outcomes()
    assert [outcome.state for outcome in outcomes] == list(expected)
    assert [outcome.error for outcome in outcomes if outcome.error] == ["no luck"]
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.state for trial in study.trials] == list(expected.values())
    assert [trial.values for trial in study.best_trials] == [[0.75, 1000.0]]
    assert study.metric_names == ["accuracy", "parameters"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial, outcome in zip(study.trials, outcomes, strict=True):
        searched = {name: outcome.parameters[name] for name in trial.params}
        assert trial.params == searched
        assert "batch_size" not in trial.params  # one value is no choice
        assert ("num_hidden_groups" in trial.params) == (outcome.parameters["family"] == "albert")


def test_a_measurement_told_twice_is_kept_once(record: Record) -> None:
    record.start(*a_point(), a_spec().space)
    for _ in range(2):
        record.measured(measurement(0))
    (outcome,) = record.outcomes()
    assert outcome.measurements == (measurement(0),)


def test_what_was_cut_off_comes_back_running(record: Record, tmp_path: Path) -> None:
    record.start(*a_point(), a_spec().space)
    storage = open_storage("sqlite", tmp_path)
    (trial,) = storage.get_all_trials(storage.get_study_id_from_name("tiny"))
    storage.set_trial_user_attr(trial._trial_id, "state", "done")  # our word is written; Optuna's is not
    assert reopened(tmp_path).outcomes()[0].state is TrialState.RUNNING


def test_a_finished_trial_stays_finished(record: Record) -> None:
    record.start(*a_point(), a_spec().space)
    record.set_state(0, TrialState.FAILED, error="first")
    record.set_state(0, TrialState.DONE, [0.5, 1.0])
    record.set_state(0, TrialState.RUNNING)
    assert (record.outcomes()[0].state, record.outcomes()[0].error) == (TrialState.FAILED, "first")


def test_facts_and_two_studies_in_one_storage(record: Record, tmp_path: Path) -> None:
    other = reopened(tmp_path, "tiny.confirm")
    record.keep("floors", {"ngrams": [1, None, "x"]})
    record.start(*a_point(), a_spec().space)
    assert reopened(tmp_path).fact("floors") == {"ngrams": [1, None, "x"]}
    record.keep("floors", 2)
    assert record.fact("floors") == 2
    assert other.fact("floors") is None
    assert other.outcomes() == []
    assert record.fact("never kept") is None


def test_a_storage_that_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="storage: cannot be opened"):
        open_storage("sqlite:////proc/no/such/folder.db", tmp_path)
    with pytest.raises(InputError, match="storage: cannot be opened"):
        open_storage("nonsense", tmp_path)
    (tmp_path / "there" / "study.db").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"study\.db cannot be opened: unable to open .*run again"):
        open_storage("sqlite", tmp_path / "there")
    shutil.rmtree(tmp_path / "there")
    with pytest.raises(StudyError, match="holds no study yet"):
        existing_record("sqlite", tmp_path, "tiny", a_spec().objectives)
    assert list(tmp_path.iterdir()) == []  # looking made nothing


@given(st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_distributions_include_both_bounds(low: int, more: int, log: bool) -> None:
    whole = distribution(IntRange(low=low, high=low + more, log=log))
    real = distribution(FloatRange(low=low, high=low + more, log=log))
    assert (whole.low, whole.high, real.low, real.high) == (low, low + more, low, low + more)
    stepped = distribution(IntRange(low=low, high=low + 3 * more, step=3))
    assert (stepped.high, stepped.step) == (low + 3 * more, 3)
    assert distribution(Choice(values=("a", 1, 2.5))).choices == ("a", 1, 2.5)


# the lease


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def test_a_second_driver_is_refused_and_the_name_of_the_first_is_told(record: Record, tmp_path: Path) -> None:
    with Lease(record, Clock()):
        with pytest.raises(InputError) as caught:
            Lease(reopened(tmp_path), Clock()).__enter__()
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
        assert "expires in 60 s" in str(caught.value)
    with Lease(reopened(tmp_path), Clock()):  # given back at the end
        assert record.fact("lease")["pid"] == os.getpid()
    assert record.fact("lease") is None


def holder(**changes: Any) -> dict[str, Any]:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), "expires": 1060.0}
    return {**own, **changes}


def test_the_lease_of_a_dead_process_is_taken_over(record: Record) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    record.keep("lease", holder(pid=process.pid, started="1"))
    with Lease(record, Clock()):
        assert record.fact("lease")["pid"] == os.getpid()


def test_the_lease_of_a_reused_process_id_is_taken_over(record: Record) -> None:
    record.keep("lease", holder(started="1"))
    with Lease(record, Clock()):
        assert record.fact("lease")["started"] == started(os.getpid())


def test_a_lease_from_another_host_holds_until_it_expires(record: Record) -> None:
    record.keep("lease", holder(host="elsewhere"))
    with pytest.raises(InputError, match="on elsewhere"):
        Lease(record, Clock(1059.0)).__enter__()
    with Lease(record, Clock(1061.0)):
        assert record.fact("lease")["expires"] == 1061.0 + 60


def test_a_lease_is_renewed_while_its_driver_lives(record: Record) -> None:
    clock = Clock()
    with Lease(record, clock, seconds=0.2):
        clock.now = 2000.0
        for _ in range(6000):  # a minute where the machine is slow, in practice a twentieth of a second
            if record.fact("lease")["expires"] == 2000.2:
                break
            time.sleep(0.01)
        assert record.fact("lease")["expires"] == 2000.2


def test_a_password_that_study_yaml_does_not_keep_is_left_to_the_database(tmp_path: Path) -> None:
    assert storage_url("postgresql://me:***@db/studies", tmp_path) == "postgresql://me@db/studies"
    assert storage_url("postgresql://me:pw@db/studies", tmp_path) == "postgresql://me:pw@db/studies"
    with pytest.raises(InputError) as refused:
        open_storage("nonsense://me:hunter2@db/studies", tmp_path)
    assert "hunter2" not in str(refused.value)


def test_whoever_looks_makes_no_tables(tmp_path: Path) -> None:
    """Between a driver's first table and its last a look would make the rest, and the driver would find them there."""
    for made in ("", "CREATE TABLE studies (n INT)", "CREATE TABLE alembic_version (version_num TEXT)"):
        path = tmp_path / "study.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(made)
            connection.commit()
        before = path.read_bytes()
        with pytest.raises(StudyError, match="holds no study yet"):
            existing_record("sqlite", tmp_path, "tiny", {"accuracy": "maximize"})
        assert path.read_bytes() == before


@pytest.mark.slow
def test_drivers_that_begin_at_once_all_open_an_empty_record(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from search.record.record import Record, open_storage\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "Record(open_storage('sqlite', Path(sys.argv[1])), 'tiny', {'accuracy': 'maximize'})"
    )
    at = str(time.time() + 4)
    opening = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), at], stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    said = [each.communicate()[1] for each in opening]
    assert [each.returncode for each in opening] == [0] * 6, said
