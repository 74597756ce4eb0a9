"""The tasks: what their labels are, and the metrics they are judged by. The registry is a dict to read."""

from __future__ import annotations

from typing import Literal

from spaces.student import Frozen

METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}  # every metric is maximised and at most 1


class Task(Frozen):
    """`target`: a row's label is one class, any number of classes, or a number. `metrics` are measured on every split, the
    first of them is the objective where the study names none; `f1` is of the second class and exists for two classes only.
    `problem_type` is Hugging Face's word."""

    target: Literal["class", "classes", "number"]
    metrics: tuple[str, ...]
    problem_type: str
    constant: str  # what the simplest model says, in words


TASKS = {
    "text-classification": Task(
        target="class",
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        problem_type="single_label_classification",
        constant="always the most frequent class",
    ),
    "multi-label-classification": Task(
        target="classes",
        metrics=("micro_f1", "macro_f1", "accuracy"),  # accuracy: of whole sets of labels
        problem_type="multi_label_classification",
        constant="always the labels that most texts have",
    ),
    "text-regression": Task(
        target="number",
        metrics=("spearman", "pearson"),
        problem_type="regression",
        constant="always the mean",
    ),
}
