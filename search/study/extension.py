"""What `run --more` adds to a study. The record keeps it, so that the plain command goes as far and undoes nothing."""

from __future__ import annotations

import json
from typing import Any, Self

from search.record.record import Record
from spaces.budget import BudgetSpec
from spaces.errors import InputError
from spaces.remote import written
from spaces.student import Frozen
from spaces.study import ConfirmSpec, StudySpec


class Extension(Frozen):
    """The study goes on to `trials`, `more` beyond the `begun` that it had. It stands as long as the study file's budget.trials
    is `of`: whoever writes another number there means that number."""

    of: int
    trials: int
    begun: int = 0
    more: int = 0

    @classmethod
    def of_study(cls, spec: StudySpec, record: Record, more: int | None = None) -> Self:
        """What is kept, or what `--more` asks for now; no extension is one of 0. The same command again goes on with an extension
        that was cut off. Raises InputError where there is nothing to extend."""
        raw = record.fact("more")
        kept = None if raw is None else cls.model_validate(raw)
        if kept is None or kept.of != spec.budget.trials:
            kept = cls(of=spec.budget.trials, trials=spec.budget.trials)
        if more is None or (more == kept.more and not is_finished(kept.applied(spec), record)):
            return kept
        begun = record.next_number()
        if begun == 0:
            raise nothing_to_extend(spec)
        return cls(of=kept.of, trials=max(kept.trials, begun + more), begun=begun, more=more)

    def applied(self, spec: StudySpec) -> StudySpec:
        return spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": self.trials})})


def nothing_to_extend(spec: StudySpec) -> InputError:
    return InputError.of(
        "--more", f"{written(spec.output)} holds no trial to go on from; run the study without --more first"
    )


def wish(spec: StudySpec) -> str:
    """What the fact `finished` stands for: this much budget and confirmation, no more."""
    return json.dumps([spec.budget.model_dump(), spec.confirm.model_dump()])


def is_finished(spec: StudySpec, record: Record) -> bool:
    """Whether the study ran to its end with this budget and confirmation. What an older version did not know counts as left out."""
    raw: Any = record.fact("finished")
    if raw is None:
        return False
    budget, confirm = json.loads(raw)
    return BudgetSpec.model_validate(budget) == spec.budget and ConfirmSpec.model_validate(confirm) == spec.confirm
