"""Text whose masked pieces can be told, a teacher that tells them, and studies of both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tiny
import torch

from search.study.inputs import Inputs
from search.trial.context import WorkerContext
from search.trial.work import perform
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, WorkItem, WorkKind
from spaces.yaml_io import parse_study

MASK = 4  # [MASK] in the tiny vocabulary
NUM_PIECES = 143


def write_lines(folder: Path, sizes: tuple[int, int, int] = (200, 40, 40)) -> dict[str, str]:
    """Lines of words that follow one another in a circle."""
    folder.mkdir(parents=True, exist_ok=True)
    circle, found = tiny.TOPICS["food"] + tiny.TOPICS["sport"], {}
    for seed, (name, size) in enumerate(zip(("train", "validation", "test"), sizes, strict=True)):
        rng = random.Random(seed)
        lines = []
        for _ in range(size):
            start, count = rng.randrange(len(circle)), rng.randint(5, 20)
            lines.append(" ".join(circle[(start + step) % len(circle)] for step in range(count)))
        path = folder / f"{name}.txt"
        path.write_text("\n".join(lines) + "\n")
        found[name] = str(path)
    return found


def teller(folder: Path) -> Path:
    """A tiny teacher with a masked-LM head."""
    from transformers import BertConfig, BertForMaskedLM

    tiny.write_teacher(folder)
    torch.manual_seed(1)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def other_teller(kind: str, folder: Path) -> Path:
    """The same of another architecture, with its own kind of pieces; `electra-small` has embeddings of a rank below its width."""
    from transformers import (
        ElectraConfig,
        ElectraForMaskedLM,
        RobertaConfig,
        RobertaForMaskedLM,
        XLMRobertaConfig,
        XLMRobertaForMaskedLM,
    )

    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.1,
    }  # fmt: skip
    torch.manual_seed(1)
    if kind.startswith("electra"):
        tiny.write_teacher(folder)
        rank = 8 if kind == "electra-small" else 32
        electra = ElectraConfig(**sizes, vocab_size=NUM_PIECES, max_position_embeddings=48, embedding_size=rank)
        model: Any = ElectraForMaskedLM(electra)
    else:
        tokenizer = tiny.write_byte_level_tokenizer(folder, [" ".join(words) for words in tiny.TOPICS.values()])
        theirs, its = {
            "roberta": (RobertaConfig, RobertaForMaskedLM),
            "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
        }[kind]
        model = its(theirs(**sizes, vocab_size=len(tokenizer), max_position_embeddings=50, type_vocab_size=1))
    for name, part in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(part, std=0.1)  # they are zeros otherwise, and one forgotten would not be missed
    model.save_pretrained(folder)
    return folder


def masked_study(folder: Path, **changes: Any) -> StudySpec:
    plain = {
        "name": "masked", "task": "masked-language-modelling", "data": {**write_lines(folder / "data"), "max_length": 32},
        "teacher": {"model": str(teller(folder / "teacher"))},
        "space": {"depth": [2, 3], "embedding_size": ["full", 16], "hidden_share": [0.0, 0.5], "learning_rate": 3e-3},
        "training": {"epochs": 2}, "tracking": "none", "output": str(folder / "run"), "cache": str(folder / "cache"),
    }  # fmt: skip
    return parse_study({**plain, **changes}, "study", folder)


def config_of(inputs: Inputs, values: dict[str, Any], **changes: Any) -> TrialConfig:
    """Of a student of the space's shape with these values, in the whole vocabulary."""
    shape = inputs.spec.space.shape({"vocabulary": "full", **values}, inputs.teacher, inputs.vocabularies)
    plain: dict[str, Any] = {
        "shape": shape, "layers": (0, 2)[: shape.depth] if shape.depth < 3 else (0, 1, 2), "vocabulary": "full", "seed": 3,
        "learning_rate": 3e-3, "batch_size": 16, "epochs": 2, "temperature": 2.0, "soft_share": 0.5, "hidden_share": 0.3,
        "hidden_loss": "cosine", "warmup_share": 0.1, "dropout": 0.1, "weight_decay": 0.01,
    }  # fmt: skip
    return TrialConfig.model_validate({**plain, **changes})


def made(inputs: Inputs, config: TrialConfig, folder: Path, **payload: str) -> tuple[Measurement, dict[str, Any]]:
    """Trained, and delivered into `folder / "best"`, by the lanes' own work: what was measured, and what delivery told."""
    context = WorkerContext(data={"transfer": inputs.transfer})
    payload = {"teacher": str(inputs.source.folder), **payload}
    train = WorkItem(
        key="t", kind=WorkKind.TRAIN, trial=0, config=config, payload=payload, folder=str(folder / "w"), evaluate=("validation",)
    )  # fmt: skip
    measured, _ = perform(train, context)
    assert measured is not None
    deliver = WorkItem(
        key="d", kind=WorkKind.DELIVER, trial=0, config=config, payload={**payload, "weights": str(train.leaves)},
        folder=str(folder / "best"),
    )  # fmt: skip
    return measured, perform(deliver, context)[1]
