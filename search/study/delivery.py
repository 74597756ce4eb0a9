"""Delivers the front's models: a Hugging Face folder for each point, made and scored on the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.lanes.pool import LanePool
from search.record.record import Record
from search.results.front import ParetoFront
from search.study.output import delivered_metrics, trial_folder
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, WorkItem, WorkKind


def deliver_models(
    spec: StudySpec,
    front: ParetoFront,
    outcomes: Sequence[TrialOutcome],
    record: Record,
    pool: LanePool,
    payload: dict[str, Any],
) -> dict[int, dict[str, float]]:
    """Exports each point's model on the lanes; (trial -> metrics of the folder). What the record says is delivered and
    is still there is not made again. Raises nothing for one model that fails: its error is in the record's facts."""
    by_number = {outcome.number: outcome for outcome in outcomes}
    facts: dict[str, Any] = record.fact("delivered") or {}
    items = []
    for trial in front.trials:
        folder = spec.output / "best" / f"trial-{trial}"
        if str(trial) in facts and (folder / "model.safetensors").is_file():
            continue
        outcome = by_number[trial]
        assert outcome.last is not None
        weights = trial_folder(spec, trial) / f"attempt-{outcome.last.attempt}"
        item = WorkItem(
            key=f"deliver:{trial}",
            kind=WorkKind.DELIVER,
            trial=trial,
            config=outcome.config,
            folder=str(folder),
            payload={**payload, "weights": str(weights)},
        )
        pool.submit(item)
        items.append(item)
    failures: dict[str, str] = {}
    for item in items:
        result = pool.wait(item.key)
        if result.error:
            failures[str(item.trial)] = result.error
        else:
            facts[str(item.trial)] = result.output
            record.keep("delivered", facts)
        pool.acknowledge(item.key)
    record.keep("delivery_failures", failures)
    return delivered_metrics(record)
