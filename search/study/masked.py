"""Masked language modelling as a study: text without labels, whose own pieces are masked and told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from search.study.tables import Texts, in_parts
from search.study.texts import StudyTexts
from search.trial.data import Tokens
from spaces.errors import Fault, InputError
from spaces.heads import STOCK
from spaces.parameters import Choice
from spaces.space import FULL, SearchSpace
from spaces.student import TELLERS
from spaces.study import StudySpec

WHOLE = "its pieces are what is told, so that each vocabulary would be asked something else"


def of_pieces(spec: StudySpec, notes: list[str]) -> StudySpec:
    """The study with the vocabulary that all of its students have. Raises InputError with what such students cannot be."""
    space, faults = spec.space, []
    families = sorted(set(map(str, space.parameter("family").values)) - set(TELLERS))  # type: ignore[union-attr]
    if families:
        faults.append(Fault("family", f"{families[0]} tells no masked pieces here; write {', '.join(TELLERS)}"))
    if own := [str(name) for name in space.parameter("head").values if name != STOCK]:  # type: ignore[union-attr]
        faults.append(Fault("head", f"{own[0]!r} cannot stand for the product with all word embeddings; write {STOCK}"))
    for name in ("hidden_size", "intermediate_size"):
        if any(value != FULL for value in space.parameter(name).values):  # type: ignore[union-attr]
            faults.append(Fault(name, f"students of {spec.task} are as wide as their teacher; write {FULL}"))
    asked = [name for name in space.vocabularies if name != "full"] if "vocabulary" in space.parameters else []
    if asked and "full" not in space.vocabularies:
        faults.append(Fault("vocabulary", f"{asked[0]!r} is not for {spec.task}: {WHOLE}; write full"))
    if faults:
        raise InputError("space", faults)
    if asked:
        notes.append(f"only the whole vocabulary is searched: {WHOLE}")
    return spec.model_copy(update={"space": SearchSpace({**space.parameters, "vocabulary": Choice(values=("full",))})})


def in_halves(texts: StudyTexts, tokenizer: Any, max_length: int, notes: list[str]) -> StudyTexts:
    """Each text as two that follow one another: what is read of it, parted behind the sentence that ends nearest to its middle, or
    there. Raises InputError where no text of a split can be parted."""
    splits, num_cut = {}, 0
    num_pieces = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    for name, split in texts.splits.items():
        read = read_of(tokenizer, split.texts, num_pieces)
        num_cut += sum(len(one) < len(text) for one, text in zip(read, split.texts, strict=True))
        parts = [halves(text) for text in read]
        short = sum(not second for _, second in parts)
        if short == len(parts):
            raise InputError.of(
                "", f"data.{name} has one word a text, and training.order_share wants two halves", "training"
            )
        if short:
            notes.append(f"{name}: {short:,} texts of one word have no order to be told")
        firsts, seconds = (Texts.of(column) for column in zip(*parts, strict=True))
        splits[name] = replace(split, texts=firsts, pairs=seconds)
    if num_cut:
        notes.append(f"{num_cut:,} texts were cut at max_length ({max_length} pieces), and then parted")
    return replace(texts, splits=splits)


def read_of(tokenizer: Any, texts: Iterable[str], num_pieces: int) -> list[str]:
    """Of each text the words, as whitespace parts them, that are whole within so many pieces. Were each half cut by itself, the
    second would not begin where the first ends."""
    found = []
    for part in in_parts(texts):
        read = tokenizer(
            part, add_special_tokens=False, truncation=True, max_length=num_pieces, return_offsets_mapping=True
        )
        for text, offsets in zip(part, read["offset_mapping"], strict=True):
            end = offsets[-1][1] if len(offsets) == num_pieces else len(text)
            is_within_a_word = text[end : end + 1].strip() != ""
            words = text[:end].rsplit(maxsplit=1)
            found.append(words[0] if is_within_a_word and len(words) == 2 else text[:end])
    return found


def halves(text: str) -> tuple[str, str]:
    words = text.split()
    middle = len(words) / 2
    ends = [place for place in range(1, len(words)) if words[place - 1].endswith((".", "!", "?"))] or [len(words) // 2]
    at = min(ends, key=lambda place: abs(place - middle))
    return " ".join(words[:at] or words), " ".join(words[at:] if at else [])


def masked_splits(
    full: Mapping[str, Tokens], tokenizer: Any, halved: bool, notes: list[str]
) -> tuple[dict[str, Tokens], dict[str, np.ndarray]]:
    """Each split with its masks, and the pieces under them; `halved` where its texts are `in_halves`. Raises InputError where
    nothing can be masked."""
    if tokenizer.mask_token_id is None or tokenizer.num_special_tokens_to_add(pair=False) != 2:
        raise InputError.of(
            "teacher", "its tokenizer has no piece that stands for a masked one, or puts other than one special piece at "
            "either end of a text; name a teacher of BERT's kind", "model",
        )  # fmt: skip
    between = tokenizer.num_special_tokens_to_add(pair=True) - 2
    if halved and between != 1:
        raise InputError.of(
            "training", f"the teacher's tokenizer puts {between} special pieces between two texts, and where their order is told "
            "there must be one; leave order_share out", "order_share",
        )  # fmt: skip
    found = {name: tokens.masked(tokenizer.mask_token_id) for name, tokens in full.items()}
    for name, (tokens, pieces) in found.items():
        if not len(pieces):
            raise InputError.of(
                "", f"none of its {len(tokens):,} texts has a piece that could be masked", f"data.{name}"
            )
        assert tokens.places is not None
        bare = int((np.diff(tokens.places.offsets) == 0).sum())
        if bare:
            notes.append(f"{name}: {bare:,} texts have no piece that could be masked; nobody learns from them")
    return {name: tokens for name, (tokens, _) in found.items()}, {name: pieces for name, (_, pieces) in found.items()}
