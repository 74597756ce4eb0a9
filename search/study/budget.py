"""What the study may spend: trials, time and tokens, and how much of the time is kept for what comes after the search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import compress, islice
from statistics import median

import numpy as np

from search.results.front import Reference
from search.study.growth import Growth
from search.suggest.changes import Columns
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import TrialConfig, TrialOutcome, TrialState

OVERHEAD_SECONDS = 12.0  # delivery, report and the closing of lanes, as measured on two cores
FRONT_GUESS = 5  # points of the front before one is known
RECENT = 100  # trials whose times say what the next one takes
IN_PLAY = (TrialState.RUNNING, TrialState.PROMOTED)


class Budget:
    """Times come from what was measured: seconds a FLOP of the trials finished so far; before any, there is no guess.

    `deadline` is by the clock, of minutes and GPU hours whichever is first; `scoring_share` is what scoring a delivered model
    costs, as a share of its training; `trial_tokens` says what a whole trial is trained on. The front counts as flat from
    trial `since` on, against `references`.
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
        trial_tokens: Callable[[TrialConfig], float] = lambda config: 0.0,
        references: Sequence[Reference] = (),
        since: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._lanes, self._tokens = spec, num_lanes, max(1, round(tokens_per_text))
        self.deadline, self._front_size, self._clock = deadline, front_size, clock
        self._scoring_share, self._trial_tokens = scoring_share, trial_tokens
        self._columns = Columns(
            is_done=lambda outcome: outcome.state is TrialState.DONE,
            in_play=lambda outcome: outcome.state in IN_PLAY,
            seconds=lambda outcome: outcome.train_seconds,
            tokens=lambda outcome: outcome.train_tokens,
        )
        self._growth = spec.budget.flat and Growth(spec, spec.budget.flat, references, since)

    def allows(self, outcomes: Sequence[TrialOutcome]) -> bool:
        return not self.spent(outcomes)

    def spent(self, outcomes: Sequence[TrialOutcome]) -> str:
        """Why no other trial may start, whichever it is; empty where one may."""
        if len(outcomes) >= self._spec.budget.trials:
            return f"all {self._spec.budget.trials} trials were begun"
        if self._growth and self._growth.is_flat(outcomes):
            return self._growth.in_words
        if self.deadline is not None and self._clock() + self.kept_back(outcomes) >= self.deadline:
            return "the time that is left is kept for confirmation and delivery"
        return ""

    def refuses(self, config: TrialConfig, outcomes: Sequence[TrialOutcome], share: float = 1.0) -> str:
        """Why this share of this trial may not start; empty where it may."""
        if not self.has_time_for(config.shape, outcomes, share):
            return "the next trial would not end before the time that is kept for confirmation and delivery"
        left = self.tokens_left(outcomes)
        if (
            left is not None and (needed := share * self._trial_tokens(config)) > left + 0.5
        ):  # a rung's share is no whole number
            return f"of the training tokens {max(0.0, left):,.0f} are left, and the next trial takes {needed:,.0f}"
        return ""

    def tokens_left(self, outcomes: Sequence[TrialOutcome]) -> float | None:
        """What is not spent by the trials measured so far, nor will be by those that run; None where nothing bounds it."""
        if self._spec.budget.training_tokens is None:
            return None
        known = self._columns.of(outcomes)
        coming = sum(
            self._trial_tokens(outcome.config) * (outcome.until - outcome.share)
            for outcome in compress(outcomes, known["in_play"])
        )
        return self._spec.budget.training_tokens - sum(known["tokens"]) - coming

    def has_time_for(self, shape: StudentShape, outcomes: Sequence[TrialOutcome], share: float = 1.0) -> bool:
        """Whether this share of a trial of this shape would end before what comes after the search has to begin. Running trials
        are counted in: a new one begins when a lane is free."""
        if self.deadline is None:
            return True
        rate = self._seconds_a_flop(outcomes)
        if rate is None:
            return True
        waiting = [
            rate * outcome.config.shape.flops(self._tokens) * (outcome.until - outcome.share)
            for outcome in compress(outcomes, self._columns.of(outcomes)["in_play"])
        ]
        ahead = max(0.0, sum(waiting) / 2 / self._lanes) if len(waiting) >= self._lanes else 0.0
        seconds = rate * shape.flops(self._tokens)
        return self._clock() + ahead + seconds * share + self.kept_back(outcomes) < self.deadline

    def seconds_for(self, shape: StudentShape, outcomes: Sequence[TrialOutcome]) -> float | None:
        """The predicted seconds of one full trial; None before anything was measured."""
        rate = self._seconds_a_flop(outcomes)
        return None if rate is None else rate * shape.flops(self._tokens)

    def _seconds_a_flop(self, outcomes: Sequence[TrialOutcome]) -> float | None:
        measured = (
            outcome.train_seconds / outcome.share / outcome.config.shape.flops(self._tokens)
            for outcome in reversed(outcomes)
            if outcome.train_seconds
        )
        rates = list(islice(measured, RECENT))
        return median(rates) if rates else None

    def kept_back(self, outcomes: Sequence[TrialOutcome]) -> float:
        """Seconds for confirmation and delivery: each point again with more seeds, and without distillation; then scored."""
        confirm, points = self._spec.confirm, self._front_size() or FRONT_GUESS
        again = points * (confirm.seeds - 1) + {"all": points, "best": 1, "none": 0}[confirm.without_distillation]
        known = self._columns.of(outcomes)
        done = np.array(list(compress(known["seconds"], known["is_done"])))
        if not len(done):
            return OVERHEAD_SECONDS
        middle = float(np.median(done))
        training = max(again * middle / self._lanes, float(done.max()) if again else 0.0)
        return OVERHEAD_SECONDS + training + points * middle * self._scoring_share / self._lanes

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - self._clock()
