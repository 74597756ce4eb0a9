"""Optuna's samplers, by name or import path, and the in-memory study that they see of what was measured.

A sampler sees trials at one rung, the highest at which enough were measured, so that a score half-way is never held against one
at the end. It is seeded anew for each ask, and sees what was measured in the order in which it came: so an interrupted study
suggests what an uninterrupted one would have.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import Trial, create_trial
from optuna.trial import TrialState as OptunaState

from search.record.record import distribution
from search.results.front import non_dominated
from search.suggest.changes import Changes
from spaces.errors import InputError
from spaces.named import function_named
from spaces.parameters import Choice, IntRange, Parameter, Value
from spaces.search import SAMPLERS
from spaces.study import StudySpec
from spaces.trial import TrialOutcome

MOST_SEEN = 2000  # the latest trials, of which a sampler sees all,
BLOCK = 1000  # and of the older ones so many, which become more by as many at a time: 2,001 to 3,000 in all

POPULATION = 20  # of a generation: Optuna's 50 would be more trials than many studies have

# By the name that a study file gives; each is made with the seed of one ask.
OPTUNA_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=0, multivariate=True, group=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=POPULATION),
    "nsga3": lambda seed: NSGAIIISampler(seed=seed, population_size=POPULATION),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=0),
    "random": lambda seed: RandomSampler(seed=seed),
}

OWN = tuple(name for name in SAMPLERS if name not in OPTUNA_SAMPLERS)  # of distilsearch itself


class OptunaAsks:
    """Points of the space, from the sampler that the study names. `limits` are the bounds with percentages resolved, by metric."""

    def __init__(self, spec: StudySpec, limits: Mapping[str, tuple[float, float]]) -> None:
        self._spec, self._limits = spec, limits
        self._make = _maker(spec.search.sampler)
        self._measured = AtRungs(spec)
        self._seen: list[
            tuple[int, float]
        ] = []  # the trials that the in-memory study holds, each with its rung, in its order
        self._old: list[int] = []  # the trials of which a sampler sees a part,
        self._old_kept: list[TrialOutcome] = []  # this one
        self._study = self._new_study()
        self._check()

    def ask(self, outcomes: Sequence[TrialOutcome], seed: int) -> dict[str, Value]:
        """A point, in view of what was measured."""
        sampler = self._make(seed)
        return self._asked(self._study_of(self._measured.at_one(outcomes), sampler), sampler)

    def draw(self, seed: int, given: Mapping[str, Value]) -> dict[str, Value]:
        """A random point, but for what is given."""
        return self._asked(self._new_study(), RandomSampler(seed=seed), given)

    def _asked(
        self, study: optuna.Study, sampler: BaseSampler, given: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        study.sampler = sampler
        trial, fixed = study.ask(), given or {}

        def suggest(name: str, parameter: Parameter) -> Value:
            return fixed[name] if name in fixed else _suggest(trial, name, parameter)

        values = self._spec.space.point(suggest)
        study.tell(trial, state=OptunaState.FAIL)  # the samplers pass over what failed
        return values

    def _check(self) -> None:
        """A sampler that cannot take this study is refused before anything runs: it is asked once, after two made-up trials."""
        study, name = self._new_study(), self._spec.search.sampler
        try:
            for seed in range(2):
                values = self.draw(seed, {})
                study.add_trial(self._trial(values, [0.5 + seed] * len(self._spec.objectives), {}, {}))
            self._asked(study, self._make(0))
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError.of(
                "search.sampler",
                f"{name} cannot choose for {len(self._spec.objectives)} objectives in this space: {reason[0]} "
                f"There are {', '.join([*OWN, *OPTUNA_SAMPLERS])}, and Optuna's by import path that can",
            ) from None

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(directions=list(self._spec.objectives.values()))

    def _study_of(self, measured: list[TrialOutcome], sampler: BaseSampler) -> optuna.Study:
        """The in-memory study with these trials, or with what is remembered of very many. It grows with them, as making it anew
        costs a second by 2,000, and is made anew where a block is forgotten or another rung is looked at."""
        ordered = self._remembered(measured)
        seen = [(outcome.number, outcome.share) for outcome in ordered]
        if seen[: len(self._seen)] != self._seen:
            self._study, self._seen = self._new_study(), []
        for place, outcome in enumerate(ordered[len(self._seen) :], start=len(self._seen)):
            self._study.add_trial(self._as_seen(outcome, _generation(sampler, place)))
        self._seen = seen
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

    def _as_seen(self, outcome: TrialOutcome, generation: dict[str, int]) -> optuna.trial.FrozenTrial:
        """A measured trial as Optuna's sampler reads it, measured bounds as constraints (above 0: violated)."""
        values = outcome.values()
        constraints: dict[str, float] = {}
        for metric, (low, high) in self._limits.items():
            sides = {f"{metric}.min": low - values[metric], f"{metric}.max": values[metric] - high}
            constraints |= {side: excess for side, excess in sides.items() if math.isfinite(excess)}
        row = [values[name] for name in self._spec.objectives]
        return self._trial(outcome.parameters, row, constraints, generation)

    def _trial(
        self, point: Mapping[str, Value], row: list[float], constraints: dict[str, float], generation: dict[str, int]
    ) -> optuna.trial.FrozenTrial:
        space = self._spec.space
        searched = {name: value for name, value in point.items() if name in space.searched}
        return create_trial(
            state=OptunaState.COMPLETE,
            values=row,
            params=searched,
            distributions={name: distribution(space.parameter(name)) for name in searched},
            constraints=constraints,
            system_attrs=dict(generation),
        )


class AtRungs:
    """The trials that were measured at each rung, as they stood there, in the order in which they came."""

    def __init__(self, spec: StudySpec) -> None:
        self._rungs, self._enough = spec.search.rungs, spec.search.startup_trials
        self._changes = Changes()
        self._seen: list[dict[tuple[int, float, int], TrialOutcome]] = []  # of each outcome: by rung, time and number
        self._order: list[list[tuple[int, float, int]]] = [[] for _ in self._rungs]
        self._stood: dict[tuple[int, float, int], TrialOutcome] = {}

    def at_one(self, outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
        """Those of the highest rung at which enough were measured; else of the lowest."""
        for entries in self._seen[len(outcomes) :]:
            self._forget(entries)
        del self._seen[len(outcomes) :]
        for place in self._changes.of(outcomes):
            known = self._seen[place] if place < len(self._seen) else {}
            now = self._entries(outcomes[place])
            if now.keys() != known.keys():
                self._forget(known)
                for entry, outcome in now.items():
                    insort(self._order[entry[0]], entry)
                    self._stood[entry] = outcome
            self._seen[place : place + 1] = [now]
        order = next((rung for rung in reversed(self._order) if len(rung) >= self._enough), self._order[0])
        return [self._stood[entry] for entry in order]

    def _entries(self, outcome: TrialOutcome) -> dict[tuple[int, float, int], TrialOutcome]:
        return {
            (rung, measurement.cost.get("finished_at", 0.0), outcome.number): outcome.model_copy(
                update={"measurements": (measurement,)}
            )
            for measurement in outcome.measurements
            for rung, share in enumerate(self._rungs)
            if abs(measurement.share - share) < 1e-6
        }

    def _forget(self, entries: Mapping[tuple[int, float, int], TrialOutcome]) -> None:
        for entry in entries:
            order = self._order[entry[0]]
            del order[bisect_left(order, entry)]
            del self._stood[entry]


def _generation(sampler: BaseSampler, place: int) -> dict[str, int]:
    """What a genetic sampler notes of a trial when it is asked: here by the order in which trials were measured."""
    if not isinstance(sampler, BaseGASampler):
        return {}
    return {sampler._get_generation_key(): place // (sampler.population_size or POPULATION)}


def _maker(name: str) -> Callable[[int], BaseSampler]:
    if name in OPTUNA_SAMPLERS:
        return OPTUNA_SAMPLERS[name]
    if name in OWN:  # Optuna only draws at random for it
        return OPTUNA_SAMPLERS["random"]
    try:
        made = function_named(name)
    except Exception as error:
        raise InputError.of("search.sampler", f"{name} cannot be imported: {type(error).__name__}: {error}") from None

    def make(seed: int) -> BaseSampler:
        try:
            return made(seed=seed)
        except TypeError:  # it takes no seed
            return made()

    return make


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Value:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, list(parameter.values))
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
