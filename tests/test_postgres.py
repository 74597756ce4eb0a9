"""The record on a real PostgreSQL: what a file's record does, and what only a server can do to it."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import test_record
import tiny
import yaml
from commands import Run, record_of
from optuna.trial import TrialState as OptunaState
from postgres_server import PASSWORD, Line, PostgresServer, postgres_server
from small_search import Clock, a_point, a_spec
from test_record import measurement
from whole_study import environment

from search.record import server as record_server
from search.record.lease import Lease
from search.record.record import Record, existing_record, open_storage, storage_url
from search.study.inputs import read_inputs
from search.study.output import claim_output, open_study, spec_of
from search.study.run import _same_output
from spaces.errors import InputError, StudyError
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.xdist_group("postgres"),
]
NOWHERE = Path("/nowhere/run")  # the output, of which a server needs nothing


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[Line]:
    line = Line(postgres.port)
    yield line
    line.close()


def opened(url: str, name: str = "tiny") -> Record:
    return Record(open_storage(url, NOWHERE), name, a_spec().objectives)


def begun(record: Record, number: int = 0) -> TrialOutcome:
    return record.start(*a_point(number), a_spec().space)


# what a file's record does

CASES = [
    test_record.test_a_trial_comes_back_as_it_was,
    test_record.test_a_measurement_told_twice_is_kept_once,
    test_record.test_what_was_cut_off_comes_back_running,
    test_record.test_a_finished_trial_stays_finished,
    test_record.test_facts_and_two_studies_in_one_storage,
    test_record.test_a_second_driver_is_refused_and_the_name_of_the_first_is_told,
    test_record.test_the_lease_of_a_dead_process_is_taken_over,
    test_record.test_the_lease_of_a_reused_process_id_is_taken_over,
    test_record.test_a_lease_from_another_host_holds_until_it_expires,
    test_record.test_a_lease_is_renewed_while_its_driver_lives,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
def test_as_in_a_file(case: Callable[..., None], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_record, "reopened", lambda folder, name="tiny": opened(url, name))
    monkeypatch.setattr(test_record, "open_storage", lambda storage, folder: open_storage(url, folder))
    given = {"record": opened(url), "tmp_path": tmp_path}
    case(**{name: given[name] for name in inspect.signature(case).parameters})


def test_optunas_own_view_of_it(url: str) -> None:
    record = opened(url)
    for number, state in enumerate(TrialState):
        begun(record, number)
        record.measured(measurement(number))
        record.set_state(number, state, [0.75, 1000.0] if state is TrialState.DONE else None, error="no\x00luck")
    study = optuna.load_study(study_name="tiny", storage=storage_url(url, NOWHERE))
    assert Counter(trial.state for trial in study.trials) == {
        OptunaState.RUNNING: 3, OptunaState.PRUNED: 1, OptunaState.FAIL: 1, OptunaState.COMPLETE: 1
    }  # fmt: skip
    assert [trial.values for trial in study.best_trials] == [[0.75, 1000.0]]
    assert study.metric_names == ["accuracy", "parameters"]
    assert {outcome.error for outcome in opened(url).outcomes()} == {"no\x00luck"}


def test_every_way_of_writing_the_url(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun(opened(url))
    name = url.rpartition("/")[2]
    masked = url.replace(PASSWORD, "***")
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{postgres.port}:*:{name}:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    (tmp_path / "services").write_text(f"[studies]\nhost=127.0.0.1\nport={postgres.port}\ndbname={name}\nuser={name}\n")
    plain = url.replace("postgresql://", "postgresql+psycopg://")
    ways: list[tuple[str, dict[str, str]]] = [
        (url, {}),
        (plain, {}),
        (url.replace("postgresql://", "postgres://"), {}),
        (masked, {"PGPASSWORD": PASSWORD}),
        (masked, {"PGPASSFILE": str(tmp_path / "pgpass")}),
        (f"{masked.replace(':***', '')}?password=***&sslmode=disable", {"PGPASSWORD": PASSWORD}),
        (f"postgresql://{name}:{PASSWORD}@:{postgres.port}/{name}?host={postgres.socket_folder}", {}),
        ("postgresql:///?service=studies", {"PGSERVICEFILE": str(tmp_path / "services"), "PGPASSWORD": PASSWORD}),
    ]
    for way, given in ways:
        with monkeypatch.context() as context:
            for key, value in given.items():
                context.setenv(key, value)
            storage = open_storage(way, NOWHERE)
            assert storage.engine.dialect.driver == "psycopg"
            record = Record(storage, "tiny", a_spec().objectives, create=False)
            assert len(record.outcomes()) == 1, way
            record.close()


# two users


def test_two_studies_in_one_database_do_not_see_each_other(url: str) -> None:
    ours, theirs = opened(url, "ours"), opened(url, "theirs")
    with Lease(ours), Lease(theirs):
        for _ in range(3):  # in turn
            begun(ours, ours.next_number())
        ours.keep("floors", [1])
        assert theirs.outcomes() == []
        assert begun(theirs).number == 0
        theirs.set_state(0, TrialState.FAILED, error="theirs")
    assert [outcome.number for outcome in opened(url, "ours").outcomes()] == [0, 1, 2]
    assert {outcome.state for outcome in opened(url, "ours").outcomes()} == {TrialState.RUNNING}
    assert opened(url, "theirs").fact("floors") is None
    with pytest.raises(StudyError, match="knows none named 'third'"):
        existing_record(url, NOWHERE, "third", a_spec().objectives)


def test_the_same_name_twice_by_schemas(postgres: PostgresServer, url: str) -> None:
    for schema in ("alice", "bob"):
        postgres.sql(f"CREATE SCHEMA {schema}", url)
    alice, bob = (opened(f"{url}?options=-csearch_path%3D{schema}") for schema in ("alice", "bob"))
    begun(alice)
    assert (len(alice.outcomes()), len(bob.outcomes())) == (1, 0)


def test_who_may_only_read_can_look(postgres: PostgresServer, url: str) -> None:
    begun(opened(url))
    name = url.rpartition("/")[2]
    postgres.sql(f"CREATE ROLE {name}_reader LOGIN PASSWORD '{PASSWORD}'")
    postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}_reader", url)
    reading = postgres.url(f"{name}_reader", name)
    record = opened(reading)
    assert len(record.outcomes()) == 1
    with pytest.raises(Exception, match=r"permission denied|exception is raised"):
        record.keep("floors", 1)


def at_once(count: int, what: Callable[[int], Any]) -> list[Any]:
    """What each of some threads got, its exception where it raised one; all begin together."""
    got: list[Any] = [None] * count
    gate = threading.Barrier(count)

    def run(index: int) -> None:
        gate.wait()
        try:
            got[index] = what(index)
        except Exception as error:
            got[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_drivers_that_begin_at_once_in_an_empty_database(url: str) -> None:
    records = at_once(6, lambda index: opened(url, f"study-{index % 3}"))
    assert [record for record in records if not isinstance(record, Record)] == []
    assert [begun(record, 0).number for record in records[:3]] == [0, 0, 0]


def test_of_drivers_that_begin_at_once_one_has_the_study(url: str) -> None:
    for _ in range(3):
        records = [opened(url) for _ in range(5)]
        got = at_once(5, lambda index, records=records: Lease(records[index]).__enter__())
        (lease,) = (held for held in got if isinstance(held, Lease))
        refused = [error for error in got if error is not lease]
        assert len(refused) == 4
        assert all(isinstance(error, InputError) and "is being run by process" in str(error) for error in refused)
        lease.__exit__()
        for record in records:
            record.close()


def test_a_driver_that_was_away_too_long_writes_no_more_trials(url: str) -> None:
    record, again = (
        Record(storage, name, a_spec().objectives)
        for storage in [open_storage(url, NOWHERE)]
        for name in ("tiny", "tiny.confirm")
    )
    clock = Clock()
    with Lease(record, clock):
        begun(record)
        clock.now += 59  # not yet renewed, and still its own
        record.measured(measurement(0, 0.5))
        clock.now += 2  # its own, as nobody else took it
        record.measured(measurement(0, 0.6))
        assert record.fact("lease")["expires"] == clock.now + 60
        clock.now += 61
        other = opened(url)
        other.keep("lease", {"host": "elsewhere", "pid": 7, "started": "1", "expires": clock.now + 60})
        other.measured(measurement(0, 0.7))
        for write in (
            lambda: record.measured(measurement(0)),
            lambda: record.set_state(0, TrialState.FAILED),
            lambda: begun(record, 1),
            lambda: begun(again, 1),
        ):
            with pytest.raises(StudyError, match="is run by process 7 on elsewhere"):
                write()
    (outcome,) = opened(url).outcomes()
    assert [measured.share for measured in outcome.measurements] == [0.5, 0.6, 0.7]
    assert opened(url).fact("lease")["host"] == "elsewhere"  # which stays the other's


# a server that goes away


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_server_that_comes_back_has_lost_nothing_that_was_acknowledged(
    postgres: PostgresServer, url: str, how: signal.Signals
) -> None:
    record, acknowledged, stop = opened(url), list[tuple[int, float]](), threading.Event()
    failed: list[BaseException] = []

    def drive() -> None:
        try:
            while not stop.is_set():
                number = begun(record, record.next_number()).number
                for share in (0.25, 0.5, 1.0):
                    record.measured(measurement(number, share))
                    acknowledged.append((number, share))
                record.set_state(number, TrialState.DONE, [0.75, 1000.0])
        except BaseException as error:
            failed.append(error)

    def wait_for(more: int) -> None:
        end = time.monotonic() + 120
        target = len(acknowledged) + more
        while len(acknowledged) < target:
            assert not failed, failed
            assert time.monotonic() < end
            time.sleep(0.01)

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        wait_for(6)
        for seconds in (0.0, 3.0):
            postgres.stop(how)
            before = len(acknowledged)
            time.sleep(seconds)
            assert len(acknowledged) <= before + 1
            postgres.start()
            wait_for(9)
    finally:
        stop.set()
        driver.join()
        postgres.stop()
        postgres.start()
    assert failed == []
    outcomes = opened(url).outcomes()
    kept = [(outcome.number, measured.share) for outcome in outcomes for measured in outcome.measurements]
    assert kept == acknowledged
    assert [outcome.number for outcome in outcomes] == list(range(len(outcomes)))
    assert {outcome.state for outcome in outcomes} == {TrialState.DONE}


def a_life(record: Record) -> list[TrialOutcome]:
    """All that can be written of trials."""
    begun(record)
    record.measured(measurement(0, 0.5))
    record.promote(0, 1.0)
    record.set_attempt(0, 2)
    record.measured(measurement(0))
    record.set_state(0, TrialState.DONE, [0.75, 1000.0])
    begun(record, 1)
    record.set_state(1, TrialState.FAILED, error="no luck")
    record.keep("floors", [1, 2])
    return record.outcomes()


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before it got there", "before its answer did"])
def test_whichever_commit_is_cut_off_all_is_written_once(
    postgres: PostgresServer, url: str, line: Line, after: bool
) -> None:
    near = open_storage(url, NOWHERE)
    far = open_storage(url.replace(f":{postgres.port}/", f":{line.port}/") + "?sslmode=disable", NOWHERE)

    def a_record(storage: Any, name: str) -> Record:
        return Record(storage, name, a_spec().objectives)

    expected = a_life(a_record(near, "uncut"))
    record = a_record(far, "counted")
    line.cut(0, after)
    assert a_life(record) == expected
    num_commits = line.commits
    assert num_commits > 15
    for at in range(1, num_commits + 1):
        record = a_record(far, f"cut-{at}")
        line.cut(at, after)
        assert a_life(record) == expected, at
        assert line.commits > at
        again = a_record(near, f"cut-{at}")
        assert (again.outcomes(), again.attempts()) == (expected, {0: 2, 1: 1}), at
        assert (again.fact("floors"), again.next_number(), record.next_number()) == ([1, 2], 2, 2), at


@pytest.mark.slow
def test_a_slow_server(postgres: PostgresServer, url: str, line: Line) -> None:
    record = opened(url.replace(f":{postgres.port}/", f":{line.port}/") + "?sslmode=disable")
    line.slow = 0.01
    assert a_life(record) == a_life(opened(url, "near"))


def test_a_server_that_does_not_come_back(postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_server, "AWAY_SECONDS", 1.0)
    record = opened(url)
    begun(record)
    postgres.stop()
    try:
        asked = time.monotonic()
        with pytest.raises(StudyError) as lost:
            record.measured(measurement(0))
        assert 1.0 <= time.monotonic() - asked < 20
        assert "cannot be read or written for 1 s now: " in str(lost.value)
        assert "Connection refused" in str(lost.value)
        assert "run the same command again" in str(lost.value)
        assert "\n" not in str(lost.value)
        assert PASSWORD not in str(lost.value)
        asked = time.monotonic()
        with pytest.raises(StudyError):  # what closes after that does not wait again
            record.keep("gpu_hours", 1)
        assert time.monotonic() - asked < 1.0
    finally:
        postgres.start()
    record.measured(measurement(0))
    assert opened(url).outcomes()[0].measurements == (measurement(0),)


def test_ctrl_c_ends_the_waiting(postgres: PostgresServer, url: str) -> None:
    record = opened(url)
    postgres.stop()
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            begun(record)
        asked = time.monotonic()
        with pytest.raises(StudyError):
            record.keep("lease", None)
        assert time.monotonic() - asked < 10 < record_server.AWAY_SECONDS
    finally:
        postgres.start()
    assert begun(record).number == 0


@pytest.mark.slow
def test_a_record_that_is_locked_for_a_while(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    assert "lock_timeout = '15s'" in record_server.SESSION
    monkeypatch.setattr(record_server, "SESSION", "SET lock_timeout = '200ms'")
    record = opened(url)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM studies FOR UPDATE")
        threading.Timer(1.5, other.rollback).start()
        asked = time.monotonic()
        assert begun(record).number == 0
        assert time.monotonic() - asked > 1.2
    assert len(opened(url).outcomes()) == 1
    monkeypatch.setattr(record_server, "AWAY_SECONDS", 0.5)
    record = opened(url, "other")
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM studies FOR UPDATE")
        with pytest.raises(StudyError, match="lock timeout"):
            begun(record)
        other.rollback()


# bad input


def test_what_does_not_open_says_why(postgres: PostgresServer, url: str) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    name = url.rpartition("/")[2]
    for wrong, why in {
        url.replace(PASSWORD, "wrong-pass"): f'password authentication failed for user "{name}"',
        url.replace(f":{PASSWORD}", ""): "no password supplied",
        f"{url}x": f'database "{name}x" does not exist',
        postgres.url("nobody", name, "wrong-pass"): 'password authentication failed for user "nobody"',
        url.replace(f":{postgres.port}/", f":{nobody}/"): "Connection refused",
        url.replace("127.0.0.1", "no-such-host.invalid"): "no-such-host.invalid",
        url.replace(str(postgres.port), "port"): "port",
        f"{url}?options=-csearch_path%3Dnowhere": "no schema has been selected",
        f"{url}?sslmode=require": "SSL",
        f"{url}?nonsense=1": "nonsense",
        url.replace("postgresql:", "postgrsql:"): "postgrsql",
    }.items():
        with pytest.raises(InputError, match="storage: cannot be opened: ") as refused:
            open_storage(wrong, NOWHERE)
        assert why in str(refused.value), wrong
        assert "\n" not in str(refused.value)
        for secret in (PASSWORD, "wrong-pass"):
            assert secret not in str(refused.value)


def test_a_missing_driver_is_named_with_what_brings_it() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from pathlib import Path; from search.record.record import open_storage\n"
        "from search.cli import guarded\n"
        "sys.exit(guarded(lambda: open_storage('postgresql://me:hunter2@db/studies', Path('.'))))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "distilsearch[postgres]"' in done.stderr
    assert "hunter2" not in done.stderr


def test_a_study_whose_storage_refuses_it_ends_before_anything_runs(
    url: str, distilsearch: Run, study: Callable[..., Path], tmp_path: Path
) -> None:
    path = study(storage=url.replace(PASSWORD, "wrong-pass"))
    status, out, err = distilsearch("run", path)
    assert (status, out) == (2, "")
    assert err.strip().splitlines()[-1].startswith("storage: cannot be opened: ")
    assert "password authentication failed" in err
    assert "wrong-pass" not in err + (tmp_path / "run" / "study.yaml").read_text()
    assert "starting Ray" not in err


# looking on while a driver writes

WRITER = """
import sys, time
from pathlib import Path
from search.record.lease import Lease
from search.study.output import open_record, spec_of
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from spaces.trial import Measurement, TrialState
from commands import TEACHER
spec = spec_of(Path(sys.argv[1]))
record, _ = open_record(spec)
sampling = Sampling(spec, TEACHER, {"full": 140, "used": 120}, {})
metrics = {"validation/accuracy": 0.9, "test/accuracy": 0.9}
record.keep("references", [
    {"name": "teacher", "label": "teacher", "num_parameters": 50_000, "num_bytes": 200_000, "metrics": metrics}
])
with Lease(record):
    while True:
        number = record.next_number()
        parameters, shape = sampling.suggest([], number)
        outcome = record.start(trial_config(spec, parameters, shape, 3, number), parameters, spec.space)
        accuracy = 0.5 + 0.3 * (number % 7) / 7
        metrics = {"validation/accuracy": accuracy, "validation/macro_f1": accuracy}
        record.measured(Measurement(trial=number, attempt=1, step=3, share=1.0, metrics=metrics))
        record.set_state(number, TrialState.DONE, [accuracy, float(shape.num_parameters)])
        print(number, flush=True)
"""


@pytest.mark.slow
def test_whoever_looks_on_sees_what_is_there_while_a_driver_writes(
    url: str, study_of: Callable[..., StudySpec], distilsearch: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = study_of(storage=url)
    claim_output(spec)
    masked = yaml.safe_load((spec.output / "study.yaml").read_text())["study"]["storage"]
    assert masked == url.replace(PASSWORD, "***")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    command = [sys.executable, "-c", WRITER, str(spec.output)]
    with open(tmp_path / "writer.txt", "w") as errors:
        writer = subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
        )
    try:
        assert writer.stdout is not None
        for _ in range(3):
            assert writer.stdout.readline(), (tmp_path / "writer.txt").read_text()
        seen = []
        for arguments, says in (
            (("front", spec.output), "parameters"),
            (("list", spec.output.parent), "running"),
            (("show", spec.output), f"process {writer.pid}"),
            (("report", spec.output), "report.html"),
        ):
            status, out, err = distilsearch(*arguments)
            assert status == 0, err
            assert says in out + err, (arguments, out, err)
            assert PASSWORD not in out + err
            seen.append(len(record_of(spec_of(spec.output)).outcomes()))
        assert writer.poll() is None, (tmp_path / "writer.txt").read_text()
        assert seen[0] < seen[-1]  # it wrote on
        assert PASSWORD not in (spec.output / "report.html").read_text()
        status, _, err = distilsearch("run", spec.output / "study.yaml")
        assert status == 2
    finally:
        writer.kill()
        writer.wait()
    outcomes = record_of(spec_of(spec.output)).outcomes()
    assert [outcome.number for outcome in outcomes] == list(range(len(outcomes)))


def test_two_outputs_do_not_share_a_record(
    url: str, study_of: Callable[..., StudySpec], distilsearch: Run, tmp_path: Path
) -> None:
    """Of one study, with one name, data set and space. An output that was moved is the same output."""
    spec = study_of(storage=url, output=str(tmp_path / "one"))
    inputs, output_id, record = read_inputs(spec, print), claim_output(spec), record_of(spec)
    _same_output(record, inputs, output_id)
    kept = record.fact("made_from")
    moved = spec.model_copy(update={"output": tmp_path / "moved"})
    shutil.move(spec.output, moved.output)
    assert claim_output(moved) == output_id
    _same_output(record, inputs, output_id)
    study, fresh = tmp_path / "study.yaml", tmp_path / "fresh"
    study.write_text(yaml.safe_dump(spec.resolved()))
    status, _, err = distilsearch("run", study, "--output", fresh)
    assert status == 2
    assert f"storage: it holds the same study, 'tiny', of another output (begun in {spec.output})" in err
    record.keep("made_from", {key: kept[key] for key in ("data", "study")})  # as earlier versions did
    _same_output(record, inputs, "whichever")
    assert PASSWORD not in err
    assert sorted(entry.name for entry in fresh.iterdir()) == ["study.yaml"]


# a whole study

DRIVER = """
import functools, study_toys, search.study.prepare as prepare, search.study.run as run
import search.record.server as server
server.AWAY_SECONDS = 4
run.LanePool = functools.partial(run.LanePool, perform="study_toys:perform")
from search.cli import main
main()
"""


def states(url: str) -> Counter[str]:
    with contextlib.suppress(Exception):  # not there yet
        record = existing_record(url, NOWHERE, "tiny", a_spec().objectives, unchecked=True)
        try:
            return Counter(outcome.state.value for outcome in record.outcomes())
        finally:
            record.close()
    return Counter()


def until(driver: subprocess.Popen[Any], errors: Path, url: str, num_done: int) -> None:
    begun = time.monotonic()
    while not ((seen := states(url))["done"] >= num_done and seen["running"]):
        assert driver.poll() is None, errors.read_text()
        assert time.monotonic() - begun < 900, (seen, errors.read_text())
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
def test_a_whole_study_through_a_lost_server_a_kill_and_a_restart(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database()
    path = tiny.write_study(
        tmp_path, storage=url.replace(f":{PASSWORD}", ""), budget={"trials": 5}, resources={"lanes": 1},
        search={"first": [{"family": "bert", "depth": depth, "hidden_size": "full"} for depth in (1, 2, 3)]},
        tracking="none", confirm={"seeds": 1, "without_distillation": "none"},
    )  # fmt: skip
    output, errors = tmp_path / "run", tmp_path / "errors.txt"
    command = [sys.executable, "-c", DRIVER, "run", str(path)]
    given = {**environment(tmp_path), "PGPASSWORD": PASSWORD}

    def start() -> subprocess.Popen[Any]:
        with open(errors, "w") as file:
            return subprocess.Popen(command, env=given, stdout=file, stderr=file, start_new_session=True)

    drivers = [start()]
    try:
        until(drivers[-1], errors, url, 1)  # the server goes, and does not come back in time
        postgres.stop()
        try:
            assert drivers[-1].wait(300) == 1
        finally:
            postgres.start()
        said = errors.read_text()
        assert "Traceback" not in said
        assert said.strip().splitlines()[-1].startswith("the storage cannot be read or written for 4 s now: ")
        assert "run the same command again" in said

        drivers.append(start())  # again, and killed
        until(drivers[-1], errors, url, 2)
        os.kill(drivers[-1].pid, signal.SIGKILL)
        drivers[-1].wait()
        record = existing_record(url, NOWHERE, "tiny", a_spec().objectives)
        before = {outcome.number: outcome for outcome in record.outcomes()}

        drivers.append(start())  # again, and the server crashes and is back at once
        until(drivers[-1], errors, url, 3)
        postgres.stop(signal.SIGQUIT)
        postgres.start()
        assert drivers[-1].wait(900) == 0, errors.read_text()
    finally:
        for driver in drivers:
            with contextlib.suppress(ProcessLookupError):  # what a killed one may have left
                os.killpg(driver.pid, signal.SIGKILL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        result = open_study(output)
    assert [outcome.number for outcome in result.outcomes] == list(range(5))
    assert {outcome.state for outcome in result.outcomes} == {TrialState.DONE}
    kept = {outcome.number: outcome for outcome in result.outcomes}
    finished = [number for number, outcome in before.items() if outcome.state is TrialState.DONE]
    assert len(finished) >= 2
    assert [kept[number] for number in finished] == [before[number] for number in finished]
    trained = Counter(
        line.split()[1] for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("trial")
    )
    assert all(trained[str(number)] == 1 for number in finished[:1])
    assert not (output / "study.db").exists()
    assert all((output / "best" / f"trial-{trial}").is_dir() for trial in result.front.trials)
    assert not any(PASSWORD in file.read_text(errors="ignore") for file in output.rglob("*.yaml"))
