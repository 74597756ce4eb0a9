"""The record: an Optuna storage as the one account of what happened. Each event is written once.

A trial's own words (state, measurements, error) are user attributes; Optuna's state stands beside them so that its
dashboards read right: COMPLETE only after the whole training, PRUNED when ended early, FAIL when broken.
"""

from __future__ import annotations

import json
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from search.record.server import ServerStorage, is_postgres, open_server, reason_of
from search.record.storage import Row, Storage, with_tables
from spaces.errors import InputError, StudyError
from spaces.parameters import Choice, IntRange, Parameter
from spaces.remote import written
from spaces.secrets import MASK, mask_secrets
from spaces.space import SearchSpace
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

LOCAL = {
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "tmpfs",
    "overlay",
    "ramfs",
}  # file systems of one machine
OPTUNA_STATE = {
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.WAITING: OptunaState.RUNNING,
    TrialState.PROMOTED: OptunaState.RUNNING,
    TrialState.ENDED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.DONE: OptunaState.COMPLETE,
}
FINISHED = {TrialState.ENDED, TrialState.FAILED, TrialState.DONE}


def open_storage(storage: str, output: Path, *, unchecked: bool = False) -> Storage:
    """`sqlite` is `study.db` in the output; anything else is an Optuna storage URL. `unchecked` leaves out looking whether its
    tables are there and of this version, which takes most of the time of reading a small study."""
    url = storage_url(storage, output)
    try:
        if not url.startswith("sqlite"):
            return open_server(url, unchecked=unchecked)
        skipped = {"skip_compatibility_check": unchecked, "skip_table_creation": unchecked}
        opened = with_tables(lambda: Storage(url, engine_kwargs={"connect_args": {"timeout": 60}}, **skipped))
        if storage == "sqlite" and not unchecked and not _on_network(output):
            # One wait for the disk a write instead of four or five; the file remembers it.
            with opened.engine.connect() as connection, suppress(OperationalError):  # another process writes just now
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        return opened
    except ImportError as error:
        raise InputError.of("storage", _no_driver(url)) from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        if storage == "sqlite" and isinstance(cause, OperationalError):  # nothing that the user wrote
            again = "What it holds stays; mend that and run again"
            raise StudyError(f"{output / 'study.db'} cannot be opened: {reason_of(cause)}. {again}") from error
        raise InputError.of("storage", f"cannot be opened: {mask_secrets(reason_of(error))}") from error


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Around what reads or writes a record: what its storage cannot do (a full disk, a server that went) is a StudyError."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        where = "study.db" if storage == "sqlite" else "the storage"
        raise StudyError(
            f"{where} cannot be read or written: {reason}. What it holds stays; mend that and run again"
        ) from error


def storage_url(storage: str, output: Path) -> str:
    """A masked password, as study.yaml has it, is left out: the database's own ways (PGPASSWORD, ~/.pgpass) then give it."""
    if storage == "sqlite":
        return f"sqlite:///{output / 'study.db'}"
    shown = re.sub(rf"(?<=[?&])\w+={re.escape(MASK)}(&|$)", "", storage.replace(f":{MASK}@", "@")).rstrip("?&")
    # libpq takes both words, SQLAlchemy the longer.
    return f"postgresql://{shown.removeprefix('postgres://')}" if shown.startswith("postgres://") else shown


def _no_driver(url: str) -> str:
    if is_postgres(make_url(url)):
        return 'PostgreSQL needs its driver, which is not installed here; run `pip install "distilsearch[postgres]"`'
    return f"the driver for {url.partition(':')[0]} is not installed here; pip install the one that SQLAlchemy names for it"


def _on_network(folder: Path) -> bool:
    """Whether other machines may see the folder, too: SQLite's write-ahead log needs memory that all its readers share."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return True  # nobody says
    here = folder.resolve()
    below = [(len(place), kind) for place, kind in mounts if here.is_relative_to(place.replace("\\040", " "))]
    kind = max(below, default=(0, ""))[1]
    return kind not in LOCAL


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution over the same values; both bounds are included on both sides."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(list(parameter.values))
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


class Record:
    """One study's trials. Opening it twice is opening the same record; `facts` are the study's own attributes."""

    def __init__(self, storage: Storage, name: str, directions: Mapping[str, str], *, create: bool = True) -> None:
        self._storage, self.objectives = storage, list(directions)
        wanted = [
            StudyDirection.MAXIMIZE if way == "maximize" else StudyDirection.MINIMIZE for way in directions.values()
        ]
        try:  # first, as whoever only looks may not write
            self._study_id = storage.get_study_id_from_name(name)
        except KeyError:
            if not create:
                raise
            with suppress(optuna.exceptions.DuplicatedStudyError):  # made in between
                storage.create_new_study(wanted, study_name=name)
            self._study_id = storage.get_study_id_from_name(name)
            storage.set_study_system_attr(self._study_id, "study:metric_names", self.objectives)

    @cached_property
    def _ids(self) -> dict[int, int]:
        """The storage's id of each trial, by its number."""
        return self._storage.ids(self._study_id)

    def close(self) -> None:
        """Gives the storage's connections back, which folds SQLite's log into its file. A later call opens them again."""
        self._storage.engine.dispose()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is in here for this study meanwhile, on a server. A file's drivers are on one machine, a moment apart."""
        if not isinstance(self._storage, ServerStorage):
            yield
            return
        with self._storage.alone(self._study_id):
            yield

    def guard(self, allowed: Callable[[], None]) -> None:
        """On a server, `allowed` is asked before a trial is written, here or in another record of the same storage."""
        if isinstance(self._storage, ServerStorage):
            self._storage.before_writing = allowed

    # -- the study's own facts

    def fact(self, name: str) -> Any:
        """What was kept under `name`, or None."""
        value = self._storage.get_study_user_attrs(self._study_id).get(name)
        return None if value is None else json.loads(value)

    def keep(self, name: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._study_id, name, json.dumps(value))

    # -- its trials

    def start(
        self,
        config: TrialConfig,
        parameters: Mapping[str, Any],
        space: SearchSpace,
        labels: Mapping[str, str] | None = None,
        until: float = 1.0,
    ) -> TrialOutcome:
        """Writes a new trial that runs to the share `until`, and returns it with its number; one transaction."""
        outcome = TrialOutcome(
            number=self.next_number(),
            config=config,
            parameters=dict(parameters),
            state=TrialState.RUNNING,
            labels=dict(labels or {}),
            until=until,
        )
        return self.adopt(outcome, space)

    def adopt(self, outcome: TrialOutcome, space: SearchSpace) -> TrialOutcome:
        """Writes a trial as it stands, measurements and all, and returns it with its number here; one transaction."""
        searched = {name: value for name, value in outcome.parameters.items() if not space.is_fixed(name)}
        values = outcome.values() if outcome.state is TrialState.DONE else None
        template = create_trial(
            state=OPTUNA_STATE[outcome.state],
            values=[values[name] for name in self.objectives] if values else None,
            params=searched,
            distributions={name: distribution(space.parameter(name)) for name in searched},
            user_attrs={
                "state": outcome.state.value,
                "config": outcome.config.model_dump_json(),
                "parameters": json.dumps(outcome.parameters),
                "labels": json.dumps(outcome.labels),
                "attempt": 1,
                "until": outcome.until,
                "num_parameters": outcome.config.shape.num_parameters,
                **{_place(measurement): measurement.model_dump_json() for measurement in outcome.measurements},
            },
        )
        expected = self.next_number()
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        number = self._storage.get_trial_number_from_id(trial_id)
        if number != expected and isinstance(self._storage, ServerStorage):
            trial_id, number = self._storage.only_once(self._study_id, trial_id, expected)
        self._ids[number] = trial_id
        return outcome.model_copy(update={"number": number})

    def next_number(self) -> int:
        return len(self._ids)

    def measured(self, measurement: Measurement) -> None:
        """Keeps one measurement; the same one twice is kept once."""
        trial_id = self._ids[measurement.trial]
        self._storage.set_trial_user_attr(trial_id, _place(measurement), measurement.model_dump_json())

    def set_attempt(self, number: int, attempt: int) -> None:
        self._storage.set_trial_user_attr(self._ids[number], "attempt", attempt)

    def promote(self, number: int, until: float) -> None:
        """Its next segment is suggested: the state is written last, so that it says who ended what came before."""
        self._storage.set_trial_user_attr(self._ids[number], "until", until)
        self.set_state(number, TrialState.PROMOTED)

    def set_state(self, number: int, state: TrialState, values: Iterable[float] | None = None, error: str = "") -> None:
        """Moves a trial on; a trial that is finished stays as it is."""
        trial_id = self._ids[number]
        try:
            if error:
                self._storage.set_trial_user_attr(trial_id, "error", error[:4000])
            self._storage.set_trial_user_attr(trial_id, "state", state.value)
        except UpdateFinishedTrialError:
            return
        if state in FINISHED:
            self._storage.set_trial_state_values(
                trial_id, OPTUNA_STATE[state], list(values) if values is not None else None
            )

    def outcomes(self) -> list[TrialOutcome]:
        """Every trial by number."""
        return [_outcome(row) for row in self._storage.rows(self._study_id) if "config" in row.attrs]

    def attempts(self) -> dict[int, int]:
        rows = self._storage.rows(self._study_id, only="attempt")
        return {row.number: int(row.attrs.get("attempt", 1)) for row in rows}


def _place(measurement: Measurement) -> str:
    return f"measurement:{measurement.share:.6f}"


def _outcome(trial: Row) -> TrialOutcome:
    attrs = trial.attrs
    measurements = [
        Measurement.model_validate_json(value)
        for name, value in sorted(attrs.items())
        if name.startswith("measurement:")
    ]
    state = TrialState(attrs["state"])
    if state in FINISHED and not trial.state.is_finished():
        # Cut off between our word and Optuna's: what is measured is done, the rest runs again.
        state = TrialState.RUNNING
    return TrialOutcome(
        number=trial.number,
        config=TrialConfig.model_validate_json(attrs["config"]),
        parameters=json.loads(attrs["parameters"]),
        state=state,
        measurements=tuple(measurements),
        error=attrs.get("error", ""),
        labels=json.loads(attrs.get("labels", "{}")),
        until=float(attrs.get("until", 1.0)),
    )


def existing_record(
    storage: str, output: Path, name: str, directions: Mapping[str, str], *, unchecked: bool = False
) -> Record:
    """The record of a study that was run before. Raises StudyError where there is none."""
    if storage == "sqlite" and not _is_made(output / "study.db"):
        raise StudyError(f"{output} holds no study yet: there is no study.db. Start one with `distilsearch run`.")
    try:
        return Record(open_storage(storage, output, unchecked=unchecked), name, directions, create=False)
    except KeyError:
        raise StudyError(
            f"{written(output)} holds no study yet: its storage knows none named {name!r}. Start one with `distilsearch run`."
        ) from None


def _is_made(path: Path) -> bool:
    """Whether the tables are all there: opened before that, Optuna would make them beside the driver that makes them just now."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM alembic_version").fetchone() is not None
    except sqlite3.Error as error:
        return "no such table" not in str(error)  # what else is wrong is told when it is opened
