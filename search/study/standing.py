"""Where a study stands while it runs: plain numbers for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from search.results.course import course
from search.results.front import ParetoFront, Reference
from search.study.budget import IN_PLAY, Budget
from spaces.deployment import COSTS
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

if TYPE_CHECKING:  # they import Ray and Optuna, which a display can do without
    from search.study.lane_hours import LaneHours
    from search.study.searcher import StudySearcher

RECENT_SECONDS = 600.0  # over which rates are taken
RECENT_TRIALS = 500  # and of how many at most


@dataclass(frozen=True)
class Standing:
    """What a display shows. `front` holds a row a student, under `columns`; `course` the hypervolume by the number of trials that
    had finished; `spent` words such as `12 of 30 min`; `ends_by` what ends the search first. Empty or None is what is not known."""

    stage: str = ""
    counts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    front: tuple[dict[str, float], ...] = ()
    course: tuple[tuple[int, float], ...] = ()
    trials_per_hour: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    ends_by: str = ""
    spent: tuple[str, ...] = ()
    made_at: float = field(default_factory=time.monotonic)


class Standings:
    """Makes them: `made` may be called from another thread than the driver's, and reads only."""

    def __init__(
        self, spec: StudySpec, lane_hours: LaneHours, num_lanes: int, references: Sequence[Reference], begun: float
    ) -> None:
        self._spec, self._lane_hours, self._num_lanes, self._references = spec, lane_hours, num_lanes, references
        self._begun, self._since = begun, time.time()
        self._course: list[tuple[int, float]] = []

    def made(self, searcher: StudySearcher, budget: Budget, stage: str = "") -> Standing:
        outcomes, front = searcher.ordered, searcher.front
        per_hour, tokens = self._rates(outcomes)
        seconds, ends_by = (None, "") if stage else self._left(outcomes, budget)
        return Standing(
            stage=stage,
            counts=_counts(self._spec, outcomes),
            columns=("parameters", *(name for name in self._spec.objectives if name != "parameters")),
            front=tuple(self._front_rows(searcher, front)),
            course=self._grown(outcomes, front),
            trials_per_hour=per_hour,
            tokens_per_second=tokens,
            seconds_left=seconds,
            ends_by=ends_by,
            spent=self._spent(outcomes, budget, seconds),
        )

    def _front_rows(self, searcher: StudySearcher, front: ParetoFront) -> list[dict[str, float]]:
        quality, teacher = self._spec.quality, self._references[0].value(self._spec.quality)
        rows = []
        for point in front.points:
            size = searcher.outcomes[point.trial].config.shape.num_parameters
            row = {"trial": float(point.trial), "parameters": float(size), **point.values}
            if quality in row and teacher > 0:
                row["of teacher"] = row[quality] / teacher
            rows.append(row)
        return rows

    def _grown(self, outcomes: Sequence[TrialOutcome], front: ParetoFront) -> tuple[tuple[int, float], ...]:
        """Of an earlier run from its outcomes, once; from then on as it comes."""
        if not self._course:
            self._course = [(p.finished, p.hypervolume) for p in course(outcomes, self._spec, self._references)]
        now = (sum(outcome.state is TrialState.DONE for outcome in outcomes), front.hypervolume)
        if now != self._course[-1]:
            if len(self._course) > 1 and self._course[-1][1] == self._course[-2][1] == now[1]:
                self._course.pop()  # a flat stretch is its two ends
            self._course.append(now)
        return tuple(self._course)

    def _rates(self, outcomes: Sequence[TrialOutcome]) -> tuple[float | None, float | None]:
        """Of this command's search: trials measured (a segment counts as its share) an hour, tokens a second."""
        now = time.time()
        since = max(self._since, now - RECENT_SECONDS)
        shares = tokens = 0.0
        for outcome in islice(reversed(outcomes), RECENT_TRIALS):
            before = 0.0
            for measured in outcome.measurements:
                if measured.cost.get("finished_at", 0.0) >= since:
                    shares += measured.share - before
                    tokens += measured.cost.get("tokens", 0.0)
                before = measured.share
        seconds = max(1.0, now - since)
        return (3600 * shares / seconds, tokens / seconds) if shares else (None, None)

    def _left(self, outcomes: Sequence[TrialOutcome], budget: Budget) -> tuple[float | None, str]:
        """Seconds until the command is over, and of what its search runs out."""
        spec, measured = self._spec, [outcome for outcome in outcomes if outcome.share]
        by_clock = budget.seconds_left()
        clock = "GPU hours" if budget.deadline == self._lane_hours.deadline else "minutes"
        if not measured:
            return (None, "") if by_clock is None else (max(0.0, by_clock), clock)
        shares = sum(outcome.share for outcome in measured)
        trainings, ends_by = spec.search.mean_share * spec.budget.trials - shares, "trials"
        by_tokens = budget.tokens_left(outcomes)
        if by_tokens is not None:
            running = sum(outcome.state in IN_PLAY for outcome in outcomes)
            each = sum(outcome.train_tokens for outcome in measured) / shares
            if (until := running + by_tokens / max(1.0, each)) < trainings:
                trainings, ends_by = until, "training tokens"
        left = sum(outcome.train_seconds for outcome in measured) / shares * max(0.0, trainings) / self._num_lanes
        left += budget.kept_back(outcomes)
        return (left, ends_by) if by_clock is None or left <= by_clock else (max(0.0, by_clock), clock)

    def _spent(self, outcomes: Sequence[TrialOutcome], budget: Budget, seconds_left: float | None) -> tuple[str, ...]:
        of, words = self._spec.budget, []
        if of.minutes is not None:
            words.append(f"{(time.monotonic() - self._begun) / 60:.0f} of {of.minutes:g} min")
        if of.training_tokens is not None:
            used = sum(outcome.train_tokens for outcome in outcomes)
            words.append(f"{short(used)} of {short(of.training_tokens)} training tokens")
        if of.gpu_hours is not None:
            words.append(f"{self._lane_hours.gpu_hours:.2f} of {of.gpu_hours:g} GPU hours")
        elif self._lane_hours.num_gpus:
            words.append(f"{self._lane_hours.gpu_hours:.2f} GPU hours")
        price = self._spec.resources.price
        if price is not None:
            paid, an_hour = self._lane_hours.paid[price.currency], self._lane_hours.an_hour
            of_all = "" if seconds_left is None else f" of about {paid + an_hour * seconds_left / 3600:.2f}"
            words.append(f"{paid:.2f}{of_all} {price.currency}")
        return tuple(words)


def _counts(spec: StudySpec, outcomes: Sequence[TrialOutcome]) -> tuple[str, ...]:
    count = {state: sum(outcome.state is state for outcome in outcomes) for state in TrialState}
    running = f"{sum(count[state] for state in IN_PLAY)} running"
    if spec.search.halving == "none":
        words = [f"{count[TrialState.DONE]} of {spec.budget.trials} trials done", running]
    else:
        words = [
            f"{len(outcomes)} of {spec.budget.trials} trials begun", running, f"{count[TrialState.DONE]} trained whole"
        ]  # fmt: skip
    return (*words, *([f"{count[TrialState.FAILED]} failed"] if count[TrialState.FAILED] else []))


def short(number: float) -> str:
    """Such as 1.2 B, 340 M, 12 k."""
    for size, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {word}"
    return f"{number:.3g}"


def in_units(name: str, value: float | None) -> str:
    """An objective's value with its unit: scores in percent, costs as people say them."""
    if value is None or value != value:
        return ""
    if name == "bytes" or name.endswith("_bytes"):
        return f"{value / 1e6:.3g} MB"
    if name.endswith("_ms"):
        return f"{value:.3g} ms"
    return short(value) if name in COSTS else f"{100 * value:.1f} %"
