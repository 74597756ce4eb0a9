"""What turns gradients into steps: clipping, AdamW, and for large embedding tables its equal by rows (touched.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from search.trial.touched import TouchedTables

MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """AdamW over what a model trains, from step `first` to `last`, with the global norm of the gradient clipped.

    `by_rows`: large embedding tables are trained by the rows that a batch uses, which pays on a processor; until `settle`
    they stand in the model as something else. Its state is by the parameters' names: whichever way it was made, either way
    goes on from it.
    """

    def __init__(self, model: nn.Module, weight_decay: float, first: int, last: int, by_rows: bool) -> None:
        self._names = {id(weight): name for name, weight in model.named_parameters()}
        self._done = first
        self._tables = TouchedTables(model, weight_decay, first, last) if by_rows else None
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        # No weight decay on biases and LayerNorm, as BERT was trained.
        decayed, plain = [w for w in self._weights if w.ndim > 1], [w for w in self._weights if w.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(groups, fused=True)

    def step(self, learning_rate: float) -> None:
        """After the backward pass; the gradients are gone afterwards."""
        used_rows = [] if self._tables is None else self._tables.collected()
        torch.nn.utils.clip_grad_norm_([*self._weights, *used_rows], MAX_GRADIENT_NORM, foreach=True)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        if self._tables is not None:
            self._tables.step(learning_rate)
        self._adamw.zero_grad(set_to_none=True)
        self._done += 1

    def settle(self) -> None:
        """The model is as it was, trained; no step comes after it."""
        if self._tables is not None:
            self._tables.settle()

    def state_dict(self) -> dict[str, Any]:
        """After `settle`: the steps done, and AdamW's moments by the parameters' names."""
        moments = {weight: (state["exp_avg"], state["exp_avg_sq"]) for weight, state in self._adamw.state.items()}
        if self._tables is not None:
            moments |= self._tables.moments()
        return {"step": self._done, "moments": {self._names[id(weight)]: pair for weight, pair in moments.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["step"]
        of_tables = {} if self._tables is None else self._tables.moments()
        for weight in (*self._weights, *of_tables):
            pair = state["moments"].get(self._names[id(weight)])
            if pair is None:
                continue
            if weight in of_tables:
                for mine, theirs in zip(of_tables[weight], pair, strict=True):
                    mine.copy_(theirs)
            else:
                mean, square = (moment.to(weight.device, copy=True) for moment in pair)
                step = torch.tensor(float(state["step"]), device=weight.device)
                self._adamw.state[weight] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
