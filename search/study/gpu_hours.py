"""GPU hours: what a study's lanes hold of GPUs, from the command's start to its end, over all runs of the study."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.record.record import Record
from spaces.study import StudySpec


def num_gpus(spec: StudySpec, num_lanes: int) -> float:
    return num_lanes * spec.resources.workers_per_lane * spec.resources.gpus_per_worker


class GpuHours:
    """The record keeps what was spent: `keep` it after every trial, and a killed run is counted but for its last minutes."""

    def __init__(
        self,
        spec: StudySpec,
        record: Record,
        *,
        num_lanes: int,
        begun: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._num_gpus = spec, num_gpus(spec, num_lanes)
        self._most, self._record, self._begun, self._clock = spec.budget.gpu_hours, record, begun, clock
        self._before = float(record.fact("gpu_hours") or 0.0)

    @property
    def counts(self) -> bool:
        return self._num_gpus > 0

    @property
    def spent(self) -> float:
        return self._before + self._num_gpus * (self._clock() - self._begun) / 3600

    def of_lanes(self, num_lanes: int) -> None:
        """From now on it is so many."""
        self._before, self._begun = self.spent, self._clock()
        self._num_gpus = num_gpus(self._spec, num_lanes)

    def keep(self) -> None:
        if self._num_gpus:
            self._record.keep("gpu_hours", self.spent)

    @property
    def deadline(self) -> float | None:
        """When, by the clock, the budget is spent; None where there is none."""
        return None if self._most is None else self._begun + 3600 * (self._most - self._before) / self._num_gpus
