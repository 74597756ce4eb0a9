"""A study's paths: relative to the folder of its file, absolute once it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spaces.errors import Fault
from spaces.study import StudySpec

RELATIVE = ("output", "cache")
SPLIT_FILES = ("train", "validation", "test", "unlabelled")


def path_faults(raw: Mapping[str, Any], folder: Path, files_must_exist: bool, elsewhere: Sequence[str]) -> list[Fault]:
    """Paths that name nothing: looked at before validation, so that they are told with everything else."""
    data, search = (raw[key] if isinstance(raw.get(key), dict) else {} for key in ("data", "search"))
    paths = {f"data.{split}": data.get(split) for split in SPLIT_FILES} | {name: raw.get(name) for name in RELATIVE}
    paths["search.from"] = search.get("from")
    faults = []
    for where, path in paths.items():
        if not isinstance(path, str):
            continue
        try:
            file = absolute(Path(path), folder)
        except (RuntimeError, ValueError, OSError) as error:  # ~nobody, a null byte
            faults.append(Fault(where, f"{path!r} is no path: {error}"))
            continue
        looked_for = files_must_exist and not any(file.is_relative_to(each) for each in elsewhere)
        if looked_for and where.startswith("data.") and not file.is_file():
            faults.append(Fault(where, f"there is no file {file}"))
    return faults


def absolute(path: Path, folder: Path) -> Path:
    return (folder / path.expanduser()).resolve()


def with_absolute_paths(spec: StudySpec, folder: Path) -> StudySpec:
    def placed(path: Any) -> Any:
        return absolute(path, folder) if isinstance(path, Path) else path

    files: dict[str, Any] = {name: placed(getattr(spec.data, name)) for name in SPLIT_FILES}
    reader = spec.data.reader and absolute_function(spec.data.reader, folder)
    data = spec.data.model_copy(update={**files, "reader": reader})
    teacher = spec.teacher
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # no path at all: find_teacher says what is wrong
        if absolute(Path(teacher.model), folder).is_dir():
            teacher = teacher.model_copy(update={"model": str(absolute(Path(teacher.model), folder))})
    training = spec.training
    with contextlib.suppress(RuntimeError, ValueError, OSError):
        if training.start is not None and absolute(Path(training.start), folder).is_dir():
            training = training.model_copy(update={"start": str(absolute(Path(training.start), folder))})
    own = {
        key: {name: absolute_function(path, folder) for name, path in getattr(spec, key).items()}
        for key in ("metrics", "families", "heads")
    }
    return spec.model_copy(
        update={
            "data": data,
            "teacher": teacher,
            "training": training,
            "search": spec.search.model_copy(update={"from_": placed(spec.search.from_)}),
            **own,
            **{name: placed(getattr(spec, name)) for name in RELATIVE},
        }
    )


def absolute_function(path: str, folder: Path) -> str:
    """`file.py:function` with the file's whole path; `module:function` as it is."""
    module, _, function = path.rpartition(":")
    return f"{absolute(Path(module), folder)}:{function}" if module.endswith(".py") else path
