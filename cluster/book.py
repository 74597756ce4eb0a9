"""The jobs that were launched from here: a file each, so that `status` and `fetch` find them from any folder."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from cluster.job import JobHandle
from spaces.errors import InputError, near_miss


def state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "distilsearch"


def jobs_folder() -> Path:
    """Raises InputError where nothing can be kept: a job that nobody finds again is not launched."""
    folder = state_folder() / "jobs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # of others' jobs nobody need know
    except OSError as error:
        raise InputError.of(
            str(folder), f"cannot be made: {error.strerror}; XDG_STATE_HOME names another place"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError.of(str(folder), "cannot be written; XDG_STATE_HOME names another place")
    return folder


def keep(handle: JobHandle) -> None:
    from spaces.yaml_io import write_whole

    write_whole(jobs_folder() / f"{handle.id}.json", handle.model_dump_json(indent=2))


def known() -> list[JobHandle]:
    """The youngest first. What a newer version wrote is passed over."""
    found = []
    for path in (state_folder() / "jobs").glob("*.json"):
        try:
            found.append(JobHandle.model_validate_json(path.read_text("utf-8")))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue
    return sorted(found, key=lambda handle: -handle.submitted_at)


def find(name: str) -> JobHandle:
    """The job of an id, or of the beginning of exactly one. Raises InputError."""
    handles = known()
    matching = [handle for handle in handles if handle.id == name] or [
        handle for handle in handles if handle.id.startswith(name)
    ]
    if len(matching) == 1:
        return matching[0]
    ids = [handle.id for handle in matching or handles]
    if matching:
        raise InputError.of("JOB", f"{name!r} may be {', '.join(ids)}; write more of it")
    listed = (
        f"; there are {', '.join(ids[:5])}{' and more' if len(ids) > 5 else ''}"
        if ids
        else "; none was submitted from here"
    )
    raise InputError.of("JOB", f"there is no job {name!r}{near_miss(name, ids)}{listed} (`distilsearch jobs`)")
