"""Distils one student. Read top to bottom: schedule, batches, forward, loss, step.

Legend: B batch, T tokens, C classes, P places where outputs are read: rows, or words of rows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from search.trial.batches import Batch, num_batches, padded, training_rows
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.device import autocast, device, random_states, set_random_states
from search.trial.forward import classifier
from search.trial.losses import distillation_loss, hard_loss
from search.trial.masking import OrderHead, drawn, piece_head
from search.trial.matching import MatchedClassifier, Matcher
from search.trial.optimizer import Optimizer
from search.trial.states import States
from spaces.errors import TrialError

CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: linear warm-up over `warmup_share` of the steps, then linear decay to 0."""

    learning_rate: float
    batch_size: int
    warmup_share: float
    epochs: float
    steps: int | None = None
    weight_decay: float = 0.01
    temperature: float = 1.0
    soft_share: float = 0.0
    hidden_share: float = 0.0
    order_share: float = 0.0

    def total_steps(self, num_rows: int) -> int:
        return self.steps or max(1, round(self.epochs * num_batches(num_rows, self.batch_size)))

    def factor(self, step: int, total: int) -> float:
        """The share of the peak learning rate at `step` (from 0) of `total`."""
        warmup = self.warmup_share * total
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (total - step) / max(1.0, total - warmup))


def averaged_later(runner: torch.nn.Module) -> contextlib.AbstractContextManager[object]:
    """Gradients of a backward pass in here are added up and not averaged over the workers."""
    if isinstance(runner, torch.nn.parallel.DistributedDataParallel):
        return runner.no_sync()
    return contextlib.nullcontext()


def num_compared(tokens: Tokens, rows: np.ndarray, target: str) -> int:
    """What the losses of these rows are a mean over: outputs that are read, or the start and the end of each row's answer."""
    return 2 * len(rows) if target == "span" else tokens.num_read(rows)


@dataclass(frozen=True)
class Fitted:
    """What a fit did. `num_tokens` counts without padding, over all workers; seconds are of the training alone."""

    step: int
    total_steps: int
    num_tokens: int
    seconds: float
    mean_loss: float
    progress: dict[str, Any]
    order: OrderHead | None = None


def fit(
    model: Any,
    tokens: Tokens,
    labels: np.ndarray,
    teacher_logits: np.ndarray | None,
    schedule: Schedule,
    *,
    pad_id: int,
    seed: int,
    context: WorkerContext,
    target: str = "class",
    num_labelled: int | None = None,
    class_weights: np.ndarray | None = None,
    start_share: float = 0.0,
    end_share: float = 1.0,
    progress: dict[str, Any] | None = None,
    matcher: Matcher | None = None,
    teacher_states: States | None = None,
    teacher_pieces: Callable[[Batch], torch.Tensor] | None = None,
    mask_id: int | None = None,
    accumulation_steps: int = 1,
) -> Fitted:
    """Trains `model` in place from `start_share` to `end_share` of the schedule's steps.

    With several workers each takes its part of every batch, and losses divide by the whole batch's count, so that N
    workers follow the curve of one. The first `num_labelled` rows (None: all) have labels and say how long an epoch is.
    With a `matcher` the student's hidden states are held against `teacher_states`, as `schedule.hidden_share` of the loss.
    Where masked pieces are told (`mask_id`) the masks are drawn anew in each epoch, and `teacher_pieces` says what the teacher
    holds them for. With `accumulation_steps` each worker reads its part of a batch in so many parts, one after another: the same
    step in less memory. Raises TrialError when the loss is no longer finite.
    """
    where, world = device(), context.world_size
    model.to(where)
    runner: torch.nn.Module = classifier(model) if matcher is None else MatchedClassifier(model, matcher.to(where))
    order = OrderHead(model.config.hidden_size).to(where) if schedule.order_share else None
    if order is not None:
        runner.add_module("order", order)
    num_labelled = len(tokens) if num_labelled is None else num_labelled
    total = schedule.total_steps(num_labelled)
    step, last_step = round(start_share * total), round(end_share * total)
    tell = piece_head(model) if target == "piece" else None
    # A GPU has bandwidth, workers average whole gradients, and telling pieces uses all rows of the table.
    by_rows = world == 1 and where.type == "cpu" and tell is None
    optimizer = Optimizer(runner, schedule.weight_decay, step, last_step, by_rows=by_rows)
    if progress is not None:
        if order is not None:
            order.load_state_dict(progress["order"])
        optimizer.load_state_dict(progress["optimizer"])
        set_random_states(progress)
        if matcher is not None:
            matcher.load_state_dict(progress["matcher"])
    else:
        torch.manual_seed(seed * 1000 + context.rank)
    runner.train()
    if world > 1:
        runner = torch.nn.parallel.DistributedDataParallel(runner)
    if tell is not None:
        tokens, labels = tokens.shown(labels), np.zeros(0, np.float32)  # each batch has its own
    labels_N = torch.from_numpy(labels.astype(np.int64) if target in ("class", "tags") else labels.astype(np.float32))
    weights_C = None if class_weights is None else torch.tensor(class_weights, device=where)
    teacher_NC = None if teacher_logits is None else torch.from_numpy(teacher_logits)
    per_epoch, lengths = num_batches(len(tokens), schedule.batch_size), tokens.lengths
    rows_of_epoch: list[np.ndarray] = []
    epoch_drawn = -1
    loss_sum = torch.zeros((), device=where)
    looked_at, num_tokens, begun, first_step = 0.0, 0, time.perf_counter(), step
    while step < last_step:
        epoch, position = divmod(step, per_epoch)
        if epoch != epoch_drawn:
            rows_of_epoch, epoch_drawn = training_rows(lengths, schedule.batch_size, seed, epoch), epoch
        rows = rows_of_epoch[position]
        mine = rows[context.rank :: world] if world > 1 else rows
        if step == first_step:
            context.mark_first_step()
        for number in range(accumulation_steps):
            part = mine[number::accumulation_steps]
            batch, asked = padded(tokens, part if len(part) else rows[:1], pad_id), None
            if tell is not None:
                assert mask_id is not None
                asked = drawn(batch, mask_id, model.config.vocab_size, seed, epoch, in_order=order is None)
                batch = asked.batch
            batch = batch.to(where)
            inputs = (batch.ids_BT, batch.mask_BT, batch.types_BT)
            hidden = None
            with averaged_later(runner) if number + 1 < accumulation_steps else contextlib.nullcontext():
                if teacher_states is None:
                    with autocast():
                        logits = runner(*inputs)
                else:
                    states_KBTG = teacher_states(batch)
                    with autocast():
                        logits, hidden = runner(*inputs, states_KBTG, int(lengths[rows].sum()))
                if tell is None or asked is None:
                    picked = torch.from_numpy(batch.numbers)
                    outputs = batch.compared(target, batch.read(logits))
                    its = None if teacher_NC is None else batch.compared(target, teacher_NC[picked].to(where))
                    known = batch.compared(target, labels_N[picked].to(where), elsewhere=0)
                else:
                    with autocast():
                        outputs = tell(batch.read(logits))
                    its = None if teacher_pieces is None else teacher_pieces(batch)
                    known = asked.pieces_P.to(where)
                loss = distillation_loss(
                    outputs,
                    its,
                    known,
                    temperature=schedule.temperature,
                    soft_share=schedule.soft_share,
                    hidden_share=schedule.hidden_share,
                    hidden=hidden,
                    num_valid=num_compared(tokens, rows, target),
                    num_labelled=num_compared(tokens, rows[rows < num_labelled], target),
                    target=target,
                    weights_C=weights_C,
                )
                if order is not None and asked is not None and asked.order_B is not None:
                    with autocast():
                        told = order(logits[:, 0])
                    wrong = hard_loss(told, asked.order_B.to(where), len(rows))
                    loss = schedule.order_share * wrong + (1 - schedule.order_share) * loss
                if len(part) == 0:
                    loss = loss * 0  # a rank without rows still takes part in the all-reduce
                (loss * world).backward()  # DDP averages over ranks; the loss is already a share of the whole batch's
            loss_sum += loss.detach()
        optimizer.step(schedule.learning_rate * schedule.factor(step, total))
        num_tokens += int(lengths[rows].sum())  # of all workers
        step += 1
        context.heartbeat(step, total)
        if step == last_step and world > 1:
            torch.distributed.all_reduce(loss_sum)  # until here each worker had its own share
        if step % CHECK_EVERY == 0 or step == last_step:
            looked_at = loss_sum.item()
            if not math.isfinite(looked_at):
                raise TrialError(
                    f"the loss is not finite by step {step} of {total}; a lower learning_rate than "
                    f"{schedule.learning_rate:g} or a longer warm-up usually helps"
                )
    optimizer.settle()
    seconds = time.perf_counter() - begun
    done = step - first_step
    kept = {"optimizer": optimizer.state_dict(), **random_states(), "step": step}
    if order is not None:
        kept["order"] = order.state_dict()
    if matcher is not None:
        kept["matcher"] = matcher.state_dict()
    return Fitted(step, total, num_tokens, seconds, looked_at / max(1, done), kept, order)
