"""Studies on tiny texts with tags, for the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from spaces.study import StudySpec
from spaces.yaml_io import parse_study

NAMES = ["O", "B-food", "I-food", "B-music", "I-music", "B-sport", "I-sport"]


@pytest.fixture(scope="session")
def tagged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    tiny.write_tagged(folder, sizes=(240, 60, 60))
    return folder


@pytest.fixture
def tagging(tagged_folder: Path, base_teacher: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """A maker of studies on the tiny task of tags; `files` (name -> content) stand in place of its own."""

    def make(files: dict[str, str] | None = None, **changes: Any) -> StudySpec:
        data = {name: str(tagged_folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
        for name, content in (files or {}).items():
            (tmp_path / name).write_text(content)
            data[Path(name).stem] = str(tmp_path / name)
        plain = {
            "name": "tags",
            "task": "token-classification",
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


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
