"""What a result has to be to count: numbers in their range, and a teacher that knows something."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import REFERENCES

from search.results.answers import weak_teacher
from search.results.front import Reference
from search.study.inputs import read_inputs
from search.study.prepare import prepare
from search.study.worth import SHOWN_FROM, agreement, refuse_chance
from search.trial.context import WorkerContext
from search.trial.metrics import measure
from search.trial.work import perform
from spaces.errors import InputError, TrialError
from spaces.study import FREE, StudySpec
from spaces.trial import WorkItem, WorkResult

# the teacher


def dealt_out(target: str, outputs: np.ndarray, labels: np.ndarray, times: int = 4000) -> float:
    """The same by trying: the sum of matching answers, against orders of the labels."""
    rng = np.random.default_rng(1)

    def matches(labels: np.ndarray) -> float:
        if target == "class":
            return float((outputs.argmax(-1) == labels).sum())
        if target == "classes":
            return float(((outputs > 0) * labels).sum())
        return float(np.argsort(np.argsort(outputs[:, 0])) @ np.argsort(np.argsort(labels)))

    tried = [matches(rng.permutation(labels)) for _ in range(times)]
    return (matches(labels) - float(np.mean(tried))) / float(np.std(tried))


@pytest.mark.parametrize("target", ["class", "classes", "number"])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_agreement_is_what_trying_orders_of_the_labels_gives(target: str, strength: float) -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(80, 3))
    if target == "class":
        labels = rng.choice(3, 80, p=[0.7, 0.2, 0.1])
        outputs = noise + strength * np.eye(3)[labels]
    elif target == "classes":
        labels = (rng.random((80, 3)) < [0.6, 0.3, 0.05]).astype(np.float32)
        outputs = noise + strength * labels
    else:
        labels = rng.normal(size=80).astype(np.float32)
        outputs = noise[:, :1] + strength * labels[:, None]
    assert agreement(target, outputs, labels) == pytest.approx(dealt_out(target, outputs, labels), abs=0.15)


@pytest.mark.parametrize("num_rows", [20, 100, 1000])
def test_one_in_twenty_teachers_that_know_nothing_pass_and_nearly_all_others(num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)

    def passes(right: float) -> float:
        """The share of teachers that are right so often (a half: chance) that count as better than chance."""
        found = 0
        for _ in range(1000):
            labels = rng.integers(0, 2, num_rows)
            answers = np.where(rng.random(num_rows) < right, labels, 1 - labels)
            found += agreement("class", np.eye(2)[answers], labels) >= SHOWN_FROM
        return found / 1000

    assert passes(0.5) < 0.09
    assert passes(0.85) > 0.95


def test_a_rare_class_is_not_held_against_a_teacher_that_finds_it() -> None:
    labels = np.array([0] * 95 + [1] * 5)
    answers = np.array([0] * 90 + [1] * 5 + [1] * 5)  # as often right as always saying 0
    assert (answers == labels).mean() == (labels == 0).mean()
    assert agreement("class", np.eye(2)[answers], labels) > 5
    assert agreement("class", np.eye(2)[np.zeros(100, int)], labels) == 0
    assert agreement("class", np.eye(2)[1 - labels], labels) < -5  # its classes under the wrong names
    assert math.isnan(agreement("class", np.eye(2)[answers], np.zeros(100, int)))  # which shows nothing


def test_many_classes_and_rows_take_no_table() -> None:
    labels = np.random.default_rng(0).integers(0, 5000, 3000)
    outputs = np.zeros((3000, 6000), np.float32)
    outputs[np.arange(3000), labels] = 1
    assert agreement("class", outputs, labels) > 50


class Here:
    """A pool whose one lane is this process."""

    num_lanes = 1

    def __init__(self, transfer: Any) -> None:
        self._transfer, self._items = transfer, dict[str, WorkItem]()

    def submit(self, item: WorkItem) -> None:
        self._items[item.key] = item

    def wait(self, key: str) -> WorkResult:
        item = self._items[key]
        _, output = perform(item, WorkerContext(data={"transfer": self._transfer}))
        return WorkResult(key=key, kind=item.kind, trial=None, attempt=1, lane=0, output=output)

    def acknowledge(self, key: str) -> None:
        del self._items[key]


def test_a_teacher_that_knows_nothing_stops_the_study_before_it_searches(study_of: Callable[..., StudySpec]) -> None:
    spec = study_of(accept=[], space={"depth": [1, 2]})
    inputs = read_inputs(spec, lambda text: None)
    with pytest.raises(InputError) as refused:
        prepare(inputs, None, Here(inputs.transfer), 1, lambda text: None)  # type: ignore[arg-type]
    assert "teacher: on 30 validation texts its answers agree with the labels no better than chance" in str(
        refused.value
    )
    assert "accept: [chance]" in str(refused.value)
    split = inputs.transfer.splits["validation"]
    refuse_chance(spec, np.eye(3)[split.labels], split.labels)
    refuse_chance(study_of(), np.zeros((30, 3)), split.labels)  # which says that it is meant
    assert "accept" in FREE  # so that saying so afterwards does not make it another study


def test_a_teacher_no_better_than_a_bag_of_words_is_a_warning(study_of: Callable[..., StudySpec]) -> None:
    spec = study_of()

    def references(teacher: float, floor: float) -> list[Reference]:
        named = (("teacher", "teacher", teacher), ("ngrams", "bag of n-grams", floor))
        return [Reference(name=n, label=label, metrics={"validation/accuracy": value}) for n, label, value in named]

    assert "accuracy on validation, 80.0 %, is no better than that of a bag of n-grams (80.0 %)" in weak_teacher(
        spec, references(0.8, 0.8)
    )
    assert weak_teacher(spec, references(0.81, 0.8)) == ""
    assert weak_teacher(spec, references(math.nan, 0.8)) == ""
    assert weak_teacher(spec, references(0.1, 0.8)[:1]) == ""
    assert weak_teacher(spec, REFERENCES) == ""


# the students


@pytest.mark.parametrize(("target", "shape"), [("class", (4, 3)), ("classes", (4, 3)), ("number", (4, 1))])
def test_outputs_that_are_no_numbers_are_no_answer(target: str, shape: tuple[int, int]) -> None:
    labels = {"class": np.array([0, 1, 2, 0]), "classes": np.eye(4, 3), "number": np.arange(4.0)}[target]
    outputs = np.random.default_rng(0).normal(size=shape)
    assert all(math.isfinite(value) for value in measure(target, {}, outputs, labels).values())
    outputs[2, 0] = math.nan
    with pytest.raises(TrialError, match="outputs for 1 of 4 texts are no numbers"):
        measure(target, {}, outputs, labels)


def test_a_correlation_that_is_none_is_refused() -> None:
    outputs = np.array([[1.0], [math.inf], [2.0]])  # which a ranking takes, and a sum does not
    with pytest.raises(TrialError, match="metric pearson is nan, which is not between -1 and 1"):
        measure("number", {}, outputs, np.arange(3.0))


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-1e999", "10**400", "None", "[1.0, 2.0]"])
def test_a_metric_of_ones_own_that_is_no_number_fails_the_trial(value: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def mine(outputs, labels):\n    return {value}\n")
    with pytest.raises(TrialError, match="which is no finite number"):
        measure("class", {"mine": f"{tmp_path}/own.py:mine"}, np.eye(3), np.arange(3))


def test_a_student_whose_weights_are_no_numbers_fails(
    study_of: Callable[..., StudySpec], run_item: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever made them so after the last look at the loss: its highest class would be the first, and score as that."""
    import torch

    from search.trial import work

    def spoilt(student: Any, *arguments: Any, **named: Any) -> Any:
        fitted = fit(student, *arguments, **named)
        with torch.no_grad():
            student.classifier.bias.fill_(math.nan)
        return fitted

    fit = work.fit
    config = trained(study_of)
    measurement, _ = run_item(config, "well")
    assert 0 <= measurement.metrics["validation/accuracy"] <= 1
    monkeypatch.setattr(work, "fit", spoilt)
    with pytest.raises(TrialError, match="outputs for 30 of 30 texts are no numbers"):
        run_item(config, "spoilt")


def trained(study_of: Callable[..., StudySpec]) -> Any:
    from search.study.searcher import trial_config
    from search.suggest.sampling import Sampling

    spec = study_of(space={"depth": [1], "vocabulary": ["used"], "batch_size": [32]}, training={"epochs": 1})
    inputs = read_inputs(spec, lambda text: None)
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    return trial_config(spec, parameters, shape, inputs.teacher.depth, 0)
