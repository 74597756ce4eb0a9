"""Family `electra` (arXiv:2003.10555): BERT's layers as a stock `ElectraModel`, without a pooler, under a head of two layers (GELU
between them). Embeddings of a rank below the width are projected to it, in the model's own way; every layer its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import Family, Tensors, bert_encoder, embeddings, linear, shares_no_layers, two_layer_head

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    out = embeddings("electra.embeddings", shape, shape.embedding_size)
    if shape.embedding_size < shape.hidden_size:
        out |= linear("electra.embeddings_project", shape.hidden_size, shape.embedding_size)
    return out | bert_encoder("electra", shape) | two_layer_head(shape)


FAMILY = Family(name="electra", tensors=tensors, fault=shares_no_layers, model_type=lambda shape: "electra")
