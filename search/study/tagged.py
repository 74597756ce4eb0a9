"""Texts whose words have tags: a row read and checked, and the tags in order. Entities are tagged by BIO: O, B-TYPE, I-TYPE."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from spaces.errors import cut
from spaces.study import DataSpec
from spaces.task import OUTSIDE

IGNORED = "-100"  # the tag (in a file also null) of a word that nobody learns or is scored on
BIO = re.compile(r"([BI]-)(.+)", re.DOTALL)
BLANK_INSIDE = "\u00a0"  # stands for a blank within a word, since a blank stands between words


def row_of(words: Any, tags: Any, data: DataSpec) -> tuple[str, tuple[str, ...]]:
    """The words with a blank between, and a tag for each (of a text without labels, `tags` None: IGNORED). Both are lists, or
    texts with blanks between. Raises ValueError."""
    found = [re.sub(r"\s", BLANK_INSIDE, word) for word in _parts(words)]
    if not any(word.strip() for word in found):
        raise ValueError("no words")
    if tags is None:
        return " ".join(found), (IGNORED,) * len(found)
    named = tuple(_tag(tag, data) for tag in _parts(tags))
    if len(named) != len(found):
        raise ValueError(f"{len(found)} words and {len(named)} tags")
    return " ".join(found), named


def _parts(cell: Any) -> list[str]:
    if isinstance(cell, list | tuple):
        return [IGNORED if part is None else str(part) for part in cell]
    return str(cell).split()


def _tag(tag: str, data: DataSpec) -> str:
    """As the teacher names it; `data.labels` may name the tag or its type alone."""
    plain = data.labels.get(tag, tag)
    known = BIO.fullmatch(plain)
    if known:
        plain = known[1] + data.labels.get(known[2], known[2])
    elif plain not in (OUTSIDE, IGNORED):
        raise ValueError(f"tag {cut(repr(tag), 100)}, which is not O, B-TYPE or I-TYPE")
    return sys.intern(plain)


def names_in_order(trained: Iterable[Sequence[str]], others: Iterable[Sequence[str]]) -> list[str]:
    """O, and B- and I- of each type that training knows, by alphabet: those that occur in any split."""
    mine = {tag for tags in trained for tag in tags}
    every = mine | {tag for tags in others for tag in tags}
    types = sorted({tag[2:] for tag in mine if BIO.fullmatch(tag)})
    return [OUTSIDE, *(tag for kind in types for tag in (f"B-{kind}", f"I-{kind}") if tag in every)]


def num_broken(labels: Iterable[Sequence[str]]) -> int:
    """Tags I-TYPE that continue no entity of their type."""
    count = 0
    for tags in labels:
        before = OUTSIDE
        for tag in tags:
            count += tag.startswith("I-") and before[2:] != tag[2:]
            before = tag if tag != IGNORED else before
    return count
