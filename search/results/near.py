"""Near the front: trials that chance alone may have kept off it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from search.results.front import ParetoFront, Reference, candidates
from search.results.scores import standard_error
from spaces.deployment import COSTS
from spaces.study import StudySpec
from spaces.trial import TrialOutcome

NOISE = 1.0  # standard errors of a score


def near_front(
    front: ParetoFront,
    outcomes: Sequence[TrialOutcome],
    spec: StudySpec,
    references: Sequence[Reference],
    num_rows: int,
) -> tuple[int, ...]:
    """At most `confirm.near` trials that finished, keep the bounds and are not on the front, but would be if each of their measured
    objectives were NOISE standard errors higher; the nearest first.

    `num_rows` of the validation split say what a standard error is. It is one of the difference too: students of one teacher err on
    the same rows, by half at least (`scores.AGREEMENT`), and what they said to each row is not kept. A metric of the study's own
    has no standard error and lifts nobody.
    """
    if not spec.confirm.near:
        return ()
    far = {
        point.trial: _errors_off(point.values, front, num_rows)
        for point in candidates(outcomes, spec, references)
        if point.trial not in front.trials
    }
    near = sorted((errors, trial) for trial, errors in far.items() if errors < NOISE)
    return tuple(trial for _, trial in near[: spec.confirm.near])


def _errors_off(values: Mapping[str, float], front: ParetoFront, num_rows: int) -> float:
    """By how many standard errors a trial misses the front: to pass a point of it, one objective is enough."""
    missed = 0.0
    for point in front.points:
        if all(
            values[name] >= point.values[name] if name in COSTS else values[name] <= point.values[name]
            for name in values
        ):
            missed = max(
                missed, min(_errors_below(name, values[name], point.values[name], num_rows) for name in values)
            )
    return missed


def _errors_below(name: str, value: float, other: float, num_rows: int) -> float:
    error = None if name in COSTS else standard_error(name, value, num_rows)
    return (other - value) / error if error else math.inf
