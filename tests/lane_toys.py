"""Work for the lanes' tests: what an item does is in its payload. Light, for every worker of those tests imports it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
import torch.distributed

from search.trial.context import WorkerContext
from search.trial.device import told_of_memory
from spaces.errors import TrialError
from spaces.trial import Measurement, WorkItem


def perform(item: WorkItem, context: WorkerContext) -> tuple[Measurement | None, dict[str, Any]]:
    word = item.payload.get("do", "sleep")
    first_attempts = item.payload.get("attempts", 1)  # how many attempts come to grief
    output: dict[str, Any] = {"pid": os.getpid(), "lane": context.lane, "attempt": item.attempt}
    context.mark_first_step()
    if word == "sleep":
        for step in range(10):
            context.heartbeat(step, 10)
            time.sleep(item.payload.get("seconds", 0.0) / 10)
    elif word == "die" and item.attempt <= first_attempts:
        time.sleep(0.3)  # let the first heartbeat out
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "hang" and item.attempt <= first_attempts:
        time.sleep(600)
    elif word == "raise":
        raise ValueError("not today")
    elif word == "raise a trial error":
        raise TrialError("the loss became NaN at step 3")
    elif word == "fill the memory":
        with told_of_memory(batch_size=16, accumulation_steps=item.accumulation_steps):
            torch.empty(2**52 if item.accumulation_steps < item.payload["enough"] else 1)
        output["accumulation_steps"] = item.accumulation_steps
    elif word == "raise on rank 1" and context.rank == 1:
        raise ValueError("rank 1 has had it")
    elif word == "share":
        output["sum"] = float(context.data["array"].sum())
        output["more"] = float(context.data["more"].sum())
        output["writeable"] = context.data["array"].flags.writeable
    if context.world_size > 1:
        total = torch.tensor([float(context.rank + 1)])
        torch.distributed.all_reduce(total)
        output["all_reduced"] = total.item()
    measurement = None
    if item.trial is not None:
        metrics = {"validation/accuracy": 0.5}
        measurement = Measurement(trial=item.trial, attempt=item.attempt, step=1, share=1.0, metrics=metrics)
    return measurement, output
