"""The point of a space that comes nearest to a wish: a recipe, or another study's student, said in this space's words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spaces.architecture import FULL
from spaces.parameters import FloatRange, Parameter, Value
from spaces.space import PARAMETERS, SearchSpace
from spaces.student import TeacherShape

Wish = Mapping[str, Value | tuple[Value, ...]]  # several values: any of them, the first rather than the second


def nearest(wish: Wish, space: SearchSpace, teacher: TeacherShape, vocabularies: Mapping[str, int]) -> dict[str, Value]:
    """The values of the searched parameters that a wish names. A number that the space lacks gives way to its nearest there: in
    log, or plainly where something may be 0; sizes are compared in units, so that 50% of 768 is 384. A word that the space
    lacks is left open, and so is whatever depends on what is open. What is fixed, or not active, does not appear.
    """
    point: dict[str, Value] = {}
    values: dict[str, Value] = {}  # with what is fixed, which conditions may name
    for name in PARAMETERS:
        parameter = space.parameter(name)
        if not space.is_active(name, values):
            continue
        if space.is_fixed(name):
            values[name] = parameter.values[0]  # type: ignore[union-attr]
        elif name in wish:
            found = _found(name, parameter, wish[name], teacher, vocabularies)
            if found is not None:
                values[name] = point[name] = found
    return point


def _found(
    name: str,
    parameter: Parameter,
    wished: Value | tuple[Value, ...],
    teacher: TeacherShape,
    vocabularies: Mapping[str, int],
) -> Value | None:
    several = wished if isinstance(wished, tuple) else (wished,)
    for value in several:
        if parameter.contains(value):
            return value
    target = _number(name, several[0], teacher, vocabularies)
    if target is None:
        return None
    if isinstance(parameter, FloatRange):
        return min(max(target, parameter.low), parameter.high)
    numbers = {value: _number(name, value, teacher, vocabularies) for value in parameter.values}
    known = {value: number for value, number in numbers.items() if number is not None}
    in_log = min((target, *known.values())) > 0

    def distance(value: Value) -> float:
        return abs(math.log(known[value] / target)) if in_log else abs(known[value] - target)

    return min(known, key=distance, default=None)


def _number(name: str, value: Value, teacher: TeacherShape, vocabularies: Mapping[str, int]) -> float | None:
    """What a value counts: units, pieces, layers ...; None where it is a word."""
    if not PARAMETERS[name].numeric:
        return None
    if not isinstance(value, str):
        return float(value)
    if name == "vocabulary":
        return float(vocabularies[value]) if value in vocabularies else None
    whole = {
        "hidden_size": teacher.hidden_size,
        "num_heads": teacher.num_heads,
        "intermediate_size": teacher.intermediate_size,
        "embedding_size": teacher.embedding_size or teacher.hidden_size,
    }.get(name)
    if whole is None:
        return None
    return float(whole) if value == FULL else whole * float(value.removesuffix("%")) / 100
