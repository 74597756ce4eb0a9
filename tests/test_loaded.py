"""What each part and each command loads, in an interpreter of its own: nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import book
from cluster.job import JobHandle
from cluster.profile import KINDS, LocalProfile
from spaces.study import StudySpec

MODULES = "[m.name for p in packages for m in pkgutil.walk_packages(importlib.import_module(p).__path__, p + '.')]"
ALL_OF = (
    "import importlib, pkgutil; packages = {!r}; names = " + MODULES + "; [importlib.import_module(n) for n in names]"
)
COMMAND = """
import sys
from search import cli
sys.argv = ["distilsearch", *{!r}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
"""


def loaded(code: str, unwanted: tuple[str, ...]) -> list[str]:
    """Which unwanted modules stand loaded after the code ran."""
    shown = f"import sys; print('loaded:', *[name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


HEAVY = ("torch", "transformers", "ray", "datasets")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (ALL_OF.format(["spaces"]), (*HEAVY, "optuna", "numpy", "search")),
        (ALL_OF.format(["cluster"]), ("torch", "transformers", "optuna", "search")),
        (ALL_OF.format(["search.results"]), (*HEAVY, "optuna", "wandb", "search.study")),
        (ALL_OF.format(["search.record"]), (*HEAVY, "wandb", "search.study")),
        ("import search.study.output", (*HEAVY, "wandb", "search.lanes")),
        pytest.param(
            ALL_OF.format(["search.trial"]),
            ("optuna", "wandb", "search.study", "search.lanes", "search.cli", "typer"),
            marks=pytest.mark.slow,
        ),
        (COMMAND.format(["--help"]), (*HEAVY, "optuna", "wandb", "search.study")),
        (COMMAND.format(["schema"]), (*HEAVY, "optuna", "wandb", "search.study")),
    ],
    ids=["spaces", "cluster", "results", "record", "output", "trial", "help", "schema"],
)
def test_nothing_is_loaded_that_is_not_needed(code: str, unwanted: tuple[str, ...]) -> None:
    assert loaded(code, unwanted) == []


def test_a_machine_that_submits_loads_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind, with a job in the book whose output nobody sees."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    unwanted = (*HEAVY, "optuna", "sqlalchemy", "numpy", "search.study", "search.record", "search.results.front")
    profiles: dict[str, dict[str, Any]] = {
        "local": {},
        "ray-jobs": {"output": "/mnt/runs"},
        "slurm": {"output": "/mnt/runs"},
        "kuberay": {
            "output": "/mnt/runs", "image": "ours", "ray_version": "2.60.0", "volumes": [{"claim": "data", "mount": "/mnt"}],
        },
    }  # fmt: skip
    assert set(profiles) == set(KINDS)
    for kind, keys in profiles.items():
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump({"kind": kind, **keys}))
        assert loaded(COMMAND.format(["submit", "docstrings", "--to", str(path), "--dry-run"]), unwanted) == []
    book.keep(
        JobHandle(
            id="tiny-000000", study="tiny", output=str(tmp_path / "gone"), profile_name="local", profile=LocalProfile(),
            submitted_at=0, reference={"folder": str(tmp_path / "gone"), "pid": "1", "began": "x", "at": "0"},
        )
    )  # fmt: skip
    for command in ("jobs", "status"):
        assert loaded(COMMAND.format([command]), (*unwanted, "spaces.study")) == []


def test_the_check_of_loaded_modules_finds_one() -> None:
    assert loaded(ALL_OF.format(["search.record"]), ("optuna", "torch")) == ["optuna"]


@pytest.mark.slow
def test_what_a_study_found_needs_neither_ray_nor_torch(finished: StudySpec) -> None:
    for command in ("front", "analyse", "report"):
        assert loaded(COMMAND.format([command, str(finished.output)]), HEAVY) == []
