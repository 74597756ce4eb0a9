"""Delivers the front's models: a Hugging Face folder for each point, made and scored on the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.lanes.pool import LanePool
from search.record.record import Record
from search.results.front import ParetoFront
from search.study.output import delivered_metrics, weights_folder
from search.trial import mirror
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, WorkItem, WorkKind


class Delivery:
    """`ask` for each point's model, on lanes that confirmation leaves free; then `collect`."""

    def __init__(
        self,
        spec: StudySpec,
        front: ParetoFront,
        outcomes: Sequence[TrialOutcome],
        record: Record,
        pool: LanePool,
        payload: dict[str, Any],
    ) -> None:
        self._spec, self._front, self._outcomes = spec, front, outcomes
        self._record, self._pool, self._payload = record, pool, payload
        self._facts: dict[str, Any] = record.fact("delivered") or {}
        self._asked: list[WorkItem] = []

    def ask(self) -> None:
        """What the record says is delivered and is still there is not made again."""
        by_number = {outcome.number: outcome for outcome in self._outcomes}
        for trial in self._front.trials:
            folder = self._spec.output / "best" / f"trial-{trial}"
            if str(trial) in self._facts and mirror.bring(folder) and (folder / "model.safetensors").is_file():
                continue
            outcome = by_number[trial]
            assert outcome.last is not None
            weights = weights_folder(self._spec, outcome.last)
            item = WorkItem(
                key=f"deliver:{trial}",
                kind=WorkKind.DELIVER,
                trial=trial,
                config=outcome.config,
                folder=str(folder),
                payload={**self._payload, "weights": str(weights)},
            )
            self._pool.submit(item)
            self._asked.append(item)

    def collect(self) -> dict[int, dict[str, float]]:
        """trial -> metrics of its folder. Raises nothing for one model that fails: its error is in the record's facts."""
        failures: dict[str, str] = {}
        for item in self._asked:
            result = self._pool.wait(item.key)
            if result.error:
                failures[str(item.trial)] = result.error
            else:
                mirror.bring(item.leaves)
                self._facts[str(item.trial)] = result.output
                self._record.keep("delivered", self._facts)
            self._pool.acknowledge(item.key)
        self._record.keep("delivery_failures", failures)
        return delivered_metrics(self._record)
