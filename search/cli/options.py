"""What several commands take: their arguments, their switches, how these complete, and the study that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spaces.errors import InputError
from spaces.remote import folder_of, refuse_sqlite, written


def place(text: str) -> Path:
    """The folder that a path or a URL names."""
    try:
        return folder_of(text)
    except ValueError as error:
        raise InputError.of("", str(error)) from None


def complete_study(incomplete: str) -> list[str]:
    """Shipped studies, and the YAML files and folders that begin so."""
    from spaces.yaml_io import preset_names

    presets = [name for name in preset_names("studies") if name.startswith(incomplete)]
    return presets + _paths(incomplete, lambda path: path.is_dir() or path.suffix in (".yaml", ".yml"))


def complete_folder(incomplete: str) -> list[str]:
    """Outputs of studies first, else folders."""
    folders = _paths(incomplete, Path.is_dir)
    outputs = [folder for folder in folders if (Path(folder).expanduser() / "study.yaml").is_file()]
    return outputs or folders


def _paths(incomplete: str, wanted: Any) -> list[str]:
    """A folder ends in `/`, so that completion may go on into it."""
    folder, _, name = incomplete.rpartition("/")
    there = Path(f"{folder}/" if "/" in incomplete else ".").expanduser()
    prefix = f"{folder}/" if "/" in incomplete else ""
    try:
        found = [path for path in sorted(there.iterdir()) if path.name.startswith(name) and wanted(path)]
    except OSError:
        return []
    shown = [path for path in found if name.startswith(".") or not path.name.startswith(".")]
    return [f"{prefix}{path.name}{'/' * path.is_dir()}" for path in shown]


StudyPath = Annotated[
    str,
    typer.Argument(
        help="a study file, a best-config file (best/trial-7.yaml), or a shipped study's name: docstrings, mrpc, sst2, "
        "sst2-quick, stsb",
        metavar="STUDY",
        autocompletion=complete_study,
    ),
]
Folder = Annotated[
    Path,
    typer.Argument(
        help="the output of a study, such as runs/reviews or s3://BUCKET/FOLDER",
        metavar="DIR",
        parser=place,
        autocompletion=complete_folder,
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="instead of the study's data: a folder with train, validation and test files", metavar="FOLDER"),
]
Earlier = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="instead of search.from: an earlier study's output folder, to begin with what it measured, or found best",
        metavar="DIR",
        parser=place,
        autocompletion=complete_folder,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="change a key of the study, as if its file said so: a dotted path and a YAML value, such as "
        "training.epochs=10, bounds.accuracy.min=97% or 'space.depth=[1, 2]'; may be given again",
        metavar="KEY=VALUE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on stdout, for scripts")]


def load(
    study: str,
    trials: int | None = None,
    minutes: float | None = None,
    output: Path | None = None,
    data: Path | None = None,
    earlier: Path | None = None,
    changes: Sequence[str] | None = None,
    elsewhere: Sequence[str] = (),
) -> Any:
    from spaces.changes import load_changed
    from spaces.yaml_io import with_data

    spec = load_changed(study, changes or (), elsewhere)
    if minutes is not None and not 0 < minutes <= 10**6:
        raise InputError.of("--minutes", f"{minutes} is not allowed; write a number above 0")
    budget: dict[str, Any] = {"trials": trials, "minutes": minutes}
    changed = {name: value for name, value in budget.items() if value is not None}
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=changed)})
    if data is not None:
        spec = with_data(spec, data)
    if earlier is not None:
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"from_": earlier.resolve()})})
    if output is not None:
        spec = spec.model_copy(update={"output": output.resolve()})
    refuse_sqlite(written(spec.output), spec.storage)
    return spec
