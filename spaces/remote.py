"""Folders at a URL, such as s3://BUCKET/FOLDER. Each has a folder on this machine, below the scratch, whose path says the URL:
SCRATCH/s3/BUCKET/FOLDER. Nothing here reaches the network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from spaces.errors import InputError, near_miss

SCRATCH = "DISTILSEARCH_SCRATCH"  # the environment's name for it
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
MANGLED = re.compile(r"(?:s3|gs|gcs|abfs|abfss|hdfs|file):/(?!/)")  # what becomes of a URL that was taken for a path
ARROWS = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs"}  # that pyarrow reaches by itself
# Of fsspec's: no place that another process can look at, or write to.
NO_PLACE = {
    "memory", "http", "https", "data", "reference", "file", "local", "dir", "zip", "tar", "libarchive", "generic", "root",
    "asynclocal", "dask", "cached", "blockcache", "filecache", "simplecache", "async_wrapper", "asyncwrapper", "github", "git",
    "gist", "jupyter", "jlab", "pyscript", "arrow_hdfs",
}  # fmt: skip


def scratch_root() -> Path:
    """Where this machine keeps what it sends and brings."""
    given = os.environ.get(SCRATCH)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "distilsearch" / "scratch"
    return Path(given or cache).expanduser().resolve()


def is_url(text: str) -> bool:
    return URL.match(text) is not None


def folder_of(text: str) -> Path:
    """The folder of a path as it is, of a URL in the scratch. Raises ValueError for a URL that names no place."""
    found = URL.fullmatch(text)
    if found is None:
        if MANGLED.match(text):
            raise ValueError(f"{text!r} is no URL; two slashes follow its colon, as in s3://BUCKET/FOLDER")
        return Path(text)
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme in ("file", "local"):
        if not rest.startswith("/"):
            raise ValueError("a file:// URL names no machine; write file:///FOLDER, or the folder's path")
        return Path(rest)
    _check_scheme(scheme)
    host, *inner = rest.rstrip("/").split("/")
    if re.search(r":[^/]*@", rest) or ("@" in host and scheme in ("s3", "gs", "gcs")):
        raise ValueError(
            "a URL with a user or a password in it is not taken, since it is written down; they come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE and the like)"
        )
    if not host:
        raise ValueError(f"{text!r} names no place; write {scheme}://BUCKET/FOLDER")
    if any(part in ("", ".", "..") or re.search(r"[\x00-\x1f?#]", part) for part in (host, *inner)):
        raise ValueError(f"{text!r} is no folder's URL; write {scheme}://BUCKET/FOLDER, without //, .., ? and # in it")
    return scratch_root().joinpath(scheme, host, *inner)


def url_of(path: Path) -> str | None:
    """The URL of a folder in the scratch, or of a file in one; None for a path of its own."""
    try:
        scheme, *rest = path.relative_to(scratch_root()).parts
    except ValueError:
        return None
    return f"{scheme}://{'/'.join(rest)}" if rest else None


def written(path: Path) -> str:
    """As a user writes it: the URL, or the path."""
    return url_of(path) or str(path)


def _taken(value: Any) -> Any:
    return folder_of(value) if isinstance(value, str) else value


# In a spec: a folder, by its path or its URL.
Place = Annotated[Path, BeforeValidator(_taken), PlainSerializer(written, return_type=str, when_used="json")]


def refuse_sqlite(output: str, storage: str) -> None:
    """Raises InputError where the record would be a file, and the output is at a URL."""
    if URL.match(output) and not output.startswith("file://") and storage.startswith("sqlite"):
        raise InputError.of(
            "storage",
            f"an SQLite record is a file of one machine, and {output} is a URL: of a copied file nobody could say who runs the "
            "study. Write storage: postgresql://... (docs/clusters/storage.md), or name a folder for the output",
        )


def _check_scheme(scheme: str) -> None:
    if scheme in ARROWS:
        return
    import fsspec

    known = sorted({*ARROWS, *fsspec.available_protocols()} - NO_PLACE)
    if scheme not in known:
        raise ValueError(
            f"{scheme}:// is no place for it{near_miss(scheme, known)}; write a folder, s3://BUCKET/FOLDER, or another of "
            f"{', '.join(known)}"
        )
