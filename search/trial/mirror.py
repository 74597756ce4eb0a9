"""Brings files from an output's or a cache's URL to the scratch, and sends them there: for the driver and for the lanes.

Of a path that is no URL's (see spaces/remote.py) all of it is done by being there. A file appears whole or not at all; a folder
that was sent in part has no `.whole`, and counts as none. What is here already, as large and as old as there, is not brought again.
store.py reaches the URL.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.trial import store
from search.trial.context import WorkerContext
from search.trial.store import Beat, silent
from spaces.remote import scratch_root, url_of
from spaces.trial import WorkItem, WorkKind

WHOLE = ".whole"  # the last file of a folder that is sent
AWAY_SECONDS = 60.0  # of what did not answer the sweeper
TOLD = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")  # to lanes; no secrets


def bring(path: Path, beat: Beat = silent, *, patient: bool = True) -> bool:
    """Has the file or folder here as it is at its URL; what is not there (any more) is not here either. Returns whether it is.
    Raises StudyError where the URL cannot be reached, InputError where it refuses, or does not answer and nobody is `patient`."""
    if url_of(path) is None:
        return path.exists()
    found = _listed(path, beat, patient)
    if found.keys() != {""} and WHOLE not in found:
        _remove_here(path)
        return False
    with _alone(path, beat):
        mark = _mark(path)
        if mark.exists() and not store.same(mark, found[WHOLE]):  # it was sent anew
            _remove_here(path)
        for name, info in sorted(found.items(), key=lambda file: (file[0] == WHOLE, file[0])):
            target = mark if name == WHOLE else path / name
            if not store.same(target, info):
                store.tried(path, functools.partial(store.download, store.at(path)[0], info, target, beat), beat)
    return True


def send(path: Path, beat: Beat = silent) -> None:
    """Has the file or folder at its URL as it is here; what is there alone is removed. Raises as `bring` does."""
    if url_of(path) is None:
        return
    if not path.is_dir():
        store.tried(path, functools.partial(store.upload, path, beat), beat)
        return
    there, here = _listed(path, beat), _here(path)
    changed = [name for name in sorted(here) if name not in there or not store.same(path / name, there[name])]
    gone = there.keys() - here - {WHOLE}
    if not (changed or gone) and WHOLE in there:
        return
    for name in ([WHOLE] if WHOLE in there else []) + sorted(gone):
        store.tried(path, functools.partial(store.delete, path / name), beat)
    for name in changed:
        store.tried(path, functools.partial(store.upload, path / name, beat), beat)
    seal(path)


def seal(folder: Path) -> None:
    """Says of a folder, whose files were sent one by one, that it is whole."""
    if url_of(folder) is not None:
        info = store.tried(folder, functools.partial(store.write, folder / WHOLE, b"whole\n"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        _mark(folder).write_bytes(b"whole\n")
        store.take_time(_mark(folder), info)


def _mark(folder: Path) -> Path:
    """The same file here, beside the folder: which of those that were sent was brought last. A lane may be writing in the folder,
    so nothing of it is removed as long as that is the one."""
    return folder.with_name(f".{folder.name}{WHOLE}")


def there(path: Path, *, patient: bool = True) -> bool:
    """Whether there is such a file, or whole folder."""
    if url_of(path) is None:
        return path.exists()
    found = store.tried(path, lambda: [store.info_of(each) for each in (path, path / WHOLE)], patient=patient)
    return any(info.is_file for info in found)


def names(folder: Path) -> set[str]:
    """What lies in a folder; none where there is no such folder."""
    if url_of(folder) is None:
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def listed() -> set[str]:
        from pyarrow.fs import FileSelector

        filesystem, place = store.at(folder)
        return {info.base_name for info in filesystem.get_file_info(FileSelector(place, allow_not_found=True))}

    return store.tried(folder, listed)


def copy(folder: Path, into: Path, without: set[str]) -> None:
    """The files at a folder's URL into another folder, but for some that lie in it."""
    for name, info in _listed(folder).items():
        if name.partition("/")[0] not in without and not name.endswith(WHOLE):
            store.tried(folder, functools.partial(store.download, store.at(folder)[0], info, into / name))


def remove(path: Path) -> None:
    """Here, and at its URL: there in the background, and what cannot be removed stays."""
    _remove_here(path)
    if url_of(path) is not None:
        _sweeper().remove(path)


# -- the lanes


def for_lanes(output: Path) -> dict[str, Any]:
    """What lanes are told, with what else they share (WorkerContext.data): where the paths of their items lie."""
    if url_of(output) is None:
        return {}
    return {
        "scratch": str(scratch_root()),
        "reached_by": {name: os.environ[name] for name in TOLD if name in os.environ},
    }


@contextlib.contextmanager
def mirrored(item: WorkItem, context: WorkerContext) -> Iterator[WorkItem]:
    """Around the work of an item: its paths are those of this machine and what they name is brought; what it leaves is sent.
    Checkpoints and models then stay at the URL alone; the teacher and the cache are kept for the next item."""
    driver = context.data.get("scratch")
    if driver is None:
        yield item
        return
    for name, value in context.data["reached_by"].items():
        os.environ.setdefault(name, value)

    def here(value: Any) -> Any:
        if not isinstance(value, str | Path) or not Path(value).is_relative_to(driver):
            return value
        return type(value)(scratch_root() / Path(value).relative_to(driver))

    payload = {name: here(value) for name, value in item.payload.items()}
    item = item.model_copy(update={"payload": payload, "folder": here(item.folder)})
    named = [Path(value) for value in payload.values() if isinstance(value, str) and url_of(Path(value)) is not None]
    transfer = context.data.get("transfer")
    if (
        item.config is not None
        and item.config.hidden_share > 0
        and transfer is not None
        and transfer.states is not None
    ):
        folders = {name: here(folder) for name, folder in transfer.states.folders.items()}
        context.data["transfer"] = replace(transfer, states=replace(transfer.states, folders=folders))
        named += [folders[item.config.vocabulary]] if item.config.vocabulary in folders else []
    for path in named:
        bring(path, context.heartbeat)
    yield item
    done_with = [Path(payload[name]) for name in ("continues", "weights") if name in payload]
    if item.folder and not context.rank and item.leaves.exists():
        send(item.leaves, context.heartbeat)
        done_with += [item.leaves] if item.kind in (WorkKind.TRAIN, WorkKind.DELIVER) else []
    for path in done_with:
        _remove_here(path)


# -- folders


def _listed(path: Path, beat: Beat = silent, patient: bool = True) -> dict[str, Any]:
    """The files of a folder at its URL by their names in it; of a file itself, by no name."""
    from pyarrow.fs import FileSelector

    filesystem, place = store.at(path)

    def listed() -> dict[str, Any]:
        info = filesystem.get_file_info(place)
        if info.is_file:
            return {"": info}
        found = filesystem.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
        return {each.path.removeprefix(f"{place}/"): each for each in found if each.is_file}

    return store.tried(path, listed, beat, patient)


def _here(path: Path) -> set[str]:
    """The same of this machine, but for what is half written."""
    if not path.is_dir():
        return set()
    files = (each.relative_to(path) for each in path.rglob("*") if each.is_file())
    return {str(name) for name in files if not any(part.startswith(".") for part in name.parts)}


def _remove_here(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    if url_of(path) is not None:
        for each in (_mark(path), path):
            with contextlib.suppress(OSError):
                each.unlink()


class Sweeper:
    """Removes at the URL, in a thread of its own; while that does not answer it removes nothing: the process ends after it."""

    def __init__(self) -> None:
        self._thread, self._away_until = ThreadPoolExecutor(1, thread_name_prefix="sweeper"), 0.0

    def remove(self, path: Path) -> None:
        self._thread.submit(self._remove, path)

    def done(self) -> None:
        self._thread.submit(int).result()

    def _remove(self, path: Path) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            store.delete(path / WHOLE)  # first: what is removed in part is no whole folder
            filesystem, place = store.at(path)
            filesystem.delete_dir(place)
        except FileNotFoundError:
            pass
        except Exception:
            self._away_until = time.monotonic() + AWAY_SECONDS


@functools.cache
def _sweeper() -> Sweeper:
    return Sweeper()


@contextlib.contextmanager
def _alone(path: Path, beat: Beat) -> Iterator[None]:
    """One process of a machine brings, the others wait, and find it here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                beat(0, 1)
                time.sleep(0.2)
        yield
