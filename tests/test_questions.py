"""Questions and their contexts: files, windows and their places, what is told and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from search.study.inputs import read_inputs
from search.study.questions import cut_into_windows, windows_of
from search.study.texts import LabelledTexts
from search.study.worth import agreement
from search.trial import floor
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.places import NOWHERE
from spaces.errors import InputError
from spaces.study import WINDOW_LENGTH, StudySpec
from spaces.yaml_io import parse_study

CONTEXT = "it was the bread77 with soup, apple and some rice here"


@pytest.fixture
def answering(base_teacher: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """A maker of studies on the tiny questions; `files` (name -> content) stand in place of their own."""

    def make(files: dict[str, str] | None = None, **changes: Any) -> StudySpec:
        data: dict[str, Any] = tiny.write_asked(tmp_path / "asked", (12, 6, 6))
        for name, content in (files or {}).items():
            (tmp_path / name).write_text(content)
            data[Path(name).stem] = str(tmp_path / name)
        plain = {
            "name": "asked",
            "task": "question-answering",
            "data": {"max_length": 32, "stride": 8, **data, **changes.pop("data", {})},
            "teacher": str(base_teacher),
            "space": {"depth": [1, 3], "vocabulary": ["used", 100], "hidden_size": ["50%", "full"], "batch_size": [16]},
            "tracking": "none",
            "output": str(tmp_path / "run"),
            "cache": str(tmp_path / "cache"),
        }
        return parse_study({**plain, **changes}, "study.yaml", tmp_path)

    return make


def one(answers: Any, context: Any = CONTEXT, question: Any = "f ?", **more: Any) -> str:
    """A file of one question."""
    asked = {"id": "q7", "question": question, "answers": answers, **more}
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [asked]}]}]})


def answer(text: str, at: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if at is None else at}


# windows


@pytest.mark.parametrize(
    ("pieces", "room", "overlap", "windows"),
    [
        ([1, 1, 1], 5, 2, [(0, 3)]),
        ([1] * 8, 4, 2, [(0, 4), (2, 6), (4, 8)]),
        ([1] * 8, 4, 0, [(0, 4), (4, 8)]),
        ([2, 3, 1, 2, 2], 5, 2, [(0, 2), (2, 5)]),  # three pieces are more than two may be shared
        ([2, 1, 2, 2, 3, 1], 5, 2, [(0, 3), (2, 4), (3, 5), (5, 6)]),
        ([9, 1], 4, 2, [(0, 1), (1, 2)]),  # a word that no window holds has one of its own
    ],
)
def test_windows_by_hand(pieces: list[int], room: int, overlap: int, windows: list[tuple[int, int]]) -> None:
    assert list(cut_into_windows(np.array(pieces), room, overlap)) == windows


def test_a_context_in_windows(tokenizer: Any) -> None:
    split = LabelledTexts(["f ?"], [CONTEXT], [((CONTEXT.index("soup"), "soup, apple"),)])
    made = windows_of(tokenizer, split, "train", 13, 4)  # 8 pieces of the context; bread77 is three
    assert list(made.texts.texts) == ["f ?"] * len(made.texts)
    assert list(made.texts.pairs or ()) == [
        "it was the bread77 with soup", "with soup, apple and some rice here"
    ]  # fmt: skip
    assert made.questions.rows.tolist() == [0, 2]
    assert made.questions.offsets.tolist() == [0, 7, 16]
    assert made.labels[:7].sum(0).tolist() == made.labels[7:].sum(0).tolist() == [1, 1]
    assert made.labels[0].tolist() == [1, 1]  # not in the first window: its first place says so
    assert made.labels[7:].argmax(0).tolist() == [2, 4]  # soup , apple behind with
    assert (made.num_without, made.num_lost) == (1, 0)
    words = [CONTEXT[begin:end] for begin, end in made.questions.spans]
    assert words[1:7] == ["it", "was", "the", "bread77", "with", "soup"]
    assert words[8:] == ["with", "soup", ",", "apple", "and", "some", "rice", "here"]
    narrow = windows_of(tokenizer, split, "train", 10, 0)
    assert narrow.num_lost == 1  # soup | , apple
    assert any("whole in no window" in note for note in narrow.notes("train"))


def test_places_are_words_of_the_context_alone(tokenizer: Any) -> None:
    tokens = Tokens.encode(tokenizer, ["soup ?", "f"], ["with bread77, é", "a [SEP] ball"], 32, "span")
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    assert pieces[: tokens.offsets[1]] == [
        "[CLS]", "soup", "?", "[SEP]", "with", "bread", "##7", "##7", ",", "e", "[SEP]"
    ]  # fmt: skip
    assert tokens.places is not None
    assert tokens.places.ends is not None
    assert tokens.places.offsets.tolist() == [0, 5, 9]
    assert tokens.places.at.tolist() == [0, 4, 5, 8, 9, 0, 3, 4, 5]  # [CLS], then each word's first piece
    assert tokens.places.ends.tolist() == [0, 4, 7, 8, 9, 0, 3, 4, 5]  # and its last
    batch = padded(tokens, np.array([1, 0]), 0)
    assert batch.numbers.tolist() == [5, 6, 7, 8, 0, 1, 2, 3, 4]
    taken = Tokens.joined(tokens.first(1), tokens.taken(np.array([1, 0]))).places
    assert taken is not None
    assert taken.ends is not None
    assert taken.ends.tolist() == [0, 4, 7, 8, 9, 0, 3, 4, 5, 0, 4, 7, 8, 9]


def test_a_word_that_is_cut_in_two_is_not_read(tokenizer: Any) -> None:
    tokens = Tokens.encode(tokenizer, ["f"], ["with bread77 ball"], 6, "span")
    assert tokenizer.convert_ids_to_tokens(tokens.ids.tolist()) == ["[CLS]", "f", "[SEP]", "with", "bread", "[SEP]"]
    assert tokens.places is not None
    assert tokens.places.at.tolist() == [0, 3, NOWHERE, NOWHERE]


def test_a_smaller_vocabulary_has_the_same_windows_and_words(answering: Callable[..., StudySpec]) -> None:
    inputs = read_inputs(answering(), lambda text: None)
    assert any("questions are read in" in note for note in inputs.notes)
    for name, split in inputs.transfer.splits.items():
        full, small = (split.tokens[name] for name in ("full", "100"))
        assert len(full) == len(small) > len(inputs.texts.splits[name])
        assert full.lengths.max() <= 32
        assert full.places is not None
        assert small.places is not None
        assert full.places.offsets.tolist() == small.places.offsets.tolist()
        assert (full.places.at != NOWHERE).all()
        assert len(split.labels) == full.num_outputs == small.num_outputs
        assert (split.questions is None) == (name == "train")


@pytest.mark.parametrize("name", ["validation", "test"])
def test_what_is_labelled_is_what_is_asked(name: str, answering: Callable[..., StudySpec]) -> None:
    """A model that says the labels is right: through windows, words, characters and the metric."""
    transfer = read_inputs(answering(), lambda text: None).transfer
    labels = transfer.splits[name].labels
    assert transfer.measure(name, labels + 0.1) == {"answer_f1": 1.0, "exact_match": 1.0}
    moved = np.roll(labels, 1, axis=0) + 0.1
    assert transfer.measure(name, moved)["exact_match"] < 0.5
    assert agreement("span", labels + 0.1, labels) > 10
    assert abs(agreement("span", np.random.default_rng(0).normal(size=labels.shape), labels)) < 3


def test_a_byte_level_tokenizer_makes_the_same_words(tmp_path: Path) -> None:
    context = "The  Amazon's forest,\nof 7,000 km\u00b2 (or so) \u2014 moist."
    tokenizer = tiny.write_byte_level_tokenizer(tmp_path / "roberta", [context] * 3)
    split = LabelledTexts(["how big?"], [context], [((context.index("7,000"), "7,000 km\u00b2"),)])
    found = windows_of(tokenizer, split, "train", 26, 6)
    assert len(found.texts) > 1
    tokens = Tokens.encode(tokenizer, found.texts.texts, found.texts.pairs, 26, "span")
    assert tokens.places is not None
    assert tokens.places.offsets.tolist() == found.questions.offsets.tolist()
    assert found.questions.texts(found.labels + 0.1)[0] == "7,000 km\u00b2"


# files


def test_rows_of_other_files(answering: Callable[..., StudySpec]) -> None:
    row = {"question": "f ?", "context": CONTEXT, "answers": [answer("soup"), answer("bread77")]}
    listed = {**row, "answers": {"text": ["soup", "bread77"], "answer_start": [29 - 5, 11]}}
    assert CONTEXT[24:28] == "soup"
    for each in (row, listed):
        inputs = read_inputs(answering({"test.jsonl": json.dumps(each) + "\n"}), lambda text: None)
        assert inputs.texts.splits["test"].labels == [((24, "soup"), (11, "bread77"))]
        assert inputs.transfer.splits["test"].questions is not None
        assert inputs.transfer.splits["test"].questions.answers == [("soup", "bread77")]


def test_an_answer_is_made_of_whole_words(answering: Callable[..., StudySpec]) -> None:
    transfer = read_inputs(answering({"test.json": one([answer("bread")])}), lambda text: None).transfer
    split = transfer.splits["test"]
    assert split.questions is not None
    assert split.questions.texts(split.labels + 0.1) == ["bread77"]
    assert transfer.measure("test", split.labels + 0.1) == {"answer_f1": 0.0, "exact_match": 0.0}


def test_the_answer_that_most_gave_is_learned(answering: Callable[..., StudySpec]) -> None:
    answers = [answer("soup"), answer("bread77"), answer("apple"), answer("bread77")]
    train = read_inputs(answering({"train.json": one(answers)}), lambda text: None).transfer.splits["train"]
    assert train.labels.argmax(0).tolist() == [4, 4]


def test_splits_that_are_missing_share_no_context(answering: Callable[..., StudySpec]) -> None:
    spec = answering()
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"validation": None, "test": None})})
    splits = read_inputs(spec, lambda text: None).texts.splits
    contexts = {name: set(split.pairs or ()) for name, split in splits.items()}
    assert sum(map(len, contexts.values())) == 12
    assert len(set.union(*contexts.values())) == 12


def test_questions_without_answers_are_for_the_teacher(answering: Callable[..., StudySpec]) -> None:
    rows = [{"question": "f ?", "context": CONTEXT}, {"question": "s ?", "context": CONTEXT}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    transfer = read_inputs(answering({"unlabelled.jsonl": content}), lambda text: None).transfer
    assert not transfer.splits["unlabelled"].labels.any()
    assert transfer.joined().num_labelled == len(transfer.splits["train"])


def test_windows_are_long_by_default(answering: Callable[..., StudySpec]) -> None:
    plain = {**answering().resolved(), "objectives": {}}
    del plain["data"]["max_length"]
    spec = parse_study(plain, "study.yaml", Path())
    assert spec.data.max_length == WINDOW_LENGTH
    assert spec.objectives == {"answer_f1": "maximize", "parameters": "minimize"}


def test_a_question_longer_than_half_a_window_is_cut_and_counted(answering: Callable[..., StudySpec]) -> None:
    inputs = read_inputs(answering({"test.json": one(GOOD, question="ball bread77 " * 10)}), lambda text: None)
    assert "test: 1 questions are longer than half of max_length and were cut there" in inputs.notes
    texts = inputs.transfer.splits["test"].texts
    assert texts is not None
    assert set(texts[0]) == {"ball bread77 ball bread77 ball bread77 ball"}  # 13 of 14 pieces: no word is cut
    assert inputs.transfer.splits["test"].tokens["full"].lengths.max() <= 32
    with pytest.raises(InputError, match=r"data\.max_length: 4 pieces hold no question"):
        read_inputs(answering(data={"max_length": 4}), lambda text: None)


GOOD = [answer("soup")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one([answer("soup", 200)]), "train.json: question 1 'q7' has answer 'soup' at 200, outside of its context of 54"),
        (one([answer("soup", -3)]), "outside of its context"),
        (one([answer("soup", 3)]), "answer 'soup' at 3, where its context has 'was '"),
        (one([answer("rice here and", 45)]), "outside of its context"),
        (one([answer("", 3)]), "an answer without text"),
        (one([]), "no answer (questions without one, as in SQuAD 2.0, are not for this task)"),
        (one(None), "no list of answers"),
        (one(["soup"]), "which is no {text, answer_start}"),
        (one(GOOD, question=" "), "question 1 'q7' has an empty question or context"),
        (one(GOOD, context="\n"), "question 1 'q7' has an empty question or context"),
        (one(GOOD, question=7), "data[0].paragraphs[0] has no text 'question'"),
        (json.dumps({"data": [{"paragraphs": {}}]}), "data[0] has no list 'paragraphs'"),
        (json.dumps([1, 2]), "train.json: it has no list 'data'"),
        (json.dumps({"data": []}), "train.json holds no questions"),
        ('{"data": [', "train.json cannot be read"),
    ],
)  # fmt: skip
def test_bad_files(content: str, words: str, answering: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs(answering({"train.json": content}), lambda text: None)
    assert words in str(caught.value)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"augmentation": {"copies": 1}}}, "question-answering makes up no texts"),
        ({"data": {"class_weights": "balanced"}}, "an answer has none"),
        ({"files": {"train.jsonl": '{"question": "f ?", "answers": []}\n'}}, "no column looks like the text_pair"),
        ({"data": {"train": None, "builtin": "docstrings"}}, "questions with contexts and answers are needed"),
    ],
)
def test_bad_input(changes: dict[str, Any], words: str, answering: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs(answering(changes.pop("files", None), **changes), lambda text: None)
    assert words in str(caught.value)


# the floor


def test_rare_words_nearest_to_the_question(answering: Callable[..., StudySpec]) -> None:
    common = "it was the old new big small and with some it was the old new big small and with some"
    files = {
        f"{name}.json": json.dumps(
            {"data": [{"paragraphs": [
                *({"context": common, "qas": [{"question": "a", "answers": [{"text": "it", "answer_start": 0}]}]}
                  for _ in range(20)),
                {"context": f"guitar {common} ball team goal {common}",
                 "qas": [{"question": "who was the ball with?", "answers": [{"text": "team goal", "answer_start": 98}]}]},
            ][0 if name == "train" else 20 :]}]}
        )
        for name in ("train", "validation", "test")
    }  # fmt: skip
    inputs = read_inputs(
        answering(files, data={"max_length": 48}, teacher=str(answering().teacher.model)), lambda text: None
    )
    metrics, size = floor.n_grams(inputs.transfer, WorkerContext())
    assert metrics["validation/exact_match"] == metrics["test/exact_match"] == 1.0
    assert size > 0
    assert floor.majority(inputs.transfer)["test/answer_f1"] == 0.0
