"""What a study may spend, and when its front counts as flat."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from spaces.student import Frozen

GROWTH_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "pattern": r"^\d+(\.\d+)?%$"},
    ]
}


class FlatSpec(Frozen):
    """The search ends once the front's hypervolume has grown by no more than `growth` of itself over so many measured trials.
    Failed ones do not count; where nothing is on the front yet, nothing is flat."""

    trials: Annotated[int, Field(ge=2, le=1_000_000)]
    growth: Annotated[float, WithJsonSchema(GROWTH_SCHEMA)] = 0.0

    @field_validator("growth", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        """1% is text to YAML."""
        share = float(value[:-1]) / 100 if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%", value) else value
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ValueError(f"{value!r} is not allowed; write a share from 0 to below 1, such as 1% or 0.01")
        return share


class BudgetSpec(Frozen):
    """What the study may spend; whichever ends first. `minutes` are one command's wall time; `training_tokens` what the search's
    trials are trained on, without padding, and `gpu_hours` what the lanes hold of GPUs: both over all runs of the study."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    minutes: Annotated[float, Field(gt=0, le=10**6)] | None = None
    training_tokens: Annotated[float, Field(ge=1, le=10**18)] | None = None
    gpu_hours: Annotated[float, Field(gt=0, le=10**9)] | None = None
    flat: FlatSpec | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"{value} is not allowed; write a number")
        if info.field_name == "flat" and not isinstance(value, dict | FlatSpec | None):
            raise ValueError(f"{value!r} is not allowed; write how many trials to look back, as flat: {{trials: 30}}")
        return value
