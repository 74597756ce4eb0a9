"""The kinds of search parameter. Bounds are inclusive; `when` names the condition under which one is active."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float
When = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few values. A single value is a fixed parameter."""

    values: tuple[Value, ...]
    when: When = field(default_factory=dict)

    def contains(self, value: Value) -> bool:
        return value in self.values

    def to_yaml(self) -> Any:
        plain: Any = list(self.values) if len(self.values) > 1 else self.values[0]
        return {"choices": list(self.values), "when": _when_to_yaml(self.when)} if self.when else plain


@dataclass(frozen=True, kw_only=True)
class IntRange:
    """A whole number from `low` to `high`, both included, in steps of `step`, or on a log scale."""

    low: int
    high: int
    step: int = 1
    log: bool = False
    when: When = field(default_factory=dict)

    def contains(self, value: Value) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def to_yaml(self) -> Any:
        out: dict[str, Any] = {"int": [self.low, self.high]}
        if self.step != 1:
            out["step"] = self.step
        return _extras(out, self.log, self.when)


@dataclass(frozen=True, kw_only=True)
class FloatRange:
    """A real number from `low` to `high`, both included, evenly or on a log scale."""

    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict)

    def contains(self, value: Value) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def to_yaml(self) -> Any:
        return _extras({"float": [self.low, self.high]}, self.log, self.when)


Parameter = Choice | IntRange | FloatRange


def at(parameter: Parameter, share: float) -> Value:
    """The value at this share of the range, 0 to 1, on its scale; a choice's values, and whole numbers, share it evenly."""
    if isinstance(parameter, Choice) or not (isinstance(parameter, FloatRange) or parameter.log):
        return parameter.values[min(int(share * len(parameter.values)), len(parameter.values) - 1)]
    half = 0.5 if isinstance(parameter, IntRange) else 0.0  # so that the ends of a whole range get their share
    low, high = parameter.low - half, parameter.high + half
    value = low * (high / low) ** share if parameter.log else low + share * (high - low)
    if isinstance(parameter, IntRange):
        return min(max(round(value), parameter.low), parameter.high)
    return min(max(value, parameter.low), parameter.high)


def where(parameter: FloatRange, value: float) -> float:
    """The share of the range, 0 to 1, at which a value stands, on its scale."""
    if parameter.low == parameter.high:
        return 0.0
    if parameter.log:
        return math.log(value / parameter.low) / math.log(parameter.high / parameter.low)
    return (value - parameter.low) / (parameter.high - parameter.low)


def _when_to_yaml(when: When) -> dict[str, Any]:
    return {name: values[0] if len(values) == 1 else list(values) for name, values in when.items()}


def _extras(out: dict[str, Any], log: bool, when: When) -> dict[str, Any]:
    if log:
        out["log"] = True
    if when:
        out["when"] = _when_to_yaml(when)
    return out


KEYS = {"choices": {"when"}, "int": {"step", "log", "when"}, "float": {"log", "when"}}


def parse_parameter(raw: Any) -> Parameter:
    """The parameter that YAML wrote: a value, a list of values, or {int: [low, high]}, {float: [low, high]},
    {choices: [...]}, with `step`, `log` and `when` beside them. Raises ValueError saying what is allowed.
    """
    if isinstance(raw, Choice | IntRange | FloatRange):
        return raw
    if not isinstance(raw, dict):
        return Choice(values=_values(raw if isinstance(raw, list | tuple) else [raw], ""))
    kinds = [kind for kind in KEYS if kind in raw]
    if len(kinds) != 1:
        raise ValueError(
            "write a value, a list of values, {int: [low, high]}, {float: [low, high]} or {choices: [...]}"
        )
    kind = kinds[0]
    unknown = sorted(set(map(str, raw)) - KEYS[kind] - {kind})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; beside {kind!r} only {sorted(KEYS[kind])} are allowed")
    when = _parse_when(raw.get("when", {}))
    if kind == "choices":
        if not isinstance(raw[kind], list):
            raise ValueError("choices: write a list, such as choices: [64, 128, full]")
        return Choice(values=_values(raw[kind], "choices"), when=when)
    log = raw.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log = {log!r} is not allowed; write true or false")
    low, high = _bounds(raw[kind], kind, log)
    if kind == "float":
        return FloatRange(low=float(low), high=float(high), log=log, when=when)
    step = raw.get("step", 1)
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"step = {step!r} is not allowed; write a whole number of at least 1")
    if log and step != 1:
        raise ValueError("log and step exclude each other; remove one of them")
    if (high - low) % step:
        raise ValueError(f"int: {high} is not reached from {low} in steps of {step}; bounds are inclusive")
    return IntRange(low=int(low), high=int(high), step=step, log=log, when=when)


def _values(raw: Any, where: str) -> tuple[Value, ...]:
    prefix = f"{where}: " if where else ""
    if not raw:
        raise ValueError(f"{prefix}an empty list leaves nothing to choose; write at least one value")
    values = []
    for index, value in enumerate(raw):
        if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
            value = ",".join(map(str, value))  # an explicit list of layers is one value: "0,2,5"
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
            raise ValueError(f"{prefix}[{index}] = {value!r} is not a value; write a word or a number")
        values.append(value)
    if len(set(values)) != len(values):
        raise ValueError(f"{prefix}a value stands there twice; write each once")
    return tuple(values)


def _bounds(raw: Any, kind: str, log: bool) -> tuple[float, float]:
    numbers = int if kind == "int" else (int, float)
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        raise ValueError(f"{kind}: write two bounds, both included, such as {kind}: [1, 6]")
    for index, value in enumerate(raw):
        if isinstance(value, bool) or not isinstance(value, numbers) or not math.isfinite(value) or abs(value) > 1e15:
            hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if isinstance(value, str) else ""
            raise ValueError(
                f"{kind}[{index}] = {value!r} is not allowed; write a {'whole ' * (kind == 'int')}number{hint}"
            )
    low, high = raw
    if low > high:
        raise ValueError(f"{kind}: the lower bound {low} is above the upper bound {high}; swap them")
    if log and low <= 0:
        raise ValueError(
            f"{kind}[0] = {low} is not allowed: a log scale needs a lower bound above 0. Raise it, or remove log: true"
        )
    return low, high


def _parse_when(raw: Any) -> When:
    if not isinstance(raw, dict):
        raise ValueError(
            "when: write the parameter and the values under which this one counts, such as when: {family: albert}"
        )
    return {
        str(name): _values(value if isinstance(value, list) else [value], f"when.{name}") for name, value in raw.items()
    }
