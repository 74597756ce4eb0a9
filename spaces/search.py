"""How a study's trials are chosen, and which of them go on."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from spaces.errors import near_miss
from spaces.named import IMPORT_PATH
from spaces.parameters import Value
from spaces.remote import Place
from spaces.space import PARAMETERS
from spaces.student import Frozen

SAMPLERS = ("forest", "tpe", "nsga2", "nsga3", "gp", "qmc", "random")


class HalvingSpec(Frozen):
    """Successive halving: every trial is trained to the first rung and measured there, and 1 in `reduction` of those measured at
    a rung goes on to the next. Rungs are shares of the whole training, rising, such as 1/9; the last is 1."""

    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1 / 9, 1 / 3, 1)
    reduction: Annotated[float, Field(ge=1, le=100)] = 3

    @field_validator("rungs", mode="before")
    @classmethod
    def _fractions(cls, value: Any) -> Any:
        """1/9 is text to YAML."""
        if not isinstance(value, list | tuple):
            return value

        def number(rung: Any) -> Any:
            return float(Fraction(rung)) if isinstance(rung, str) and re.fullmatch(r"\d+/[1-9]\d*", rung) else rung

        return tuple(map(number, value))

    @field_validator("rungs")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        shown = ", ".join(f"{rung:g}" for rung in value)
        if not 2 <= len(value) <= 20:
            raise ValueError(f"[{shown}] are {len(value)}; write two to 20 shares of the training such as [1/9, 1]")
        if value[-1] != 1 or any(low >= high for low, high in pairwise(value)):
            raise ValueError(f"[{shown}] do not rise to 1; write shares of the training such as [1/9, 1/3, 1]")
        return value


class SamplingSpec(Frozen):
    """How trials are chosen. `first` are parameter values to begin with; what they leave open is sampled. After them come the best
    students of the study in the folder `from`, unless its measurements count here, and the textbooks' (`recipes`)."""

    sampler: str = "forest"
    startup_trials: Annotated[int, Field(ge=1, le=100_000)] = 10
    halving: HalvingSpec | Literal["none"] = "none"
    first: tuple[dict[str, Value], ...] = ()
    from_: Place | None = Field(default=None, alias="from")  # an earlier study's output
    recipes: bool | None = None  # None: where nothing else says how to begin

    @property
    def begins_with_recipes(self) -> bool:
        """Left out, they stand in for what nobody said. Where the user says how to begin, or what an earlier study found is there,
        that is worth more; and a random search is asked for where nothing is to be presumed."""
        if self.recipes is not None:
            return self.recipes
        return self.sampler != "random" and not self.first and self.from_ is None

    @field_validator("sampler")
    @classmethod
    def _a_sampler(cls, value: str) -> str:
        if value not in SAMPLERS and not re.fullmatch(IMPORT_PATH, value):
            raise ValueError(
                f"{value!r} is no sampler{near_miss(value, SAMPLERS)}; there are {', '.join(SAMPLERS)}, and any of Optuna's by "
                "import path, such as optuna.samplers:TPESampler"
            )
        return value

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of the training at which a trial is measured; the last is 1."""
        return (1.0,) if self.halving == "none" else self.halving.rungs

    @property
    def mean_share(self) -> float:
        """The share of its training that a trial is trained, on average over very many."""
        if self.halving == "none":
            return 1.0
        parts = [high - low for low, high in pairwise((0.0, *self.halving.rungs))]
        return sum(part / self.halving.reduction**place for place, part in enumerate(parts))

    @field_validator("first", mode="before")
    @classmethod
    def _layers_as_text(cls, value: Any) -> Any:
        """An explicit list of layers is one value, as in a space: "0,2,5"."""
        if not isinstance(value, list | tuple):
            return value

        def plain(entry: Any) -> Any:
            if isinstance(entry, dict) and isinstance(entry.get("layers"), list):
                return {**entry, "layers": ",".join(map(str, entry["layers"]))}
            return entry

        return tuple(plain(entry) for entry in value)

    @field_validator("first")
    @classmethod
    def _known(cls, value: tuple[dict[str, Value], ...]) -> tuple[dict[str, Value], ...]:
        for index, values in enumerate(value):
            for name in values:
                if name not in PARAMETERS:
                    raise ValueError(f"[{index}].{name}: unknown parameter{near_miss(name, PARAMETERS)}")
        return value
