"""Whether a teacher is worth distilling from: better than chance, which its answers on validation have to show."""

from __future__ import annotations

import math

import numpy as np

from search.trial.metrics import NO_TAG, cosines
from spaces.errors import InputError
from spaces.study import StudySpec

SHOWN_FROM = 1.645  # standard deviations: one in twenty teachers that know nothing reach it by chance
MOST_ROWS = 20_000


def refuse_chance(spec: StudySpec, outputs: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError where the teacher's answers agree with the labels no better than they would in any other order."""
    if "chance" in spec.accept:
        return
    if spec.about.target == "tags":
        outputs, labels = outputs[labels != NO_TAG], labels[labels != NO_TAG]
    what = {"tags": "words", "span": "words", "vector": "pairs", "piece": "masked pieces"}.get(
        spec.about.target, "texts"
    )
    found = agreement(spec.about.target, outputs, labels)
    if not found < SHOWN_FROM:
        return
    raise InputError.of(
        "",
        f"on {len(labels):,} validation {what} its answers agree with the labels no better than chance ({found:+.1f} standard "
        f"deviations from answers in any order; {SHOWN_FROM:+.1f} would show that it knows something), so students would learn "
        "nothing from it. Is it made for this task, and do data.labels name its classes as it does? One without a head would be "
        "fine-tuned here, by teacher.fine_tune. To go on all the same, write accept: [chance]",
        "teacher",
    )


def agreement(target: str, outputs_NC: np.ndarray, labels: np.ndarray) -> float:
    """How far answers and labels agree beyond what they would were the labels dealt out anew: in standard deviations of that.
    NaN where the labels of all rows are the same, which shows nothing; 0 where the answers are.

    The sum over rows of the centred answers times the centred labels has, over all orders of the labels, mean 0 and variance
    trace(A'A B'B) / (N - 1), whatever the answers are: classes, sets of them, or numbers. Unlike accuracy against the most frequent
    class it does not hold a rare class against a teacher that finds it.
    """
    if target == "vector":  # a number of each pair
        outputs_NC, target = cosines(outputs_NC)[:, None], "number"
    if len(labels) > MOST_ROWS:
        rows = np.random.default_rng(0).choice(len(labels), MOST_ROWS, replace=False)
        outputs_NC, labels = outputs_NC[rows], labels[rows]
    if target in ("class", "tags", "piece"):
        known, labels_N = np.unique(labels, return_inverse=True)  # classes that no label has, no answer can hit
        answers = outputs_NC[:, 0] if target == "piece" else outputs_NC.argmax(-1)
        order = np.searchsorted(known, answers).clip(max=len(known) - 1)
        answers_N = np.where(known[order] == answers, order, len(known))
        return _of_classes(answers_N, labels_N, len(known) + 1)
    if target == "span":
        return _of_columns(outputs_NC, labels.astype(np.float64))
    if target == "classes":
        return _of_columns((outputs_NC > 0).astype(np.float64), labels.astype(np.float64))
    return _of_columns(_ranks(outputs_NC[:, 0])[:, None], _ranks(labels)[:, None])


def _of_classes(answers_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> float:
    """The same in closed form, so that thousands of classes need no table."""
    num_rows = len(labels_N)
    p, q = (np.bincount(each, minlength=num_classes) / num_rows for each in (answers_N, labels_N))
    product = float(p @ q)
    variance = num_rows**2 * float(product - p @ q**2 - p**2 @ q + product**2) / max(1, num_rows - 1)
    return _standardised(float((answers_N == labels_N).sum()) - num_rows * product, variance, bool(q.max() == 1))


def _of_columns(answers_NC: np.ndarray, labels_NC: np.ndarray) -> float:
    a, b = (each - each.mean(0) for each in (answers_NC, labels_NC))
    variance = float(((a.T @ a) * (b.T @ b)).sum()) / max(1, len(a) - 1)
    return _standardised(float((a * b).sum()), variance, not b.any())


def _standardised(excess: float, variance: float, no_labels: bool) -> float:
    if no_labels:
        return math.nan
    return excess / math.sqrt(variance) if variance > 1e-12 else 0.0


def _ranks(values_N: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values_N) / len(values_N)
