"""One trial of a study, in full: what `show --trial` tells. Needs neither Ray nor torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from search.record.record import Record
from search.results.front import ParetoFront, Reference
from search.results.students import architecture_in_words
from search.study.output import one_point_study, records_of, spec_of, weights_folder
from search.trial import mirror
from spaces.errors import InputError
from spaces.remote import url_of, written
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState

MEANS = {
    TrialState.RUNNING: "it runs now, or ran when the study was cut off",
    TrialState.WAITING: "measured at a rung, and may go on from there",
    TrialState.PROMOTED: "it goes on to its next rung",
    TrialState.ENDED: "it did not go on: others were better at its rung",
    TrialState.FAILED: "it broke; the study went on without it",
    TrialState.DONE: "measured after its whole training",
}


class Again(Frozen):
    """A trial trained again: with another seed (`confirm`), or `without_distillation`."""

    kind: str
    seed: str
    state: TrialState
    metrics: dict[str, float]
    error: str = ""


class TrialDetails(Frozen):
    """One trial as the record and the folder have it. `standing` is `front`, `beaten`, or `unmeasured` of the whole training;
    `weights` says where its weights lie, if anywhere; `train` is the command that trains it again, `study` the study it runs."""

    trial: int
    state: TrialState
    standing: str
    architecture: str
    num_parameters: int
    num_bytes: int
    objectives: dict[str, float]
    share_of_teacher: float | None
    parameters: dict[str, str | int | float]
    config: TrialConfig
    attempts: int
    measurements: tuple[Measurement, ...]
    again: tuple[Again, ...]
    delivered: dict[str, float]
    error: str
    weights: str
    train: str
    study: dict[str, Any]


def trial_details(folder: Path, number: int) -> TrialDetails:
    """Raises InputError for a number that the study does not have."""
    spec = spec_of(folder)
    record, confirmations = records_of(spec, folder)
    outcomes = {outcome.number: outcome for outcome in record.outcomes()}
    if number not in outcomes:
        there = f"it has trials {min(outcomes)} to {max(outcomes)}" if outcomes else "it has none yet"
        raise InputError.of("--trial", f"{folder} has no trial {number}; {there}")
    outcome = outcomes[number]
    references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
    front = ParetoFront.of(list(outcomes.values()), spec, references).trials if references else ()
    values = outcome.values()
    teacher = references[0].value(spec.quality) if references else 0.0
    return TrialDetails(
        trial=number,
        state=outcome.state,
        standing="unmeasured" if outcome.state is not TrialState.DONE else "front" if number in front else "beaten",
        architecture=architecture_in_words(outcome.config),
        num_parameters=outcome.config.shape.num_parameters,
        num_bytes=outcome.config.shape.num_bytes,
        objectives={name: values[name] for name in spec.objectives if name in values},
        share_of_teacher=values[spec.quality] / teacher if spec.quality in values and teacher > 0 else None,
        parameters=outcome.parameters,
        config=outcome.config,
        attempts=record.attempts().get(number, 1),
        measurements=outcome.measurements,
        again=tuple(_again(each) for each in confirmations.outcomes() if each.labels.get("of") == str(number)),
        delivered=_delivered(record, number),
        error=outcome.error,
        weights=_weights(spec, outcome),
        train=_train(folder, number),
        study=one_point_study(spec, outcome).resolved(),
    )


def _again(outcome: TrialOutcome) -> Again:
    return Again(
        kind=outcome.labels["kind"],
        seed=outcome.labels.get("seed", ""),
        state=outcome.state,
        metrics=outcome.last.metrics if outcome.last else {},
        error=outcome.error,
    )


def _delivered(record: Record, number: int) -> dict[str, float]:
    known: dict[str, Any] = record.fact("delivered") or {}
    return dict(known.get(str(number), {}).get("metrics", {}))


def _weights(spec: StudySpec, outcome: TrialOutcome) -> str:
    """The delivered model, else the last checkpoint."""
    model = spec.output / "best" / f"trial-{outcome.number}"
    if mirror.there(model / "model.safetensors"):
        return written(model)
    kept = weights_folder(spec, outcome.last) if outcome.last else None
    return written(kept) if kept is not None and mirror.there(kept) else ""


def _train(folder: Path, number: int) -> str:
    config = folder / "best" / f"trial-{number}.yaml"
    if config.is_file() and url_of(config) is None:
        return f"distilsearch run {shlex.quote(str(config))}"
    name = f"trial-{number}.yaml"
    return (
        f"distilsearch show {shlex.quote(written(folder))} --trial {number} --study > {name} && distilsearch run {name}"
    )
