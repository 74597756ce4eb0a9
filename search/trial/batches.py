"""The batches drawn from a transfer set.

Legend: N rows, B batch, T tokens of the longest row of a batch, C classes, P places of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from search.trial.data import Tokens
from search.trial.places import NOWHERE

NEVER = -1e4  # the output of what cannot be chosen: its probability is 0 at any temperature, and its logarithm finite


@dataclass(frozen=True)
class Batch:
    rows: np.ndarray  # (B,) which rows of the split
    numbers: np.ndarray  # (P,) which outputs of the split are read: `rows` where there is one a row
    ids_BT: torch.Tensor  # int64
    mask_BT: torch.Tensor  # int64, 1 where a token is
    types_BT: torch.Tensor  # int64, token types
    places_P: torch.Tensor | None = None  # int64, of rows laid end to end with their padding
    ends_P: torch.Tensor | None = None  # likewise, where the second of two outputs is read

    def read(self, outputs: torch.Tensor) -> torch.Tensor:
        """(P, C) what a model said at the places, of its (B, T, C); where there is an output a row, its (B, C) as it is. Other
        pieces of a word, special tokens and padding come no further than this: no loss or metric sees them."""
        if self.places_P is None:
            return outputs
        flat = outputs.flatten(0, 1)
        if self.ends_P is None:
            return flat[self.places_P.to(outputs.device)]
        sides = (self.places_P, self.ends_P)
        return torch.stack([flat[places_P.to(outputs.device), side] for side, places_P in enumerate(sides)], -1)

    def compared(self, target: str, values: torch.Tensor, elsewhere: float = NEVER) -> torch.Tensor:
        """Outputs (P, C) as losses compare them: where the answer is one of a row's places (2 x B, T), each of the two over the
        row's pieces, with `elsewhere` where there is no place; as they are for any other target."""
        if target != "span":
            return values
        assert self.places_P is not None
        assert self.ends_P is not None
        empty = values.new_full((self.ids_BT.numel(),), elsewhere)
        sides = (
            empty.index_put((places_P.to(values.device),), values[:, side])
            for side, places_P in enumerate((self.places_P, self.ends_P))
        )
        return torch.cat([side.unflatten(0, self.ids_BT.shape) for side in sides])

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return replace(
            self,
            ids_BT=self.ids_BT.to(device, non_blocking=True),
            mask_BT=self.mask_BT.to(device, non_blocking=True),
            types_BT=self.types_BT.to(device, non_blocking=True),
        )


def padded(tokens: Tokens, rows: np.ndarray, pad_id: int) -> Batch:
    """The rows as one batch, padded to the longest of them."""
    starts = tokens.offsets[rows]
    lengths = tokens.offsets[rows + 1] - starts  # not `lengths`: that counts every row there is
    column = np.arange(int(lengths.max()))
    mask = column < lengths[:, None]
    where = np.minimum(starts[:, None] + column, len(tokens.ids) - 1)
    ids = np.where(mask, tokens.ids[where], pad_id).astype(np.int64)
    types = (mask & (column >= tokens.second[rows][:, None])).astype(np.int64)
    inputs = (torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(types))
    if tokens.places is None:
        return Batch(rows, rows, *inputs)
    numbers = tokens.places.numbers(rows)
    at = tokens.places.at[numbers]
    before = len(column) * np.repeat(np.arange(len(rows)), np.diff(tokens.places.offsets)[rows])
    there = at != NOWHERE
    places = torch.from_numpy((at + before)[there])
    if tokens.places.ends is None:
        return Batch(rows, numbers[there], *inputs, places)
    return Batch(rows, numbers[there], *inputs, places, torch.from_numpy((tokens.places.ends[numbers] + before)[there]))


BUCKET_BATCHES = 50  # batches of one length bucket: enough to sort well, few enough to keep the order random


def training_rows(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of each batch of one epoch: shuffled, sorted by length within windows, batches shuffled again.

    A pure function of (lengths, batch_size, seed, epoch), so that a restored trial sees what it would have seen.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    window, groups = batch_size * BUCKET_BATCHES, []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        groups += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [groups[i] for i in rng.permutation(len(groups))]


def num_batches(num_rows: int, batch_size: int) -> int:
    """How many batches `training_rows` makes of an epoch."""
    window = batch_size * BUCKET_BATCHES
    full, rest = divmod(num_rows, window)
    return full * BUCKET_BATCHES + -(-rest // batch_size)


def evaluation_rows(lengths: np.ndarray, token_budget: int = 4096, max_rows: int = 512) -> Iterator[np.ndarray]:
    """Batches over all rows, sorted by length, of at most `token_budget` tokens with padding (one row at least)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(max_rows, token_budget // max(1, int(lengths[order[start]]))))
        yield order[start : start + size]
        start += size
