"""What a study's lanes cost from the command's start to its end, over all runs of the study: GPU hours, and money."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.record.record import Record
from spaces.study import StudySpec


def num_gpus(spec: StudySpec, num_lanes: int) -> float:
    return num_lanes * spec.resources.workers_per_lane * spec.resources.gpus_per_worker


class LaneHours:
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
        self._spec, self._num_lanes = spec, num_lanes
        self._most, self._record, self._begun, self._clock = spec.budget.gpu_hours, record, begun, clock
        self._gpu_hours = float(record.fact("gpu_hours") or 0.0)
        self._paid: dict[str, float] = record.fact("paid") or {}

    @property
    def num_gpus(self) -> float:
        return num_gpus(self._spec, self._num_lanes)

    @property
    def gpu_hours(self) -> float:
        return self._gpu_hours + self.num_gpus * (self._clock() - self._begun) / 3600

    @property
    def an_hour(self) -> float:
        """Of money, for all lanes together; 0 where the study says no price."""
        price = self._spec.resources.price
        return 0.0 if price is None else price.per_lane_hour * self._num_lanes

    @property
    def paid(self) -> dict[str, float]:
        """By currency: a run may have had another price than the last."""
        price = self._spec.resources.price
        if price is None:
            return self._paid
        now = self.an_hour * (self._clock() - self._begun) / 3600
        return {**self._paid, price.currency: self._paid.get(price.currency, 0.0) + now}

    def of_lanes(self, num_lanes: int) -> None:
        """From now on it is so many."""
        self._gpu_hours, self._paid, self._begun = self.gpu_hours, self.paid, self._clock()
        self._num_lanes = num_lanes

    def keep(self) -> None:
        if self.num_gpus:
            self._record.keep("gpu_hours", self.gpu_hours)
        if self.an_hour:
            self._record.keep("paid", self.paid)

    @property
    def deadline(self) -> float | None:
        """When, by the clock, the budget is spent; None where there is none."""
        return None if self._most is None else self._begun + 3600 * (self._most - self._gpu_hours) / self.num_gpus
