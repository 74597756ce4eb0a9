"""Masked pieces: which a model has to tell from the others, and how it does (BERT, arXiv:1810.04805, section 3.1).

Held-out texts have their masks once and for all, each of them [MASK], so that all models are asked the same. In training they
are drawn anew for each row in each epoch, and one in ten is another piece, one in ten itself.
Legend: B batch, T tokens, P places of a batch, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from search.trial.batches import Batch
from search.trial.places import masked_at, num_masked, num_told

AS_MASK, AS_ANOTHER = 0.8, 0.1


@dataclass(frozen=True)
class Asked:
    """A batch of training as the model reads it, and what it is asked."""

    batch: Batch
    pieces_P: torch.Tensor  # int64, what stood at the batch's places
    order_B: torch.Tensor | None  # int64, 1 where a row's two texts stand in the wrong order, -100 where it has one


def drawn(batch: Batch, mask_id: int, num_pieces: int, seed: int, epoch: int, in_order: bool = True) -> Asked:
    """The batch with masks of its own; where not `in_order` with half of its pairs the other way round too. All that follows from
    seed, epoch and row alone, in whatever batch the row is."""
    lengths_B = batch.mask_BT.sum(1).numpy()
    second_B = lengths_B - batch.types_BT.sum(1).numpy()
    told_B, width = num_told(lengths_B, second_B), batch.ids_BT.shape[1]
    counts_B, order_B = num_masked(told_B), np.full(len(lengths_B), -100)
    ids_BT, types_BT, kept = batch.ids_BT.numpy().copy(), batch.types_BT.numpy().copy(), []
    for line, row in enumerate(batch.rows.tolist()):
        rng, length, second = np.random.default_rng([seed, epoch, row]), int(lengths_B[line]), int(second_B[line])
        if not in_order and 2 < second < length - 1:
            order_B[line] = rng.integers(2)
            if order_B[line]:
                first, other = ids_BT[line, 1 : second - 1].copy(), ids_BT[line, second : length - 1].copy()
                between, second = ids_BT[line, second - 1], len(other) + 2
                ids_BT[line, 1 : length - 1] = np.concatenate([other, [between], first])
                types_BT[line, :second], types_BT[line, second:length] = 0, 1
        if count := int(counts_B[line]):
            at = masked_at(rng, int(told_B[line]), count, second)
            dice, others, own = rng.random(count), rng.integers(0, num_pieces, count), ids_BT[line, at]
            instead = np.where(dice < AS_MASK, mask_id, np.where(dice < AS_MASK + AS_ANOTHER, others, own))
            kept.append((line * width + at, own.copy()))
            ids_BT[line, at] = instead
    none = np.zeros(0, np.int64)
    at_P = torch.from_numpy(np.concatenate([none, *(at for at, _ in kept)]))
    pieces_P = torch.from_numpy(np.concatenate([none, *(own for _, own in kept)]))
    read = replace(batch, ids_BT=torch.from_numpy(ids_BT), types_BT=torch.from_numpy(types_BT), places_P=at_P)
    return Asked(read, pieces_P, None if in_order else torch.from_numpy(order_B))


class OrderHead(nn.Module):
    """Whether a row's two texts stand in the right order, told from its first state (B, H), as ALBERT does by its pooler; thrown
    away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.order = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, first_BH: torch.Tensor) -> torch.Tensor:
        return self.order(torch.tanh(self.dense(first_BH)))


def piece_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes logits over the vocabulary (P, V) of last states (P, H), of a Hugging Face `...ForMaskedLM`: where few places are
    read, the product with the whole vocabulary need not be made for the others."""
    kind = model.config.model_type
    if kind == "distilbert":
        return lambda states: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(states)))
        )
    for name in ("cls", "predictions", "lm_head"):  # BERT's and SqueezeBERT's, ALBERT's, RoBERTa's
        if (head := getattr(model, name, None)) is not None:
            return lambda states: head(states)
    return lambda states: model.generator_lm_head(model.generator_predictions(states))  # ELECTRA's
