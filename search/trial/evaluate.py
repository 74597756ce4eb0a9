"""Scores a model over whole splits: large batches sorted by length, inference mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from search.trial.batches import evaluation_rows, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.device import autocast, device
from search.trial.forward import classifier, tells_pieces
from search.trial.masking import OrderHead, drawn, piece_head

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 65536}  # a processor's caches are small, and a GPU waits for the next batch


def predict(model: Any, tokens: Tokens, pad_id: int, context: WorkerContext, exact: bool = False) -> np.ndarray:
    """(N, C) float32 logits in the order of the rows, or of their words (W, C), 0 for a word without a place; of
    masked pieces (W, 1) the likeliest one's id. T=1, dropout off. The model's mode is restored."""
    was_training, where = model.training, device()
    tell = piece_head(model) if tells_pieces(model) else None
    forward = classifier(model.to(where)).eval()  # moved in inference mode its weights could not be trained any more
    out = np.zeros((tokens.num_outputs, 1 if tell else model.config.num_labels), np.float32)
    done = 0
    with torch.inference_mode():
        for rows in evaluation_rows(tokens.lengths, TOKENS_AT_ONCE[where.type]):
            batch = padded(tokens, rows, pad_id).to(where)
            with autocast(exact):
                outputs = batch.read(forward(batch.ids_BT, batch.mask_BT, batch.types_BT))
                if tell is not None:
                    outputs = tell(outputs).argmax(-1, keepdim=True)
            out[batch.numbers] = outputs.float().cpu().numpy()
            done += len(rows)
            context.heartbeat(done, len(tokens))
    model.train(was_training)
    return out


def order_accuracy(
    model: Any,
    order: OrderHead,
    tokens: Tokens,
    pieces_W: np.ndarray,
    mask_id: int,
    pad_id: int,
    context: WorkerContext,
) -> float:
    """In how many rows of two texts the model and the head of its training tell which stands first. Half of them are swapped, the
    same ones for every student, and masked as in training."""
    whole, where, was_training = tokens.shown(pieces_W), device(), model.training
    forward = classifier(model.to(where)).eval()
    right = asked_of = done = 0
    with torch.inference_mode():
        for rows in evaluation_rows(whole.lengths, TOKENS_AT_ONCE[where.type]):
            asked = drawn(
                padded(whole, rows, pad_id), mask_id, model.config.vocab_size, seed=0, epoch=0, in_order=False
            )
            assert asked.order_B is not None
            batch, order_B = asked.batch.to(where), asked.order_B.to(where)
            with autocast():
                told_B2 = order(forward(batch.ids_BT, batch.mask_BT, batch.types_BT)[:, 0])
            right += int((told_B2.argmax(-1) == order_B).sum())  # never where a row has one text: -100
            asked_of += int((order_B >= 0).sum())
            done += len(rows)
            context.heartbeat(done, len(tokens))
    model.train(was_training)
    return right / max(1, asked_of)


def score(
    model: Any,
    transfer: TransferSet,
    vocabulary: str,
    splits: tuple[str, ...],
    context: WorkerContext,
    exact: bool = False,
) -> dict[str, float]:
    """Metrics named `split/name`."""
    metrics: dict[str, float] = {}
    for name in splits:
        split = transfer.splits[name]
        pad_id = transfer.vocabularies[vocabulary].pad_id
        logits = predict(model, split.tokens[vocabulary], pad_id, context, exact)
        scored = transfer.measure(name, logits)
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    return metrics
