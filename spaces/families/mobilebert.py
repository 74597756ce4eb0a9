"""Family `mobilebert` (arXiv:2004.02984): thin layers of width `bottleneck_size` between wide hidden states, with several small
feed-forward blocks each, as a stock `MobileBertModel`.

Embeddings of rank E always go through a projection, of each piece and its two neighbours; attention's heads share the bottleneck's
width, and its values read the wide states. No layer is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.families.layout import Family, Tensors, encoder_flops, linear, norm, shares_no_layers

if TYPE_CHECKING:
    from spaces.student import StudentShape


def tensors(shape: StudentShape) -> Tensors:
    width, thin, inner = shape.hidden_size, shape.bottleneck_size, shape.intermediate_size
    prefix = "mobilebert.embeddings"
    out: Tensors = {
        f"{prefix}.word_embeddings.weight": (shape.vocabulary_size, shape.embedding_size),
        f"{prefix}.position_embeddings.weight": (shape.max_positions, width),
        f"{prefix}.token_type_embeddings.weight": (shape.type_vocabulary_size, width),
        **linear(f"{prefix}.embedding_transformation", width, 3 * shape.embedding_size),
        **norm(f"{prefix}.LayerNorm", width),
    }
    for index in range(shape.depth):
        layer = f"mobilebert.encoder.layer.{index}"
        for part in ("input", "attention"):
            out |= linear(f"{layer}.bottleneck.{part}.dense", thin, width)
            out |= norm(f"{layer}.bottleneck.{part}.LayerNorm", thin)
        for part, inputs in (("query", thin), ("key", thin), ("value", width)):
            out |= linear(f"{layer}.attention.self.{part}", thin, inputs)
        out |= linear(f"{layer}.attention.output.dense", thin, thin)
        out |= norm(f"{layer}.attention.output.LayerNorm", thin)
        blocks = [layer, *(f"{layer}.ffn.{number}" for number in range(shape.num_feedforwards - 1))]
        for block in blocks:
            out |= linear(f"{block}.intermediate.dense", inner, thin) | linear(f"{block}.output.dense", thin, inner)
            out |= norm(f"{block}.output.LayerNorm", thin)
        out |= linear(f"{layer}.output.bottleneck.dense", width, thin)
        out |= norm(f"{layer}.output.bottleneck.LayerNorm", width)
    return out | linear("mobilebert.pooler.dense", width, width) | linear("classifier", shape.num_labels, width)


def fault(shape: StudentShape) -> str:
    if not 1 <= shape.bottleneck_size <= shape.hidden_size:
        return f"family mobilebert: bottleneck_size {shape.bottleneck_size} must be from 1 to its width {shape.hidden_size}"
    return shares_no_layers(shape)


def flops(shape: StudentShape, num_tokens: int) -> int:
    width, thin = shape.hidden_size, shape.bottleneck_size
    weights = 4 * thin * width + 3 * thin**2 + 2 * shape.num_feedforwards * thin * shape.intermediate_size
    embedded = 2 * num_tokens * 3 * shape.embedding_size * width
    return embedded + encoder_flops(shape, num_tokens, weights, thin)


FAMILY = Family(
    name="mobilebert",
    tensors=tensors,
    fault=fault,
    model_type=lambda shape: "mobilebert",
    flops=flops,
    keys=("bottleneck_size", "num_feedforwards"),
)
