"""The students of the front as CSV, JSON and text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from search.results.front import ParetoFront, Reference
from search.results.scores import SeedScore
from search.results.students import StudentRow
from spaces.deployment import PREFIX
from spaces.study import StudySpec
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
    line |= {PREFIX + name: value for name, value in row.deployed.items()}
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


def milliseconds(value: float | None) -> str:
    """Such as `3.42 ms`."""
    return "" if value is None or math.isnan(value) else f"{value:.3g} ms"


def latency_in_words(spec: StudySpec, rows: Sequence[StudentRow]) -> str:
    """What the latencies are of, and how much they differ from one measuring to the next."""
    noises = [row.deployed["latency_noise"] for row in rows if "latency_noise" in row.deployed]
    noise = f"; each may be off by {percent(max(noises))}" if noises else ""
    return f"Latency: the median over batches, {spec.deployment.in_words}{noise}."


def _how_many(rows: Sequence[StudentRow], floor: str) -> str:
    """Such as `5 students worth having`; those that the floor equals are on the front for their size alone."""
    count = sum(row.is_worth_having for row in rows)
    worth = f"{count} student{'s' * (count != 1)} worth having"
    rest = len(rows) - count
    return f"{worth}; {rest} more no better than {floor}" if rest else worth


def front_as_text(
    spec: StudySpec,
    rows: Sequence[StudentRow],
    front: ParetoFront,
    references: Sequence[Reference],
    near: Sequence[StudentRow] = (),
) -> Table:
    """The front, what was confirmed near it and what it is held against, for a terminal."""
    test = f"test/{spec.quality}"
    table = Table(title=f"{spec.name}: {_how_many(rows, spec.about.floor)}", title_justify="left")
    timed = any("latency_ms" in row.deployed for row in (*rows, *near))
    captions = [*distinctions(rows), *([latency_in_words(spec, [*rows, *near])] if timed else [])]
    table.caption, table.caption_justify = "\n".join(captions) or None, "left"
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("student", overflow="fold", ratio=1)
    for title in (
        "parameters",
        *(["latency"] if timed else []),
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
            *([milliseconds(row.deployed.get("latency_ms"))] if timed else []),
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
            *([milliseconds(reference.value("latency_ms"))] if timed else []),
            percent(reference.value(spec.quality)),
            percent(reference.value(spec.quality, "test")),
            "",
            "",
            "",
            "",
            style="dim",
        )
    return table
