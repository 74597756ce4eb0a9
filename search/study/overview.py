"""What there is to know of a study from its output folder, in short: for `list` and `show`. Needs neither Ray nor torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from search.record.lease import holder_of
from search.record.record import Record, existing_record
from search.results.front import ParetoFront, Reference
from search.study.disk import disk_use
from search.study.extension import Extension, is_finished
from search.study.output import spec_of
from search.trial import mirror
from spaces.errors import InputError, StudyError
from spaces.remote import url_of, written
from spaces.secrets import mask_secrets
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialState

REACH_SECONDS = 5.0  # for a storage elsewhere to answer
KEPT = 0.97  # of the teacher's quality, of the smallest student that is told
NOT_BELOW = {"trials", "best", "exports", "teacher", "wandb"}  # of an output: no studies there


class StudyState(StrEnum):
    """Our words; values are added, never removed."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"  # the same command continues it
    FINISHED = "finished"
    EMPTY = "nothing measured yet"
    UNREACHABLE = "storage not reached"
    UNREADABLE = "unreadable"


class Best(Frozen):
    """A student worth telling: its trial, size and quality on validation."""

    trial: int
    num_parameters: int
    quality: float
    share_of_teacher: float | None


class StudySummary(Frozen):
    """One study in short. `best` has the highest quality of the front, `smallest` the fewest parameters with 97 % of the teacher's;
    `begun`, `done` and `failed` count trials; `active_at` is Unix time; `problem` says why it is unreadable or not reached."""

    folder: str
    name: str = ""
    state: StudyState
    objectives: dict[str, str] = {}
    quality: str = ""
    budget_trials: int | None = None
    begun: int = 0
    done: int = 0
    failed: int = 0
    best: Best | None = None
    smallest: Best | None = None
    active_at: float | None = None
    disk_bytes: int = 0
    running_by: str = ""
    problem: str = ""


def studies_below(folder: Path) -> Iterator[Path]:
    """Output folders of studies at or below a folder. Raises InputError where there is no such folder."""
    if url_of(folder) is not None:  # one level down, since every look is a question to a server
        found = mirror.names(folder)
        below = [folder] if "study.yaml" in found else [folder / name for name in sorted(found)]
        yield from (each for each in below if mirror.bring(each / "study.yaml", patient=False))
        return
    if not folder.is_dir():
        raise InputError.of(
            str(folder), "there is no such folder; name one that holds outputs of studies, runs by default"
        )
    for place, names, files in os.walk(folder):
        if "study.yaml" in files and _is_output(Path(place) / "study.yaml"):
            yield Path(place)
            names[:] = [name for name in names if name not in NOT_BELOW]
        names[:] = sorted(name for name in names if not name.startswith("."))


def _is_output(path: Path) -> bool:
    """Whether a study.yaml is that of an output, which begins with its fingerprint, and no study file of somebody's."""
    try:
        with path.open("rb") as file:
            return file.read(12) == b"fingerprint:"
    except OSError:
        return True  # to be told as unreadable


def summary_of(folder: Path) -> StudySummary:
    """Raises nothing: what is wrong with a study is its state."""
    known: dict[str, Any] = {"folder": written(folder)}
    try:
        known["disk_bytes"] = sum(disk_use(folder).values())
        known["active_at"] = max(path.stat().st_mtime for path in folder.iterdir() if path.name.startswith("study."))
        spec = spec_of(folder)
        known |= {"name": spec.name, "objectives": spec.objectives, "quality": spec.quality}
        known["budget_trials"] = spec.budget.trials
        if spec.storage == "sqlite":
            known |= _recorded(spec, folder)
        else:
            known |= _within(REACH_SECONDS, spec, folder)
    except Exception as error:  # whatever may be wrong with a folder
        told = mask_secrets(str(error)).partition("\n")[0] or type(error).__name__
        known |= {"state": StudyState.UNREADABLE, "problem": told}
    return StudySummary(**known)


def _within(seconds: float, spec: StudySpec, folder: Path) -> dict[str, Any]:
    """What a storage elsewhere says, if it says it in time: its driver may wait for minutes, and cannot be interrupted."""
    found: dict[str, Any] = {
        "state": StudyState.UNREACHABLE, "problem": f"{mask_secrets(spec.storage)} did not answer within {seconds:g} s"
    }  # fmt: skip

    def ask() -> None:
        try:
            found.update({"problem": "", **_recorded(spec, folder)})
        except Exception as error:
            found["problem"] = mask_secrets(str(error)).partition("\n")[0] or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return dict(found)


def _recorded(spec: StudySpec, folder: Path) -> dict[str, Any]:
    try:
        record = existing_record(spec.storage, folder, spec.name, spec.objectives, unchecked=True)
    except StudyError:  # claimed, and cut off before anything
        return {"state": StudyState.EMPTY}
    with_more = Extension.of_study(spec, record).applied(spec)
    outcomes = record.outcomes()
    references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
    times = [measured.cost.get("finished_at", 0.0) for outcome in outcomes for measured in outcome.measurements]
    holder = holder_of(record)
    found: dict[str, Any] = {
        "state": state_of(with_more, record, bool(times)),
        "budget_trials": with_more.budget.trials,
        "begun": len(outcomes),
        "done": sum(outcome.state is TrialState.DONE for outcome in outcomes),
        "failed": sum(outcome.state is TrialState.FAILED for outcome in outcomes),
        "running_by": f"process {holder['pid']} on {holder['host']}" if holder else "",
    }
    runs = record.fact("runs") or []
    if max([*times, *runs], default=0.0):
        found["active_at"] = time.time() if holder else max([*times, *runs])
    if references:
        sizes = {outcome.number: outcome.config.shape.num_parameters for outcome in outcomes}
        found |= _best(spec, ParetoFront.of(outcomes, spec, references), sizes, references[0])
    record.close()
    return found


def state_of(spec: StudySpec, record: Record, has_measured: bool) -> StudyState:
    """`spec` with what `--more` added."""
    if holder_of(record):
        return StudyState.RUNNING
    if is_finished(spec, record):
        return StudyState.FINISHED
    return StudyState.INTERRUPTED if has_measured else StudyState.EMPTY


def _best(spec: StudySpec, front: ParetoFront, sizes: dict[int, int], reference: Reference) -> dict[str, Best]:
    teacher = reference.value(spec.quality)
    points = [
        Best(
            trial=point.trial,
            num_parameters=sizes[point.trial],
            quality=point.values[spec.quality],
            share_of_teacher=point.values[spec.quality] / teacher if teacher > 0 else None,
        )
        for point in front.points
        if spec.quality in point.values
    ]
    found = {"best": max(points, key=lambda point: point.quality)} if points else {}
    keeping = [point for point in points if (point.share_of_teacher or 0) >= KEPT]
    return found | ({"smallest": min(keeping, key=lambda point: point.num_parameters)} if keeping else {})
