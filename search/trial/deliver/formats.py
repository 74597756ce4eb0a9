"""The forms in which a delivered student leaves: a folder each, held against the student in PyTorch, in fp32, on whole splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search.trial.answers import Questions
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.deliver.onnx import export_onnx, load_session, predict_onnx, quantise
from search.trial.evaluate import predict
from search.trial.metrics import cosines
from search.trial.pooling import MODULES, SETTINGS
from search.trial.teacher import load_with_head
from spaces.student import Frozen, TaskHead

WEIGHTS = "model.safetensors"
NOT_OF_ONNX = (WEIGHTS, "*.py", "README.md", MODULES, *SETTINGS)  # of a Hugging Face folder
NEAR = 0.01  # of the outputs' spread: numbers closer than that count as equal; vectors, whose cosine is as near to 1


@dataclass(frozen=True)
class Texts:
    """A split as a user has it: texts (and second texts), and its labels as arrays (masked pieces are their own); `task_head`: what
    there is one for. Where questions are answered the second texts are windows, and the questions say of what."""

    texts: tuple[list[str], list[str] | None]
    labels: np.ndarray
    task_head: TaskHead = "text"
    questions: Questions | None = None


class Check(Frozen):
    """What a form gives where the student in PyTorch, in fp32, gives its outputs (logits, numbers or vectors), by split: by how
    much they differ at most (not of masked pieces, of whose logits none are kept), the share of texts (or words, or pieces) with
    the same prediction, and the form's own metrics."""

    largest_difference: dict[str, float]
    share_equal: dict[str, float]
    metrics: dict[str, float]  # split/name


class Written(Frozen):
    """One form: its folder, the file that holds the weights, that file's bytes, and what came of checking it."""

    folder: str
    file: str
    bytes: int
    check: Check | None = None


class Forms:
    """Writes the student in the Hugging Face folder `source` in other forms. `splits` are what each is held against the student
    on (none: nothing is checked; of masked pieces the texts alone are read, and masked as the study had them), `measure` scores
    outputs against labels (of words by where each text's begin, of answers by the Questions), `target` says what is predicted."""

    def __init__(
        self,
        source: Path,
        splits: Mapping[str, Texts],
        measure: Callable[[np.ndarray, np.ndarray, Any], dict[str, float]],
        target: str,
        max_length: int,
        own_code: bool = False,
    ) -> None:
        self._source, self._splits, self._measure = source, splits, measure
        self._target, self._max_length, self._own_code = target, max_length, own_code

    def write(self, name: str, folder: Path, threads: int = 1) -> Written:
        """Fills `folder`, which does not exist yet, with the form `name`: hf, hf-fp16, onnx or onnx-int8."""
        made, check = folder / WEIGHTS, None
        folder.mkdir()
        if name == "hf":
            shutil.copytree(self._source, folder, dirs_exist_ok=True)
        elif name == "hf-fp16":
            self._copy(folder, WEIGHTS)
            self._load(self._source).half().save_pretrained(folder)
        else:
            self._copy(folder, *NOT_OF_ONNX)
            made = folder / "model.onnx"
            export_onnx(self._student.cpu(), made)  # scoring may have moved it
            if name == "onnx-int8":
                quantise(made, made)
        if self._splits and name != "hf":
            check = self._check(self._outputs(made, threads))
        num_bytes = sum(path.stat().st_size for path in folder.rglob(made.name))  # of vectors a layer may lie apart
        return Written(folder=name, file=made.name, bytes=num_bytes, check=check)

    def _copy(self, folder: Path, *without: str) -> None:
        for path in self._source.iterdir():
            if path.is_file() and not any(path.match(pattern) for pattern in without):
                shutil.copyfile(path, folder / path.name)

    @cached_property
    def _student(self) -> Any:
        return self._load(self._source)

    def _load(self, folder: Path) -> Any:
        return load_with_head(folder, self._own_code).eval()

    @cached_property
    def _tokens(self) -> tuple[dict[str, Tokens], dict[str, np.ndarray], int]:
        """Each split as the folder's own tokenizer has it, its labels, and the padding's id."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._source, trust_remote_code=False)
        encoded, labels = dict[str, Tokens](), dict[str, np.ndarray]()
        for name, split in self._splits.items():
            head: TaskHead = "text" if split.task_head == "masked" else split.task_head
            encoded[name], labels[name] = Tokens.encode(tokenizer, *split.texts, self._max_length, head), split.labels
            if split.task_head == "masked":
                encoded[name], labels[name] = encoded[name].masked(tokenizer.mask_token_id)
        return encoded, labels, int(tokenizer.pad_token_id)

    @cached_property
    def _expected(self) -> dict[str, np.ndarray]:
        return self._in_pytorch(self._student)

    def _in_pytorch(self, model: Any) -> dict[str, np.ndarray]:
        tokens, _, pad_id = self._tokens
        return {name: predict(model, each, pad_id, WorkerContext(), exact=True) for name, each in tokens.items()}

    def _outputs(self, made: Path, threads: int) -> dict[str, np.ndarray]:
        if made.name == WEIGHTS:
            return self._in_pytorch(self._load(made.parent).float())
        tokens, _, pad_id = self._tokens
        session, pieces = load_session(made, threads), self._target == "piece"
        return {name: predict_onnx(session, each, pad_id, pieces=pieces) for name, each in tokens.items()}

    def _check(self, outputs: dict[str, np.ndarray]) -> Check:
        metrics: dict[str, float] = {}
        tokens, labels, _ = self._tokens
        for name, split in self._splits.items():
            places = tokens[name].places
            layout = split.questions or (None if places is None else places.offsets)
            scored = self._measure(outputs[name], labels[name], layout)
            metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
        pairs = {name: (outputs[name], self._expected[name]) for name in self._splits}
        equal = {name: share_equal(self._target, *pair, self._splits[name].questions) for name, pair in pairs.items()}
        largest = {name: float(np.abs(one - other).max()) for name, (one, other) in pairs.items()}
        return Check(largest_difference={} if self._target == "piece" else largest, share_equal=equal, metrics=metrics)


def share_equal(
    target: str, outputs_NC: np.ndarray, expected_NC: np.ndarray, questions: Questions | None = None
) -> float:
    """Of N texts (or words, or masked pieces): those with the same class or piece, with the same set of classes, or with nearly the
    same number or vector; of the questions those with the same answer."""
    if questions is not None:
        same = (questions.chosen(outputs_NC) == questions.chosen(expected_NC)).all(-1)
    elif target in ("class", "tags"):
        same = outputs_NC.argmax(-1) == expected_NC.argmax(-1)
    elif target == "piece":
        same = (outputs_NC == expected_NC).all(-1)
    elif target == "classes":
        same = ((outputs_NC > 0) == (expected_NC > 0)).all(-1)
    elif target == "vector":
        both = np.stack([outputs_NC, expected_NC], 1).reshape(-1, outputs_NC.shape[1])
        same = cosines(both) >= 1 - NEAR
    else:
        same = (np.abs(outputs_NC - expected_NC) <= NEAR * expected_NC.std()).all(-1)
    return float(same.mean())
