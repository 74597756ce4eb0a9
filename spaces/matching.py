"""Which hidden states of a student are held against which of its teacher's.

Layers count from 1 here and state 0 is what enters the first layer, as `hidden_states` of Hugging Face models has it:
a model of L layers has L + 1 states.
"""

from __future__ import annotations

from typing import Literal, get_args

HiddenLoss = Literal["cosine", "mse", "relations"]
HiddenLayers = Literal["last", "even", "copied"]
HIDDEN_LOSSES: tuple[str, ...] = get_args(HiddenLoss)
HIDDEN_LAYERS: tuple[str, ...] = get_args(HiddenLayers)


def matched_states(
    loss: str, layers: str, depth: int, teacher_depth: int, copied: tuple[int, ...]
) -> list[tuple[int, int]]:
    """(student's state, teacher's state) of each pair. `copied` are the teacher's layers, from 0, that the student's
    layers started from.

    `last`: the two last layers. `even`: the student's layers spread over the teacher's, both last ones paired (TinyBERT's
    mapping). `copied`: each layer and the one it was copied from. `mse` with more than the last pairs the embeddings too;
    `relations` are of a layer's own projections, so that what enters the layer is all they need.
    """
    if layers == "last":
        pairs = [(depth, teacher_depth)]
    elif layers == "even":
        pairs = [(layer, round(layer * teacher_depth / depth)) for layer in range(1, depth + 1)]
    else:
        pairs = [(index + 1, layer + 1) for index, layer in enumerate(copied)]
    if loss == "relations":
        return [(student - 1, teacher - 1) for student, teacher in pairs]
    if loss == "mse" and layers != "last":
        return [(0, 0), *pairs]
    return pairs
