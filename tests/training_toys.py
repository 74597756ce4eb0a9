"""What the training tests share and run in processes of their own; imports little, so that these start soon."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from search.trial import device
from search.trial.batches import Batch
from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet, Vocabulary
from search.trial.loop import Schedule, fit
from search.trial.matching import Matcher
from search.trial.states import LaneStates
from search.trial.students import build_student
from spaces.student import StudentShape
from spaces.trial import TrialConfig

NUM_ROWS = 17  # in batches of 8: the last one holds a single row, and leaves a second worker without


def a_student(dropout: float = 0.0) -> Any:
    torch.manual_seed(5)
    shape = StudentShape(
        family="bert", depth=2, hidden_size=16, num_heads=2, intermediate_size=24, embedding_size=16,
        num_hidden_groups=2, vocabulary_size=40, max_positions=12, type_vocabulary_size=2, num_labels=3,
    )  # fmt: skip
    return build_student(shape, label_names=["a", "b", "c"], dropout=dropout)


def some_rows() -> tuple[Tokens, np.ndarray, np.ndarray]:
    """Pieces, labels and teacher logits of made-up rows of different lengths."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 12, NUM_ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1, 40, offsets[-1]).astype(np.int32)
    logits = rng.normal(size=(NUM_ROWS, 3)).astype(np.float32)
    return Tokens(ids, offsets, lengths.astype(np.int32)), rng.integers(0, 3, NUM_ROWS).astype(np.int32), logits


def some_states(batch: Batch) -> torch.Tensor:
    """Made-up states of a teacher wider than `a_student`, the same for a row in any batch: (2, B, T, 24)."""
    table = torch.randn(NUM_ROWS, 2, 12, 24, generator=torch.Generator().manual_seed(6))
    return table[torch.from_numpy(batch.rows)].transpose(0, 1)[:, :, : batch.ids_BT.shape[1]]


def fit_some(rank: int = 0, world_size: int = 1, parts: int = 1) -> tuple[dict[str, torch.Tensor], float]:
    """The weights after two epochs with every kind of loss, and the mean loss."""
    student = a_student()
    wider = SimpleNamespace(config=SimpleNamespace(hidden_size=24))
    matcher = Matcher("mse", [(0, 0), (2, 4)], student, wider)
    tokens, labels, logits = some_rows()
    schedule = Schedule(
        learning_rate=1e-3, batch_size=8, warmup_share=0.1, epochs=2, temperature=2.0, soft_share=0.5, hidden_share=0.3
    )
    context = WorkerContext(rank=rank, world_size=world_size)
    with patch.object(device, "bf16_pays", lambda kind: False):  # one worker and two are compared to fp32's rounding
        fitted = fit(
            student, tokens, labels, logits, schedule, pad_id=0, seed=4, context=context, matcher=matcher,
            teacher_states=some_states, accumulation_steps=parts,
        )  # fmt: skip
    assert fitted.step == 6
    assert fitted.num_tokens == 2 * len(tokens.ids)  # also where another worker had half of each batch
    return student.state_dict(), fitted.mean_loss


def a_teller(depth: int = 2) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(5)
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
    }
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(**sizes, **quiet, num_hidden_layers=depth))


def tell_some(rank: int = 0, world_size: int = 1, parts: int = 1) -> tuple[dict[str, torch.Tensor], float]:
    """Likewise of masked pieces, in pairs: soft targets, labels and sentence order; both heads are outside of what DDP wraps."""
    student, teacher = a_teller(), a_teller(3)
    rng = np.random.default_rng(3)
    lengths = rng.integers(6, 16, NUM_ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(5, 40, offsets[-1]).astype(np.int32)
    tokens, pieces = Tokens(ids, offsets, (lengths // 2 + 1).astype(np.int32)).masked(4)
    vocabulary = Vocabulary("full", np.arange(40, dtype=np.int32), np.ones(40), 0, {}, 4)
    schedule = Schedule(
        learning_rate=1e-3, batch_size=8, warmup_share=0.1, epochs=2, temperature=2.0, soft_share=0.5, order_share=0.3
    )
    context = WorkerContext(rank=rank, world_size=world_size)
    with patch.object(device, "bf16_pays", lambda kind: False):
        fitted = fit(
            student, tokens, pieces, None, schedule, pad_id=0, seed=4, context=context, target="piece", mask_id=4,
            teacher_pieces=LaneStates(teacher, vocabulary, []).pieces, accumulation_steps=parts,
        )  # fmt: skip
    return student.state_dict(), fitted.mean_loss


def one_of_two(rank: int, folder: str) -> None:
    """Fits as one of two workers, with batches whole and in three parts, and leaves what came of it in the folder."""
    store = f"file://{Path(folder) / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for fitted in (fit_some, tell_some):
        for parts in (1, 3):
            weights, loss = fitted(rank, 2, parts)
            torch.save({"weights": weights, "loss": loss}, Path(folder) / f"{fitted.__name__}-{rank}-{parts}.pt")
    torch.distributed.destroy_process_group()


def a_config(transfer: TransferSet, **changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "layers": (0, 2),
        "vocabulary": "used",
        "temperature": 2.0,
        "soft_share": 0.5,
        "learning_rate": 3e-3,
        "batch_size": 16,
        "warmup_share": 0.1,
        "weight_decay": 0.01,
        "dropout": 0.2,
        "epochs": 3.0,
        "seed": 11,
        **changes,
    }
    layers = settings["layers"]
    shape = StudentShape(
        family="bert", depth=len(layers), hidden_size=32, num_heads=4, intermediate_size=64,
        embedding_size=settings.pop("rank", 32), num_hidden_groups=len(layers),
        vocabulary_size=len(transfer.vocabularies[settings["vocabulary"]].kept), max_positions=48,
        type_vocabulary_size=2, num_labels=3,
    )  # fmt: skip
    return TrialConfig(shape=shape, **settings)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)
