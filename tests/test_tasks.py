"""The tasks beside single classes: losses and metrics by hand, labels as files hold them, and a whole trial of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from search.results.asked import TASK_WORDS
from search.study.inputs import class_weights, label_array, read_inputs
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import floor, losses, work
from search.trial.answers import Questions
from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.metrics import METRICS, measure
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.task import METRIC_WORDS, TASK_HEADS, TASKS
from spaces.trial import WorkItem, WorkKind


def test_the_registries_agree() -> None:
    assert {task.target for task in TASKS.values()} == set(METRICS) == set(losses.TARGET_LOSSES)
    for task in TASKS.values():
        assert set(task.metrics) <= set(METRIC_WORDS)
    assert set(TASK_WORDS) == set(TASKS)
    assert {task.task_head for task in TASKS.values()} == set(TASK_HEADS)
    outputs = {
        "class": np.eye(2), "classes": np.eye(2), "number": np.array([[0.0], [1.0]]), "tags": np.eye(2), "span": np.eye(2),
        "vector": np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), "piece": np.array([[7.0], [8.0]]),
    }  # fmt: skip
    labels = {
        "class": np.array([0, 1]),
        "classes": np.eye(2),
        "number": np.array([0.0, 1.0]),
        "tags": np.array([0, 1]),
        "vector": np.array([5.0, 1.0]),
        "span": np.array([[0, 0], [1, 1]]),
        "piece": np.array([7, 8]),
    }
    asked = Questions(["yes"], [("Yes.",)], np.array([0, 1]), np.array([0, 2]), np.array([[0, 0], [0, 3]]))
    more: dict[str, tuple[Any, ...]] = {"tags": (["O", "B-x"], np.array([0, 2])), "span": ((), asked)}
    for task in TASKS.values():
        scored = METRICS[task.target](outputs[task.target], labels[task.target], *more.get(task.target, ()))
        assert set(scored) == set(task.metrics)
        assert scored[task.metrics[0]] == pytest.approx(1)


# losses


def test_the_loss_of_several_labels_by_hand() -> None:
    # teacher log-odds 2 ln 3 and 0, at T=2 probabilities 3/4 and 1/2; the student says 1/2 to both: KL 0.130812 and 0
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    assert losses.soft_labels_loss(student, teacher, 2.0).item() == pytest.approx(4 * 0.130812, abs=1e-5)
    assert losses.soft_labels_loss(teacher, teacher, 2.0).item() == pytest.approx(0.0, abs=1e-6)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert losses.hard_labels_loss(torch.zeros(2, 2), labels).item() == pytest.approx(2 * math.log(2))
    assert losses.hard_labels_loss(torch.zeros(0, 2), torch.zeros(0, 2)).item() == 0


def test_two_exclusive_labels_are_a_class_of_two() -> None:
    """KL of one choice of two is the same number whether it is written as a softmax of (x, 0) or a sigmoid of x."""
    student, teacher = torch.randn(5, 1), torch.randn(5, 1)
    pairs = [torch.cat([x, torch.zeros(5, 1)], 1) for x in (student, teacher)]
    expected = losses.soft_loss(*pairs, 3.0).item()
    assert losses.soft_labels_loss(student, teacher, 3.0).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_a_number_by_hand() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [4.0]])
    assert losses.soft_number_loss(student, teacher, 1.0).item() == pytest.approx((0.25 + 4) / 2)
    assert losses.soft_number_loss(student, teacher, 7.0).item() == pytest.approx((0.25 + 4) / 2)  # no temperature
    assert losses.hard_number_loss(student, torch.tensor([0.0, 2.0])).item() == pytest.approx(0.5)


def test_class_weights_scale_the_loss_to_the_labels() -> None:
    outputs, labels = torch.zeros(3, 2), torch.tensor([0, 0, 1])
    weighted = losses.hard_loss(outputs, labels, weights_C=torch.tensor([0.5, 3.0]))
    assert weighted.item() == pytest.approx(math.log(2) * (0.5 + 0.5 + 3) / 3)
    both = losses.distillation_loss(
        outputs, outputs, labels, temperature=1.0, soft_share=0.5, weights_C=torch.tensor([0.5, 3.0])
    )
    assert both.item() == pytest.approx(weighted.item() / 2)


# metrics


def test_metrics_of_classes_by_hand() -> None:
    outputs = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # says 0 0 1 1
    scored = METRICS["class"](outputs, np.array([0, 1, 1, 1]))  # tp 2, fp 0, fn 1, tn 1
    assert scored["accuracy"] == 0.75
    assert scored["f1"] == pytest.approx(0.8)
    assert scored["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scored["matthews"] == pytest.approx((2 * 1 - 0 * 1) / math.sqrt(2 * 3 * 1 * 2))
    assert "f1" not in METRICS["class"](np.eye(3), np.arange(3))


def test_metrics_of_several_labels_by_hand() -> None:
    outputs, labels = np.array([[1.0, 1.0], [-1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])  # tp 2, fp 1, fn 0
    scored = METRICS["classes"](outputs, labels)
    assert scored["micro_f1"] == pytest.approx(0.8)
    assert scored["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert scored["accuracy"] == 0.5


def test_metrics_of_numbers_by_hand() -> None:
    scored = METRICS["number"](np.array([[0.0], [1.0], [10.0]]), np.array([1.0, 2.0, 3.0]))
    assert scored["spearman"] == pytest.approx(1.0)
    assert scored["pearson"] == pytest.approx(10 / math.sqrt(2 * 546 / 9))
    assert METRICS["number"](np.ones((3, 1)), np.array([1.0, 2.0, 3.0])) == {"spearman": 0.0, "pearson": 0.0}


# labels as files hold them


@pytest.fixture
def made(tmp_path: Path, study_of: Callable[..., StudySpec], base_teacher: Path) -> Callable[..., StudySpec]:
    """A study on three splits of the tiny task whose labels `relabel` has changed, in JSON lines."""

    def make(task: str, relabel: Callable[[dict[str, str], int], Any], **changes: Any) -> StudySpec:
        data = {"max_length": 32, **changes.pop("data", {})}
        for seed, (name, size) in enumerate((("train", 160), ("validation", 40), ("test", 40))):
            rows = [{**row, "label": relabel(row, i)} for i, row in enumerate(tiny.texts(size, seed))]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            data[name] = str(tmp_path / f"{name}.jsonl")
        return study_of(task=task, data=data, teacher=str(base_teacher), **changes)

    return make


def topics(row: dict[str, str], index: int) -> list[str]:
    """Every topic of which two words stand in the text; a text in seven has no label."""
    words = row["text"].split()
    return [] if index % 7 == 0 else [name for name, known in tiny.TOPICS.items() if sum(w in known for w in words) > 1]


def amount(row: dict[str, str], index: int) -> float:
    """How many words of food stand in the text."""
    return float(sum(word in tiny.TOPICS["food"] for word in row["text"].split()))


@pytest.mark.parametrize(("task", "relabel"), [("multi-label-classification", topics), ("text-regression", amount)])
def test_a_whole_trial(task: str, relabel: Any, made: Callable[..., StudySpec], tmp_path: Path) -> None:
    spec = made(task, relabel)
    assert spec.objectives == {TASKS[task].metrics[0]: "maximize", "parameters": "minimize"}
    inputs = read_inputs(spec, lambda text: None)
    alone, folder = WorkerContext(data={"transfer": inputs.transfer}), tmp_path / "fine_tuned"
    settings = {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16}
    payload: dict[str, Any] = {"base": str(inputs.source.folder), "settings": settings, "seed": 0}
    _, told = work.perform(WorkItem(key="f", kind=WorkKind.FINE_TUNE, folder=str(folder), payload=payload), alone)
    aim = f"validation/{TASKS[task].metrics[0]}"
    constant = floor.majority(inputs.transfer)[aim]
    assert told["metrics"][aim] > constant + 0.2

    splits = inputs.transfer.splits
    logits = {}
    for name, split in splits.items():
        rows = np.arange(len(split.labels))
        item = WorkItem(
            key="t", kind=WorkKind.TEACH, payload={"teacher": str(folder), "split": name, "rows": rows}
        )  # fmt: skip
        logits[name] = work.perform(item, alone)[1]["logits"]
        assert logits[name].shape == (len(rows), len(inputs.transfer.label_names))
    students = WorkerContext(data={"transfer": inputs.transfer.with_teacher_logits(logits)})
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, {})
    parameters, shape = sampling.suggest([], 0)
    whole = {"soft_share": 0.5, "epochs": 8, "learning_rate": 3e-3, "batch_size": 16}
    config = trial_config(spec, parameters, shape, inputs.teacher.depth, 0).model_copy(update=whole)
    item = WorkItem(
        key="s", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path / "kept"),
        payload={"teacher": str(folder), "exact": True}, evaluate=("validation", "test"),
    )  # fmt: skip
    measurement, _ = work.perform(item, students)
    assert measurement is not None
    assert measurement.metrics[aim] > constant + 0.1

    payload = {"teacher": str(folder), "weights": str(tmp_path / "kept" / "attempt-1")}
    item = WorkItem(
        key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(tmp_path / "out"), payload=payload
    )  # fmt: skip
    _, delivered = work.perform(item, students)
    assert delivered["metrics"][aim] == pytest.approx(measurement.metrics[aim])
    config_json = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config_json["problem_type"] == TASKS[task].problem_type
    metrics, size = floor.n_grams(inputs.transfer, alone)
    assert metrics[aim] > constant
    assert size > 0


def test_several_labels_of_a_text_file(study_of: Callable[..., StudySpec], base_teacher: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{row['text']}", "label": "a;b" if i % 2 else ""} for i, row in enumerate(tiny.texts(40, 0))]
    tiny.write_tsv(tmp_path / "train.tsv", rows)
    data = {"train": str(tmp_path / "train.tsv"), "label_separator": ";", "labels": {"b": "c"}}
    spec = study_of(task="multi-label-classification", data=data, teacher=str(base_teacher))
    transfer = read_inputs(spec, lambda text: None).transfer
    assert transfer.label_names == ["a", "c"]
    assert set(map(tuple, transfer.splits["train"].labels.tolist())) == {(0.0, 0.0), (1.0, 1.0)}


def test_named_classes_keep_their_order(study_of: Callable[..., StudySpec], base_teacher: Path, tmp_path: Path) -> None:
    """As data sets of the hub hold them: numbers, with names beside; F1 is of the second."""
    import datasets

    names = datasets.ClassLabel(names=["not the same", "equal"])
    rows = tiny.texts(60, 0)
    table = {"text": [row["text"] for row in rows], "label": [int(row["label"] == "food") for row in rows]}
    lists = [[0, 1][: 2 * label] for label in table["label"]]
    for column, feature, task in (
        (table["label"], names, "text-classification"),
        (lists, datasets.List(names), "multi-label-classification"),
    ):
        features = datasets.Features({"text": datasets.Value("string"), "label": feature})
        data = datasets.Dataset.from_dict({**table, "label": column}, features=features)
        data.to_parquet(str(tmp_path / f"{task}.parquet"))
        spec = study_of(task=task, data={"train": str(tmp_path / f"{task}.parquet")}, teacher=str(base_teacher))
        transfer = read_inputs(spec, lambda text: None).transfer
        assert transfer.label_names == ["not the same", "equal"]
        labels = np.concatenate([split.labels for split in transfer.splits.values()])
        assert len(labels) == 60
        assert (labels if labels.ndim == 1 else labels[:, 1]).sum() == sum(table["label"])


def test_label_arrays() -> None:
    assert label_array(["b", "a"], ["a", "b"], "class").tolist() == [1, 0]
    assert label_array([(), ("b", "a")], ["a", "b"], "classes").tolist() == [[0, 0], [1, 1]]
    assert label_array([2.5], ["score"], "number").dtype == np.float32


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("text-regression", {}, "label 'food', which is no number"),
        ("text-classification", {"objectives": {"f1": "maximize", "parameters": "minimize"}}, "f1 is for two classes"),
        ("text-classification", {"data": {"class_weights": {"fod": 2}}}, "'fod' is no class; did you mean \"food\""),
    ],
)
def test_bad_input(task: str, changes: dict[str, Any], words: str, made: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs(made(task, lambda row, index: row["label"], **changes), lambda text: None)
    assert words in str(caught.value)


def test_a_head_that_does_not_fit(made: Callable[..., StudySpec], teacher: Path) -> None:
    spec = made("text-regression", amount)
    spec = spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"model": str(teacher)})})
    with pytest.raises(InputError, match="its head has 3 outputs, a regression has one"):
        read_inputs(spec, lambda text: None)


def test_class_weights_are_one_on_average(made: Callable[..., StudySpec]) -> None:
    def rare(row: dict[str, str], index: int) -> str:
        return "rare" if index % 8 == 0 else "usual"

    def weights_of(wish: Any, transfer: TransferSet | None = None) -> np.ndarray | None:
        spec = made("text-classification", rare, data={"class_weights": wish})
        return read_inputs(spec, lambda text: None).transfer.class_weights

    assert weights_of("none") is None
    balanced = weights_of("balanced")
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([4.0, 4 / 7])  # N / (C x count)
    own = weights_of({"rare": 3})
    assert own is not None
    assert own[0] == pytest.approx(3 * own[1])
    assert own[0] / 8 + own[1] * 7 / 8 == pytest.approx(1)
    with pytest.raises(InputError, match="a number has none"):
        class_weights(made("text-regression", amount, data={"class_weights": "balanced"}), np.zeros(3), ["score"])


# a metric of one's own

OWN = """
def cautious(outputs, labels):
    sure = abs(outputs).max(-1) > 0
    return (outputs.argmax(-1) == labels)[sure].mean()

def word(outputs, labels):
    return "high"

def broken(outputs, labels):
    return outputs.no_such_thing
"""


def test_a_metric_of_ones_own(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    spec = study_of(metrics={"cautious": "own.py:cautious"}, objectives={"cautious": "maximize", "bytes": "minimize"})
    assert spec.quality == "cautious"
    assert spec.metrics == {"cautious": f"{tmp_path}/own.py:cautious"}
    transfer = read_inputs(spec, lambda text: None).transfer
    outputs, labels = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([0, 2])
    assert measure("class", transfer.own_metrics, outputs, labels) == {
        **METRICS["class"](outputs, labels),
        "cautious": 0.5,
    }


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("own.py:word", "returned 'high', which is no finite number"),
        ("own.py:broken", "raised AttributeError"),
        ("own.py:nothing", "raised AttributeError"),
        ("no_such_module:metric", "raised ModuleNotFoundError"),
    ],
)
def test_a_metric_that_will_not_do(path: str, words: str, study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(InputError) as caught:
        read_inputs(study_of(metrics={"mine": path}), lambda text: None)
    assert words in str(caught.value)
    assert "metric mine" in str(caught.value)
