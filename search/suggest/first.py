"""What a study begins with: what its file puts first, an earlier study's best students, the textbooks'. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from search.suggest.nearest import Wish, nearest
from search.suggest.recipes import wishes_for
from spaces.deployment import COSTS, DeploymentSpec
from spaces.parameters import Choice, Value
from spaces.space import PARAMETERS, SearchSpace
from spaces.student import StudentShape, TeacherShape
from spaces.study import StudySpec

Limits = Mapping[str, tuple[float, float]]
Point = dict[str, Value]


def first_points(
    spec: StudySpec,
    teacher: TeacherShape,
    vocabularies: Mapping[str, int],
    limits: Limits,
    best: Sequence[Wish] = (),
) -> tuple[Point, ...]:
    """The first trials' parameters, by number; what they leave open is sampled. They follow from the study, its teacher and `best`
    alone, so that an interrupted study goes on with the same ones.

    The study's own (`search.first`) come first, as they are; then what was best elsewhere (`best`), which was measured at least;
    then the recipes. Of the last two there are at most `search.startup_trials`, whose place they take.
    """
    recipes = wishes_for(teacher, spec.space) if spec.search.begins_with_recipes else []
    own = spec.search.first
    more: list[Point] = []
    for wishes in (best, recipes):
        points = adapted(wishes, spec.space, teacher, vocabularies, limits, spec.deployment)
        more += [point for point in points if point not in (*own, *more)]
    return (*own, *more[: spec.search.startup_trials])


def adapted(
    wishes: Iterable[Wish],
    space: SearchSpace,
    teacher: TeacherShape,
    vocabularies: Mapping[str, int],
    limits: Limits,
    deployment: DeploymentSpec,
) -> list[Point]:
    """The points of the space nearest to the wishes, each once; without those that make no student within the bounds.

    The largest comes first, the surest to keep the teacher's score; then the smallest; then whichever lies farthest from all before
    it in log size: however few there is time for, they span the sizes.
    """
    found: list[Point] = []
    left: list[tuple[float, Point]] = []
    for wish in wishes:
        point = nearest(wish, space, teacher, vocabularies)
        if not point or point in found:
            continue
        shape = _a_student(point, space, teacher, vocabularies, limits, deployment)
        if shape is not None:
            found.append(point)
            left.append((math.log(shape.num_parameters), point))
    if not left:
        return []
    ordered = [max(left, key=lambda entry: entry[0])]
    left.remove(ordered[0])
    while left:
        farthest = max(left, key=lambda entry: min(abs(entry[0] - size) for size, _ in ordered))
        ordered.append(farthest)
        left.remove(farthest)
    return [point for _, point in ordered]


def _a_student(
    point: Point,
    space: SearchSpace,
    teacher: TeacherShape,
    vocabularies: Mapping[str, int],
    limits: Limits,
    deployment: DeploymentSpec,
) -> StudentShape | None:
    """The first student within the bounds that the point leaves open, or None."""
    fixed = {
        name: Choice(values=(value,), when=space.parameter(name).when)
        for name, value in point.items()
        if PARAMETERS[name].shapes
    }
    narrowed = SearchSpace({**space.parameters, **fixed})
    return next(
        (shape for _, shape in narrowed.architectures(teacher, vocabularies) if within(shape, limits, deployment)),
        None,
    )


def within(shape: StudentShape, limits: Limits, deployment: DeploymentSpec) -> bool:
    """Whether it keeps the bounds on what arithmetic knows."""
    bounded = limits.keys() & COSTS
    counted = deployment.counted(shape) if bounded else {}
    return all(limits[name][0] <= value <= limits[name][1] for name, value in counted.items() if name in bounded)
