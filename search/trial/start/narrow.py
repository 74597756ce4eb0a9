"""Narrows a teacher's weights to what matters most: a state like its own with fewer heads, neurons and dimensions, from which
students start as from any other.

Legend: A heads, I feed-forward size, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from search.trial.layouts import LAYOUTS
from search.trial.start.importance import Importance, channels_of, most_important
from spaces.heads import TOKEN_HEADS
from spaces.student import StudentShape

State = Mapping[str, torch.Tensor]


def is_narrower(shape: StudentShape, config: Any) -> bool:
    """Whether the student has less width than the teacher of this Hugging Face config."""
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    thinner = shape.intermediate_size < inner and not shape.bottleneck_size  # whose layers are not copied
    return shape.hidden_size < config.hidden_size or thinner


def narrowed(
    state: State, model_type: str, num_heads: int, shape: StudentShape, importance: Importance
) -> dict[str, torch.Tensor]:
    """The state with `shape`'s width, every layer kept; `num_heads` are the teacher's. Names stay the teacher's.

    One choice of hidden dimensions serves the whole model, since layers add to what earlier ones wrote; heads and neurons
    are chosen in each layer. The copy computes something near the teacher, not the same: LayerNorm now sees fewer dimensions.
    """
    layout = LAYOUTS[model_type]
    hidden = _indices(most_important(importance.hidden, shape.hidden_size), len(importance.hidden))
    pooled = _indices(most_important(importance.pooled, shape.hidden_size), len(importance.pooled))
    out = dict(state)

    def keep(name: str, rows: torch.Tensor | None, columns: torch.Tensor | None = None) -> None:
        """Of a weight its rows and columns, of a bias or a norm its rows; what the teacher has not is left alone."""
        for kind in ("weight", "bias"):
            tensor = state.get(f"{name}.{kind}")
            if tensor is None:
                continue
            if rows is not None:
                tensor = tensor[rows]
            if columns is not None and tensor.ndim == 2:
                tensor = tensor[:, columns]
            out[f"{name}.{kind}"] = tensor

    if f"{layout.mapping}.weight" in state:  # what comes before it has a width of its own
        keep(layout.mapping, hidden)
    else:
        for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            keep(f"{layout.embeddings}.{table}", None, hidden)
        keep(f"{layout.embeddings}.LayerNorm", hidden)
    head_size = len(importance.hidden) // num_heads
    for index in range(len(importance.heads)):
        layer = layout.layer.format(index=index)
        channels = _indices(channels_of(importance.heads[index], head_size, shape.hidden_size), len(importance.hidden))
        neurons = _indices(
            most_important(importance.neurons[index], shape.intermediate_size), len(importance.neurons[index])
        )
        for part in ("query", "key", "value"):
            keep(f"{layer}.{layout.parts[part]}", channels, hidden)
        keep(f"{layer}.{layout.parts['attention_output']}", hidden, channels)
        keep(f"{layer}.{layout.parts['attention_norm']}", hidden)
        keep(f"{layer}.{layout.parts['intermediate']}", neurons, hidden)
        keep(f"{layer}.{layout.parts['output']}", hidden, neurons)
        keep(f"{layer}.{layout.parts['output_norm']}", hidden)
    keep(layout.pooler, pooled, hidden)
    if shape.task_head == "embedding" and hidden is not None:  # the dimensions that are kept stand at their own places
        out["head.linear.weight"] = torch.eye(len(importance.hidden))[:, hidden]
        out["head.linear.bias"] = torch.zeros(len(importance.hidden))
    if shape.task_head in TOKEN_HEADS:
        keep(TOKEN_HEADS[shape.task_head], None, hidden)  # it reads the last states themselves
    else:
        keep(layout.classifier, None, pooled)
    return out


def _indices(places: np.ndarray, size: int) -> torch.Tensor | None:
    """None where all of them stay: nothing is to be copied then."""
    return None if len(places) == size else torch.from_numpy(places.astype(np.int64))
