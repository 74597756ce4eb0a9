"""Answers: which span is chosen over all windows of a question, and exact match and F1 by SQuAD's rules, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from search.trial.answers import MOST_WORDS, Questions, is_same, of_answers, word_f1

CONTEXT = "one two three four five"
SPANS = [(0, 3), (4, 7), (8, 13), (14, 18), (19, 23)]


def two_windows() -> Questions:
    """Of one question: one two three | three four five, each behind the place that is no word."""
    spans = [(0, 0), *SPANS[:3], (0, 0), *SPANS[2:]]
    return Questions([CONTEXT], [("four",)], np.array([0, 2]), np.array([0, 4, 8]), np.array(spans, np.int32))


def outputs(starts: list[float], ends: list[float]) -> np.ndarray:
    return np.array([starts, ends], np.float32).T


@pytest.mark.parametrize(
    ("starts", "ends", "said"),
    [
        ([9, 1, 5, 1, 9, 1, 1, 1], [9, 1, 1, 4, 9, 1, 1, 1], "two three"),  # what says "not here" is never an answer
        ([0, 1, 5, 1, 0, 1, 6, 1], [0, 1, 1, 4, 0, 1, 1, 4], "four five"),  # of two windows the higher sum
        ([0, 1, 1, 5, 0, 1, 1, 1], [0, 7, 1, 1, 0, 1, 1, 1], "one"),  # 5 + 7 would end before its start: 1 + 7 is next
        ([0, 1, 9, 1, 0, 1, 1, 1], [0, 1, 1, 1, 0, 1, 1, 9], "two"),  # no span goes from one window into another
        ([0, 0, 9, 1, 0, 1, 1, 1], [0, 0, 0, 2, 0, 1, 1, 1], "two three"),  # "one" was not read
        ([3, 0, 0, 0, 3, 0, 0, 0], [3, 0, 0, 0, 3, 0, 0, 0], ""),  # no word was
    ],
)
def test_the_best_span(starts: list[float], ends: list[float], said: str) -> None:
    assert two_windows().texts(outputs(starts, ends)) == [said]


def test_each_question_has_its_own_windows() -> None:
    one = two_windows()
    both = Questions(
        [CONTEXT, "six seven"], [("two",), ("six",)], np.array([0, 2, 3]), np.array([0, 4, 8, 11]),
        np.concatenate([one.spans, np.array([(0, 0), (0, 3), (4, 9)], np.int32)]),
    )  # fmt: skip
    starts, ends = [0, 1, 5, 1, 0, 1, 1, 1, 0, 9, 1], [0, 1, 4, 1, 0, 1, 1, 1, 0, 1, 9]
    assert both.texts(outputs(starts, ends)) == ["two", "six seven"]
    scored = of_answers(outputs(starts, ends), np.zeros(0), (), both)
    assert scored == {"answer_f1": pytest.approx((1 + 2 / 3) / 2), "exact_match": 0.5}


def test_no_answer_is_longer_than_so_many_words() -> None:
    size = MOST_WORDS + 5
    spans = [(0, 0), *((2 * word, 2 * word + 1) for word in range(size))]
    asked = Questions(["a " * size], [("a",)], np.array([0, 1]), np.array([0, 1 + size]), np.array(spans, np.int32))
    starts, ends = np.ones(1 + size), np.ones(1 + size)
    starts[1], ends[MOST_WORDS], ends[size] = 5, 3, 9
    assert asked.chosen(np.stack([starts, ends], 1)).tolist() == [[size - MOST_WORDS + 1, size]]  # 1 + 9, not 5 + 9
    starts[1] = 8
    assert asked.chosen(np.stack([starts, ends], 1)).tolist() == [[1, MOST_WORDS]]  # 8 + 3


@pytest.mark.parametrize(
    ("said", "right", "same", "f1"),
    [
        ("The Amazon.", "amazon", True, 1.0),  # case, punctuation, articles
        ("an  apple\n and a pear", "Apple and pear!", True, 1.0),  # white space
        ("theatre", "atre", False, 0.0),  # an article within a word is none
        ("state-of-the-art", "stateoftheart", True, 1.0),  # punctuation goes first, and nothing stands in its place
        ("in March 1974", "March 1974", False, 0.8),
        ("to be or not to be", "to be", False, 2 * 2 / 8),  # each word as often as both have it
        ("Paris", "London", False, 0.0),
        ("the", "a", True, 0.0),  # nothing is left of both: as SQuAD's script says for 1.1
        ("", "Paris", False, 0.0),
    ],
)
def test_scores_of_one_answer(said: str, right: str, same: bool, f1: float) -> None:
    assert is_same(said, right) is same
    assert word_f1(said, right) == pytest.approx(f1)
    assert word_f1(right, said) == pytest.approx(f1)


def test_of_several_right_answers_the_best_counts() -> None:
    asked = Questions(
        [CONTEXT] * 2, [("nine", "two three"), ("two three four", "four five")], np.array([0, 1, 2]), np.array([0, 6, 12]),
        np.array([(0, 0), *SPANS, (0, 0), *SPANS], np.int32),
    )  # fmt: skip
    starts, ends = [0, 1, 5, 1, 1, 1] * 2, [0, 1, 1, 5, 1, 1] * 2  # "two three", twice
    scored = of_answers(outputs(starts, ends), np.zeros(0), (), asked)
    assert scored == {"answer_f1": pytest.approx((1 + 0.8) / 2), "exact_match": 0.5}
