"""What shapes cost where they will run, measured by the lanes: each shape once, before its first trial is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import ray

from search.lanes.pool import LanePool
from search.record.record import Record
from search.results.front import Reference
from search.study.inputs import Inputs
from search.suggest.costs import Costs, spread_out
from spaces.deployment import PREFIX
from spaces.errors import StudyError, TrialError
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, WorkItem, WorkKind

SECONDS_A_SHAPE = {"pytorch": 9.0, "onnx": 4.0, "onnx-int8": 4.5}  # on a lane, of which its neighbours wait for one
LOOKED_AT = 10  # shapes that are measured before any trial, so that the search knows what others cost


class ShapeCosts:
    """`ask` for a shape, then `of` it; `costs` learns what comes. A study whose objectives and bounds need nothing measured asks
    for nothing, and only what arithmetic knows is written beside a measurement.

    What was measured of a trial's shape stands in its measurements; of the shapes looked at first and of the teacher in the
    record's fact `costs`. The lanes count latencies in yardsticks; how many milliseconds that is, is said once for the study: the
    median over the first measurements, so that all its latencies compare.
    """

    def __init__(self, inputs: Inputs, record: Record, pool: LanePool, transfer: ray.ObjectRef) -> None:
        spec = inputs.spec
        self._spec, self._inputs, self._record, self._pool, self._transfer = spec, inputs, record, pool, transfer
        self.costs = Costs(spec.deployment, (*spec.objectives, *spec.bounds))
        self._asked: dict[StudentShape, str] = {}
        self._found: dict[StudentShape, dict[str, float]] = {}
        kept = record.fact("costs") or {"teacher": None, "shapes": [], "processors": [], "yardstick_ms": None}
        self._yardstick_ms: float | None = kept["yardstick_ms"]
        self.processors = set(kept["processors"])  # on which the lanes measured; latencies of several do not compare
        self._teacher: dict[str, float] | None = kept["teacher"]
        self._first = [(StudentShape.model_validate(shape), found) for shape, found in kept["shapes"]]
        for shape, found in self._first:
            self._learn(shape, found)
        for outcome in record.outcomes():
            self.remember(outcome)

    @property
    def needed(self) -> bool:
        return needs_measuring(self._spec)

    def remember(self, outcome: TrialOutcome) -> None:
        """What an earlier run measured of a trial's shape."""
        found = outcome.last.named(PREFIX) if outcome.last else {}
        if self.needed and found.keys() >= set(self.costs.measured):
            self._learn(outcome.config.shape, found)

    def ask_early(self, shapes: Sequence[StudentShape]) -> None:
        """Some that differ as much as the study's can, while lanes wait for the teacher."""
        if self.needed:
            for shape in spread_out(shapes, LOOKED_AT):
                self.ask(shape)

    def ask(self, shape: StudentShape) -> None:
        if self.needed and shape not in self._found and shape not in self._asked:
            self._asked[shape] = self._submit(shape, "")

    def look_at_first(self, teacher_folder: Path, references: list[Reference]) -> list[Reference]:
        """The references with the teacher's costs; waits for what was asked for early. Raises StudyError where one of
        them cannot be measured."""
        if not self.needed:
            return self._with_teacher(references, {})
        try:
            found = {shape: self._result(key, "it") for shape, key in self._asked.items()}
            raw = [] if self._teacher else [self._result(self._submit(None, str(teacher_folder)), "the teacher")]
        except TrialError as error:
            raise StudyError(str(error)) from None
        if self._yardstick_ms is None:
            self._yardstick_ms = median(each["yardstick_ms"] for each in (*raw, *found.values()))
        if self._teacher is None:
            self._teacher = self._in_milliseconds(raw[0])
        self.costs.learn(self._inputs.teacher.as_student(), self._teacher)
        self._asked.clear()
        for shape, measured in found.items():
            self._learn(shape, self._in_milliseconds(measured))
            self._first.append((shape, self._found[shape]))
        shapes = [(shape.model_dump(mode="json"), found) for shape, found in self._first]
        kept = {"teacher": self._teacher, "shapes": shapes, "processors": sorted(self.processors)}
        self._record.keep("costs", {**kept, "yardstick_ms": self._yardstick_ms})
        return self._with_teacher(references, self._teacher)

    def _with_teacher(self, references: list[Reference], measured: dict[str, float]) -> list[Reference]:
        counted = self._counted(self._inputs.teacher.as_student())
        if self._spec.deployment.file == "fp32":
            counted.pop("bytes", None)  # the folder says
        deployed = {PREFIX + name: value for name, value in {**counted, **measured}.items()}
        first = references[0].model_copy(update={"metrics": {**references[0].metrics, **deployed}})
        return [first, *references[1:]]

    def of(self, shape: StudentShape) -> dict[str, float]:
        """Its costs by name; waits for what is measured. Raises TrialError where it cannot be."""
        if self.needed and shape not in self._found:
            self.ask(shape)
            self._learn(shape, self._in_milliseconds(self._result(self._asked.pop(shape), "it")))
        return {**self._counted(shape), **self._found.get(shape, {})}

    def _counted(self, shape: StudentShape) -> dict[str, float]:
        """What the study asks for and arithmetic knows, but for the parameters, which every shape says itself."""
        asked = {*self._spec.objectives, *self._spec.bounds} - {"parameters"}
        return {name: value for name, value in self._spec.deployment.counted(shape).items() if name in asked}

    def _in_milliseconds(self, measured: dict[str, float]) -> dict[str, float]:
        assert self._yardstick_ms is not None
        found = dict(measured)
        del found["yardstick_ms"]
        found["latency_ms"] = found.pop("yardsticks") * self._yardstick_ms
        found["latency_ms_p95"] = found.pop("yardsticks_p95") * self._yardstick_ms
        return found

    def _learn(self, shape: StudentShape, found: dict[str, float]) -> None:
        self._found[shape] = found
        self.costs.learn(shape, found)

    def _submit(self, shape: StudentShape | None, teacher: str) -> str:
        plain = None if shape is None else shape.model_dump(mode="json")
        payload: dict[str, Any] = {
            "shape": plain,
            "teacher": teacher,
            "deployment": self._spec.deployment.model_dump(),
            "max_positions": (shape or self._inputs.teacher).max_positions,
            "refs": {"transfer": self._transfer},
        }
        key = f"measure:{_fingerprint(shape)}" if shape is not None else "measure:teacher"
        self._pool.submit(WorkItem(key=key, kind=WorkKind.MEASURE, payload=payload))
        return key

    def _result(self, key: str, what: str) -> dict[str, float]:
        result = self._pool.wait(key)
        self._pool.acknowledge(key)
        if result.remedy:
            raise StudyError(f"measuring what {what} costs: {result.error}. {result.remedy}")
        if result.error:
            raise TrialError(
                f"what {what} costs where it will run could not be measured: {result.error}. Another deployment.runtime may do, or "
                "objectives and bounds without latency_ms, peak_memory_bytes and int8 bytes"
            )
        self.processors.add(result.output["processor"])
        return dict(result.output["costs"])


def needs_measuring(spec: StudySpec) -> bool:
    """Whether an objective or a bound is a cost that arithmetic does not know."""
    return any(spec.deployment.is_measured(name) for name in (*spec.objectives, *spec.bounds))


def _fingerprint(shape: StudentShape) -> str:
    return hashlib.sha256(shape.model_dump_json().encode()).hexdigest()[:12]
