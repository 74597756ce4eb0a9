"""Initialises a student from its teacher: layers copied, embeddings cut and factorised, the head kept.

DistilBERT's ablation (arXiv:1910.01108, table 4) found this the largest single effect.
Legend: V vocabulary, H hidden, E embedding rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from search.trial.data import Vocabulary
from search.trial.layouts import LAYOUTS, PARTS
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
    student: Any, shape: StudentShape, state: State, model_type: str, starts: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> None:  # fmt: skip
    """Copies into `student` (built empty for `shape`) from a teacher's `unshared` state: its layers as `copy_layers` does,
    the vocabulary's rows of its word embeddings (factorised where the shape says so), its pooler and its classifier. What
    the teacher has no counterpart for is drawn at random, and so is a head of the study's own."""
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

    if shape.task_head == "masked":
        _tell_pieces(student, parts, state, model_type, vocabulary)
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
                vocabulary.counts,
                positions,
                types,
                norm,
                shape.embedding_size,
                student.config.layer_norm_eps,
                mapping,
                normalises=not mobile,
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
    left = [name for name, parameter in parts.items() if parameter.isnan().any()]
    assert not left, f"the teacher left {left} unset"


def _tell_pieces(
    student: Any, parts: dict[str, torch.Tensor], state: State, model_type: str, vocabulary: Vocabulary
) -> None:
    """The teacher's masked-LM head where it has the student's rank; one of another rank begins anew, but for its biases."""
    ours, theirs = MASKED_HEADS[student.config.model_type], MASKED_HEADS.get(model_type, ("", "", ""))
    for here, there, fresh in zip(ours[:2], theirs[:2], (0.0, 1.0), strict=True):
        for kind in ("weight", "bias"):
            part, its = parts[f"{here}.{kind}"], state.get(f"{there}.{kind}")
            if its is not None and its.shape == part.shape:
                part.copy_(its)
            elif kind == "weight" and part.ndim > 1:
                torch.nn.init.normal_(part, std=student.config.initializer_range)
            else:
                torch.nn.init.constant_(part, fresh if kind == "weight" else 0.0)
    bias = state.get(theirs[2])
    if bias is None:
        torch.nn.init.zeros_(parts[ours[2]])
    else:
        parts[ours[2]].copy_(bias[torch.from_numpy(vocabulary.kept).long()])


def factorise(
    words_VH: torch.Tensor,
    counts_V: np.ndarray,
    positions_TH: torch.Tensor,
    types: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor],
    rank: int,
    epsilon: float = 1e-12,
    mapping: tuple[torch.Tensor, torch.Tensor] | None = None,
    normalises: bool = True,
) -> dict[str, torch.Tensor]:
    """Rank-E embeddings with LayerNorm in E and a projection to H, close to the teacher's with its LayerNorm in H.

    The tables come from the truncated SVD of the word embeddings (the best rank-E factor, Eckart and Young), each row
    weighted by the square root of its count in the training text: on SST-2 at E=128 that leaves 0.37 of the variance
    over the text's tokens where the plain SVD leaves 0.56. Because ALBERT normalises in E and BERT in H, the projection
    is then fitted by least squares to the teacher's normalised output, at its first token type and mean position: the
    copy is close, not exact. A teacher that factorises its own (H is then its rank) comes with its `mapping`.

    Where the student does not normalise (MobileBERT), words are projected as they are, and positions and token types, which
    it adds at its full width, stand for what they change in the teacher's output at its words' mean deviation.
    """
    weights_V = torch.from_numpy(np.sqrt(counts_V) + 1e-3).float()[:, None]
    gram_HH = ((words_VH * weights_V).T @ words_VH).double()  # V >> H: the right singular vectors from H x H
    values, vectors = torch.linalg.eigh(gram_HH)
    basis_HE = vectors[:, values.argsort(descending=True)[:rank]].float()
    words, positions, type_table = (part @ basis_HE for part in (words_VH, positions_TH, types))
    width, offset = words_VH.shape[1], positions_TH.mean(0) + types[0]
    target_VH = torch.nn.functional.layer_norm(words_VH + offset, (width,), *norm, epsilon)
    if mapping is not None:
        target_VH = target_VH @ mapping[0].T + mapping[1]
    inside_VE = words
    if normalises:
        inside_VE = torch.nn.functional.layer_norm(words + offset @ basis_HE, (rank,), eps=epsilon)
    design = torch.cat([inside_VE, torch.ones(len(inside_VE), 1)], dim=1)
    gram = ((design * weights_V).T @ design).double()
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)  # fewer rows than E still solves
    solution = torch.linalg.solve(gram, ((design * weights_V).T @ target_VH).double())
    size = rank
    if not normalises:
        deviation = (((words_VH + offset).std(1, keepdim=True) * weights_V).sum() / weights_V.sum()).clamp(min=1e-6)
        size = len(target_VH[0])

        def changes(rows: torch.Tensor) -> torch.Tensor:
            out = norm[0] * (rows - rows.mean(1, keepdim=True)) / deviation
            return out if mapping is None else out @ mapping[0].T

        positions, type_table = changes(positions_TH - positions_TH.mean(0)), changes(types - types[0])
    return {
        "words": words.float(),
        "positions": positions.float(),
        "types": type_table.float(),
        "norm": torch.ones(size),
        "norm_bias": torch.zeros(size),
        "projection": solution[:-1].T.float(),
        "projection_bias": solution[-1].float(),
    }
