"""Family `distilbert` (arXiv:1910.01108): BERT's layers without token types and pooler, as a stock `DistilBertModel`; every layer
its own, embeddings full. Of a pair it sees the separator alone, not which side a piece is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import Family, Tensors, full_embeddings, linear, norm, shares_no_layers

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    width, prefix = shape.hidden_size, "distilbert.embeddings"
    out: Tensors = {
        f"{prefix}.word_embeddings.weight": (shape.vocabulary_size, width),
        f"{prefix}.position_embeddings.weight": (shape.max_positions, width),
        **norm(f"{prefix}.LayerNorm", width),
    }
    for index in range(shape.depth):
        layer = f"distilbert.transformer.layer.{index}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            out |= linear(f"{layer}.attention.{part}", width, width)
        out |= norm(f"{layer}.sa_layer_norm", width) | norm(f"{layer}.output_layer_norm", width)
        out |= linear(f"{layer}.ffn.lin1", shape.intermediate_size, width)
        out |= linear(f"{layer}.ffn.lin2", width, shape.intermediate_size)
    return out | linear("pre_classifier", width, width) | linear("classifier", shape.num_labels, width)


def fault(shape: StudentShape) -> str:
    if shape.type_vocabulary_size:
        return f"family distilbert has no token types: type_vocabulary_size must be 0, not {shape.type_vocabulary_size}"
    return shares_no_layers(shape) or full_embeddings(shape)


FAMILY = Family(name="distilbert", tensors=tensors, fault=fault, model_type=lambda shape: "distilbert")
