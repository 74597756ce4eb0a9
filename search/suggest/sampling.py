"""Suggests the parameters of a trial, from what the record says has been measured: valid, within the bounds that arithmetic knows,
not tried before, and not beaten before it begins. Which sampler proposes them, the study says.

Each ask is seeded from (study seed, trial number) and sees what was measured in the order in which it came, so that an
interrupted study suggests what an uninterrupted one would have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np

from search.results.front import ParetoFront, dominates
from search.suggest.changes import Columns
from search.suggest.costs import Costs
from search.suggest.first import within
from search.suggest.forest import ForestSampler
from search.suggest.recipes import recipes_of
from search.suggest.samplers import OWN, OptunaAsks
from spaces.architecture import InvalidStudent
from spaces.deployment import COSTS
from spaces.errors import InputError
from spaces.parameters import FloatRange, Parameter, Value, at
from spaces.space import PARAMETERS
from spaces.student import StudentShape, TeacherShape
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, derived_seed

TRIES = 30  # draws from the sampler before a valid architecture is fixed and only the rest is drawn


class Sampling:
    """The sampler's side of a study. `limits` are the bounds with percentages resolved, by metric; `teacher_scores` the teacher's
    objectives, once measured; `first` what the trials begin with, by number (`first_points`; left out: `search.first`); `earlier`
    another study's trials whose measurements count here, numbered below 0; `worst` the scores, and the costs that are measured,
    at which a student is worth nothing; `costs` what students cost where they will run."""

    def __init__(
        self,
        spec: StudySpec,
        teacher: TeacherShape,
        vocabularies: Mapping[str, int],
        limits: Mapping[str, tuple[float, float]],
        teacher_scores: Mapping[str, float] | None = None,
        worst: Mapping[str, float] | None = None,
        first: Sequence[Mapping[str, Value]] | None = None,
        earlier: Sequence[TrialOutcome] = (),
        costs: Costs | None = None,
    ) -> None:
        self._first = spec.search.first if first is None else tuple(first)
        self._earlier = tuple(earlier)
        self._costs = costs or Costs(spec.deployment, (*spec.objectives, *limits))
        self._teacher_scores = dict(teacher_scores or {})
        self._spec, self._teacher, self._vocabularies, self._limits = spec, teacher, vocabularies, limits
        self._valid = [
            (values, shape)
            for values, shape in spec.space.architectures(teacher, vocabularies)
            if within(shape, limits, spec.deployment)
        ]
        if not self._valid:
            raise InputError.of("space", self._why_empty())
        self._by_size = sorted(self._valid, key=lambda valid: valid[1].num_parameters)
        self._asks = OptunaAsks(spec, limits)
        self._points_of = Columns(point=lambda outcome: _in_order(outcome.parameters))
        counted = map(spec.deployment.counted, self.shapes)
        reference = {**max(counted, key=lambda sizes: sizes["parameters"]), **(worst or {})}
        self._forest = ForestSampler(
            spec,
            self._shape_within_bounds,
            self._valid,
            {name: reference.get(name, 0.0) for name in spec.objectives},
            limits,
            self._costs,
        )
        for index in range(len(spec.search.first)):
            if not self.open_to(index):
                raise InputError.of(
                    "search",
                    "makes no student of this teacher within the bounds; mend it or remove it",
                    f"first[{index}]",
                )

    @property
    def num_first(self) -> int:
        return len(self._first)

    @property
    def shapes(self) -> list[StudentShape]:
        """Every student the space holds within the bounds."""
        return [shape for _, shape in self._valid]

    def open_to(self, number: int) -> list[StudentShape]:
        """Those that trial `number` may be, before anything is measured: all, or what the first points leave open."""
        given = self._first[number] if number < len(self._first) else {}
        fixed = {name: value for name, value in given.items() if PARAMETERS[name].shapes}.items()
        return [shape for values, shape in self._valid if fixed <= values.items()]

    def recipe_of(self, number: int, values: Mapping[str, Value]) -> str:
        """The textbook student that trial `number` began with, by its name, where these are its values; else nothing."""
        given = self._first[number] if number < len(self._first) else {}
        if not given or not self._spec.search.begins_with_recipes or not given.items() <= values.items():
            return ""
        return " / ".join(recipes_of(given, self._teacher, self._spec.space, self._vocabularies))

    def is_beaten(self, shape: StudentShape, front: ParetoFront | None) -> bool:
        """Whether it could not reach the front even with the teacher's scores at its costs."""
        if front is None or not self._teacher_scores.keys() >= {
            name for name in self._spec.objectives if name not in COSTS
        }:
            return False
        best = [{**self._teacher_scores, **self._costs.at_best(shape)}[name] for name in self._spec.objectives]
        directions = list(self._spec.objectives.values())
        return any(dominates(list(point.values.values()), best, directions) for point in front.points)

    def suggest(
        self, outcomes: Sequence[TrialOutcome], number: int, front: ParetoFront | None = None
    ) -> tuple[dict[str, Value], StudentShape] | None:
        """The parameters of trial `number`: valid, within the bounds that arithmetic knows, not tried before, and not beaten by
        the front before it begins. None where the space holds no such point any more."""
        tried = set(self._points_of.of(outcomes)["point"])
        for values, shape in self._proposals(outcomes, number, front):
            if _in_order(values) not in tried and not self.is_beaten(shape, front) and not self._is_too_costly(shape):
                return values, shape
        return None

    def _is_too_costly(self, shape: StudentShape) -> bool:
        """Whether it is expected to miss a bound on a cost that has to be measured."""
        found = self._costs.at_best(shape)
        return any(found[name] > self._limits[name][1] for name in self._costs.measured if name in self._limits)

    def _proposals(
        self, outcomes: Sequence[TrialOutcome], number: int, front: ParetoFront | None
    ) -> Iterator[tuple[dict[str, Value], StudentShape]]:
        """Valid points, the sampler's own first; then random ones; of a space without real numbers, in the end all."""
        given = self._first[number] if number < len(self._first) else {}
        name, known = self._spec.search.sampler, [*self._earlier, *outcomes]
        startup = self._spec.search.startup_trials
        measured = itertools.islice((each for each in known if each.measurements), startup)
        explores = bool(given) or sum(1 for _ in measured) < startup
        if name in OWN and not given:
            if name == "forest" and not explores:
                rng = np.random.default_rng(derived_seed(self._spec.seed, "ask", number))
                yield from ((point.values, point.shape) for point in self._forest.best(known, rng))
            else:
                yield self._evenly(number)
        for attempt in range(TRIES):
            seed = derived_seed(self._spec.seed, "ask", number, attempt)
            at_random = explores or name in (*OWN, "random")
            values = self._asks.draw(seed, given) if at_random else self._asks.ask(known, seed)
            with suppress(InvalidStudent):
                yield values, self._shape_within_bounds(values)
        # The sampler keeps missing what is wanted: fix a valid architecture, and draw the rest.
        rng = np.random.default_rng(derived_seed(self._spec.seed, "architecture", number))
        worth = [(values, shape) for values, shape in self._valid if not self.is_beaten(shape, front)]
        for _ in range(TRIES if worth else 0):
            architecture, shape = worth[int(rng.integers(len(worth)))]
            yield self._asks.draw(int(rng.integers(2**31)), architecture), shape
        left = list(self._points())
        yield from (left[int(place)] for place in rng.permutation(len(left)))

    def _evenly(self, number: int) -> tuple[dict[str, Value], StudentShape]:
        """Point `number` of a scrambled Sobol sequence: over the architectures, by their size, and over each other parameter."""
        from scipy.stats.qmc import Sobol

        names = [name for name in self._spec.space.searched if not PARAMETERS[name].shapes]
        sequence = Sobol(1 + len(names), rng=self._spec.seed)
        first, *others = sequence.fast_forward(number + 1).random(1)[0]  # it cannot skip none
        architecture, shape = self._by_size[int(first * len(self._by_size))]
        places = dict(zip(names, others, strict=True))

        def value(name: str, parameter: Parameter) -> Value:
            return architecture[name] if name in architecture else at(parameter, places[name])

        return self._spec.space.point(value), shape

    def _points(self) -> Iterator[tuple[dict[str, Value], StudentShape]]:
        """Every point of a space without real numbers; of one with them, nothing."""
        names = [name for name, info in PARAMETERS.items() if not info.shapes]
        kinds = [self._spec.space.parameter(name) for name in names]
        if any(isinstance(kind, FloatRange) for kind in kinds):
            return
        for architecture, shape in self._valid:
            seen = set[tuple[tuple[str, Value], ...]]()
            for combination in itertools.product(*(kind.values for kind in kinds)):  # type: ignore[union-attr]
                given = {**architecture, **dict(zip(names, combination, strict=True))}
                values = self._spec.space.point(lambda name, _, given=given: given[name])  # type: ignore[misc]
                if tuple(values.items()) not in seen:
                    seen.add(tuple(values.items()))
                    yield values, shape

    def _shape_within_bounds(self, values: Mapping[str, Value]) -> StudentShape:
        shape = self._spec.space.shape(values, self._teacher, self._vocabularies)
        if not within(shape, self._limits, self._spec.deployment):
            raise InvalidStudent("it is out of bounds")
        return shape

    def _why_empty(self) -> str:
        shapes = [shape for _, shape in self._spec.space.architectures(self._teacher, self._vocabularies)]
        if shapes:
            sizes = sorted(shape.num_parameters for shape in shapes)
            return (
                f"no student is within the bounds: the space reaches from {sizes[0]:,} to {sizes[-1]:,} parameters; "
                "widen bounds, or add smaller or larger students"
            )
        try:
            values = self._spec.space.point(
                lambda name, parameter: parameter.values[0] if not isinstance(parameter, FloatRange) else parameter.low
            )
            self._spec.space.shape(values, self._teacher, self._vocabularies)
            reason = "no combination is valid"
        except InvalidStudent as error:
            reason = str(error)
        return f"holds no valid student of this teacher ({self._teacher.depth} layers, width {self._teacher.hidden_size}): {reason}"


def _in_order(values: Mapping[str, Value]) -> tuple[Value | None, ...]:
    """To compare points by: a fifteenth of the memory of a set of names and values."""
    return tuple(map(values.get, PARAMETERS))
