"""Suggests the parameters of a trial with Optuna, from what the record says has been measured.

Each ask is seeded from (study seed, trial number) and sees the finished trials in the order in which they finished, in an
in-memory study of its own, so that an interrupted study suggests what an uninterrupted one would have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import Trial, create_trial
from optuna.trial import TrialState as OptunaState

from search.record.record import distribution
from search.results.front import ParetoFront, dominates, non_dominated
from spaces.architecture import InvalidStudent
from spaces.errors import InputError
from spaces.parameters import Choice, FloatRange, IntRange, Parameter, Value
from spaces.space import PARAMETERS
from spaces.student import StudentShape, TeacherShape
from spaces.study import SIZE, StudySpec
from spaces.trial import TrialOutcome, TrialState, derived_seed

MOST_SEEN = 2000  # the latest trials, of which TPE sees all,
BLOCK = 1000  # and of the older ones so many, which become more by as many at a time: 2,001 to 3,000 in all
TRIES = 30  # draws from the sampler before a valid architecture is fixed and only the rest is drawn


class Sampling:
    """The sampler's side of a study. `limits` are the bounds with percentages resolved, by metric; `teacher_scores` the teacher's
    objectives, once measured; `first` what the trials begin with, by number (`first_points`; left out: `search.first`); `earlier`
    another study's trials whose measurements count here, numbered below 0."""

    def __init__(
        self,
        spec: StudySpec,
        teacher: TeacherShape,
        vocabularies: Mapping[str, int],
        limits: Mapping[str, tuple[float, float]],
        teacher_scores: Mapping[str, float] | None = None,
        first: Sequence[Mapping[str, Value]] | None = None,
        earlier: Sequence[TrialOutcome] = (),
    ) -> None:
        self._first = spec.search.first if first is None else tuple(first)
        self._earlier = tuple(earlier)
        self._teacher_scores = dict(teacher_scores or {})
        self._spec, self._teacher, self._vocabularies, self._limits = spec, teacher, vocabularies, limits
        self._seen: list[int] = []  # the trials that the in-memory study holds, in its order
        self._old: list[int] = []  # the trials of which TPE sees a part,
        self._old_kept: list[TrialOutcome] = []  # this one
        self._study = self._new_study()
        self._valid = [
            (values, shape)
            for values, shape in spec.space.architectures(teacher, vocabularies)
            if not self._out_of_bounds(shape)
        ]
        if not self._valid:
            raise InputError.of("space", self._why_empty())
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

    def is_beaten(self, shape: StudentShape, front: ParetoFront | None) -> bool:
        """Whether it could not reach the front even with the teacher's scores at its size."""
        if front is None or not self._teacher_scores.keys() >= {
            name for name in self._spec.objectives if name not in SIZE
        }:
            return False
        sizes = {"parameters": float(shape.num_parameters), "bytes": float(shape.num_bytes)}
        best = [{**self._teacher_scores, **sizes}[name] for name in self._spec.objectives]
        directions = list(self._spec.objectives.values())
        return any(dominates(list(point.values.values()), best, directions) for point in front.points)

    def suggest(
        self, outcomes: Sequence[TrialOutcome], number: int, front: ParetoFront | None = None
    ) -> tuple[dict[str, Value], StudentShape] | None:
        """The parameters of trial `number`: valid, within the bounds that arithmetic knows, not tried before, and not beaten by
        the front before it begins. None where the space holds no such point any more."""
        given = self._first[number] if number < len(self._first) else {}
        tried = [outcome.parameters for outcome in outcomes]
        for attempt in range(TRIES):
            seed = derived_seed(self._spec.seed, "ask", number, attempt)
            values = self._ask(outcomes, seed, given, explore=bool(given))
            try:
                shape = self._spec.space.shape(values, self._teacher, self._vocabularies)
            except InvalidStudent:
                continue
            if not self._out_of_bounds(shape) and values not in tried and not self.is_beaten(shape, front):
                return values, shape
        # The sampler keeps missing what is valid: fix a valid architecture, and draw the rest.
        rng = np.random.default_rng(derived_seed(self._spec.seed, "architecture", number))
        worth = [(values, shape) for values, shape in self._valid if not self.is_beaten(shape, front)]
        for _ in range(TRIES if worth else 0):
            architecture, shape = worth[int(rng.integers(len(worth)))]
            values = self._ask(outcomes, int(rng.integers(2**31)), architecture, explore=True)
            if values not in tried:
                return values, shape
        left = [point for point in self._points() if point[0] not in tried and not self.is_beaten(point[1], front)]
        return left[int(rng.integers(len(left)))] if left else None

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

    def _ask(
        self, outcomes: Sequence[TrialOutcome], seed: int, given: Mapping[str, Value], explore: bool
    ) -> dict[str, Value]:
        done = [outcome for outcome in (*self._earlier, *outcomes) if outcome.state is TrialState.DONE]
        if self._spec.search.sampler == "tpe" and not explore and len(done) >= self._spec.search.startup_trials:
            study = self._study_of(done)
            study.sampler = TPESampler(seed=seed, n_startup_trials=0, multivariate=True, group=True)
        else:
            study = self._new_study()
            study.sampler = RandomSampler(seed=seed)
        trial = study.ask()

        def suggest(name: str, parameter: Parameter) -> Value:
            return given[name] if name in given else _suggest(trial, name, parameter)

        values = self._spec.space.point(suggest)
        study.tell(trial, state=OptunaState.FAIL)  # the samplers pass over what failed
        return values

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(directions=list(self._spec.objectives.values()))

    def _study_of(self, done: Sequence[TrialOutcome]) -> optuna.Study:
        """The in-memory study with these trials, or with what is remembered of very many. It grows with them, as making it anew
        costs a second by 2,000, and is made anew where a block is forgotten."""
        ordered = self._remembered(sorted(done, key=lambda outcome: (_finished_at(outcome), outcome.number)))
        numbers = [outcome.number for outcome in ordered]
        if numbers[: len(self._seen)] != self._seen:
            self._study, self._seen = self._new_study(), []
        self._study.add_trials([self._as_seen(outcome) for outcome in ordered[len(self._seen) :]])
        self._seen = numbers
        return self._study

    def _remembered(self, ordered: list[TrialOutcome]) -> list[TrialOutcome]:
        """All, or the latest and BLOCK of those before: a fifth of these the best, the others spread evenly over the rest, so
        that what is known to be bad stays known."""
        num_old = max(0, math.ceil((len(ordered) - MOST_SEEN) / BLOCK) * BLOCK)
        old = ordered[:num_old]
        numbers = [outcome.number for outcome in old]
        if numbers != self._old:
            best = self._best(old, BLOCK // 5)
            rest = [place for place in range(num_old) if place not in best]
            spread = {rest[index] for index in np.linspace(0, len(rest) - 1, BLOCK - len(best)).round().astype(int)}
            self._old, self._old_kept = numbers, [old[place] for place in sorted(best | spread)]
        return [*self._old_kept, *ordered[num_old:]]

    def _best(self, outcomes: list[TrialOutcome], count: int) -> set[int]:
        """The places of the front, of what is the front without it, and so on."""
        directions, best = list(self._spec.objectives.values()), set[int]()
        rows = [[outcome.values()[name] for name in self._spec.objectives] for outcome in outcomes]
        left = list(range(len(outcomes)))
        while left and len(best) < count:
            front = {left[index] for index in non_dominated([rows[place] for place in left], directions)}
            best |= set(sorted(front)[: count - len(best)])
            left = [place for place in left if place not in front]
        return best

    def _as_seen(self, outcome: TrialOutcome) -> optuna.trial.FrozenTrial:
        """A finished trial as Optuna's sampler reads it, measured bounds as constraints (above 0: violated)."""
        values = outcome.values()
        searched = {name: value for name, value in outcome.parameters.items() if self._is_searched(name)}
        constraints: dict[str, float] = {}
        for metric, (low, high) in self._limits.items():
            sides = {f"{metric}.min": low - values[metric], f"{metric}.max": values[metric] - high}
            constraints |= {side: excess for side, excess in sides.items() if math.isfinite(excess)}
        return create_trial(
            state=OptunaState.COMPLETE,
            values=[values[name] for name in self._spec.objectives],
            params=searched,
            distributions={name: distribution(self._spec.space.parameter(name)) for name in searched},
            constraints=constraints,
        )

    def _is_searched(self, name: str) -> bool:
        parameter = self._spec.space.parameter(name)
        return not (isinstance(parameter, Choice) and len(parameter.values) == 1)

    def _out_of_bounds(self, shape: StudentShape) -> bool:
        for metric, (low, high) in self._limits.items():
            if metric in SIZE and not low <= (shape.num_bytes if metric == "bytes" else shape.num_parameters) <= high:
                return True
        return False

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


def _finished_at(outcome: TrialOutcome) -> float:
    return outcome.last.cost.get("finished_at", 0.0) if outcome.last else 0.0


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Value:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, list(parameter.values))
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
