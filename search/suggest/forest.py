"""The sampler of distilsearch's own: it takes the point from which the front is expected to gain most.

What a student scores is predicted by a forest over learning curves (`curves`), what it measures in parameters and bytes is known
by arithmetic and not learnt. A candidate's worth is the hypervolume that it is expected to add (EHVI; Emmerich et al. 2006) to the
front of what is measured and of what the trials in play are expected to become; by that the lanes' trials differ. Candidates are
drawn from the space, and near the students of that front.

Legend: N trials or points, F features, R rungs, M objectives.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from search.results.front import SMALLEST, hypervolume
from search.suggest.changes import Changes
from search.suggest.costs import Costs
from search.suggest.curves import Curves
from search.suggest.halving import fronts
from spaces.architecture import InvalidStudent
from spaces.deployment import COSTS
from spaces.parameters import Choice, FloatRange, Parameter, Value, at, where
from spaces.space import PARAMETERS, SearchSpace
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState, derived_seed

POOL = 1500  # points drawn from the space once,
DRAWN = 250  # of which each ask looks at so many,
NEAR = 150  # and at so many near the front's
CHANGED = 2.0  # parameters of a point that are drawn anew, on average, for one near it
MOST = 500  # trials that a forest learns from
GROWS = 1.04  # it is grown anew when there are about so many times as many measurements
STEP = 0.15  # how far from the front's values of a real number its neighbours are drawn, as a share of the range
SAMPLES = 8  # draws of the scores, where the gain has no closed form

Values = dict[str, Value]
ShapeOf = Callable[[Mapping[str, Value]], StudentShape]


@dataclass(frozen=True)
class Point:
    """A point of the space, its student, and what is read of them again and again; `sizes` as log10, by name."""

    values: Values
    shape: StudentShape
    features: tuple[float, ...]
    sizes: dict[str, float]


@dataclass(frozen=True)
class _Trial:
    """An outcome as the forest reads it; `scores` (modelled metrics, R), NaN where not measured."""

    outcome: TrialOutcome
    point: Point
    scores: np.ndarray

    @property
    def key(self) -> tuple[int, int]:
        return self.outcome.number, len(self.outcome.measurements)

    @property
    def counts(self) -> bool:
        return self.outcome.state is not TrialState.FAILED

    @property
    def plays(self) -> bool:
        """Whether it is on the front, or may still come there."""
        return self.outcome.state not in (TrialState.FAILED, TrialState.ENDED)

    def measured(self, place: int) -> set[tuple[float, int, float]]:
        """When, here, and at which share of its training."""
        its = self.outcome.measurements if self.counts else ()
        return {(measurement.cost.get("finished_at", 0.0), place, measurement.share) for measurement in its}


class ForestSampler:
    """Ranks points of the space. `shape_of` raises InvalidStudent, also for what is out of bounds that arithmetic knows.

    `reference`: the worst that counts, one value an objective in its own units. `limits`: of measured metrics. `costs`: what
    students cost, known or expected.
    """

    def __init__(
        self,
        spec: StudySpec,
        shape_of: ShapeOf,
        valid: Sequence[tuple[Values, StudentShape]],
        reference: Mapping[str, float],
        limits: Mapping[str, tuple[float, float]],
        costs: Costs,
    ) -> None:
        self._spec, self._shape_of, self._reference, self._costs = spec, shape_of, reference, costs
        self._cost_limits = {name: limits[name] for name in costs.measured if name in limits}
        self._limits = {name: limit for name, limit in limits.items() if name not in COSTS}
        self._valid = valid
        self._scores = [name for name in spec.objectives if name not in COSTS]
        self._modelled = list(dict.fromkeys([*self._scores, *self._limits]))
        self._pool: list[Point] = []
        self._curves: dict[str, Curves] = {}
        self._learnt = 0
        # By their place among the outcomes; of thousands an ask reads those alone that changed.
        self._changes = Changes()
        self._trials: list[_Trial] = []
        self._plays: list[bool] = []
        self._sizes: dict[str, list[float]] = {name: [] for name in spec.objectives if name in COSTS}
        # What is expected of each, as the present forest sees it, but for those that it has not looked at.
        self._believed: dict[str, list[float]] = {name: [] for name in self._modelled}
        self._unseen = set[int]()
        self._order: list[
            tuple[float, int, float]
        ] = []  # measurements as they came: when, of which trial, at which share

    def best(self, outcomes: Sequence[TrialOutcome], rng: np.random.Generator) -> list[Point]:
        """Points, the most promising first; at least one of the outcomes is measured."""
        self._look_at(outcomes)
        self._learn()
        believed = self._expected()
        in_play = list(compress(self._trials, self._plays))
        points = [trial.point for trial in in_play]
        columns = [
            -believed[name] if name not in COSTS
            else self._logs(name, points) if name in self._costs.measured
            else np.array(list(compress(self._sizes[name], self._plays)), float)
            for name in self._spec.objectives
        ]  # fmt: skip
        rows = np.stack(columns, axis=1)
        certain = np.full(len(in_play), 1e-6)
        keeps = self._feasible({name: (believed[name], certain) for name in self._limits}, points) > 0.5
        kept = np.flatnonzero(keeps)
        places = kept[next(fronts(rows[kept]))] if len(kept) else kept
        front, near = rows[places], [in_play[place].point for place in places]
        candidates = self._candidates(near or [trial.point for trial in self._trials if trial.counts], rng)
        seen = np.array([point.features for point in candidates])
        predicted = {name: self._curves[name].predict(seen) for name in self._modelled}
        gain = self._feasible(predicted, candidates)
        if near:  # else what counts is to keep the bounds at all
            gain = gain * self._gain(front, candidates, predicted, rng)
        return [candidates[place] for place in np.argsort(-gain, kind="stable")]

    # -- learning

    def _look_at(self, outcomes: Sequence[TrialOutcome]) -> None:
        """Reads what changed since the last ask."""
        if len(outcomes) < len(self._trials):  # another study's
            del self._trials[len(outcomes) :], self._plays[len(outcomes) :]
            for column in (*self._sizes.values(), *self._believed.values()):
                del column[len(outcomes) :]
            self._order = [entry for entry in self._order if entry[1] < len(outcomes)]
            self._unseen = {place for place in self._unseen if place < len(outcomes)}
        for place in self._changes.of(outcomes):
            old = self._trials[place] if place < len(self._trials) else None
            new = self._trial(outcomes[place], old)
            before, after = old.measured(place) if old else set(), new.measured(place)
            for entry in before - after:
                del self._order[bisect_left(self._order, entry)]
            for entry in after - before:
                insort(self._order, entry)
            self._trials[place : place + 1] = [new]
            self._plays[place : place + 1] = [new.plays]
            for name, column in self._sizes.items():
                column[place : place + 1] = [new.point.sizes.get(name, math.nan)]
            if old is None or old.key != new.key:
                self._unseen.add(place)
                for column in self._believed.values():
                    column[place : place + 1] = [math.nan]

    def _trial(self, outcome: TrialOutcome, old: _Trial | None = None) -> _Trial:
        same = old is not None and old.outcome.number == outcome.number
        point = old.point if old and same else self._point(outcome.parameters, outcome.config.shape)
        scores = np.full((len(self._modelled), len(self._spec.search.rungs)), np.nan)
        for measurement in outcome.measurements:
            for rung, share in enumerate(self._spec.search.rungs):  # an earlier study may have had others
                if abs(share - measurement.share) < 1e-6:
                    metrics = measurement.metrics
                    scores[:, rung] = [metrics.get(f"validation/{name}", math.nan) for name in self._modelled]
        return _Trial(outcome, point, np.where(np.isfinite(scores), scores, np.nan))

    def _learn(self) -> None:
        """From the first so many measurements, in the order in which they came: a number that grows in steps, so that a forest
        serves some asks, and one that is continued from the record is the one that would have been."""
        count = _step_below(len(self._order))
        if self._curves and count == self._learnt:
            return
        self._learnt, self._unseen = count, set(range(len(self._trials)))
        shares: dict[int, float] = {}
        for _, place, share in self._order[:count]:
            shares[place] = share  # the last of each trial
        chosen, trials = list(shares), self._trials
        if len(chosen) > MOST:  # half of them the latest; of the others those that came farthest
            old, late = chosen[: -MOST // 2], chosen[-MOST // 2 :]
            chosen = [*sorted(old, key=lambda place: -shares[place])[: MOST // 2], *late]
        features = np.array([trials[place].point.features for place in chosen])
        until = np.array([shares[place] for place in chosen])
        later = np.array(self._spec.search.rungs) > until[:, None] + 1e-6
        for row, name in enumerate(self._modelled):
            scores = np.where(later, np.nan, np.stack([trials[place].scores[row] for place in chosen]))
            self._curves[name] = Curves(features, scores, derived_seed(self._spec.seed, "forest", count))

    def _expected(self) -> dict[str, np.ndarray]:
        """What each that plays scores at its end, measured or as the forest expects; (N,) by metric."""
        new = [place for place in sorted(self._unseen) if self._plays[place]]
        if new:
            trials = [self._trials[place] for place in new]
            features = np.array([trial.point.features for trial in trials])
            for row, name in enumerate(self._modelled):
                found = self._curves[name].predict(features, np.stack([trial.scores[row] for trial in trials]))[0]
                for place, score in zip(new, found.tolist(), strict=True):
                    self._believed[name][place] = score
            self._unseen.difference_update(new)
        return {name: np.array(list(compress(column, self._plays)), float) for name, column in self._believed.items()}

    # -- worth

    def _rows(self, points: Sequence[Point], scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N, M) coordinates, all to be minimised: sizes as log10, scores negated."""
        columns = [
            self._logs(name, points) if name in COSTS else -np.asarray(scores[name]) for name in self._spec.objectives
        ]
        return np.stack(columns, axis=1) if len(points) else np.zeros((0, len(columns)))

    def _logs(self, name: str, points: Sequence[Point]) -> np.ndarray:
        """(N,) log10 of a cost."""
        if name in self._costs.measured:
            return self._costs.log10(name, [point.shape for point in points])
        return np.array([point.sizes[name] for point in points])

    def _corner(self) -> np.ndarray:
        return np.array(
            [
                math.log10(max(self._reference[name], SMALLEST)) if name in COSTS else -self._reference[name]
                for name in self._spec.objectives
            ]
        )

    def _gain(
        self,
        front: np.ndarray,
        points: Sequence[Point],
        predicted: Mapping[str, tuple[np.ndarray, np.ndarray]],
        rng: np.random.Generator,
    ) -> np.ndarray:
        means = self._rows(points, {name: predicted[name][0] for name in self._scores})
        corner = self._corner()
        if len(self._scores) == 1 and len(self._spec.objectives) == 2:
            score = next(place for place, name in enumerate(self._spec.objectives) if name not in COSTS)
            spread = np.maximum(predicted[self._scores[0]][1], 1e-4)
            return expected_gain(
                front[:, [score, 1 - score]], corner[[score, 1 - score]], means[:, score], spread, means[:, 1 - score]
            )
        gains = np.zeros(len(points))
        directions = ["minimize"] * means.shape[1]
        before = hypervolume(front.tolist(), corner.tolist(), directions)
        for place in range(len(points)):
            for _ in range(SAMPLES):
                row = means[place].copy()
                for column, name in enumerate(self._spec.objectives):
                    if name not in COSTS:
                        row[column] += predicted[name][1][place] * rng.normal()
                gains[place] += hypervolume([*front.tolist(), row.tolist()], corner.tolist(), directions) - before
        return gains / SAMPLES

    def _feasible(self, predicted: Mapping[str, tuple[np.ndarray, np.ndarray]], points: Sequence[Point]) -> np.ndarray:
        """(N,) the probability that every measured bound is kept."""
        from scipy.special import ndtr

        probability = np.ones(len(points))
        for name, (low, high) in self._cost_limits.items():
            expected = self._costs.log10(name, [point.shape for point in points])
            spread = np.array([max(self._costs.spread(name, point.shape) / math.log(10), 1e-6) for point in points])
            low, high = (math.log10(max(limit, SMALLEST)) for limit in (low, high))
            probability = probability * (ndtr((high - expected) / spread) - ndtr((low - expected) / spread))
        for name, (low, high) in self._limits.items():
            mean, spread = predicted[name]
            spread = np.maximum(spread, 1e-6)
            probability = probability * (ndtr((high - mean) / spread) - ndtr((low - mean) / spread))
        return probability

    # -- points

    def _point(self, values: Values, shape: StudentShape) -> Point:
        counted = self._spec.deployment.counted(shape)
        sizes = {name: math.log10(max(size, SMALLEST)) for name, size in counted.items()}
        return Point(values, shape, features(self._spec.space, values, shape), sizes)

    def _candidates(self, near: Sequence[Point], rng: np.random.Generator) -> list[Point]:
        if not self._pool:
            fixed = np.random.default_rng(self._spec.seed)
            self._pool = [self._drawn(fixed) for _ in range(POOL)]
        found = [self._pool[place] for place in rng.choice(len(self._pool), min(DRAWN, len(self._pool)), replace=False)]
        for _ in range(NEAR):
            parent = near[int(rng.integers(len(near)))]
            child = self._changed(parent, rng)
            if child is not None:
                found.append(child)
        return found

    def _drawn(self, rng: np.random.Generator) -> Point:
        architecture, shape = self._valid[int(rng.integers(len(self._valid)))]

        def value(name: str, parameter: Parameter) -> Value:
            return architecture[name] if name in architecture else _draw(parameter, rng)

        return self._point(self._spec.space.point(value), shape)

    def _changed(self, parent: Point, rng: np.random.Generator) -> Point | None:
        searched = [name for name in self._spec.space.searched if name in parent.values]
        share = min(1.0, CHANGED / max(1, len(searched)))
        changed = {name for name in searched if rng.random() < share} or {searched[int(rng.integers(len(searched)))]}

        def value(name: str, parameter: Parameter) -> Value:
            if name in parent.values and name not in changed:
                return parent.values[name]
            return _draw(parameter, rng, parent.values.get(name))

        values = self._spec.space.point(value)
        try:
            return self._point(values, self._shape_of(values))
        except InvalidStudent:
            return None


def expected_gain(
    front: np.ndarray, corner: np.ndarray, mean: np.ndarray, spread: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """(N,) the area that a point is expected to add below `corner` to a front in the plane, both axes to be minimised: at `sizes`
    (N,) exactly, with a first coordinate that is normal with `mean` and `spread` (N,). `front` (K, 2): first coordinate, size.

    In closed form: the front is a staircase over the sizes, and over each of its steps a point gains its expected improvement on
    the step's height.
    """
    from scipy.special import ndtr

    inside = front[(front < corner).all(1)]
    ordered = inside[np.argsort(inside[:, 1], kind="stable")]
    starts = np.r_[-np.inf, ordered[:, 1]]
    heights = np.minimum.accumulate(np.r_[corner[0], ordered[:, 0]])
    ends = np.r_[ordered[:, 1], corner[1]]
    widths = np.maximum(0, np.minimum(ends, corner[1]) - np.maximum(starts, sizes[:, None]))
    better = heights - mean[:, None]
    z = better / spread[:, None]
    improvement = better * ndtr(z) + spread[:, None] * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray((widths * improvement).sum(1))


def features(space: SearchSpace, values: Mapping[str, Value], shape: StudentShape) -> tuple[float, ...]:
    """What the forest sees of a point: the shape's numbers, searched numbers (as logarithms where they are searched so), and words
    as one column for each that there is."""
    columns = [
        shape.depth, shape.hidden_size, shape.intermediate_size, shape.embedding_size, shape.vocabulary_size,
        shape.num_hidden_groups, shape.num_heads, math.log10(shape.num_parameters),
    ]  # fmt: skip
    for name in space.searched:
        parameter, info = space.parameter(name), PARAMETERS[name]
        words = [value for value in parameter.values if isinstance(value, str)] if isinstance(parameter, Choice) else []
        if words and (not info.shapes or not info.numeric):
            columns.extend(float(values.get(name) == word) for word in words)
        elif not info.of_all:
            columns.append(getattr(shape, name))
        elif not info.shapes:
            value = values.get(name, -1.0)
            assert not isinstance(value, str)
            columns.append(math.log(value) if getattr(parameter, "log", False) and value > 0 else float(value))
    return tuple(map(float, columns))


def _step_below(count: int) -> int:
    """The largest of 1, 2, 3 ... that is no larger, where each is GROWS times the one before or one more."""
    step = 1
    while (larger := max(step + 1, int(step * GROWS))) <= count:
        step = larger
    return step


def _draw(parameter: Parameter, rng: np.random.Generator, around: Value | None = None) -> Value:
    """A value of the parameter; of a real number that has one already, near it half of the time."""
    if isinstance(parameter, FloatRange) and isinstance(around, int | float) and rng.random() < 0.5:
        return at(parameter, float(np.clip(where(parameter, around) + STEP * rng.normal(), 0, 1)))
    return at(parameter, float(rng.random()))
