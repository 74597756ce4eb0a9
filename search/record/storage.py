"""Optuna's database storage with fewer statements: of thousands of trials, and over a network, each one counts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import and_, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Row:
    """A trial as the record reads it: without Optuna's parameters and distributions, which take most of the time of reading it."""

    trial_id: int
    number: int
    state: TrialState
    attrs: dict[str, Any] = field(default_factory=dict)


class Storage(RDBStorage):
    """What it writes is Optuna's own, row by row."""

    def rows(self, study_id: int, only: str | None = None) -> list[Row]:
        """Every trial by number with its user attributes, or with that one alone; as of one moment."""
        its = TrialUserAttributeModel.trial_id == TrialModel.trial_id
        wanted = its if only is None else and_(its, TrialUserAttributeModel.key == only)
        query = (
            select(
                TrialModel.trial_id,
                TrialModel.number,
                TrialModel.state,
                TrialUserAttributeModel.key,
                TrialUserAttributeModel.value_json,
            )
            .outerjoin(TrialUserAttributeModel, wanted)
            .where(TrialModel.study_id == study_id)
        )
        found: dict[int, Row] = {}
        with self.scoped_session.session_factory() as session:
            for trial_id, number, state, key, value in session.execute(query):
                row = found.get(trial_id)
                if row is None:
                    row = found[trial_id] = Row(trial_id, number, state)
                if key is not None:
                    row.attrs[key] = json.loads(value)
        return sorted(found.values(), key=lambda row: row.number)

    def ids(self, study_id: int) -> dict[int, int]:
        """The id of each trial, by its number."""
        query = select(TrialModel.number, TrialModel.trial_id).where(TrialModel.study_id == study_id)
        with self.scoped_session.session_factory() as session:
            return {row.number: row.trial_id for row in session.execute(query)}

    def get_trial_number_from_id(self, trial_id: int) -> int:
        with self.scoped_session.session_factory() as session:
            return int(session.execute(select(TrialModel.number).where(TrialModel.trial_id == trial_id)).scalar_one())

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> TrialModel:
        """A statement a table. Optuna asks, before each parameter and attribute, whether the trial is there and what the parameter
        was in another one: five statements a parameter."""
        if template_trial is None:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        trial = TrialModel(
            study_id=study_id,
            state=template_trial.state,
            datetime_start=template_trial.datetime_start,
            datetime_complete=template_trial.datetime_complete,
        )
        session.add(trial)
        session.flush()  # for its id
        known, its = template_trial.distributions, {"trial_id": trial.trial_id}
        params = [
            {
                **its,
                "param_name": name,
                "param_value": known[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(known[name]),
            }
            for name, value in template_trial.params.items()
        ]
        values = [
            {**its, "objective": place, **dict(zip(("value", "value_type"), _stored(value), strict=True))}
            for place, value in enumerate(template_trial.values or [])
        ]
        for model, rows in (
            (TrialParamModel, params),
            (TrialValueModel, values),
            (TrialUserAttributeModel, _attributes(its, template_trial.user_attrs)),
            (TrialSystemAttributeModel, _attributes(its, template_trial.system_attrs)),
        ):
            if rows:
                session.execute(insert(model), rows)
        trial.number = trial.count_past_trials(session)
        return trial


def with_tables(make: Callable[[], Opened]) -> Opened:
    """What `make` opens. Of two who make an empty database's tables at once one is told that they are there, and tries again."""
    for _ in range(4):
        try:
            return make()
        except (IntegrityError, ProgrammingError, OperationalError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            if isinstance(cause, OperationalError) and "already exists" not in str(cause):
                raise  # a server that is away, a file that cannot be written
            time.sleep(0.5)
    return make()


def _stored(value: float) -> tuple[Any, ...]:
    return tuple(TrialValueModel.value_to_stored_repr(value))


def _attributes(its: dict[str, int], attrs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**its, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
