"""One file at a URL: what of it is asked again where the URL does not answer, and read or written whole.

mirror.py has the folders, and what the driver and the lanes call.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from search.trial.context import Dropped
from spaces.errors import InputError, StudyError
from spaces.remote import ARROWS, url_of
from spaces.secrets import mask_secrets

T = TypeVar("T")
Beat = Callable[[int, int], None]

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between tries: a minute in all
BLOCK_BYTES = 8 << 20
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of the scratch's disk
REFUSED = {  # what trying again does not change: the store's words, and ours
    "NO_SUCH_BUCKET": "there is no such bucket; make it, or name another",
    "ACCESS_DENIED": "may not be written or read with the credentials that there are",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is not the one of that access key",
    "HTTP status 403": "may not be written or read with the credentials that there are",
}
WHENCE = "Credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL and the like"


def silent(done: int, total: int) -> None:
    return None


# -- reaching it


def tried(path: Path, what: Callable[[], T], beat: Beat = silent, patient: bool = True) -> T:
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


def at(path: Path) -> tuple[Any, str]:
    """The file system of a path's URL, and the path in it."""
    url = url_of(path) or ""
    scheme, _, rest = url.partition("://")
    host, _, inner = rest.partition("/")
    filesystem, root = filesystem_of(scheme, host)
    return filesystem, f"{root.rstrip('/')}/{inner}".rstrip("/")


@functools.cache
def filesystem_of(scheme: str, host: str) -> tuple[Any, str]:
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


# -- one file


def info_of(path: Path) -> Any:
    filesystem, place = at(path)
    return filesystem.get_file_info(place)


def download(filesystem: Any, info: Any, path: Path, beat: Beat = silent) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with filesystem.open_input_stream(info.path) as source, open(temporary, "wb") as sink:
            _copy(source, sink, info.size or 0, beat)
        take_time(temporary, info)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def upload(path: Path, beat: Beat) -> None:
    with open(path, "rb") as source:
        info = write(path, source, beat)
    take_time(path, info)


def write(path: Path, content: Any, beat: Beat = silent) -> Any:
    """A file's bytes to its URL; what an object store is given appears at once, elsewhere it is written beside and renamed."""
    filesystem, place = at(path)
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
        delete(path)
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


def delete(path: Path) -> None:
    filesystem, place = at(path)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(place)


def take_time(path: Path, info: Any) -> None:
    """The URL's time for the file here, by which the two are known as the same."""
    if info.mtime_ns is not None:
        os.utime(path, (_seconds(info), _seconds(info)))


def same(path: Path, info: Any) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return info.mtime_ns is not None and (found.st_size, int(found.st_mtime)) == (info.size, _seconds(info))


def _seconds(info: Any) -> int:
    """A listing may be finer than a question for one file."""
    return int(info.mtime_ns // 10**9)
