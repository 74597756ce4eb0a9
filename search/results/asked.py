"""What a study asked, in plain words: the report's opening lines, and the whole of it for who wants to know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.results.front import Reference, reference_named
from search.results.table import millions, percent
from spaces.deployment import COST_WORDS, COSTS
from spaces.parameters import Choice, FloatRange, Parameter
from spaces.study import Bound, StudySpec
from spaces.task import METRIC_WORDS

TASK_WORDS = {
    "text-classification": "text classification",
    "multi-label-classification": "multi-label classification",
    "text-regression": "regression of texts",
    "token-classification": "finding named entities",
    "question-answering": "answering questions from a context",
    "sentence-embeddings": "sentence embeddings",
    "masked-language-modelling": "masked language modelling",
}
COST_WANTED = {
    "parameters": "few parameters",
    "flops": "few FLOPs",
    "bytes": "a small file",
    "latency_ms": "a short latency",
    "peak_memory_bytes": "little memory",
}
SIDES = {"at least": "min", "at most": "max"}
SAMPLER_WORDS = {"forest": "a random forest of our own", "random": "chance alone"}


def opening(spec: StudySpec) -> str:
    """One or two sentences: of which teacher, for what, wanting what, within what."""
    wanted = [COST_WANTED[name] if name in COSTS else f"high {metric_in_words(name)}" for name in spec.objectives]
    text = f"Students of {teacher_name(spec)} for {TASK_WORDS[spec.task]} on {data_in_words(spec)}: {_and(wanted)}."
    return f"{text} Asked for: {bounds_in_words(spec.bounds)}." if spec.bounds else text


def asked(spec: StudySpec, references: Sequence[Reference], num_rows: Mapping[str, int]) -> dict[str, str]:
    """Each part of the question by its name."""
    teacher = reference_named(references, "teacher")
    known = teacher_name(spec)
    if teacher and teacher.num_parameters:
        known += f", {millions(teacher.num_parameters)} parameters"
    if teacher and math.isfinite(teacher.value(spec.quality)):
        known += f", validation {metric_in_words(spec.quality)} {percent(teacher.value(spec.quality))}"
    splits = ", ".join(f"{name} {count:,}" for name, count in num_rows.items())
    wanted = [
        f"{metric_in_words(name)} as {'low' if way == 'minimize' else 'high'}" for name, way in spec.objectives.items()
    ]
    space = [
        f"{name} {_values(parameter)}"
        for name, parameter in spec.space.parameters.items()
        if not spec.space.is_fixed(name)
    ]
    return {
        "Task": TASK_WORDS[spec.task],
        "Data": f"{data_in_words(spec)}{f'; rows: {splits}' if splits else ''}",
        "Teacher": known,
        "Objectives": f"{_and(wanted)} as can be",
        "Bounds": bounds_in_words(spec.bounds) if spec.bounds else "none",
        **_deployed(spec),
        "One trial": f"{spec.training.steps:,} steps" if spec.training.steps else plural(spec.training.epochs, "epoch"),
        "Budget": _budget(spec),
        "Searched by": _search(spec),
        "Space": "; ".join(space) or "one student",
        "Confirmed with": plural(spec.confirm.seeds, "seed") + " of each student of the front",
    }


def _deployed(spec: StudySpec) -> dict[str, str]:
    names = (*spec.objectives, *spec.bounds)
    where = spec.deployment
    if not any(name in COSTS and name != "parameters" for name in names):
        return {}
    said = (
        f"{where.runtime}, batches of {where.batch_size} with {where.length} pieces, {plural(where.threads, 'thread')}"
    )
    return {"Where it runs": f"{said}; file in {where.file}"}


def _budget(spec: StudySpec) -> str:
    budget = spec.budget
    parts = [plural(budget.trials, "trial")]
    parts += [f"{budget.minutes:g} minutes a command"] if budget.minutes else []
    parts += [f"{budget.training_tokens:,.0f} training tokens"] if budget.training_tokens else []
    parts += [f"{budget.gpu_hours:g} GPU hours"] if budget.gpu_hours else []
    if budget.flat:
        parts.append(f"a front that grew by at most {budget.flat.growth:.1%} in {budget.flat.trials} trials")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts)}: whichever ended first"


def _search(spec: StudySpec) -> str:
    said = SAMPLER_WORDS.get(spec.search.sampler, spec.search.sampler)
    halving = spec.search.halving
    if halving == "none":
        return f"{said}; each trial trained whole"
    rungs = ", ".join(percent(rung, 0) for rung in halving.rungs[:-1])
    return f"{said}; measured after {rungs} of the training, of which 1 in {halving.reduction:g} goes on"


def bounds_in_words(bounds: Mapping[str, Bound]) -> str:
    """Such as `at most 6,000,000 parameters and at least 97 % of the teacher's accuracy`."""

    def words(name: str, value: float | str) -> str:
        if isinstance(value, str):
            return f"{value.removesuffix('%')} % of the teacher's {metric_in_words(name)}"
        if name not in COSTS:
            return f"{percent(value)} {metric_in_words(name)}"
        return f"{value:g} ms latency" if name == "latency_ms" else f"{value:,.0f} {metric_in_words(name)}"

    ends = [(way, name, getattr(bound, end)) for name, bound in bounds.items() for way, end in SIDES.items()]
    return _and([f"{way} {words(name, value)}" for way, name, value in ends if value is not None])


def _values(parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        text = ", ".join(map(str, parameter.values))
    else:
        shown = (
            f"{end:g}" if isinstance(parameter, FloatRange) else str(end) for end in (parameter.low, parameter.high)
        )
        text = " to ".join(shown)
    when = " and ".join(f"{name} {' or '.join(map(str, values))}" for name, values in parameter.when.items())
    return f"{text} (with {when})" if when else text


def data_in_words(spec: StudySpec) -> str:
    data = spec.data
    if data.builtin:
        return f"the embedded {data.builtin} ({data.num_pairs:,} pairs)"
    return _source(data.train)


def _source(train: Any) -> str:
    if isinstance(train, Path):
        return f"{train.parent.name}/{train.name}" if train.parent.name else train.name
    return " ".join(part for part in (train.hub, train.config, f"({train.split})") if part)


def teacher_name(spec: StudySpec) -> str:
    """A teacher by the name that people know: of its package, its folder or its place on the hub."""
    model = spec.teacher.model
    return model.removeprefix("package:").split("/")[0] if model.startswith("package:") else Path(model).name


def metric_in_words(name: str) -> str:
    return METRIC_WORDS.get(name) or COST_WORDS.get(name, name)


def plural(number: float, word: str) -> str:
    """Such as `3 seeds`."""
    return f"{number:,.6g} {word}{'s' * (number != 1)}"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
