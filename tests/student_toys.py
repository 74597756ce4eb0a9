"""Shapes of students, teachers of other architectures, and a student started from its teacher, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
import torch
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from search.trial.batches import padded
from search.trial.data import Tokens, Vocabulary
from search.trial.forward import Classifier
from search.trial.start.initialise import initialise, spans, unshared
from search.trial.students import build_student
from spaces.families import FAMILIES
from spaces.student import TELLERS, StudentShape
from spaces.task import TASK_HEADS

LABELS = ["food", "music", "sport"]


def a_shape(**changes: Any) -> StudentShape:
    plain = {
        "family": "bert",
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "embedding_size": 32,
        "num_hidden_groups": 3,
        "vocabulary_size": len(tiny.vocabulary()),
        "max_positions": 48,
        "type_vocabulary_size": 2,
        "num_labels": 3,
    }
    return StudentShape.model_validate({**plain, **changes})


@st.composite
def shapes(draw: st.DrawFn) -> StudentShape:
    family = draw(st.sampled_from(sorted(FAMILIES)))
    heads_of = sorted(TASK_HEADS) if family in TELLERS else sorted(set(TASK_HEADS) - {"masked"})
    task_head = draw(st.sampled_from(heads_of))
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    groups = draw(st.integers(1, 3)) if family == "squeezebert" else 1
    hidden = groups * heads * draw(st.integers(1, 6))
    mobile = family == "mobilebert"
    return StudentShape(
        family=family,
        task_head=task_head,
        depth=depth,
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=groups * draw(st.integers(1, 20)),
        embedding_size=hidden
        if family in ("distilbert", "roberta", "squeezebert") or draw(st.booleans())
        else draw(st.integers(1, hidden)),
        num_hidden_groups=draw(st.integers(1, depth)) if family == "albert" else depth,
        vocabulary_size=draw(st.integers(1, 50)),
        max_positions=draw(st.integers(1, 12)),
        type_vocabulary_size=0 if family == "distilbert" else draw(st.integers(1, 3)),
        num_labels=2 if task_head == "span" else draw(st.integers(1, 12)),
        num_conv_groups=groups,
        bottleneck_size=heads * draw(st.integers(1, hidden // heads)) if mobile else 0,
        num_feedforwards=draw(st.integers(1, 3)) if mobile else 1,
    )


COMMON: dict[str, Any] = {"vocab_size": 60, "num_labels": 3}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}


def other_teacher(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "distilbert":
        config = DistilBertConfig(
            **COMMON, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=48, initializer_range=0.1
        )
        return DistilBertForSequenceClassification(config).eval()
    if kind == "roberta":
        config = RobertaConfig(**COMMON, **SIZES, max_position_embeddings=50, type_vocab_size=1, pad_token_id=1)
        return RobertaForSequenceClassification(config).eval()
    if kind == "albert":
        albert = AlbertConfig(
            **COMMON, **SIZES, max_position_embeddings=48, embedding_size=8, num_hidden_groups=2, hidden_act="gelu"
        )
        return AlbertForSequenceClassification(albert).eval()
    config = ElectraConfig(**COMMON, **SIZES, max_position_embeddings=48, embedding_size=32 if kind == "electra" else 8)
    return ElectraForSequenceClassification(config).eval()


def counts_of(tokenizer: Any, texts: list[str]) -> np.ndarray:
    ids = Tokens.encode(tokenizer, texts, None, 32).ids
    return np.bincount(ids, minlength=len(tokenizer))


def student_of(model: Any, shape: StudentShape, vocabulary: Vocabulary, layers: tuple[int, ...]) -> Any:
    student = build_student(
        shape, label_names=LABELS, pad_id=vocabulary.pad_id, dropout=0.1, teacher_config=model.config, empty=True
    )
    assert all(parameter.isnan().all() for parameter in student.parameters())
    starts = [span[:1] for span in spans(shape, layers)]
    initialise(student, shape, unshared(model), model.config.model_type, starts, vocabulary)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    return student.eval()


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, texts: list[str], pad_id: int = 0) -> torch.Tensor:
    tokens = Tokens.encode(tokenizer, texts, None, 32)
    batch = padded(tokens, np.arange(len(texts)), pad_id)
    return Classifier(model)(batch.ids_BT, batch.mask_BT, batch.types_BT)
