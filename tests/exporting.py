"""A finished study without a lane: its record, and the two students of its front as delivery leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from commands import results_written

from search.study.output import claim_output, open_record
from search.study.searcher import trial_config
from search.study.texts import read_texts
from search.suggest.sampling import Sampling
from search.trial.checkpoint import save_weights
from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.deliver.huggingface import deliver
from search.trial.students import build_student
from spaces.student import TeacherShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialState
from spaces.yaml_io import parse_study

ACCURACIES = (0.5, 0.8, 0.4)  # the third, with a layer more, is beaten


def tiny_study(
    folder: Path, data: Path, teacher: Path, searched: dict[str, Any] | None = None, **changes: Any
) -> StudySpec:
    """A study on the tiny task with its output in `folder`, whose space has `searched` too."""
    files = {name: str(data / f"{name}.tsv") for name in ("train", "validation", "test")}
    space = {
        "family": ["bert", "albert"],
        "depth": {"int": [1, 3]},
        "vocabulary": ["used", "full"],
        "embedding_size": [8, "full"],
        "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}},
        "temperature": {"float": [1, 4]},
    }
    plain: dict[str, Any] = {
        "name": "tiny", "data": {**files, "max_length": 32}, "teacher": str(teacher), "space": {**space, **(searched or {})},
        "tracking": "none", "output": str(folder / "run"), "cache": str(folder / "cache"),
    }  # fmt: skip
    return parse_study({**plain, **changes}, "study.yaml", folder)


def finished_study(
    study_of: Callable[..., StudySpec], transfer: TransferSet, teacher: Path, folder: Path, **changes: Any
) -> StudySpec:  # fmt: skip
    """Trials 0 (an ALBERT of one layer, run twice) and 1 (a BERT of two) are the front. Weights are random, scores made up but for
    those that delivery measures."""
    small = {"family": "albert", "depth": 2, "num_hidden_groups": 1, "embedding_size": 8, "vocabulary": "used"}
    large = {"family": "bert", "embedding_size": "full", "vocabulary": "full"}
    spec = study_of(search={"first": [small, {**large, "depth": 2}, {**large, "depth": 3}]}, **changes)
    claim_output(spec)
    record, _ = open_record(spec)
    vocabularies = {name: len(entry.kept) for name, entry in transfer.vocabularies.items()}
    shape = TeacherShape(
        model_type="bert", depth=3, hidden_size=32, num_heads=4, intermediate_size=64,
        vocabulary_size=vocabularies["full"], max_positions=48, type_vocabulary_size=2,
        num_labels=len(transfer.label_names), num_parameters=50_000,
    )  # fmt: skip
    sampling, delivered = Sampling(spec, shape, vocabularies, {}), {}
    for number, accuracy in enumerate(ACCURACIES):
        parameters, student = sampling.suggest([], number)
        config = trial_config(spec, parameters, student, 3, number)
        outcome = record.start(config, parameters, spec.space)
        metrics = {f"validation/{name}": accuracy for name in spec.about.metrics}
        record.measured(Measurement(trial=number, attempt=1, step=3, share=1.0, metrics=metrics))
        record.set_state(number, TrialState.DONE, [accuracy, float(outcome.config.shape.num_parameters)])
        if number == 2:
            continue
        torch.manual_seed(number)
        model = build_student(
            student, label_names=transfer.label_names, problem_type=transfer.problem_type, dropout=config.dropout
        )
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.2)
        save_weights(model, folder / f"weights-{number}")
        best = spec.output / "best" / f"trial-{number}"
        delivered[str(number)] = deliver(
            config, str(teacher), folder / f"weights-{number}", best, transfer, WorkerContext()
        )
    scores = {f"{split}/{name}": 0.9 for split in ("validation", "test") for name in spec.about.metrics}
    known = {"name": "teacher", "label": "teacher", "num_parameters": 50_000, "num_bytes": 200_000, "metrics": scores}
    record.keep("references", [known])
    record.keep("delivered", delivered)
    num_rows = {name: len(split.labels) for name, split in transfer.splits.items()}
    record.keep("num_rows", num_rows)
    record.keep("provenance", {"data_fingerprint": read_texts(spec).fingerprint, "num_rows": num_rows})
    record.close()
    results_written(spec)
    return spec
