"""Floors: what a student has to beat to be worth having, measured once on the lanes and kept in the record."""

from __future__ import annotations

from typing import Any

import ray

from search.lanes.pool import LanePool
from search.record.record import Record
from search.results.front import Reference
from search.study.inputs import Inputs
from spaces.errors import StudyError
from spaces.parameters import Value
from spaces.student import StudentShape
from spaces.trial import WorkItem, WorkKind


class Floors:
    """`ask_early` for what needs no teacher, beside its fine-tuning; `ask` for the rest, once a lane is about to have nothing
    else to do; then `collect`."""

    def __init__(self, inputs: Inputs, record: Record, pool: LanePool) -> None:
        self._inputs, self._record, self._pool = inputs, record, pool
        self._known: dict[str, Any] = record.fact("floors") or {}
        self._asked: list[WorkItem] = []

    def ask_early(self, transfer: ray.ObjectRef) -> None:
        if "ngrams" not in self._known:
            self._submit("ngrams", {"refs": {"transfer": transfer}, "floor": "n_grams"})

    def ask(self, payload: dict[str, Any]) -> None:
        if "used" in self._inputs.vocabularies and "teacher_cut" not in self._known:
            shape = cut_teacher_shape(self._inputs)
            self._submit(
                "teacher_cut", {**payload, "floor": "cut_teacher", "shape": shape.model_dump(), "vocabulary": "used"}
            )

    def collect(self, references: list[Reference]) -> list[Reference]:
        """All references: teacher and majority, and the floors, from the record or from the lanes."""
        for item in self._asked:
            result = self._pool.wait(item.key)
            self._pool.acknowledge(item.key)
            if result.error:
                raise StudyError(f"{item.key} could not be measured: {result.error}")
            name = item.key.removeprefix("floor:")
            if name == "ngrams":
                self._known[name] = Reference(
                    name=name, label=self._inputs.spec.about.floor.removeprefix("a "),
                    num_parameters=result.output["num_parameters"],
                    num_bytes=4 * result.output["num_parameters"], metrics=result.output["metrics"],
                ).model_dump()  # fmt: skip
            elif result.output["metrics"] is not None:
                shape = cut_teacher_shape(self._inputs)
                self._known[name] = Reference(
                    name=name, label="teacher, vocabulary cut", num_parameters=shape.num_parameters,
                    num_bytes=shape.num_bytes, metrics=result.output["metrics"],
                ).model_dump()  # fmt: skip
        self._record.keep("floors", self._known)
        known = (Reference.model_validate(entry) for entry in self._known.values())
        everything = [references[0], *known, *references[1:]]
        self._record.keep("references", [reference.model_dump() for reference in everything])
        return everything

    def _submit(self, name: str, payload: dict[str, Any]) -> None:
        item = WorkItem(key=f"floor:{name}", kind=WorkKind.FLOOR, payload=payload)
        if any(asked.key == item.key for asked in self._asked):
            return
        self._asked.append(item)
        self._pool.submit(item)


def cut_teacher_shape(inputs: Inputs) -> StudentShape:
    values: dict[str, Value] = {
        "family": "bert",
        "depth": inputs.teacher.depth,
        "layers": "first",
        "vocabulary": "used",
        "embedding_size": "full",
    }
    return inputs.spec.space.shape(values, inputs.teacher, inputs.vocabularies)
