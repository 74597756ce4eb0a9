"""Family `squeezebert` (arXiv:2006.11316): BERT with its products in groups (convolutions of width 1), a stock `SqueezeBertModel`.

In a group each output sees its share of the inputs alone, so that `num_conv_groups` divides weights and operations; what follows
attention stays whole and mixes the groups, as in the paper. One group is BERT. Embeddings are full, no layer is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import (
    Family,
    Tensors,
    embeddings,
    encoder_flops,
    full_embeddings,
    linear,
    norm,
    shares_no_layers,
)

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    width, inner = shape.hidden_size, shape.intermediate_size
    out = embeddings("transformer.embeddings", shape, width)
    for index in range(shape.depth):
        layer = f"transformer.encoder.layers.{index}"
        for part in ("query", "key", "value"):
            out |= _convolution(f"{layer}.attention.{part}", width, width, shape.num_conv_groups)
        out |= _convolution(f"{layer}.post_attention.conv1d", width, width, 1)
        out |= norm(f"{layer}.post_attention.layernorm", width) | norm(f"{layer}.output.layernorm", width)
        out |= _convolution(f"{layer}.intermediate.conv1d", inner, width, shape.num_conv_groups)
        out |= _convolution(f"{layer}.output.conv1d", width, inner, shape.num_conv_groups)
    return out | linear("transformer.pooler.dense", width, width) | linear("classifier", shape.num_labels, width)


def _convolution(name: str, outputs: int, inputs: int, groups: int) -> Tensors:
    return {f"{name}.weight": (outputs, inputs // groups, 1), f"{name}.bias": (outputs,)}


def fault(shape: StudentShape) -> str:
    for name in ("hidden_size", "intermediate_size"):
        if getattr(shape, name) % shape.num_conv_groups:
            return f"num_conv_groups {shape.num_conv_groups} does not divide {name} {getattr(shape, name)}"
    return shares_no_layers(shape) or full_embeddings(shape)


def flops(shape: StudentShape, num_tokens: int) -> int:
    width, groups = shape.hidden_size, shape.num_conv_groups
    weights = 3 * width**2 // groups + width**2 + 2 * width * shape.intermediate_size // groups
    return encoder_flops(shape, num_tokens, weights, width)


FAMILY = Family(
    name="squeezebert",
    tensors=tensors,
    fault=fault,
    model_type=lambda shape: "squeezebert",
    flops=flops,
    keys=("num_conv_groups",),
    always_pools=True,
)
