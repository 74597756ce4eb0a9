"""Tags in files: what is read, what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tag_toys import lines

from search.study.inputs import read_inputs
from spaces.errors import InputError
from spaces.study import StudySpec

CONLL = "-DOCSTART- O\n\nbread\tB-food\nsoup\tI-food\nthe\tO\n\n\nball\tB-sport\nthe\tO\n"
TSV = "words\ttags\nbread soup the\tB-food I-food O\nball the\tB-sport O\n"
JSONL = lines([{"tokens": ["bread", "soup", "the"], "tags": ["B-food", "I-food", "O"]},
               {"tokens": ["ball", "the"], "tags": ["B-sport", "O"]}])  # fmt: skip


@pytest.mark.parametrize(("ending", "content"), [("conll", CONLL), ("tsv", TSV), ("jsonl", JSONL)])
def test_files_that_say_the_same(ending: str, content: str, tagging: Callable[..., StudySpec]) -> None:
    inputs = read_inputs(
        tagging({f"{name}.{ending}": content for name in ("train", "validation", "test")}), lambda text: None
    )
    train = inputs.texts.splits["train"]
    assert list(train.texts) == ["bread soup the", "ball the"]
    assert train.labels == [("B-food", "I-food", "O"), ("B-sport", "O")]
    assert inputs.transfer.label_names == ["O", "B-food", "I-food", "B-sport"]
    assert inputs.transfer.splits["test"].labels.tolist() == [1, 2, 0, 3, 0]


def test_tags_as_the_hub_has_them(tagging: Callable[..., StudySpec], tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["O", "B-sport", "I-sport", "B-food"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(names)})
    rows = {"tokens": [["the ball", "soup"], ["tennis"]], "ner_tags": [[1, 3], [1]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    data = {name: str(tmp_path / "train.parquet") for name in ("train", "validation", "test")}
    transfer = read_inputs(tagging(data={**data, "labels": {"food": "meal"}}), lambda text: None).transfer
    assert transfer.label_names == ["O", "B-meal", "B-sport"]
    assert transfer.splits["train"].labels.tolist() == [2, 1, 2]  # a blank within a word makes it no second one


def test_tags_that_continue_nothing_are_counted(tagging: Callable[..., StudySpec]) -> None:
    rows = [*tiny.tagged(20, 0), {"tokens": ["bread", "ball", "goal"], "tags": ["I-food", "I-sport", "I-sport"]}]
    inputs = read_inputs(tagging({"train.jsonl": lines(rows)}), lambda text: None)
    assert any("train has 2 tags I-TYPE that continue no entity" in note for note in inputs.notes)


GOOD = {"tokens": ["bread", "the"], "tags": ["B-food", "O"]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [GOOD, {"tokens": ["bread", "the"], "tags": ["B-food"]}],
            "data.train: row 2 (after the header) has 2 words and 1 tags",
        ),
        ([GOOD, {"tokens": ["bread"], "tags": ["S-food"]}], "has tag 'S-food', which is not O, B-TYPE or I-TYPE"),
        ([GOOD, {"tokens": ["bread"], "tags": ["food"]}], "has tag 'food', which is not O"),
        ([GOOD, {"tokens": [], "tags": []}], "row 2 (after the header) has no words"),
        ([GOOD, {"tokens": ["bread"], "tags": None}], "has 1 words and 0 tags"),
        ([GOOD], "label 'B-music' does not occur in train"),
    ],
)
def test_bad_rows(rows: list[dict[str, Any]], words: str, tagging: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs(tagging({"train.jsonl": lines(rows)}), lambda text: None)
    assert words in str(caught.value)


def test_a_split_in_which_nothing_can_be_found(tagging: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError, match=r"data\.test: has no entity: every tag is O"):
        read_inputs(tagging({"test.jsonl": lines([{"tokens": ["bread"], "tags": ["O"]}])}), lambda text: None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"augmentation": {"copies": 1}}}, "token-classification makes up no texts"),
        ({"data": {"columns": {"text_pair": "second"}}}, "there is one text a row where words have tags"),
        ({"data": {"columns": {"label": "tgas"}}}, "has no column 'tgas'; did you mean \"tags\""),
        ({"files": {"train.conll": "bread B-food\nsoup\n"}}, "train.conll line 2 has 1 columns, the first one has 2"),
        ({"files": {"train.conll": "\n\n"}}, "train.conll holds no rows"),
        ({"files": {"train.conll": "bread\nsoup\n"}}, "no column looks like the label; it has tokens"),
    ],
)
def test_bad_input(changes: dict[str, Any], words: str, tagging: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs(tagging(changes.pop("files", None), **changes), lambda text: None)
    assert words in str(caught.value)


def test_a_metric_of_another_task_is_refused(tagging: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError, match="'f1' is not an objective"):
        tagging(objectives={"f1": "maximize", "parameters": "minimize"})
    assert tagging().objectives == {"entity_f1": "maximize", "parameters": "minimize"}


def test_class_weights_of_tags(tagging: Callable[..., StudySpec]) -> None:
    transfer = read_inputs(tagging(data={"class_weights": "balanced"}), lambda text: None).transfer
    counts = np.bincount(transfer.splits["train"].labels)
    assert transfer.class_weights is not None
    assert transfer.class_weights @ counts / counts.sum() == pytest.approx(1)
    assert transfer.class_weights[0] < transfer.class_weights[1]
