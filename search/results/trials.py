"""Every trial as plain data for the report's page: columns, so that thousands stay small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.results.analysis import Analysis
from search.results.front import ParetoFront, Reference, reference_named
from search.results.students import StudentRow, architecture_in_words
from spaces.deployment import COST_WORDS, COSTS, PREFIX
from spaces.space import PARAMETERS
from spaces.study import StudySpec
from spaces.task import METRIC_WORDS
from spaces.trial import TrialOutcome

ERROR_CHARACTERS = 400  # the record has the rest


def page_data(
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    near: Sequence[StudentRow],
    references: Sequence[Reference],
    outcomes: Sequence[TrialOutcome],
    found: Analysis,
) -> dict[str, Any]:
    """What the page draws and lists; numbers that are not finite are None. `outcomes` are the search's own, no confirmations."""
    scores = [name for name in spec.objectives if name not in COSTS] or [spec.quality]
    measured = {name for outcome in outcomes for name in outcome.values()}
    bounded = [name for name in spec.bounds if name in COSTS]
    costs = [name for name in (*spec.objectives, *bounded, "parameters", "latency_ms") if name in COSTS]
    costs = [name for name in dict.fromkeys(costs) if name in measured or name == "parameters"]
    teacher = reference_named(references, "teacher")
    data = {
        "study": spec.name,
        "objectives": list(spec.objectives),
        "scores": {name: METRIC_WORDS.get(name, name) for name in scores},
        "shares": [name for name in scores if name in METRIC_WORDS],  # said in percent
        "costs": {name: COST_WORDS[name] for name in costs},
        "knee": front.knee,
        "trials": _columns(outcomes, scores, costs),
        "front": [_student(row, scores) for row in rows],
        "near": [_student(row, scores) for row in near],
        "references": [
            {
                "name": reference.name,
                "label": reference.label,
                "values": {name: reference.value(name) for name in (*scores, *costs)},
            }
            for reference in references
        ],
        "bounds": {
            name: list(bound.limits(teacher.value(name) if teacher else math.nan))
            for name, bound in spec.bounds.items()
        },
        "rungs": list(spec.search.rungs),
        "course": {
            "minutes": [round(point.train_seconds / 60, 4) for point in found.course],
            "finished": [point.finished for point in found.course],
            "hypervolume": [point.hypervolume for point in found.course],
        },
    }
    return _finite(data)


def _columns(outcomes: Sequence[TrialOutcome], scores: Sequence[str], costs: Sequence[str]) -> dict[str, Any]:
    values = [outcome.values() for outcome in outcomes]
    shapes: dict[str, int] = {}
    places = [shapes.setdefault(architecture_in_words(outcome.config), len(shapes)) for outcome in outcomes]
    noise = PREFIX + "latency_noise"
    parameters = [name for name in PARAMETERS if any(name in outcome.parameters for outcome in outcomes)]
    return {
        "number": [outcome.number for outcome in outcomes],
        "state": [outcome.state.value for outcome in outcomes],
        "start": {outcome.number: outcome.labels["start"] for outcome in outcomes if "start" in outcome.labels},
        "share": [round(outcome.share, 6) for outcome in outcomes],
        "seconds": [round(outcome.train_seconds, 2) for outcome in outcomes],
        "tokens": [outcome.train_tokens for outcome in outcomes],
        "seed": [outcome.config.seed for outcome in outcomes],
        "values": {name: [_short(each.get(name)) for each in values] for name in (*scores, *costs)},
        "latency_noise": {o.number: o.last.metrics[noise] for o in outcomes if o.last and noise in o.last.metrics},
        "curve": [
            [
                number
                for measured in outcome.measurements
                for number in (round(measured.share, 6), _short(measured.metrics.get(f"validation/{scores[0]}")))
            ]
            for outcome in outcomes
        ],
        "error": {outcome.number: outcome.error[:ERROR_CHARACTERS] for outcome in outcomes if outcome.error},
        "shapes": list(shapes),
        "shape": places,
        # As they were suggested, to the last digit: they are copied to train the student again.
        "parameters": {name: _packed([outcome.parameters.get(name) for outcome in outcomes]) for name in parameters},
    }


def _packed(column: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """A column of few words as these and their places; `chart.js` unpacks it."""
    words = {word: place for place, word in enumerate(dict.fromkeys(column))}
    return {"words": list(words), "at": [words[each] for each in column]} if 20 * len(words) < len(column) else column


def _student(row: StudentRow, scores: Sequence[str]) -> dict[str, Any]:
    test = {name: row.test[f"test/{name}"].model_dump() for name in scores if f"test/{name}" in row.test}
    return {"trial": row.trial, "test": test, "of_teacher": row.share_of_teacher}


def _short(value: float | None) -> float | None:
    """A count whole, a score to seven digits."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.7g}")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
