"""One lane with every core, or as many lanes as cores: tokens a second of students of several sizes, on short texts.

    python benchmarks/speed/side_by_side.py [cores 2]

Each lane is a process of its own, as in a study; all begin at the same moment, after some steps that do not count.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import torch
from step import STUDENTS, TEXTS, rows_of, shape_of

from search.trial.context import WorkerContext
from search.trial.loop import Schedule, fit
from search.trial.students import build_student
from search.trial.worker import keep_freed_memory

SIZES = {**STUDENTS, "BERT-base": (12, 768, 3072, 30_522)}
READY_IN, SECONDS = 25, 10  # from the processes' start to the common beginning; of training


def train(name: str, threads: int, begin_at: float) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    shape = shape_of(*SIZES[name])
    tokens, batch = rows_of("short", 640, shape.vocabulary_size), TEXTS["short"][-1]
    student = build_student(shape, label_names=["a", "b"], dropout=0.0)
    labels, logits = np.zeros(len(tokens), np.int32), np.zeros((len(tokens), 2), np.float32)

    def steps(count: int) -> tuple[int, float]:
        schedule = Schedule(
            learning_rate=1e-5,
            batch_size=batch,
            warmup_share=0.1,
            epochs=1,
            steps=count,
            temperature=2.0,
            soft_share=0.9,
        )
        fitted = fit(student, tokens, labels, logits, schedule, pad_id=0, seed=0, context=WorkerContext())
        return fitted.num_tokens, fitted.seconds

    steps(3)
    assert time.time() < begin_at, "not ready in time: raise READY_IN"
    time.sleep(begin_at - time.time())
    trained = [steps(10)]
    while sum(seconds for _, seconds in trained) < SECONDS:
        trained.append(steps(10))
    print(sum(count for count, _ in trained) / sum(seconds for _, seconds in trained))


def rates(name: str, lanes: int, threads: int) -> list[float]:
    command = [sys.executable, __file__, name, str(threads), str(time.time() + READY_IN)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(lanes)]
    return [float(process.communicate()[0].splitlines()[-1]) for process in running]


def main(cores: int = 2) -> None:
    print(f"| student | parameters | one lane of one thread | {cores} of them | one of {cores} threads |")
    print("|---|---|---|---|---|")
    for name, sizes in SIZES.items():
        (alone,), together, (wide,) = rates(name, 1, 1), sum(rates(name, cores, 1)), rates(name, 1, cores)
        size = shape_of(*sizes).num_parameters / 1e6
        print(f"| {name} | {size:.1f} M | {alone:,.0f} | {together / alone:.2f}x | {wide / alone:.2f}x |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
