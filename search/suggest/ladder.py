"""The ladder of a study: who was measured at which rung, who waits there, who goes on. What `halving` decides about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from search.results.front import SMALLEST
from search.suggest.halving import Rung, dominates, halving, hopeless
from spaces.deployment import COSTS
from spaces.search import HalvingSpec
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, TrialState


class Ladder:
    """Rungs below the last, filled as measurements come. `limits` are the bounds with percentages resolved, by metric.

    A study without halving has no such rung, and its ladder never says anything.
    """

    def __init__(self, spec: StudySpec, limits: Mapping[str, tuple[float, float]]) -> None:
        self._objectives, self._shares = spec.objectives, spec.search.rungs[:-1]
        self._reduction = spec.search.halving.reduction if isinstance(spec.search.halving, HalvingSpec) else 1.0
        # What arithmetic knows keeps its bounds from the start.
        counted = [name for name in COSTS if not spec.deployment.is_measured(name)]
        self._limits = {name: limit for name, limit in limits.items() if name not in counted}
        self._rungs = [_empty(len(spec.objectives)) for _ in self._shares]
        # What is bounded, of each trial at each rung; the last rung too.
        self._values: list[dict[int, dict[str, float]]] = [{} for _ in spec.search.rungs]

    @property
    def has_rungs(self) -> bool:
        return bool(self._shares)

    def next_share(self, share: float) -> float:
        """Where a trial that stands at `share` of its training is measured next."""
        return next((rung for rung in self._shares if rung > share + 1e-9), 1.0)

    def measured(self, outcome: TrialOutcome, measurement: Measurement) -> None:
        """The trial was measured: it waits at this rung from now on. At the end of the training it waits for nothing."""
        place = self._place(measurement.share)
        values = outcome.model_copy(update={"measurements": (measurement,)}).values()
        known = self._values[-1 if place is None else place]
        known[outcome.number] = {name: values.get(name, math.nan) for name in self._limits}
        if place is None:
            return
        row = np.array([[_loss(name, values[name], way) for name, way in self._objectives.items()]])
        row = np.where(np.isfinite(row), row, 1e9)  # a score that is no number is the worst
        rung = self._rungs[place]
        above = dominates(rung.losses, row)
        self._rungs[place] = Rung(
            trials=np.append(rung.trials, outcome.number),
            losses=np.concatenate([rung.losses, row]),
            violations=np.append(rung.violations, 0.0),
            waits=np.append(rung.waits, True),
            promoted=np.append(rung.promoted, False),
            dominators=np.append(rung.dominators + dominates(row, rung.losses), above.sum()),
        )

    def due(self, last: bool = False) -> tuple[int, float] | None:
        """(trial, share it stands at) that is to go on, or None. `last`: no trial will join."""
        found = halving([self._bounded(place) for place in range(len(self._rungs))], self._reduction, last)
        return None if found is None else (found[1], self._shares[found[0]])

    def promote(self, trial: int, share: float) -> None:
        place = self._place(share)
        assert place is not None
        self._mark(place, trial, promoted=True)

    def settle(self, outcome: TrialOutcome) -> None:
        """What became of a trial: it waits nowhere that it went on from, and not where it ended. Failing it was under way."""
        went_on = outcome.state in (TrialState.PROMOTED, TrialState.DONE, TrialState.FAILED)
        for measurement in outcome.measurements:
            place = self._place(measurement.share)
            if place is not None and (went_on or measurement is not outcome.last):
                self._mark(place, outcome.number, promoted=True)
            elif place is not None and outcome.state is TrialState.ENDED:
                self._mark(place, outcome.number, promoted=False)

    def hopeless(self, share: float, most: float) -> list[int]:
        """Trials that wait at this rung in vain, if no more than `most` are ever measured there."""
        place = self._place(share)
        return [] if place is None else hopeless(self._rungs[place], self._reduction, most)

    def waiting(self) -> list[int]:
        return sorted({int(trial) for rung in self._rungs for trial in rung.trials[rung.waits]})

    def _place(self, share: float) -> int | None:
        return next((place for place, rung in enumerate(self._shares) if abs(rung - share) < 1e-6), None)

    def _mark(self, place: int, trial: int, *, promoted: bool) -> None:
        rung = self._rungs[place]
        its = rung.trials == trial
        self._rungs[place] = replace(rung, waits=rung.waits & ~its, promoted=rung.promoted | (its & promoted))

    def _bounded(self, place: int) -> Rung:
        """The rung with what its trials would miss the bounds by at the end of their training: as much better or worse as those
        became, in the median, that were measured at both."""
        rung = self._rungs[place]
        if not self._limits or not len(rung.trials):
            return rung
        missed = np.zeros(len(rung.trials))
        for name, (low, high) in self._limits.items():
            values = np.array([known[name] for known in self._values[place].values()])
            values = values + self._gain(place, name)
            scale = max(abs(low) if math.isfinite(low) else 0.0, abs(high) if math.isfinite(high) else 0.0, 1e-9)
            missed += np.nan_to_num(np.maximum(np.maximum(low - values, values - high), 0), nan=1.0, posinf=1.0) / scale
        return replace(rung, violations=missed)

    def _gain(self, place: int, name: str) -> float:
        """What a score grows by from this rung to the next, and so on to the end."""
        total = 0.0
        for now, later in pairwise(self._values[place:]):
            gains = [later[trial][name] - known[name] for trial, known in now.items() if trial in later]
            total += float(np.median(gains)) if gains else 0.0
        return total


def _empty(num_objectives: int) -> Rung:
    none = np.zeros(0, bool)
    return Rung(np.zeros(0, np.int64), np.zeros((0, num_objectives)), np.zeros(0), none, none, np.zeros(0, np.int64))


def _loss(name: str, value: float, way: str) -> float:
    if name in COSTS:
        return math.log10(max(value, SMALLEST))
    return -value if way == "maximize" else value
