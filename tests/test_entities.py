"""Entities as conlleval counts them, and the floor of tags."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tag_toys import NAMES, lines

from search.study.inputs import read_inputs
from search.trial import floor
from search.trial.context import WorkerContext
from search.trial.metrics import entities, of_tags
from spaces.study import StudySpec


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-food I-food O B-food", {("food", 1, 3), ("food", 4, 5)}),
        ("B-food B-food I-food", {("food", 0, 1), ("food", 1, 3)}),
        ("B-food I-music I-music", {("food", 0, 1), ("music", 1, 3)}),  # of another type: it begins its own
        ("O I-food I-food O", {("food", 1, 3)}),  # continues nothing: it begins one
        ("I-food B-food", {("food", 0, 1), ("food", 1, 2)}),
        ("O O", set()),
    ],
)
def test_entities_by_hand(tags: str, found: set[tuple[str, int, int]]) -> None:
    numbers = np.array([NAMES.index(tag) for tag in tags.split()])
    assert entities(numbers, np.zeros(len(numbers), np.int64), NAMES) == found


def test_an_entity_ends_with_its_text() -> None:
    numbers = np.array([NAMES.index(tag) for tag in ("B-food", "I-food", "I-food")])
    assert entities(numbers, np.array([0, 0, 1]), NAMES) == {("food", 0, 2), ("food", 2, 3)}


def outputs_of(tags: str) -> np.ndarray:
    """One word a tag; `?`: it was not read."""
    table = {**dict(zip(NAMES, np.eye(len(NAMES)), strict=True)), "?": np.zeros(len(NAMES))}
    return np.array([table[tag] for tag in tags.split()], np.float32)


def test_entity_f1_by_hand() -> None:
    said = "B-food I-food O B-music O B-sport O O"
    told = "B-food I-food O B-sport O B-sport I-sport O"
    labels = np.array([NAMES.index(tag) for tag in told.split()])
    scored = of_tags(outputs_of(said), labels, NAMES, np.array([0, 4, 8]))
    # found: food 0-2, music 3, sport 5; wanted: food 0-2, sport 3, sport 5-7; right: the first alone
    assert scored["entity_precision"] == pytest.approx(1 / 3)
    assert scored["entity_recall"] == pytest.approx(1 / 3)
    assert scored["entity_f1"] == pytest.approx(1 / 3)
    assert scored["accuracy"] == pytest.approx(6 / 8)


def test_precision_and_recall_are_not_each_other() -> None:
    labels = np.array([NAMES.index(tag) for tag in ["B-food", "O", "B-food", "O", "O"]])
    scored = of_tags(outputs_of("B-food O O O O"), labels, NAMES, np.array([0, 5]))
    assert (scored["entity_precision"], scored["entity_recall"]) == (1.0, 0.5)
    assert scored["entity_f1"] == pytest.approx(2 / 3)


def test_words_not_read_count_as_missed_and_ignored_ones_do_not_count() -> None:
    labels = np.array([NAMES.index("B-food"), -100, NAMES.index("I-food"), NAMES.index("B-music")])
    scored = of_tags(outputs_of("B-food B-sport I-food ?"), labels, NAMES, np.array([0, 4]))
    assert scored["entity_precision"] == 1.0  # the food goes on behind the ignored word
    assert scored["entity_recall"] == 0.5  # nobody read the music
    assert scored["accuracy"] == pytest.approx(2 / 3)
    elsewhere = [*NAMES[1:], "O"]  # whatever number O has
    moved = np.array([elsewhere.index(NAMES[label]) if label >= 0 else -100 for label in labels])
    outputs = outputs_of("B-food B-sport I-food ?")[:, [NAMES.index(name) for name in elsewhere]]
    assert of_tags(outputs, moved, elsewhere, np.array([0, 4])) == scored


def test_nothing_wanted_and_nothing_found() -> None:
    scored = of_tags(outputs_of("O O"), np.array([0, 0]), NAMES, np.array([0, 2]))
    assert scored == {"entity_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0, "accuracy": 1.0}


def test_the_most_frequent_tag_of_each_word(tagging: Callable[..., StudySpec]) -> None:
    train = [
        {"tokens": ["bread7", "ball", "the"], "tags": ["B-food", "B-sport", "O"]},
        {"tokens": ["bread7", "the"], "tags": ["B-food", "O"]},
        {"tokens": ["bread7", "the"], "tags": ["O", "O"]},
    ]
    held_out = [{"tokens": ["bread7", "tune", "ball"], "tags": ["B-food", "B-sport", "B-sport"]}]
    files = {"train.jsonl": lines(train), "validation.jsonl": lines(held_out), "test.jsonl": lines(held_out)}
    metrics, size = floor.n_grams(read_inputs(tagging(files), lambda text: None).transfer, WorkerContext())
    assert size == 3  # words
    assert metrics["validation/entity_precision"] == 1.0
    assert metrics["test/entity_recall"] == pytest.approx(2 / 3)  # an unknown word is O, which is the most frequent tag


# files
