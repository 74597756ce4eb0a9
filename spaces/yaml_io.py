"""Reading and writing study files. All faults of a file are reported at once; files appear whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spaces.errors import Fault, InputError, cut, near_miss, told
from spaces.families import register
from spaces.heads import register_heads
from spaces.paths import absolute_function, path_faults, with_absolute_paths
from spaces.space import parse_space
from spaces.study import Columns, StudySpec
from spaces.trial import BEST_CONFIG, BEST_CONFIG_VERSION, BestConfig
from spaces.validation import faults_of, not_finite

MAX_STUDY_BYTES = 1_000_000
MAX_VALUES = 50_000  # of a file, keys too: a second's reading, while a megabyte of brackets takes a minute
MAX_DIGITS = 400


class _Loader(yaml.SafeLoader):
    """Safe, reads 1e-5 as a number (YAML 1.2), and refuses duplicate keys, aliases, tags, and what is too much or too long."""

    num_values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self.num_values += 1
        if isinstance(event, yaml.events.AliasEvent):
            self._refuse(event, "aliases (*name) are not allowed; write the value out")
        if event.tag not in (None, "!"):
            self._refuse(event, f"tags ({cut(event.tag, 60)}) are not allowed; write the value alone")
        if self.num_values > MAX_VALUES:
            self._refuse(event, f"more than {MAX_VALUES:,} values are not allowed; a study file is small")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            if not node.value.isascii():
                try:  # JSON writes a letter beyond the first 65,536 as two halves, which belong together
                    node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
                except UnicodeDecodeError:
                    self._refuse(event, "half a surrogate is not allowed; no encoding has it")
            if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
                self._refuse(event, f"a number of {len(node.value):,} digits is not allowed")
        return node

    @staticmethod
    def _refuse(event: Any, problem: str) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node.value, str) else str(key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {cut(key, 200)!r} stands there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


EXPONENT, EXPONENT_STARTS = re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, EXPONENT_STARTS)


def preset_names(kind: str) -> list[str]:
    """The shipped presets of a kind, `studies` or `spaces`."""
    return sorted(Path(entry.name).stem for entry in (files("spaces") / "presets" / kind).iterdir())


def preset_text(kind: str, name: str) -> str:
    return (files("spaces") / "presets" / kind / f"{name}.yaml").read_text("utf-8")


def parse_yaml(text: str, source: str) -> Any:
    """Plain data from YAML. Raises InputError with line and column."""
    if len(text.encode("utf-8", "replace")) > MAX_STUDY_BYTES:
        raise InputError.of(source, f"is larger than {MAX_STUDY_BYTES:,} bytes; a study file is small")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError.of(source, f"is not valid YAML: {error.problem}", where) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError.of(source, f"is not valid YAML: {cut(first, 300)}") from None


@dataclass(frozen=True)
class Written:
    """A study as it is written and not yet validated; paths in it are relative to `folder`."""

    raw: Any
    source: str
    folder: Path
    is_best_config: bool = False


def read_study(path: str | Path) -> Written:
    """The study in a file, a shipped preset's by name, or the one-point study inside a best-config file."""
    path = Path(path)
    if not path.exists() and path.name == str(path) and path.name in preset_names("studies"):
        return Written(parse_yaml(preset_text("studies", path.name), path.name), path.name, Path.cwd())
    try:
        text = small_text(path)
    except FileNotFoundError:
        hint = (
            near_miss(str(path), preset_names("studies")) or f"; shipped studies: {', '.join(preset_names('studies'))}"
        )
        raise InputError.of(str(path), f"there is no such file{hint}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError.of(str(path), f"cannot be read: {cut(str(error), 300)}") from None
    raw = parse_yaml(text, str(path))
    if isinstance(raw, dict) and raw.get("kind") == BEST_CONFIG:
        return Written(parse_best_config(raw, str(path)).study, str(path), path.parent.resolve(), is_best_config=True)
    return Written(raw, str(path), path.parent.resolve())


def small_text(path: Path) -> str:
    """Of a file, no more than a study may have, and a byte: what is larger is refused unread."""
    with open(path, "rb") as file:
        return file.read(MAX_STUDY_BYTES + 1).decode("utf-8-sig", "strict")


def load_study(path: str | Path) -> StudySpec:
    """The validated study of a file, a preset's name or a best-config. Raises InputError with every fault."""
    written = read_study(path)
    return parse_study(written.raw, written.source, written.folder)


def with_data(spec: StudySpec, folder: Path) -> StudySpec:
    """The study on the files of a folder: train.*, and validation.* and test.* where there are any."""
    found: dict[str, Path] = {}
    for name in ("train", "validation", "test"):
        files_here = sorted(path for path in folder.glob(f"{name}.*") if path.is_file())
        if len(files_here) > 1:
            raise InputError.of("--data", f"{folder} holds {', '.join(path.name for path in files_here)}; keep one")
        if files_here:
            found[name] = files_here[0].resolve()
    if "train" not in found:
        raise InputError.of("--data", f"{folder} holds no train file (train.tsv, .csv, .jsonl or .parquet)")
    changes: dict[str, Any] = {"builtin": None, "train": None, "validation": None, "test": None, **found}
    if not isinstance(spec.data.train, Path):
        changes["columns"] = Columns()  # those named were the hub's; here the usual names are looked for
    return spec.model_copy(update={"data": spec.data.model_copy(update=changes)})


def parse_best_config(raw: Any, source: str) -> BestConfig:
    """A best-config file of any released version. Raises InputError, for a newer one with what to do about it."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > BEST_CONFIG_VERSION:
        raise InputError.of(
            source,
            f"{version} is newer than what this distilsearch reads (up to {BEST_CONFIG_VERSION}); install a newer one",
            "schema_version",
        )
    study = raw.get("study") if isinstance(raw, dict) else None
    faults = _register_own(study if isinstance(study, dict) else {}, Path())
    if faults:
        raise InputError(source, faults)
    try:
        return BestConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(source, told(faults_of(error, BestConfig))) from None


def parse_study(
    raw: Any, source: str, folder: Path, *, files_must_exist: bool = True, elsewhere: Sequence[str] = ()
) -> StudySpec:
    """Validates plain data. Raises InputError with every fault. Paths are taken relative to `folder`; files below the folders
    `elsewhere` are looked for where the study runs, not here."""
    if not isinstance(raw, dict):
        raise InputError.of(
            source, "is no study: write keys such as name, data and teacher (see `distilsearch schema`)"
        )
    raw = {str(key): value for key, value in raw.items()}
    faults: list[Fault] = []
    space_raw = raw.get("space", "default")
    if isinstance(space_raw, str):
        names = preset_names("spaces")
        if space_raw in names:
            space_raw = parse_yaml(preset_text("spaces", space_raw), space_raw)
        else:
            faults.append(
                Fault("space", f"no preset {space_raw!r}{near_miss(space_raw, names)}; there are {', '.join(names)}")
            )
            space_raw = {}
    faults += _register_own(raw, folder)
    space, space_faults = parse_space(space_raw)
    faults += [Fault(f"space.{fault.where}".rstrip("."), fault.problem) for fault in space_faults]
    if isinstance(raw.get("teacher"), str):
        raw["teacher"] = {"model": raw["teacher"]}
    if raw.get("tracking") == "none":
        raw["tracking"] = {"wandb": "none"}
    if "output" not in raw and isinstance(raw.get("name"), str):
        raw["output"] = f"runs/{raw['name']}"
    elif "output" not in raw:
        raw["output"] = "runs/study"
    raw["space"] = space
    faults += path_faults(raw, folder, files_must_exist, elsewhere)
    try:
        spec = StudySpec.model_validate(raw)
    except ValidationError as error:
        faults += faults_of(error, StudySpec)
        raise InputError(source, told(faults)) from None
    faults += not_finite(spec)
    for index, values in enumerate(spec.search.first):
        problem = "" if space_faults else space.fault_of(values)
        if problem:
            faults.append(Fault(f"search.first[{index}]", problem))
    if faults:
        raise InputError(source, told(faults))
    return with_absolute_paths(spec, folder)


def _register_own(study: Mapping[str, Any], folder: Path) -> list[Fault]:
    """The study's own families and heads, before its space is read; what is no name and path at all is left to the
    validation."""
    faults = []
    for key, registry in (("families", register), ("heads", register_heads)):
        raw = study.get(key)
        paths = {str(name): path for name, path in raw.items()} if isinstance(raw, dict) else {}
        named = {name: path for name, path in paths.items() if isinstance(path, str) and ":" in path}
        faults += registry({name: absolute_function(path, folder) for name, path in named.items()})
    return faults


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: beside it, fsync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as a number, such as the name 1e5."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, EXPONENT_STARTS)


def to_yaml(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
