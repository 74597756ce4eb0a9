"""How the search went: the front's hypervolume over the training that it took."""

from __future__ import annotations

from collections.abc import Sequence

from search.results.front import (
    Reference,
    candidates,
    coordinates,
    corner,
    dominates,
    hypervolume,
)
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome


class CoursePoint(Frozen):
    """Where the search stood: the seconds that all its trials had trained, on all lanes together, how many had finished within the
    bounds, and the hypervolume of their front."""

    train_seconds: float
    finished: int
    hypervolume: float


def course(
    outcomes: Sequence[TrialOutcome], spec: StudySpec, references: Sequence[Reference]
) -> tuple[CoursePoint, ...]:
    """From nothing, by the order in which measurements came in, each time that the hypervolume grew, to where it ended.

    Every measured segment counts as spent, also of trials that did not go on; what a trial that failed or still runs has spent
    since its last measurement is not known. Confirmations (labelled `of`) are no part of the search.
    """
    rows = {point.trial: coordinates(point.values, spec.objectives) for point in candidates(outcomes, spec, references)}
    segments = sorted(
        (measured.cost.get("finished_at", 0.0), outcome.number, measured.share, measured.cost.get("train_seconds", 0.0))
        for outcome in outcomes
        if "of" not in outcome.labels
        for measured in outcome.measurements
    )
    limit, directions = coordinates(corner(spec, references), spec.objectives), ["minimize"] * len(spec.objectives)
    went, front, seconds, finished = (
        [CoursePoint(train_seconds=0, finished=0, hypervolume=0)],
        list[int](),
        0.0,
        0,
    )
    for _, trial, share, cost in segments:
        seconds += cost
        if share < 1 or trial not in rows:
            continue
        finished += 1
        row = rows[trial]
        if any(rows[other] == row or dominates(rows[other], row, directions) for other in front):
            continue
        front = [other for other in front if not dominates(row, rows[other], directions)] + [trial]
        volume = hypervolume([rows[other] for other in front], limit, directions)
        if volume > went[-1].hypervolume:
            went.append(CoursePoint(train_seconds=seconds, finished=finished, hypervolume=volume))
    if (went[-1].train_seconds, went[-1].finished) != (seconds, finished):
        went.append(CoursePoint(train_seconds=seconds, finished=finished, hypervolume=went[-1].hypervolume))
    return tuple(went)
