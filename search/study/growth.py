"""How the front grew, measurement by measurement, and whether it has stopped: what `budget.flat` asks about."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from search.results.front import ParetoFront, Reference, candidates, dominates
from search.suggest.changes import Changes
from spaces.budget import FlatSpec
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome

Key = tuple[float, int, float]  # when it was measured, the trial, the share of its training


@dataclass(frozen=True)
class Step:
    """What stood after one measurement. `num_measured` trials count: each from its first measurement on."""

    key: Key
    outcome: TrialOutcome
    measurement: Measurement
    front: tuple[TrialOutcome, ...]
    hypervolume: float
    num_measured: int
    is_flat: bool


class Growth:
    """A function of the outcomes alone, in the order in which they were measured, so that a study that was cut off stops where an
    uninterrupted one does: flat once is flat for good. Trials numbered below `since` do not count, but stand on the front.

    With halving a trial counts where it is measured first: what was left at a rung had its chance.
    """

    def __init__(self, spec: StudySpec, flat: FlatSpec, references: Sequence[Reference], since: int = 0) -> None:
        self._spec, self._flat, self._references, self._since = spec, flat, references, since
        self._steps: list[Step] = []
        self._changes = Changes()
        self._known = set[tuple[int, float]]()

    @property
    def in_words(self) -> str:
        more = f" by more than {100 * self._flat.growth:.4g}%" if self._flat.growth else ""
        return f"the front has not grown{more} for {self._flat.trials} trials"

    def is_flat(self, outcomes: Sequence[TrialOutcome]) -> bool:
        """Whether it has stopped growing by now. Only what was measured since the last call costs anything to speak of."""
        new = [
            (_key(measurement), outcome, measurement)
            for outcome in map(outcomes.__getitem__, self._changes.of(outcomes))
            for measurement in outcome.measurements
            if (measurement.trial, measurement.share) not in self._known
        ]
        for key, outcome, measurement in sorted(new, key=lambda entry: entry[0]):
            self._known.add((measurement.trial, measurement.share))
            later = []
            while self._steps and self._steps[-1].key > key:  # lanes' clocks, and results that crossed
                later.append(self._steps.pop())
            self._add(key, outcome, measurement)
            for step in reversed(later):
                self._add(step.key, step.outcome, step.measurement)
        return bool(self._steps) and self._steps[-1].is_flat

    def _add(self, key: Key, outcome: TrialOutcome, measurement: Measurement) -> None:
        last = self._steps[-1] if self._steps else None
        front, hypervolume = (last.front, last.hypervolume) if last else ((), 0.0)
        counts = outcome.number >= self._since and measurement.share == outcome.measurements[0].share
        num_measured = (last.num_measured if last else 0) + counts
        if measurement.share >= 1 and self._may_change(front, outcome):
            found = ParetoFront.of([*front, outcome], self._spec, self._references)
            front = tuple(each for each in (*front, outcome) if each.number in found.trials)
            hypervolume = found.hypervolume
        before = bisect_right(self._steps, num_measured - self._flat.trials, key=lambda step: step.num_measured) - 1
        base = self._steps[before].hypervolume if before >= 0 else 0.0
        flat = num_measured >= self._flat.trials and 0 < hypervolume <= base * (1 + self._flat.growth)
        self._steps.append(
            Step(
                key, outcome, measurement, front, hypervolume, num_measured, flat or (last is not None and last.is_flat)
            )
        )

    def _may_change(self, front: Sequence[TrialOutcome], outcome: TrialOutcome) -> bool:
        """Not where one of the front is better in everything, as with most of thousands of trials."""
        names, directions = list(self._spec.objectives), list(self._spec.objectives.values())
        rows = [[values[name] for name in names] for each in front for values in [each.values()]]
        new = candidates([outcome], self._spec, self._references)
        return bool(new) and not any(dominates(row, list(new[0].values.values()), directions) for row in rows)


def _key(measurement: Measurement) -> Key:
    return measurement.cost.get("finished_at", 0.0), measurement.trial, measurement.share
