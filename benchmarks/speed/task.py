"""One distillation job that everybody in this folder does: the same teacher, rows, student, settings and scoring."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.study.inputs import Inputs, read_inputs
from search.trial.context import WorkerContext
from search.trial.evaluate import score
from search.trial.start.initialise import initialise, spans, unshared
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.trial import TrialConfig
from spaces.yaml_io import parse_study

BATCH, MAX_LENGTH, TEMPERATURE, SOFT_SHARE, LEARNING_RATE, DROPOUT = 64, 64, 2.0, 0.9, 1e-4, 0.1
SETTINGS = {
    "temperature": TEMPERATURE, "soft_share": SOFT_SHARE, "learning_rate": LEARNING_RATE, "batch_size": BATCH,
    "warmup_share": 0.1, "weight_decay": 0.01, "dropout": DROPOUT,
}  # fmt: skip


def few_rows(data: Path, out: Path, rows: int) -> Path:
    """A data folder with `rows` of the training rows, drawn once; the other splits whole."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        with open(data / f"{name}.tsv", encoding="utf-8") as file:
            header, *lines = file.readlines()
        if name == "train":
            lines = random.Random(0).sample(lines, min(rows, len(lines)))
        (out / f"{name}.tsv").write_text(header + "".join(lines), encoding="utf-8")
    return out


@dataclass
class Task:
    inputs: Inputs
    config: TrialConfig
    teacher: Any

    @classmethod
    def read(cls, teacher: str, data: str, layers: tuple[int, ...], **changes: Any) -> Task:
        files = {split: str(Path(data) / f"{split}.tsv") for split in ("train", "validation", "test")}
        spec = parse_study(
            {
                "name": "speed",
                "data": {**files, "max_length": MAX_LENGTH},
                "teacher": teacher,
                "space": {"depth": len(layers), "layers": [list(layers)], "vocabulary": "used"},
                "training": {"epochs": 1},
            },
            "the benchmark",
            Path.cwd(),
        )
        inputs = read_inputs(spec, lambda text: None)
        values = {"depth": len(layers), "vocabulary": "used", "family": "bert"}
        shape = inputs.spec.space.shape(values, inputs.teacher, inputs.vocabularies)
        settings = {**SETTINGS, "epochs": 1.0, "seed": 0, **changes}
        config = TrialConfig(shape=shape, layers=layers, vocabulary="used", **settings)
        return cls(inputs, config, load_teacher(teacher))

    @functools.cached_property
    def new_ids(self) -> np.ndarray:
        """The student's id of each of the teacher's."""
        kept = self.inputs.transfer.vocabularies["used"].kept
        new = np.zeros(self.teacher.config.vocab_size, np.int64)
        new[kept] = np.arange(len(kept))
        return new

    @property
    def num_tokens(self) -> int:
        """Of the training rows, without padding."""
        return self.inputs.num_train_tokens

    def student(self) -> Any:
        """A stock model that starts as the teacher's layers."""
        torch.manual_seed(self.config.seed)
        transfer = self.inputs.transfer
        student = build_student(
            self.config.shape, label_names=transfer.label_names, problem_type=transfer.problem_type, dropout=self.config.dropout,
            teacher_config=self.teacher.config, empty=True,
        )  # fmt: skip
        starts = spans(self.config.shape, self.config.layers)
        state, kind = unshared(self.teacher), self.teacher.config.model_type
        initialise(student, self.config.shape, state, kind, starts, transfer.vocabularies["used"])
        return student

    def rows(self) -> list[dict[str, Any]]:
        """The training rows as the framework recipes take them: the teacher's ids and the label."""
        train = self.inputs.transfer.splits["train"]
        tokens = train.tokens["full"]
        return [
            {
                "ids": tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].astype(np.int64),
                "label": int(train.labels[i]),
            }
            for i in range(len(train.labels))
        ]

    def collate(self, rows: list[dict[str, Any]], pad_to: int = 0) -> dict[str, torch.Tensor]:
        """A batch padded to its longest row, or to `pad_to`; `student_ids` are the same pieces in the student's vocabulary."""
        width = max(pad_to, max(len(row["ids"]) for row in rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row["ids"])] = torch.from_numpy(row["ids"])
            mask[place, : len(row["ids"])] = 1
        labels = torch.tensor([row["label"] for row in rows])
        return {
            "input_ids": ids, "attention_mask": mask, "student_ids": torch.from_numpy(self.new_ids)[ids], "labels": labels,
        }  # fmt: skip

    def scores(self, student: Any) -> dict[str, float]:
        """Accuracy on validation and test, in fp32."""
        found = score(student, self.inputs.transfer, "used", ("validation", "test"), WorkerContext(), exact=True)
        return {name: value for name, value in found.items() if name.endswith("/accuracy")}
