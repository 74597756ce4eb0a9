"""The metrics of each kind of target, from outputs and labels, as scikit-learn and SciPy compute them.

Legend: N rows (or pairs of R rows), C classes (1 for numbers), W words of all rows, D numbers of a vector.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from search.trial.answers import of_answers
from spaces.errors import TrialError
from spaces.named import function_named
from spaces.task import OUTSIDE

NO_TAG = -100  # the label of a word that is ignored


def of_class(outputs_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Accuracy; macro F1 (over the classes that occur in labels or predictions); Matthews correlation; with two classes,
    F1 of the second."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted = outputs_NC.argmax(-1)
    metrics = {
        "accuracy": float(accuracy_score(labels_N, predicted)),
        "macro_f1": float(f1_score(labels_N, predicted, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels_N, predicted)),
    }
    if outputs_NC.shape[1] == 2:
        metrics["f1"] = float(f1_score(labels_N, predicted, pos_label=1, zero_division=0))
    return metrics


def of_classes(outputs_NC: np.ndarray, labels_NC: np.ndarray) -> dict[str, float]:
    """A class is predicted where its output is above 0 (probability above a half). Micro and macro F1 over the classes, and
    accuracy of the whole set."""
    from sklearn.metrics import f1_score

    predicted, labels = outputs_NC > 0, labels_NC > 0.5
    return {
        "micro_f1": float(f1_score(labels, predicted, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "accuracy": float((predicted == labels).all(-1).mean()),
    }


def of_number(outputs_N1: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Spearman and Pearson correlation; 0 where either side is constant."""
    from scipy.stats import pearsonr, spearmanr

    outputs = outputs_N1[:, 0].astype(np.float64)
    if len(outputs) < 2 or np.ptp(outputs) == 0 or np.ptp(labels_N) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "spearman": float(spearmanr(outputs, labels_N).statistic),
            "pearson": float(pearsonr(outputs, labels_N.astype(np.float64)).statistic),
        }


def of_vectors(outputs_RD: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Of the cosine of each pair's two vectors and the pair's score: rows 2i and 2i + 1 are pair i, R is 2 N."""
    return of_number(cosines(outputs_RD)[:, None], labels_N)


def cosines(outputs_RD: np.ndarray) -> np.ndarray:
    """(R / 2,) the cosine of each row and the next one, two a pair; 0 where one of them is 0."""
    one, other = outputs_RD[0::2].astype(np.float64), outputs_RD[1::2].astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.where(lengths == 0, 1.0, lengths)


def of_tags(
    outputs_WC: np.ndarray, labels_W: np.ndarray, names: Sequence[str], offsets: np.ndarray
) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, over all types, and accuracy of words. `offsets` (N + 1,) say where each row's
    words begin. Words whose label is -100 are as if they were not there; one that was not read (outputs of 0) counts as outside
    of every entity."""
    outside = list(names).index(OUTSIDE)
    predicted_W = np.where(outputs_WC.any(-1), outputs_WC.argmax(-1), outside)
    kept = labels_W != NO_TAG
    row_W = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[kept]
    predicted_W, labels_W = predicted_W[kept], labels_W[kept]
    found, wanted = (entities(tags, row_W, names) for tags in (predicted_W, labels_W))
    right = len(found & wanted)
    precision, recall = right / max(1, len(found)), right / max(1, len(wanted))
    return {
        "entity_f1": 2 * right / max(1, len(found) + len(wanted)),
        "entity_precision": precision,
        "entity_recall": recall,
        "accuracy": float((predicted_W == labels_W).mean()) if len(labels_W) else 0.0,
    }


def entities(tags_W: np.ndarray, row_W: np.ndarray, names: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, word after the last) of each entity, words numbered over all rows. As conlleval counts: B- begins one, and
    so does an I- that continues none of its type."""
    kinds = [name.partition("-")[2] if name != OUTSIDE else "" for name in names]
    begins = [name.startswith("B-") for name in names]
    out: set[tuple[str, int, int]] = set()
    kind, start, row = "", 0, -1
    for place, (tag, at) in enumerate(zip(tags_W.tolist(), row_W.tolist(), strict=True)):
        if kind and (kinds[tag] != kind or begins[tag] or at != row):
            out.add((kind, start, place))
            kind = ""
        if kinds[tag] and not kind:
            kind, start = kinds[tag], place
        row = at
    return out | ({(kind, start, len(tags_W))} if kind else set())


def of_pieces(outputs_W1: np.ndarray, labels_W: np.ndarray, *layout: Any) -> dict[str, float]:
    """How many masked pieces are told right; an output is a piece's id."""
    return {"masked_accuracy": float((outputs_W1[:, 0] == labels_W).mean()) if len(labels_W) else 0.0}


CORRELATIONS = ("matthews", "pearson", "spearman")  # from -1; the other metrics from 0; all to 1
ROUNDING = 1e-6
METRICS: dict[str, Callable[..., dict[str, float]]] = {
    "class": of_class,
    "classes": of_classes,
    "number": of_number,
    "tags": of_tags,
    "span": of_answers,
    "vector": of_vectors,
    "piece": of_pieces,
}


def measure(
    target: str,
    own: Mapping[str, str],
    outputs_NC: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] = (),
    layout: Any = None,
) -> dict[str, float]:
    """The task's metrics, and the study's own: name -> "module:function", a function of (outputs, labels) that returns a
    number to maximise. Raises TrialError where one does not, where one of the task's is no number or out of its range, and where
    the outputs hold a NaN: its highest class would be one that the model never chose. `names` of the classes are
    for tags, and so is the `layout` of the outputs: where each row's words begin. Of answers it is the Questions."""
    if np.isnan(outputs_NC).any():
        rows = int(np.isnan(outputs_NC).any(-1).sum())
        raise TrialError(f"the model's outputs for {rows:,} of {len(outputs_NC):,} texts are no numbers")
    metrics = METRICS[target](outputs_NC, labels, *(() if layout is None else (names, layout)))
    for name, value in metrics.items():
        lowest = -1.0 if name in CORRELATIONS else 0.0
        if not lowest - ROUNDING <= value <= 1 + ROUNDING:
            raise TrialError(f"metric {name} is {value}, which is not between {lowest:g} and 1")
    return metrics | {name: _own_metric(name, path, outputs_NC, labels) for name, path in own.items()}


def _own_metric(name: str, path: str, outputs_NC: np.ndarray, labels: np.ndarray) -> float:
    try:
        found = function_named(path)(outputs_NC.copy(), labels.copy())
    except Exception as error:
        raise TrialError(f"metric {name} ({path}) raised {type(error).__name__}: {error}") from None
    try:
        number = float(found)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TrialError(f"metric {name} ({path}) returned {found!r}, which is no finite number")
    return number
