"""Tokens and the batches drawn from them, as properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.trial.batches import BUCKET_BATCHES, evaluation_rows, num_batches, padded, training_rows
from search.trial.data import Tokens

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=150).map(np.array)


def tokens_of(lengths: np.ndarray) -> Tokens:
    """Row i is made of pieces i + 1 alone; the second text of a row begins at its last piece."""
    ids = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]), (lengths - 1).astype(np.int32))


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_an_epoch_draws_every_row_once(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    batches = training_rows(lengths, batch_size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == num_batches(len(lengths), batch_size)
    assert all(0 < len(rows) <= batch_size for rows in batches)
    again = training_rows(lengths, batch_size, seed, epoch)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


@given(st.integers(0, 10**6), st.integers(1, 500))
def test_the_number_of_batches_is_known_before(num_rows: int, batch_size: int) -> None:
    full, rest = divmod(num_rows, batch_size * BUCKET_BATCHES)
    assert num_batches(num_rows, batch_size) == full * BUCKET_BATCHES + math.ceil(rest / batch_size)


def test_batches_are_of_like_lengths_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 640)
    first, second = (training_rows(lengths, 16, 7, epoch) for epoch in (0, 1))
    padding = sum(int(lengths[rows].max()) * len(rows) for rows in first) / lengths.sum()
    assert padding < 1.1  # random batches would hold about 1.9 times the tokens
    assert not all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    widths = [int(lengths[rows].max()) for rows in first]
    assert widths != sorted(widths)  # long and short ones come mixed


@given(LENGTHS, st.data())
def test_a_batch_is_padded_to_its_longest_row_and_no_further(lengths: np.ndarray, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    batch = padded(tokens_of(lengths), rows, pad_id=0)
    assert batch.ids_BT.shape == (len(rows), lengths[rows].max())
    assert batch.mask_BT.sum(1).tolist() == lengths[rows].tolist()
    for place, row in enumerate(rows):
        assert batch.ids_BT[place].tolist() == [row + 1] * lengths[row] + [0] * int(lengths[rows].max() - lengths[row])
        assert batch.types_BT[place].nonzero().flatten().tolist() == [lengths[row] - 1]


@given(LENGTHS, st.integers(1, 200), st.integers(1, 20))
def test_evaluation_covers_every_row_within_its_budget(lengths: np.ndarray, budget: int, most: int) -> None:
    batches = list(evaluation_rows(lengths, budget, most))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
        assert len(rows) <= most


def test_encoding_cuts_at_max_length_and_knows_where_the_second_text_begins(tokenizer: Any) -> None:
    texts, pairs = ["bread soup apple", "ball " * 30, "tune"], ["team coach", "drum", "piano " * 30]
    tokens = Tokens.encode(tokenizer, texts, pairs, max_length=10)
    assert tokens.lengths.tolist() == [8, 10, 10]
    assert tokens.second.tolist() == [5, 8, 3]  # [CLS] a b c [SEP] | d e [SEP]; the longer text is cut first
    alone = Tokens.encode(tokenizer, texts, None, max_length=10)
    assert alone.lengths.tolist() == [5, 10, 3]
    assert alone.second.tolist() == [5, 10, 3]
    assert len(Tokens.encode(tokenizer, [], None, 10)) == 0
    slow = type("Slow", (), {"is_fast": False, "__call__": lambda self, *args, **named: tokenizer(*args, **named)})()
    for given_pairs in (pairs, None):
        left, right = (Tokens.encode(one, texts, given_pairs, 10) for one in (tokenizer, slow))
        assert np.array_equal(left.ids, right.ids)
        assert np.array_equal(left.second, right.second)
