"""What a student's stored layers start from: one teacher layer each, and where layers are shared a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from search.trial.batches import Batch, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens, Vocabulary
from search.trial.device import device
from search.trial.forward import named_inputs
from search.trial.hidden_losses import cosine_loss
from search.trial.start.initialise import copy_layers, initialise, spans
from search.trial.states import LaneStates
from spaces.trial import TrialConfig

ROWS_TRIED = 128  # training rows on which the start of a shared layer is chosen
BATCH = 32


def starting_layers(
    config: TrialConfig,
    student: Any,
    teacher: Any,
    state: Mapping[str, torch.Tensor],
    tokens: Tokens,
    vocabulary: Vocabulary,
    context: WorkerContext,
) -> list[tuple[int, ...]]:
    """For each stored layer the teacher's layers (from 0) whose mean it starts from. `best` tries each layer of a group in
    turn, the earlier groups as chosen and the later ones at their first, and leaves `student` initialised."""
    every = spans(config.shape, config.layers)
    if config.group_start == "mean":
        return every
    starts = [span[:1] for span in every]
    if config.group_start == "first" or all(len(span) == 1 for span in every):
        return starts
    initialise(student, config.shape, state, teacher.config.model_type, starts, vocabulary, tokens.lengths)
    student.to(device()).eval()
    chosen = np.random.default_rng(0).permutation(len(tokens))[:ROWS_TRIED]
    parts = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
    batches = [padded(tokens, rows, vocabulary.pad_id).to(device()) for rows in parts]
    read = LaneStates(teacher, vocabulary, [teacher.config.num_hidden_layers])
    wanted = [read(batch)[0] for batch in batches]
    for group, span in enumerate(every):
        distances = {}
        for layer in span:
            starts[group] = (layer,)
            copy_layers(student, state, teacher.config.model_type, starts)
            distances[layer] = _distance(student, batches, wanted)
            context.heartbeat(0, 1)
        starts[group] = (min(distances, key=distances.__getitem__),)
    return starts


@torch.no_grad()
def _distance(student: Any, batches: list[Batch], wanted: list[torch.Tensor]) -> float:
    total = 0.0
    for batch, its_BTG in zip(batches, wanted, strict=True):
        inputs = named_inputs(student.config, batch.ids_BT, batch.mask_BT, batch.types_BT)
        mine_BTH = student.base_model(**inputs).last_hidden_state
        if mine_BTH.shape[-1] != its_BTG.shape[-1]:  # narrower: what the dimensions mean was not kept, products are
            mine_BTH, its_BTG = _products(mine_BTH), _products(its_BTG)
        total += float(cosine_loss(mine_BTH, its_BTG, batch.mask_BT))
    return total


def _products(states_BTH: torch.Tensor) -> torch.Tensor:
    """(B, T, T) each token's products with the others: comparable between widths."""
    return states_BTH @ states_BTH.transpose(1, 2)
