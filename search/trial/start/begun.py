"""Students that start from one distilled before, and not from their teacher: the second of two steps of distillation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.trial.data import Vocabulary
from search.trial.forward import tells_pieces
from search.trial.layouts import LAYOUTS
from search.trial.start.initialise import initialise, spans, unshared
from search.trial.teacher import load_with_head
from spaces.families import FAMILIES
from spaces.heads import is_stock_head
from spaces.student import StudentShape


@functools.lru_cache(maxsize=1)
def load_begun(folder: str) -> Any:
    """The student in a delivered folder; kept by the process, since many trials start from it."""
    return load_with_head(Path(folder)).eval()


def is_of(shape: StudentShape, config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face config has the encoder that the shape means, whatever its vocabulary and head."""
    depth, width = (
        config.get("num_hidden_layers") or config.get("n_layers"),
        config.get("hidden_size") or config.get("dim"),
    )
    layout = LAYOUTS.get(str(config.get("model_type")))
    found = (
        config.get("model_type"),
        depth,
        width,
        config.get("num_attention_heads") or config.get("n_heads"),
        config.get("intermediate_size") or config.get("hidden_dim"),
        config.get("embedding_size") or width,
        config.get("num_hidden_groups") or depth,
        config.get("q_groups") or 1,
        config.get("max_position_embeddings", 0) - (layout.first_position if layout else 0),
    )
    return found == (
        FAMILIES[shape.family].model_type(shape),
        shape.depth,
        shape.hidden_size,
        shape.num_heads,
        shape.intermediate_size,
        shape.embedding_size,
        shape.num_hidden_groups,
        shape.num_conv_groups,
        shape.max_positions,
    )


def begin(student: Any, shape: StudentShape, begun: Any, vocabulary: Vocabulary) -> None:
    """Copies all of `begun` that `student`, built empty for the shape, has too; its head is drawn at random."""
    starts = [span[:1] for span in spans(shape, range(shape.depth))]
    state = unshared(begun)
    if tells_pieces(begun):  # SqueezeBERT's has a pooler all the same, which nobody trained
        state = {name: tensor for name, tensor in state.items() if not is_stock_head(name)}
    initialise(student, shape, state, begun.config.model_type, starts, vocabulary)
