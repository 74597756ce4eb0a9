"""What several commands take: their arguments, their switches, and the study that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spaces.errors import InputError

StudyPath = Annotated[
    str,
    typer.Argument(
        help="a study file, a best-config file, or a shipped study's name (docstrings, sst2)", metavar="STUDY"
    ),
]
Folder = Annotated[Path, typer.Argument(help="the output folder of a study", metavar="DIR")]
DataFolder = Annotated[
    Path | None, typer.Option(help="instead of the study's data: a folder with train, validation and test files")
]
Earlier = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="instead of search.from: an earlier study's output folder, to begin with what it measured, or found best",
        metavar="DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def load(
    study: str,
    trials: int | None = None,
    minutes: float | None = None,
    output: Path | None = None,
    data: Path | None = None,
    earlier: Path | None = None,
) -> Any:
    from spaces.yaml_io import load_study, with_data

    spec = load_study(study)
    if minutes is not None and not 0 < minutes <= 10**6:
        raise InputError.of("--minutes", f"{minutes} is not allowed; write a number above 0")
    budget: dict[str, Any] = {"trials": trials, "minutes": minutes}
    changed = {name: value for name, value in budget.items() if value is not None}
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=changed)})
    if data is not None:
        spec = with_data(spec, data)
    if earlier is not None:
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"from_": earlier.resolve()})})
    return spec.model_copy(update={"output": output.resolve()}) if output else spec
