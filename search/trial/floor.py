"""The floors: what a student has to beat to be worth having."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.evaluate import classification_metrics, score
from search.trial.initialise import can_copy, initialise
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.student import StudentShape


def majority(transfer: TransferSet) -> dict[str, float]:
    """Always the training split's most frequent class."""
    counts = np.bincount(transfer.splits["train"].labels, minlength=len(transfer.label_names))
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        labels = transfer.splits[name].labels
        logits = np.tile(counts.astype(np.float32), (len(labels), 1))
        metrics |= {f"{name}/{metric}": value for metric, value in classification_metrics(logits, labels).items()}
    return metrics


def n_grams(transfer: TransferSet, context: WorkerContext) -> tuple[dict[str, float], int]:
    """Logistic regression over the pieces and pairs of pieces that stand in two texts or more, tf-idf weighted, with
    the regularisation chosen on validation; and its number of weights. A pair's two sides count apart, and so do the
    pieces that both share: without them matching pairs would look harder for a bag of words than they are."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(analyzer=lambda grams: grams, min_df=2, sublinear_tf=True)
    train = transfer.splits["train"]
    features = vectorizer.fit_transform(_grams(train.tokens["full"]))
    if len(set(train.labels.tolist())) < 2:
        return majority(transfer), 0
    others = {
        name: vectorizer.transform(_grams(transfer.splits[name].tokens["full"])) for name in ("validation", "test")
    }
    best: tuple[float, Any] | None = None
    for strength in (1.0, 4.0, 16.0):
        context.heartbeat(0, 0)  # a minute each on large data
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(features, train.labels)
        reached = float(model.score(others["validation"], transfer.splits["validation"].labels))
        if best is None or reached > best[0]:
            best = (reached, model)
    assert best is not None
    metrics: dict[str, float] = {}
    for name, matrix in others.items():
        logits = np.full((matrix.shape[0], len(transfer.label_names)), -np.inf, np.float32)
        logits[:, best[1].classes_] = best[1].predict_log_proba(matrix)
        scored = classification_metrics(logits, transfer.splits[name].labels)
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics, int(best[1].coef_.size + best[1].intercept_.size)


def _grams(tokens: Tokens) -> list[list[str]]:
    rows = []
    for index in range(len(tokens)):
        row = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
        second = int(tokens.second[index])
        left, right = [f"a{piece}" for piece in row[:second]], [f"b{piece}" for piece in row[second:]]
        pairs = [f"{x} {y}" for side in (left, right) for x, y in itertools.pairwise(side)]
        shared = set(row[1 : second - 1]) & set(row[second:-1])  # without the special tokens
        both = [f"both {piece}" for piece in shared] + ["shared"] * len(shared)
        rows.append(left + right + pairs + both)
    return rows


def cut_teacher(
    folder: str, shape: StudentShape, transfer: TransferSet, vocabulary: str, context: WorkerContext
) -> dict[str, float] | None:
    """The teacher itself with only its vocabulary cut: no training. None where its layers cannot be copied."""
    teacher = load_teacher(folder)
    if not can_copy(teacher.config.model_type, teacher.state_dict()):
        return None
    entry = transfer.vocabularies[vocabulary]
    student = build_student(
        shape,
        label_names=transfer.label_names,
        pad_id=entry.pad_id,
        teacher_config=teacher.config,
        dropout=0.0,
        empty=True,
    )
    initialise(student, shape, teacher.state_dict(), teacher.config.model_type, tuple(range(shape.depth)), entry)
    return score(student, transfer, vocabulary, ("validation", "test"), context, exact=True)
