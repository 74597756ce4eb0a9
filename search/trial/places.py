"""Places: where in its rows a model's outputs are read, where a row has several.

Legend: N rows, W words of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NOWHERE = -1  # the place of a word that nothing is read for
MASKED_SHARE = 0.15  # of a text's pieces (BERT, arXiv:1810.04805, section 3.1)


def num_told(lengths_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """(N,) how many pieces of each row are its texts' own: one special piece stands before them, one behind, and one between where
    there are two."""
    return np.maximum(lengths_N - 2 - (second_N < lengths_N), 0)


def num_masked(told_N: np.ndarray) -> np.ndarray:
    """(N,) how many of so many pieces are masked: one at least, where there is one."""
    return np.minimum(told_N, np.maximum(1, np.round(MASKED_SHARE * told_N))).astype(np.int64)


def masked_at(rng: np.random.Generator, told: int, count: int, second: int) -> np.ndarray:
    """(count,) which pieces of a row to mask, of `told` that are its texts' own; the second text begins at `second`."""
    at = 1 + rng.choice(told, count, replace=False)
    return np.where(at >= second - 1, at + 1, at)  # over the special piece between


@dataclass(frozen=True)
class Places:
    """Where in N rows outputs are read, laid end to end: row i has at[offsets[i]:offsets[i + 1]], a piece's number within the row
    each. A word is read at its first piece. It has no place (NOWHERE) where it was cut off, where the tokenizer makes nothing
    of it, and where its label is ignored: then no loss sees it. Labels and teacher's outputs lie in the same order,
    whatever the vocabulary. Of two outputs, for the start of a span and its end, the second is read at `ends`: a word's last
    piece."""

    at: np.ndarray  # int32, W
    offsets: np.ndarray  # int64, N + 1
    ends: np.ndarray | None = None  # int32, W

    @classmethod
    def of_words(
        cls, word_of_piece: Sequence[Sequence[int | None]], num_words: Sequence[int], with_ends: bool = False
    ) -> Places:
        """The first piece of each word (and the last), from the word (or none) that each piece of a row belongs to."""
        offsets = np.concatenate([[0], np.cumsum(num_words)]).astype(np.int64)
        at = np.full(offsets[-1], NOWHERE, np.int32)
        ends = np.full(offsets[-1], NOWHERE, np.int32)
        for start, row in zip(offsets.tolist(), word_of_piece, strict=False):
            for piece in range(len(row) - 1, -1, -1):
                if (word := row[piece]) is not None:
                    at[start + word] = piece
                    if ends[start + word] == NOWHERE:
                        ends[start + word] = piece
        return cls(at, offsets, ends if with_ends else None)

    @classmethod
    def of_masks(cls, lengths_N: np.ndarray, second_N: np.ndarray) -> Places:
        """The pieces to mask in rows of these lengths, which they follow from alone."""
        told_N, rng = num_told(lengths_N, second_N), np.random.default_rng(0)
        counts = num_masked(told_N)
        rows = zip(told_N.tolist(), counts.tolist(), second_N.tolist(), strict=True)
        chosen = [np.sort(masked_at(rng, told, count, second)) for told, count, second in rows if count]
        at = np.concatenate([np.zeros(0, np.int64), *chosen]).astype(np.int32)
        return cls(at, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Which places are of these rows, in this order."""
        starts, counts = self.offsets[rows], np.diff(self.offsets)[rows]
        before = np.cumsum(counts) - counts
        return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))

    def taken(self, rows: np.ndarray) -> Places:
        counts, numbers = np.diff(self.offsets)[rows], self.numbers(rows)
        ends = None if self.ends is None else self.ends[numbers]
        return Places(self.at[numbers], np.concatenate([[0], np.cumsum(counts)]), ends)

    def first(self, count: int) -> Places:
        last = self.offsets[count]
        return Places(self.at[:last], self.offsets[: count + 1], None if self.ends is None else self.ends[:last])

    @classmethod
    def joined(cls, *parts: Places) -> Places:
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        ends = [part.ends for part in parts if part.ends is not None]
        at, offsets = np.concatenate([part.at for part in parts]), np.concatenate([[0], np.cumsum(counts)])
        return cls(at, offsets, np.concatenate(ends) if ends else None)

    def with_rows(self, rows: np.ndarray, theirs: Places) -> Places:
        """These rows as in `theirs`, which holds them alone, with as many places each; the others as they are."""
        numbers, at, ends = self.numbers(rows), self.at.copy(), self.ends
        at[numbers] = theirs.at
        if ends is not None and theirs.ends is not None:
            ends = ends.copy()
            ends[numbers] = theirs.ends
        return replace(self, at=at, ends=ends)

    def without(self, left_out: np.ndarray) -> Places:
        """The same where nothing is read for the places that `left_out` (W,) marks."""
        return replace(self, at=np.where(left_out, NOWHERE, self.at).astype(np.int32))
