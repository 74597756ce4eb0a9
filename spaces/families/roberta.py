"""Family `roberta` (arXiv:1907.11692): BERT's layers as a stock `RobertaModel`, without a pooler, under a head of two layers (tanh
between them). Positions are counted from the padding's id on, so that the table has two rows more than a text has places; every
layer its own, embeddings full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import (
    Family,
    Tensors,
    bert_encoder,
    embeddings,
    full_embeddings,
    shares_no_layers,
    two_layer_head,
)

if TYPE_CHECKING:
    from spaces.student import StudentShape

FIRST_POSITION = 2  # where padding has the id 1, as RoBERTa's has


def tensors(shape: StudentShape) -> Tensors:
    out = embeddings("roberta.embeddings", shape, shape.hidden_size)
    rows = shape.max_positions + FIRST_POSITION
    out["roberta.embeddings.position_embeddings.weight"] = (rows, shape.hidden_size)
    return out | bert_encoder("roberta", shape) | two_layer_head(shape)


def fault(shape: StudentShape) -> str:
    return shares_no_layers(shape) or full_embeddings(shape)


FAMILY = Family(name="roberta", tensors=tensors, fault=fault, model_type=lambda shape: "roberta")
