"""Masked pieces: which a model has to tell from the others, and how it does (BERT, arXiv:1810.04805, section 3.1).

Held-out texts have their masks once and for all, each of them [MASK], so that all models are asked the same. In training they
are drawn anew for each row in each epoch, and one in ten is another piece, one in ten itself.
Legend: B batch, T tokens, P places of a batch, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from search.trial.batches import Batch
from search.trial.places import AROUND, num_masked

AS_MASK, AS_ANOTHER = 0.8, 0.1


def drawn(batch: Batch, mask_id: int, num_pieces: int, seed: int, epoch: int) -> tuple[Batch, torch.Tensor]:
    """The batch with masks of its own, and (P,) what they hide. They follow from seed, epoch and row alone, in whatever batch
    the row is."""
    lengths, width = batch.mask_BT.sum(1).numpy(), batch.ids_BT.shape[1]
    counts = num_masked(lengths)
    flat, kept = batch.ids_BT.flatten().clone(), []
    for line, (row, length, count) in enumerate(
        zip(batch.rows.tolist(), lengths.tolist(), counts.tolist(), strict=True)
    ):
        if not count:
            continue
        rng = np.random.default_rng([seed, epoch, row])
        at = line * width + AROUND + rng.choice(length - 2 * AROUND, count, replace=False)
        dice, others = rng.random(count), rng.integers(0, num_pieces, count)
        instead = np.where(dice < AS_MASK, mask_id, np.where(dice < AS_MASK + AS_ANOTHER, others, flat[at].numpy()))
        kept.append((at, instead))
    at_P = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(at for at, _ in kept)]))
    labels_P = flat[at_P]
    flat[at_P] = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(instead for _, instead in kept)]))
    return replace(batch, ids_BT=flat.view_as(batch.ids_BT), places_P=at_P), labels_P


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
