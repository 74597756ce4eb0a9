import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from examples.docstrings import LABELS, SPLITS, docstring_pairs, draw_functions

SIZES = {"train": 200, "validation": 40, "test": 40}


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[dict[str, str]]]:
    return docstring_pairs(SIZES["train"], num_validation=SIZES["validation"], num_test=SIZES["test"])


def test_sizes_and_balance(pairs: dict[str, list[dict[str, str]]]) -> None:
    assert tuple(pairs) == SPLITS
    for split, size in SIZES.items():
        assert Counter(row["label"] for row in pairs[split]) == dict.fromkeys(LABELS, size // 2)
        assert all(set(row) == {"text", "text_pair", "label"} for row in pairs[split])


def test_another_process_draws_the_same_rows(pairs: dict[str, list[dict[str, str]]]) -> None:
    code = "import json; from examples.docstrings import *; print(json.dumps(docstring_pairs(200, 0, %s)))"
    code %= "num_validation=40, num_test=40"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}  # the order of a set would show
    root = Path(__file__).parents[1]
    drawn = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, check=True)
    assert json.loads(drawn.stdout) == pairs


def test_another_seed_draws_other_rows(pairs: dict[str, list[dict[str, str]]]) -> None:
    assert docstring_pairs(200, 1, num_validation=40, num_test=40)["train"] != pairs["train"]


@pytest.mark.parametrize("side", ["text", "text_pair"])
def test_neither_side_alone_tells_the_label(pairs: dict[str, list[dict[str, str]]], side: str) -> None:
    for rows in pairs.values():
        by_label = {label: Counter(row[side] for row in rows if row["label"] == label) for label in LABELS}
        assert by_label["match"] == by_label["mismatch"]
        assert set(by_label["match"].values()) == {1}


def test_a_file_belongs_to_one_split_and_neighbours_share_theirs() -> None:
    drawn = draw_functions(200, num_validation=40, num_test=40)
    sources = [source for groups in drawn.values() for source in {group[0].source for group in groups}]
    assert len(sources) == len(set(sources)) >= 10
    for split, groups in drawn.items():
        assert 2 * sum(len(group) for group in groups) == SIZES[split]
        assert all(len(group) >= 2 and len({function.source for function in group}) == 1 for group in groups)


def test_no_text_is_in_two_splits(pairs: dict[str, list[dict[str, str]]]) -> None:
    for side in ("text", "text_pair"):
        texts = [text for rows in pairs.values() for text in {row[side].lower() for row in rows}]
        assert len(texts) == len(set(texts)) == sum(SIZES.values()) // 2


def test_sentences_are_sentences(pairs: dict[str, list[dict[str, str]]]) -> None:
    for rows in pairs.values():
        for row in rows:
            assert 4 <= len(row["text"].split()) <= 24
            assert row["text"].isascii()
            assert "\t" not in row["text"] + row["text_pair"]  # they fit a TSV file
            assert row["text_pair"].endswith(")")


@pytest.mark.parametrize("size", [0, 2, 7])
def test_sizes_that_cannot_be_halved_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"train: {size} pairs is not allowed; write an even number"):
        docstring_pairs(size)


def test_too_little_source_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.docstrings._files", lambda seed: iter(()))
    with pytest.raises(ValueError, match="missing: train 200 of 200, validation 40 of 40, test 40 of 40"):
        docstring_pairs(200, num_validation=40, num_test=40)
