"""What `plan` makes of a pace: arithmetic, held against a pace that is given; and that a pace can be measured."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

from search.study import plan
from search.study.inputs import Inputs, read_inputs
from search.study.pace import Pace, measure_pace
from search.study.plan import make_plan
from spaces.student import StudentShape

A_FLOP = 1e-9  # seconds


def given(inputs: Inputs, students: list[StudentShape], *more: Any) -> Pace:
    """A machine on which a student's FLOPs say all."""
    length = length_of(inputs)
    return Pace(A_FLOP * fmean(shape.flops(length) / length for shape in students), 1e-4, 1e-5)


EPOCHS = 2  # of `study_of`
WHOLE = {"family": "bert", "vocabulary": "full", "embedding_size": "full"}


@pytest.fixture
def given_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "measure_pace", given)
    monkeypatch.setattr(plan, "_nodes", lambda: [{"CPU": 4.0}])


@pytest.fixture
def inputs(study_of: Any) -> Inputs:
    return read_inputs(study_of(), lambda text: None)


def length_of(inputs: Inputs) -> int:
    train = inputs.transfer.splits["train"]
    return round(len(train.tokens["full"].ids) / len(train.labels))


def parts_of_a_trial(inputs: Inputs, depth: int) -> tuple[float, float]:
    """Seconds of training and of scoring a `WHOLE` student of this depth, by hand."""
    sizes = {name: len(split.tokens["full"].ids) for name, split in inputs.transfer.splits.items()}
    length = length_of(inputs)
    flops, teachers = (
        inputs.spec.space.shape(
            {**WHOLE, "depth": layers, "layers": "first"}, inputs.teacher, inputs.vocabularies
        ).flops(length)
        for layers in (depth, inputs.teacher.depth)
    )
    training = EPOCHS * sizes["train"] * A_FLOP * flops / length
    return training, sizes["validation"] * 1e-5 * flops / teachers


@pytest.mark.usefixtures("given_pace")
def test_trials_that_are_given_count_as_they_are(study_of: Any, inputs: Inputs) -> None:
    for depths in ((1,), (3,), (1, 3)):
        first = [{**WHOLE, "depth": depth} for depth in depths]
        made = make_plan(study_of(budget={"trials": len(depths)}, search={"first": first}))
        parts = [parts_of_a_trial(inputs, depth) for depth in depths]
        wanted = [plan.CROWDED * training + scoring for training, scoring in parts]
        assert made.seconds["one trial"] == pytest.approx(sum(wanted) / len(wanted))


@pytest.mark.usefixtures("given_pace")
def test_a_second_thread_gains_less_than_a_second_worker(study_of: Any, inputs: Inputs) -> None:
    training, scoring = parts_of_a_trial(inputs, 2)
    study = {"budget": {"trials": 1}, "search": {"first": [{**WHOLE, "depth": 2}]}}
    for resources, gain in (({}, 1), ({"workers_per_lane": 2}, 2), ({"cpus_per_worker": 2}, 2**0.4)):
        found = make_plan(study_of(**study, resources=resources)).seconds["one trial"]
        assert found == pytest.approx(plan.CROWDED * training / gain + scoring)
    alone = make_plan(study_of(**study, resources={"lanes": 3})).seconds["one trial"]  # of four CPUs
    assert alone == pytest.approx(training + scoring)


@pytest.mark.usefixtures("given_pace")
def test_tokens_and_gpu_hours_cut_the_search(study_of: Any, inputs: Inputs) -> None:
    budget = {"trials": 40}
    whole = make_plan(study_of(budget=budget))
    assert whole.tokens == EPOCHS * len(inputs.transfer.splits["train"].tokens["full"].ids)
    tokens = {"training_tokens": 10 * whole.tokens}
    cut = make_plan(study_of(budget={**budget, **tokens}))
    trial, name = whole.seconds["one trial"], "search of 40 trials"
    scored = whole.num_lanes * whole.seconds[name] - (40 + (whole.num_lanes - 1) / 2) * trial
    assert cut.seconds[name] == pytest.approx((10 * trial + scored) / whole.num_lanes)
    assert cut.seconds["in all"] < whole.seconds["in all"]
    assert "training tokens pays for about 10.0 whole trials of " in cut.as_text()
    generous = make_plan(study_of(budget={**budget, "training_tokens": 1e15}))
    assert generous.seconds[name] == whole.seconds[name]


def test_gpu_hours_are_minutes_of_so_many_gpus(study_of: Any, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "measure_pace", given)
    monkeypatch.setattr(plan, "_nodes", lambda: [{"CPU": 4.0, "GPU": 2.0}])
    resources = {"gpus_per_worker": 1}
    free = make_plan(study_of(budget={"trials": 10**6}, resources=resources))
    cut = make_plan(study_of(budget={"trials": 10**6, "gpu_hours": 3}, resources=resources))
    assert cut.num_lanes == 2
    assert cut.seconds["in all"] == pytest.approx(3 * 3600 / 2)
    assert free.seconds["in all"] > 3 * 3600 / 2
    assert "3 GPU hours are 90.0 minutes of 2 GPUs" in cut.as_text()
    assert "of the budget of 90 minutes, about" in cut.as_text()
    assert "money, about" not in cut.as_text()
    priced = {**resources, "price": {"per_lane_hour": 2}}
    paid = make_plan(study_of(budget={"trials": 10**6, "gpu_hours": 3}, resources=priced))
    assert "money, about: 6.00 USD" in paid.as_text()  # two lanes for one and a half hours


def test_a_pace_is_measured_and_leaves_no_trace(inputs: Inputs) -> None:
    threads = torch.get_num_threads()
    shapes: list[StudentShape] = [
        inputs.spec.space.shape({**WHOLE, "depth": depth, "layers": "first"}, inputs.teacher, inputs.vocabularies)
        for depth in (1, 3)
    ]
    pace = measure_pace(inputs, shapes, shapes[1], 16, 16)
    assert pace.training > 0
    assert pace.fine_tuning > 0
    assert measure_pace(inputs, shapes[:1], shapes[1], 16, None).fine_tuning == 0
    assert pace.reading > 0
    assert torch.get_num_threads() == threads
