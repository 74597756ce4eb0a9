"""What a family says of itself, and the tensor layouts that families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaces.student import StudentShape

Tensors = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """One student family. `tensors` lists what is stored; `fault` says what is wrong with a shape, or nothing;
    `model_type` names the stock Hugging Face architecture of a shape. `build` makes the model of a shape where ours does not
    know how: given the shape and settings in Hugging Face's words for a BertConfig (vocab_size, hidden_size ...)."""

    name: str
    tensors: Callable[[StudentShape], Tensors]
    fault: Callable[[StudentShape], str]
    model_type: Callable[[StudentShape], str]
    build: Callable[[StudentShape, dict[str, Any]], Any] | None = None


def linear(name: str, outputs: int, inputs: int) -> Tensors:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int) -> Tensors:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def embeddings(prefix: str, shape: StudentShape, width: int) -> Tensors:
    return {
        f"{prefix}.word_embeddings.weight": (shape.vocabulary_size, width),
        f"{prefix}.position_embeddings.weight": (shape.max_positions, width),
        f"{prefix}.token_type_embeddings.weight": (shape.type_vocabulary_size, width),
        **norm(f"{prefix}.LayerNorm", width),
    }


def albert_tensors(shape: StudentShape) -> Tensors:
    """`AlbertForSequenceClassification`: embeddings of rank E, a projection to H, and the stored layer groups."""
    width, hidden = shape.hidden_size, "albert.encoder.albert_layer_groups"
    out = embeddings("albert.embeddings", shape, shape.embedding_size)
    out |= linear("albert.encoder.embedding_hidden_mapping_in", width, shape.embedding_size)
    for group in range(shape.num_hidden_groups):
        layer = f"{hidden}.{group}.albert_layers.0"
        out |= norm(f"{layer}.full_layer_layer_norm", width) | norm(f"{layer}.attention.LayerNorm", width)
        for part in ("query", "key", "value", "dense"):
            out |= linear(f"{layer}.attention.{part}", width, width)
        out |= linear(f"{layer}.ffn", shape.intermediate_size, width)
        out |= linear(f"{layer}.ffn_output", width, shape.intermediate_size)
    return out | linear("albert.pooler", width, width) | linear("classifier", shape.num_labels, width)
