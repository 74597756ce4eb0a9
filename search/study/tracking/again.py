"""What `distilsearch track` does: a study's runs rebuilt from its record alone, or what they miss added to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from search.record.lease import Lease
from search.study.output import StudyResult, from_record, records_of, spec_of
from search.study.tracking.results import results_key
from search.study.tracking.rows import replay, row_of
from search.study.tracking.segments import segments
from search.study.tracking.session import Session, chosen_mode, kept_run_id
from search.study.tracking.study_log import StudyLog
from search.study.tracking.wandb_tracker import failure_in_words
from spaces.errors import InputError, StudyError
from spaces.remote import written
from spaces.student import Frozen
from spaces.study import StudySpec, TrackingSpec, WandbSpec
from spaces.trial import TrialOutcome


class Tracked(Frozen):
    """`rows` were new to the study's run, `held` it had. `place` is its URL; offline, the folders that `wandb sync` takes."""

    mode: Literal["offline", "online"]
    run_id: str
    rows: int
    held: int
    place: str


def track_study(folder: Path, mode: Literal["auto", "online", "offline"] | None = None) -> Tracked:
    """Brings the runs of a study up to its record, in the mode that the study asks for or in this one. The same run goes on, and
    what it has is not logged again. Raises StudyError where W&B cannot be reached or nothing can be written."""
    spec = _asked(spec_of(folder), mode)
    record, again = records_of(spec, folder)
    with Lease(record):
        result = from_record(spec, record, again)
        provenance = record.fact("provenance") or {}
        is_finished = bool(provenance)  # it ran to its end once
        try:
            held = _all_here(spec, result, again.outcomes(), is_finished)
            if held is not None:
                return held
            log = StudyLog(Session(spec), spec, kept_run_id(spec.output), provenance)
            log.begun(result.outcomes, again.outcomes(), result.references)
            if is_finished:
                log.finished(result)
            folder, url = log.session.folder, log.run.run.url or ""
            fault = log.end()
        except Exception as error:
            raise StudyError(_failed(failure_in_words(error), spec)) from error
    if fault:
        raise StudyError(_failed(fault, spec))
    is_online = log.session.mode == "online"
    return Tracked(
        mode="online" if is_online else "offline",
        run_id=log.run_id,
        rows=len(log.run.logged),
        held=len(log.run.held) - len(log.run.logged),
        place=url if is_online else _pattern(folder, log.run_id),
    )


def _all_here(
    spec: StudySpec, result: StudyResult, confirmations: Sequence[TrialOutcome], is_finished: bool
) -> Tracked | None:
    """What there is, where it stays offline and its files hold everything: then no other segment is begun."""
    session, run_id = Session(spec), kept_run_id(spec.output)
    wanted = spec.tracking.wandb
    if session.mode == "online" or (isinstance(wanted, WandbSpec) and wanted.runs == "trials"):
        return None
    held = {key for segment in segments(session.folder, run_id) for key in segment.row_keys()}
    events = (row_of(outcome) for outcome in (*replay(result.outcomes), *replay(confirmations)))
    keys = {row.key for row in events if row is not None}
    if is_finished and isinstance(wanted, WandbSpec):
        keys.add(results_key(result, wanted.models))
    if not held or keys - held:
        return None
    return Tracked(mode="offline", run_id=run_id, rows=0, held=len(held), place=_pattern(session.folder, run_id))


def _pattern(folder: Path, run_id: str) -> str:
    """What `wandb sync` is to be given: every part of the study's run, the trials' own ones too."""
    return f"{folder}/offline-run-*-{run_id}*"


def _asked(spec: StudySpec, mode: Literal["auto", "online", "offline"] | None) -> StudySpec:
    """The study, tracked: whoever gives the command wants it, also where the study was not tracked as it ran."""
    wanted = spec.tracking.wandb if isinstance(spec.tracking.wandb, WandbSpec) else WandbSpec()
    if mode is None and wanted.mode == "disabled":
        mode = "auto"
    wanted = wanted if mode is None else wanted.model_copy(update={"mode": mode})
    if chosen_mode(wanted, has_key=True) == "disabled":
        raise InputError.of("WANDB_MODE", "disabled leaves nothing to do; unset it, or set it to offline or online")
    return spec.model_copy(update={"tracking": TrackingSpec(wandb=wanted)})


def _failed(problem: str, spec: StudySpec) -> str:
    return (
        f"Weights & Biases: {problem}. The record has it all: `distilsearch track {written(spec.output)}` adds what is "
        "missing; with WANDB_MODE=offline it is written here, and nothing is sent"
    )
