"""SearchSpace: the parameters in canonical order, their conditions and validity rules, and what a point means."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from spaces.architecture import (
    FULL,
    GROUP_STARTS,
    LAYER_POLICIES,
    WIDTHS,
    InvalidStudent,
    bottleneck_of,
    copied_layers,
    is_width,
    widths_of,
)
from spaces.errors import MOST_FAULTS, Fault, near_miss
from spaces.families import FAMILIES, families_with
from spaces.heads import HEADS, STOCK
from spaces.matching import HIDDEN_LAYERS, HIDDEN_LOSSES, matched_states
from spaces.parameters import Choice, FloatRange, IntRange, Parameter, Value, parse_parameter
from spaces.student import StudentShape, TeacherShape


@dataclass(frozen=True)
class ParameterInfo:
    """What a parameter is: its default, which values can ever be right, and whether it shapes the student."""

    default: Value
    allowed: str  # in words, for the error
    check: Callable[[Value], bool]
    shapes: bool = False
    numeric: bool = True  # may be a range
    of_all: bool = True  # families; else of those that name it in their keys


def _whole(value: Value, low: int = 1, high: int = 10**7) -> bool:
    return isinstance(value, int) and low <= value <= high


def _real(value: Value, low: float, high: float, above: bool = False) -> bool:
    return isinstance(value, int | float) and (low < value if above else low <= value) and value <= high


def _layers(value: Value) -> bool:
    if value in LAYER_POLICIES:
        return True
    parts = str(value).split(",")
    return all(part.strip().isdigit() for part in parts) and [int(p) for p in parts] == sorted({int(p) for p in parts})


# In canonical order: a condition may name only what stands above it.
PARAMETERS: dict[str, ParameterInfo] = {
    "family": ParameterInfo("bert", f"one of {sorted(FAMILIES)}", lambda v: v in FAMILIES, shapes=True, numeric=False),
    "depth": ParameterInfo(3, "a whole number of layers, 1 or more", lambda v: _whole(v, 1, 1000), shapes=True),
    "layers": ParameterInfo(
        "even-with-last",
        f"one of {sorted(LAYER_POLICIES)}, or the teacher's layers from 0 in rising order such as [0, 2, 5]",
        _layers,
        shapes=True,
        numeric=False,
    ),
    "hidden_size": ParameterInfo(FULL, WIDTHS, is_width, shapes=True),
    "num_heads": ParameterInfo(
        FULL, "full (the teacher's head size is kept) or a whole number", lambda v: v == FULL or _whole(v), shapes=True
    ),
    "intermediate_size": ParameterInfo(FULL, WIDTHS, is_width, shapes=True),
    "vocabulary": ParameterInfo(
        "full",
        "full, used, or a whole number of pieces to keep (100 or more)",
        lambda v: v in ("full", "used") or _whole(v, 100),
        shapes=True,
    ),
    "embedding_size": ParameterInfo("full", "full or a whole number", lambda v: v == "full" or _whole(v), shapes=True),
    "num_hidden_groups": ParameterInfo(1, "a whole number, 1 or more", lambda v: _whole(v, 1, 1000), shapes=True),
    "num_conv_groups": ParameterInfo(4, "a whole number, 1 or more", lambda v: _whole(v, 1, 1000), True, of_all=False),
    "bottleneck_size": ParameterInfo("25%", WIDTHS.replace("teacher", "student"), is_width, True, of_all=False),
    "num_feedforwards": ParameterInfo(4, "a whole number, 1 or more", lambda v: _whole(v, 1, 100), True, of_all=False),
    "group_start": ParameterInfo("first", f"one of {sorted(GROUP_STARTS)}", lambda v: v in GROUP_STARTS, numeric=False),
    "head": ParameterInfo(STOCK, f"one of {sorted(HEADS)}", lambda v: v in HEADS, shapes=True, numeric=False),
    "temperature": ParameterInfo(2.0, "a number above 0, at most 100", lambda v: _real(v, 0, 100, above=True)),
    "soft_share": ParameterInfo(
        0.9,
        "a share from 0 (labels alone) to 1 (teacher alone); of sentence embeddings from how alike they are to each alone",
        lambda v: _real(v, 0, 1),
    ),
    "hidden_share": ParameterInfo(0.0, "the hidden states' share of the loss, from 0 to 1", lambda v: _real(v, 0, 1)),
    "hidden_loss": ParameterInfo(
        "cosine", f"one of {sorted(HIDDEN_LOSSES)}", lambda v: v in HIDDEN_LOSSES, numeric=False
    ),
    "hidden_layers": ParameterInfo(
        "last", f"one of {sorted(HIDDEN_LAYERS)}", lambda v: v in HIDDEN_LAYERS, numeric=False
    ),
    "learning_rate": ParameterInfo(2e-4, "a number above 0, at most 1", lambda v: _real(v, 0, 1, above=True)),
    "batch_size": ParameterInfo(64, "a whole number, 1 or more", lambda v: _whole(v, 1, 100_000)),
    "warmup_share": ParameterInfo(0.1, "a share of the steps from 0 to 1", lambda v: _real(v, 0, 1)),
    "weight_decay": ParameterInfo(0.01, "a number from 0 to 1", lambda v: _real(v, 0, 1)),
    "dropout": ParameterInfo(0.1, "a share from 0 to below 1", lambda v: _real(v, 0, 0.999)),
}


@dataclass(frozen=True)
class SearchSpace:
    """The parameters that a study searches or fixes, in canonical order. What is not named takes its default."""

    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def parameter(self, name: str) -> Parameter:
        info = PARAMETERS[name]
        when = {} if info.of_all else {"family": families_with(name)}
        return self.parameters.get(name) or Choice(values=(info.default,), when=when)

    def is_fixed(self, name: str) -> bool:
        """Whether there is nothing to search: it has one value."""
        parameter = self.parameter(name)
        return isinstance(parameter, Choice) and len(parameter.values) == 1

    @cached_property
    def searched(self) -> tuple[str, ...]:
        """The parameters that have more values than one, in canonical order."""
        return tuple(name for name in PARAMETERS if not self.is_fixed(name))

    def is_active(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether the condition of `name` holds, given the values of what stands above it."""
        return all(values.get(parent) in allowed for parent, allowed in self.parameter(name).when.items())

    def point(self, suggest: Callable[[str, Parameter], Value]) -> dict[str, Value]:
        """One point, asking `suggest` for each active parameter that has more than one value."""
        values: dict[str, Value] = {}
        for name in PARAMETERS:
            parameter = self.parameter(name)
            if self.is_active(name, values):
                values[name] = parameter.values[0] if self.is_fixed(name) else suggest(name, parameter)  # type: ignore[union-attr]
        return values

    def fault_of(self, values: Mapping[str, Value]) -> str:
        """What keeps a point from lying in the space, or nothing."""
        for name, value in values.items():
            if name not in PARAMETERS:
                return f"{name}: no such parameter{near_miss(name, PARAMETERS)}"
            if not self.parameter(name).contains(value):
                return f"{name}: {value!r} is outside the space ({self.parameter(name).to_yaml()})"
        return ""

    def shape(
        self, values: Mapping[str, Value], teacher: TeacherShape, vocabularies: Mapping[str, int]
    ) -> StudentShape:
        """The student that a point means. `vocabularies` gives the rows of each vocabulary ("full", "used", "8000").

        Raises InvalidStudent where the point makes none.
        """
        get = {name: values.get(name, info.default) for name, info in PARAMETERS.items()}
        depth = int(get["depth"])
        copied_layers(get["layers"], depth, teacher.depth)
        hidden_size, num_heads, intermediate_size = widths_of(get, teacher)
        widest = min(hidden_size, teacher.embedding_size or hidden_size)
        embedding_size = widest if get["embedding_size"] == FULL else int(get["embedding_size"])
        if teacher.embedding_size and embedding_size > teacher.embedding_size:
            raise InvalidStudent(f"embedding_size {embedding_size} is above the teacher's {teacher.embedding_size}")
        family = str(get["family"])
        own: dict[str, int] = {}
        for name in FAMILIES[family].keys:
            if name == "bottleneck_size":
                own[name], num_heads = bottleneck_of(get, hidden_size, teacher)
            else:
                own[name] = int(get[name])
        try:
            return StudentShape(
                family=family,
                depth=depth,
                hidden_size=hidden_size,
                num_heads=num_heads,
                intermediate_size=intermediate_size,
                embedding_size=embedding_size,
                num_hidden_groups=int(get["num_hidden_groups"]) if family == "albert" else depth,
                vocabulary_size=vocabularies[str(get["vocabulary"])],
                max_positions=teacher.max_positions,
                type_vocabulary_size=0 if family == "distilbert" else teacher.type_vocabulary_size,
                num_labels=teacher.num_labels,
                head=str(get["head"]),
                **own,
                task_head=teacher.task_head,
            )
        except ValueError as error:
            raise InvalidStudent(str(error)) from error

    def architectures(
        self, teacher: TeacherShape, vocabularies: Mapping[str, int], limit: int = 200_000
    ) -> Iterator[tuple[dict[str, Value], StudentShape]]:
        """Every architecture of the space that makes a student, with the parameters that say so."""
        names = [name for name, info in PARAMETERS.items() if info.shapes]
        choices = [self.parameter(name).values for name in names]  # type: ignore[union-attr]
        seen: set[tuple[tuple[str, Value], ...]] = set()
        for combination in itertools.islice(itertools.product(*choices), limit):
            values: dict[str, Value] = {}
            for name, value in zip(names, combination, strict=True):
                if self.is_active(name, values):
                    values[name] = value
            key = tuple(values.items())
            if key in seen:
                continue
            seen.add(key)
            try:
                yield values, self.shape(values, teacher, vocabularies)
            except InvalidStudent:
                continue

    @property
    def vocabularies(self) -> list[str]:
        return [str(value) for value in self.parameter("vocabulary").values]  # type: ignore[union-attr]

    @property
    def narrows(self) -> bool:
        """Whether a student may have less width than its teacher."""
        return any(
            value != FULL
            for name in ("hidden_size", "intermediate_size")
            for value in self.parameter(name).values  # type: ignore[union-attr]
        )

    def teacher_states(self, teacher_depth: int) -> set[int]:
        """Which hidden states of the teacher the losses of this space can ask for."""
        share = self.parameter("hidden_share")
        if not (max(share.values) if isinstance(share, Choice) else share.high):
            return set()
        wanted: set[int] = set()
        names = ("hidden_loss", "hidden_layers", "depth", "layers")
        for loss, matched, depth, layers in itertools.product(*(self.parameter(name).values for name in names)):  # type: ignore[union-attr]
            try:
                copied = copied_layers(layers, depth, teacher_depth)
            except InvalidStudent:
                continue
            wanted |= {teacher for _, teacher in matched_states(loss, matched, depth, teacher_depth, copied)}
        return wanted

    def to_yaml(self) -> dict[str, Any]:
        return {name: self.parameters[name].to_yaml() for name in PARAMETERS if name in self.parameters}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.to_yaml(), sort_keys=True).encode()).hexdigest()[:16]


def parse_space(raw: Any) -> tuple[SearchSpace, list[Fault]]:
    """The space that YAML wrote, and everything wrong with it (paths relative to `space`)."""
    if not isinstance(raw, dict):
        return SearchSpace(), [Fault("", "write a preset's name, or parameters such as depth: {int: [1, 6]}")]
    faults: list[Fault] = []
    parsed: dict[str, Parameter] = {}
    for name in itertools.islice((name for name in map(str, raw) if name not in PARAMETERS), MOST_FAULTS + 1):
        faults.append(Fault(name, f"unknown parameter{near_miss(name, PARAMETERS)}; there are {', '.join(PARAMETERS)}"))
    order = list(PARAMETERS)
    for name, info in PARAMETERS.items():
        if name not in raw:
            continue
        try:
            parameter = parse_parameter(raw[name])
        except ValueError as error:
            faults.append(Fault(name, str(error)))
            continue
        if not info.of_all and "family" not in parameter.when:
            parameter = replace(parameter, when={"family": families_with(name), **parameter.when})
        problem = _problem(parameter, info)
        for parent, allowed in parameter.when.items():
            if parent not in PARAMETERS:
                problem = f"when: unknown parameter {parent!r}{near_miss(parent, PARAMETERS)}"
            elif order.index(parent) >= order.index(name):
                problem = f"when: {name} can depend only on {', '.join(order[: order.index(name)]) or 'nothing'}, not on {parent}"
            elif (parent in parsed or parent not in raw) and not any(
                SearchSpace(parsed).parameter(parent).contains(value) for value in allowed
            ):
                problem = f"when: {parent} is never {' or '.join(map(str, allowed))} in this space"
        if problem:
            faults.append(Fault(name, problem))
        parsed[name] = parameter
    return SearchSpace({name: parsed[name] for name in PARAMETERS if name in parsed}), faults


def _problem(parameter: Parameter, info: ParameterInfo) -> str:
    if isinstance(parameter, Choice):
        wrong = [value for value in parameter.values if not info.check(value)]
        return f"{wrong[0]!r} is not allowed; allowed is {info.allowed}" if wrong else ""
    if not info.numeric:
        return f"a range is not allowed; allowed is {info.allowed}"
    if info.shapes and isinstance(parameter, FloatRange):
        return "a real range is not allowed; write int: [low, high] or a list"
    wrong_bounds = [value for value in (parameter.low, parameter.high) if not info.check(value)]
    if wrong_bounds:
        return f"{wrong_bounds[0]!r} is not allowed; allowed is {info.allowed}"
    if info.shapes and isinstance(parameter, IntRange) and len(parameter.values) > 2000:
        return f"{len(parameter.values)} values are too many to enumerate; add step, or write a list"
    return ""
