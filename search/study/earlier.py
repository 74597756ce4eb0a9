"""An earlier study to begin from: what it measured, where that counts here too, and else its best students as first trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.record.record import Record, existing_record, open_storage
from search.results.front import ParetoFront, Reference
from search.study.inputs import Inputs
from search.study.output import spec_of
from search.suggest.first import adapted
from spaces.errors import InputError, StudyError
from spaces.parameters import Value
from spaces.remote import written
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState


@dataclass(frozen=True)
class Earlier:
    """What a study takes over from an earlier one. `outcomes` were measured there under this study's conditions: they inform the
    sampler, and are numbered below 0, as they are no trials of this study. `first` are points to begin with. `note` says
    in a line what was taken over. All are empty where nothing was.
    """

    outcomes: tuple[TrialOutcome, ...] = ()
    first: tuple[dict[str, Value], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class EarlierStudy:
    """A study that ran: its trials, the parameters of those on its front, and the fingerprint of its data and teacher."""

    folder: Path
    spec: StudySpec
    outcomes: tuple[TrialOutcome, ...]
    best: tuple[dict[str, Value], ...]
    data: str


# What a measurement depends on beside the data and the teacher. Bounds, budget and halving are not among it, nor is the seed, where
# no teacher is fine-tuned with it: another one changes a score as it changes that of any trial trained twice.
CONDITIONS: dict[str, Callable[[StudySpec], Any]] = {
    "another space": lambda spec: spec.space.fingerprint,
    "another task": lambda spec: spec.task,
    "other objectives": lambda spec: spec.objectives,
    "other metrics, families or heads": lambda spec: (spec.metrics, spec.families, spec.heads),
    "other class weights": lambda spec: spec.data.class_weights,
    "another fine-tuning of its teacher": lambda spec: spec.teacher.fine_tune,
    "another training": lambda spec: spec.training,
    "another deployment": lambda spec: spec.deployment,
}


def read_earlier(spec: StudySpec) -> EarlierStudy | None:
    """The study in the folder `search.from`; None where the study names none. Raises InputError where the folder holds none that
    finished a trial."""
    folder = spec.search.from_
    if folder is None:
        return None
    if folder == spec.output:
        raise _error(f"{written(folder)} is this study's own output; give this study another one (output, or --output)")
    try:
        theirs = spec_of(folder)
        record = existing_record(theirs.storage, folder, theirs.name, theirs.objectives)
        outcomes, made_from = record.outcomes(), record.fact("made_from")
        if not any(outcome.state is TrialState.DONE for outcome in outcomes):
            raise StudyError("none of its trials has finished")
        references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
        front = ParetoFront.of(outcomes, theirs, references)
        by_number = {outcome.number: outcome for outcome in outcomes}
        best = tuple(by_number[trial].parameters for trial in front.trials)
        found = EarlierStudy(folder, theirs, tuple(outcomes), best, made_from["data"])
    except Exception as error:  # whatever may be wrong with a folder
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _error(
            f"no study can be taken over from {written(folder)}: {reason}. Name the output folder of a study that has finished "
            "a trial, or leave it out"
        ) from error
    for kind in ("families", "heads"):  # there is one registry for both studies
        ours, own = getattr(spec, kind), getattr(theirs, kind)
        clash = [name for name in own if name in ours and own[name] != ours[name]]
        if clash:
            raise _error(f"{folder} has another {clash[0]!r} among its {kind}; rename this study's, or leave it out")
    return found


def take_over(
    earlier: EarlierStudy, asked: StudySpec, inputs: Inputs, limits: Mapping[str, tuple[float, float]]
) -> Earlier:
    """What of an earlier study counts here: its measurements, if they were made under the same conditions; else its best students,
    as near as this space comes to them. `asked` is the study as its file has it. Raises InputError where nothing does.
    """
    differs = [words for words, condition in CONDITIONS.items() if condition(earlier.spec) != condition(asked)]
    same_teacher = not inputs.fine_tunes or earlier.spec.seed == asked.seed
    if earlier.data != inputs.transfer.fingerprint or not same_teacher:
        differs.append("other data or another teacher")
    if not differs and asked.search.sampler != "random":
        outcomes = tuple(_measured(earlier, [*asked.objectives, *asked.bounds]))
        return Earlier(
            outcomes=outcomes, note=f"beginning with what {len(outcomes)} trials of {written(earlier.folder)} measured"
        )
    had = f"{written(earlier.folder)} had {' and '.join(differs)}: its measurements do not count here"
    why = had if differs else f"a random search learns nothing from what {written(earlier.folder)} measured"
    space = inputs.spec.space
    first = adapted(earlier.best, space, inputs.teacher, inputs.vocabularies, limits, asked.deployment)[
        : asked.search.startup_trials
    ]
    if not first:
        raise _error(
            f"{why}, and none of the {len(earlier.best)} students on its front makes one of this space within the bounds. "
            "Widen space or bounds, or leave it out"
        )
    note = f"{why}; beginning with {len(first)} of the {len(earlier.best)} students on its front"
    return Earlier(first=tuple(first), note=note)


def earlier_of(
    asked: StudySpec, inputs: Inputs, limits: Mapping[str, tuple[float, float]], record: Record | None = None
) -> Earlier:
    """What the study takes over. With a `record` it is kept there the first time, the trials as a study of their own named
    `NAME.earlier`, and read from there ever after: the folder may then go.
    """
    if record is None:
        found = read_earlier(asked)
        return Earlier() if found is None else take_over(found, asked, inputs, limits)
    if asked.search.from_ is None:
        return Earlier()
    trials = Record(open_storage(asked.storage, asked.output), f"{asked.name}.earlier", asked.objectives)
    if record.fact("earlier") is None:
        taken = earlier_of(asked, inputs, limits)
        kept = {outcome.labels["trial"] for outcome in trials.outcomes()}  # before the copying was cut off
        for outcome in taken.outcomes:
            if outcome.labels["trial"] not in kept:
                trials.adopt(outcome, inputs.spec.space)
        record.keep("earlier", {"first": taken.first, "note": taken.note})
    fact, outcomes = record.fact("earlier"), trials.outcomes()
    below = tuple(outcome.model_copy(update={"number": outcome.number - len(outcomes)}) for outcome in outcomes)
    return Earlier(outcomes=below, first=tuple(fact["first"]), note=fact["note"])


def _measured(earlier: EarlierStudy, names: list[str]) -> Iterator[TrialOutcome]:
    """The trials with a measurement of all that is asked for, numbered below 0. Who was measured at a rung and not at the end is
    not going on from there: `ended`, whatever it waited for."""
    for outcome in earlier.outcomes:
        values = outcome.values()
        if outcome.state is TrialState.FAILED or not all(math.isfinite(values.get(name, math.nan)) for name in names):
            continue
        state = TrialState.DONE if outcome.share >= 1 else TrialState.ENDED
        labels = {"kind": "earlier", "trial": str(outcome.number)}
        number = outcome.number - len(earlier.outcomes)
        yield outcome.model_copy(update={"number": number, "state": state, "labels": labels, "error": ""})


def _error(problem: str) -> InputError:
    return InputError.of("search.from", problem)
