"""StudySearcher: what Ray Tune asks for the next segment, and tells what came back. The record hears of everything first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from search.lanes.trainable import SegmentSearcher
from search.record.record import FINISHED, Record
from search.results.front import ParetoFront, Reference, candidates, dominates
from search.study.budget import Budget
from search.study.output import segment_folder, trial_folder, weights_folder
from search.study.shape_costs import ShapeCosts
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from search.trial import mirror
from spaces.architecture import copied_layers
from spaces.deployment import PREFIX
from spaces.errors import StudyError, TrialError
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
    """Suggests segments: first those that an earlier run left unfinished, then the next one of a trial that goes on, then new
    trials until the budget is spent. `no_more_trials` is called when it is: once or more often; `ended` then says why. While
    `on_hold` says so nothing begins and nothing is decided: the study is to go on another time."""

    def __init__(
        self,
        spec: StudySpec,
        record: Record,
        sampling: Sampling,
        budget: Budget,
        ladder: Ladder,
        *,
        references: list[Reference],
        teacher_depth: int,
        payload: dict[str, Any],
        told: Told,
        shape_costs: ShapeCosts | None = None,
        no_more_trials: Callable[[], None] = lambda: None,
        on_hold: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._no_more_trials, self._on_hold = no_more_trials, on_hold
        self._spec, self._record, self._sampling, self._budget, self._ladder = spec, record, sampling, budget, ladder
        self._shape_costs = shape_costs
        self._references, self._teacher_depth, self._payload, self._told = references, teacher_depth, payload, told
        self.outcomes: dict[int, TrialOutcome] = {}
        self.ended = ""
        self._attempts = record.attempts()
        self._unfinished: list[int] = []
        self._flying: set[int] = set()
        self._have_weights = mirror.names(spec.output / "trials")
        for outcome in record.outcomes():
            self.outcomes[outcome.number] = outcome
            if outcome.state in (TrialState.RUNNING, TrialState.PROMOTED):
                if outcome.share >= outcome.until:  # measured, and cut off before its state was written
                    self._set_state(outcome.number, _after(outcome))
                else:
                    self._unfinished.append(outcome.number)
            outcome = self.outcomes[outcome.number]
            for measurement in outcome.measurements:
                ladder.measured(outcome, measurement)
            ladder.settle(outcome)
        self.front = ParetoFront.of(self.ordered, spec, references)  # as it stands
        self._forget_weights(self.ordered)

    @property
    def ordered(self) -> list[TrialOutcome]:
        return [self.outcomes[number] for number in sorted(self.outcomes)]

    def next_item(self, trial_id: str) -> WorkItem | Literal["finished"] | None:
        if self._on_hold():
            return "finished"
        item = self._interrupted() or self._promoted() or self._new() or self._promoted(last=True)
        if item is not None:
            self._flying.add(item.trial)  # type: ignore[arg-type]
            return item
        self._no_more_trials()
        if self._flying and self._ladder.has_rungs:
            return None  # what they measure may let another go on
        for number in self._ladder.waiting():
            self._end(number)
        return "finished"

    def _interrupted(self) -> WorkItem | None:
        if not self._unfinished:
            return None
        number = self._unfinished.pop(0)
        attempt = self._attempts.get(number, 1) + 1
        self._record.set_attempt(number, attempt)
        return self._item(self.outcomes[number], attempt)

    def _promoted(self, last: bool = False) -> WorkItem | None:
        while (due := self._ladder.due(last)) is not None:
            number, share = due
            outcome = self.outcomes[number]
            if self._budget.refuses(outcome.config, self.ordered, 1 - share):
                return None
            if self._sampling.is_beaten(outcome.config.shape, self.front):
                self._end(number)
                continue
            until = self._ladder.next_share(share)
            self._record.promote(number, until)
            self._ladder.promote(number, share)
            self.outcomes[number] = outcome.model_copy(update={"state": TrialState.PROMOTED, "until": until})
            return self._item(self.outcomes[number], self._attempts.get(number, 1))
        return None

    def _new(self) -> WorkItem | None:
        outcomes = self.ordered
        self.ended = self._budget.spent(outcomes)
        if self.ended:
            return None
        number = self._record.next_number()
        point = self._sampling.suggest(outcomes, number, self.front)
        if point is None:
            self.ended = "the space holds nothing else that is worth a trial"
            return None
        parameters, shape = point
        config = trial_config(self._spec, parameters, shape, self._teacher_depth, number)
        self.ended = self._budget.refuses(config, outcomes)
        if self.ended:
            return None
        until = self._ladder.next_share(0.0)
        recipe = self._sampling.recipe_of(number, parameters)
        labels = {"start": recipe} if recipe else {}
        outcome = self._record.start(config, parameters, self._spec.space, labels, until=until)
        self.outcomes[outcome.number] = outcome
        self._told(outcome)
        return self._item(outcome, 1)

    def finished(self, key: str, result: WorkResult) -> None:
        number = result.trial
        assert number is not None
        if result.remedy:  # else every trial would fail, and for good
            raise StudyError(f"trial {number}: {result.error}. {result.remedy}: it begins anew there")
        self._flying.discard(number)
        measurement, error = None, result.error
        if not error:
            try:
                measurement = self._with_costs(result.timed_measurement)
            except TrialError as problem:  # such as a model that ONNX cannot take
                error = str(problem)
        if measurement is None:
            self._set_state(number, TrialState.FAILED, error=error)
            self._ladder.settle(self.outcomes[number])
            self._forget_weights([self.outcomes[number]])
        else:
            before = self.outcomes[number].last
            self.measured(measurement)
            self._set_state(number, _after(self.outcomes[number]))
            self._ladder.measured(self.outcomes[number], measurement)
            for hopeless in self._ladder.hopeless(measurement.share, self._spec.budget.trials):
                self._end(hopeless)
            if measurement.share >= 1:
                self._grow_front(number)
            if before is not None:
                mirror.remove(segment_folder(self._spec, number, before.share))
        self._told(self.outcomes[number])

    def _grow_front(self, number: int) -> None:
        """Who beats no point of the front belongs to no later one either: these alone decide, and most who come change nothing."""
        directions = list(self._spec.objectives.values())
        new = [
            list(point.values.values()) for point in candidates([self.outcomes[number]], self._spec, self._references)
        ]
        if not new or any(dominates(list(point.values.values()), new[0], directions) for point in self.front.points):
            return self._forget_weights([self.outcomes[number]])
        deciding = [self.outcomes[trial] for trial in {*self.front.trials, number}]
        self.front = ParetoFront.of(deciding, self._spec, self._references)
        self._forget_weights(deciding)

    def _with_costs(self, measurement: Measurement) -> Measurement:
        if self._shape_costs is None:
            return measurement
        found = self._shape_costs.of(self.outcomes[measurement.trial].config.shape)
        deployed = {PREFIX + name: value for name, value in found.items()}
        return measurement.model_copy(update={"metrics": {**measurement.metrics, **deployed}})

    def measured(self, measurement: Measurement) -> None:
        """Writes a measurement to the record; only then does anyone else hear of it."""
        self._record.measured(measurement)
        outcome = self.outcomes[measurement.trial]
        kept = tuple(other for other in outcome.measurements if other.share != measurement.share)
        self.outcomes[measurement.trial] = outcome.model_copy(update={"measurements": (*kept, measurement)})

    def _end(self, number: int) -> None:
        """It will not be promoted; what it measured still counts."""
        self._set_state(number, TrialState.ENDED)
        self._ladder.settle(self.outcomes[number])
        self._forget_weights([self.outcomes[number]])

    def _set_state(self, number: int, state: TrialState, error: str = "") -> None:
        outcome = self.outcomes[number]
        values = [outcome.values()[name] for name in self._spec.objectives] if state is TrialState.DONE else None
        self._record.set_state(number, state, values, error)
        self.outcomes[number] = outcome.model_copy(update={"state": state, "error": error})

    def _forget_weights(self, outcomes: Iterable[TrialOutcome]) -> None:
        """Weights are kept for the front, and for who may go on: whoever left it cannot come back."""
        for outcome in outcomes:
            is_over = outcome.state in FINISHED and outcome.number not in self.front.trials
            if is_over and str(outcome.number) in self._have_weights:
                self._have_weights.remove(str(outcome.number))
                mirror.remove(trial_folder(self._spec, outcome.number))

    def _item(self, outcome: TrialOutcome, attempt: int) -> WorkItem:
        """The segment from where the trial stands to where it is measured next; before its first, its shape is measured."""
        if self._shape_costs is not None:
            self._shape_costs.ask(outcome.config.shape)
        last, payload = outcome.last, self._payload
        self._have_weights.add(str(outcome.number))
        if last is not None:
            payload = {**payload, "continues": str(weights_folder(self._spec, last))}
        return WorkItem(
            key=f"trial:{outcome.number}" + (f"@{outcome.until:.3g}" if outcome.until < 1 else ""),
            kind=WorkKind.TRAIN,
            trial=outcome.number,
            attempt=attempt,
            config=outcome.config,
            start_share=outcome.share,
            end_share=outcome.until,
            folder=str(segment_folder(self._spec, outcome.number, outcome.until)),
            accumulation_steps=1 if last is None else int(last.cost.get("accumulation_steps", 1)),
            payload=payload,
        )


def _after(outcome: TrialOutcome) -> TrialState:
    """What a trial is after its last measurement."""
    return TrialState.DONE if outcome.share >= 1 else TrialState.WAITING


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
