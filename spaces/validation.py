"""What pydantic and a NaN make of a file's values, in our words: where, what is allowed, what was perhaps meant."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from spaces.errors import MOST_FAULTS, Fault, cut, near_miss
from spaces.student import Frozen


def not_finite(model: BaseModel) -> list[Fault]:
    """Numbers that are none (.nan, .inf, the word nan), wherever they stand: no bound refuses a NaN."""

    def walk(value: Any, where: str) -> Iterator[Fault]:
        if isinstance(value, float) and not math.isfinite(value):
            yield Fault(where, f"{value} is not allowed; write a finite number")
        elif isinstance(value, BaseModel):
            for name, field in type(value).model_fields.items():
                yield from walk(getattr(value, name), f"{where}.{field.alias or name}".lstrip("."))
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, f"{where}.{key}".lstrip("."))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                yield from walk(inner, f"{where}[{index}]")

    return list(walk(model, ""))


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """One fault for each thing that is wrong: where a word or keys are allowed, pydantic complains of both."""
    found = [(_fault(detail, model), detail) for detail in error.errors(include_url=False)[: MOST_FAULTS + 1]]
    kept: list[Fault] = []
    for fault, detail in found:
        others = [(other.where, each["type"]) for other, each in found if other is not fault]
        if detail["type"] == "literal_error" and any(path.startswith(f"{fault.where}.") for path, _ in others):
            continue  # keys were written: the word was not meant
        if detail["type"] == "model_type" and (fault.where, "literal_error") in others:
            continue
        if detail["type"] == "literal_error" and (fault.where, "model_type") in others:
            keys = ", ".join(_fields_at(model, fault.where.split(".")))
            fault = Fault(fault.where, f"{fault.problem}, or have keys: {keys}")
        kept.append(fault)
    return kept


def _fault(detail: Mapping[str, Any], model: type[BaseModel]) -> Fault:
    models = {each.__name__ for each in Frozen.__subclasses__()}
    location = [part for part in detail["loc"] if part not in models]
    location = [
        p
        for p in location
        if not (
            isinstance(p, str)
            and (
                p.startswith(("literal[", "constrained-", "lax-or", "function-"))
                or p in ("path", "int", "float", "str")
            )
        )
    ]
    where = ""
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(model, [str(part) for part in location[:-1]])
        return Fault(where, f"unknown key{near_miss(str(location[-1]), allowed)}; allowed here: {', '.join(allowed)}")
    if detail["type"] == "missing":
        return Fault(where, "is missing; it has no default")
    problem = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    shown = cut(repr(detail["input"]), 80)
    if detail["type"] == "value_error":
        return Fault(where, problem)
    if detail["type"] == "dict_type" and where == "objectives":
        problem = "a direction for each, such as {accuracy: maximize, parameters: minimize}"
    return Fault(where, f"{shown} is not allowed: it should be {problem[0].lower() + problem[1:]}")


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys allowed at a path, found by following the field types."""
    current: type[BaseModel] = model
    for part in location:
        field = current.model_fields.get(part)
        if field is None:
            continue
        stack: list[Any] = [field.annotation]
        while stack:
            item = stack.pop()
            if isinstance(item, type) and issubclass(item, BaseModel):
                current = item
                break
            stack += typing.get_args(item)
    return [field.alias or name for name, field in current.model_fields.items()]
