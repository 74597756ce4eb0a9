"""A short pass of the fuzzing; the long one is `make fuzz`. And, by name, what it found and what a person would try first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spaces.errors import InputError, near_miss, printable
from spaces.yaml_io import load_study, parse_yaml

EXAMPLES = {"study": 120, "best-config": 60, "profile": 120, "change": 60, "texts": 25}


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_hostile_input_is_taken_or_refused(kind: str, tmp_path: Path) -> None:
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES[kind], suppress_health_check=list(HealthCheck), database=None)
    @given(hostile.KINDS[kind])
    def one(drawn: Any) -> None:
        seen.add(hostile.drive(kind, drawn, tmp_path / "in"))

    one()
    assert "refused" in seen
