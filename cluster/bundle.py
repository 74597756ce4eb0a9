"""How a study gets there: paths that the place sees stay, what it cannot see is sent, by content."""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.job import Job, Sent
from cluster.profile import Profile
from spaces.errors import Fault, InputError
from spaces.remote import folder_of, is_url, refuse_sqlite, written
from spaces.secrets import mask_secrets

if TYPE_CHECKING:
    from spaces.study import StudySpec

COMPARED = ("distilsearch", "ray", "torch", "transformers", "optuna")
SPLITS = ("train", "validation", "test", "unlabelled")
OWN_CODE = ("metrics", "families", "heads")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # in every zip file, so that the same content is the same file


def make_job(spec: StudySpec, profile: Profile, *, sees_our_files: bool) -> Job:
    """The job of a study. Raises InputError where something cannot get there: all of it at once.

    `sees_our_files`: the place shares this machine's folders (another process here, a login node's cluster).
    """
    study = spec.resolved()
    if mask_secrets(study) != study:
        problem = (
            "holds a secret, which would be sent and kept with the job; name it by reference: `secrets` in the profile"
        )
        raise InputError.of(spec.name, f"{problem} (of a database: PGPASSWORD, see docs/clusters.md)")
    output = f"{profile.output.rstrip('/')}/{spec.name}" if profile.output else written(spec.output)
    try:
        folder_of(output)
    except ValueError as error:
        raise InputError.of("output", str(error)) from None
    refuse_sqlite(output, spec.storage)
    study["output"] = output
    study.pop("cache") if study["cache"].startswith("~") else None
    files: list[Sent] = []
    if not sees_our_files:
        if profile.output is None and not is_url(output):
            raise InputError.of(
                "output",
                "the cluster does not see this machine's folders; write in the profile, output: FOLDER, a folder of the "
                "cluster's that all its nodes share, or s3://BUCKET/FOLDER",
            )
        if not is_url(study["cache"]):
            study["cache"] = f"{profile.output.rstrip('/')}/.cache" if profile.output else f"{output}/.cache"
        study, files = _packed(study, profile)
    return Job(study=study, files=tuple(files), output=output, profile=profile, versions=versions())


def check_output(job: Job) -> None:
    """Where the place shares this machine's folders: raises InputError where the output cannot be written, and makes nothing."""
    if is_url(job.output):
        return
    output = Path(job.output)
    try:
        nearest = next(path for path in (output, *output.parents) if path.exists())
    except OSError as error:
        raise InputError.of("output", f"{output} cannot be looked at: {error.strerror}") from None
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError.of(
            "output", f"{nearest} is no folder that you may write to; name one that can be written, there too"
        )


def versions() -> dict[str, str]:
    """Of what is installed here; a machine that only submits need not have the rest."""
    found = {}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _packed(study: Mapping[str, Any], profile: Profile) -> tuple[dict[str, Any], list[Sent]]:
    """The study with its files' names in the bundle, and the files."""
    made: dict[str, Any] = {**study, "data": dict(study["data"]), "teacher": dict(study["teacher"])}
    files: list[tuple[str, Path, int]] = []
    code: list[Path] = []
    faults: list[Fault] = []

    def sent(path: Path, name: str, where: str) -> str:
        """The path as the place will see it."""
        if _is_shared(str(path), profile):
            return str(path)
        try:
            found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
            for each in found:
                if not os.access(each, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                inner = f"{name}/{each.relative_to(path).as_posix()}" if path.is_dir() else name
                files.append((inner, each, each.stat().st_size))
        except OSError as error:
            faults.append(Fault(where, f"{path} cannot be read: {error.strerror}"))
        return name

    def sent_code(path: str, where: str) -> str:
        """`file.py:function` with the file as the place will see it; one file may have several functions."""
        file, _, function = path.rpartition(":")
        if not file.endswith(".py") or _is_shared(file, profile):
            return path
        if Path(file) not in code:
            code.append(Path(file))
            sent(Path(file), f"inputs/code-{len(code)}/{Path(file).name}", where)
        return f"inputs/code-{code.index(Path(file)) + 1}/{Path(file).name}:{function}"

    for split in SPLITS:
        source = made["data"].get(split)
        if isinstance(source, str):
            made["data"][split] = sent(Path(source), f"inputs/{split}{Path(source).suffix}", f"data.{split}")
    model = Path(made["teacher"]["model"])
    if model.is_absolute():
        made["teacher"]["model"] = sent(model, "inputs/teacher", "teacher.model")
    for key in OWN_CODE:
        made[key] = {name: sent_code(path, f"{key}.{name}") for name, path in made.get(key, {}).items()}
    if reader := made["data"].get("reader"):
        made["data"]["reader"] = sent_code(reader, "data.reader")
    earlier = made.get("search", {}).get("from")
    if earlier and not _is_shared(earlier, profile):
        faults.append(
            Fault("search.from", f"{earlier} is not sent; put it into a folder that the cluster sees (shared)")
        )
    total = sum(size for _, _, size in files)
    if total > profile.upload_limit_mb * 1e6:
        by_size = sorted(files, key=lambda file: -file[2])
        largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, _, size in by_size[:3])
        faults.append(
            Fault(
                "upload_limit_mb",
                f"{total / 1e6:.0f} MB would be sent ({largest}), above the profile's {profile.upload_limit_mb:g}. Put them "
                "where every node reads them (a hub id, or a folder under the profile's `shared`), or raise the limit",
            )
        )
    if faults:
        raise InputError("what the job needs", faults)
    # Read only now: what is too large has been refused by its size.
    return made, [Sent(name=name, path=path, num_bytes=size, sha256=_digest(path)) for name, path, size in files]


def _is_shared(path: str, profile: Profile) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in profile.shared)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def contents(job: Job) -> Iterator[tuple[str, Path | bytes]]:
    """The bundle's files: the study, what the other side is told, and what is sent."""
    import json

    from spaces.yaml_io import to_yaml

    yield "study.yaml", to_yaml(job.study).encode()
    yield "job.json", json.dumps(job.arrival, indent=2, sort_keys=True).encode()
    for file in job.files:
        yield file.name, file.path


def write_zip(path: Path, files: Iterator[tuple[str, Path | bytes]]) -> None:
    """The same content is the same bytes, whenever and wherever it is written."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as into:
                into.write(content if isinstance(content, bytes) else content.read_bytes())
