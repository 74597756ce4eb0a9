"""How fast this machine trains and reads, found by doing a little of it: what `plan` reckons with.

A student's matrix products are a quarter to a half of what its steps take (benchmarks/README.md), so FLOPs alone do not say. Some
of the students that the study would train are trained for some steps each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from search.study.inputs import Inputs
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.evaluate import predict
from search.trial.loop import Fitted, Schedule, fit
from search.trial.students import build_student
from spaces.student import StudentShape

SECONDS = 1.0  # of training a student before it is timed, and again while it is
MAX_STEPS = 12


@dataclass(frozen=True)
class Pace:
    """Seconds a token of one worker of one thread that has the machine to itself: `training` a student on average, fine-tuning the
    teacher (0 where it is not), and the teacher's `reading`."""

    training: float
    fine_tuning: float
    reading: float


def measure_pace(
    inputs: Inputs, students: Sequence[StudentShape], teacher: StudentShape, batch_size: int, fine_tuned_by: int | None
) -> Pace:
    """`fine_tuned_by`: the batch size of the teacher's fine-tuning, if it is. Some ten seconds for students of a small teacher."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = {shape: training_seconds(inputs, shape, batch_size) for shape in dict.fromkeys(students)}
        training = fmean(seconds[shape] for shape in students)
        fine_tuning = training_seconds(inputs, teacher, fine_tuned_by) if fine_tuned_by else 0.0
        return Pace(training, fine_tuning, reading_seconds(inputs, teacher))
    finally:
        torch.set_num_threads(threads)


def training_seconds(inputs: Inputs, shape: StudentShape, batch_size: int) -> float:
    """Seconds a token, without padding, of training a student of this shape on the study's own text."""
    transfer = inputs.transfer
    tokens = _tokens(inputs, shape.vocabulary_size)
    student = _random_model(inputs, shape)
    labels = transfer.splits["train"].labels
    logits = np.zeros((tokens.num_outputs, len(transfer.label_names)), np.float32)

    def trained(steps: int) -> Fitted:
        schedule = Schedule(
            learning_rate=1e-5, batch_size=batch_size, warmup_share=0.0, epochs=1, steps=steps, temperature=2.0, soft_share=0.5
        )  # fmt: skip
        return fit(
            student,
            tokens,
            labels,
            logits,
            schedule,
            pad_id=0,
            seed=0,
            context=WorkerContext(),
            target=transfer.target,
            mask_id=transfer.vocabularies["full"].mask_id,
        )

    steps, fitted = 1, trained(1)
    if fitted.seconds <= SECONDS:
        steps = max(2, min(MAX_STEPS, round(SECONDS / fitted.seconds)))
        trained(steps)
    # The first time each shape of batch is new to the libraries: the same steps once more are what training is like.
    again = trained(steps)
    return again.seconds / again.num_tokens


def reading_seconds(inputs: Inputs, shape: StudentShape) -> float:
    """Seconds a token of the teacher's forward pass in evaluation, with random weights in its place."""
    tokens = inputs.transfer.splits["train"].tokens["full"]
    model = _random_model(inputs, shape).eval()
    some = tokens.taken(np.random.default_rng(0).permutation(len(tokens))[:64])
    predict(model, some, 0, WorkerContext())
    begun = time.perf_counter()
    predict(model, some, 0, WorkerContext())
    return (time.perf_counter() - begun) / len(some.ids)


def _tokens(inputs: Inputs, vocabulary_size: int) -> Tokens:
    names = [name for name, size in inputs.vocabularies.items() if size == vocabulary_size]
    return inputs.transfer.splits["train"].tokens[names[0] if names else "full"]  # a teacher's table may hold more


def _random_model(inputs: Inputs, shape: StudentShape) -> torch.nn.Module:
    transfer = inputs.transfer
    return build_student(
        shape, label_names=transfer.label_names, problem_type=transfer.problem_type, dropout=0.0, teacher_config=None
    )
