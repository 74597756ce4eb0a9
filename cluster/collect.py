"""Copying what a study left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from spaces.errors import InputError, StudyError

NOT_FETCHED = (
    "trials",
    ".ray",
    "teacher",
    "study.db-wal",
    "study.db-shm",
)  # checkpoints, what is running, what is large


def fetched_files(output: Path) -> Iterator[Path]:
    """The files of an output that are worth having elsewhere, relative to it."""
    for path in sorted(output.rglob("*")):
        relative = path.relative_to(output)
        if path.is_file() and relative.parts[0] not in NOT_FETCHED:
            yield relative


def copy_output(output: Path, folder: Path) -> None:
    """Into an empty or new folder. The record is copied by SQLite's own backup, also while the study runs."""
    if not (output / "study.yaml").is_file():
        raise StudyError(
            f"{output} holds no study yet: it has only just begun, or failed before it began (see its logs)"
        )
    check_empty(folder)
    for relative in fetched_files(output):
        into = folder / relative
        into.parent.mkdir(parents=True, exist_ok=True)
        if relative.name == "study.db":
            backup(output / relative, into)
        else:
            shutil.copy2(output / relative, into)


def check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError.of(str(folder), "is there already and not empty; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError.of(str(folder), f"cannot be made: {error.strerror}") from None


def backup(source: Path, target: Path) -> None:
    """A whole copy of an SQLite file, whoever writes it meanwhile."""
    import sqlite3

    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as read, sqlite3.connect(target) as written:
        read.backup(written)
    read.close()
    written.close()
