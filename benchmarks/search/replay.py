"""Replays searchers over the surrogate in virtual time: as many lanes as wanted, no training, every decision the real code's.

A searcher is asked for the next segment whenever a lane is free, and told what came of each. What deciding takes is not counted.
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from surrogate import HERE, SHARES, Point, Surrogate

from search.record.record import Record
from search.record.storage import Storage
from search.results.front import Reference
from search.study.budget import Budget
from search.study.searcher import StudySearcher
from search.suggest.first import first_points
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.architecture import InvalidStudent
from spaces.parameters import Choice, IntRange, Parameter
from spaces.trial import Measurement, WorkItem, WorkResult, derived_seed
from spaces.yaml_io import parse_study, parse_yaml

METRIC = "validation/accuracy"


@dataclass(frozen=True)
class Segment:
    """From one rung to another, by their places in SHARES; -1 is the untrained student."""

    trial: int
    point: Point
    start: int
    end: int


class Searcher(Protocol):
    def next(self, now: float) -> Segment | None:
        """The next segment, or None while there is nothing to do before another is measured."""

    def measured(self, segment: Segment, accuracies: np.ndarray, size: int, now: float) -> None:
        """The accuracies (rungs,) of the trial, of which those up to the segment's end are known."""


@dataclass
class Run:
    """What was spent, in seconds of training, and the hypervolume that it had bought, whenever that grew."""

    seconds: list[float] = field(default_factory=list)
    volumes: list[float] = field(default_factory=list)
    trials: int = 0
    whole: int = 0


def replay(
    searcher: Searcher, world: Surrogate, lanes: int, seed: int, *, least: float, most: float, enough: float
) -> Run:
    """Until a hypervolume of `enough` is reached, but for no less than `least` and no more than `most` seconds of training on all
    lanes together. The hypervolume is of the trials that were trained whole, by their accuracy without noise; the searcher sees
    it with noise."""
    run, flying, order = Run(), [], itertools.count()
    truths: dict[int, tuple[np.ndarray, np.ndarray, float, int]] = {}
    errors: list[float] = []
    sizes: list[int] = []
    now = spent = 0.0
    waiting = False
    while spent < least or (spent < most and not (run.volumes and run.volumes[-1] >= enough)):
        while len(flying) < lanes and not waiting:
            segment = searcher.next(now)
            if segment is None:
                waiting = True
                break
            if segment.trial not in truths:
                truth = world.accuracies([segment.point])[0]
                noisy = world.noisy(truth, np.random.default_rng(derived_seed(seed, "noise", segment.trial)))
                size = world.shape(segment.point).num_parameters
                truths[segment.trial] = truth, noisy, world.seconds(segment.point), size
                run.trials += 1
            part = world.shares_of_time[segment.start + 1 : segment.end + 1].sum()
            takes = float(part * truths[segment.trial][2])
            heapq.heappush(flying, (now + takes, next(order), segment, takes))
        if not flying:
            break
        now, _, segment, takes = heapq.heappop(flying)
        waiting = False
        spent += takes
        truth, noisy, _, size = truths[segment.trial]
        searcher.measured(segment, noisy, size, now)
        if segment.end == len(SHARES) - 1:
            run.whole += 1
            errors.append(1 - float(truth[-1]))
            sizes.append(size)
            volume = world.volume(errors, sizes)
            if not run.volumes or volume > run.volumes[-1]:
                # What runs now is paid for, too.
                paid = spent + sum(length - (end - now) for end, _, _, length in flying)
                run.seconds.append(paid)
                run.volumes.append(volume)
    return run


class Ours:
    """distilsearch's own searcher, on a record in memory."""

    def __init__(self, world: Surrogate, seed: int, lanes: int, **search: Any) -> None:
        path = HERE / "trec-table.yaml"
        raw = parse_yaml(path.read_text("utf-8"), str(path))
        two_rungs = {"rungs": ["1/9", 1], "reduction": 3}
        raw |= {
            "budget": {"trials": 100_000},
            "seed": seed,
            "search": {"sampler": "forest", "halving": two_rungs, **search},
            "output": str(Path(tempfile.gettempdir()) / "replayed" / str(seed)),
        }
        spec = parse_study(raw, str(path), HERE)
        self._whole = spec.search.halving == "none"
        scores = {"accuracy": world.teacher_accuracy}
        teacher = Reference(
            name="teacher", label="teacher", num_parameters=world.teacher.num_parameters,
            num_bytes=4 * world.teacher.num_parameters, metrics={METRIC: world.teacher_accuracy},
        )  # fmt: skip
        majority = Reference(name="majority", label="majority", metrics={METRIC: world.majority})
        budget = Budget(spec, num_lanes=lanes, tokens_per_text=10, deadline=None, front_size=lambda: 5)
        first = first_points(spec, world.teacher, world.vocabularies, {})
        sampling = Sampling(
            spec, world.teacher, world.vocabularies, {}, scores, {"accuracy": world.majority}, first=first
        )
        record = Record(Storage("sqlite://"), f"replay-{seed}", spec.objectives)
        self.searcher = StudySearcher(
            spec, record, sampling, budget, Ladder(spec, {}),
            references=[teacher, majority], teacher_depth=world.teacher.depth, payload={}, told=lambda outcome: None,
        )  # fmt: skip
        self._items: dict[int, WorkItem] = {}

    def next(self, now: float) -> Segment | None:
        item = self.searcher.next_item("any")
        if not isinstance(item, WorkItem):
            return None
        assert item.trial is not None
        self._items[item.trial] = item
        point = self.searcher.outcomes[item.trial].parameters
        return Segment(item.trial, point, _place(item.start_share), _place(item.end_share))

    def measured(self, segment: Segment, accuracies: np.ndarray, size: int, now: float) -> None:
        item = self._items[segment.trial]
        measured = Measurement(
            trial=segment.trial, attempt=1, step=1, share=item.end_share, metrics={METRIC: float(accuracies[segment.end])},
            cost={"train_seconds": 1.0},
        )  # fmt: skip
        result = WorkResult(
            key=item.key,
            kind=item.kind,
            trial=segment.trial,
            attempt=1,
            lane=0,
            measurement=measured,
            timing={"finished_at": now},
        )
        self.searcher.finished(item.key, result)


def _place(share: float) -> int:
    return next((place for place, rung in enumerate(SHARES) if abs(rung - share) < 1e-6), -1)


class Whole:
    """Whole trainings, chosen by Optuna's own ask and tell: trials that run are seen by the sampler as Optuna shows them."""

    def __init__(self, world: Surrogate, sampler: optuna.samplers.BaseSampler) -> None:
        self._world = world
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        self._running: dict[int, optuna.Trial] = {}

    def next(self, now: float) -> Segment | None:
        trial = self._study.ask()
        point = self._world.spec.space.point(lambda name, parameter: suggested(trial, name, parameter))
        self._running[trial.number] = trial
        return Segment(trial.number, repaired(self._world, point), -1, len(SHARES) - 1)

    def measured(self, segment: Segment, accuracies: np.ndarray, size: int, now: float) -> None:
        self._study.tell(self._running.pop(segment.trial), [1 - float(accuracies[-1]), math.log10(size)])


class RayOptunaSearch:
    """Ray's OptunaSearch itself, as its documentation uses it for several objectives: stock sampler, whole trainings."""

    def __init__(self, world: Surrogate, seed: int) -> None:
        from ray.tune.search.optuna import OptunaSearch

        self._world, self._points = world, {}
        self._number = itertools.count()

        def space(trial: optuna.Trial) -> dict[str, Any]:
            point = world.spec.space.point(lambda name, parameter: suggested(trial, name, parameter))
            self._points[trial.number] = point
            return point

        self._search = OptunaSearch(space, metric=["error", "size"], mode=["min", "min"], seed=seed)

    def next(self, now: float) -> Segment | None:
        number = next(self._number)
        self._search.suggest(str(number))
        return Segment(number, repaired(self._world, self._points[number]), -1, len(SHARES) - 1)

    def measured(self, segment: Segment, accuracies: np.ndarray, size: int, now: float) -> None:
        self._search.on_trial_complete(
            str(segment.trial), {"error": 1 - float(accuracies[-1]), "size": math.log10(size)}
        )


class Moasha:
    """Syne Tune's MOASHA itself: random points, and at each rung it says whether the trial goes on at once or stops.

    Its default priority (0.16.0) gives the places of the sorted trials where ranks are asked for, so that it keeps few and not the
    best. `mended` turns them into ranks, through the argument that it has for a priority of one's own.
    """

    def __init__(self, world: Surrogate, seed: int, mended: bool = False) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice, loguniform, uniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
        from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority

        class Ranks(NonDominatedPriority):
            def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
                return np.argsort(super().priority_unsafe(objectives))

        def domain(parameter: Parameter) -> Any:
            if isinstance(parameter, Choice | IntRange):
                return choice([str(value) for value in parameter.values])  # it takes no words beside numbers
            return (loguniform if parameter.log else uniform)(parameter.low, parameter.high)

        space = {name: domain(parameter) for name, parameter in world.spec.space.parameters.items()}
        np.random.seed(seed)  # what it draws from
        self._scheduler = MOASHA(
            space,
            metrics=["error", "size"],
            time_attr="ninths",
            max_t=9,
            grace_period=1,
            reduction_factor=3,
            random_seed=seed,
            multiobjective_priority=Ranks() if mended else None,
        )
        self._make, self._world, self._number = Trial, world, itertools.count()
        self._trials: dict[int, Any] = {}
        self._goes_on: list[Segment] = []

    def next(self, now: float) -> Segment | None:
        import datetime

        if self._goes_on:
            return self._goes_on.pop()
        config = self._scheduler.suggest().config
        number = next(self._number)
        self._trials[number] = self._make(number, config, datetime.datetime.now())
        self._scheduler.on_trial_add(self._trials[number])
        point = self._world.spec.space.point(lambda name, parameter: _chosen(parameter, config[name]))
        return Segment(number, repaired(self._world, point), -1, 0)

    def measured(self, segment: Segment, accuracies: np.ndarray, size: int, now: float) -> None:
        from syne_tune.optimizer.scheduler import SchedulerDecision

        result = {
            "error": 1 - float(accuracies[segment.end]),
            "size": math.log10(size),
            "ninths": (1, 3, 9)[segment.end],
        }
        trial = self._trials[segment.trial]
        if segment.end == len(SHARES) - 1:
            self._scheduler.on_trial_complete(trial, result)
        elif self._scheduler.on_trial_result(trial, result) == SchedulerDecision.CONTINUE:
            self._goes_on.append(Segment(segment.trial, segment.point, segment.end, segment.end + 1))
        else:
            self._scheduler.on_trial_remove(trial)


def _chosen(parameter: Parameter, value: Any) -> Any:
    return next(own for own in parameter.values if str(own) == value) if hasattr(parameter, "values") else value


def repaired(world: Surrogate, point: Point) -> Point:
    """The point, or the nearest that makes a student, as a training function of whoever uses these searchers would mend it: they
    know no rules between parameters. distilsearch suggests none that has to be mended."""
    try:
        world.shape(point)
        return point
    except InvalidStudent:
        mended = {**point, "layers": "even-with-last"}
        if "num_hidden_groups" in point:
            mended["num_hidden_groups"] = min(point["num_hidden_groups"], point["depth"])
        return mended


def suggested(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, list(parameter.values))
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


THREE_RUNGS = {"rungs": ["1/9", "1/3", 1], "reduction": 3}
SEARCHERS: dict[str, Callable[[Surrogate, int, int], Searcher]] = {
    "ours": lambda world, seed, lanes: Ours(world, seed, lanes),
    "random": lambda world, seed, lanes: Whole(world, optuna.samplers.RandomSampler(seed=seed)),
    "optunasearch": lambda world, seed, lanes: RayOptunaSearch(world, seed),
    "nsga2": lambda world, seed, lanes: Whole(world, optuna.samplers.NSGAIISampler(seed=seed)),
    "moasha": lambda world, seed, lanes: Moasha(world, seed),
    "moasha, mended": lambda world, seed, lanes: Moasha(world, seed, mended=True),
    "ours, three rungs": lambda world, seed, lanes: Ours(world, seed, lanes, halving=THREE_RUNGS),
    "ours, whole": lambda world, seed, lanes: Ours(world, seed, lanes, halving="none"),
    # and in parts
    "ours, no recipes": lambda world, seed, lanes: Ours(world, seed, lanes, recipes=False),
    "ours, whole, no recipes": lambda world, seed, lanes: Ours(world, seed, lanes, halving="none", recipes=False),
    "tpe, whole": lambda world, seed, lanes: Ours(world, seed, lanes, sampler="tpe", halving="none", recipes=False),
    "random, halving": lambda world, seed, lanes: Ours(world, seed, lanes, sampler="random"),
    "tpe, halving": lambda world, seed, lanes: Ours(world, seed, lanes, sampler="tpe", recipes=False),
}
