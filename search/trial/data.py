"""TransferSet: what students learn from, as arrays that Ray shares without copying.

Legend: N rows, C classes, W words of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from search.trial.answers import Questions
from search.trial.metrics import NO_TAG, measure
from search.trial.places import NOWHERE, Places
from spaces.student import TaskHead

ENCODED_AT_ONCE = 20_000  # texts: what a tokenizer returns of one takes many times its ids


@dataclass(frozen=True)
class Tokens:
    """N rows of pieces laid end to end: row i is ids[offsets[i]:offsets[i + 1]]; its second text (token type 1)
    begins at `second[i]` within the row, which is the row's length where there is one text only. With `places` there is an
    output for each of them, else one for each row."""

    ids: np.ndarray  # int32
    offsets: np.ndarray  # int64, N + 1
    second: np.ndarray  # int32, N
    places: Places | None = None

    def __len__(self) -> int:
        return len(self.second)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def taken(self, rows: np.ndarray) -> Tokens:
        """These rows alone, in this order; at least one."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        ids = np.concatenate([self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows])
        return Tokens(ids, offsets, self.second[rows], self.places and self.places.taken(rows))

    def first(self, count: int) -> Tokens:
        """The first rows alone; nothing is copied."""
        places = self.places and self.places.first(count)
        return Tokens(self.ids[: self.offsets[count]], self.offsets[: count + 1], self.second[:count], places)

    @classmethod
    def joined(cls, *parts: Tokens) -> Tokens:
        """The rows of all, one part after the other; at least one part."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.concatenate([part.ids for part in parts])
        places = [part.places for part in parts if part.places is not None]
        second = np.concatenate([part.second for part in parts])
        return cls(ids, offsets, second, Places.joined(*places) if places else None)

    def with_rows(self, chosen: np.ndarray, theirs: Tokens) -> Tokens:
        """The `chosen` (N,) rows as in `theirs`, which holds them alone, in order; the others as they are."""
        lengths, second = self.lengths, self.second.copy()
        kept = np.repeat(~chosen, lengths)
        lengths[chosen], second[chosen] = theirs.lengths, theirs.second
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ours, laid = np.repeat(~chosen, lengths), np.empty(offsets[-1], np.int32)
        laid[ours], laid[~ours] = self.ids[kept], theirs.ids
        places = self.places
        if places is not None and theirs.places is not None:
            places = places.with_rows(np.flatnonzero(chosen), theirs.places)
        return Tokens(laid, offsets, second, places)

    @property
    def num_outputs(self) -> int:
        return len(self) if self.places is None else len(self.places.at)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Which outputs are of these rows, in this order."""
        return rows if self.places is None else self.places.numbers(rows)

    def num_read(self, rows: np.ndarray) -> int:
        """How many outputs of these rows are read: all but those that are NOWHERE."""
        return len(rows) if self.places is None else int((self.places.at[self.places.numbers(rows)] != NOWHERE).sum())

    def masked(self, mask_id: int) -> tuple[Tokens, np.ndarray]:
        """The rows with some of their pieces masked, which are their places; and (W,) what stood there. Held-out texts stay so, so
        that all models are asked the same."""
        places, ids = Places.of_masks(self.lengths, self.second), self.ids.copy()
        where = np.repeat(self.offsets[:-1], np.diff(places.offsets)) + places.at
        pieces, ids[where] = ids[where].copy(), mask_id
        return replace(self, ids=ids, places=places), pieces

    def shown(self, pieces: np.ndarray) -> Tokens:
        """The rows as they were before `masked`."""
        assert self.places is not None
        ids = self.ids.copy()
        ids[np.repeat(self.offsets[:-1], np.diff(self.places.offsets)) + self.places.at] = pieces
        return replace(self, ids=ids)

    def remapped(self, new_ids: np.ndarray) -> Tokens:
        """The same rows in another vocabulary; `new_ids[old]` is the new id."""
        return replace(self, ids=new_ids[self.ids].astype(np.int32))

    @classmethod
    def encode(
        cls,
        tokenizer: Any,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        max_length: int,
        task_head: TaskHead = "text",
    ) -> Tokens:
        """Tokenises with truncation to `max_length` pieces (the longer text of a pair is cut first). For `token` heads texts are
        words with a blank between (any fast tokenizer), and each word has a place. For `span` heads the second text alone is cut,
        and the places of a row are its first piece ([CLS]) and each word of the second text: it starts at its first piece and ends
        at its last. For `masked` heads some pieces are masked, and are the places."""
        if not texts:
            places = None if task_head == "text" else Places(np.zeros(0, np.int32), np.zeros(1, np.int64))
            return cls(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32), places)
        parts = []
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            part = slice(start, start + ENCODED_AT_ONCE)
            some = list(texts[part])
            if task_head == "token":
                parts.append(cls._encoded_words(tokenizer, [text.split(" ") for text in some], max_length))
                continue
            if task_head == "span":
                assert pairs is not None
                parts.append(cls._encoded_windows(tokenizer, some, list(pairs[part]), max_length))
                continue
            parts.append(cls._encoded(tokenizer, some, None if pairs is None else list(pairs[part]), max_length))
        whole = cls.joined(*parts)
        return whole.masked(tokenizer.mask_token_id)[0] if task_head == "masked" else whole

    @classmethod
    def _encoded(cls, tokenizer: Any, texts: list[str], pairs: list[str] | None, max_length: int) -> Tokens:
        if getattr(tokenizer, "is_fast", False):  # straight from the Rust side: half the time of the Python wrapper
            backend = tokenizer.backend_tokenizer
            backend.enable_truncation(max_length, strategy="longest_first")
            backend.no_padding()
            encodings = backend.encode_batch_fast(texts if pairs is None else list(zip(texts, pairs, strict=True)))
            rows = [encoding.ids for encoding in encodings]
            types = [encoding.type_ids for encoding in encodings] if pairs is not None else None
        else:
            encoded = tokenizer(texts, pairs, truncation="longest_first", max_length=max_length)
            rows, types = encoded["input_ids"], encoded.get("token_type_ids") if pairs is not None else None
        return cls.laid_out(rows, types)

    @classmethod
    def _encoded_words(cls, tokenizer: Any, texts: list[list[str]], max_length: int) -> Tokens:
        backend = tokenizer.backend_tokenizer
        backend.enable_truncation(max_length)
        backend.no_padding()
        encodings = backend.encode_batch(texts, is_pretokenized=True)  # the fast one does not say whose a piece is
        places = Places.of_words([encoding.word_ids for encoding in encodings], [len(words) for words in texts])
        return replace(cls.laid_out([encoding.ids for encoding in encodings], None), places=places)

    @classmethod
    def _encoded_windows(cls, tokenizer: Any, questions: list[str], windows: list[str], max_length: int) -> Tokens:
        """How many words a window has is known before it is cut, so that it has as many places in every vocabulary."""
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        rows: list[list[int]] = []
        types: list[list[int]] = []
        words: list[list[int | None]] = []
        counts: list[int] = []
        for encoding in backend.encode_batch(list(zip(questions, windows, strict=True))):
            sides = encoding.sequence_ids
            last = len(sides) - sides[::-1].index(1)  # special tokens follow
            cut = slice(min(last, max_length - (len(sides) - last)), last)
            word_of_piece = [
                word + 1 if side == 1 else None for side, word in zip(sides, encoding.word_ids, strict=True)
            ]
            word_of_piece[0] = 0
            counts.append(1 + max(word for word in word_of_piece if word is not None))
            if cut.start < last:  # of a word that is cut nothing is read
                broken = word_of_piece[cut.start]
                word_of_piece = [None if word == broken else word for word in word_of_piece]
            parts: tuple[tuple[list[Any], list[Any]], ...] = (
                (rows, encoding.ids), (types, encoding.type_ids), (words, word_of_piece)
            )  # fmt: skip
            for kept, whole in parts:
                del whole[cut]
                kept.append(whole)
        return replace(cls.laid_out(rows, types), places=Places.of_words(words, counts, with_ends=True))

    @classmethod
    def laid_out(cls, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> Tokens:
        """Rows of pieces, end to end; `types` are their token types where there are pairs."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
        second = np.diff(offsets).astype(np.int32)
        for index, row_types in enumerate(types or ()):
            if 1 in row_types:
                second[index] = row_types.index(1)
        return cls(ids, offsets, second)


@dataclass(frozen=True)
class Split:
    """One split: its pieces under each vocabulary, its labels (class numbers or numbers (N,), 0 and 1 (N, C), class numbers
    of all words (W,), or 1 at the places where the answer starts and ends (W, 2)), and the teacher's outputs (N, C) or (W, C) once
    they are there. Where questions are answered a row is a window. Where outputs are vectors rows 2i and 2i + 1 of a held-out split
    are pair i, and labels are numbers of the pairs (N / 2,)."""

    tokens: dict[str, Tokens]
    labels: np.ndarray
    teacher_logits: np.ndarray | None = None
    texts: tuple[list[str], list[str] | None] | None = None  # kept for the splits that delivery scores from text
    questions: Questions | None = None  # likewise, of the rows of such a split

    def __len__(self) -> int:
        return len(next(iter(self.tokens.values())))

    @property
    def num_outputs(self) -> int:
        return next(iter(self.tokens.values())).num_outputs

    @property
    def num_scored(self) -> int:
        """How many texts are scored; or questions; or pairs of texts, where those have the labels."""
        return min(len(self), len(self.labels)) if self.questions is None else len(self.questions)

    @property
    def layout(self) -> np.ndarray | Questions | None:
        """What metrics have to know of the outputs where a row has several: where each row's words begin
        (N + 1,), or the questions."""
        places = next(iter(self.tokens.values())).places
        return places.offsets if places is not None and self.questions is None else self.questions

    def first(self, count: int) -> Split:
        """The first rows alone; nothing is copied."""
        tokens = {name: tokens.first(count) for name, tokens in self.tokens.items()}
        num_outputs = next(iter(tokens.values())).num_outputs
        logits = None if self.teacher_logits is None else self.teacher_logits[:num_outputs]
        return Split(tokens, self.labels[:num_outputs], logits)


# By target: the label of a text that has none.
NO_LABEL = {"class": -100, "classes": np.nan, "number": np.nan, "tags": NO_TAG, "span": 0, "vector": np.nan}


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary that students may have. `kept` are the teacher's ids in the new order (all of them: the full one),
    `counts` how often the training text uses each; `files` are its tokenizer's, as a Hugging Face folder holds them."""

    name: str
    kept: np.ndarray
    counts: np.ndarray
    pad_id: int
    files: dict[str, bytes]
    mask_id: int | None = None  # of the piece that stands for another


@dataclass(frozen=True)
class StatesOnDisk:
    """Where the teacher's hidden states of the training rows lie: a folder for each vocabulary, and which states are kept."""

    folders: dict[str, Path]
    stored: tuple[int, ...]


@dataclass(frozen=True)
class TransferSet:
    splits: dict[str, Split]
    vocabularies: dict[str, Vocabulary]
    label_names: list[str]
    max_length: int
    fingerprint: str = ""
    target: str = "class"
    problem_type: str | None = "single_label_classification"
    class_weights: np.ndarray | None = None  # (C,) of the loss to the labels
    own_metrics: dict[str, str] = field(default_factory=dict)  # name -> "module:function"
    own_families: dict[str, str] = field(default_factory=dict)  # likewise, a Family each
    own_heads: dict[str, str] = field(default_factory=dict)  # likewise, a class of torch.nn.Module each
    states: StatesOnDisk | None = None  # None: who needs hidden states runs the teacher
    num_labelled: int | None = None  # of the training rows, the first ones; None: all
    task_head: TaskHead = "text"
    order_share: float = 0.0  # of the loss: in which order the two halves of a text stand

    def measure(self, name: str, outputs: np.ndarray) -> dict[str, float]:
        """The metrics of a model's outputs over the split `name`."""
        split = self.splits[name]
        return measure(self.target, self.own_metrics, outputs, split.labels, self.label_names, split.layout)

    def training(self, vocabulary: str, taught: bool) -> tuple[Tokens, np.ndarray, np.ndarray | None, int]:
        """What a student trains on, and how many of the rows have labels (the first ones): (tokens, labels, teacher's
        outputs, num_labelled). Text without labels is of use only to who is `taught` by the teacher."""
        whole = (
            self.joined() if taught or self.target == "vector" else self.labelled()
        )  # a vector is always the teacher's
        train = whole.splits["train"]
        count = len(train) if whole.num_labelled is None else whole.num_labelled
        return train.tokens[vocabulary], train.labels, train.teacher_logits, count

    def labelled(self) -> TransferSet:
        """The same without the texts that have no label; nothing is copied."""
        splits, count = {name: split for name, split in self.splits.items() if name != "unlabelled"}, self.num_labelled
        if count is not None:
            splits["train"] = splits["train"].first(count)
        return replace(self, splits=splits, num_labelled=None)

    def joined(self) -> TransferSet:
        """The same with the texts that have no label behind the training rows: put together once, and not on every lane."""
        train, more = self.splits["train"], self.splits.get("unlabelled")
        if more is None:
            return self
        outputs = None
        if train.teacher_logits is not None and more.teacher_logits is not None:
            outputs = np.concatenate([train.teacher_logits, more.teacher_logits])
        tokens = {name: Tokens.joined(own, more.tokens[name]) for name, own in train.tokens.items()}
        whole = Split(tokens, np.concatenate([train.labels, more.labels]), outputs)
        held_out = {name: split for name, split in self.splits.items() if name not in ("train", "unlabelled")}
        return replace(self, splits={"train": whole, **held_out}, num_labelled=len(train))

    def with_teacher_logits(self, logits: dict[str, np.ndarray]) -> TransferSet:
        splits = {name: replace(split, teacher_logits=logits[name]) for name, split in self.splits.items()}
        return replace(self, splits=splits)
