"""Holds a student's hidden states against its teacher's while it trains.

Legend: B batch, T tokens, K states of the teacher, H hidden of the student, G hidden of the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from search.trial.device import device
from search.trial.forward import Classifier, logits_of, stored_layers
from search.trial.hidden_losses import cosine_loss, mse_loss, relation_loss

PROJECTIONS = ("query", "key", "value")
MIN_RELATION_HEAD = 16  # dimensions of a relation head, of the narrower side


class Matcher(nn.Module):
    """The loss between pairs of (student's state, teacher's state), mean over the pairs.

    Where widths differ `cosine` and `mse` see the student's states through a learned projection without bias, one for all
    pairs (TinyBERT's fit_dense), which is thrown away after training. `relations` need none: only head sizes differ.
    """

    def __init__(self, loss: str, pairs: Sequence[tuple[int, int]], student: Any, teacher: Any) -> None:
        super().__init__()
        self.loss, self.pairs = loss, list(pairs)
        width, teacher_width = student.config.hidden_size, teacher.config.hidden_size
        self.projection: nn.Linear | None = None
        self._num_heads = relation_heads(width, teacher_width)
        if loss == "relations":  # in lists, so that nothing of either model is registered here
            self._student, self._teacher = stored_layers(student), stored_layers(teacher.to(device()))
        elif width != teacher_width:
            self.projection = nn.Linear(width, teacher_width, bias=False)
            nn.init.normal_(self.projection.weight, std=1 / math.sqrt(width))

    @property
    def teacher_states(self) -> list[int]:
        """The teacher's states that `forward` wants, in its order."""
        return sorted({teacher for _, teacher in self.pairs})

    def forward(
        self, states: Sequence[torch.Tensor], teacher_KBTG: torch.Tensor, mask_BT: torch.Tensor, num_valid: int
    ) -> torch.Tensor:
        place = {index: k for k, index in enumerate(self.teacher_states)}
        total = teacher_KBTG.new_zeros(())
        for student, teacher in self.pairs:
            total = total + self._loss(
                student, states[student], teacher, teacher_KBTG[place[teacher]], mask_BT, num_valid
            )
        return total / len(self.pairs)

    def _loss(
        self, student: int, mine_BTH: torch.Tensor, teacher: int, its_BTG: torch.Tensor, mask_BT: torch.Tensor, num_valid: int
    ) -> torch.Tensor:  # fmt: skip
        if self.loss != "relations":
            if self.projection is not None:
                mine_BTH = self.projection(mine_BTH)
            return (cosine_loss if self.loss == "cosine" else mse_loss)(mine_BTH, its_BTG, mask_BT, num_valid)
        total = mine_BTH.new_zeros((), dtype=torch.float32)
        for part in PROJECTIONS:
            with torch.no_grad():
                wanted = self._teacher[teacher][part](its_BTG)
            total = total + relation_loss(
                self._student[student][part](mine_BTH), wanted, mask_BT, self._num_heads, num_valid
            )
        return total / len(PROJECTIONS)


def relation_heads(width: int, teacher_width: int) -> int:
    """The most heads that divide both widths and leave a head MIN_RELATION_HEAD dimensions; one at least."""
    common = math.gcd(width, teacher_width)
    most = min(width, teacher_width) // MIN_RELATION_HEAD
    return max((heads for heads in range(1, most + 1) if common % heads == 0), default=1)


class MatchedClassifier(Classifier):
    """(logits, loss on hidden states) in one forward pass, so that DDP sees the projection's gradient too."""

    def __init__(self, model: Any, matcher: Matcher) -> None:
        super().__init__(model)
        self.matcher = matcher

    def forward(  # type: ignore[override]
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: torch.Tensor, teacher_KBTG: torch.Tensor, num_valid: int
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        out = self.outputs(ids_BT, mask_BT, types_BT, output_hidden_states=True)
        return logits_of(out), self.matcher(out.hidden_states, teacher_KBTG, mask_BT, num_valid)
