"""The driver, the lanes, the record and the trial: everything that runs a study; and the way in from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from search.study.output import StudyResult
    from spaces.study import StudySpec


def load_study(path: str | Path) -> StudySpec:
    """The study of a YAML file, of a best-config, or of a shipped preset's name. Raises InputError with every fault."""
    from spaces.yaml_io import load_study as load

    return load(path)


def run_study(spec: StudySpec, display: Any = None, more: int | None = None) -> StudyResult:
    """Runs the study, or continues it, and returns its front, rows and outcomes; what it leaves lies in `spec.output`.

    Raises InputError for what you can mend, StudyError for the rest. Starts Ray unless it is there, and leaves one that
    was. `display`: a `search.study.progress.Display`; None shows nothing. `more`: so many trials beyond those it has.
    """
    from search.study.run import run_study as run

    return run(spec, display, more)
