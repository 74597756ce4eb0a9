"""Studies on tiny pairs of texts with scores, and a teacher with the files of sentence-transformers, for the tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from search.study.inputs import Inputs, read_inputs
from search.trial.pooling import write_modules
from spaces.study import StudySpec
from spaces.yaml_io import parse_study

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="session")
def scored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    tiny.write_scored(folder)
    return folder


@pytest.fixture
def embedding(scored_folder: Path, base_teacher: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """A maker of studies on the tiny pairs; `files` (name -> content) stand in place of its own, None for none."""

    def make(files: dict[str, str | None] | None = None, **changes: Any) -> StudySpec:
        data = {name: str(scored_folder / f"{name}.tsv") for name in SPLITS}
        for name, content in (files or {}).items():
            data.pop(Path(name).stem, None)
            if content is not None:
                (tmp_path / name).write_text(content)
                data[Path(name).stem] = str(tmp_path / name)
        plain = {
            "name": "vectors",
            "task": "sentence-embeddings",
            "data": {"max_length": 32, **data, **changes.pop("data", {})},
            "teacher": str(base_teacher),
            "space": {"depth": [1, 3], "vocabulary": ["used", 100], "hidden_size": ["50%", "full"], "batch_size": [16]},
            "training": {"epochs": 2},
            "tracking": "none",
            "output": str(tmp_path / "run"),
            "cache": str(tmp_path / "cache"),
        }
        return parse_study({**plain, **changes}, "study.yaml", tmp_path)

    return make


def read(spec: StudySpec) -> Inputs:
    return read_inputs(spec, lambda text: None)


def with_modules(teacher: Path, folder: Path, modules: Any = None, pooling: Any = None) -> Path:
    """A copy of the teacher with the files of sentence-transformers, some of them as given."""
    shutil.copytree(teacher, folder)
    write_modules(folder, "mean", 32, 32)
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
