"""StudySearcher: what Ray Tune asks for the next segment, and tells what came back. The record hears of everything first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any, Literal

from search.lanes.trainable import SegmentSearcher
from search.record.record import Record
from search.results.front import ParetoFront, Reference
from search.study.budget import Budget
from search.study.output import trial_folder
from search.study.sampling import Sampling
from spaces.architecture import copied_layers
from spaces.parameters import Value
from spaces.space import PARAMETERS
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import (
    Measurement,
    TrialConfig,
    TrialOutcome,
    TrialState,
    WorkItem,
    WorkKind,
    WorkResult,
    derived_seed,
)

Told = Callable[[TrialOutcome], None]


class StudySearcher(SegmentSearcher):
    """Suggests segments: first those that an earlier run left unfinished, then new trials until the budget is spent.
    `no_more_trials` is called when it is: once or more often."""

    def __init__(
        self,
        spec: StudySpec,
        record: Record,
        sampling: Sampling,
        budget: Budget,
        *,
        references: list[Reference],
        teacher_depth: int,
        payload: dict[str, Any],
        told: Told,
        no_more_trials: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._no_more_trials = no_more_trials
        self._spec, self._record, self._sampling, self._budget = spec, record, sampling, budget
        self._references, self._teacher_depth, self._payload, self._told = references, teacher_depth, payload, told
        self.outcomes: dict[int, TrialOutcome] = {}
        self._attempts = record.attempts()
        self._unfinished: list[int] = []
        for outcome in record.outcomes():
            self.outcomes[outcome.number] = outcome
            if outcome.state is TrialState.RUNNING:
                if outcome.last and outcome.last.share >= 1:  # measured, and cut off before its state was written
                    self._finish(outcome.number, TrialState.DONE)
                else:
                    self._unfinished.append(outcome.number)
        self.front = ParetoFront.of(self.ordered, spec, references)  # as it stands
        self._forget_weights(self.ordered)

    @property
    def ordered(self) -> list[TrialOutcome]:
        return [self.outcomes[number] for number in sorted(self.outcomes)]

    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        if self._unfinished:
            number = self._unfinished.pop(0)
            attempt = self._attempts.get(number, 1) + 1
            self._record.set_attempt(number, attempt)
            return self._item(self.outcomes[number], attempt)
        if not self._budget.allows(self.ordered):
            return self._no_more()
        number = self._record.next_number()
        parameters, shape = self._sampling.suggest(self.ordered, number)
        if not self._budget.has_time_for(shape, self.ordered):
            return self._no_more()
        config = trial_config(self._spec, parameters, shape, self._teacher_depth, number)
        outcome = self._record.start(config, parameters, self._spec.space)
        self.outcomes[outcome.number] = outcome
        self._told(outcome)
        return self._item(outcome, 1)

    def _no_more(self) -> Literal["finished"]:
        self._no_more_trials()
        return "finished"

    def finished(self, key: str, result: WorkResult) -> None:
        number = result.trial
        assert number is not None
        if result.error:
            self._finish(number, TrialState.FAILED, error=result.error)
            self._forget_weights([self.outcomes[number]])
        else:
            self.measured(result.timed_measurement)
            self._finish(number, TrialState.DONE)
            # Who beats no point of the front belongs to no later one either: these alone decide.
            candidates = [self.outcomes[trial] for trial in {*self.front.trials, number}]
            self.front = ParetoFront.of(candidates, self._spec, self._references)
            self._forget_weights(candidates)
        self._told(self.outcomes[number])

    def measured(self, measurement: Measurement) -> None:
        """Writes a measurement to the record; only then does anyone else hear of it."""
        self._record.measured(measurement)
        outcome = self.outcomes[measurement.trial]
        kept = tuple(other for other in outcome.measurements if other.share != measurement.share)
        self.outcomes[measurement.trial] = outcome.model_copy(update={"measurements": (*kept, measurement)})

    def _finish(self, number: int, state: TrialState, error: str = "") -> None:
        outcome = self.outcomes[number]
        values = [outcome.values()[name] for name in self._spec.objectives] if state is TrialState.DONE else None
        self._record.set_state(number, state, values, error)
        self.outcomes[number] = outcome.model_copy(update={"state": state, "error": error})

    def _forget_weights(self, outcomes: Iterable[TrialOutcome]) -> None:
        """Weights are kept for the front alone: whoever left it cannot come back."""
        for outcome in outcomes:
            over = outcome.state in (TrialState.DONE, TrialState.FAILED)
            folder = trial_folder(self._spec, outcome.number)
            if over and outcome.number not in self.front.trials and folder.exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _item(self, outcome: TrialOutcome, attempt: int) -> WorkItem:
        return WorkItem(
            key=f"trial:{outcome.number}",
            kind=WorkKind.TRAIN,
            trial=outcome.number,
            attempt=attempt,
            config=outcome.config,
            folder=str(trial_folder(self._spec, outcome.number)),
            payload=self._payload,
        )


def trial_config(
    spec: StudySpec, parameters: dict[str, Value], shape: StudentShape, teacher_depth: int, number: int
) -> TrialConfig:
    """All that the trial needs; its seed comes from the study's seed and its number."""
    settings: dict[str, Any] = {name: parameters.get(name, PARAMETERS[name].default) for name in SETTINGS}
    return TrialConfig(
        shape=shape,
        layers=copied_layers(parameters["layers"], shape.depth, teacher_depth),
        vocabulary=str(parameters["vocabulary"]),
        epochs=spec.training.epochs,
        steps=spec.training.steps,
        seed=spec.trial_seeds[number] if number < len(spec.trial_seeds) else derived_seed(spec.seed, "trial", number),
        **settings,
    )


SETTINGS = (
    "group_start", "temperature", "soft_share", "hidden_share", "hidden_loss", "hidden_layers",
    "learning_rate", "batch_size", "warmup_share", "weight_decay", "dropout",
)  # fmt: skip
