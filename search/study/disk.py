"""What a study's output takes on disk, what of it nothing needs any more, and the freeing of that. Needs neither Ray nor torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search.record.record import FINISHED, Record
from search.results.front import ParetoFront, Reference
from search.study.output import delivered_metrics, trial_folder
from spaces.study import StudySpec

# What the folders and files of an output are, for people; the rest is "other".
PARTS = {
    "best": "models", "exports": "models", "trials": "checkpoints", "teacher": "teacher", "start": "teacher",
    "wandb": "tracking", "study.db": "record",
    "study.db-wal": "record", "study.db-shm": "record", ".ray": "temporary files", "report.html": "report",
}  # fmt: skip
TEMPORARY = (".writing", ".old")  # how `folder_whole` names what is not whole
HALF_FILE = r"\..+\.[a-z0-9_]{8}"  # and `write_whole`


@dataclass(frozen=True)
class Removable:
    """Something that may go, and why."""

    path: Path
    why: str
    num_bytes: int


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    if path.is_symlink() or not path.is_dir():
        try:
            return path.lstat().st_size
        except OSError:
            return 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def disk_use(output: Path) -> dict[str, int]:
    """Bytes by part, the largest first."""
    found: dict[str, int] = {}
    for path in output.iterdir() if output.is_dir() else ():
        part = "temporary files" if path.name.endswith(TEMPORARY) else PARTS.get(path.name, "other")
        found[part] = found.get(part, 0) + size_of(path)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def in_words(output: Path) -> str:
    """Such as `61.2 MB (models 40.1 MB, teacher 20.0 MB, record 1.1 MB)`."""
    use = disk_use(output)
    parts = ", ".join(f"{part} {megabytes(size)}" for part, size in use.items() if size)
    return f"{megabytes(sum(use.values()))} ({parts})"


def megabytes(num_bytes: float) -> str:
    for size, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= 0.9995 * size:
            return f"{num_bytes / size:.1f} {word}"
    return f"{num_bytes:.0f} B"


def leftovers(output: Path) -> Iterator[Removable]:
    """What a process that was killed left half made, and Ray's files: nobody's, as long as no driver has the study's lease."""
    if (output / ".ray").exists():
        yield Removable(output / ".ray", "of a run that was cut off", size_of(output / ".ray"))
    for folder in [
        output,
        *_folders(output / "best", 1),
        *_folders(output / "trials", 2),
        *_folders(output / "exports", 2),
    ]:
        for path in folder.iterdir() if folder.is_dir() else ():
            half_file = path.is_file() and re.fullmatch(HALF_FILE, path.name)
            half_folder = path.is_dir() and path.name.startswith(".") and path.name.endswith(TEMPORARY)
            if half_file or half_folder:
                yield Removable(path, "written half when it was cut off", size_of(path))


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, so many levels down."""
    if not folder.is_dir():
        return
    yield folder
    for path in folder.iterdir() if depth else ():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _folders(path, depth - 1)


def unneeded(spec: StudySpec, record: Record) -> Iterator[Removable]:
    """`leftovers`; checkpoints of trials that are over, or whose model is delivered; wandb's caches. Never the record, best/,
    exports/, the report, the teacher, nor what a trial that may go on would begin from."""
    yield from leftovers(spec.output)
    outcomes = {outcome.number: outcome for outcome in record.outcomes()}
    references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
    on_front = set(ParetoFront.of(list(outcomes.values()), spec, references).trials) if references else set()
    delivered = {
        trial
        for trial in delivered_metrics(record)
        if (spec.output / "best" / f"trial-{trial}" / "model.safetensors").is_file()
    }
    for path in sorted((spec.output / "trials").glob("[0-9]*")):
        number = int(path.name) if path.name.isdigit() else -1
        outcome = outcomes.get(number)
        if path != trial_folder(spec, number) or (outcome is not None and outcome.state not in FINISHED):
            continue
        if outcome is None:
            why = "of no trial in the record"
        elif number in delivered:
            why = f"its model is best/trial-{number}"
        elif references and number not in on_front:
            why = f"trial {number} is {outcome.state.value} and not on the front"
        else:
            continue
        yield Removable(path, why, size_of(path))
    yield from _tracking(spec.output / "wandb")


def _tracking(folder: Path) -> Iterator[Removable]:
    """What an offline run staged is still to be sent."""
    waiting = any(not list(run.glob("*.synced")) for run in folder.glob("offline-run-*"))
    for name in ("cache", "data"):
        path = folder / name
        size = size_of(path) if path.is_dir() else 0
        if size and (name == "cache" or not waiting):
            yield Removable(path, "a cache of the tracking", size)


def remove(item: Removable) -> None:
    """Raises OSError where it cannot be."""
    if item.path.is_dir() and not item.path.is_symlink():
        shutil.rmtree(item.path)
    else:
        item.path.unlink(missing_ok=True)


def remove_leftovers(output: Path) -> None:
    """Called by who holds the study's lease; what cannot be removed stays, and is told by `clean`."""
    for item in leftovers(output):
        try:
            remove(item)
        except OSError:
            continue
