"""Answers that are spans of a context: which one a model says, over all windows of a question; how right it is by SQuAD's rules.

Legend: Q questions, N rows (windows of a question's context), W places of all rows.
"""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from dataclasses import dataclass

import numpy as np

MOST_WORDS = 30  # of an answer
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Questions:
    """The questions of a split. Question q's windows are the rows rows[q]:rows[q + 1]; row i's places are
    offsets[i]:offsets[i + 1]: the first says that the answer is not in this window, each other is a word of it, which lies at
    `spans` in the question's context."""

    contexts: list[str]  # Q
    answers: list[tuple[str, ...]]  # Q, the right ones of each
    rows: np.ndarray  # int64, Q + 1
    offsets: np.ndarray  # int64, N + 1
    spans: np.ndarray  # int32, (W, 2), characters

    def __len__(self) -> int:
        return len(self.contexts)

    def chosen(self, outputs_W2: np.ndarray) -> np.ndarray:
        """(Q, 2) the places of the first and last word of each answer; -1 where no word of a context was read. Of all windows the
        span whose start and end have the highest outputs together, at most MOST_WORDS long: within a window, never before its
        start, and never the place that is no word."""
        is_word_W = (outputs_W2 != 0).any(axis=1)  # a word without a place has outputs of 0
        is_word_W[self.offsets[:-1]] = False
        start_W, end_W = (np.where(is_word_W, side, -np.inf) for side in outputs_W2.astype(np.float64).T)
        row_W = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        best_W, last_W = start_W + end_W, np.arange(len(row_W))
        for more in range(1, min(MOST_WORDS, len(row_W))):
            score = np.where(row_W[:-more] == row_W[more:], start_W[:-more] + end_W[more:], -np.inf)
            better = np.flatnonzero(score > best_W[:-more])
            best_W[better], last_W[better] = score[better], better + more
        out = np.full((len(self), 2), -1, np.int64)
        of_question = self.offsets[self.rows]
        for number, (begin, end) in enumerate(itertools.pairwise(of_question.tolist())):
            first = begin + int(best_W[begin:end].argmax())
            if np.isfinite(best_W[first]):
                out[number] = first, last_W[first]
        return out

    def texts(self, outputs_W2: np.ndarray) -> list[str]:
        """What a model answers: cut from the context as it stands there."""
        ends = (
            (self.spans[first, 0], self.spans[last, 1]) if first >= 0 else (0, 0)
            for first, last in self.chosen(outputs_W2)
        )
        return [context[begin:end] for context, (begin, end) in zip(self.contexts, ends, strict=True)]


def of_answers(outputs_W2: np.ndarray, labels_W2: np.ndarray, names: object, questions: Questions) -> dict[str, float]:
    """Exact match and F1 as SQuAD's own script counts them: the best over a question's right answers, the mean over questions."""
    said = questions.texts(outputs_W2)
    pairs = list(zip(said, questions.answers, strict=True))
    return {
        "answer_f1": float(np.mean([max(word_f1(text, each) for each in right) for text, right in pairs])),
        "exact_match": float(np.mean([max(is_same(text, each) for each in right) for text, right in pairs])),
    }


def normalised(text: str) -> list[str]:
    """The words in lower case, without ASCII punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def is_same(said: str, right: str) -> bool:
    return normalised(said) == normalised(right)


def word_f1(said: str, right: str) -> float:
    """Of the words that both have, each as often as both have it; 0 where there are none."""
    one, other = normalised(said), normalised(right)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other)) if shared else 0.0
