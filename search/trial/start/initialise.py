"""Initialises a student from its teacher: layers copied, embeddings cut and factorised, the head kept.

DistilBERT's ablation (arXiv:1910.01108, table 4) found this the largest single effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from search.trial.data import Vocabulary
from search.trial.layouts import LAYOUTS, PARTS
from search.trial.start.factorise import factorise, piece_head
from spaces.errors import TrialError
from spaces.families import FAMILIES
from spaces.heads import MASKED_HEADS, TOKEN_HEADS
from spaces.student import StudentShape

State = Mapping[str, torch.Tensor]


def can_copy(model_type: str, state: State, shape: StudentShape | None = None) -> bool:
    """Whether students (of this shape) can start from a teacher of this architecture; where not, they start from random
    weights."""
    if shape is not None and FAMILIES[shape.family].model_type(shape) not in LAYOUTS:
        return False
    known = model_type in LAYOUTS and LAYOUTS[model_type].teaches
    return known and f"{LAYOUTS[model_type].embeddings}.word_embeddings.weight" in state


def unshared(model: Any) -> dict[str, torch.Tensor]:
    """The teacher's weights, a layer that it shares under the number of each layer it runs as (the same tensors)."""
    # On the processor, where students are built: it may have read its texts on a GPU.
    state: dict[str, torch.Tensor] = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    groups = getattr(model.config, "num_hidden_groups", None)
    if model.config.model_type != "albert":
        return state
    layout, depth = LAYOUTS["albert"], model.config.num_hidden_layers
    out = {name: tensor for name, tensor in state.items() if not name.startswith(layout.layer.split("{")[0])}
    for index in range(depth):
        there, here = layout.layer.format(index=int(index / (depth / groups))), layout.layer.format(index=index)
        for part in layout.parts.values():
            for kind in ("weight", "bias"):
                out[f"{here}.{part}.{kind}"] = state[f"{there}.{part}.{kind}"]
    return out


def spans(shape: StudentShape, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """The teacher layers that each stored layer of the student stands for: one, but where layers are shared."""
    rule = [int(index / (shape.depth / shape.num_hidden_groups)) for index in range(shape.depth)]  # ALBERT's own
    return [
        tuple(layer for layer, at in zip(layers, rule, strict=True) if at == group) for group in range(rule[-1] + 1)
    ]


@torch.no_grad()
def copy_layers(student: Any, state: State, model_type: str, starts: Sequence[Sequence[int]]) -> None:
    """Writes each stored layer of the student: the mean of the teacher's layers (from 0) that `starts` gives for it."""
    source, target = LAYOUTS[model_type], LAYOUTS[student.config.model_type]
    parts = dict(student.named_parameters())
    for group, layers in enumerate(starts):
        here = target.layer.format(index=group)
        for part in PARTS:
            for kind in ("weight", "bias"):
                names = [f"{source.layer.format(index=layer)}.{source.parts[part]}.{kind}" for layer in layers]
                mean = state[names[0]] if len(names) == 1 else torch.stack([state[name] for name in names]).mean(0)
                stored = parts[f"{here}.{target.parts[part]}.{kind}"]
                stored.copy_(mean if mean.shape == stored.shape else in_groups(mean, stored.shape))


def in_groups(weight_OI: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The blocks on the diagonal of a dense weight as a convolution of this size in groups stores them: (O, I / groups, 1)."""
    groups = weight_OI.shape[1] // size[1]
    blocks = weight_OI.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).flatten(0, 1)[..., None]


@torch.no_grad()
def initialise(
    student: Any, shape: StudentShape, state: State, model_type: str, starts: Sequence[Sequence[int]], vocabulary: Vocabulary,
    lengths: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Copies into `student` (built empty for `shape`) from a teacher's `unshared` state: its layers as `copy_layers` does,
    the vocabulary's rows of its word embeddings (factorised where the shape says so; `lengths` are those of the training texts, in
    pieces), its pooler and its classifier. What the teacher has no counterpart for is drawn at random, and so is a head of the
    study's own."""
    source, target = LAYOUTS[model_type], LAYOUTS[FAMILIES[shape.family].model_type(shape)]
    parts = dict(student.named_parameters())

    def put(name: str, tensor: torch.Tensor) -> None:
        parts[name].copy_(tensor)

    mobile = student.config.model_type == "mobilebert"
    if mobile:
        student.base_model.encoder.apply(
            student.base_model._init_weights
        )  # no teacher has a counterpart of these layers (decision 0028)
    else:
        copy_layers(student, state, model_type, starts)
    for name in ("pooler", "classifier"):
        here, there = getattr(target, name), getattr(source, name)
        if shape.task_head in TOKEN_HEADS and name == "classifier":
            here = there = TOKEN_HEADS[shape.task_head]
        if f"{here}.weight" not in parts:
            continue  # the student has a head of its own, drawn at random
        for kind in ("weight", "bias"):
            if f"{there}.{kind}" in state and state[f"{there}.{kind}"].shape == parts[f"{here}.{kind}"].shape:
                put(f"{here}.{kind}", state[f"{there}.{kind}"])
            elif kind == "weight":
                torch.nn.init.normal_(parts[f"{here}.{kind}"], std=student.config.initializer_range)
            else:
                torch.nn.init.zeros_(parts[f"{here}.{kind}"])

    for name in ("head.linear.weight", "head.linear.bias"):  # behind the pooling, of a narrower student
        if name in parts and name in state:
            put(name, state[name])

    prefix = source.embeddings
    words = state[f"{prefix}.word_embeddings.weight"][torch.from_numpy(vocabulary.kept).long()]
    # RoBERTa counts from its padding on.
    begin = int(vocabulary.kept[vocabulary.pad_id]) + 1 if source.first_position else 0
    positions = state[f"{prefix}.position_embeddings.weight"][begin : begin + shape.max_positions]
    types = state[f"{prefix}.token_type_embeddings.weight"] if source.token_types else torch.zeros(1, words.shape[1])
    if source.token_types and not target.token_types:
        positions = positions + types[0]  # what every piece of a single text gets added
    norm = (state[f"{prefix}.LayerNorm.weight"], state[f"{prefix}.LayerNorm.bias"])
    mapping = None
    if source.mapping and f"{source.mapping}.weight" in state:
        mapping = (state[f"{source.mapping}.weight"], state[f"{source.mapping}.bias"])
    table = {"words": words, "positions": positions, "types": types, "norm": norm[0], "norm_bias": norm[1]}
    if f"{target.mapping}.weight" in parts:
        if mapping is not None and words.shape[1] == shape.embedding_size and not mobile:
            table |= {"projection": mapping[0], "projection_bias": mapping[1]}  # of the teacher's own rank: as they are
        else:
            table = factorise(
                words,
                vocabulary,
                positions,
                types,
                norm,
                shape.embedding_size,
                student.config.layer_norm_eps,
                mapping,
                normalises=not mobile,
                lengths=lengths,
            )
        if mobile:  # of a piece and its two neighbours, the piece alone
            beside = torch.zeros_like(table["projection"])
            table["projection"] = torch.cat([beside, table["projection"], beside], dim=1)
            table["words"][vocabulary.pad_id] = 0  # a text's last piece has the padding beside it, or nothing
        put(f"{target.mapping}.weight", table["projection"])
        put(f"{target.mapping}.bias", table["projection_bias"])
    elif mapping is not None:
        raise TrialError("a student with full embeddings cannot start from a teacher whose embeddings are mapped")
    here = target.embeddings
    put(f"{here}.word_embeddings.weight", table["words"])
    parts[f"{here}.position_embeddings.weight"].zero_()
    first = student.config.pad_token_id + 1 if target.first_position else 0
    parts[f"{here}.position_embeddings.weight"][first : first + shape.max_positions] = table["positions"]
    if target.token_types:
        put(f"{here}.token_type_embeddings.weight", table["types"])
    put(f"{here}.LayerNorm.weight", table["norm"])
    put(f"{here}.LayerNorm.bias", table["norm_bias"])
    if shape.task_head == "masked":
        last = target.layer.format(index=len(starts) - 1)
        last_norm = f"{last}.{target.parts['output_norm']}"
        states_norm = (parts[f"{last_norm}.weight"], parts[f"{last_norm}.bias"])
        _tell_pieces(student, parts, state, model_type, vocabulary, table.get("basis"), states_norm)
    left = [name for name, parameter in parts.items() if parameter.isnan().any()]
    assert not left, f"the teacher left {left} unset"


def _tell_pieces(
    student: Any,
    parts: dict[str, torch.Tensor],
    state: State,
    model_type: str,
    vocabulary: Vocabulary,
    basis: torch.Tensor | None,
    states_norm: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """The teacher's masked-LM head where it has the student's rank, else what is near it in the words' subspace (`basis`); of a
    teacher without one, a head drawn at random."""
    ours, theirs = MASKED_HEADS[student.config.model_type], MASKED_HEADS.get(model_type, ("", "", ""))
    mine = [parts[f"{part}.{kind}"] for part in ours[:2] for kind in ("weight", "bias")]
    names = [f"{part}.{kind}" for part in theirs[:2] for kind in ("weight", "bias")]
    if all(name in state for name in names):
        dense, dense_bias, norm, norm_bias = found = [state[name] for name in names]
        if basis is not None:
            from transformers.activations import ACT2FN

            activation, epsilon = ACT2FN[student.config.hidden_act], student.config.layer_norm_eps
            found = piece_head((dense, dense_bias), (norm, norm_bias), basis, states_norm, activation, epsilon)
        for part, tensor in zip(mine, found, strict=True):
            part.copy_(tensor)
    else:
        torch.nn.init.normal_(mine[0], std=student.config.initializer_range)
        for part, value in zip(mine[1:], (0.0, 1.0, 0.0), strict=True):
            torch.nn.init.constant_(part, value)
    bias = state.get(theirs[2])
    if bias is None:
        torch.nn.init.zeros_(parts[ours[2]])
    else:
        parts[ours[2]].copy_(bias[torch.from_numpy(vocabulary.kept).long()])
