"""Family `bert`: every layer its own. Full embeddings are a stock `BertModel`; factorised ones a stock `AlbertModel`
with as many groups as layers, which is BERT with a rank-E embedding (docs/decisions/0002).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import Family, Tensors, albert_tensors, bert_encoder, embeddings, linear, shares_no_layers

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    if shape.embedding_size < shape.hidden_size:
        return albert_tensors(shape)
    width = shape.hidden_size
    out = embeddings("bert.embeddings", shape, width) | bert_encoder("bert", shape)
    return out | linear("bert.pooler.dense", width, width) | linear("classifier", shape.num_labels, width)


def model_type(shape: StudentShape) -> str:
    return "albert" if shape.embedding_size < shape.hidden_size else "bert"


FAMILY = Family(name="bert", tensors=tensors, fault=shares_no_layers, model_type=model_type)
