"""`--set KEY=VALUE`: changes to a study as it is written, made before it is validated, so that they are told off as its file is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from spaces.errors import InputError
from spaces.study import FREE, StudySpec
from spaces.yaml_io import parse_study, parse_yaml, preset_names, preset_text, read_study

MAX_SUFFIX = 60  # characters of a folder's name


def load_changed(path: str | Path, changes: Sequence[str], elsewhere: Sequence[str] = ()) -> StudySpec:
    """The study of a file, a preset or a best-config (see `load_study`) with changes such as `training.epochs=10`.

    A key is a dotted path, a value is YAML; a later change of a key replaces an earlier one. The student of a best-config under
    other settings is another study than the same student again, so it has an output of its own, unless the changes name one.
    `elsewhere`: see `parse_study`. Raises InputError with every fault.
    """
    written = read_study(path)
    if not changes or not isinstance(written.raw, dict):
        return parse_study(written.raw, written.source, written.folder, elsewhere=elsewhere)
    values = parse_changes(changes)
    raw = deepcopy(written.raw)
    for key, value in values.items():
        _put(raw, key, value)
    if written.is_best_config and "output" not in values and isinstance(raw.get("output"), str):
        other = {key: value for key, value in values.items() if key.partition(".")[0] not in FREE}
        raw["output"] += f".{_suffix(other)}" if other else ""
    return parse_study(raw, written.source, written.folder, elsewhere=elsewhere)


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Plain values by dotted path. Raises InputError for what is no KEY=VALUE."""
    values = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not re.fullmatch(r"[^\s.=\[\]]+(\.[^\s.=\[\]]+)*", key):
            raise InputError.of("--set", f"{change!r} is no KEY=VALUE; write such as --set training.epochs=10")
        values[key] = parse_yaml(text, f"--set {key}")
    return values


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    place, inside = raw, ""
    for part in path:
        inside = f"{inside}.{part}".lstrip(".")
        there = _written_out(inside, place.get(part))
        if not isinstance(there, dict):
            raise InputError.of("--set", f"{key}: {inside} is {there!r}, which has no keys; set it whole")
        place[part] = there
        place = there
    place[last] = value


def _written_out(key: str, value: Any) -> Any:
    """The mapping that a word stands for: a preset's name, a teacher's, or `none`."""
    if key == "space" and (value is None or (isinstance(value, str) and value in preset_names("spaces"))):
        return parse_yaml(preset_text("spaces", value or "default"), str(value or "default"))
    if key == "teacher" and isinstance(value, str):
        return {"model": value}
    return {} if value in (None, "none") else value


def _suffix(values: Mapping[str, Any]) -> str:
    """Such as `training.epochs-10`: what tells the folder's study from that of the same student as it was."""
    words = [f"{key}-{re.sub(r'[^A-Za-z0-9.]+', '-', str(value)).strip('-')}" for key, value in values.items()]
    suffix = ".".join(words)
    if len(suffix) <= MAX_SUFFIX:
        return suffix
    digest = hashlib.sha256(repr(sorted(values.items(), key=str)).encode()).hexdigest()[:8]
    return f"{suffix[: MAX_SUFFIX - 9].rstrip('-.')}-{digest}"
