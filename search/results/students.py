"""What the students of the front are worth: one StudentRow a point. Validation selects, test reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from search.results.front import ParetoFront, Reference, reference_named
from search.results.scores import ALPHA, SeedScore, chances
from spaces.deployment import PREFIX
from spaces.families import FAMILIES
from spaces.heads import STOCK
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialConfig, TrialOutcome, TrialState


class Comparison(Frozen):
    """A student of the front against the next smaller one, on test: `gain` is the quality that its size buys, `chance` the
    p-value of `scores.chances`."""

    smaller: int  # its trial
    num_parameters: int
    gain: float
    chance: float | None
    verdict: Literal["better", "not shown", "not tested"]


class StudentRow(Frozen):
    """One student: what it is, what it was chosen by (validation) and what it is worth (test). `standing` says whether it is a
    point of the front or was only confirmed beside it; the smallest point has nothing to be `compared` with.

    Metrics are named `split/name`. `deployed` are its costs where it will run (latency_ms ...), as far as they were measured or the
    study states them (`study.deployment`). `score` is the study's quality on the test split, or on validation where nothing was
    scored on test (`scored_on` says which); `share_of_teacher` and `lift_kept` = (student - n-gram floor) / (teacher -
    floor) are on the same split, and None where the other side of the comparison is missing.
    """

    trial: int
    standing: Literal["front", "near"] = "front"
    architecture: str
    validation: dict[str, float]
    test: dict[str, SeedScore]
    without_distillation: dict[str, SeedScore]
    num_parameters: int
    num_bytes: int
    deployed: dict[str, float] = {}
    score: float
    score_std: float | None
    scored_on: Literal["test", "validation"]
    share_of_teacher: float | None
    lift_kept: float | None
    share_on_validation: float | None
    compared: Comparison | None = None
    config: TrialConfig
    parameters: dict[str, str | int | float]

    @property
    def is_worth_having(self) -> bool:
        """Better than a bag of n-grams, where that was measured."""
        return self.lift_kept is None or self.lift_kept > 0


def architecture_in_words(config: TrialConfig) -> str:
    """Such as `bert, layers 0 2 5, width 384 and 1536, vocabulary used (11,572), embeddings full`: hidden and feed-forward."""
    shape = config.shape
    layers = f"layers {' '.join(map(str, config.layers))}"
    if shape.num_hidden_groups != shape.depth:
        groups = shape.num_hidden_groups
        layers += f" in {groups} group{'s' * (groups > 1)}"
    embeddings = "full" if shape.embedding_size == shape.hidden_size else str(shape.embedding_size)
    words = [
        shape.family,
        layers,
        f"width {shape.hidden_size} and {shape.intermediate_size}",
        f"vocabulary {config.vocabulary} ({shape.vocabulary_size:,})",
        f"embeddings {embeddings}",
    ]
    own = {
        "num_conv_groups": "convolution groups",
        "bottleneck_size": "bottleneck",
        "num_feedforwards": "feed-forwards",
    }
    words += [f"{own.get(name, name)} {getattr(shape, name)}" for name in FAMILIES[shape.family].keys]
    words += [f"head {shape.head}"] if shape.head != STOCK else []
    return ", ".join([*words, "initialised at random"] if config.initialise == "random" else words)


def student_rows(
    spec: StudySpec,
    front: ParetoFront,
    outcomes: Sequence[TrialOutcome],
    confirmations: Sequence[TrialOutcome],
    delivered: Mapping[int, Mapping[str, float]],
    references: Sequence[Reference],
    num_rows: Mapping[str, int] | None = None,
) -> list[StudentRow]:
    """One row a point of the front, in its order.

    `confirmations` carry the labels kind (confirm, without_distillation) and of (the trial's number); those that did
    not finish count for nothing. `delivered` holds the test metrics of the search's own models, each one's first seed.
    `num_rows` are those of each split, where they are known.
    """
    num_tested = (num_rows or {}).get("test", 0)
    by_number = {outcome.number: outcome for outcome in outcomes}
    rows = [
        _row(spec, by_number[trial], confirmations, delivered.get(trial, {}), references, num_tested)
        for trial in front.trials
    ]
    return _compared(rows, spec.quality, num_tested)


def near_rows(
    spec: StudySpec,
    near: Sequence[int],
    outcomes: Sequence[TrialOutcome],
    confirmations: Sequence[TrialOutcome],
    delivered: Mapping[int, Mapping[str, float]],
    references: Sequence[Reference],
    num_rows: Mapping[str, int],
) -> list[StudentRow]:
    """One row for each of these trials near the front that was scored on test, as `student_rows` makes them."""
    by_number = {outcome.number: outcome for outcome in outcomes}
    rows = (
        _row(spec, by_number[trial], confirmations, delivered.get(trial, {}), references, num_rows.get("test", 0))
        for trial in near
    )
    return [row.model_copy(update={"standing": "near"}) for row in rows if row.scored_on == "test"]


def _compared(rows: list[StudentRow], quality: str, num_rows: int) -> list[StudentRow]:
    """Each row but the first with what it is against the one before, where both were scored on test."""
    test = f"test/{quality}"
    pairs = [(one, other) for one, other in pairwise(rows) if test in one.test and test in other.test]
    found = chances([(one.test[test], other.test[test]) for one, other in pairs], quality, num_rows)
    against: dict[int, Comparison] = {}
    for (one, other), chance in zip(pairs, found, strict=True):
        against[other.trial] = Comparison(
            smaller=one.trial,
            num_parameters=one.num_parameters,
            gain=other.test[test].mean - one.test[test].mean,
            chance=chance,
            verdict="not tested" if chance is None else "better" if chance < ALPHA else "not shown",
        )
    return [row.model_copy(update={"compared": against.get(row.trial)}) for row in rows]


def _row(
    spec: StudySpec,
    outcome: TrialOutcome,
    confirmations: Sequence[TrialOutcome],
    delivered: Mapping[str, float],
    references: Sequence[Reference],
    num_rows: int,
) -> StudentRow:
    def again(kind: str) -> list[Mapping[str, float]]:
        return [
            other.last.metrics
            for other in confirmations
            if other.labels.get("kind") == kind and other.labels.get("of") == str(outcome.number)
            if other.state is TrialState.DONE and other.last
        ]

    test = _over_seeds([delivered, *again("confirm")], num_rows)
    measured = outcome.last.metrics if outcome.last else {}
    validation = {name: value for name, value in measured.items() if name.startswith("validation/")}
    scored_on: Literal["test", "validation"] = "test" if f"test/{spec.quality}" in test else "validation"
    score = test[f"test/{spec.quality}"].mean if scored_on == "test" else validation[f"validation/{spec.quality}"]
    teacher, floor = reference_named(references, "teacher"), reference_named(references, "ngrams")

    def held(reference: Reference | None, split: str) -> float:
        return reference.value(spec.quality, split) if reference else math.nan

    top, bottom = held(teacher, scored_on), held(floor, scored_on)
    return StudentRow(
        trial=outcome.number,
        architecture=architecture_in_words(outcome.config),
        validation=validation,
        test=test,
        without_distillation=_over_seeds(again("without_distillation"), num_rows),
        num_parameters=outcome.config.shape.num_parameters,
        num_bytes=outcome.config.shape.num_bytes,
        deployed=outcome.last.named(PREFIX) if outcome.last else {},
        score=score,
        score_std=test[f"test/{spec.quality}"].std if scored_on == "test" else None,
        scored_on=scored_on,
        share_of_teacher=score / top if top > 0 else None,
        lift_kept=(score - bottom) / (top - bottom) if top > bottom else None,
        share_on_validation=(
            validation[f"validation/{spec.quality}"] / held(teacher, "validation")
            if held(teacher, "validation") > 0
            else None
        ),
        config=outcome.config,
        parameters=outcome.parameters,
    )


def _over_seeds(measured: Sequence[Mapping[str, float]], num_rows: int) -> dict[str, SeedScore]:
    """Each test metric over the runs that have it; NaN counts as not measured."""
    names = dict.fromkeys(name for metrics in measured for name in metrics if name.startswith("test/"))
    values = {name: [m[name] for m in measured if math.isfinite(m.get(name, math.nan))] for name in names}
    return {name: SeedScore.of(found, name.removeprefix("test/"), num_rows) for name, found in values.items() if found}


def smallest_within(rows: Sequence[StudentRow], share: float = 0.97) -> StudentRow | None:
    """The smallest student that keeps this share of the teacher's score on validation, where students are chosen."""
    good = [row for row in rows if row.share_on_validation is not None and row.share_on_validation >= share]
    return min(good, key=lambda row: (row.num_parameters, row.num_bytes, row.trial), default=None)
