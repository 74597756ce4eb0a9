"""Confirms the front: its students again with more seeds, and without distillation, scored on the test split; and those near it.

Kept in a record of its own, which the sampler never sees.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from search.lanes.pool import LanePool
from search.record.record import Record
from search.results.front import ParetoFront
from search.study.budget import Budget
from spaces.errors import StudyError
from spaces.study import StudySpec
from spaces.trial import TrialConfig, TrialOutcome, TrialState, WorkItem, WorkKind, WorkResult, derived_seed

Told = Callable[[TrialOutcome], None]


def wanted(
    spec: StudySpec, front: ParetoFront, outcomes: Sequence[TrialOutcome], near: Sequence[int] = ()
) -> list[tuple[TrialConfig, dict[str, str]]]:
    """What confirming this front takes, the most telling first: (config, labels). The trials `near` it come last."""
    by_number = {outcome.number: outcome for outcome in outcomes}
    best = max(front.trials, key=lambda trial: by_number[trial].values()[spec.quality], default=None)
    plain, again = [], []
    for trial in front.trials:
        config = by_number[trial].config
        chosen = {"all": True, "best": trial == best, "none": False}
        if chosen[spec.confirm.without_distillation]:
            plain.append((config.without_distillation(), _labels("without_distillation", trial, config.seed)))
    for trials in (front.trials, near):
        for index in range(1, spec.confirm.seeds):  # every point gets its second seed before any its third
            for trial in trials:
                seed = derived_seed(spec.seed, "confirm", trial, index)
                config = by_number[trial].config.model_copy(update={"seed": seed})
                again.append((config, _labels("confirm", trial, seed)))
    return plain + again


def num_missing(
    spec: StudySpec, front: ParetoFront, outcomes: Sequence[TrialOutcome], confirmations: Sequence[TrialOutcome]
) -> int:
    """How much of what the front's own points take is not done."""
    settled = [outcome.labels for outcome in confirmations if outcome.state is not TrialState.RUNNING]
    return sum(labels not in settled for _, labels in wanted(spec, front, outcomes))


def _labels(kind: str, trial: int, seed: int) -> dict[str, str]:
    return {"kind": kind, "of": str(trial), "seed": str(seed)}


def confirm(
    spec: StudySpec,
    front: ParetoFront,
    near: Sequence[int],
    outcomes: Sequence[TrialOutcome],
    record: Record,
    pool: LanePool,
    budget: Budget,
    payload: dict[str, Any],
    told: Told,
    meanwhile: Callable[[], None],
) -> list[TrialOutcome]:
    """Trains what is wanted and not yet in the record, on all lanes; stops early when the minutes are spent. `meanwhile` is
    called once, when the lanes have the first of it: for work that fills what they leave free."""
    kept = {tuple(sorted(outcome.labels.items())): outcome for outcome in record.outcomes()}
    attempts = record.attempts()
    queue = deque(wanted(spec, front, outcomes, near))
    flying: dict[str, TrialOutcome] = {}

    def keep_lanes_busy() -> None:
        while queue and len(flying) <= pool.num_lanes:
            config, labels = queue[0]
            known = kept.get(tuple(sorted(labels.items())))
            if known is not None and (known.measurements or known.state is not TrialState.RUNNING):
                queue.popleft()
                if known.state is TrialState.RUNNING:  # measured, and cut off before its state was written
                    told(_done(known, record))
                continue
            if not _in_time(config, outcomes, budget):
                queue.clear()
                break
            queue.popleft()
            outcome = known or record.start(config, {}, spec.space, labels)
            attempt = attempts.get(outcome.number, 0) + 1
            record.set_attempt(outcome.number, attempt)
            item = WorkItem(
                key=f"confirm:{outcome.number}",
                kind=WorkKind.TRAIN,
                trial=outcome.number,
                attempt=attempt,
                config=config,
                evaluate=("validation", "test"),
                payload={**payload, "exact": True},
            )
            pool.submit(item)
            flying[item.key] = outcome

    keep_lanes_busy()
    meanwhile()
    while flying:
        result = pool.wait_any(list(flying))
        told(_settle(result, flying.pop(result.key), record))
        pool.acknowledge(result.key)
        keep_lanes_busy()
    return record.outcomes()


def _in_time(config: TrialConfig, outcomes: Sequence[TrialOutcome], budget: Budget) -> bool:
    left, seconds = budget.seconds_left(), budget.seconds_for(config.shape, outcomes)
    return left is None or seconds is None or seconds < left


def _settle(result: WorkResult, outcome: TrialOutcome, record: Record) -> TrialOutcome:
    if result.remedy:
        raise StudyError(f"confirming trial {outcome.labels['of']}: {result.error}. {result.remedy}")
    if result.error:
        record.set_state(outcome.number, TrialState.FAILED, error=result.error)
        settled = outcome.model_copy(update={"state": TrialState.FAILED, "error": result.error})
    else:
        measurement = result.timed_measurement
        record.measured(measurement)
        settled = _done(outcome.model_copy(update={"measurements": (measurement,)}), record)
    return settled


def _done(outcome: TrialOutcome, record: Record) -> TrialOutcome:
    """Its state, once its measurement is written."""
    settled = outcome.model_copy(update={"state": TrialState.DONE})
    values = settled.values()
    record.set_state(outcome.number, TrialState.DONE, [values[name] for name in record.objectives])
    return settled
