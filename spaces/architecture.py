"""What an architecture's parameters mean, given a teacher: which of its layers are copied, and how wide they are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from spaces.parameters import Value
from spaces.student import TeacherShape


class InvalidStudent(ValueError):
    """The parameters do not make a student of this teacher."""


# What a shared layer starts from, of the teacher's layers that it stands for: the first, their mean, or whichever of them
# brings the untrained student's last hidden states nearest to the teacher's.
GROUP_STARTS = ("first", "mean", "best")
FULL = "full"  # as the teacher has it
WIDTHS = "full, a whole number, or a share of the teacher's such as 50%"
INTERMEDIATE_STEP = 8  # what a share of the feed-forward size is rounded to

LAYER_POLICIES: dict[str, Callable[[int, int], list[int]]] = {
    # teacher layers (counted from 0) that a student of `depth` layers copies from a teacher of `teacher_depth`
    "even": lambda depth, teacher_depth: [i * teacher_depth // depth for i in range(depth)],
    "even-with-last": lambda depth, teacher_depth: (
        [round(i * (teacher_depth - 1) / (depth - 1)) for i in range(depth)] if depth > 1 else [teacher_depth - 1]
    ),
    "first": lambda depth, teacher_depth: list(range(depth)),
    "last": lambda depth, teacher_depth: list(range(teacher_depth - depth, teacher_depth)),
    # the first layers and the last one: early layers matter most, the last one feeds the head
    "first-and-last": lambda depth, teacher_depth: [*range(depth - 1), teacher_depth - 1] if depth > 1 else [0],
    # the teacher's first layer left out: shallow students of pairs learnt only so (benchmarks/README.md)
    "skip-first": lambda depth, teacher_depth: [1 + i * (teacher_depth - 1) // depth for i in range(depth)],
    "skip-first-with-last": lambda depth, teacher_depth: (
        [1 + round(i * (teacher_depth - 2) / (depth - 1)) for i in range(depth)] if depth > 1 else [teacher_depth - 1]
    ),
}


def is_width(value: Value) -> bool:
    share = re.fullmatch(r"(\d+(\.\d+)?)%", str(value))
    return (
        value == FULL or (isinstance(value, int) and value >= 1) or (share is not None and 0 < float(share[1]) <= 100)
    )


def widths_of(values: Mapping[str, Value], teacher: TeacherShape) -> tuple[int, int, int]:
    """hidden_size, num_heads and intermediate_size. Raises InvalidStudent where the teacher is narrower."""
    head_size, own_heads = teacher.hidden_size // teacher.num_heads, values["num_heads"] == FULL
    hidden = _units(values["hidden_size"], teacher.hidden_size, head_size if own_heads else int(values["num_heads"]))
    inner = _units(values["intermediate_size"], teacher.intermediate_size, INTERMEDIATE_STEP)
    for name, size, most in (
        ("hidden_size", hidden, teacher.hidden_size),
        ("intermediate_size", inner, teacher.intermediate_size),
    ):
        if size > most:
            raise InvalidStudent(f"{name} {size} is above the teacher's {most}")
    if not own_heads:
        return hidden, int(values["num_heads"]), inner
    if hidden % head_size:
        raise InvalidStudent(
            f"hidden_size {hidden} is no multiple of the teacher's head size {head_size}; write one that is, or num_heads"
        )
    return hidden, hidden // head_size, inner


def bottleneck_of(values: Mapping[str, Value], hidden_size: int, teacher: TeacherShape) -> tuple[int, int]:
    """bottleneck_size and the heads in it, of a student so wide. Raises InvalidStudent."""
    head_size, own_heads = teacher.hidden_size // teacher.num_heads, values["num_heads"] == FULL
    step = head_size if own_heads else int(values["num_heads"])
    size = _units(values["bottleneck_size"], hidden_size, step)
    if own_heads and size % head_size:
        raise InvalidStudent(
            f"bottleneck_size {size} is no multiple of the teacher's head size {head_size}; write one that is, or num_heads"
        )
    return size, size // head_size if own_heads else step


def _units(value: Value, whole: int, step: int) -> int:
    """A size in units: as written, or a share of the whole, rounded to a multiple of `step`."""
    if value == FULL:
        return whole
    if not str(value).endswith("%"):
        return int(value)
    return max(step, round(whole * float(str(value)[:-1]) / 100 / step) * step)


def copied_layers(layers: Value, depth: int, teacher_depth: int) -> tuple[int, ...]:
    """Which teacher layers (from 0) the student's layers start from. Raises InvalidStudent."""
    if depth > teacher_depth:
        raise InvalidStudent(f"depth {depth} is more than the teacher's {teacher_depth} layers")
    if layers in LAYER_POLICIES:
        chosen = tuple(LAYER_POLICIES[str(layers)](depth, teacher_depth))
        if len(set(chosen)) < depth or chosen[-1] >= teacher_depth:
            raise InvalidStudent(
                f"layers {layers!r}: a teacher of {teacher_depth} layers has too few for depth {depth}"
            )
        return chosen
    chosen = tuple(int(part) for part in str(layers).split(","))
    if len(chosen) != depth:
        raise InvalidStudent(f"layers {list(chosen)} are {len(chosen)}, but depth is {depth}")
    if chosen[-1] >= teacher_depth:
        raise InvalidStudent(f"layers {list(chosen)}: the teacher's last layer is {teacher_depth - 1}")
    return chosen
