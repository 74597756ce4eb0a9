"""A record on a database server: how it is reached, and what happens when it is locked, slow or away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import OperationalError

from search.record.storage import Row, Storage, with_tables
from spaces.errors import StudyError

AWAY_SECONDS = 120.0  # for a server to come back, or to give a lock; the lanes go on meanwhile
LONGEST_PAUSE = 5.0
# libpq's words. A host that does not answer is not waited for as long as TCP would, a quarter of an hour and more; lines on which
# nothing happens while trials train are kept open.
REACHED = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "distilsearch",
}
# A driver whose machine is gone in the middle of a transaction does not hold the others up for long.
SESSION = "SET lock_timeout = '15s'; SET idle_in_transaction_session_timeout = '60s'"
Answer = TypeVar("Answer")


def is_postgres(url: URL) -> bool:
    return url.get_backend_name() == "postgresql"


def engine_arguments(url: URL) -> dict[str, Any]:
    """How the server is connected to; what the URL itself says is left to it."""
    if is_postgres(url) and url.get_driver_name().startswith("psycopg"):
        return {"connect_args": {name: value for name, value in REACHED.items() if name not in url.query}}
    return {}


class ServerStorage(Storage):
    """Optuna's, on a server. A call that finds it away is made again, for AWAY_SECONDS in all; then it raises StudyError, and so
    do later ones at once until it is back. A call whose answer was lost after the server had done it counts once."""

    def __init__(self, url: str, **given: Any) -> None:
        self._away_seconds = AWAY_SECONDS
        self._away_since: float | None = None  # of the calls that wait now, or waited in vain
        self.before_writing: Callable[[], None] = lambda: (
            None
        )  # raises where this process may not write trials any more
        super().__init__(url, engine_kwargs=engine_arguments(make_url(url)), **given)
        if is_postgres(self.engine.url):
            event.listen(self.engine, "connect", _set_session)
            self.engine.dispose()  # connections from before that

    def _patiently(self, call: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
        pause = 0.0  # first at once: a connection that was kept may be of before a restart
        try:
            while True:
                try:
                    answer = call(*arguments, **named)
                except Exception as error:
                    reason = _why_away(error)
                    if reason is None:
                        raise
                    self._wait(reason, pause, error)
                    pause = min(LONGEST_PAUSE, 2 * pause or 0.25)
                else:
                    self._away_since = None
                    return answer
        except KeyboardInterrupt:
            if self._away_since is not None:
                self._away_since = float("-inf")  # what closes now does not wait either
            raise

    def _wait(self, reason: str, pause: float, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
        if time.monotonic() - self._away_since >= self._away_seconds:
            raise StudyError(
                f"the storage cannot be read or written for {self._away_seconds:.0f} s now: {reason}. What it holds stays; "
                "run the same command again once it is back"
            ) from error
        time.sleep(pause)

    # -- read

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._patiently(super().get_study_id_from_name, study_name)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(super().get_study_user_attrs, study_id)

    def get_all_trials(self, study_id: int, *arguments: Any, **named: Any) -> list[FrozenTrial]:
        return self._patiently(super().get_all_trials, study_id, *arguments, **named)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._patiently(super().get_trial, trial_id)

    def rows(self, *arguments: Any, **named: Any) -> list[Row]:
        return self._patiently(super().rows, *arguments, **named)

    def ids(self, study_id: int) -> dict[int, int]:
        return self._patiently(super().ids, study_id)

    def get_trial_number_from_id(self, trial_id: int) -> int:
        return self._patiently(super().get_trial_number_from_id, trial_id)

    # -- written

    def create_new_study(self, *arguments: Any, **named: Any) -> int:
        return self._patiently(super().create_new_study, *arguments, **named)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._patiently(super().set_study_user_attr, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._patiently(super().set_study_system_attr, study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Where the answer to a commit is lost it is made again, by Optuna itself: `only_once` finds that out."""
        self.before_writing()
        return self._patiently(super().create_new_trial, study_id, template_trial)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.before_writing()
        self._patiently(super().set_trial_user_attr, trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self.before_writing()
        try:
            return self._patiently(super().set_trial_state_values, trial_id, state, values)
        except UpdateFinishedTrialError:
            if self.get_trial(trial_id).state is not state:
                raise
            return True  # it was done, and the answer lost

    def only_once(self, study_id: int, trial_id: int, expected: int) -> tuple[int, int]:
        """Id and number of a trial just made whose number is not the `expected` one. Where it was made several times the
        first is kept and the others are removed."""
        made = self.get_trial(trial_id).user_attrs
        trials = self.get_all_trials(study_id, deepcopy=False)
        first, *copies = (trial for trial in trials if trial.number >= expected and trial.user_attrs == made)
        for copy in copies:
            self._patiently(self._remove, copy._trial_id)
        return first._trial_id, first.number

    def _remove(self, trial_id: int) -> None:
        with self.scoped_session.session_factory.begin() as session:
            if (trial := session.get(TrialModel, trial_id)) is not None:
                session.delete(trial)

    @contextmanager
    def alone(self, study_id: int) -> Iterator[None]:
        """Whoever else asks for the same study in this way waits meanwhile."""
        if not is_postgres(self.engine.url):
            yield
            return
        with self._patiently(self._locked, study_id) as connection:
            yield
            connection.commit()

    def _locked(self, study_id: int) -> Connection:
        # Weak enough for what is written about the study meanwhile, which wants its row to stay.
        locked = text("SELECT study_id FROM studies WHERE study_id = :study FOR NO KEY UPDATE")
        connection = self.engine.connect()
        try:
            connection.execute(locked, {"study": study_id})
        except BaseException:
            connection.close()
            raise
        return connection


def open_server(url: str, *, unchecked: bool) -> ServerStorage:
    skipped = {"skip_compatibility_check": unchecked, "skip_table_creation": unchecked}
    return with_tables(lambda: ServerStorage(url, **skipped))


def _set_session(connection: Any, _: object) -> None:
    connection.cursor().execute(SESSION)
    connection.commit()


def _why_away(error: BaseException | None) -> str | None:
    """What the server said or did not; None where trying again would not help. Optuna wraps what happens, and asks once more on the
    same connection."""
    while error is not None:
        if isinstance(error, OperationalError) or getattr(error, "connection_invalidated", False):
            return reason_of(error)
        error = error.__cause__ or error.__context__
    return None


def reason_of(error: BaseException) -> str:
    """In one line. psycopg has a line an address where a host has several, and libpq adds hints."""
    lines = [line.strip(" \t-") for line in str(getattr(error, "orig", None) or error).splitlines()]
    return "; ".join(line for line in lines[:6] if line)
