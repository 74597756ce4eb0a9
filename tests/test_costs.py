"""What students cost where they will run: by arithmetic, expected of shapes that nobody measured, and by the probe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small_search import TEACHER, VOCABULARIES, a_spec

from search.suggest.costs import ENOUGH, Costs, spread_out
from search.suggest.sampling import Sampling
from spaces.deployment import DeploymentSpec
from spaces.errors import InputError, TrialError
from spaces.student import StudentShape


def a_shape(**changes: Any) -> StudentShape:
    plain = {
        "family": "bert",
        "depth": 2,
        "hidden_size": 48,
        "num_heads": 4,
        "intermediate_size": 96,
        "embedding_size": 48,
        "num_hidden_groups": 2,
        "vocabulary_size": 1000,
        "max_positions": 64,
        "type_vocabulary_size": 2,
        "num_labels": 2,
    }
    changes.setdefault("num_hidden_groups", changes.get("depth", plain["depth"]))
    return StudentShape.model_validate({**plain, **changes})


SHAPES = [
    a_shape(depth=depth, hidden_size=hidden, embedding_size=hidden, intermediate_size=inner)
    for depth in (1, 2, 4, 6)
    for hidden in (48, 96, 192)
    for inner in (96, 384)
]


def latency(shape: StudentShape) -> float:
    """A machine by hand: 0.2 ms, 0.1 ms a layer, and a nanosecond for each ten weights of its products."""
    products = shape.depth * (4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size)
    return 0.2 + 0.1 * shape.depth + products / 1e7


def test_arithmetic_by_hand() -> None:
    shape = a_shape()
    counted = DeploymentSpec(batch_size=3, length=10).counted(shape)
    assert counted["flops"] == 3 * shape.flops(10)
    assert counted["bytes"] == shape.num_bytes
    half = DeploymentSpec(file="fp16").counted(shape)["bytes"]
    assert 2 * shape.num_parameters < half < 2 * shape.num_parameters + 8000  # and the header
    assert "bytes" not in DeploymentSpec(file="int8").counted(shape)
    assert DeploymentSpec(length=1000).counted(shape)["flops"] == shape.flops(64)  # no longer than it has positions


def test_what_was_measured_is_known_and_the_rest_is_near_it() -> None:
    costs = Costs(DeploymentSpec(), ["parameters", "latency_ms"])
    assert costs.measured == ["latency_ms"]
    assert math.isnan(costs.of(SHAPES[0])["latency_ms"])
    rng = np.random.default_rng(0)
    chosen = spread_out(SHAPES, 10)
    for shape in chosen:
        costs.learn(shape, {"latency_ms": latency(shape) * float(1 + 0.02 * rng.normal())})
    for shape in SHAPES:
        found = costs.of(shape)
        assert found["parameters"] == shape.num_parameters
        assert found["latency_ms"] == pytest.approx(latency(shape), rel=0.1)
        if shape in chosen:
            assert costs.spread("latency_ms", shape) == 0
            assert costs.at_best(shape) == found
        else:
            assert 0.005 < costs.spread("latency_ms", shape) < 0.1
            assert costs.at_best(shape)["latency_ms"] < found["latency_ms"]


def test_few_measurements_are_scaled_by_arithmetic() -> None:
    costs = Costs(DeploymentSpec(), ["latency_ms", "peak_memory_bytes"])
    costs.learn(SHAPES[0], {"latency_ms": 1.0, "peak_memory_bytes": 1e8})
    other = SHAPES[-1]
    assert costs.of(other)["latency_ms"] == pytest.approx(other.flops(32) / SHAPES[0].flops(32))
    assert costs.of(other)["peak_memory_bytes"] == pytest.approx(1e8 * other.num_parameters / SHAPES[0].num_parameters)


@pytest.mark.parametrize("count", [ENOUGH, 8])
def test_no_expectation_is_negative_or_falls_with_depth(count: int) -> None:
    costs, rng = Costs(DeploymentSpec(), ["latency_ms"]), np.random.default_rng(count)
    for shape in rng.permutation(np.array(SHAPES, dtype=object))[:count]:
        costs.learn(shape, {"latency_ms": float(rng.uniform(0.5, 2))})  # pure noise
    deeper = [costs.of(a_shape(depth=depth, intermediate_size=100))["latency_ms"] for depth in (1, 3, 9, 27)]
    assert min(deeper) > 0
    assert deeper == sorted(deeper)


def test_shapes_that_are_looked_at_first_span_the_space() -> None:
    chosen = spread_out(SHAPES, 6)
    assert len(set(chosen)) == 6
    sizes = [shape.num_parameters for shape in SHAPES]
    assert {shape.num_parameters for shape in chosen} >= {min(sizes), max(sizes)}
    assert {shape.depth for shape in chosen} >= {1, 6}
    assert spread_out(SHAPES[:2] * 3, 6) == SHAPES[:2]


# in the search


LATENCY = {"accuracy": "maximize", "latency_ms": "minimize"}


def knowing(spec: Any, shapes: list[StudentShape]) -> Costs:
    costs = Costs(spec.deployment, [*spec.objectives, *spec.bounds])
    for shape in spread_out(shapes, 10):
        costs.learn(shape, {"latency_ms": latency(shape)})
    return costs


def test_the_search_passes_over_what_is_expected_to_be_too_slow() -> None:
    shapes = Sampling(a_spec(), TEACHER, VOCABULARIES, {}).shapes
    limit = sorted(map(latency, shapes))[len(shapes) // 3]
    spec = a_spec(objectives=LATENCY, bounds={"latency_ms": {"max": limit}})
    limits = {"latency_ms": (-math.inf, limit)}
    sampling = Sampling(spec, TEACHER, VOCABULARIES, limits, {"accuracy": 0.9}, costs=knowing(spec, shapes))
    for number in range(12):
        point = sampling.suggest([], number)
        assert point is not None
        assert latency(point[1]) < 1.2 * limit


def test_a_direction_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="latency_ms: maximize makes no sense; write latency_ms: minimize"):
        a_spec(objectives={"accuracy": "maximize", "latency_ms": "maximize"})
    with pytest.raises(InputError, match=r"deployment.lenght: unknown key; did you mean .length."):
        a_spec(deployment={"lenght": 12})


# the probe


@pytest.fixture
def measured(transfer: Any, teacher: Any) -> Any:
    """Measures the tiny student, or the teacher, through the worker's own door."""
    from search.trial.context import WorkerContext
    from search.trial.work import perform
    from spaces.trial import WorkItem, WorkKind

    def measure(deployment: DeploymentSpec, shape: StudentShape | None = None) -> dict[str, float]:
        payload = {
            "shape": shape and shape.model_dump(mode="json"),
            "teacher": str(teacher),
            "deployment": deployment.model_dump(),
            "max_positions": 48,
        }
        item = WorkItem(key="measure:x", kind=WorkKind.MEASURE, payload=payload)
        return dict(perform(item, WorkerContext(data={"transfer": transfer}))[1]["costs"])

    return measure


SMALL = a_shape(vocabulary_size=90, max_positions=48, num_labels=3)


@pytest.mark.slow
def test_an_int8_file_is_measured_and_smaller(measured: Any) -> None:
    found = measured(DeploymentSpec(runtime="onnx-int8", file="int8", length=16), SMALL)
    plain = measured(DeploymentSpec(runtime="onnx", length=16))  # the teacher's
    assert "bytes" not in plain
    assert SMALL.num_parameters < found["bytes"] < SMALL.num_bytes
    for costs in (found, plain):
        assert 0 < costs["yardsticks"] <= costs["yardsticks_p95"]
        assert costs["yardstick_ms"] > 0
        assert costs["peak_memory_bytes"] > 10**7
        assert costs["latency_runs"] >= 30
        assert costs["quiet"] == 0  # no lane's: nobody was asked to make way


@pytest.mark.slow
def test_pytorch_is_run_in_a_process_of_its_own(measured: Any) -> None:
    found = measured(DeploymentSpec(runtime="pytorch", length=16), SMALL)
    assert found["yardsticks"] > 0
    assert found["peak_memory_bytes"] > 10**8  # torch itself


def test_a_model_that_does_not_run_is_told_with_its_reason(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.trial.deliver import costs

    monkeypatch.setattr(costs, "BUILDER", "search.trial.deliver.costs:nothing_of_the_kind")
    with pytest.raises(TrialError, match=r"the model cannot be run by pytorch: .*nothing_of_the_kind"):
        measured(DeploymentSpec(runtime="pytorch"), SMALL)
