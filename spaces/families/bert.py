"""Family `bert`: every layer its own. Full embeddings are a stock `BertModel`; factorised ones a stock `AlbertModel`
with as many groups as layers, which is BERT with a rank-E embedding (docs/decisions/0002).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import Family, Tensors, albert_tensors, embeddings, linear, norm, shares_no_layers

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    if shape.embedding_size < shape.hidden_size:
        return albert_tensors(shape)
    width = shape.hidden_size
    out = embeddings("bert.embeddings", shape, width)
    for index in range(shape.depth):
        layer = f"bert.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            out |= linear(f"{layer}.attention.self.{part}", width, width)
        out |= linear(f"{layer}.attention.output.dense", width, width) | norm(
            f"{layer}.attention.output.LayerNorm", width
        )
        out |= linear(f"{layer}.intermediate.dense", shape.intermediate_size, width)
        out |= linear(f"{layer}.output.dense", width, shape.intermediate_size) | norm(
            f"{layer}.output.LayerNorm", width
        )
    return out | linear("bert.pooler.dense", width, width) | linear("classifier", shape.num_labels, width)


def model_type(shape: StudentShape) -> str:
    return "albert" if shape.embedding_size < shape.hidden_size else "bert"


FAMILY = Family(name="bert", tensors=tensors, fault=shares_no_layers, model_type=model_type)
