"""What `distilsearch track` does: a study's runs rebuilt from its record alone, or what they miss added to them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from search.record.lease import Lease
from search.study.output import from_record, records_of, spec_of
from search.study.tracking.session import chosen_mode, kept_run_id
from search.study.tracking.study_log import StudyLog
from search.study.tracking.wandb_tracker import failure_in_words
from spaces.errors import InputError, StudyError
from spaces.student import Frozen
from spaces.study import StudySpec, TrackingSpec, WandbSpec


class Tracked(Frozen):
    """`rows` were new to the study's run, `held` it had. `folder` is where the run lies, `url` where it can be seen."""

    mode: Literal["offline", "online"]
    run_id: str
    rows: int
    held: int
    folder: str
    url: str = ""
    missed_key: bool = False


def track_study(folder: Path, mode: Literal["auto", "online", "offline"] | None = None) -> Tracked:
    """Brings the runs of a study up to its record, in the mode that the study asks for or in this one. The same run goes on, and
    what it has is not logged again. Raises StudyError where W&B cannot be reached or nothing can be written."""
    spec = _asked(spec_of(folder), mode)
    record, again = records_of(spec, folder)
    with Lease(record):
        result = from_record(spec, record, again)
        provenance = record.fact("provenance") or {}
        try:
            log = StudyLog(spec, kept_run_id(spec.output), provenance)
            log.begun(result.outcomes, again.outcomes(), result.references)
            if provenance:  # it ran to its end once
                log.finished(result)
            segment, url = log.run.segment, log.run.run.url or ""
            fault = log.end()
        except Exception as error:
            raise StudyError(_failed(failure_in_words(error), folder)) from error
    if fault:
        raise StudyError(_failed(fault, folder))
    return Tracked(
        mode="online" if log.session.mode == "online" else "offline",
        run_id=log.run_id,
        rows=len(log.run.logged),
        held=len(log.run.held) - len(log.run.logged),
        folder=str(segment.folder if segment else log.session.folder),
        url=url if log.session.mode == "online" else "",
        missed_key=not log.session.has_key,
    )


def _asked(spec: StudySpec, mode: Literal["auto", "online", "offline"] | None) -> StudySpec:
    """The study, tracked: whoever gives the command wants it, also where the study was not tracked as it ran."""
    wanted = spec.tracking.wandb if isinstance(spec.tracking.wandb, WandbSpec) else WandbSpec()
    if mode is None and wanted.mode == "disabled":
        mode = "auto"
    wanted = wanted if mode is None else wanted.model_copy(update={"mode": mode})
    if chosen_mode(wanted, has_key=True) == "disabled":
        raise InputError.of("WANDB_MODE", "disabled leaves nothing to do; unset it, or set it to offline or online")
    return spec.model_copy(update={"tracking": TrackingSpec(wandb=wanted)})


def _failed(problem: str, folder: Path) -> str:
    return (
        f"Weights & Biases: {problem}. The record has it all: `distilsearch track {folder}` adds what is missing; with "
        "WANDB_MODE=offline it is written here, and nothing is sent"
    )
