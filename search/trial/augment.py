"""Makes texts up from the training text, for the teacher to label: words replaced, spans, texts joined.

After TinyBERT (arXiv:1909.10351, section 3.2 and algorithm 1). A word that is one piece of the tokenizer gives way to one of
its nearest in the teacher's own table of word embeddings, or to one of what the teacher's masked-LM head holds likeliest in
its place; all chosen words of a text are masked at once, so that a text costs one pass, where TinyBERT masks one by one.
What is drawn depends on (seed, copy, row) alone.

Legend: W words, V vocabulary, H hidden, B batch, T tokens.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from search.trial.batches import evaluation_rows, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.device import autocast, device
from search.trial.forward import named_inputs
from spaces.errors import TrialError
from spaces.study import AugmentationSpec
from spaces.trial import derived_seed

BLOCK = 2048  # rows of the similarity table held at a time
MASKED_TOKENS = 2048  # tokens of one batch with a row of the vocabulary each
Made = tuple[str, str]  # a text and its second half, which is empty where texts stand alone


@dataclass
class Draft:
    """A text on its way: the words of each of its sides, and for each word a number from 0 to 1. Below the share that is
    replaced it says by which candidate; None: the text is taken as it is."""

    sides: list[list[str]]
    draws: list[np.ndarray] | None

    @property
    def text(self) -> Made:
        first, *rest = (" ".join(words) for words in self.sides)
        return first, rest[0] if rest else ""


class Replacing(Protocol):
    def __call__(self, drafts: list[Draft], share: float, context: WorkerContext) -> None:
        """Changes words of the drafts in place."""


def make_up(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    rows: range,
    spec: AugmentationSpec,
    seed: int,
    replace: Replacing,
    context: WorkerContext,
) -> list[Made]:
    """`spec.copies` of each of `rows` of the texts. Of a pair each side is changed by itself, and nothing is joined."""
    kinds = [kind for kind in spec.kinds if kind != "join" or pairs is None]
    drafts = [
        _draft(texts, pairs, row, kinds, np.random.default_rng(derived_seed(seed, "augment", copy, row)))
        for row in rows
        for copy in range(spec.copies)
    ]
    replace([draft for draft in drafts if draft.draws is not None], spec.replace_share, context)
    return [draft.text for draft in drafts]


def _draft(
    texts: Sequence[str], pairs: Sequence[str] | None, row: int, kinds: Sequence[str], rng: np.random.Generator
) -> Draft:
    kind = kinds[int(rng.integers(len(kinds)))]
    sides = [texts[row].split()] if pairs is None else [texts[row].split(), pairs[row].split()]
    if kind == "join":
        return Draft([sides[0] + texts[int(rng.integers(len(texts)))].split()], None)
    if kind == "span":
        sides = [_span(words, rng) for words in sides]
    return Draft(sides, [rng.random(len(words)) for words in sides])


def _span(words: list[str], rng: np.random.Generator) -> list[str]:
    """A run of the words, a quarter of them at least."""
    length = int(rng.integers(max(1, -(-len(words) // 4)), len(words) + 1))
    start = int(rng.integers(0, len(words) - length + 1))
    return words[start : start + length]


@functools.lru_cache(maxsize=1)
def replacing(base: str, words: str, candidates: int, max_length: int, texts: tuple[str, ...]) -> Replacing:
    """What `words` of the study means for the model in `base`; kept by the process, since a lane makes many parts. Raises
    TrialError where a masked-LM head is wanted and its weights are not there."""
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if words == "embeddings":
        table = (
            AutoModel.from_pretrained(base, trust_remote_code=False, use_safetensors=True)
            .get_input_embeddings()
            .weight.detach()
            .float()
            .numpy()
        )
        return NearWords(near_words(texts, tokenizer, table, candidates))
    if not tokenizer.is_fast:
        raise TrialError(
            f"{base} has no fast tokenizer, which says where in a text a piece lies; write words: embeddings"
        )
    model, loaded = AutoModelForMaskedLM.from_pretrained(
        base, output_loading_info=True, trust_remote_code=False, use_safetensors=True
    )
    if loaded["missing_keys"]:
        raise TrialError(
            f"{base} has no weights of a masked-LM head ({sorted(loaded['missing_keys'])[0]}); write words: embeddings"
        )
    return MaskedWords(model, tokenizer, candidates, max_length)


# -- by near words


class NearWords:
    """Words replaced by near ones of the teacher's embeddings."""

    def __init__(self, near: dict[str, list[str]]) -> None:
        self.near = near

    def __call__(self, drafts: list[Draft], share: float, context: WorkerContext) -> None:
        for draft in drafts:
            assert draft.draws is not None
            for words, draws in zip(draft.sides, draft.draws, strict=True):
                for place, draw in enumerate(draws):
                    candidates = self.near.get(words[place])
                    if draw < share and candidates:  # the draw, below the share, is uniform there
                        words[place] = candidates[int(draw / share * len(candidates))]


def near_words(
    texts: Sequence[str], tokenizer: Any, embeddings_VH: np.ndarray, neighbours: int
) -> dict[str, list[str]]:
    """For each word of the texts that is one piece of the tokenizer: its nearest others by cosine, the nearest first."""
    counts = Counter(word for text in texts for word in text.split())
    words = [word for word, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) if word.isalpha()]
    piece_of = {word: piece for word, piece in _pieces(words, tokenizer).items() if piece < len(embeddings_VH)}
    form_of: dict[int, str] = {}  # of words that are one piece, such as Good and good, the more frequent
    for word, piece in piece_of.items():
        form_of.setdefault(piece, word)
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


def _pieces(words: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """Each of the words that is one known piece of the tokenizer, within a text, and that piece; in their order."""
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    return {
        word: ids[0]
        for word, ids in zip(words, encoded, strict=True)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id
    }


# -- by the masked-LM head


class MaskedWords:
    """Words replaced by what a masked language model holds likeliest in their place, the word itself left out."""

    def __init__(self, model: Any, tokenizer: Any, candidates: int, max_length: int) -> None:
        self._model, self._tokenizer, self._max_length = model.to(device()).eval(), tokenizer, max_length
        forms = [tokenizer.decode([piece]).strip() for piece in range(min(len(tokenizer), model.config.vocab_size))]
        words = [form for form in dict.fromkeys(forms) if form.isalpha() and form not in tokenizer.all_special_tokens]
        self._form_of = {piece: word for word, piece in _pieces(words, tokenizer).items()}
        self._words_W = torch.tensor(sorted(self._form_of), device=device())
        self._count = min(candidates, len(self._form_of) - 1)

    @torch.inference_mode()
    def __call__(self, drafts: list[Draft], share: float, context: WorkerContext) -> None:
        if not drafts or self._count < 1:
            return
        texts = [draft.text for draft in drafts]
        pairs = [second for _, second in texts] if len(drafts[0].sides) > 1 else None
        encodings = self._tokenizer(
            [first for first, _ in texts], pairs, truncation="longest_first", max_length=self._max_length
        ).encodings
        types = None if pairs is None else [encoding.type_ids for encoding in encodings]
        tokens = Tokens.laid_out([encoding.ids for encoding in encodings], types)
        places = [self._places(draft, encoding, share) for draft, encoding in zip(drafts, encodings, strict=True)]
        done = 0
        for rows in evaluation_rows(tokens.lengths, MASKED_TOKENS):
            masked = np.array([row for row in rows if places[row]], np.int64)
            if len(masked):
                self._replace(drafts, tokens, masked, places, share)
            done += len(rows)
            context.heartbeat(done, len(drafts))

    def _places(self, draft: Draft, encoding: Any, share: float) -> list[tuple[int, int, int]]:
        """(position of the piece, side, word) of each word that is replaced."""
        assert draft.draws is not None
        out, word_at = [], []
        for words in draft.sides:
            ends = np.cumsum([len(word) + 1 for word in words]) - 1  # a blank after each
            starts = [int(end) - len(word) for word, end in zip(words, ends, strict=True)]
            word_at.append(
                {(start, int(end)): place for place, (start, end) in enumerate(zip(starts, ends, strict=True))}
            )
        for position, (side, (start, end)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True)):
            if side is None or encoding.ids[position] not in self._form_of:
                continue
            word = word_at[side].get((start, end), word_at[side].get((start + 1, end)))  # with the blank before it
            if word is not None and draft.draws[side][word] < share:
                out.append((position, side, word))
        return out

    def _replace(
        self,
        drafts: list[Draft],
        tokens: Tokens,
        rows: np.ndarray,
        places: list[list[tuple[int, int, int]]],
        share: float,
    ) -> None:
        batch = padded(tokens, rows, self._tokenizer.pad_token_id or 0).to(device())
        at = [(line, *place) for line, row in enumerate(rows) for place in places[row]]
        lines, positions = [entry[0] for entry in at], [entry[1] for entry in at]
        own = batch.ids_BT[lines, positions]
        ids_BT = batch.ids_BT.clone()
        ids_BT[lines, positions] = self._tokenizer.mask_token_id
        with autocast(exact=True):
            logits = self._model(**named_inputs(self._model.config, ids_BT, batch.mask_BT, batch.types_BT)).logits
        scores = logits[lines, positions][:, self._words_W].float()
        scores[self._words_W[None, :] == own[:, None]] = -torch.inf
        best = self._words_W[scores.topk(self._count).indices].tolist()
        for (line, _, side, word), candidates in zip(at, best, strict=True):
            draft = drafts[rows[line]]
            assert draft.draws is not None
            piece = candidates[int(draft.draws[side][word] / share * len(candidates))]
            draft.sides[side][word] = self._form_of[piece]
