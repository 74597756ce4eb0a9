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
    know how: given the shape and settings in Hugging Face's words for a BertConfig (vocab_size, hidden_size ...).
    `flops` counts one text of so many tokens; `keys` are the parameters that only some families have, and this one does."""

    name: str
    tensors: Callable[[StudentShape], Tensors]
    fault: Callable[[StudentShape], str]
    model_type: Callable[[StudentShape], str]
    build: Callable[[StudentShape, dict[str, Any]], Any] | None = None
    flops: Callable[[StudentShape, int], int] = lambda shape, num_tokens: bert_flops(shape, num_tokens)
    keys: tuple[str, ...] = ()
    always_pools: bool = False  # its stock model has a pooler whatever the head reads


def linear(name: str, outputs: int, inputs: int) -> Tensors:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int) -> Tensors:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def shares_no_layers(shape: StudentShape) -> str:
    if shape.num_hidden_groups == shape.depth:
        return ""
    wrong = f"num_hidden_groups must be its depth {shape.depth}, not {shape.num_hidden_groups}"
    return f"family {shape.family} shares no layers: {wrong}"


def full_embeddings(shape: StudentShape) -> str:
    if shape.embedding_size == shape.hidden_size:
        return ""
    wrong = f"embedding_size must be its width {shape.hidden_size}, not {shape.embedding_size}"
    return f"family {shape.family} has full embeddings: {wrong}"


def encoder_flops(shape: StudentShape, num_tokens: int, weights: int, attended: int) -> int:
    """Multiply-adds times two: of layers with so many `weights` in products each and `attended` channels in attention, and of a
    head that reads one token through a pooler, or every token without one, or maps what is pooled to another width."""
    layer = 2 * num_tokens * weights + 4 * num_tokens**2 * attended
    head = shape.hidden_size + shape.num_labels if shape.task_head == "text" else num_tokens * shape.num_labels
    if shape.task_head == "masked":  # every piece is told, as whoever runs the stock model does
        return shape.depth * layer + 2 * num_tokens * shape.embedding_size * (shape.hidden_size + shape.vocabulary_size)
    if shape.task_head == "embedding":
        head = 0 if shape.hidden_size == shape.num_labels else shape.num_labels
    return shape.depth * layer + 2 * shape.hidden_size * head


def bert_flops(shape: StudentShape, num_tokens: int) -> int:
    width, rank = shape.hidden_size, shape.embedding_size
    projected = 2 * num_tokens * rank * width if shape.family == "albert" or rank < width else 0
    return projected + encoder_flops(shape, num_tokens, 4 * width**2 + 2 * width * shape.intermediate_size, width)


def embeddings(prefix: str, shape: StudentShape, width: int) -> Tensors:
    return {
        f"{prefix}.word_embeddings.weight": (shape.vocabulary_size, width),
        f"{prefix}.position_embeddings.weight": (shape.max_positions, width),
        f"{prefix}.token_type_embeddings.weight": (shape.type_vocabulary_size, width),
        **norm(f"{prefix}.LayerNorm", width),
    }


def bert_encoder(prefix: str, shape: StudentShape) -> Tensors:
    """The layers of BERT, as every architecture after it names them."""
    out: Tensors = {}
    width = shape.hidden_size
    for index in range(shape.depth):
        layer = f"{prefix}.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            out |= linear(f"{layer}.attention.self.{part}", width, width)
        out |= linear(f"{layer}.attention.output.dense", width, width)
        out |= norm(f"{layer}.attention.output.LayerNorm", width)
        out |= linear(f"{layer}.intermediate.dense", shape.intermediate_size, width)
        out |= linear(f"{layer}.output.dense", width, shape.intermediate_size)
        out |= norm(f"{layer}.output.LayerNorm", width)
    return out


def two_layer_head(shape: StudentShape) -> Tensors:
    """Over the first token, where the encoder has no pooler (RoBERTa's and ELECTRA's)."""
    out = linear("classifier.dense", shape.hidden_size, shape.hidden_size)
    return out | linear("classifier.out_proj", shape.num_labels, shape.hidden_size)


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
