"""Brings files from an output's or a cache's URL to the scratch, and sends them there: for the driver and for the lanes.

Of a path that is no URL's (see spaces/remote.py) all of it is done by being there. A file appears whole or not at all; a folder
that was sent in part has no `.whole`, and counts as none. What is here already, as large and as old as there, is not brought again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from search.trial.context import Dropped, WorkerContext
from spaces.errors import InputError, StudyError
from spaces.remote import ARROWS, scratch_root, url_of
from spaces.secrets import mask_secrets
from spaces.trial import WorkItem, WorkKind

T = TypeVar("T")
Beat = Callable[[int, int], None]

WHOLE = ".whole"  # the last file of a folder that is sent
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between tries: a minute in all
AWAY_SECONDS = 60.0  # of what did not answer the sweeper
BLOCK_BYTES = 8 << 20
TOLD = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")  # to lanes; no secrets
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of the scratch's disk
REFUSED = {  # what trying again does not change: the store's words, and ours
    "NO_SUCH_BUCKET": "there is no such bucket; make it, or name another",
    "ACCESS_DENIED": "may not be written or read with the credentials that there are",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is not the one of that access key",
    "HTTP status 403": "may not be written or read with the credentials that there are",
}
WHENCE = "Credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL and the like"


def _silent(done: int, total: int) -> None:
    return None


def bring(path: Path, beat: Beat = _silent, *, patient: bool = True) -> bool:
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
        if mark.exists() and not _same(mark, found[WHOLE]):  # it was sent anew
            _remove_here(path)
        for name, info in sorted(found.items(), key=lambda file: (file[0] == WHOLE, file[0])):
            target = mark if name == WHOLE else path / name
            if not _same(target, info):
                _tried(path, functools.partial(_download, _at(path)[0], info, target, beat), beat)
    return True


def send(path: Path, beat: Beat = _silent) -> None:
    """Has the file or folder at its URL as it is here; what is there alone is removed. Raises as `bring` does."""
    if url_of(path) is None:
        return
    if not path.is_dir():
        _tried(path, functools.partial(_upload, path, beat), beat)
        return
    there, here = _listed(path, beat), _here(path)
    changed = [name for name in sorted(here) if name not in there or not _same(path / name, there[name])]
    gone = there.keys() - here - {WHOLE}
    if not (changed or gone) and WHOLE in there:
        return
    for name in ([WHOLE] if WHOLE in there else []) + sorted(gone):
        _tried(path, functools.partial(_delete, path / name), beat)
    for name in changed:
        _tried(path, functools.partial(_upload, path / name, beat), beat)
    seal(path)


def seal(folder: Path) -> None:
    """Says of a folder, whose files were sent one by one, that it is whole."""
    if url_of(folder) is not None:
        info = _tried(folder, functools.partial(_write, folder / WHOLE, b"whole\n"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        _mark(folder).write_bytes(b"whole\n")
        _take_time(_mark(folder), info)


def _mark(folder: Path) -> Path:
    """The same file here, beside the folder: which of those that were sent was brought last. A lane may be writing in the folder,
    so nothing of it is removed as long as that is the one."""
    return folder.with_name(f".{folder.name}{WHOLE}")


def there(path: Path, *, patient: bool = True) -> bool:
    """Whether there is such a file, or whole folder."""
    if url_of(path) is None:
        return path.exists()
    found = _tried(path, lambda: [_info(each) for each in (path, path / WHOLE)], patient=patient)
    return any(info.is_file for info in found)


def names(folder: Path) -> set[str]:
    """What lies in a folder; none where there is no such folder."""
    if url_of(folder) is None:
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def listed() -> set[str]:
        from pyarrow.fs import FileSelector

        filesystem, place = _at(folder)
        return {info.base_name for info in filesystem.get_file_info(FileSelector(place, allow_not_found=True))}

    return _tried(folder, listed)


def copy(folder: Path, into: Path, without: set[str]) -> None:
    """The files at a folder's URL into another folder, but for some that lie in it."""
    for name, info in _listed(folder).items():
        if name.partition("/")[0] not in without and not name.endswith(WHOLE):
            _tried(folder, functools.partial(_download, _at(folder)[0], info, into / name))


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


# -- one file


def _download(filesystem: Any, info: Any, path: Path, beat: Beat = _silent) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with filesystem.open_input_stream(info.path) as source, open(temporary, "wb") as sink:
            _copy(source, sink, info.size or 0, beat)
        _take_time(temporary, info)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(path: Path, beat: Beat) -> None:
    with open(path, "rb") as source:
        info = _write(path, source, beat)
    _take_time(path, info)


def _write(path: Path, content: Any, beat: Beat = _silent) -> Any:
    """A file's bytes to its URL; what an object store is given appears at once, elsewhere it is written beside and renamed."""
    filesystem, place = _at(path)
    at_once = filesystem.type_name in ("s3", "gcs", "abfs")
    beside = place if at_once else f"{place}.writing"
    if not at_once:
        filesystem.create_dir(place.rpartition("/")[0], recursive=True)
    size = len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size
    with filesystem.open_output_stream(beside) as sink:
        if isinstance(content, bytes):
            sink.write(content)
        else:
            _copy(content, sink, size, beat)
    info = filesystem.get_file_info(beside)
    if info.size != size:
        _delete(path)
        raise OSError(f"{info.size} of {size} bytes arrived")
    if not at_once:
        filesystem.move(beside, place)
        info = filesystem.get_file_info(place)
    return info


def _copy(source: Any, sink: Any, size: int, beat: Beat) -> None:
    done = 0
    while block := source.read(BLOCK_BYTES):
        sink.write(block)
        done += len(block)
        beat(done, max(done, size))


def _delete(path: Path) -> None:
    filesystem, place = _at(path)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(place)


def _take_time(path: Path, info: Any) -> None:
    """The URL's time for the file here, by which the two are known as the same."""
    if info.mtime_ns is not None:
        os.utime(path, (_seconds(info), _seconds(info)))


def _same(path: Path, info: Any) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return info.mtime_ns is not None and (found.st_size, int(found.st_mtime)) == (info.size, _seconds(info))


def _seconds(info: Any) -> int:
    """A listing may be finer than a question for one file."""
    return int(info.mtime_ns // 10**9)


# -- folders


def _listed(path: Path, beat: Beat = _silent, patient: bool = True) -> dict[str, Any]:
    """The files of a folder at its URL by their names in it; of a file itself, by no name."""
    from pyarrow.fs import FileSelector

    filesystem, place = _at(path)

    def listed() -> dict[str, Any]:
        info = filesystem.get_file_info(place)
        if info.is_file:
            return {"": info}
        found = filesystem.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
        return {each.path.removeprefix(f"{place}/"): each for each in found if each.is_file}

    return _tried(path, listed, beat, patient)


def _here(path: Path) -> set[str]:
    """The same of this machine, but for what is half written."""
    if not path.is_dir():
        return set()
    files = (each.relative_to(path) for each in path.rglob("*") if each.is_file())
    return {str(name) for name in files if not any(part.startswith(".") for part in name.parts)}


def _info(path: Path) -> Any:
    filesystem, place = _at(path)
    return filesystem.get_file_info(place)


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
            _delete(path / WHOLE)  # first: what is removed in part is no whole folder
            filesystem, place = _at(path)
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


# -- reaching the URL


def _tried(path: Path, what: Callable[[], T], beat: Beat = _silent, patient: bool = True) -> T:
    """What it returns, tried again where the URL does not answer."""
    begun = time.monotonic()
    for pause in (*PAUSES, None) if patient else (None,):
        try:
            return what()
        except (FileNotFoundError, InputError, Dropped):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OURS:
                raise
            reason = mask_secrets(str(error)).partition("\n")[0]
            for word, says in REFUSED.items():
                if word in reason or (word == "ACCESS_DENIED" and isinstance(error, PermissionError)):
                    raise InputError.of(url_of(path) or "", f"{says}. {WHENCE} ({reason})") from None
            if not patient:
                raise InputError.of(url_of(path) or "", f"cannot be reached: {reason}. {WHENCE}") from error
            if pause is None:
                raise StudyError(
                    f"{url_of(path)} cannot be reached for {time.monotonic() - begun:.0f} s now: {reason}. Nothing that was "
                    "recorded is lost; mend that and run the same command again"
                ) from error
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            beat(0, 1)
            time.sleep(min(1.0, left))
    raise AssertionError


def _at(path: Path) -> tuple[Any, str]:
    """The file system of a path's URL, and the path in it."""
    url = url_of(path) or ""
    scheme, _, rest = url.partition("://")
    host, _, inner = rest.partition("/")
    filesystem, root = _filesystem(scheme, host)
    return filesystem, f"{root.rstrip('/')}/{inner}".rstrip("/")


@functools.cache
def _filesystem(scheme: str, host: str) -> tuple[Any, str]:
    """pyarrow's own, or fsspec's; and the path in it of what the URL's first part names. Raises InputError for a package that is
    missing."""
    from pyarrow import fs

    if scheme == "s3":
        # A file below 5 MB is then one request instead of three.
        return fs.S3FileSystem(allow_delayed_open=True, **_s3_settings(host)), host
    if scheme in ARROWS:
        return fs.FileSystem.from_uri(f"{scheme}://{host}/")
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(f"{scheme}://{host}/")
    except ImportError as error:
        raise InputError.of(f"{scheme}://{host}", f"needs a package that is not installed here: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), root


def _s3_settings(bucket: str) -> dict[str, Any]:
    """A server of one's own, and the region; the rest the environment says to pyarrow itself."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        return {"endpoint_override": endpoint, **({"region": region} if region else {})}
    with contextlib.suppress(OSError):  # told by whoever asks next
        region = region or fs.resolve_s3_region(bucket)
    return {"region": region} if region else {}
