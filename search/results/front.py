"""Dominance, hypervolume, knee, and the ParetoFront of a study. Pure functions over rows of numbers; no torch, no ray.

A row holds one value an objective, in the order of `directions`, each of which is "maximize" or "minimize".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from spaces.deployment import COSTS, PREFIX
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

Row = Sequence[float]
SMALLEST = 1e-6  # of a cost, for its logarithm


class Reference(Frozen):
    """What students are held against. `name` is `teacher`, `teacher_cut` (the teacher with its vocabulary cut),
    `ngrams` (the floor) or `majority`; `label` is for people. Metrics are named `split/name`, costs where it will run
    `deployed/name`; a size of 0 means none.
    """

    name: str
    label: str
    num_parameters: int = 0
    num_bytes: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)

    def value(self, metric: str, split: str = "validation") -> float:
        """A study metric such as `accuracy` or `parameters`; NaN where it was not measured."""
        if metric in COSTS:
            sizes = {"parameters": float(self.num_parameters), "bytes": float(self.num_bytes)}
            return self.metrics.get(PREFIX + metric, sizes.get(metric, math.nan))
        return self.metrics.get(f"{split}/{metric}", math.nan)


def reference_named(references: Sequence[Reference], name: str) -> Reference | None:
    return next((reference for reference in references if reference.name == name), None)


def _losses(row: Row, directions: Sequence[str]) -> tuple[float, ...]:
    """The row with every objective to be minimised."""
    return tuple(-value if way == "maximize" else value for value, way in zip(row, directions, strict=True))


def _dominates(left: Row, right: Row) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True)) and any(
        a < b for a, b in zip(left, right, strict=True)
    )


def dominates(left: Row, right: Row, directions: Sequence[str]) -> bool:
    """Whether `left` is nowhere worse than `right` and somewhere better. A NaN neither dominates nor is dominated."""
    return _dominates(_losses(left, directions), _losses(right, directions))


def non_dominated(points: Sequence[Row], directions: Sequence[str]) -> list[int]:
    """The places, rising, of the points that no other dominates. Of equal points the first counts; NaN never enters."""
    rows = [_losses(point, directions) for point in points]
    whole = [place for place, row in enumerate(rows) if not any(map(math.isnan, row))]
    kept: list[int] = []
    for place in sorted(whole, key=lambda place: (rows[place], place)):  # whatever dominates a row sorts before it
        if not any(rows[other] == rows[place] or _dominates(rows[other], rows[place]) for other in kept):
            kept.append(place)
    return sorted(kept)


def hypervolume(points: Sequence[Row], reference: Row, directions: Sequence[str]) -> float:
    """The exact volume that the points dominate, up to the reference; a point no better than it adds nothing.

    By slicing along the last objective (HSO; While et al. 2006), which is short, and quick enough for a front's tens of
    points in two to four objectives. Optuna's is private and may move, and the front is to be read without Optuna.
    """
    limit = _losses(reference, directions)
    rows = [_losses(points[place], directions) for place in non_dominated(points, directions)]
    return _volume([row for row in rows if all(a < b for a, b in zip(row, limit, strict=True))], limit)


def _volume(rows: list[tuple[float, ...]], limit: tuple[float, ...]) -> float:
    if not rows:
        return 0.0
    if len(limit) == 1:
        return limit[0] - min(rows)[0]
    if len(limit) == 2:  # a staircase: also right in one pass, which keeps the recursion off the plane
        area, ceiling = 0.0, limit[1]
        for x, y in sorted(rows):
            if y < ceiling:
                area += (limit[0] - x) * (ceiling - y)
                ceiling = y
        return area
    ordered = sorted(rows, key=lambda row: row[-1])
    total = 0.0
    for count, row in enumerate(ordered, start=1):
        top = ordered[count][-1] if count < len(ordered) else limit[-1]
        if top > row[-1]:
            total += (top - row[-1]) * _volume([other[:-1] for other in ordered[:count]], limit[:-1])
    return total


def knee(points: Sequence[Row], directions: Sequence[str]) -> int:
    """The place of the point farthest from the chord of the front, on its better side, once each objective is scaled
    to 0 (best on the front) .. 1 (worst); ties go to the first, so a straight front answers with its first point.

    The chord of two objectives is the line x + y = 1; its like for more is the plane through the unit points. The
    distance is then (1 - sum) / sqrt(objectives), so that the smallest sum wins. Sizes should come as log10.
    """
    rows = [_losses(point, directions) for point in points]
    if not rows:
        raise ValueError("an empty front has no knee")
    columns = list(zip(*rows, strict=True))
    spans = [(min(column), max(column) - min(column)) for column in columns]

    def scaled_sum(place: int) -> float:
        row = zip(rows[place], spans, strict=True)
        return round(sum((value - low) / span if span else 0.0 for value, (low, span) in row), 12)

    return min(range(len(rows)), key=lambda place: (scaled_sum(place), place))


class FrontPoint(Frozen):
    """One student of the front: its trial, and its objectives' values under their study names."""

    trial: int
    values: dict[str, float]


class ParetoFront(Frozen):
    """The students that no other beats in every objective, the smallest first.

    `hypervolume` is measured on (1 - quality, log10 size) up to `reference`, which is written in the objectives' own
    units: the majority's quality (0 where it was not measured) and the teacher's size. `knee` is a trial's number: the
    farthest point from the chord of the front on the same axes, scaled; an empty front has none (-1).
    """

    objectives: dict[str, str]
    points: tuple[FrontPoint, ...]
    hypervolume: float
    reference: dict[str, float]
    knee: int = -1

    @property
    def trials(self) -> tuple[int, ...]:
        return tuple(point.trial for point in self.points)

    @classmethod
    def of(cls, outcomes: Sequence[TrialOutcome], spec: StudySpec, references: Sequence[Reference]) -> ParetoFront:
        """The front over `candidates`."""
        points = candidates(outcomes, spec, references)
        # In the objectives' own units first: log10 could round two sizes that differ into one.
        directions = list(spec.objectives.values())
        places = non_dominated([tuple(point.values.values()) for point in points], directions)
        axes = sorted(spec.objectives, key=lambda name: (name not in COSTS, list(spec.objectives).index(name)))
        front = sorted((points[place] for place in places), key=lambda point: [point.values[name] for name in axes])

        reference = corner(spec, references)
        rows = [coordinates(point.values, spec.objectives) for point in front]
        minimise = ["minimize"] * len(directions)
        return cls(
            objectives=dict(spec.objectives),
            points=tuple(front),
            hypervolume=hypervolume(rows, coordinates(reference, spec.objectives), minimise),
            reference=reference,
            knee=front[knee(rows, minimise)].trial if front else -1,
        )


def candidates(outcomes: Sequence[TrialOutcome], spec: StudySpec, references: Sequence[Reference]) -> list[FrontPoint]:
    """The trials that finished their training and keep the bounds, by number. Trials that belong to another one (confirmations,
    labelled `of`) are none. Raises ValueError where `references` lack the teacher."""
    teacher = _teacher(references)
    limits = {name: bound.limits(teacher.value(name)) for name, bound in spec.bounds.items()}
    points = (
        FrontPoint(trial=outcome.number, values={name: values[name] for name in spec.objectives})
        for outcome in outcomes
        if outcome.state is TrialState.DONE and "of" not in outcome.labels
        for values in [outcome.values()]
        if values.keys() >= spec.objectives.keys() and all(math.isfinite(values[name]) for name in spec.objectives)
        if all(low <= values.get(name, math.nan) <= high for name, (low, high) in limits.items())
    )
    return sorted(points, key=lambda point: point.trial)


def corner(spec: StudySpec, references: Sequence[Reference]) -> dict[str, float]:
    """Up to where the hypervolume is measured, in the objectives' own units: the majority's quality (0 where it was not measured)
    and the teacher's size."""
    teacher, majority = _teacher(references), reference_named(references, "majority")
    floor = {name: majority.value(name) if majority else 0.0 for name in spec.objectives if name not in COSTS}
    return {
        name: (0.0 if math.isnan(floor[name]) else floor[name]) if name in floor else teacher.value(name)
        for name in spec.objectives
    }


def _teacher(references: Sequence[Reference]) -> Reference:
    teacher = reference_named(references, "teacher")
    if teacher is None:
        raise ValueError("the front is measured against the teacher; references hold none of that name")
    return teacher


def coordinates(values: Mapping[str, float], objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The axes of the hypervolume and the knee: error = 1 - quality, and log10 of a size; both to be minimised."""
    return tuple(math.log10(max(values[name], SMALLEST)) if name in COSTS else 1 - values[name] for name in objectives)
