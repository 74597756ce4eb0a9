"""A study's bounds as numbers: shares of the teacher's values are taken of them."""

from __future__ import annotations

from collections.abc import Sequence

from search.results.front import Reference
from search.study.inputs import Inputs
from spaces.student import BYTES_A_WEIGHT
from spaces.study import StudySpec

Limits = dict[str, tuple[float, float]]  # lowest and highest, by objective


def limits_of(spec: StudySpec, references: Sequence[Reference]) -> Limits:
    """All of them; the first reference is the teacher, measured."""
    return {name: bound.limits(references[0].value(name)) for name, bound in spec.bounds.items()}


def known_limits(inputs: Inputs) -> Limits:
    """Those that arithmetic knows before the teacher was measured: all on sizes, and absolute ones on scores."""
    parameters = float(inputs.teacher.num_parameters)
    counted = inputs.spec.deployment.counted(inputs.teacher.as_student())
    each = BYTES_A_WEIGHT.get(inputs.spec.deployment.file, 0)
    sizes = {**counted, "parameters": parameters, **({"bytes": each * parameters} if each else {})}
    return {
        name: bound.limits(sizes.get(name, 0.0))
        for name, bound in inputs.spec.bounds.items()
        if name in sizes or not any(isinstance(value, str) for value in (bound.min, bound.max))
    }
