"""Makes texts up from the training text, for the teacher to label: words replaced by near ones, spans, texts joined.

After TinyBERT (arXiv:1909.10351, section 3.2 and algorithm 1), which takes near words from GloVe and from BERT's
masked-LM head; here nearness is the cosine of the teacher's own word embeddings, among the words of the training text
that are one piece each. Made in the order of (seed, copy, row): the same study makes the same texts.

Legend: W words, H hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.study.texts import LabelledTexts
from spaces.errors import InputError
from spaces.study import AugmentationSpec
from spaces.trial import derived_seed

BLOCK = 2048  # rows of the similarity table held at a time
Near = dict[str, list[str]]


def near_words(texts: Sequence[str], tokenizer: Any, embeddings_VH: np.ndarray, neighbours: int) -> Near:
    """For each word of the texts that is one piece of the tokenizer: its nearest others, the nearest first."""
    counts = Counter(word for text in texts for word in text.split())
    words = [word for word, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) if word.isalpha()]
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    piece_of: dict[str, int] = {}
    form_of: dict[int, str] = {}  # of words that are one piece, such as Good and good, the more frequent
    for word, ids in zip(words, encoded, strict=True):
        if len(ids) == 1 and ids[0] != unknown and ids[0] < len(embeddings_VH):
            piece_of[word] = ids[0]
            form_of.setdefault(ids[0], word)
    pieces = np.array(sorted(form_of), np.int64)
    if len(pieces) < 2:
        return {}
    unit_WH = embeddings_VH[pieces].astype(np.float32)
    unit_WH /= np.linalg.norm(unit_WH, axis=1, keepdims=True) + 1e-9
    count = min(neighbours, len(pieces) - 1)
    near: dict[int, list[str]] = {}
    for start in range(0, len(pieces), BLOCK):
        similar = unit_WH[start : start + BLOCK] @ unit_WH.T
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = -np.inf  # a word is not its own neighbour
        best = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(-similar, best, 1).argsort(1, kind="stable")
        for row, places in enumerate(np.take_along_axis(best, order, 1)):
            near[int(pieces[start + row])] = [form_of[int(pieces[place])] for place in places]
    return {word: near[piece] for word, piece in piece_of.items()}


def made_up_texts(splits: Mapping[str, LabelledTexts], near: Near, spec: AugmentationSpec, seed: int) -> LabelledTexts:
    """`spec.copies` texts of each row of `train`, without labels. Of a pair each side is changed by itself, and nothing is
    joined. What equals a text of any split is left out, and so is one made before."""
    train = splits["train"]
    kinds = [kind for kind in spec.kinds if kind != "join" or train.pairs is None]
    if not kinds:
        raise InputError.of("", "join is not for pairs of texts; write replace or span", "data.augmentation.kinds")
    seen = {key for split in splits.values() for key in split.keys}
    texts, pairs = [], []
    for copy in range(spec.copies):
        rng = np.random.default_rng(derived_seed(seed, "augment", copy))
        chosen = rng.integers(len(kinds), size=len(train))
        others = rng.integers(len(train), size=len(train))
        for row, kind in enumerate(chosen):
            sides = [train.texts[row]] if train.pairs is None else [train.texts[row], train.pairs[row]]
            if kinds[kind] == "join":
                made = [f"{sides[0]} {train.texts[others[row]]}"]
            else:
                change = _span if kinds[kind] == "span" else _replaced
                made = [change(side, near, spec.replace_share, rng) for side in sides]
            key = (made[0], made[1] if len(made) > 1 else "")
            if key not in seen:
                seen.add(key)
                texts.append(key[0])
                pairs.append(key[1])
    return LabelledTexts(texts, None if train.pairs is None else pairs, [])


def _replaced(text: str, near: Near, share: float, rng: np.random.Generator) -> str:
    words = text.split()
    draws = rng.random(len(words))
    for place, draw in enumerate(draws):
        choices = near.get(words[place])
        if draw < share and choices:
            words[place] = choices[int(draw / share * len(choices))]  # the draw, below the share, is uniform there
    return " ".join(words)


def _span(text: str, near: Near, share: float, rng: np.random.Generator) -> str:
    """A run of words, a quarter of the text at least, with words replaced."""
    words = text.split()
    length = int(rng.integers(max(1, -(-len(words) // 4)), len(words) + 1))
    start = int(rng.integers(0, len(words) - length + 1))
    return _replaced(" ".join(words[start : start + length]), near, share, rng)
