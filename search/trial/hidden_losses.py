"""Losses on hidden states: pure functions of states and mask, means over the tokens that are there, never over padding.

Legend: B batch, T tokens, H hidden of the student, G hidden of the teacher, A relation heads. Token t of both sides is the
same piece of the same text. `num_valid` divides: under DDP it counts the tokens over all ranks. No token at all gives 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812

MASKED = -1e4  # a score whose share of a softmax is 0, and which unlike minus infinity can be subtracted from itself


def cosine_loss(
    student_BTH: torch.Tensor, teacher_BTH: torch.Tensor, mask_BT: torch.Tensor, num_valid: int | None = None
) -> torch.Tensor:
    """1 - cosine of each token's two states (DistilBERT, arXiv:1910.01108, section 2)."""
    distance_BT = 1 - F.cosine_similarity(student_BTH.float(), teacher_BTH.float(), dim=-1)
    return _mean(distance_BT, mask_BT, num_valid)


def mse_loss(
    student_BTH: torch.Tensor, teacher_BTH: torch.Tensor, mask_BT: torch.Tensor, num_valid: int | None = None
) -> torch.Tensor:
    """Squared error of each token's states, mean over dimensions (TinyBERT, arXiv:1909.10351, equations 8 and 9)."""
    error_BT = (student_BTH.float() - teacher_BTH.float()).square().mean(-1)
    return _mean(error_BT, mask_BT, num_valid)


def relation_loss(
    student_BTH: torch.Tensor,
    teacher_BTG: torch.Tensor,
    mask_BT: torch.Tensor,
    num_heads: int,
    num_valid: int | None = None,
) -> torch.Tensor:
    """KL(teacher || student) of how each token relates to the others: softmax over the keys of the scaled products of a
    projection (queries, keys or values) with itself, in `num_heads` heads that need not be the attention's own; mean over
    heads and queries (MiniLM v2, arXiv:2012.15828, section 3.1)."""
    student, teacher = _relations(student_BTH, mask_BT, num_heads), _relations(teacher_BTG, mask_BT, num_heads)
    divergence_BT = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean(1)
    return _mean(divergence_BT, mask_BT, num_valid)


def _relations(states: torch.Tensor, mask_BT: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, A, T, T) log-softmax over the keys that are there."""
    heads = states.float().unflatten(-1, (num_heads, -1)).transpose(1, 2)
    scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
    return scores.masked_fill(~mask_BT.bool()[:, None, None, :], MASKED).log_softmax(-1)


def _mean(values_BT: torch.Tensor, mask_BT: torch.Tensor, num_valid: int | None) -> torch.Tensor:
    there = mask_BT.bool()
    total = torch.where(there, values_BT, values_BT.new_zeros(())).sum()
    return total / max(1, int(there.sum()) if num_valid is None else num_valid)
