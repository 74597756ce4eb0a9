"""Vocabularies of every kind that can be cut: text whose pieces are all kept is split as it was."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer

from search.trial.pieces import Pieces, pieces_of
from search.trial.vocabulary import cut_vocabulary, load_tokenizer, write_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROLES = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
         "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
SIZE = 1200


def docstrings() -> list[str]:
    """Sentences that every machine has."""
    found = [
        line.strip()
        for module in (argparse, logging, unittest, inspect, json)
        for _, member in inspect.getmembers(module, lambda one: inspect.isclass(one) or inspect.isfunction(one))
        for line in (inspect.getdoc(member) or "").splitlines()
        if len(line.strip()) > 20
    ]
    return sorted(set(found))[::2] + sorted(set(found))[1::2]


def trained(tokenizer: Tokenizer, trainer: Any) -> Any:
    tokenizer.train_from_iterator([*docstrings(), "le château était vieux", "漢字 かな"], trainer)
    return json.loads(tokenizer.to_str())["model"]


def unigram() -> dict[str, Any]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizers.Metaspace(), normalizers.NFKC()
    return trained(
        tokenizer, trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )  # fmt: skip


def byte_level() -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # fmt: skip
    return trained(tokenizer, trainer)


def xlm_roberta() -> Any:
    return XLMRobertaTokenizer(vocab=[tuple(entry) for entry in unigram()["vocab"]])


def roberta() -> Any:
    model = byte_level()
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def characters_merged() -> Any:
    """BPE over characters: a piece that is in the table alone and never split again."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False)
    trained(tokenizer, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES)


@pytest.fixture(scope="module", params=[xlm_roberta, roberta, characters_merged])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As a teacher's folder gives it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    request.param().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """Training and held out."""
    lines = docstrings()
    return lines[:150], lines[150:]


def counts_of(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    return np.bincount(np.concatenate(tokenizer(list(texts))["input_ids"]), minlength=len(tokenizer))


def same_pieces(cut: Any, tokenizer: Any, texts: Sequence[str], kept: np.ndarray) -> int:
    """How many of the texts have only kept pieces; all of those are split as they were."""
    num_whole = 0
    for text, ids in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
        if np.isin(ids, kept).all():
            num_whole += 1
            assert kept[cut(text)["input_ids"]].tolist() == ids, text
    return num_whole


@pytest.mark.parametrize("size", [None, 450])
def test_text_whose_pieces_are_kept_is_split_as_before(
    tokenizer: Any, texts: tuple[list[str], list[str]], size: int | None
) -> None:
    train, held_out = texts
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train), size)
    cut = load_tokenizer(vocabulary)
    assert len(cut) == len(vocabulary.kept) <= (size or 0.9 * len(tokenizer))
    whole = same_pieces(cut, tokenizer, train, vocabulary.kept)
    assert whole == len(train) if size is None else 0 < whole < len(train)
    assert 0 < same_pieces(cut, tokenizer, held_out, vocabulary.kept) < len(held_out)


def test_what_is_cut_falls_back_to_smaller_pieces(tokenizer: Any, texts: tuple[list[str], list[str]]) -> None:
    train, held_out = texts
    cut = load_tokenizer(cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train)))
    read = [text for text in held_out if tokenizer.unk_token_id not in tokenizer(text)["input_ids"] and text.isascii()]
    assert len(read) > 50
    for text in read:
        ids = cut(text, add_special_tokens=False)["input_ids"]
        assert cut.unk_token_id not in ids
        assert len(ids) >= len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert cut.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_special_tokens_keep_their_role(tokenizer: Any, texts: tuple[list[str], list[str]], tmp_path: Path) -> None:
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, texts[0]))
    write_tokenizer(vocabulary, tmp_path, max_length=32)
    cut = AutoTokenizer.from_pretrained(tmp_path)
    assert type(cut) is type(tokenizer)
    for role in ROLES:
        assert getattr(cut, role) == getattr(tokenizer, role)
        assert vocabulary.kept[getattr(cut, f"{role}_id")] == getattr(tokenizer, f"{role}_id")
    assert vocabulary.pad_id == cut.pad_token_id
    assert cut.model_max_length == 32
    one, two = texts[0][:2]
    assert vocabulary.kept[cut(one, two)["input_ids"]].tolist() == tokenizer(one, two)["input_ids"]


def test_an_unknown_character_is_as_unlikely_as_before() -> None:
    scores = [("<unk>", 0.0), ("z", -13.0), ("pq?", -13.0), ("zpq", -1.0), ("never", -20.0)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(scores, 0)), unk_token="<unk>")
    assert tokenizer.tokenize("zpq?") == ["z", "pq?"]  # and not zpq, unknown: -31, and -24 without never
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, ["zpq?", "zpq"]))
    assert load_tokenizer(vocabulary).tokenize("zpq?") == ["z", "pq?"]


def of_kind(model: Any, **named: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **named)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: of_kind(models.WordLevel({"<unk>": 0}, "<unk>"), unk_token="<unk>"), "the kind is WordLevel"),
        (lambda: of_kind(models.BPE({"a": 0}, [])), "no token stands for what is unknown"),
        (lambda: of_kind(models.BPE({"<unk>": 0}, [], dropout=0.1), unk_token="<unk>"), "drawn at random"),
        (lambda: of_kind(models.BPE({"<unk>": 0}, [], end_of_word_suffix="</w>"), unk_token="<unk>"), "goes on or ends"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_says_why(build: Callable[[], Any], said: str) -> None:
    found = pieces_of(build())
    assert isinstance(found, str)
    assert said in found


def test_what_can_be_cut(tokenizer: Any) -> None:
    assert isinstance(pieces_of(tokenizer), Pieces)
