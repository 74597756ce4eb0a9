"""The pieces of a tokenizer, by the kind of its model (in the words of Hugging Face's tokenizers), and what has to stay of them
so that text whose pieces are all kept is split as it was (decision 0032)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

A_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Pieces:
    """Of a model as tokenizer.json holds it. `ids` of all pieces."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.model = model
        self.ids: dict[str, int] = model["vocab"]

    @property
    def unknown(self) -> int | None:
        """The id of what stands for text that no piece is of."""
        return self.ids.get(self.model.get("unk_token") or "")

    def text(self, piece: str) -> str:
        """What it stands for in a text."""
        return piece

    def fault(self) -> str:
        """Why it cannot be cut, or nothing."""
        return ""

    def always(self, used: Iterable[str]) -> set[int]:
        """Single characters, which any text falls back to: those of the `used` pieces and ASCII's; and bytes, where text falls back
        to them."""
        characters = set().union(*(self.text(piece) for piece in used))
        return {
            index
            for piece, index in self.ids.items()
            if (len(plain := self.text(piece)) == 1 and (plain in characters or (plain.isascii() and plain.isprintable())))
            or (self.model.get("byte_fallback") and A_BYTE.fullmatch(piece))
        }  # fmt: skip

    def with_parts(self, index: int) -> set[int]:
        """The piece and those that it is made of, where splitting goes through them."""
        return {index}

    def cut(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """The model of the pieces that have a new id."""
        return {**self.model, "vocab": {piece: new_id[index] for piece, index in self.ids.items() if index in new_id}}


class WordPiece(Pieces):
    """The longest piece that is known, from the left: what is kept is taken as before."""

    def text(self, piece: str) -> str:
        return piece.removeprefix(self.model.get("continuing_subword_prefix") or "##")


class Unigram(Pieces):
    """SentencePiece's (arXiv:1808.06226): the split whose pieces are together the most likely, which stays so with fewer to choose
    from. An unknown character is as likely as the least likely piece and a constant less: that piece stays."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__({**model, "vocab": {}})
        self.scores: list[list[Any]] = model["vocab"]
        self.ids = {piece: index for index, (piece, _) in enumerate(self.scores)}

    @property
    def unknown(self) -> int | None:
        return self.model.get("unk_id")

    def always(self, used: Iterable[str]) -> set[int]:
        least = min(range(len(self.scores)), key=lambda index: self.scores[index][1])
        return {least} | super().always(used)

    def cut(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        kept = [entry for index, entry in enumerate(self.scores) if index in new_id]
        unknown = self.unknown
        return {**self.model, "vocab": kept, "unk_id": None if unknown is None else new_id[unknown]}


class Bpe(Pieces):
    """Pairs are merged in the order in which the merges were learnt: a piece needs those that it is merged from, and a merge that
    a text never made is not missed there."""

    def __init__(self, model: dict[str, Any], byte_level: bool) -> None:
        super().__init__(model)
        self.byte_level = byte_level
        self.pieces = {index: piece for piece, index in self.ids.items()}
        self.merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        self.merged_from: dict[str, list[str]] = {}
        for first, second in self.merges:
            self.merged_from.setdefault(first + second, []).extend((first, second))

    def fault(self) -> str:
        if self.model.get("dropout"):
            return "the merges are drawn at random"
        marked = self.model.get("continuing_subword_prefix") or self.model.get("end_of_word_suffix")
        return "the pieces mark where a word goes on or ends" if marked else ""

    def always(self, used: Iterable[str]) -> set[int]:
        if not self.byte_level:
            return super().always(used)
        return {index for piece, index in self.ids.items() if len(piece) == 1}

    def with_parts(self, index: int) -> set[int]:
        found: set[int] = set()
        waiting = [self.pieces[index]]
        while waiting:
            piece = waiting.pop()
            if self.ids[piece] not in found:
                found.add(self.ids[piece])
                waiting += self.merged_from.get(piece, [])
        return found

    def cut(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        kept = {piece for piece, index in self.ids.items() if index in new_id}
        merges = [
            [first, second]
            for first, second in self.merges
            if first in kept and second in kept and first + second in kept
        ]
        return {**super().cut(new_id), "merges": merges}


def pieces_of(tokenizer: Any) -> Pieces | str:
    """Of a tokenizer, or why its vocabulary cannot be cut."""
    if not getattr(tokenizer, "is_fast", False):
        return "there is no fast form (tokenizer.json)"
    backend = backend_of(tokenizer)
    model, kind = backend["model"], backend["model"]["type"]
    found: Pieces
    if kind == "WordPiece":
        found = WordPiece(model)
    elif kind == "Unigram":
        found = Unigram(model)
    elif kind == "BPE":
        found = Bpe(model, byte_level="ByteLevel" in json.dumps(backend["pre_tokenizer"]))
    else:
        return f"the kind is {kind}, not WordPiece, Unigram or BPE"
    if tokenizer.unk_token_id is None:
        return "no token stands for what is unknown"
    return found.fault() or found


def backend_of(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer as tokenizer.json holds it."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return content
