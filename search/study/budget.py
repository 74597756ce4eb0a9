"""What the study may spend: trials and minutes, and how much of the minutes is kept for what comes after the search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from statistics import median

from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

OVERHEAD_SECONDS = 12.0  # delivery, report and the closing of lanes, as measured on two cores
FRONT_GUESS = 5  # points of the front before one is known
RECENT = 100  # trials whose times say what the next one takes


class Budget:
    """Times come from what was measured: seconds a FLOP of the trials finished so far; before any, there is no guess.

    `scoring_share` is what scoring a delivered model costs, as a share of its training.
    """

    def __init__(
        self,
        spec: StudySpec,
        *,
        num_lanes: int,
        tokens_per_text: float,
        deadline: float | None,
        front_size: Callable[[], int],
        scoring_share: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._lanes, self._tokens = spec, num_lanes, max(1, round(tokens_per_text))
        self.deadline, self._front_size, self._clock = deadline, front_size, clock
        self._scoring_share = scoring_share

    def allows(self, outcomes: Sequence[TrialOutcome]) -> bool:
        """Whether another trial may start, by their number and by the time kept back."""
        if len(outcomes) >= self._spec.budget.trials:
            return False
        return self.deadline is None or self._clock() + self.kept_back(outcomes) < self.deadline

    def has_time_for(self, shape: StudentShape, outcomes: Sequence[TrialOutcome], share: float = 1.0) -> bool:
        """Whether this share of a trial of this shape would end before what comes after the search has to begin. Running trials
        are counted in: a new one begins when a lane is free."""
        if self.deadline is None:
            return True
        seconds = self.seconds_for(shape, outcomes)
        if seconds is None:
            return True
        waiting = [
            (self.seconds_for(outcome.config.shape, outcomes) or 0.0) * (outcome.until - outcome.share)
            for outcome in outcomes
            if outcome.state in (TrialState.RUNNING, TrialState.PROMOTED)
        ]
        ahead = max(0.0, sum(waiting) / 2 / self._lanes) if len(waiting) >= self._lanes else 0.0
        return self._clock() + ahead + seconds * share + self.kept_back(outcomes) < self.deadline

    def seconds_for(self, shape: StudentShape, outcomes: Sequence[TrialOutcome]) -> float | None:
        """The predicted seconds of one full trial; None before anything was measured."""
        measured = (
            outcome.train_seconds / outcome.share / outcome.config.shape.flops(self._tokens)
            for outcome in reversed(outcomes)
            if outcome.train_seconds
        )
        rates = list(islice(measured, RECENT))
        return median(rates) * shape.flops(self._tokens) if rates else None

    def kept_back(self, outcomes: Sequence[TrialOutcome]) -> float:
        """Seconds for confirmation and delivery: each point again with more seeds, and without distillation; then scored."""
        confirm, points = self._spec.confirm, self._front_size() or FRONT_GUESS
        again = points * (confirm.seeds - 1) + {"all": points, "best": 1, "none": 0}[confirm.without_distillation]
        done = [outcome.train_seconds for outcome in outcomes if outcome.state is TrialState.DONE]
        if not done:
            return OVERHEAD_SECONDS
        training = max(again * median(done) / self._lanes, max(done) if again else 0.0)
        return OVERHEAD_SECONDS + training + points * median(done) * self._scoring_share / self._lanes

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - self._clock()
