"""The vocabulary cut to a text, and its tokenizer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from student_toys import a_shape, counts_of, logits_of, student_of
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from search.trial.data import Tokens
from search.trial.vocabulary import cut_vocabulary, load_tokenizer, write_tokenizer

UNKNOWN_WORD = "soundtrack"


def pieces(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_training_text_keeps_its_pieces(tokenizer: Any, train_texts: list[str]) -> None:
    counts = counts_of(tokenizer, train_texts)
    vocabulary = cut_vocabulary(tokenizer, "used", counts)
    cut = load_tokenizer(vocabulary)
    assert len(cut) == len(vocabulary.kept) < len(tokenizer)
    for text in train_texts:
        assert pieces(cut, text) == pieces(tokenizer, text)
    old = Tokens.encode(tokenizer, train_texts, None, 32)
    new = Tokens.encode(cut, train_texts, None, 32)
    assert np.array_equal(vocabulary.kept[new.ids], old.ids)  # the rows of the embeddings that go with them
    assert np.array_equal(vocabulary.counts, counts[vocabulary.kept])


def test_unseen_words_fall_back_to_smaller_pieces(tokenizer: Any, train_texts: list[str]) -> None:
    cut = load_tokenizer(cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train_texts)))
    assert "unused" in tokenizer.get_vocab()
    assert "unused" not in cut.get_vocab()
    assert pieces(cut, "unused")[1:-1] == ["u", *(f"##{letter}" for letter in "nused")]
    for text in (UNKNOWN_WORD, "stand words", "don't, stop!"):
        assert "[UNK]" in pieces(cut, "\u6f22")  # what the teacher does not know, the student does not either
        assert "[UNK]" not in pieces(cut, text)
        assert "".join(pieces(cut, text)[1:-1]).replace("##", "") == text.replace(" ", "")


def test_special_tokens_keep_their_role(tokenizer: Any, train_texts: list[str]) -> None:
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train_texts))
    cut = load_tokenizer(vocabulary)
    for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        assert getattr(cut, role) == getattr(tokenizer, role)
        assert vocabulary.kept[getattr(cut, f"{role}_id")] == getattr(tokenizer, f"{role}_id")
    assert vocabulary.pad_id == cut.pad_token_id
    pair = cut("bread soup", "ball")
    assert cut.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "bread", "soup", "[SEP]", "ball", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("rank", [32, 8])
def test_the_folder_loads_as_anyones(
    model: Any, tokenizer: Any, train_texts: list[str], rank: int, tmp_path: Path
) -> None:
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train_texts))
    shape = a_shape(vocabulary_size=len(vocabulary.kept), embedding_size=rank)
    student = student_of(model, shape, vocabulary, (0, 1, 2))
    student.save_pretrained(tmp_path)
    write_tokenizer(vocabulary, tmp_path, max_length=48)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == ("bert" if rank == 32 else "albert")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 48
    for text in train_texts[:20]:
        assert pieces(loaded, text) == pieces(tokenizer, text)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = loaded(train_texts[:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(
            again(**batch).logits, logits_of(student, loaded, train_texts[:8], vocabulary.pad_id), atol=1e-6
        )


def test_a_vocabulary_of_a_given_size_keeps_the_most_frequent(tokenizer: Any, train_texts: list[str]) -> None:
    counts = counts_of(tokenizer, train_texts)
    used = cut_vocabulary(tokenizer, "used", counts)
    always = 5 + 2 * 42  # special tokens, and 42 single characters at either place in a word
    size = always + 10
    assert size < len(used.kept)
    cut = cut_vocabulary(tokenizer, str(size), counts, size)
    assert len(cut.kept) == size
    words = [index for index in cut.kept if index >= always]
    left_out = [index for index in used.kept if index >= always and index not in set(words)]
    assert len(words) == 10
    assert counts[words].min() >= counts[left_out].max()
    assert "[UNK]" not in pieces(load_tokenizer(cut), " ".join(train_texts[:5]))
    assert len(cut_vocabulary(tokenizer, "1", counts, 1).kept) == always  # never fewer than the characters


def test_sizes_grow_with_what_is_added() -> None:
    sizes = [a_shape(depth=depth, num_hidden_groups=depth).num_parameters for depth in (1, 2, 3)]
    layer = 4 * (32 * 32 + 32) + 2 * 2 * 32 + (32 * 64 + 64) + (64 * 32 + 32)
    assert np.diff(sizes).tolist() == [layer, layer]
    assert a_shape().num_bytes > 4 * a_shape().num_parameters
    assert math.isclose(a_shape().num_bytes, 4 * a_shape().num_parameters, rel_tol=0.1)
