"""The front as a table: one StudentRow a point, as CSV, JSON and text. Validation selects, test reports."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from search.results.front import ParetoFront, Reference, reference_named
from search.results.scores import ALPHA, SeedScore, chances
from spaces.heads import STOCK
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialConfig, TrialOutcome, TrialState
from spaces.yaml_io import write_whole

CONFIG_COLUMNS = (
    "temperature",
    "soft_share",
    "hidden_share",
    "hidden_loss",
    "hidden_layers",
    "learning_rate",
    "batch_size",
    "warmup_share",
    "weight_decay",
    "dropout",
    "epochs",
    "steps",
    "seed",
    "initialise",
    "group_start",
)


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

    Metrics are named `split/name`. `score` is the study's quality on the test split, or on validation where nothing was
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
    validation = {
        name: value
        for name, value in (outcome.last.metrics if outcome.last else {}).items()
        if name.startswith("validation/")
    }
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


def csv_line(row: StudentRow) -> dict[str, Any]:
    """One row under the columns of front.csv; what was not measured is empty."""
    line: dict[str, Any] = {"trial": row.trial, "standing": row.standing, "architecture": row.architecture}
    line |= row.validation
    for name, score in row.test.items():
        line |= {name: score.mean, f"{name}_std": score.std, f"{name}_low": score.low, f"{name}_high": score.high}
    if row.test:
        line["seeds"] = max(score.seeds for score in row.test.values())
    line |= {f"without_distillation/{name}": score.mean for name, score in row.without_distillation.items()}
    line |= {"parameters": row.num_parameters, "bytes": row.num_bytes}
    line |= {"share_of_teacher": row.share_of_teacher, "lift_kept": row.lift_kept}
    line |= {"than_smaller": row.compared.verdict if row.compared else None}
    line |= {
        "family": row.config.shape.family,
        "layers": " ".join(map(str, row.config.layers)),
        "vocabulary": row.config.vocabulary,
        "vocabulary_size": row.config.shape.vocabulary_size,
        "embedding_size": row.config.shape.embedding_size,
        "num_hidden_groups": row.config.shape.num_hidden_groups,
    }
    return line | {name: getattr(row.config, name) for name in CONFIG_COLUMNS}


def csv_columns(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every column any line has: what it is, validation, test, without distillation, sizes, then the config."""

    def rank(column: str) -> int:
        if column in ("trial", "standing", "architecture"):
            return 0
        prefixes = ("validation/", "test/", "seeds", "without_distillation/")
        return next((place for place, prefix in enumerate(prefixes, start=1) if column.startswith(prefix)), 9)

    return sorted(dict.fromkeys(column for line in lines for column in line), key=rank)  # stable


def write_front_csv(path: str | Path, rows: Sequence[StudentRow]) -> None:
    """front.csv: one line a point of the front, and one for each student confirmed near it; whole or not at all."""
    lines = [csv_line(row) for row in rows]
    text = io.StringIO()
    columns = csv_columns(lines) or ["trial", "standing", "architecture", "parameters", "bytes"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(path, text.getvalue())


def front_as_json(
    rows: Sequence[StudentRow],
    front: ParetoFront,
    references: Sequence[Reference],
    near: Sequence[StudentRow] = (),
) -> dict[str, Any]:
    """Plain data for scripts; no NaN inside."""
    return {
        "objectives": dict(front.objectives),
        "hypervolume": front.hypervolume,
        "reference": dict(front.reference),
        "knee": front.knee,
        "rows": [row.model_dump(mode="json") for row in rows],
        "near": [row.model_dump(mode="json") for row in near],
        "references": [_without_nan(reference.model_dump(mode="json")) for reference in references],
    }


def _without_nan(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"metrics": {name: value for name, value in plain["metrics"].items() if value is not None}}


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def with_spread(score: SeedScore | None) -> str:
    """Such as `88.0 % ± 1.0`."""
    if score is None:
        return ""
    return percent(score.mean) + (f" ± {100 * score.std:.1f}" if score.std is not None else "")


def interval(score: SeedScore | None) -> str:
    """Such as `86.1 to 89.9 %`."""
    if score is None or score.low is None or score.high is None:
        return ""
    return f"{100 * score.low:.1f} to {100 * score.high:.1f} %"


def distinctions(rows: Sequence[StudentRow]) -> list[str]:
    """For each student whether it is better on test than the next smaller one, in words; one line where that was not asked."""
    if any(row.compared for row in rows) and not any(row.compared and row.compared.chance is not None for row in rows):
        return [
            "Which of them are better on test than a smaller one was not tested: it takes two seeds of each (confirm.seeds)."
        ]
    found = []
    for row in rows:
        if row.compared is None:
            continue
        than = f"the {millions(row.compared.num_parameters)} one (trial {row.compared.smaller})"
        gain = f"{100 * row.compared.gain:+.1f} points"
        chance = row.compared.chance
        if chance is None:
            said = f"was not tested against {than}: {gain}; it takes two seeds of each, and a count of the texts"
        else:
            word = "is better than" if row.compared.verdict == "better" else "is not shown to be better than"
            said = f"{word} {than}: {gain}, p {f'= {chance:.2g}' if chance >= 0.001 else '< 0.001'}"
        found.append(f"Trial {row.trial} ({millions(row.num_parameters)}) {said}.")
    return found


def millions(number: float) -> str:
    """Such as `27.4 M`; `170 k` below a million."""
    return f"{number / 1e6:.1f} M" if number >= 999_500 else f"{number / 1e3:.0f} k"


def _how_many(rows: Sequence[StudentRow]) -> str:
    """Such as `5 students worth having`; those that a bag of n-grams equals are on the front for their size alone."""
    count = sum(row.is_worth_having for row in rows)
    worth = f"{count} student{'s' * (count != 1)} worth having"
    rest = len(rows) - count
    return f"{worth}; {rest} more no better than a bag of n-grams" if rest else worth


def front_as_text(
    spec: StudySpec,
    rows: Sequence[StudentRow],
    front: ParetoFront,
    references: Sequence[Reference],
    near: Sequence[StudentRow] = (),
) -> Table:
    """The front, what was confirmed near it and what it is held against, for a terminal."""
    test = f"test/{spec.quality}"
    table = Table(title=f"{spec.name}: {_how_many(rows)}", title_justify="left")
    table.caption, table.caption_justify = "\n".join(distinctions(rows)) or None, "left"
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("student", overflow="fold", ratio=1)
    for title in (
        "parameters",
        f"validation {spec.quality}",
        f"test {spec.quality}",
        "95 % interval",
        "no distillation",
        "of teacher",
        "lift",
    ):
        table.add_column(title, justify="right")
    for row in (*rows, *near):
        if near and row is near[0]:
            table.add_section()
        table.add_row(
            f"{row.trial}{' (knee)' * (row.trial == front.knee)}{' (near)' * (row.standing == 'near')}",
            row.architecture,
            millions(row.num_parameters),
            percent(row.validation.get(f"validation/{spec.quality}")),
            with_spread(row.test.get(test)),
            interval(row.test.get(test)),
            with_spread(row.without_distillation.get(test)),
            percent(row.share_of_teacher),
            percent(row.lift_kept, 0),
            style="" if row.is_worth_having and row.standing == "front" else "dim",
        )
    table.add_section()
    for reference in references:
        table.add_row(
            "",
            reference.label,
            millions(reference.num_parameters) if reference.num_parameters else "",
            percent(reference.value(spec.quality)),
            percent(reference.value(spec.quality, "test")),
            "",
            "",
            "",
            "",
            style="dim",
        )
    return table
